"""Makes the items of lists over all tasks from records."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from cron_descriptor import ExpressionDescriptor, FormatError, Options

from fastlane.api.schemas import responses
from fastlane.api.schemas.build import job_reference, time_or_none
from fastlane.api.streaming.encoded import time_text
from fastlane.api.urls import Urls, with_query
from fastlane.cron import without_nickname
from fastlane.model import Execution, Job, Status, Task
from fastlane.redact import redactor
from fastlane.storage.base import ListedJob, Listing

# WATCH.md: bounds the error of an item.
ERROR_CHARS = 300


def instant(at: float) -> str:
    """A point in time (unix seconds) as RFC 3339 has it, in UTC."""
    return f"{time_text(at)}Z"


def instant_or_none(at: float | None) -> str | None:
    return None if at is None else instant(at)


def list_keys(
    page: Listing[Any], url: str, per_page: int, query: dict[str, object]
) -> responses.ListKeys:
    """:param url: of the list; *query* is kept in the link."""
    following = with_query(url, {**query, "cursor": page.next_cursor})
    return {
        "nextUrl": None if page.next_cursor is None else following,
        "perPage": per_page,
        "total": page.total,
        "totalIsLowerBound": page.total_is_lower_bound,
    }


def execution_item(
    execution: Execution,
    words: Sequence[str],
    urls: Urls,
    waiting: str | None,
    job_name: str | None,
) -> responses.ExecutionItem:
    """:param words: of the names of secrets.
    :param waiting: why it has not started.
    """
    one, hide = execution, redactor(tuple(words))
    is_waiting = one.status is Status.ENQUEUED
    return {
        "executionId": one.id,
        "url": urls.execution(one),
        "taskId": one.task_id,
        "taskUrl": urls.task(one.task_id),
        "jobId": one.job_id,
        "jobUrl": urls.job(one.task_id, one.job_id),
        "jobName": job_name,
        "number": one.number,
        "attempt": one.attempt,
        "trigger": one.trigger,
        "status": one.status,
        "reason": one.reason,
        "error": hide.text(one.error)[:ERROR_CHARS] if one.error else None,
        "exitCode": one.exit_code,
        "image": one.definition.image.submitted,
        "command": hide.command(one.definition.command.submitted),
        "farm": one.farm,
        "host": one.host,
        "createdAt": instant(one.created_at),
        "queuedAt": instant_or_none(one.queued_at),
        "startedAt": instant_or_none(one.started_at),
        "finishedAt": instant_or_none(one.finished_at),
        "durationSeconds": _duration(one),
        "waiting": waiting,
        "nextAttemptAt": instant_or_none(one.due_at) if is_waiting else None,
    }


def last_execution(one: Execution | None, urls: Urls) -> responses.LastExecution | None:
    if one is None:
        return None
    return {
        "executionId": one.id,
        "url": urls.execution(one),
        "status": one.status,
        "reason": one.reason,
        "exitCode": one.exit_code,
        "createdAt": time_text(one.created_at),
        "finishedAt": time_or_none(one.finished_at),
    }


def job_list_item(
    listed: ListedJob, last: Execution | None, words: Sequence[str], urls: Urls
) -> responses.JobListItem:
    """:param last: its newest execution.
    :param words: of the names of secrets.
    """
    job, hide = listed.job, redactor(tuple(words))
    schedule: responses.CronSchedule | responses.OnceSchedule | None = None
    if job.schedule.cron is not None:
        schedule = {"cron": job.schedule.cron, "timezone": job.schedule.timezone}
    elif job.schedule.start_at is not None:
        schedule = {"startAt": instant(job.schedule.start_at)}
    return {
        "jobId": job.id,
        "name": job.name,
        "url": urls.job(job.task_id, job.id),
        "taskId": job.task_id,
        "taskUrl": urls.task(job.task_id),
        "image": job.definition.image.submitted,
        "command": hide.command(job.definition.command.submitted),
        "schedule": schedule,
        "scheduleText": None if job.schedule.cron is None else in_words(job.schedule.cron),
        "nextScheduledAt": instant_or_none(job.next_run_at),
        "state": listed.state,
        "paused": job.paused,
        "executionCount": job.execution_count,
        "lastExecution": _last_run(last, urls),
    }


@lru_cache(maxsize=4096)
def in_words(cron: str) -> str:
    """A cron expression in English; as it is where there are no words for it."""
    options = Options()
    options.use_24hour_time_format = True
    try:
        return str(ExpressionDescriptor(without_nickname(cron), options).get_description())
    except (FormatError, ValueError, IndexError, KeyError):
        return cron


def _last_run(one: Execution | None, urls: Urls) -> responses.LastRun | None:
    found = last_execution(one, urls)
    if one is None or found is None:
        return None
    return {
        **found,
        "createdAt": instant(one.created_at),
        "finishedAt": instant_or_none(one.finished_at),
    }


def task_item(task: Task, last: Execution | None, urls: Urls) -> responses.TaskItem:
    """:param last: its newest execution."""
    return {
        "createdAt": time_text(task.created_at),
        "jobsCount": task.jobs_count,
        "lastExecution": last_execution(last, urls),
        "lastModifiedAt": time_text(task.modified_at),
        "taskId": task.id,
        "url": urls.task(task.id),
    }


def job_item(job: Job, last: Execution | None, urls: Urls) -> responses.JobItem:
    """:param last: its newest execution."""
    return {
        **job_reference(job.task_id, job.id, urls),
        "createdAt": time_text(job.created_at),
        "lastExecution": last_execution(last, urls),
    }


def _duration(one: Execution) -> float | None:
    if one.started_at is None or one.finished_at is None:
        return None
    return round(one.finished_at - one.started_at, 6)
