"""Pages of a large storage, from the request to the last byte."""

from __future__ import annotations

import time
from collections.abc import Sequence

import aiohttp

from benchmarks.filling import NOW, Size, filled_sqlite, made_id, task_name
from benchmarks.measure import Bench, Result, percentile
from tests.api.log_site import serve

NAME = "pages"

# PAGES.md: one million executions, 10,000 jobs, and an overview in this many ms.
LARGE, TARGET_MS = Size(10_000, 1_000_000), 50.0
QUICK = Size(300, 3_000)
ROUNDS = 30


async def measure(bench: Bench) -> Sequence[Result]:
    """In this process, without the network; each request renders anew."""
    if bench.setup.shared:
        return []
    size = QUICK if bench.quick else LARGE
    task = task_name(3)
    paths = {
        "overview": "/",
        "executions": "/executions/?perPage=100",
        "tasks": "/tasks/?perPage=50",
        "task": f"/tasks/{task}/",
        "job": f"/tasks/{task}/jobs/{made_id(2, 3)}/",
        "schedules": "/jobs/?kind=cron",
        "hosts": "/hosts/",
    }
    figures: dict[str, float] = {}
    async with (
        serve(await filled_sqlite(size), clock=lambda: NOW) as site,
        aiohttp.ClientSession() as client,
    ):
        for name, path in paths.items():
            took = []
            for number in range(ROUNDS):
                # An unknown parameter makes it another page to the cache of fragments.
                url = f"{path}{'&' if '?' in path else '?'}as=html&n={number}"
                began = time.perf_counter()
                async with client.get(site.url(url, "http")) as answer:
                    body = await answer.read()
                    assert answer.status == 200, (name, body[:500])
                took.append((time.perf_counter() - began) * 1000)
            figures[name] = percentile(took, 0.5)
    slowest = max(figures, key=lambda name: figures[name])
    what = f"page from {size.executions:,} executions, {size.tasks:,} jobs: median"
    return [
        Result(
            row=NAME,
            setup=bench.setup.name,
            what=f"overview, {what}",
            unit="ms",
            ours=figures["overview"],
            n=ROUNDS,
            target=f"≤ {TARGET_MS:g}",
            met=figures["overview"] <= TARGET_MS,
            details={"median_ms": figures},
        ),
        Result(
            row=NAME,
            setup=bench.setup.name,
            what=f"{what} of the slowest of {len(figures)} ({slowest})",
            unit="ms",
            ours=figures[slowest],
            n=ROUNDS,
            details={},
        ),
    ]
