"""Adds stored events up for the statistics, and forgets both when they are old."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from fastlane.errors import CompareFailed
from fastlane.model import Clock
from fastlane.storage.base import Storage

# Bounds the events that are counted in one step, and those that are forgotten in one.
COUNT_EVENTS = 1000
FORGET_EVENTS = 5000
# How often events are counted while there are some: what comes in between is counted together.
COUNT_SECONDS = 1.0
# How often there is a look for events without any news.
IDLE_SECONDS = 30.0
# How long one instance counts alone, and how often the others look whether it still does.
LEAD_SECONDS = 15.0
FOLLOW_SECONDS = 5.0
# How often there is a look for what is old.
FORGET_SECONDS = 60.0
# WATCH.md: how long buckets of a minute are kept (one more hour, so that a day is whole), and of
# how many tasks there are buckets.
MINUTES_KEPT_SECONDS = 25 * 3600.0
TASKS_COUNTED = 10_000


class Chronicle:
    """One instance of all counts; another continues when it ends."""

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        instance: str,
        *,
        event_retention_seconds: float,
        stats_retention_seconds: float,
    ) -> None:
        self.wakes_on = storage.events.announced_by
        self._storage = storage
        self._clock = clock
        self._instance = instance
        self._event_retention_seconds = event_retention_seconds
        self._stats_retention_seconds = stats_retention_seconds
        self._counts_at = 0.0
        self._forgets_at = 0.0
        self._leads_until = 0.0

    async def step(self) -> float:
        """Count what there is; what is old goes once all is counted."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._counts_at:
            await asyncio.sleep(self._counts_at - loop.time())
        if not await self._leads():
            self._counts_at = loop.time() + FOLLOW_SECONDS
            return FOLLOW_SECONDS
        self._counts_at = loop.time() + COUNT_SECONDS
        if await self._count() == COUNT_EVENTS:
            self._counts_at = 0.0
            return 0.0
        if loop.time() >= self._forgets_at:
            if await self._forget():
                # Others write in between.
                return COUNT_SECONDS
            self._forgets_at = loop.time() + FORGET_SECONDS
        return min(IDLE_SECONDS, LEAD_SECONDS / 3)

    async def _leads(self) -> bool:
        now = asyncio.get_running_loop().time()
        if now < self._leads_until - LEAD_SECONDS / 2:
            return True
        if not await self._storage.stats.lead(
            self._instance, now=self._clock(), seconds=LEAD_SECONDS
        ):
            return False
        self._leads_until = now + LEAD_SECONDS
        return True

    async def _count(self) -> int:
        position = await self._storage.stats.position()
        events = await self._storage.events.after(position, COUNT_EVENTS)
        if events:
            # Refused, another instance has counted them.
            with suppress(CompareFailed):
                await self._storage.stats.add(position, events)
        return len(events)

    async def _forget(self) -> int:
        """Delete some of what is old; how much, 0 when nothing is left."""
        now = self._clock()
        minutes_before = now - MINUTES_KEPT_SECONDS
        hours_before = now - self._stats_retention_seconds
        return await self._storage.stats.forget(
            minutes_before, hours_before, tasks=TASKS_COUNTED
        ) + await self._storage.events.forget(now - self._event_retention_seconds, FORGET_EVENTS)
