"""Jobs: one of them with its executions, its replacement, its stop and its retry."""

from __future__ import annotations

from functools import partial

from fastlane.api import large
from fastlane.api.base import BaseHandler
from fastlane.api.ends import Wait, requested_wait
from fastlane.api.forced import is_forced
from fastlane.api.handlers.executions import read_details
from fastlane.api.lookup import check_job_id, check_job_name, check_task_id, stored_masks
from fastlane.api.names import uuid_of
from fastlane.api.paging import requested_page
from fastlane.api.problems import Problem
from fastlane.api.schemas import build, responses
from fastlane.api.schemas.payload import take_submission

EXECUTIONS_PER_PAGE = 20


class Job(BaseHandler):
    """``/tasks/T/jobs/J/``"""

    async def get(self, task_id: str, job_id: str) -> None:
        """The job with a page of its executions, newest first.

        With `wait` it is answered once its last execution and the retries have ended; 202 when
        they have not in time. 400 when the job is scheduled.
        """
        request = requested_page(self, EXECUTIONS_PER_PAGE)
        wait = requested_wait(self)
        storage = self.services.storage
        status = 200 if wait is None else await self._end_of_last(task_id, job_id, wait)
        job = await storage.jobs.get(task_id, job_id)
        # Each execution has a definition; usually it is the job's.
        definition = job.definition
        size = large.size([definition.envs, definition.command.argv])
        await self.room(request.size * size)
        page = await storage.executions.of_job(job.id, request)
        last = await storage.executions.last_of_job(job.id)
        keys = build.page_keys(
            page, request, self.urls.job(task_id, job_id), per_page=EXECUTIONS_PER_PAGE
        )
        executions = await read_details(self, page.items)
        details = await large.off_the_loop(
            size + large.size(definition.custom),
            partial(build.job_details, job, executions, last, self.services.config, self.urls),
        )
        found: responses.JobDetails = {
            "task": build.task_reference(task_id, self.urls),
            "job": details,
            **keys,
        }
        await self.send_json(found, status=status)

    async def _end_of_last(self, task_id: str, job_id: str, wait: Wait) -> int:
        """Wait for the end of the job's last execution; the status of the answer."""
        storage = self.services.storage
        job = await storage.jobs.get(task_id, job_id)
        last = await storage.executions.last_of_job(job_id)
        scheduled = job.scheduled or job.paused
        if scheduled or last is None:
            if wait.is_preference:
                return 200
            why = "is scheduled" if scheduled else "has no execution"
            raise Problem(400, f'Job "{job_id}" {why}; wait for one of its executions.')
        execution_id = last.id
        # Not kept during a wait: their definitions may be large.
        del job, last
        return 200 if (await self.end_of(execution_id, wait, retries=True)).final else 202

    async def put(self, task_id: str, job_id: str) -> None:
        """Creates the job with this id, a UUID4, or replaces its definition and schedule.

        In place of the id, `job` may be a name, unique in the task: `a-z`, `0-9`, `.`, `_` and `-`,
        at most 100, not spelling a UUID. The job gets an id of its own, which all answers and URLs
        show; all other routes of the task accept either.

        It is then enqueued as a new job. A 2xx response means the data is on disk. The id and the
        URL of the execution are null when the job is scheduled. The value `***`, where answers
        hide a secret, keeps the stored value.
        """
        storage, config = self.services.storage, self.services.config
        name = check_job_name(job_id) if uuid_of(job_id) is None else None
        await check_task_id(storage, task_id)
        definition, schedule = await take_submission(
            self.request.body,
            config,
            self.services.clock(),
            await stored_masks(storage, config.env_blacklisted_words, task_id, job_id, new=True),
        )
        submitted = await self.services.lifecycle.submit(
            task_id=task_id,
            job_id=None if name else check_job_id(job_id),
            name=name,
            definition=definition,
            schedule=schedule,
            request_ip=self.caller.address,
        )
        await self.send_json(build.submitted(submitted.job, submitted.execution, self.urls))

    async def delete(self, task_id: str, job_id: str) -> None:
        """Deletes the job with its executions, and ends its schedule. A repeat is a 404.

        409 while an execution is not final, unless `force=true`, which stops it. 204 once it is on
        disk that they are deleted: they are no longer shown, and are removed in the background,
        after the notifications that are pending. The id can be used again.
        """
        await self.services.lifecycle.delete_job(task_id, job_id, force=is_forced(self))
        self.send_nothing()


class StopJob(BaseHandler):
    """``/tasks/T/jobs/J/stop/``"""

    async def post(self, task_id: str, job_id: str) -> None:
        """Stops its last execution, its schedule and its retries. Safe to repeat."""
        job = await self.services.lifecycle.stop_job(task_id, job_id)
        await self.send_json(build.stopped_job(job, self.urls))
