"""Tasks and jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from fastlane.api.feed import time_text
from fastlane.api.schemas.channels import keys_of_job
from fastlane.api.schemas.common import (
    Address,
    Answer,
    Command,
    Count,
    Envs,
    ExecutionId,
    ExecutionUrl,
    Image,
    JobId,
    JobReference,
    JobUrl,
    PageKeys,
    TaskId,
    TaskReference,
    TaskUrl,
    Time,
    Urls,
    Uuid,
    extended,
    job_reference,
    number,
    time_or_none,
)
from fastlane.api.schemas.executions import Execution
from fastlane.config import Config
from fastlane.model import Execution as ExecutionRecord
from fastlane.model import Job as JobRecord
from fastlane.model import Overlap, PullPolicy, Task
from fastlane.redact import redact
from fastlane.storage.base import Page


class TaskItem(Answer):
    """A task in a list."""

    taskId: TaskId
    url: TaskUrl
    createdAt: Time
    lastModifiedAt: Time
    jobsCount: Count


class TaskPage(PageKeys):
    """A page of tasks."""

    items: list[TaskItem]


class JobItem(JobReference):
    """A job in a list."""

    createdAt: Time


class TaskDetails(TaskItem, PageKeys):
    """A task with a page of its jobs, newest first."""

    jobs: list[JobItem]


class StoppedJob(Answer):
    """The job that was stopped."""

    taskId: TaskId
    taskUrl: TaskUrl
    jobId: JobId
    jobUrl: JobUrl


class RetriedJob(StoppedJob):
    """The job and its new execution."""

    executionId: ExecutionId
    executionUrl: ExecutionUrl


class Submitted(StoppedJob):
    """What was stored. The execution's id and URL are null when the job is scheduled."""

    queueJobId: Uuid
    executionId: ExecutionId | None
    executionUrl: ExecutionUrl | None


class Backoff(Answer):
    """The delay before retry n is minMs · factorⁿ⁻¹, at most maxMs."""

    minMs: Annotated[float, Field(ge=0, examples=[1000])]
    factor: Annotated[float, Field(ge=1, examples=[2])]
    maxMs: Annotated[float, Field(ge=0, examples=[300000])]


class Resources(Answer):
    """Limits of the container. Null means the farm's limit."""

    cpus: float | None
    memory: int | None
    """Bytes."""
    pids: int | None


class JobMetadata(Answer):
    """The job's definition. Channels add keys."""

    enqueued_id: Uuid
    envs: Envs
    retries: Count
    retry_count: Count
    timeout: Annotated[float, Field(gt=0, examples=[1800])]
    """Seconds."""
    custom: Annotated[Mapping[str, Any], Field(examples=[{"username": "heynemann"}])]
    """The payload's metadata."""
    cron: str | None
    timezone: Annotated[str, Field(examples=["UTC"])]
    startAt: Time | None
    expiration: Time | None
    overlap: Overlap
    backoff: Backoff
    resources: Resources
    pullPolicy: PullPolicy | None
    rerunWhenLost: bool
    additionalDNSEntries: Annotated[dict[str, str], Field(examples=[{"db": "10.0.0.7"}])]


class Job(Answer):
    """What to run and when, with a page of its executions, newest first."""

    id: JobId
    url: JobUrl
    taskId: TaskId
    createdAt: Time
    lastModifiedAt: Time
    image: Image
    command: Command
    scheduled: bool
    nextScheduledAt: Time | None
    stoppedAt: Time | None
    executionCount: Count
    executions: list[Execution]
    requestIPAddress: Address
    metadata: JobMetadata


class JobDetails(PageKeys):
    """A job. The page keys are those of its executions."""

    task: TaskReference
    job: Job


def task_item(task: Task, urls: Urls) -> TaskItem:
    return {
        "createdAt": time_text(task.created_at),
        "jobsCount": task.jobs_count,
        "lastModifiedAt": time_text(task.modified_at),
        "taskId": task.id,
        "url": urls.task(task.id),
    }


def task_page(page: Page[Task], keys: PageKeys, urls: Urls) -> TaskPage:
    return {**keys, "items": [task_item(task, urls) for task in page.items]}


def task_details(task: Task, page: Page[JobRecord], keys: PageKeys, urls: Urls) -> TaskDetails:
    return {**task_item(task, urls), **keys, "jobs": [job_item(job, urls) for job in page.items]}


def job_item(job: JobRecord, urls: Urls) -> JobItem:
    return {**job_reference(job.task_id, job.id, urls), "createdAt": time_text(job.created_at)}


def stopped_job(job: JobRecord, urls: Urls) -> StoppedJob:
    return {
        "jobId": job.id,
        "jobUrl": urls.job(job.task_id, job.id),
        "taskId": job.task_id,
        "taskUrl": urls.task(job.task_id),
    }


def retried_job(job: JobRecord, execution: ExecutionRecord, urls: Urls) -> RetriedJob:
    return {
        **stopped_job(job, urls),
        "executionId": execution.id,
        "executionUrl": urls.execution(execution),
    }


def submitted(job: JobRecord, execution: ExecutionRecord | None, urls: Urls) -> Submitted:
    return {
        **stopped_job(job, urls),
        "queueJobId": job.queue_job_id,
        "executionId": None if execution is None else execution.id,
        "executionUrl": None if execution is None else urls.execution(execution),
    }


def _modified_at(job: JobRecord, last: ExecutionRecord | None) -> float:
    """When the job or its last execution changed last."""
    if last is None:
        return job.modified_at
    return max(job.modified_at, last.started_at or 0.0, last.finished_at or 0.0)


def job_details(
    job: JobRecord,
    executions: list[Execution],
    last: ExecutionRecord | None,
    config: Config,
    urls: Urls,
) -> Job:
    """:param last: the job's newest execution."""
    definition = job.definition
    return {
        "id": job.id,
        "url": urls.job(job.task_id, job.id),
        "taskId": job.task_id,
        "createdAt": time_text(job.created_at),
        "lastModifiedAt": time_text(_modified_at(job, last)),
        "image": definition.image.submitted,
        "command": definition.command.submitted,
        "scheduled": job.scheduled,
        "nextScheduledAt": time_or_none(job.next_run_at),
        "stoppedAt": time_or_none(job.stopped_at),
        "executionCount": job.execution_count,
        "executions": executions,
        "requestIPAddress": job.request_ip,
        "metadata": extended(
            _metadata(job, last, config.env_blacklisted_words), keys_of_job(definition, config)
        ),
    }


def _metadata(job: JobRecord, last: ExecutionRecord | None, words: Sequence[str]) -> JobMetadata:
    definition, schedule = job.definition, job.schedule
    backoff, resources = definition.backoff, definition.resources
    return {
        "enqueued_id": job.queue_job_id,
        "envs": redact(definition.envs, words),
        "retries": definition.retries,
        "retry_count": 0 if last is None else last.attempt,
        "timeout": number(definition.timeout_seconds),
        "custom": definition.custom,
        "cron": schedule.cron,
        "timezone": schedule.timezone,
        "startAt": time_or_none(schedule.start_at),
        "expiration": time_or_none(definition.expires_at),
        "overlap": definition.overlap,
        "backoff": {
            "minMs": number(backoff.min_ms),
            "factor": number(backoff.factor),
            "maxMs": number(backoff.max_ms),
        },
        "resources": {
            "cpus": resources.cpus,
            "memory": resources.memory_bytes,
            "pids": resources.pids,
        },
        "pullPolicy": definition.effective_pull_policy if definition.image.name else None,
        "rerunWhenLost": definition.rerun_when_lost,
        "additionalDNSEntries": dict(definition.dns_entries),
    }
