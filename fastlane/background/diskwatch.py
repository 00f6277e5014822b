"""Watches what a run writes to its disk, where its host cannot limit that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fastlane.errors import HostUnavailable, RunVanished
from fastlane.executors.base import Executor

# Bound the pause between two looks, which grows with the time that a look takes.
MIN_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 60.0
PAUSE_FACTOR = 10


async def watch_disk(
    executor: Executor,
    host: str,
    run_id: str,
    limit_bytes: int,
    exceeded: Callable[[], Awaitable[object]],
) -> None:
    """Call *exceeded* once the run has written more than *limit_bytes*.

    Returns then, and when there is nothing to watch. Others notice that the host is unreachable.
    """
    now = asyncio.get_running_loop().time
    while True:
        began = now()
        try:
            written = await executor.disk_bytes(host, run_id)
        except RunVanished:
            return
        except HostUnavailable:
            written = 0
        if written is None:
            return
        if written > limit_bytes:
            await exceeded()
            return
        pause = PAUSE_FACTOR * (now() - began)
        await asyncio.sleep(min(max(pause, MIN_PAUSE_SECONDS), MAX_PAUSE_SECONDS))
