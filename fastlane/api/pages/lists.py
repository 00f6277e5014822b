"""The pages of lists over all tasks."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from fastlane.api.handlers.lists import (
    EXECUTION_FILTERS,
    JOB_FILTERS,
    execution_filter,
    job_filter,
    list_executions,
    list_jobs,
)
from fastlane.api.pages import figures
from fastlane.api.pages.page import Page, Values
from fastlane.model import JobState, Reason, Status, Trigger

# What should have started more than this ago is late, in seconds.
LATE_SECONDS = 60.0
STATUSES = ("waiting", "active", "final", *Status)


class ListPage(Page):
    """A table with filters in the URL."""

    async def prepare(self) -> None:
        await super().prepare()
        # A form sends what was left empty, too.
        for name, given in [*self.request.query_arguments.items()]:
            if not any(value.strip() for value in given):
                del self.request.query_arguments[name]


class ExecutionsPage(ListPage):
    """``/executions/``"""

    template: ClassVar[str] = "executions"

    async def frame(self, *_: str | None) -> Values:
        farms = self.services.farms
        return {
            "given": {one.name: one.text(self) or "" for one in EXECUTION_FILTERS},
            "statuses": STATUSES,
            "reasons": tuple(Reason),
            "triggers": tuple(Trigger),
            "farms": [farm.name for farm in farms],
            "hosts": sorted({host for farm in farms for host in farm.hosts}),
        }

    async def listed(self) -> Values:
        found = await list_executions(self, await execution_filter(self))
        return {"page": found, "first": self.get_query_argument("cursor", None) is None}

    fragments: ClassVar[Any] = {"list": listed}


class JobsPage(ListPage):
    """``/jobs/``; with ``kind=cron`` the schedules."""

    template: ClassVar[str] = "jobs"

    async def frame(self, *_: str | None) -> Values:
        return {
            "given": {one.name: one.text(self) or "" for one in JOB_FILTERS},
            "states": tuple(JobState),
        }

    async def listed(self) -> Values:
        found = await list_jobs(self, job_filter(self))
        now = self.services.clock()
        # Ticks of many expressions take a while.
        day = await asyncio.to_thread(figures.day, found["items"], now)
        return {"page": found, "day": day, "late_before": now - LATE_SECONDS}

    fragments: ClassVar[Any] = {"list": listed}
