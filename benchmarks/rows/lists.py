"""Pages of lists in a large storage, next to the same pages in a small one."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.filling import (
    DAYS,
    NOW,
    Size,
    created_at,
    fill_mongo,
    filled_sqlite,
    made_id,
    task_name,
)
from benchmarks.measure import Bench, Result, percentile
from fastlane.model import JobState, Reason, Status, Trigger
from fastlane.stats import Step
from fastlane.storage.base import ExecutionFilter, JobFilter, PageRequest, Storage
from fastlane.storage.mongo import ClusterStorage
from fastlane.storage.sqlite import SqliteStorage

NAME = "lists"

SMALL = Size(3_000, 10_000)
LARGE = {"sqlite": Size(1_000_000, 3_000_000), "cluster": Size(300_000, 1_000_000)}
QUICK = Size(10_000, 30_000)
# How often each page is read.
ROUNDS = 100
PER_PAGE = 50
# WATCH.md: what a page may cost more than in a small storage; less than so many ms is not compared.
RATIO, FLOOR_MS = 2.0, 5.0
Page = Callable[[], Awaitable[Any]]


async def measure(bench: Bench) -> Sequence[Result]:
    """Reads of the storage itself, without HTTP, in random order."""
    setup = bench.setup.name
    size = QUICK if bench.quick else LARGE[setup]
    figures: dict[str, Mapping[str, float]] = {}
    medians: dict[str, float] = {}
    for name, one in (("small", SMALL), ("large", size)):
        async with filled(bench, one) as storage:
            took = await _measure(pages(storage, one))
        # The first one of each fills caches.
        figures[name] = {page: percentile(each[1:], 0.99) for page, each in took.items()}
        medians = {page: percentile(each[1:], 0.5) for page, each in took.items()}
    small, large = figures["small"], figures["large"]
    ratios = {name: max(large[name], FLOOR_MS) / max(small[name], FLOOR_MS) for name in large}
    worst = max(ratios, key=lambda name: ratios[name])
    slowest = max(large, key=lambda name: large[name])
    what = f"page of {PER_PAGE} of {size.executions:,} executions, {size.tasks:,} tasks"
    return [
        Result(
            row=NAME,
            setup=setup,
            what=f"{what}: p99 of the slowest of {len(large)} ({slowest})",
            unit="ms",
            ours=large[slowest],
            n=ROUNDS,
            details={"p99_ms": dict(large), "p99_ms_of_10000": dict(small), "p50_ms": medians},
        ),
        Result(
            row=NAME,
            setup=setup,
            what=f"the same p99 next to 10,000 executions, the worst ({worst})",
            unit="x",
            ours=ratios[worst],
            n=ROUNDS,
            target=f"≤ {RATIO:g}, or ≤ {FLOOR_MS:g} ms",
            met=ratios[worst] <= RATIO,
            details={"ratios": ratios},
        ),
    ]


@asynccontextmanager
async def filled(bench: Bench, size: Size) -> AsyncIterator[Storage]:
    """An open storage of *size*."""
    storage: Storage
    if bench.setup.shared:
        cluster = ClusterStorage(bench.setup.new_store()["MONGODB_URL"])
        await cluster.open()
        await fill_mongo(cluster, size)
        storage = cluster
    else:
        storage = SqliteStorage(await filled_sqlite(size))
        await storage.open()
    try:
        yield storage
    finally:
        await storage.close()


def pages(storage: Storage, size: Size) -> Mapping[str, Page]:
    """What is read, by its name."""
    failed, day = frozenset({Status.FAILED}), NOW - 86_400
    filters = {
        "all": ExecutionFilter(),
        "task": ExecutionFilter(task_name(3)),
        "task+failed": ExecutionFilter(task_name(3), statuses=failed),
        "task+since": ExecutionFilter(task_name(3), since=day),
        "task=busy-*": ExecutionFilter(task_prefix="busy-"),
        "task=busy-00*": ExecutionFilter(task_prefix="busy-00"),
        "job": ExecutionFilter(job_id=made_id(2, 3)),
        "failed": ExecutionFilter(statuses=failed),
        "failed+since": ExecutionFilter(statuses=failed, since=day),
        "waiting": ExecutionFilter(statuses=frozenset({Status.ENQUEUED})),
        "active": ExecutionFilter(statuses=frozenset({Status.RUNNING, Status.PULLING})),
        "reason": ExecutionFilter(reasons=frozenset({Reason.OOM})),
        "trigger": ExecutionFilter(triggers=frozenset({Trigger.MANUAL})),
        "farm": ExecutionFilter(farm="gpu"),
        "host": ExecutionFilter(host="host-3:2376"),
        "since": ExecutionFilter(since=day),
        "until": ExecutionFilter(until=NOW - DAYS / 2 * 86_400),
        "q=word": ExecutionFilter(query=task_name(size.tasks - 1)),
        "q=common": ExecutionFilter(query="nightly"),
        "q=id": ExecutionFilter(query=made_id(1, size.executions // 2)[:8]),
        "failed+farm+host": ExecutionFilter(statuses=failed, farm="gpu", host="host-3:2376"),
    }
    found: dict[str, Page] = {}

    def add(name: str, wanted: ExecutionFilter, after: str | None) -> None:
        found[name] = lambda: storage.lists.executions(wanted, size=PER_PAGE, after=after)

    depths = {"middle": size.executions // 2, "last": size.executions // 1000 + 60}
    for name, wanted in filters.items():
        add(f"{name}, first", wanted, None)
        for depth, number in depths.items():
            if name == "job":
                add(f"{name}, {depth}", wanted, str(number))
            else:
                add(f"{name}, {depth}", wanted, f"{created_at(number, size)!r}_{number}")
    jobs = {
        "jobs": JobFilter(),
        "jobs active": JobFilter(state=JobState.ACTIVE),
        "jobs of task=busy-*": JobFilter(task_prefix="busy-"),
    }
    for name, of in jobs.items():
        found[name] = lambda of=of: storage.lists.jobs(of, size=PER_PAGE)  # type: ignore[misc]
    names = [task_name(number) for number in range(10)]
    found["last of tasks"] = lambda: storage.lists.last_of_tasks(names)
    found["tasks"] = lambda: storage.tasks.page(PageRequest(size=PER_PAGE))
    found["stats of a day"] = lambda: storage.stats.read(None, Step.HOUR, since=day, until=NOW)
    return found


async def _measure(pages: Mapping[str, Page]) -> Mapping[str, list[float]]:
    """What each read of each took, in ms."""
    took: dict[str, list[float]] = {name: [] for name in pages}
    order = [name for name in pages for _ in range(ROUNDS)]
    random.Random(1).shuffle(order)
    for name in [*pages, *order]:
        began = time.perf_counter()
        await pages[name]()
        took[name].append(1000 * (time.perf_counter() - began))
    return took
