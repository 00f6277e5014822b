"""What answers look like: from records to the objects of the API reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from fastlane.api.feed import time_text
from fastlane.config import Config
from fastlane.hosts import Hosts
from fastlane.model import (
    ATTEMPTS_KEPT,
    Definition,
    Delivery,
    Execution,
    Farm,
    Job,
    Reason,
    Task,
)
from fastlane.notifications.registry import channels
from fastlane.redact import redact


@dataclass(frozen=True, slots=True)
class Urls:
    """Absolute URLs below the one under which a client knows us."""

    base: str
    """``https://host:port``, without a slash at its end."""

    def tasks(self, **query: object) -> str:
        return self._with_query(f"{self.base}/tasks/", query)

    def search(self, **query: object) -> str:
        return self._with_query(f"{self.base}/search/", query)

    def task(self, task_id: str, **query: object) -> str:
        return self._with_query(f"{self.base}/tasks/{quote(task_id, safe='')}/", query)

    def job(self, task_id: str, job_id: str, **query: object) -> str:
        return self._with_query(f"{self.task(task_id)}jobs/{job_id}/", query)

    def execution(self, execution: Execution) -> str:
        return self.execution_of(execution.task_id, execution.job_id, execution.id)

    def execution_of(self, task_id: str, job_id: str, execution_id: str) -> str:
        return f"{self.job(task_id, job_id)}executions/{execution_id}/"

    def notifications(self, **query: object) -> str:
        return self._with_query(f"{self.base}/notifications/", query)

    @staticmethod
    def _with_query(url: str, query: Mapping[str, object]) -> str:
        pairs = [
            f"{name}={quote(str(value), safe='')}"
            for name, value in query.items()
            if value is not None
        ]
        return f"{url}?{'&'.join(pairs)}" if pairs else url


@dataclass(frozen=True, slots=True)
class Output:
    """The last bytes of an execution's two streams, and whether there are more before them."""

    stdout: bytes = b""
    stderr: bytes = b""
    stdout_cut: bool = False
    stderr_cut: bool = False


def time_or_none(at: float | None) -> str | None:
    return None if at is None else time_text(at)


def number(value: float) -> int | float:
    """*value* as the reference writes numbers: whole ones without a fraction."""
    return int(value) if value == int(value) else value


def task_item(task: Task, urls: Urls) -> dict[str, Any]:
    return {
        "createdAt": time_text(task.created_at),
        "jobsCount": task.jobs_count,
        "lastModifiedAt": time_text(task.modified_at),
        "taskId": task.id,
        "url": urls.task(task.id),
    }


def job_item(job: Job, urls: Urls) -> dict[str, Any]:
    return {
        "id": job.id,
        "url": urls.job(job.task_id, job.id),
        "createdAt": time_text(job.created_at),
    }


def task_reference(task_id: str, urls: Urls) -> dict[str, Any]:
    return {"id": task_id, "url": urls.task(task_id)}


def job_reference(task_id: str, job_id: str, urls: Urls) -> dict[str, Any]:
    return {"id": job_id, "url": urls.job(task_id, job_id)}


def submitted(job: Job, execution: Execution | None, urls: Urls) -> dict[str, Any]:
    return {
        "taskId": job.task_id,
        "taskUrl": urls.task(job.task_id),
        "jobId": job.id,
        "jobUrl": urls.job(job.task_id, job.id),
        "queueJobId": job.queue_job_id,
        "executionId": None if execution is None else execution.id,
        "executionUrl": None if execution is None else urls.execution(execution),
    }


def stopped_job(job: Job, urls: Urls) -> dict[str, Any]:
    return {
        "jobId": job.id,
        "jobUrl": urls.job(job.task_id, job.id),
        "taskId": job.task_id,
        "taskUrl": urls.task(job.task_id),
    }


def stopped_execution(execution: Execution, urls: Urls) -> dict[str, Any]:
    return {
        "execution": {"id": execution.id, "url": urls.execution(execution)},
        "job": job_reference(execution.task_id, execution.job_id, urls),
        "task": task_reference(execution.task_id, urls),
    }


def _modified_at(job: Job, last: Execution | None) -> float:
    """When the job or its last execution changed last."""
    if last is None:
        return job.modified_at
    return max(job.modified_at, last.started_at or 0.0, last.finished_at or 0.0)


def job_details(
    job: Job,
    executions: Sequence[Mapping[str, Any]],
    last: Execution | None,
    config: Config,
    urls: Urls,
) -> dict[str, Any]:
    """*last* is the job's newest execution."""
    definition = job.definition
    backoff = definition.backoff
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
        "metadata": {
            "enqueued_id": job.queue_job_id,
            "envs": redact(definition.envs, config.env_blacklisted_words),
            "retries": definition.retries,
            "retry_count": 0 if last is None else last.attempt,
            "timeout": number(definition.timeout_seconds),
            **_subscribed(definition, config),
            "custom": definition.custom,
            "cron": job.schedule.cron,
            "timezone": job.schedule.timezone,
            "startAt": time_or_none(job.schedule.start_at),
            "expiration": time_or_none(definition.expires_at),
            "overlap": definition.overlap,
            "backoff": {
                "minMs": number(backoff.min_ms),
                "factor": number(backoff.factor),
                "maxMs": number(backoff.max_ms),
            },
            "resources": {
                "cpus": definition.resources.cpus,
                "memory": definition.resources.memory_bytes,
                "pids": definition.resources.pids,
            },
            "pullPolicy": definition.effective_pull_policy if definition.image.name else None,
            "rerunWhenLost": definition.rerun_when_lost,
            "additionalDNSEntries": dict(definition.dns_entries),
        },
    }


def _subscribed(definition: Definition, config: Config) -> dict[str, Any]:
    """What each notification channel says of a job."""
    wanted = {one.channel: one for one in definition.subscriptions}
    found: dict[str, Any] = {}
    for channel in channels():
        found |= channel.metadata(wanted.get(channel.name), config)
    return found


# What an execution says of its end that never had an owner to say it.
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
) -> dict[str, Any]:
    """One execution as it stands in a job and on a page of its own.

    *deliveries*: those of the execution, of which the last attempts are shown.
    *waiting*: why it does not run yet.
    """
    error = output.stderr.decode("utf-8", "replace")
    host, port = host_and_port(execution.host) if execution.host else (None, None)
    return {
        "executionId": execution.id,
        "url": urls.execution(execution),
        "createdAt": time_text(execution.created_at),
        "startedAt": time_or_none(execution.started_at),
        "finishedAt": time_or_none(execution.finished_at),
        "status": execution.status,
        "reason": execution.reason,
        "exitCode": execution.exit_code,
        "image": execution.definition.image.submitted,
        "command": execution.definition.command.submitted,
        "log": output.stdout.decode("utf-8", "replace"),
        "logTruncated": output.stdout_cut,
        "error": error or execution.error or _ENDED.get(execution.reason, ""),
        "errorTruncated": output.stderr_cut,
        "requestIPAddress": execution.request_ip,
        "metadata": {
            "container_id": execution.run_id,
            "docker_host": host,
            "docker_port": port,
            "envs": redact(execution.definition.envs, words),
            "attempt": execution.attempt,
            "retries": execution.definition.retries,
            "farm": execution.farm,
            "scheduledFor": time_or_none(execution.tick),
            "lateSeconds": execution.late_seconds,
            "dueAt": time_or_none(execution.due_at),
            "message": execution.error,
            "waiting": waiting,
            **dispatches(deliveries),
        },
    }


def dispatches(deliveries: Sequence[Delivery]) -> dict[str, Any]:
    """The last attempts of each channel that shows them."""
    return {
        channel.dispatch_key: _last_attempts(
            [one for one in deliveries if one.channel == channel.name]
        )
        for channel in channels()
        if channel.dispatch_key is not None
    }


def _last_attempts(deliveries: Sequence[Delivery]) -> list[dict[str, Any]]:
    """The last few attempts of all *deliveries* together, oldest first."""
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


def notification(delivery: Delivery, urls: Urls) -> dict[str, Any]:
    """One delivery in the list of notifications."""
    execution_url = urls.execution_of(delivery.task_id, delivery.job_id, delivery.execution_id)
    return {
        "id": delivery.id,
        "channel": delivery.channel,
        "event": delivery.event,
        "target": delivery.target,
        "state": delivery.state,
        "createdAt": time_text(delivery.created_at),
        "dueAt": time_or_none(delivery.due_at),
        "attempts": delivery.attempts,
        "dispatch": _last_attempts([delivery]),
        "requeueUrl": f"{urls.notifications()}{delivery.id}/requeue/",
        "execution": {"id": delivery.execution_id, "url": execution_url},
        "job": job_reference(delivery.task_id, delivery.job_id, urls),
        "task": task_reference(delivery.task_id, urls),
    }


def report(
    execution: Execution, output: Output, words: Sequence[str], urls: Urls
) -> dict[str, Any]:
    """One execution as notifications describe it."""
    details = execution_details(execution, output, words, urls)
    metadata = {**details["metadata"], "custom": execution.definition.custom}
    # A receiver must not learn about the others.
    for key in dispatches(()):
        del metadata[key]
    return {
        **details,
        "jobId": execution.job_id,
        "jobUrl": urls.job(execution.task_id, execution.job_id),
        "taskId": execution.task_id,
        "taskUrl": urls.task(execution.task_id),
        "metadata": metadata,
    }


def host_and_port(host: str) -> tuple[str, int | None]:
    """The two halves of a host as the reference shows them; a socket has no port."""
    if host.startswith("unix://"):
        return host, None
    parts = urlsplit(host if "://" in host else f"//{host}")
    return parts.hostname or host, parts.port


def running_container(execution: Execution, urls: Urls) -> dict[str, Any]:
    host, port = host_and_port(execution.host or "")
    return {
        "host": host,
        "port": port,
        "id": execution.run_id,
        "task": execution.task_id,
        "status": execution.status,
        "startedAt": time_or_none(execution.started_at),
        "executionId": execution.id,
        "executionUrl": urls.execution(execution),
    }


def scheduled_job(job: Job, urls: Urls) -> dict[str, Any]:
    url = urls.job(job.task_id, job.id)
    return {
        "id": job.id,
        "nextScheduledAt": time_or_none(job.next_run_at),
        "url": url,
        "stopUrl": f"{url}stop/",
        "task": task_reference(job.task_id, urls),
    }


def farm_status(farm: Farm, hosts: Hosts, running: int) -> dict[str, Any]:
    return {
        "name": farm.name,
        "match": farm.match,
        "running": running,
        "maxRunning": farm.max_running,
        "blocked": hosts.blocked(farm.hosts),
    }


def host_status(name: str, hosts: Hosts, running: int, farm: Farm) -> dict[str, Any]:
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
