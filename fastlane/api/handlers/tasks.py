"""Tasks: the list, the search, one of them, and a new job in one."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import replace

from fastlane import policy
from fastlane.api import parameters
from fastlane.api.base import BaseHandler
from fastlane.api.ends import Wait, requested_wait
from fastlane.api.forced import is_forced
from fastlane.api.handlers.executions import read_details
from fastlane.api.lookup import check_task_id, stored_masks
from fastlane.api.paging import requested_page
from fastlane.api.parameters import Parameter
from fastlane.api.problems import Problem
from fastlane.api.schemas import build, listed, responses
from fastlane.api.schemas.payload import take_submission
from fastlane.api.schemas.planned import dry_run
from fastlane.errors import NotFound, StorageUnavailable
from fastlane.model import Task as TaskRecord
from fastlane.storage.base import IdempotencyKey, Page
from fastlane.trace_context import MAX_CHARS, parent_of

TASKS_PER_PAGE = 10
JOBS_PER_PAGE = 100
# Bounds what is kept of a submitter's key.
IDEMPOTENCY_KEY_MAX_CHARS = 255
# How many runs a dry run foresees at most.
NEXT_RUNS = 5
# Bounds the text that is split into words and looked up.
QUERY_MAX_CHARS = 1000

QUERY = Parameter(
    "query",
    "Words to look for.",
    {"type": "string", "maxLength": QUERY_MAX_CHARS},
    required=True,
    example="hello world",
)
IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    "Your name for this request. A repeat is answered with the first answer.",
    {"type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_MAX_CHARS},
    "header",
)
TRACEPARENT = Parameter(
    "traceparent",
    "The span that submits the job (W3C Trace Context): the parent of the spans of its executions.",
    {"type": "string", "maxLength": MAX_CHARS},
    "header",
    example="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)
FROM = Parameter(
    "from",
    "A job of this task. `***` in the body stands for the value that it has there.",
    {"type": "string"},
    example="5a023792-1445-44e9-8a8b-cfe5ad05d1c6",
)
DRY_RUN = parameters.choice("dryRun", "Store nothing.", "false", "true")


async def task_page(
    handler: BaseHandler, page: Page[TaskRecord], keys: responses.PageKeys
) -> responses.TaskPage:
    """What *handler* answers for *page*."""
    last = await handler.services.storage.lists.last_of_tasks([task.id for task in page.items])
    items = [listed.task_item(task, last.get(task.id), handler.urls) for task in page.items]
    return {**keys, "items": items}


async def load_task(handler: BaseHandler, task_id: str) -> responses.TaskDetails:
    """The task with the page of its jobs that the query of *handler* asks for."""
    request, urls = requested_page(handler, JOBS_PER_PAGE), handler.urls
    storage = handler.services.storage
    task = await storage.tasks.get(task_id)
    page = await storage.jobs.of_task(task_id, request)
    keys = build.page_keys(page, request, urls.task(task_id), per_page=JOBS_PER_PAGE)
    last = await storage.lists.last_of_tasks([task_id])
    last_of_jobs = await storage.lists.last_of_jobs([job.id for job in page.items])
    return {
        **listed.task_item(task, last.get(task_id), urls),
        **keys,
        "jobs": [listed.job_item(job, last_of_jobs.get(job.id), urls) for job in page.items],
    }


class Tasks(BaseHandler):
    """``/tasks/``"""

    async def get(self) -> None:
        """A page of the tasks, oldest first."""
        request = requested_page(self, TASKS_PER_PAGE)
        page = await self.services.storage.tasks.page(request)
        keys = build.page_keys(page, request, self.urls.tasks(), per_page=TASKS_PER_PAGE)
        await self.send_json(await task_page(self, page, keys))


class Search(BaseHandler):
    """``/search/?query=``"""

    async def get(self) -> None:
        """Tasks whose id contains any of the words of `query`, best match first.

        Only whole words match, ignoring case; words are split at everything but letters and digits.
        """
        query = QUERY.text(self) or ""
        if len(query) > QUERY_MAX_CHARS:
            raise Problem(
                400, f"query has {len(query)} characters; the maximum is {QUERY_MAX_CHARS}."
            )
        request = requested_page(self, TASKS_PER_PAGE)
        page = await self.services.storage.tasks.search(query, request)
        keys = build.page_keys(
            page, request, self.urls.search(), per_page=TASKS_PER_PAGE, query=query
        )
        await self.send_json(await task_page(self, page, keys))


class Task(BaseHandler):
    """``/tasks/T/``"""

    async def get(self, task_id: str) -> None:
        """The task with a page of its jobs, newest first."""
        await self.send_json(await load_task(self, task_id))

    async def post(self, task_id: str) -> None:
        """Stores a job and, unless it is scheduled, its first execution.

        A 2xx response means the data is on disk. The id and the URL of the execution are null when
        the job is scheduled. With `wait` it is answered once the execution and its retries have
        ended; 202 when they have not in time. The job runs on even if you hang up. With
        `dryRun=true` nothing is stored: the answer is what would be, and when it would run.
        """
        await check_task_id(self.services.storage, task_id)
        key = self._idempotency_key()
        wait = requested_wait(self)
        if not self.request.body:
            raise Problem(
                400,
                "The request body is empty; send a JSON object with image and command. "
                "To see the task's jobs, send GET.",
            )
        masks = None
        if (model := FROM.text(self)) is not None:
            words = self.services.config.env_blacklisted_words
            masks = await stored_masks(self.services.storage, words, task_id, model)
        definition, schedule = await take_submission(
            self.request.body, self.services.config, self.services.clock(), masks
        )
        traceparent = self.request.headers.get("traceparent")
        if schedule.cron is None and parent_of(traceparent) is not None:
            definition = replace(definition, traceparent=traceparent)
        if DRY_RUN.choice(self) == "true":
            job, _ = self.services.lifecycle.planned(task_id, "", definition, schedule)
            runs = policy.next_runs(schedule, job.created_at, NEXT_RUNS)
            await self.send_json(dry_run(job, runs, self.services.config, self.urls))
            return
        submitted = await self.services.lifecycle.submit(
            task_id=task_id,
            job_id=None,
            definition=definition,
            schedule=schedule,
            request_ip=self.caller.address,
            idempotency=key,
            at_once=wait is not None and not wait.is_preference,
        )
        if submitted.repeated:
            self.set_header("Idempotent-Replayed", "true")
        answer = build.submitted(submitted.job, submitted.execution, self.urls)
        # Not kept during a wait.
        del definition, schedule, submitted
        await self._send(answer, wait)

    async def delete(self, task_id: str) -> None:
        """Deletes the task with its jobs; as DELETE of a job.

        A job that is submitted meanwhile may stay, and the task with it.
        """
        await self.services.lifecycle.delete_task(task_id, force=is_forced(self))
        self.send_nothing()

    async def _send(self, answer: responses.Submitted, wait: Wait | None) -> None:
        """Send *answer* when its execution has ended; 202 if it has not in time."""
        execution_id, status = answer["executionId"], 200
        if wait is not None and execution_id is not None:
            status = 202
            # The job is stored, so whatever goes wrong from here on, it was accepted.
            with suppress(NotFound, StorageUnavailable, Problem):
                execution = await self.end_of(execution_id, wait, retries=True)
                if execution.final:
                    (answer["execution"],) = await read_details(self, [execution])
                    status = 200
        await self.send_json(answer, status=status)

    def _idempotency_key(self) -> IdempotencyKey | None:
        key = self.request.headers.get("Idempotency-Key")
        if key is None:
            return None
        if not 1 <= len(key) <= IDEMPOTENCY_KEY_MAX_CHARS:
            raise Problem(
                400,
                f"Idempotency-Key has {len(key)} characters; "
                f"it must have 1 to {IDEMPOTENCY_KEY_MAX_CHARS}.",
            )
        asked = self.request.body
        if (model := FROM.text(self)) is not None:
            asked += f"\0from={model}".encode()
        return IdempotencyKey(key, hashlib.sha256(asked).hexdigest())
