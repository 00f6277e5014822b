"""A long log on its way into the storage, next to reading the engine's stream and dropping it."""

from __future__ import annotations

import statistics
import time
import zlib
from collections.abc import Sequence

from benchmarks.engine import BareEngine
from benchmarks.log import LongLog
from benchmarks.measure import MB, MEMORY_TARGET_MB, Bench, BenchError, Result, summary, take_turns
from benchmarks.server import FastlaneProcess

NAME = "log"


async def measure(bench: Bench) -> Sequence[Result]:
    """From POST to the final status, which comes only behind the whole log."""
    log = LongLog(10 * MB if bench.quick else 100 * MB)
    rounds = 1 if bench.quick else 3
    peaks: list[float] = []

    async with bench.server(LOG_MAX_BYTES="0") as server:

        async def ours() -> float:
            async with server.peak_memory() as peak:
                rate = await _job(server, bench.engine, log)
            peaks.append(peak.mb)
            return rate

        mine, its = await take_turns(rounds, ours, lambda: _bare(bench.engine, log))
    ratio = statistics.median(a / b for a, b in zip(mine, its, strict=True))
    return [
        Result(
            row=NAME,
            setup=bench.setup.name,
            what=f"{log.size // MB} MB in lines of 100 bytes into storage",
            unit="MB/s",
            ours=statistics.median(mine),
            n=rounds,
            bare=statistics.median(its),
            bare_what="the engine's stream, read and dropped",
            compared=f"x {ratio:.2f}",
            details={"ratio": ratio, "ours": summary(mine), "bare": summary(its)},
        ),
        Result(
            row=NAME,
            setup=bench.setup.name,
            what="the server's memory meanwhile, at its peak",
            unit="MB",
            ours=max(peaks),
            n=len(peaks),
            target=f"< {MEMORY_TARGET_MB:g} MB",
            met=max(peaks) < MEMORY_TARGET_MB,
        ),
    ]


async def _job(server: FastlaneProcess, engine: BareEngine, log: LongLog) -> float:
    began = time.perf_counter()
    job = await server.client.post("log", {"image": engine.image, "command": log.command()})
    end = await server.client.await_end(job.url)
    took_seconds = time.perf_counter() - began
    if end["status"] != "done":
        raise RuntimeError(f"the job ended as {end}")
    checksum = size = 0
    async with await server.client.read(f"{job.url.rstrip('/')}/stdout/") as response:
        async for chunk in response.content.iter_any():
            size += len(chunk)
            checksum = zlib.crc32(chunk, checksum)
    if (size, checksum) != (log.size, log.checksum):
        raise BenchError(f"the stored log has {size} bytes, or others than were written")
    assert job.execution_id is not None
    await engine.await_removed(job.execution_id)
    return log.size / MB / took_seconds


async def _bare(engine: BareEngine, log: LongLog) -> float:
    began = time.perf_counter()
    container = await engine.run(log.command())
    took_seconds = time.perf_counter() - began
    await engine.remove(container)
    return log.size / MB / took_seconds
