"""What fastlane adds to a job on an idle server: POST → final status, minus the bare calls."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.engine import BareEngine
from benchmarks.measure import Bench, Result, summary, take_turns
from benchmarks.server import FastlaneProcess

NAME = "idle"

TARGET_MS = 25.0


async def measure(bench: Bench) -> Sequence[Result]:
    """One job at a time, waited for once by request and once through the WebSocket."""
    rounds = 5 if bench.quick else 30
    async with bench.server() as server:
        waited, bare = await take_turns(
            rounds,
            lambda: job_ms(server, bench.engine, watched=False),
            lambda: bare_ms(bench.engine),
        )
        watched, bare_again = await take_turns(
            rounds,
            lambda: job_ms(server, bench.engine, watched=True),
            lambda: bare_ms(bench.engine),
        )
    return [
        added_result(bench, NAME, what, ours, bare_ones, target_ms=TARGET_MS)
        for what, ours, bare_ones in (
            ("POST → final status, waited for", waited, bare),
            ("POST → final status, by WebSocket", watched, bare_again),
        )
    ]


def added_result(
    bench: Bench,
    row: str,
    what: str,
    ours: list[float],
    bare: list[float],
    *,
    bare_what: str = "create, start, wait, logs, inspect",
    target_ms: float | None = None,
) -> Result:
    """What ours adds to the milliseconds of *bare_what*, pair by pair."""
    # Pairs are neighbours in time, so the machine's drift is the same in both.
    added = statistics.median(mine - its for mine, its in zip(ours, bare, strict=True))
    return Result(
        row=row,
        setup=bench.setup.name,
        what=what,
        unit="ms",
        ours=statistics.median(ours),
        n=len(ours),
        bare=statistics.median(bare),
        bare_what=bare_what,
        compared=f"{added:+.1f} ms",
        target="" if target_ms is None else f"≤ +{target_ms:g} ms",
        met=None if target_ms is None else added <= target_ms,
        details={"added_ms": added, "ours": summary(ours), "bare": summary(bare)},
    )


async def job_ms(server: FastlaneProcess, engine: BareEngine, *, watched: bool) -> float:
    """Milliseconds of one job; its end is seen by its log or, unless *watched*, by its status."""
    began = time.perf_counter()
    job = await server.client.post("idle", {"image": engine.image, "command": ["true"]})
    end: Mapping[str, Any]
    if watched:
        end = await server.client.await_end_frame(job.url)
    else:
        end = await server.client.await_end(job.url)
    took_ms = (time.perf_counter() - began) * 1000
    if end["status"] != "done":
        raise RuntimeError(f"the job ended as {end}")
    assert job.execution_id is not None
    await engine.await_removed(job.execution_id)
    return took_ms


async def bare_ms(engine: BareEngine) -> float:
    """Milliseconds of the same job in the bare engine."""
    began = time.perf_counter()
    container = await engine.run(["true"])
    took_ms = (time.perf_counter() - began) * 1000
    await engine.remove(container)
    return took_ms
