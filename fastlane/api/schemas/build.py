"""Makes answers from records. mypy holds each function against the answer that it makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from fastlane.api.problems import Problem
from fastlane.api.schemas import responses
from fastlane.api.streaming.encoded import time_text
from fastlane.api.urls import Urls, with_query
from fastlane.config import Config
from fastlane.hosts import Hosts
from fastlane.model import ATTEMPTS_KEPT, Definition, Delivery, Execution, Farm, Job, Reason
from fastlane.notifications.registry import channels
from fastlane.redact import redactor
from fastlane.storage.base import Overview, Page, PageRequest
from fastlane.storage.values import ActiveRun

T = TypeVar("T")


def page_keys(
    page: Page[Any], request: PageRequest, url: str, *, per_page: int, **query: object
) -> responses.PageKeys:
    """:param url: of the listing; *query* is kept in the links."""

    def link(number: int, after: str | None = None) -> str:
        size = None if request.size == per_page else request.size
        return with_query(url, {**query, "page": number, "perPage": size, "after": after})

    pages = -(-page.total // request.size)
    has_next = page.next_cursor is not None
    has_prev = request.number > 1 and page.total > 0
    return {
        "hasNext": has_next,
        "hasPrev": has_prev,
        "nextUrl": link(request.number + 1, page.next_cursor) if has_next else None,
        "page": request.number,
        "pages": pages,
        "perPage": request.size,
        "prevUrl": link(min(request.number - 1, pages)) if has_prev else None,
        "total": page.total,
    }


def extended(answer: T, keys: Mapping[str, Any]) -> T:
    """*answer* with *keys* that its type does not know, such as those of a plug-in."""
    cast(dict[str, Any], answer).update(keys)
    return answer


def task_reference(task_id: str, urls: Urls) -> responses.TaskReference:
    return {"id": task_id, "url": urls.task(task_id)}


def job_reference(task_id: str, job_id: str, urls: Urls) -> responses.JobReference:
    return {"id": job_id, "url": urls.job(task_id, job_id)}


def time_or_none(at: float | None) -> str | None:
    return None if at is None else time_text(at)


def number(value: float) -> int | float:
    """*value* as the reference writes numbers: whole ones without a fraction."""
    return int(value) if value == int(value) else value


@lru_cache(maxsize=1024)
def host_and_port(host: str) -> tuple[str, int | None]:
    """The two parts of a host as the reference shows them; a socket has no port."""
    if host.startswith("unix://"):
        return host, None
    parts = urlsplit(host if "://" in host else f"//{host}")
    return parts.hostname or host, parts.port


def keys_of_job(definition: Definition, config: Config) -> dict[str, Any]:
    """What each channel shows of a job."""
    wanted = {one.channel: one for one in definition.subscriptions}
    words = config.env_blacklisted_words
    found: dict[str, Any] = {}
    for channel in channels():
        found[channel.key] = wanted.get(channel.name, channel.payload()).shown(words)
        if channel.error_key is not None:
            found[channel.error_key] = channel.error(config) if channel.name in wanted else None
    return found


def keys_of_execution(deliveries: Sequence[Delivery]) -> dict[str, list[responses.Dispatch]]:
    """The last attempts of each channel that shows them."""
    return {
        channel.dispatch_key: last_attempts(
            [one for one in deliveries if one.channel == channel.name]
        )
        for channel in channels()
        if channel.dispatch_key is not None
    }


def keys_of_queues(overview: Overview) -> dict[str, responses.Queue]:
    """How many notifications wait in each channel."""
    return {
        channel.key: {"length": overview.pending.get(channel.name, 0)} for channel in channels()
    }


def added_keys() -> Mapping[str, Mapping[str, Any]]:
    """The types of the keys above, by the name of the answer to which they are added."""
    payloads = {channel.key: channel.payload for channel in channels()}
    errors = dict.fromkeys(
        (one.error_key for one in channels() if one.error_key), responses.NotSent
    )
    return {
        "JobMetadata": {**payloads, **errors},
        "ExecutionMetadata": dict.fromkeys(keys_of_execution(()), responses.Dispatches),
        "Queues": {channel.key: responses.Queue for channel in channels()},
    }


def last_attempts(deliveries: Sequence[Delivery]) -> list[responses.Dispatch]:
    """The last few attempts of all *deliveries* together, oldest first."""
    if not deliveries:
        return []
    tried = [(attempt, one) for one in deliveries for attempt in one.history]
    tried.sort(key=lambda pair: pair[0].at)
    return [
        {
            "time": time_text(attempt.at),
            "event": one.event,
            "status": attempt.status,
            "error": attempt.error,
            "duration": round(attempt.duration_seconds, 6),
            "notificationId": one.id,
        }
        for attempt, one in tried[-ATTEMPTS_KEPT:]
    ]


@dataclass(frozen=True, slots=True)
class Output:
    """The end of an execution's two streams, and whether there is more before it."""

    stdout: str = ""
    stderr: str = ""
    stdout_cut: bool = False
    stderr_cut: bool = False


# What is shown for an execution that ended before anything ran.
_ENDED: Mapping[Reason | None, str] = {
    Reason.STOPPED: "The execution was stopped on request.",
    Reason.EXPIRED: "The execution expired before it could start.",
}


def execution_details(
    execution: Execution,
    output: Output,
    words: Sequence[str],
    urls: Urls,
    deliveries: Sequence[Delivery] = (),
    waiting: str | None = None,
) -> responses.Execution:
    """Build the answer.

    :param deliveries: those of the execution; their last attempts are shown.
    :param waiting: why it does not run yet.
    """
    definition, hide = execution.definition, redactor(tuple(words))
    return {
        "executionId": execution.id,
        "url": urls.execution(execution),
        "createdAt": time_text(execution.created_at),
        "startedAt": time_or_none(execution.started_at),
        "finishedAt": time_or_none(execution.finished_at),
        "status": execution.status,
        "reason": execution.reason,
        "exitCode": execution.exit_code,
        "image": definition.image.submitted,
        "command": hide.command(definition.command.submitted),
        "log": output.stdout,
        "logTruncated": output.stdout_cut,
        "error": output.stderr
        or hide.text(execution.error or "")
        or _ENDED.get(execution.reason, ""),
        "errorTruncated": output.stderr_cut,
        "requestIPAddress": execution.request_ip,
        "metadata": extended(
            _execution_metadata(execution, words, waiting), keys_of_execution(deliveries)
        ),
    }


def _execution_metadata(
    execution: Execution, words: Sequence[str], waiting: str | None
) -> responses.ExecutionMetadata:
    hide = redactor(tuple(words))
    host, port = host_and_port(execution.host) if execution.host else (None, None)
    return {
        "container_id": execution.run_id,
        "docker_host": host,
        "docker_port": port,
        "envs": hide.mapping(execution.definition.envs),
        "attempt": execution.attempt,
        "retries": execution.definition.retries,
        "farm": execution.farm,
        "scheduledFor": time_or_none(execution.tick),
        "lateSeconds": execution.late_seconds,
        "dueAt": time_or_none(execution.due_at),
        "message": hide.text(execution.error) if execution.error else execution.error,
        "waiting": waiting,
    }


def following_retry(retry: Execution, urls: Urls) -> responses.FollowingRetry:
    return {
        "executionId": retry.id,
        "url": urls.execution(retry),
        "attempt": retry.attempt,
        "dueAt": time_or_none(retry.due_at),
    }


def stopped_execution(execution: Execution, urls: Urls) -> responses.StoppedExecution:
    return {
        "execution": {"id": execution.id, "url": urls.execution(execution)},
        "job": job_reference(execution.task_id, execution.job_id, urls),
        "task": task_reference(execution.task_id, urls),
    }


def report(
    execution: Execution, output: Output, words: Sequence[str], urls: Urls
) -> dict[str, Any]:
    """One execution as notifications describe it."""
    details = execution_details(execution, output, words, urls)
    # Without the keys of channels: a receiver must not learn about the others.
    metadata = {
        **_execution_metadata(execution, words, None),
        "custom": execution.definition.custom,
    }
    return {
        **details,
        "jobId": execution.job_id,
        "jobUrl": urls.job(execution.task_id, execution.job_id),
        "taskId": execution.task_id,
        "taskUrl": urls.task(execution.task_id),
        "metadata": metadata,
    }


def stopped_job(job: Job, urls: Urls) -> responses.StoppedJob:
    return {
        "jobId": job.id,
        "jobUrl": urls.job(job.task_id, job.id),
        "taskId": job.task_id,
        "taskUrl": urls.task(job.task_id),
    }


def retried_job(job: Job, execution: Execution, urls: Urls) -> responses.RetriedJob:
    return {
        **stopped_job(job, urls),
        "executionId": execution.id,
        "executionUrl": urls.execution(execution),
    }


def paused_job(job: Job, urls: Urls) -> responses.PausedJob:
    return {
        **stopped_job(job, urls),
        "paused": job.paused,
        "nextScheduledAt": time_or_none(job.next_run_at),
    }


def submitted(job: Job, execution: Execution | None, urls: Urls) -> responses.Submitted:
    return {
        # Mypy fears that they might hold the key that is not required.
        **stopped_job(job, urls),  # type: ignore[typeddict-item]
        "queueJobId": job.queue_job_id,
        "executionId": None if execution is None else execution.id,
        "executionUrl": None if execution is None else urls.execution(execution),
    }


def _modified_at(job: Job, last: Execution | None) -> float:
    """When the job or its last execution changed last."""
    if last is None:
        return job.modified_at
    return max(job.modified_at, last.started_at or 0.0, last.finished_at or 0.0)


def job_details(
    job: Job,
    executions: list[responses.Execution],
    last: Execution | None,
    config: Config,
    urls: Urls,
) -> responses.Job:
    """:param last: the job's newest execution."""
    definition, hide = job.definition, redactor(tuple(config.env_blacklisted_words))
    return {
        "id": job.id,
        "name": job.name,
        "url": urls.job(job.task_id, job.id),
        "taskId": job.task_id,
        "createdAt": time_text(job.created_at),
        "lastModifiedAt": time_text(_modified_at(job, last)),
        "image": definition.image.submitted,
        "command": hide.command(definition.command.submitted),
        "scheduled": job.scheduled,
        "nextScheduledAt": time_or_none(job.next_run_at),
        "stoppedAt": time_or_none(job.stopped_at),
        "paused": job.paused,
        "executionCount": job.execution_count,
        "skippedTicks": job.skipped_ticks,
        "lastSkippedTick": time_or_none(job.last_skipped_tick),
        "executions": executions,
        "requestIPAddress": job.request_ip,
        "metadata": extended(
            job_metadata(job, last, config.env_blacklisted_words), keys_of_job(definition, config)
        ),
    }


def job_metadata(job: Job, last: Execution | None, words: Sequence[str]) -> responses.JobMetadata:
    definition, schedule, hide = job.definition, job.schedule, redactor(tuple(words))
    backoff, resources = definition.backoff, definition.resources
    return {
        "enqueued_id": job.queue_job_id,
        "envs": hide.mapping(definition.envs),
        "retries": definition.retries,
        "retry_count": 0 if last is None else last.attempt,
        "timeout": number(definition.timeout_seconds),
        "custom": hide.value(definition.custom),
        "cron": schedule.cron,
        "timezone": schedule.timezone,
        "startAt": time_or_none(schedule.start_at),
        "expiration": time_or_none(definition.expires_at),
        "overlap": definition.overlap,
        "maxWaiting": definition.max_waiting,
        "backoff": {
            "minMs": number(backoff.min_ms),
            "factor": number(backoff.factor),
            "maxMs": number(backoff.max_ms),
        },
        "resources": {
            "cpus": resources.cpus,
            "memory": resources.memory_bytes,
            "pids": resources.pids,
            "disk": resources.disk_bytes,
        },
        "pullPolicy": definition.effective_pull_policy if definition.image.name else None,
        "rerunWhenLost": definition.rerun_when_lost,
        "additionalDNSEntries": dict(definition.dns_entries),
    }


def shown_target(delivery: Delivery) -> str:
    """The address of *delivery*, as its channel shows it."""
    hide = next((one.shown_target for one in channels() if one.name == delivery.channel), str)
    return hide(delivery.target)


def notification(delivery: Delivery, urls: Urls) -> responses.Notification:
    execution_url = urls.execution_of(delivery.task_id, delivery.job_id, delivery.execution_id)
    return {
        "id": delivery.id,
        "channel": delivery.channel,
        "event": delivery.event,
        "target": shown_target(delivery),
        "state": delivery.state,
        "createdAt": time_text(delivery.created_at),
        "dueAt": time_or_none(delivery.due_at),
        "attempts": delivery.attempts,
        "dispatch": last_attempts([delivery]),
        "requeueUrl": f"{urls.notifications()}{delivery.id}/requeue/",
        "execution": {"id": delivery.execution_id, "url": execution_url},
        "job": job_reference(delivery.task_id, delivery.job_id, urls),
        "task": task_reference(delivery.task_id, urls),
    }


def running_container(run: ActiveRun, urls: Urls) -> responses.RunningContainer:
    host, port = host_and_port(run.host)
    return {
        "host": host,
        "port": port,
        "id": run.run_id,
        "task": run.task_id,
        "status": run.status,
        "startedAt": time_or_none(run.started_at),
        "executionId": run.id,
        "executionUrl": urls.execution_of(run.task_id, run.job_id, run.id),
    }


def job_counts(overview: Overview, scheduled: Sequence[Job], urls: Urls) -> responses.JobCounts:
    return {
        "count": overview.jobs,
        "scheduled": [_scheduled_job(job, urls) for job in scheduled],
        "scheduledCount": overview.scheduled,
    }


def _scheduled_job(job: Job, urls: Urls) -> responses.ScheduledJob:
    url = urls.job(job.task_id, job.id)
    return {
        "id": job.id,
        "nextScheduledAt": time_or_none(job.next_run_at),
        "url": url,
        "stopUrl": f"{url}stop/",
        "task": task_reference(job.task_id, urls),
    }


def queues(overview: Overview) -> responses.Queues:
    found: responses.Queues = {
        "jobs": {"length": overview.queued},
        "monitor": {"length": overview.active},
        "scheduled": {"length": overview.scheduled + overview.delayed},
        "error": {"length": overview.undelivered},
    }
    return extended(found, keys_of_queues(overview))


def farm_status(farm: Farm, hosts: Hosts, running: int) -> responses.FarmStatus:
    return {
        "name": farm.name,
        "match": farm.match,
        "running": running,
        "maxRunning": farm.max_running,
        "blocked": hosts.blocked(farm.hosts),
    }


def host_status(name: str, hosts: Hosts, running: int, farm: Farm) -> responses.Host:
    host, port = host_and_port(name)
    record = hosts.record(name)
    return {
        "host": host,
        "port": port,
        "farm": farm.name,
        "available": bool(hosts.available([name])),
        "blacklisted": record.blacklisted,
        "circuit": hosts.circuit(name),
        "error": record.error,
        "running": running,
        "maxRunning": farm.max_running,
    }


def problem_details(problem: Problem, request_id: str) -> responses.PayloadProblem:
    """The members of RFC 9457, section 3.1, and ours: ``requestId`` and ``errors``."""
    try:
        title = HTTPStatus(problem.status).phrase
    except ValueError:
        title = "Error"
    body: responses.PayloadProblem = {
        "type": "about:blank",
        "title": title,
        "status": problem.status,
        "detail": problem.detail if problem.detail.endswith((".", "?")) else f"{problem.detail}.",
        "requestId": request_id,
    }
    if problem.faults:
        body["errors"] = [
            {"pointer": fault.pointer, "message": fault.message} for fault in problem.faults
        ]
    return body
