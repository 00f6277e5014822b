"""Jobs: one of them with its executions, its replacement, its stop and its retry."""

from __future__ import annotations

from fastlane.api import shapes
from fastlane.api.base import BaseHandler
from fastlane.api.executions import read_dispatches, read_outputs
from fastlane.api.lookup import check_job_id, check_task_id
from fastlane.api.paging import page_body, requested_page
from fastlane.api.payload import take_payload
from fastlane.api.waiting import reasons

EXECUTIONS_PER_PAGE = 20


class Job(BaseHandler):
    """``/tasks/T/jobs/J/``"""

    async def get(self, task_id: str, job_id: str) -> None:
        request = requested_page(self, EXECUTIONS_PER_PAGE)
        storage, words = self.services.storage, self.services.config.env_blacklisted_words
        job = await storage.job(task_id, job_id)
        page = await storage.executions(job.id, request)
        last = await storage.last_execution(job.id)
        outputs = await read_outputs(storage, page.items)
        dispatches = await read_dispatches(storage, page.items)
        waiting = await reasons(self.services, page.items)
        executions = [
            shapes.execution_details(
                execution,
                outputs[execution.id],
                words,
                self.urls,
                dispatches[execution.id],
                waiting[execution.id],
            )
            for execution in page.items
        ]

        def url(**keys: object) -> str:
            return self.urls.job(task_id, job_id, **keys)

        paging = page_body(page, request, executions, url, per_page=EXECUTIONS_PER_PAGE)
        del paging["items"]
        self.send_json(
            {
                "task": shapes.task_reference(task_id, self.urls),
                "job": shapes.job_details(
                    job,
                    executions,
                    last,
                    self.services.config,
                    self.urls,
                ),
                **paging,
            }
        )

    async def put(self, task_id: str, job_id: str) -> None:
        check_task_id(task_id)
        words = self.services.config.env_blacklisted_words
        payload = await take_payload(self.request.body, words)
        submitted = await self.services.lifecycle.submit(
            task_id=task_id,
            job_id=check_job_id(job_id),
            definition=payload.definition(
                self.services.config.backoff,
                self.services.config.hard_execution_timeout_seconds,
            ),
            schedule=payload.schedule(self.services.clock()),
            request_ip=self.client_ip,
        )
        self.send_json(shapes.submitted(submitted.job, submitted.execution, self.urls))


class StopJob(BaseHandler):
    """``/tasks/T/jobs/J/stop/``"""

    async def post(self, task_id: str, job_id: str) -> None:
        job = await self.services.lifecycle.stop_job(task_id, job_id)
        self.send_json(shapes.stopped_job(job, self.urls))


class RetryJob(BaseHandler):
    """``/tasks/T/jobs/J/retry/``"""

    async def post(self, task_id: str, job_id: str) -> None:
        execution = await self.services.lifecycle.retry_job(
            task_id, job_id, request_ip=self.client_ip
        )
        job = await self.services.storage.job(task_id, job_id)
        self.send_json(
            {
                **shapes.stopped_job(job, self.urls),
                "executionId": execution.id,
                "executionUrl": self.urls.execution(execution),
            }
        )
