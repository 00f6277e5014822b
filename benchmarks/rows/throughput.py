"""Jobs per second from a full queue, next to the bare calls at the same concurrency."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence

from benchmarks.client import FINAL
from benchmarks.engine import BareEngine
from benchmarks.measure import Bench, Result, summary, take_turns
from benchmarks.server import FastlaneProcess

NAME = "throughput"

TARGET_RATIO = 0.9
MAX_RUNNING = 8
# How often the last job is asked for while it waits, and how often the last few are afterwards, in
# seconds: the bare loop is not looked at either, so this must cost next to nothing.
QUEUE_POLL_SECONDS = 0.25
END_POLL_SECONDS = 0.02


async def measure(bench: Bench) -> Sequence[Result]:
    """Both end when the last container is removed."""
    jobs = 24 if bench.quick else 200
    rounds = 1 if bench.quick else 3
    async with bench.server(MAX_RUNNING=str(MAX_RUNNING)) as server:
        ours, bare = await take_turns(
            rounds,
            lambda: _jobs(server, bench.engine, jobs),
            lambda: _bare(bench.engine, jobs),
        )
    ratio = statistics.median(mine / its for mine, its in zip(ours, bare, strict=True))
    return [
        Result(
            row=NAME,
            setup=bench.setup.name,
            what=f"{jobs} `true` jobs at once, {MAX_RUNNING} running",
            unit="jobs/s",
            ours=statistics.median(ours),
            n=rounds,
            bare=statistics.median(bare),
            bare_what=f"the same calls and remove, {MAX_RUNNING} at a time",
            compared=f"x {ratio:.2f}",
            target=f"≥ x {TARGET_RATIO:g}",
            met=ratio >= TARGET_RATIO,
            details={"ratio": ratio, "ours": summary(ours), "bare": summary(bare)},
        )
    ]


async def _jobs(server: FastlaneProcess, engine: BareEngine, jobs: int) -> float:
    payload = {"image": engine.image, "command": ["true"]}
    began = time.perf_counter()
    posted = await asyncio.gather(
        *(server.client.post(f"throughput-{number % 10}", payload) for number in range(jobs))
    )
    await server.client.await_status(
        posted[-1].url, FINAL | {"pulling", "running"}, every_seconds=QUEUE_POLL_SECONDS
    )
    await server.client.await_idle(every_seconds=END_POLL_SECONDS)
    # First in, first out: the last to be cleared away, which belongs to the bare loop too.
    for job in posted[-2 * MAX_RUNNING :]:
        await server.client.await_end(job.url)
        assert job.execution_id is not None
        await engine.await_removed(job.execution_id)
    rate = jobs / (time.perf_counter() - began)
    for job in posted:
        end = await server.client.execution(job.url)
        if end["status"] != "done":
            raise RuntimeError(f"the job ended as {end}")
    return rate


async def _bare(engine: BareEngine, jobs: int) -> float:
    left = iter(range(jobs))

    async def worker() -> None:
        for _ in left:
            await engine.remove(await engine.run(["true"]))

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(MAX_RUNNING)))
    return jobs / (time.perf_counter() - began)
