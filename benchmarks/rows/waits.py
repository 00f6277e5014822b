"""Clients that wait for the end of an execution with ``?wait=``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from urllib.parse import urlsplit

from benchmarks.measure import Bench, BenchError, Result

NAME = "waits"

CLIENTS = 2000
# How long all of them wait while the processor time is measured.
IDLE_SECONDS = 20.0
MEMORY_TARGET_MB = 100.0
# Of one processor. A lost event is made good for by a second look, which costs this little.
CPU_TARGET_PERCENT = 5.0
# Bounds connecting, and the answers at the end, in seconds.
TIMEOUT = 120.0


async def measure(bench: Bench) -> Sequence[Result]:
    """The clients are raw connections in this process; the execution is one that never starts."""
    clients = 200 if bench.quick else CLIENTS
    idle_seconds = 3.0 if bench.quick else IDLE_SECONDS
    async with bench.server(LOG_MAX_BYTES="0") as server:
        job = await server.client.post(
            "waits", {"image": bench.engine.image, "command": ["sleep", "600"]}
        )
        await server.client.await_status(job.url, frozenset({"running"}), every_seconds=0.1)
        path = urlsplit(job.url).path.rstrip("/")
        before_mb = server.rss_mb()
        waiting = [asyncio.open_connection("127.0.0.1", server.port) for _ in range(clients)]
        opened = []
        for first in range(0, clients, 100):
            opened += await asyncio.gather(*waiting[first : first + 100])
        for _, writer in opened:
            writer.write(f"GET {path}/?wait=300 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        answers = [asyncio.create_task(reader.readline()) for reader, _ in opened]
        # An answer that comes after all requests says that they are being served.
        await server.client.await_status(job.url, frozenset({"running"}), every_seconds=0.1)
        cpu_before = server.cpu_seconds()
        await asyncio.sleep(idle_seconds)
        cpu_percent = 100 * (server.cpu_seconds() - cpu_before) / idle_seconds
        memory_mb = server.rss_mb() - before_mb
        began = time.monotonic()
        await server.client.stop(job.job_url)
        lines = await asyncio.wait_for(asyncio.gather(*answers), TIMEOUT)
        answered_seconds = time.monotonic() - began
        for _, writer in opened:
            writer.transport.abort()
    if any(b" 200 " not in line for line in lines):
        raise BenchError(f"some of the waiting clients were answered {set(lines)}")
    result = partial(Result, row=NAME, setup=bench.setup.name, n=clients)
    return [
        result(
            what=f"memory for {clients} clients that wait",
            unit="MB",
            ours=memory_mb,
            target=f"< {MEMORY_TARGET_MB:g} MB",
            met=memory_mb < MEMORY_TARGET_MB,
        ),
        result(
            what="processor time meanwhile",
            unit="%",
            ours=cpu_percent,
            target=f"< {CPU_TARGET_PERCENT:g} %",
            met=cpu_percent < CPU_TARGET_PERCENT,
        ),
        result(
            what="from the stop to the last answer (a grace of the run included)",
            unit="s",
            ours=answered_seconds,
        ),
    ]
