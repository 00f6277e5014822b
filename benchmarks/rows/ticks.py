"""How late the last of many cron jobs is that are due in the same minute."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from benchmarks.measure import Bench, BenchError, Result, percentile, summary
from benchmarks.server import FastlaneProcess

NAME = "ticks"

CRONS = 1_000
TARGET_MS = 250.0
TASKS = 50
# Leaves the POSTs time before the minute, in seconds.
LEAD_SECONDS = 15.0
# Bounds the wait for the executions after the minute, in seconds.
TIMEOUT = 60.0


async def measure(bench: Bench) -> Sequence[Result]:
    """``createdAt`` minus the tick. One container at a time runs: the engine is not measured."""
    crons = CRONS // 10 if bench.quick else CRONS
    async with bench.server(MAX_RUNNING="1") as server:
        tick = 60.0 * (1 + (time.time() + LEAD_SECONDS) // 60)
        minute = datetime.fromtimestamp(tick, UTC).minute
        payload = {"image": bench.engine.image, "command": ["true"], "cron": f"{minute} * * * *"}
        posted = [
            await server.client.post(f"ticks-{number % TASKS}", payload) for number in range(crons)
        ]
        if time.time() > tick:
            raise BenchError("the jobs were due before all of them were posted")
        # Nobody asks the server anything meanwhile.
        await asyncio.sleep(tick - time.time() + TARGET_MS / 1000)
        late_ms: list[float] = []
        async with asyncio.timeout(TIMEOUT):
            for job in posted:
                made = await _executions(server, job.job_url)
                # The API's times are UTC and do not say so.
                created_at = datetime.fromisoformat(f"{made[-1]['createdAt']}+00:00").timestamp()
                late_ms.append(1000 * (created_at - tick))
                await server.client.stop(job.job_url)
    p99 = percentile(late_ms, 0.99)
    return [
        Result(
            row=NAME,
            setup=bench.setup.name,
            what=f"{crons} crons on one minute: tick → execution made, p99",
            unit="ms",
            ours=p99,
            n=crons,
            # The cluster's figure is shown, and has no target yet.
            target="" if bench.setup.shared else f"≤ {TARGET_MS:g} ms",
            met=None if bench.setup.shared else p99 <= TARGET_MS,
            details={"late_ms": summary(late_ms)},
        )
    ]


async def _executions(server: FastlaneProcess, job_url: str) -> list[Mapping[str, Any]]:
    while True:
        made = await server.client.executions(job_url)
        if made:
            return made
        await asyncio.sleep(0.1)
