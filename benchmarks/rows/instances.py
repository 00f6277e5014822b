"""What more instances over one store give: POSTs that are accepted, and the latency of one job."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from benchmarks.engine import BareEngine
from benchmarks.load import Load, from_own_process
from benchmarks.measure import Bench, Result, percentile, summary, take_turns
from benchmarks.rows.idle import added_result, bare_ms, job_ms
from benchmarks.server import FastlaneProcess, running

NAME = "instances"

COUNTS = (1, 2, 3)
# Over all instances together, so that what differs is their number alone.
CONCURRENCY = 33
TASKS = 50


async def measure(bench: Bench) -> Sequence[Result]:
    """Each number of instances over a store of its own; nothing where a store is not shared."""
    if not bench.setup.shared:
        return []
    results: list[Result] = []
    for count in COUNTS:
        async with AsyncExitStack() as stack:
            store = bench.setup.new_store()
            servers = [await stack.enter_async_context(running(store)) for _ in range(count)]
            # Latency first: behind it the store is full.
            results.append(await _latency(bench, servers))
            results.append(await _accepted(bench, servers))
    # By kind, as the table is read.
    return [*results[::2], *results[1::2]]


async def _latency(bench: Bench, servers: Sequence[FastlaneProcess]) -> Result:
    rounds = 5 if bench.quick else 30
    turns = itertools.cycle(servers)

    async def ours(engine: BareEngine) -> float:
        return await job_ms(next(turns), engine, watched=True)

    mine, its = await take_turns(rounds, lambda: ours(bench.engine), lambda: bare_ms(bench.engine))
    what = f"{_named(servers)}: POST → final status, by WebSocket"
    return added_result(bench, NAME, what, mine, its)


async def _accepted(bench: Bench, servers: Sequence[FastlaneProcess]) -> Result:
    seconds = 1.0 if bench.quick else 4.0
    rounds = 1 if bench.quick else 3
    bodies = _bodies(bench.engine.image)
    rates: list[float] = []
    latencies: list[float] = []
    for number in range(rounds + 1):
        answered = await asyncio.gather(
            *(
                from_own_process(
                    Load(server.port, bodies, TASKS, CONCURRENCY // len(servers), seconds=seconds)
                )
                for server in servers
            )
        )
        # The first round does not count: connections and caches are made in it.
        if number:
            rates.append(sum(len(one.latencies_ms) / one.seconds for one in answered))
            latencies += [latency for one in answered for latency in one.latencies_ms]
    p99 = percentile(latencies, 0.99)
    return Result(
        row=NAME,
        setup=bench.setup.name,
        what=f"{_named(servers)}: scheduled jobs accepted, p99 {p99:.1f} ms",
        unit="POST/s",
        ours=statistics.median(rates),
        n=len(latencies),
        details={"p50_ms": percentile(latencies, 0.5), "p99_ms": p99, "ours": summary(rates)},
    )


def _bodies(image: str) -> list[str]:
    begin = time.time() + 86400
    payloads: list[Mapping[str, object]] = [
        {"image": image, "command": ["true"], "startAt": begin + number} for number in range(20)
    ]
    return [json.dumps(payload) for payload in payloads]


def _named(servers: Sequence[FastlaneProcess]) -> str:
    return f"{len(servers)} instance{'s' if len(servers) > 1 else ''}"
