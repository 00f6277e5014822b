"""Tries again until a storage or a host answers, without spinning and without giving up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from fastlane.errors import StorageUnavailable
from fastlane.pause import Pause

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Bound the pause between two attempts at a host or a storage that is unreachable.
FIRST_PAUSE_SECONDS = 0.2
MAX_PAUSE_SECONDS = 5.0


def new_pause() -> Pause:
    """The pauses between attempts at something unreachable."""
    return Pause(FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS)


async def retry_until_available(call: Callable[[], Awaitable[T]]) -> T:
    """Call until the storage answers, however long that takes."""
    pause = new_pause()
    while True:
        try:
            return await call()
        except StorageUnavailable as error:
            log.warning("The storage is unreachable", error=str(error))
            await pause.wait()
