"""The pages of all tasks and of one."""

from __future__ import annotations

from typing import ClassVar

from fastlane.api.handlers.lists import list_jobs
from fastlane.api.handlers.tasks import task_page
from fastlane.api.pages import figures
from fastlane.api.pages.items import executions, older
from fastlane.api.pages.page import Page, Values
from fastlane.api.paging import requested_page
from fastlane.api.schemas import build
from fastlane.storage.base import ExecutionFilter, JobFilter

TASKS_PER_PAGE = 50


class TasksPage(Page):
    """``/tasks/`` and ``/search/``"""

    template: ClassVar[str] = "tasks"

    async def listed(self) -> Values:
        query = self.get_query_argument("query", "").strip()
        request = requested_page(self, TASKS_PER_PAGE)
        tasks = self.services.storage.tasks
        page = await (tasks.search(query, request) if query else tasks.page(request))
        url = self.urls.search() if query else self.urls.tasks()
        keys = build.page_keys(page, request, url, per_page=TASKS_PER_PAGE, query=query or None)
        return {"tasks": await task_page(self, page, keys), "query": query}

    async def frame(self, *_: str | None) -> Values:
        return {"query": self.get_query_argument("query", "").strip()}

    fragments: ClassVar = {"list": listed}


class TaskPage(Page):
    """``/tasks/T/``"""

    template: ClassVar[str] = "task"

    async def frame(self, *ids: str | None) -> Values:
        (task_id,) = ids
        assert task_id is not None
        task = await self.services.storage.tasks.get(task_id)
        return {"task_id": task.id}

    async def runs(self, task_id: str) -> Values:
        found = await executions(self, ExecutionFilter(task_id=task_id), size=figures.BARS)
        return {
            "bars": figures.bars(found["items"]),
            "summary": figures.summary(found["items"]),
            "items": found["items"][:10],
            "task_id": task_id,
        }

    async def jobs(self, task_id: str) -> Values:
        found = await list_jobs(self, JobFilter(task_id=task_id))
        return {"page": found, "older": older(found)}

    fragments: ClassVar = {"runs": runs, "jobs": jobs}
