"""Growing pauses between attempts, so that nothing spins on what does not answer."""

from __future__ import annotations

import asyncio


class Pause:
    """The pause before the next attempt: *first_seconds*, doubled each time up to *max_seconds*."""

    def __init__(self, first_seconds: float, max_seconds: float, *, factor: float = 2.0) -> None:
        self._first_seconds = first_seconds
        self._max_seconds = max_seconds
        self._factor = factor
        self._next_seconds = first_seconds

    def take(self) -> float:
        """How long to pause now; the next one is longer."""
        seconds = self._next_seconds
        self._next_seconds = min(seconds * self._factor, self._max_seconds)
        return seconds

    def reset(self) -> None:
        """Begin with the first pause again, because something went well."""
        self._next_seconds = self._first_seconds

    async def wait(self) -> None:
        """Pause."""
        await asyncio.sleep(self.take())
