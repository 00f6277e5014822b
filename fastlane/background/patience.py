"""Waiting for what is away, without spinning and without giving up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from fastlane.errors import StorageUnavailable

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Bounds the pause between two tries at a host or a storage that is away: doubled from the first.
FIRST_PAUSE_SECONDS = 0.2
MAX_PAUSE_SECONDS = 5.0


async def keep_trying(call: Callable[[], Awaitable[T]]) -> T:
    """Call until the storage answers, however long it is away."""
    pause_seconds = FIRST_PAUSE_SECONDS
    while True:
        try:
            return await call()
        except StorageUnavailable as error:
            log.warning("storage is away", error=str(error))
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, MAX_PAUSE_SECONDS)
