"""What happened over time: counts and durations by step."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import astuple
from functools import partial

from fastlane import stats
from fastlane.api.base import BaseHandler
from fastlane.api.parameters import Parameter
from fastlane.api.problems import Problem
from fastlane.api.schemas import responses
from fastlane.api.schemas.listed import instant
from fastlane.api.services import Services
from fastlane.stats import Bucket, Step

# WATCH.md: bounds the steps of one answer.
MAX_STEPS = 1500
# WATCH.md: how far back there are counters by minute, in seconds.
MINUTES_BACK = 24 * 3600
# WATCH.md: bounds the executions that are read of a task that has no counters.
RUNS_READ = 1000
# Bounds what is put together on the event loop.
BUCKETS_ON_LOOP = 100
# What the clock moves on between a client's "24h" and its check, in seconds.
TOLERANCE_SECONDS = 60
STEPS = {"1m": 60, "5m": 300, "1h": 3600, "1d": 86400}
SINCE = Parameter(
    "since",
    "From when on: unix seconds, RFC 3339, or a duration back from now.",
    {"type": "string", "default": "24h"},
)
STEP = Parameter(
    "step",
    "How long a step is. Steps of minutes reach back 24 hours.",
    {"type": "string", "enum": list(STEPS), "default": "1h"},
)
TASK = Parameter("task", "A task id. Without it, all tasks together.", {"type": "string"})


class Stats(BaseHandler):
    """``/stats/``"""

    async def get(self) -> None:
        """Counts of executions, and the median and p95 of how long they ran and waited, by step.

        A step begins at a multiple of its length (UTC); the last one is not over yet.
        """
        step, now = STEP.choice(self) or "1h", self.services.clock()
        since = SINCE.moment(self, now)
        assert since is not None
        await self.send_json(await load_stats(self.services, TASK.text(self), step, since, now))


async def load_stats(
    services: Services, task_id: str | None, step: str, since: float, now: float
) -> responses.Stats:
    """The steps from *since* (unix seconds) to *now*.

    :raises Problem: 400, these are too many, or reach too far back.
    """
    seconds = STEPS[step]
    if (count := int((now - since) // seconds) + 1) > MAX_STEPS:
        raise Problem(
            400,
            f"From then on there are {count} steps of {step}; at most {MAX_STEPS} are answered. "
            "Use a longer step, or a later since.",
        )
    if seconds < Step.HOUR and now - since > MINUTES_BACK + TOLERANCE_SECONDS:
        raise Problem(
            400, f"Steps of {step} reach back 24 hours. Use the step 1h or 1d, or a later since."
        )
    first = since // seconds * seconds
    kind = Step.MINUTE if seconds < Step.HOUR else Step.HOUR
    found = await services.storage.stats.read(task_id, kind, since=first, until=now)
    is_counted = found is not None
    if found is None:
        assert task_id is not None
        # 404 where there is no such task.
        await services.storage.tasks.get(task_id)
        runs = await services.storage.lists.times_of_task(task_id, RUNS_READ)
        each = [one for run in runs for one in stats.of_run(*astuple(run))]
        found = sorted((one for one in each if one.start >= first), key=lambda one: one.start)
    make = partial(_items, found, first, now, seconds)
    is_short = len(found) <= BUCKETS_ON_LOOP and count <= BUCKETS_ON_LOOP
    return {
        "task": task_id,
        "step": step,
        "source": "counters" if is_counted else "executions",
        "items": make() if is_short else await asyncio.to_thread(make),
    }


def _items(
    buckets: Sequence[Bucket], since: float, until: float, seconds: int
) -> list[responses.StatsItem]:
    return [_item(one) for one in stats.by_step(buckets, since, until, seconds)]


def _item(one: Bucket) -> responses.StatsItem:
    return {
        "at": instant(one.start),
        "enqueued": one.enqueued,
        "done": one.done,
        "failed": one.failed,
        "timedout": one.timedout,
        "expired": one.expired,
        "durationSeconds": _quantiles(one.durations),
        "waitingSeconds": _quantiles(one.waits),
    }


def _quantiles(histogram: stats.Histogram) -> responses.Quantiles:
    return {"median": _rounded(histogram, 0.5), "p95": _rounded(histogram, 0.95)}


def _rounded(histogram: stats.Histogram, share: float) -> float | None:
    seconds = stats.quantile(histogram, share)
    return None if seconds is None else round(seconds, 4)
