"""``/`` for people: what runs, what failed, what waits and why, and what comes next."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from fastlane.api.handlers.executions import read_outputs
from fastlane.api.pages import figures
from fastlane.api.pages.items import executions
from fastlane.api.pages.page import Page, Values
from fastlane.api.schemas import build
from fastlane.api.schemas.responses import ExecutionItem
from fastlane.api.texts import DAY, HOUR
from fastlane.model import ACTIVE, Reason, Status
from fastlane.stats import Step, merged, quantile
from fastlane.storage.base import ExecutionFilter

FAILED = frozenset({Status.FAILED, Status.TIMEDOUT, Status.EXPIRED})
# How much of each list is shown.
FAILURES_READ, GROUPS_SHOWN, RUNNING_SHOWN, WAITING_SHOWN, TICKS_SHOWN = 60, 8, 20, 10, 10
# How far back the usual duration of a task is looked for, in seconds.
USUAL_SECONDS = 7 * DAY
# Bounds what is read of a log for its last lines.
LINES_BYTES, LINES_SHOWN = 2048, 2
# What waits longer than this is late, in seconds.
LATE_SECONDS = 60.0


class OverviewPage(Page):
    """``/``"""

    template: ClassVar[str] = "overview"

    async def numbers(self) -> Values:
        storage, now = self.services.storage, self.services.clock()
        running = sum((await storage.executions.active_counts()).values())
        waiting = await self._count(ExecutionFilter(statuses=frozenset({Status.ENQUEUED})))
        failed = await self._count(ExecutionFilter(statuses=FAILED, since=now - DAY))
        late = await self._count(
            ExecutionFilter(statuses=frozenset({Status.ENQUEUED}), until=now - LATE_SECONDS)
        )
        overdue = len(await storage.jobs.due(now - LATE_SECONDS, 100))
        late = None if late is None else late + overdue
        return {"running": running, "waiting": waiting, "failed": failed, "late": late}

    async def hours(self) -> Values:
        now = self.services.clock()
        first = int(now // HOUR - 23) * HOUR
        found = await self.services.storage.stats.read(None, Step.HOUR, since=first, until=now + 1)
        return {"hours": figures.hours(found or (), first)}

    async def attention(self) -> Values:
        now = self.services.clock()
        found = await self._items(ExecutionFilter(statuses=FAILED, since=now - DAY), FAILURES_READ)
        groups = figures.groups(
            [one for one in found if one["reason"] != Reason.STOPPED], GROUPS_SHOWN
        )
        storage = self.services.storage
        newest = [await storage.executions.get(one.newest["executionId"]) for one in groups]
        outputs = await read_outputs(storage, newest)
        last = await storage.lists.last_of_jobs([one.job_id for one in newest])
        return {
            "groups": groups,
            "lines": {
                one.id: outputs[one.id].stderr[-LINES_BYTES:].splitlines()[-LINES_SHOWN:]
                for one in newest
            },
            "recovered": {one for one, run in last.items() if run.status is Status.DONE},
        }

    async def running(self) -> Values:
        found = await self._items(ExecutionFilter(statuses=ACTIVE), RUNNING_SHOWN)
        usual = await self._usual({one["taskId"] for one in found})
        return {"items": found, "usual": usual}

    async def waiting(self) -> Values:
        wanted = ExecutionFilter(statuses=frozenset({Status.ENQUEUED}))
        return {"items": await self._items(wanted, WAITING_SHOWN)}

    async def following(self) -> Values:
        jobs = await self.services.storage.jobs.scheduled(TICKS_SHOWN)
        return {"jobs": [(self.urls.job(job.task_id, job.id), job) for job in jobs]}

    async def farms(self) -> Values:
        services, running = self.services, Counter[str]()
        for (farm, _, _), count in (await services.storage.executions.active_counts()).items():
            running[farm] += count
        return {
            "farms": [
                (
                    build.farm_status(farm, services.hosts, running[farm.name]),
                    [
                        build.host_status(host, services.hosts, 0, farm)
                        for host in farm.hosts
                        if not services.hosts.available([host])
                    ],
                    len(farm.hosts),
                )
                for farm in services.farms
            ]
        }

    async def _items(self, wanted: ExecutionFilter, size: int) -> Sequence[ExecutionItem]:
        return (await executions(self, wanted, size=size))["items"]

    async def _count(self, wanted: ExecutionFilter) -> int | None:
        """None while it is not known, because very many were deleted and are yet to be removed."""
        return (await self.services.storage.lists.executions(wanted, size=1)).total

    async def _usual(self, tasks: set[str]) -> dict[str, float]:
        """The median duration of each of *tasks*, where there is one."""
        stats, now = self.services.storage.stats, self.services.clock()

        async def usual(task_id: str) -> float | None:
            found = await stats.read(task_id, Step.HOUR, since=now - USUAL_SECONDS, until=now + 1)
            return quantile(merged(0, found or ()).durations, 0.5)

        medians = await asyncio.gather(*map(usual, tasks))
        return {task: found for task, found in zip(tasks, medians, strict=True) if found}

    fragments: ClassVar[Any] = {
        "numbers": numbers,
        "hours": hours,
        "attention": attention,
        "running": running,
        "waiting": waiting,
        "next": following,
        "farms": farms,
    }
