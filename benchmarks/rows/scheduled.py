"""What a server costs that only waits: many scheduled jobs, none of them due."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence

from benchmarks.load import Load, from_own_process
from benchmarks.measure import Bench, Result

NAME = "scheduled"

JOBS = 10_000
TARGET_PERCENT = 1.0
# Lets the work behind the POSTs end before it counts, in seconds.
SETTLE_SECONDS = 3.0


async def measure(bench: Bench) -> Sequence[Result]:
    """Processor time of the server over a while in which nobody asks it for anything."""
    jobs = JOBS // 10 if bench.quick else JOBS
    seconds = 5.0 if bench.quick else 20.0
    begin = time.time() + 3600
    bodies = [
        json.dumps({"image": bench.engine.image, "command": ["true"], "startAt": begin + number})
        for number in range(100)
    ]
    async with bench.server() as server:
        load = Load(server.port, bodies, 100, 16, requests=jobs)
        stored = len((await from_own_process(load)).latencies_ms)
        await asyncio.sleep(SETTLE_SECONDS)
        cpu_before, began = server.cpu_seconds(), time.perf_counter()
        await asyncio.sleep(seconds)
        cpu_seconds = server.cpu_seconds() - cpu_before
        percent = 100 * cpu_seconds / (time.perf_counter() - began)
        memory_mb = server.rss_mb()
    return [
        Result(
            row=NAME,
            setup=bench.setup.name,
            what=f"{stored} scheduled jobs, {seconds:g} s: share of a core",
            unit="%",
            ours=percent,
            n=1,
            target=f"< {TARGET_PERCENT:g} %",
            met=percent < TARGET_PERCENT,
            details={"cpu_seconds": cpu_seconds, "rss_mb": memory_mb},
        )
    ]
