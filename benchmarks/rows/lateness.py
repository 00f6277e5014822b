"""How far behind its time a scheduled job is taken up, among many that are not due."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

import redis.asyncio as redis_client

from benchmarks.measure import Bench, BenchError, Result, percentile, summary
from benchmarks.server import FastlaneProcess
from benchmarks.stores import storage_of
from fastlane.model import Definition, Job, Schedule
from fastlane.steering import new_id

NAME = "lateness"

JOBS = 100_000
TARGET_MS = 100.0
TASKS = 100
# Bounds the submissions under way while the store is filled.
CONCURRENCY = 256
# How far off the jobs are that only lie there, in seconds.
FAR_SECONDS = 86400.0
# Between one due time and the next, in seconds. An engine on two cores starts some four containers
# a second; a faster pace would measure how far it is behind.
STEP_SECONDS = 0.3
# Leaves the POSTs time before the first due time, in seconds.
LEAD_SECONDS = 5.0
# Bounds the wait for an execution behind its due time, in seconds.
TIMEOUT = 120.0


@dataclass(slots=True)
class Lateness:
    """Milliseconds behind the due time, of each job."""

    taken_ms: list[float] = field(default_factory=list)
    """Until the scheduler made the execution (``createdAt``)."""
    started_ms: list[float] = field(default_factory=list)
    """Until its container ran (``startedAt``), which is mostly the engine's doing."""


async def measure(bench: Bench) -> Sequence[Result]:
    """Jobs with due times off the whole second, and Redis' memory where there is a Redis."""
    jobs = JOBS // 10 if bench.quick else JOBS
    due = 50 if bench.quick else 200
    with tempfile.TemporaryDirectory(prefix="fastlane-bench-") as directory:
        options = {"DATA_DIR": f"{directory}/data", **bench.setup.new_store()}
        began = time.perf_counter()
        redis_bytes = await _fill(options, bench.engine.image, jobs)
        filled_seconds = time.perf_counter() - began
        async with bench.server(**options) as server:
            late = await _run_due(server, bench.engine.image, due)
    p99 = percentile(late.taken_ms, 0.99)
    results = [
        Result(
            row=NAME,
            setup=bench.setup.name,
            what=f"due time → execution made, p99, beside {jobs} scheduled jobs",
            unit="ms",
            ours=p99,
            n=len(late.taken_ms),
            target=f"≤ {TARGET_MS:g} ms",
            met=p99 <= TARGET_MS,
            details={"taken_ms": summary(late.taken_ms), "filled_seconds": filled_seconds},
        ),
        Result(
            row=NAME,
            setup=bench.setup.name,
            what="due time → its container runs, p99",
            unit="ms",
            ours=percentile(late.started_ms, 0.99),
            n=len(late.started_ms),
            details={"started_ms": summary(late.started_ms)},
        ),
    ]
    if redis_bytes is not None:
        results.append(
            Result(
                row=NAME,
                setup=bench.setup.name,
                what="Redis memory per scheduled job: growth of used_memory",
                unit="bytes",
                ours=redis_bytes / jobs,
                n=jobs,
                details={"grown_bytes": redis_bytes},
            )
        )
    return results


async def _fill(options: Mapping[str, str], image: str, jobs: int) -> int | None:
    """Store *jobs* of the far future; by how many bytes Redis grew, None without one."""
    storage = storage_of(options)
    await storage.open()
    try:
        before = await _redis_bytes(options)
        numbers = iter(range(jobs))

        async def submit() -> None:
            for number in numbers:
                await storage.jobs.submit(_far_job(image, number), None)

        async with asyncio.TaskGroup() as group:
            for _ in range(CONCURRENCY):
                group.create_task(submit())
        after = await _redis_bytes(options)
    finally:
        await storage.close()
    return None if before is None or after is None else after - before


def _far_job(image: str, number: int) -> Job:
    now = time.time()
    start_at = now + FAR_SECONDS + number
    return Job(
        task_id=f"far-{number % TASKS}",
        id=new_id(),
        definition=Definition.parse(image=image, command=("true",)),
        schedule=Schedule(start_at=start_at),
        created_at=now,
        modified_at=now,
        queue_job_id=new_id(),
        next_run_at=start_at,
    )


async def _redis_bytes(options: Mapping[str, str]) -> int | None:
    if "REDIS_URL" not in options:
        return None
    client = redis_client.Redis.from_url(options["REDIS_URL"])
    try:
        # Its types say of every command that it may answer at once.
        memory = await cast(Any, client.info("memory"))
    finally:
        await client.aclose()
    return int(memory["used_memory"])


async def _run_due(server: FastlaneProcess, image: str, jobs: int) -> Lateness:
    first = time.time() + LEAD_SECONDS
    due = [first + number * STEP_SECONDS for number in range(jobs)]
    posted = [
        await server.client.post("due", {"image": image, "command": ["true"], "startAt": at})
        for at in due
    ]
    if time.time() > first:
        raise BenchError("the jobs were due before all of them were posted")
    # Nobody asks the server anything meanwhile.
    await asyncio.sleep(due[-1] - time.time())
    late = Lateness()
    async with asyncio.timeout(TIMEOUT):
        for at, job in zip(due, posted, strict=True):
            execution = await _final(server, job.job_url)
            late.taken_ms.append(1000 * (_unix(execution["createdAt"]) - at))
            late.started_ms.append(1000 * (_unix(execution["startedAt"]) - at))
    return late


async def _final(server: FastlaneProcess, job_url: str) -> Mapping[str, Any]:
    while True:
        executions = await server.client.executions(job_url)
        if executions and executions[0]["finishedAt"] is not None:
            if executions[0]["status"] != "done":
                raise BenchError(f"the job ended as {executions[0]}")
            return executions[0]
        await asyncio.sleep(0.1)


def _unix(text: str) -> float:
    # The API's times are UTC and do not say so.
    return datetime.fromisoformat(f"{text}+00:00").timestamp()
