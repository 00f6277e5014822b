"""Finds what is due and has it done; sleeps until the next due time."""

from __future__ import annotations

from fastlane.lifecycle import Lifecycle
from fastlane.model import Clock

# Bounds how late a step of the wall clock is noticed while something is scheduled.
WATCH_SECONDS = 1.0
# Bounds the sleep while nothing is.
IDLE_SECONDS = 30.0


class Scheduler:
    """Ticks, back-offs and expiries."""

    def __init__(self, lifecycle: Lifecycle, clock: Clock) -> None:
        self._lifecycle = lifecycle
        self._clock = clock

    async def step(self) -> float:
        """Act on what is due; return in how many seconds the next may be."""
        next_due_at = await self._lifecycle.next_due_at()
        if next_due_at is not None and next_due_at <= self._clock():
            await self._lifecycle.run_due()
            next_due_at = await self._lifecycle.next_due_at()
        if next_due_at is None:
            return IDLE_SECONDS
        return min(next_due_at - self._clock(), WATCH_SECONDS)
