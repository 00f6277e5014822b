"""A piece of periodic work: one step, done again when there is news or when its time has come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from fastlane.errors import StorageUnavailable
from fastlane.events import Bus

log = structlog.get_logger(__name__)

# Bounds the pause after a step that failed: doubled from the first to the second.
FIRST_PAUSE_SECONDS = 0.2
MAX_PAUSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Loop:
    """Work that is done whenever one of *topics* has news.

    *step* returns in how many seconds it wants to be called again without any news; it finds work
    and hands it to tasks, it never waits for a job.
    """

    name: str
    topics: tuple[str, ...]
    step: Callable[[], Awaitable[float]]

    async def run(self, bus: Bus) -> None:
        """Go round until cancelled. A step that fails is logged and tried again."""
        pause_seconds = FIRST_PAUSE_SECONDS
        storage_away = False
        with bus.subscribe(*self.topics) as news:
            while True:
                try:
                    next_seconds = await self.step()
                except StorageUnavailable as error:
                    if not storage_away:
                        log.warning("storage is away", loop=self.name, error=str(error))
                    storage_away = True
                    next_seconds = pause_seconds
                    pause_seconds = min(pause_seconds * 2, MAX_PAUSE_SECONDS)
                except Exception:
                    log.exception("background step failed", loop=self.name)
                    next_seconds = pause_seconds
                    pause_seconds = min(pause_seconds * 2, MAX_PAUSE_SECONDS)
                else:
                    if storage_away:
                        log.info("storage is back", loop=self.name)
                    storage_away = False
                    pause_seconds = FIRST_PAUSE_SECONDS
                if storage_away:
                    # News says nothing while the storage is away: do not spin on it.
                    await asyncio.sleep(next_seconds)
                else:
                    await news.wait(max(next_seconds, 0.0))
