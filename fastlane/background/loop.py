"""A piece of periodic work: one step, repeated when there is news or when its time has come."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from fastlane.bus.local import Bus, Kind, Wanted
from fastlane.errors import StorageUnavailable
from fastlane.pause import Pause

log = structlog.get_logger(__name__)

# Bound the pause after a step that failed.
FIRST_PAUSE_SECONDS = 0.2
MAX_PAUSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Loop:
    """A step that is repeated for as long as the server runs.

    *step* returns in how many seconds it wants to be called again without any news; it finds work
    and hands it to tasks, it never waits for a job. Events of the kinds *wakes_on* that it *wants*
    (all of them where that is None) wake it earlier.
    """

    name: str
    step: Callable[[], Awaitable[float]]
    wakes_on: tuple[Kind, ...] = ()
    wants: Wanted | None = None

    async def run(self, bus: Bus) -> None:
        """Repeat the step until cancelled. One that fails is logged and tried again."""
        pause = Pause(FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        unreachable = False
        with bus.subscribe(*self.wakes_on, wanted=self.wants) as news:
            while True:
                try:
                    next_seconds = await self.step()
                except StorageUnavailable as error:
                    if not unreachable:
                        log.warning("The storage is unreachable", loop=self.name, error=str(error))
                    unreachable = True
                    # News means nothing while the storage is unreachable: do not spin on it.
                    await pause.wait()
                    continue
                except Exception:
                    log.exception("A background step failed", loop=self.name)
                    await news.wait(pause.take())
                    continue
                if unreachable:
                    log.info("The storage is reachable again", loop=self.name)
                unreachable = False
                pause.reset()
                await news.wait(max(next_seconds, 0.0))
