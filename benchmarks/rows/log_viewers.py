"""One long log to many WebSockets while it is written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from benchmarks.log import LongLog
from benchmarks.measure import MB, MEMORY_TARGET_MB, Bench, BenchError, Result, percentile
from benchmarks.viewers import Seen, Watching, from_own_process

NAME = "viewers"

VIEWERS = 200
# How many of them sum up what they get; all count it.
CHECKED = 5
# Leaves the viewers time to connect before the first line, in seconds.
PAUSE_SECONDS = 4
# Bounds the whole of it, in seconds.
TIMEOUT = 600.0


async def measure(bench: Bench) -> Sequence[Result]:
    """Rates are from the first byte that any viewer got to each one's last."""
    log = LongLog(10 * MB if bench.quick else 100 * MB)
    bare_rate = await _bare(bench, log)
    async with bench.server(LOG_MAX_BYTES="0") as server, server.peak_memory() as peak:
        job = await server.client.post(
            "viewers",
            {"image": bench.engine.image, "command": log.command(pause_seconds=PAUSE_SECONDS)},
        )
        await server.client.await_status(job.url, frozenset({"running"}), every_seconds=0.02)
        path = f"{urlsplit(job.url).path.rstrip('/')}/ws/"
        cpu_before = server.cpu_seconds()
        async with from_own_process(Watching(server.port, path, VIEWERS, CHECKED)) as watching:
            end = await server.client.await_end(job.url)
            seen = await asyncio.wait_for(watching, TIMEOUT)
        cpu_seconds = server.cpu_seconds() - cpu_before
    if end["status"] != "done":
        raise RuntimeError(f"the job ended as {end}")
    _check(seen, log)
    seconds = [last - seen.first_byte_at for last in seen.last_byte_at]
    slowest = log.size / MB / max(seconds)
    total = VIEWERS * log.size / MB / max(seconds)
    return [
        Result(
            row=NAME,
            setup=bench.setup.name,
            what=f"{log.size // MB} MB live to {VIEWERS} WebSockets, all whole; each",
            unit="MB/s",
            ours=slowest,
            n=VIEWERS,
            bare=bare_rate,
            bare_what="the engine's stream, read once",
            compared=f"x {slowest / bare_rate:.2f}",
            details={
                "seconds_median": percentile(seconds, 0.5),
                "seconds_max": max(seconds),
                "server_cpu_seconds": cpu_seconds,
                "retries": seen.retries,
            },
        ),
        Result(
            row=NAME,
            setup=bench.setup.name,
            what=f"to all {VIEWERS} together",
            unit="MB/s",
            ours=total,
            n=VIEWERS,
            bare=bare_rate,
            bare_what="the engine's stream, read once",
            compared=f"x {total / bare_rate:.0f}",
        ),
        Result(
            row=NAME,
            setup=bench.setup.name,
            what="the server's memory meanwhile, at its peak",
            unit="MB",
            ours=peak.mb,
            n=1,
            target=f"< {MEMORY_TARGET_MB:g} MB",
            met=peak.mb < MEMORY_TARGET_MB,
        ),
    ]


def _check(seen: Seen, log: LongLog) -> None:
    whole = sum(size == log.size for size in seen.bytes)
    same = sum(checksum == log.checksum for checksum in seen.checksums)
    done = seen.reasons.count("done")
    if (whole, same, done) != (VIEWERS, CHECKED, VIEWERS):
        raise BenchError(
            f"of {VIEWERS} viewers {whole} got {log.size} bytes and {done} were told `done`; "
            f"of {CHECKED} that compared {same} got the right ones; "
            f"reasons {set(seen.reasons)}, bytes {sorted(set(seen.bytes))[:5]}"
        )


async def _bare(bench: Bench, log: LongLog) -> float:
    container = await bench.engine.create(log.command())
    began = time.perf_counter()
    await bench.engine.start(container)
    await bench.engine.read_log(container)
    took_seconds = time.perf_counter() - began
    await bench.engine.remove(container, force=True)
    return log.size / MB / took_seconds
