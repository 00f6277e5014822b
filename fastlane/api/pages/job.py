"""The page of a job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from fastlane.api.pages.commands import curl
from fastlane.api.pages.items import executions, older
from fastlane.api.pages.page import Page, Values
from fastlane.api.schemas import build, listed
from fastlane.cron import next_tick
from fastlane.model import Job
from fastlane.storage.base import ExecutionFilter

RUNS_PER_PAGE = 20
TICKS_SHOWN = 5


class JobPage(Page):
    """``/tasks/T/jobs/J/``"""

    template: ClassVar[str] = "job"

    async def frame(self, *ids: str | None) -> Values:
        task_id, job_id = ids
        assert task_id is not None
        assert job_id is not None
        # 404 for the whole page, before any fragment.
        job = await self.services.storage.jobs.get(task_id, job_id)
        return {"job_id": job.id, "job_name": job.name, "task_id": task_id}

    async def definition(self, task_id: str, job_id: str) -> Values:
        services = self.services
        job = await services.storage.jobs.get(task_id, job_id)
        last = await services.storage.executions.last_of_job(job.id)
        details = build.job_details(job, [], last, services.config, self.urls)
        return {
            "job": details,
            "paused": job.paused,
            "last": last,
            "schedule_text": listed.in_words(job.schedule.cron) if job.schedule.cron else "",
            "ticks": _ticks(job),
            "curl": curl(details, f"{self.caller.scheme}://{self.caller.host}"),
        }

    async def runs(self, task_id: str, job_id: str) -> Values:
        job = await self.services.storage.jobs.get(task_id, job_id)
        after = self.get_query_argument("cursor", None)
        found = await executions(
            self, ExecutionFilter(job_id=job.id), size=RUNS_PER_PAGE, after=after
        )
        return {"runs": found, "older": older(found), "newest": after is None}

    fragments: ClassVar = {"definition": definition, "runs": runs}


def _ticks(job: Job) -> Sequence[float]:
    """When *job* runs next."""
    found: list[float] = []
    first = job.next_run_at
    while first is not None and len(found) < TICKS_SHOWN:
        found.append(first)
        cron = job.schedule.cron
        first = None if cron is None else next_tick(cron, job.schedule.timezone, first)
    return found
