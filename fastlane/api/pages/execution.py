"""The page of an execution with its log, also at ``…/stream/``."""

from __future__ import annotations

import re
from typing import ClassVar

from fastlane.api.lookup import find_log
from fastlane.api.pages.page import Page, Values
from fastlane.api.schemas import build
from fastlane.api.schemas.build import Output
from fastlane.api.urls import Urls
from fastlane.api.waiting import reasons

# Pages link to paths, whatever the name of the server.
PATHS = Urls("")


class ExecutionPage(Page):
    """An execution, or a job's last one, with its log."""

    template: ClassVar[str] = "execution"

    async def frame(self, *ids: str | None) -> Values:
        task_id, job_id, execution_id = (*ids, None)[:3]
        assert task_id is not None
        assert job_id is not None
        services = self.services
        job, execution = await find_log(services.storage, task_id, job_id, execution_id)
        details = None
        if execution is not None:
            words = services.config.env_blacklisted_words
            waiting = (await reasons(services, [execution]))[execution.id]
            details = build.execution_details(execution, Output(), words, PATHS, (), waiting)
        return {
            "job": job,
            "task_url": PATHS.task(task_id),
            "job_url": PATHS.job(task_id, job.id),
            "one": details,
            "follows_job": execution_id is None,
            "download_name": re.sub(r"[^A-Za-z0-9._-]+", "-", f"{task_id}-{job.id}"),
        }
