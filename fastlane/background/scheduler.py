"""Acts on what is due: expiries, retries, ticks; sleeps until the next due time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import structlog

from fastlane.errors import CompareFailed, StorageUnavailable
from fastlane.events import Event, ExecutionChanged, JobChange, JobChanged
from fastlane.lifecycle import Lifecycle
from fastlane.model import Clock, Job, Status
from fastlane.pause import Pause
from fastlane.storage.base import Storage

log = structlog.get_logger(__name__)

# Bounds one round of due work, so that a long absence is made up for in steps. Its ticks are under
# way together, so that the storage commits them in few groups.
BATCH = 250
# Bounds how late a step of the wall clock is noticed while something is scheduled.
WATCH_SECONDS = 1.0
# Bounds how late other jobs are while some are due that cannot be ticked.
HELD_BACK_WATCH_SECONDS = 0.2
# Bounds the sleep while nothing is scheduled.
IDLE_SECONDS = 30.0
# Bound the pause before a job that could not be ticked is tried again.
FIRST_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 60.0
# Bounds the jobs that are held back because they could not be ticked.
MAX_HELD_BACK = 10_000


class Scheduler:
    """Ticks, retries and expiries."""

    wakes_on = (JobChanged, ExecutionChanged)

    def __init__(self, lifecycle: Lifecycle, storage: Storage, clock: Clock) -> None:
        self._lifecycle = lifecycle
        self._storage = storage
        self._clock = clock
        self._held_back: dict[str, tuple[Pause, float]] = {}
        """Jobs that could not be ticked, with the time (of the loop) of their next try."""

    @staticmethod
    def wants(event: Event) -> bool:
        """Whether *event* may mean that something is due earlier than was known."""
        if isinstance(event, ExecutionChanged):
            delayed = event.due_at is not None or event.expires_at is not None
            return delayed and event.status is Status.ENQUEUED
        return (
            isinstance(event, JobChanged)
            and event.change is not JobChange.TICK_SKIPPED
            and event.next_run_at is not None
        )

    async def step(self) -> float:
        """Act on what is due; return in how many seconds there may be more."""
        next_due_at = await self._storage.next_due_at()
        if next_due_at is not None and next_due_at <= self._clock():
            if await self.run_due():
                # It may have been one batch of several.
                return 0.0
            return HELD_BACK_WATCH_SECONDS
        if next_due_at is None:
            return IDLE_SECONDS
        return min(next_due_at - self._clock(), WATCH_SECONDS)

    async def run_due(self) -> bool:
        """Act on one batch of what is due; whether there was anything.

        :raises StorageUnavailable: some of it is still to be done.
        """
        expired = await self._lifecycle.expire_due(BATCH)
        queued = await self._lifecycle.queue_due(BATCH)
        return bool(expired + queued + await self._tick_due())

    async def _tick_due(self) -> int:
        """Tick the jobs that are due, but for those that failed a moment ago."""
        limit = BATCH + len(self._held_back)
        due = {job.id: job for job in await self._storage.jobs.due(self._clock(), limit)}
        if len(due) < limit:
            for gone in self._held_back.keys() - due.keys():
                del self._held_back[gone]
        now = asyncio.get_running_loop().time()
        jobs = [
            job for name, job in due.items() if self._held_back.get(name, (None, now))[1] <= now
        ]
        results = await asyncio.gather(*map(self._tick, jobs), return_exceptions=True)
        self._hold_back(
            [
                (job, result)
                for job, result in zip(jobs, results, strict=True)
                if isinstance(result, Exception) and not isinstance(result, StorageUnavailable)
            ]
        )
        for result in results:
            if isinstance(result, StorageUnavailable):
                raise result
        return len(jobs)

    async def _tick(self, job: Job) -> None:
        # Another instance ran the tick, or the job was changed: both are normal.
        with suppress(CompareFailed):
            await self._lifecycle.run_tick(job)
        self._held_back.pop(job.id, None)

    def _hold_back(self, failed: Sequence[tuple[Job, Exception]]) -> None:
        """Hold jobs back for a while, so that they do not delay the ticks of others."""
        now = asyncio.get_running_loop().time()
        for job, error in failed:
            pause, _ = self._held_back.pop(
                job.id, (Pause(FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS), 0.0)
            )
            seconds = pause.take()
            self._held_back[job.id] = pause, now + seconds
            if len(self._held_back) > MAX_HELD_BACK:
                del self._held_back[next(iter(self._held_back))]
            log.warning(
                "The tick of a job failed and will be tried again",
                task=job.task_id,
                job=job.id,
                error=repr(error),
                pause_seconds=seconds,
            )
        if failed:
            # One traceback for all: writing hundreds would hold up the loop.
            log.error("Jobs could not be ticked", count=len(failed), exc_info=failed[0][1])
