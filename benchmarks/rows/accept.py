"""How many POSTs are accepted, each durable before its answer, next to parsing alone."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence

from benchmarks.load import Answered, Load, from_own_process
from benchmarks.measure import Bench, Result, percentile, summary, take_turns
from benchmarks.server import parse_only

NAME = "accept"

CONCURRENCY = 32
TASKS = 50


async def measure(bench: Bench) -> Sequence[Result]:
    """Once jobs of the far future, which only are stored; once such as queue behind a full farm."""
    now = time.time()
    image = bench.engine.image
    scheduled = [
        {"image": image, "command": ["true"], "startAt": now + 86400 + number}
        for number in range(20)
    ]
    async with bench.server() as server:
        results = [
            await _one(bench, server.port, "scheduled", scheduled),
        ]
    async with bench.server(MAX_RUNNING="1", STOP_GRACE_SECONDS="0") as server:
        blocker = await server.client.post(
            "blocker", {"image": image, "command": ["sleep", "600"], "timeout": 600}
        )
        await server.client.await_status(blocker.url, frozenset({"running"}), every_seconds=0.05)
        queued = [{"image": image, "command": ["true"], "expiration": now + 86400}]
        results.append(await _one(bench, server.port, "queued behind a full farm", queued))
        await _end(bench, blocker.execution_id)
    return results


async def _end(bench: Bench, execution_id: str | None) -> None:
    # Not through the API: a stop would let the thousands behind it run.
    assert execution_id is not None
    for container in await bench.engine.containers_named(execution_id):
        await bench.engine.remove(container, force=True)


async def _one(bench: Bench, port: int, what: str, payloads: Sequence[dict[str, object]]) -> Result:
    seconds = 1.0 if bench.quick else 4.0
    rounds = 1 if bench.quick else 3
    bodies = [json.dumps(payload) for payload in payloads]

    async def posts(to_port: int) -> Answered:
        load = Load(to_port, bodies, TASKS, CONCURRENCY, seconds=seconds)
        return await from_own_process(load)

    async with parse_only() as bare_port:
        ours, bare = await take_turns(rounds, lambda: posts(port), lambda: posts(bare_port))
    mine = [_rate(answered) for answered in ours]
    its = [_rate(answered) for answered in bare]
    ratio = statistics.median(a / b for a, b in zip(mine, its, strict=True))
    latencies = [latency for answered in ours for latency in answered.latencies_ms]
    bare_latencies = [latency for answered in bare for latency in answered.latencies_ms]
    p99, bare_p99 = percentile(latencies, 0.99), percentile(bare_latencies, 0.99)
    return Result(
        row=NAME,
        setup=bench.setup.name,
        what=f"{what}, {CONCURRENCY} at a time, p99 {p99:.1f} ms",
        unit="POST/s",
        ours=statistics.median(mine),
        n=len(latencies),
        bare=statistics.median(its),
        bare_what=f"Tornado that parses and answers, p99 {bare_p99:.1f} ms",
        compared=f"x {ratio:.2f}",
        details={
            "ratio": ratio,
            "p50_ms": percentile(latencies, 0.5),
            "p99_ms": p99,
            "bare_p99_ms": bare_p99,
            "ours": summary(mine),
            "bare": summary(its),
        },
    )


def _rate(answered: Answered) -> float:
    return len(answered.latencies_ms) / answered.seconds
