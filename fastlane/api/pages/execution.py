"""The page of an execution with its log, also at ``…/stream/``."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import ClassVar

from fastlane.api.lookup import find_log
from fastlane.api.pages import commands
from fastlane.api.pages.items import executions
from fastlane.api.pages.page import Page, Values
from fastlane.api.schemas import build, listed, responses
from fastlane.api.schemas.build import Output
from fastlane.api.waiting import reasons
from fastlane.errors import NotFound
from fastlane.model import Execution
from fastlane.storage.base import ExecutionFilter

# Bounds the attempts that have a tab, each way.
ATTEMPTS_SHOWN = 10


class ExecutionPage(Page):
    """An execution, or a job's last one, with its log."""

    template: ClassVar[str] = "execution"

    async def frame(self, *ids: str | None) -> Values:
        task_id, job_id, execution_id = (*ids, None)[:3]
        assert task_id is not None
        assert job_id is not None
        job, execution = await find_log(self.services.storage, task_id, job_id, execution_id)
        details = None if execution is None else await self._details(execution)
        return {
            "task_id": task_id,
            "job_id": job.id,
            "job_name": job.name,
            "one": details,
            "run": details and commands.run(task_id, details),
            "timeout": execution and build.number(execution.definition.timeout_seconds),
            "follows_job": execution_id is None,
            "task_url": self.urls.task(task_id),
            "job_url": self.urls.job(task_id, job.id),
            "download_name": re.sub(r"[^A-Za-z0-9._-]+", "-", f"{task_id}-{job.id}"),
        }

    async def state(self, task_id: str, job_id: str, execution_id: str | None = None) -> Values:
        """Everything that may change while it is looked at, but for the log."""
        job, execution = await find_log(self.services.storage, task_id, job_id, execution_id)
        if execution is None:
            return {"one": None}
        retry = await self.services.lifecycle.retry_after(execution)
        words = self.services.config.env_blacklisted_words
        details = await self._details(execution)
        of_job = ExecutionFilter(job_id=job.id)
        before = await executions(self, of_job, size=1, after=str(execution.number))
        after = await executions(self, of_job, size=1, after=str(execution.number + 2))
        return {
            "one": details,
            "item": listed.execution_item(execution, words, self.urls, None, job.name),
            "retry": None if retry is None else build.following_retry(retry, self.urls),
            "attempts": await self._attempts(execution),
            "before": next(iter(before["items"]), None),
            "after": next((i for i in after["items"] if i["number"] > execution.number), None),
            "timeout": build.number(execution.definition.timeout_seconds),
            "stopping": execution.stop_reason is not None and not execution.final,
        }

    async def _details(self, execution: Execution) -> responses.Execution:
        services = self.services
        waiting = (await reasons(services, [execution]))[execution.id]
        words = services.config.env_blacklisted_words
        return build.execution_details(execution, Output(), words, self.urls, (), waiting)

    async def _attempts(self, execution: Execution) -> list[Execution]:
        """The attempts that *execution* is one of, the first one first."""
        storage = self.services.storage.executions
        if not execution.retry_of and not execution.definition.retries:
            return [execution]
        found = [execution]
        with suppress(NotFound):
            while found[0].retry_of and len(found) < ATTEMPTS_SHOWN:
                found.insert(0, await storage.get(found[0].retry_of))
        while len(found) < 2 * ATTEMPTS_SHOWN:
            following = await storage.retry_of(found[-1].id)
            if following is None:
                break
            found.append(following)
        return found

    fragments: ClassVar = {"state": state}
