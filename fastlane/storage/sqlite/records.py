"""Rows to frozen records and back.

Written out by hand: an execution is read in some microseconds, which a page of them multiplies.
"""

from __future__ import annotations

import json
from typing import Any

from fastlane.model import (
    Attempt,
    Backoff,
    Channel,
    Definition,
    Delivery,
    DeliveryState,
    Event,
    Execution,
    Job,
    Overlap,
    PullPolicy,
    Reason,
    Resources,
    Schedule,
    Status,
    Task,
)

Row = tuple[Any, ...]

UNREADABLE = Definition(image="", command=())
"""Stands in where a stored definition cannot be read, so that one bad record stops nothing else.

No submitted definition has an empty image. Stored again it stays what it is.
"""

TASK_COLUMNS = "id, created_at, modified_at, jobs_count"
JOB_COLUMNS = (
    "task_id, id, definition, start_at, cron, timezone, created_at, modified_at, queue_job_id, "
    "generation, next_run_at, stopped_at, execution_count, request_ip"
)
EXECUTION_COLUMNS = (
    "id, task_id, job_id, definition, farm, created_at, queue_job_id, generation, number, attempt, "
    "tick, late_seconds, request_ip, status, reason, error, exit_code, started_at, finished_at, "
    "due_at, waits_for, position, owner, epoch, host, run_id, stop_reason, stop_requested_at"
)
DELIVERY_COLUMNS = (
    "id, execution_id, task_id, job_id, channel, event, place, target, receiver, created_at, "
    "state, attempts, due_at, claim, claimed_at, history"
)


def task_from(row: Row) -> Task:
    return Task(*row)


def job_from(row: Row) -> Job:
    task_id, job_id, definition, start_at, cron, timezone, *rest = row
    return Job(
        task_id, job_id, definition_from(definition), Schedule(start_at, cron, timezone), *rest
    )


def job_row(job: Job) -> Row:
    return (
        job.task_id,
        job.id,
        definition_text(job.definition),
        job.schedule.start_at,
        job.schedule.cron,
        job.schedule.timezone,
        job.created_at,
        job.modified_at,
        job.queue_job_id,
        job.generation,
        job.next_run_at,
        job.stopped_at,
        job.execution_count,
        clean(job.request_ip),
    )


def execution_from(row: Row) -> Execution:
    values = list(row)
    values[3] = definition_from(row[3])
    values[13] = Status(row[13])
    if row[14] is not None:
        values[14] = Reason(row[14])
    if row[26] is not None:
        values[26] = Reason(row[26])
    return Execution(*values)


def execution_row(execution: Execution) -> Row:
    """The values of :data:`EXECUTION_COLUMNS`."""
    e = execution
    return (
        e.id,
        e.task_id,
        e.job_id,
        definition_text(e.definition),
        e.farm,
        e.created_at,
        e.queue_job_id,
        e.generation,
        e.number,
        e.attempt,
        e.tick,
        e.late_seconds,
        clean(e.request_ip),
        e.status,
        e.reason,
        clean(e.error),
        e.exit_code,
        e.started_at,
        e.finished_at,
        e.due_at,
        e.waits_for,
        e.position,
        e.owner,
        e.epoch,
        e.host,
        e.run_id,
        e.stop_reason,
        e.stop_requested_at,
    )


def delivery_from(row: Row) -> Delivery:
    values = list(row)
    values[4] = Channel(row[4])
    values[5] = Event(row[5])
    values[10] = DeliveryState(row[10])
    values[15] = tuple(Attempt(*attempt) for attempt in json.loads(row[15]))
    return Delivery(*values)


def delivery_row(delivery: Delivery) -> Row:
    """The values of :data:`DELIVERY_COLUMNS`."""
    d = delivery
    return (
        d.id,
        d.execution_id,
        d.task_id,
        d.job_id,
        d.channel,
        d.event,
        d.index,
        clean(d.target),
        clean(d.receiver),
        d.created_at,
        d.state,
        d.attempts,
        d.due_at,
        d.claim,
        d.claimed_at,
        history_text(d.history),
    )


def history_text(history: tuple[Attempt, ...]) -> str:
    return json.dumps([[a.at, a.duration_seconds, a.status, clean(a.error)] for a in history])


def clean(text: str | None) -> str | None:
    """*text* without lone surrogates, which an engine's error may hold and UTF-8 cannot."""
    return text if text is None else text.encode("utf-8", "replace").decode("utf-8")


def definition_text(definition: Definition) -> str:
    d = definition
    value: dict[str, Any] = {
        "image": d.image,
        "command": d.command if isinstance(d.command, str) else list(d.command),
        "retries": d.retries,
        "backoff": [d.backoff.min_ms, d.backoff.factor, d.backoff.max_ms],
        "timeout_seconds": d.timeout_seconds,
        "overlap": d.overlap,
        "rerun_when_lost": d.rerun_when_lost,
    }
    for name in ("envs", "custom", "notify", "webhooks", "dns_entries"):
        if mapping := getattr(d, name):
            value[name] = dict(mapping)
    if d.expires_at is not None:
        value["expires_at"] = d.expires_at
    if d.pull_policy is not None:
        value["pull_policy"] = d.pull_policy
    if d.resources != Resources():
        value["resources"] = [d.resources.cpus, d.resources.memory_bytes, d.resources.pids]
    return json.dumps(value, separators=(",", ":"))


def definition_from(text: str) -> Definition:
    """The definition in *text*, or :data:`UNREADABLE`."""
    try:
        value = json.loads(text)
        get = value.get
        command = value["command"]
        policy = get("pull_policy")
        return Definition(
            image=value["image"],
            command=command if isinstance(command, str) else tuple(command),
            envs=get("envs", {}),
            custom=get("custom", {}),
            retries=value["retries"],
            backoff=Backoff(*value["backoff"]),
            timeout_seconds=value["timeout_seconds"],
            expires_at=get("expires_at"),
            overlap=Overlap(value["overlap"]),
            notify=get("notify", {}),
            webhooks=get("webhooks", {}),
            resources=Resources(*get("resources", ())),
            pull_policy=None if policy is None else PullPolicy(policy),
            rerun_when_lost=value["rerun_when_lost"],
            dns_entries=get("dns_entries", {}),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return UNREADABLE
