"""A fastlane server as users run it, but for what a test does to it.

``CLOCK_SKEW``: how many seconds its clock is off. ``PAUSE_AT``: ``before OPERATION`` or ``after
OPERATION`` of the storage, at whose first call it stops itself (SIGSTOP) until it is continued.
``VITALS``: the file to which it writes each second what it holds, as a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import uvloop

from fastlane import config, logs, server
from fastlane.storage.base import Storage
from tests.storage_calls import Call, wrap


def pause_at(storage: Storage, point: str) -> None:
    """Stop this process at the first call of an operation."""
    when, _, operation = point.partition(" ")
    left = 1

    def around(call: Call) -> Call:
        async def pausing(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            first, left = left > 0, 0
            if first and when == "before":
                os.kill(os.getpid(), signal.SIGSTOP)
            result = await call(*args, **kwargs)
            if first and when == "after":
                os.kill(os.getpid(), signal.SIGSTOP)
            return result

        return pausing

    wrap(storage, operation, around)


async def write_vitals(path: Path) -> None:
    """Write what this process holds, until it is cancelled."""
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    while True:
        pages = int(Path("/proc/self/statm").read_text().split()[1])  # noqa: ASYNC240
        vitals = {
            "memory": pages * page_bytes,
            "descriptors": len(os.listdir("/proc/self/fd")),
            "tasks": len(asyncio.all_tasks()),
            "threads": threading.active_count(),
        }
        with path.open("a") as file:
            file.write(json.dumps(vitals) + "\n")
        await asyncio.sleep(1)


async def serve(serving: server.Server) -> None:
    """Serve until a signal, as the command does."""
    vitals = os.environ.get("VITALS")
    watch = asyncio.create_task(write_vitals(Path(vitals))) if vitals else None
    try:
        await server.serve(serving)
    finally:
        if watch is not None:
            watch.cancel()


def main() -> None:
    loaded = config.load()
    logs.configure(loaded)
    skew_seconds = float(os.environ.get("CLOCK_SKEW", "0"))

    def clock() -> float:
        return time.time() + skew_seconds

    serving = server.Server(loaded, clock=clock)
    if point := os.environ.get("PAUSE_AT"):
        pause_at(serving.parts.services.storage, point)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(serving))


if __name__ == "__main__":
    main()
