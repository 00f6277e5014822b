"""One more run of a job or of an execution, and the pause of a job."""

from __future__ import annotations

from fastlane.api.base import BaseHandler
from fastlane.api.schemas import build
from fastlane.api.schemas.overrides import overridden
from fastlane.model import Definition, Execution


class RunHandler(BaseHandler):
    """Has an execution made, which the body may change."""

    async def change(self, definition: Definition) -> Definition:
        return await overridden(self.request.body, definition, self.services.config)

    async def answer(self, execution: Execution) -> None:
        job = await self.services.storage.jobs.get(execution.task_id, execution.job_id)
        await self.send_json(build.retried_job(job, execution, self.urls))


class RetryJob(RunHandler):
    """``/tasks/T/jobs/J/retry/``"""

    async def post(self, task_id: str, job_id: str) -> None:
        """A new execution of its last definition. A running execution is stopped first.

        400 when the job has not run yet. The body changes this one execution only; `***` stands for
        the job's value.
        """
        execution = await self.services.lifecycle.retry_job(
            task_id, job_id, change=self.change, request_ip=self.caller.address
        )
        await self.answer(execution)


class RunJob(RunHandler):
    """``/tasks/T/jobs/J/run/``"""

    async def post(self, task_id: str, job_id: str) -> None:
        """A new execution of its definition now, whatever its schedule, beside those that run.

        The body changes this one execution only; `***` stands for the job's value.
        """
        execution = await self.services.lifecycle.run_job(
            task_id, job_id, change=self.change, request_ip=self.caller.address
        )
        await self.answer(execution)


class RerunExecution(RunHandler):
    """``/tasks/T/jobs/J/executions/E/rerun/``"""

    async def post(self, task_id: str, job_id: str, execution_id: str) -> None:
        """A new execution with the definition of this one, beside those that run.

        The body changes the new execution only; `***` stands for the value of this one.
        """
        execution = await self.services.lifecycle.rerun_execution(
            task_id, job_id, execution_id, change=self.change, request_ip=self.caller.address
        )
        await self.answer(execution)


class PauseJob(BaseHandler):
    """``/tasks/T/jobs/J/pause/``"""

    async def post(self, task_id: str, job_id: str) -> None:
        """Holds back the ticks of a scheduled job; 400 for any other. Safe to repeat.

        What is queued or runs, and retries, go ahead. A PUT keeps the pause, a stop ends it.
        """
        job = await self.services.lifecycle.pause_job(task_id, job_id)
        await self.send_json(build.paused_job(job, self.urls))


class ResumeJob(BaseHandler):
    """``/tasks/T/jobs/J/resume/``"""

    async def post(self, task_id: str, job_id: str) -> None:
        """Ends the pause; 400 for a job that is not scheduled. Safe to repeat.

        Ticks that were missed are not made up for, but a `startAt` that has passed runs now.
        """
        job = await self.services.lifecycle.resume_job(task_id, job_id)
        await self.send_json(build.paused_job(job, self.urls))
