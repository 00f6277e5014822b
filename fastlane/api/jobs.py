"""Jobs: one of them with its executions, its replacement, its stop and its retry."""

from __future__ import annotations

from fastlane.api.base import BaseHandler
from fastlane.api.executions import read_dispatches, read_outputs
from fastlane.api.lookup import check_job_id, check_task_id
from fastlane.api.paging import requested_page
from fastlane.api.payload import take_submission
from fastlane.api.schemas import jobs as schemas
from fastlane.api.schemas.common import page_keys, task_reference
from fastlane.api.schemas.executions import execution_details
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
        keys = page_keys(
            page, request, self.urls.job(task_id, job_id), per_page=EXECUTIONS_PER_PAGE
        )
        executions = [
            execution_details(
                execution,
                outputs[execution.id],
                words,
                self.urls,
                dispatches[execution.id],
                waiting[execution.id],
            )
            for execution in page.items
        ]
        found: schemas.JobDetails = {
            "task": task_reference(task_id, self.urls),
            "job": schemas.job_details(job, executions, last, self.services.config, self.urls),
            **keys,
        }
        await self.send_json(found)

    async def put(self, task_id: str, job_id: str) -> None:
        check_task_id(task_id)
        definition, schedule = await take_submission(
            self.request.body, self.services.config, self.services.clock()
        )
        submitted = await self.services.lifecycle.submit(
            task_id=task_id,
            job_id=check_job_id(job_id),
            definition=definition,
            schedule=schedule,
            request_ip=self.client_ip,
        )
        await self.send_json(schemas.submitted(submitted.job, submitted.execution, self.urls))


class StopJob(BaseHandler):
    """``/tasks/T/jobs/J/stop/``"""

    async def post(self, task_id: str, job_id: str) -> None:
        job = await self.services.lifecycle.stop_job(task_id, job_id)
        await self.send_json(schemas.stopped_job(job, self.urls))


class RetryJob(BaseHandler):
    """``/tasks/T/jobs/J/retry/``"""

    async def post(self, task_id: str, job_id: str) -> None:
        execution = await self.services.lifecycle.retry_job(
            task_id, job_id, request_ip=self.client_ip
        )
        job = await self.services.storage.job(task_id, job_id)
        await self.send_json(schemas.retried_job(job, execution, self.urls))
