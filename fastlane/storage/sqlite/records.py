"""Rows to frozen records and back.

Written out by hand: an execution is read in some microseconds, which a page of them multiplies.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

from fastlane.model import (
    Attempt,
    Delivery,
    DeliveryState,
    Event,
    Execution,
    Job,
    Reason,
    Schedule,
    Status,
    Task,
)
from fastlane.storage.base import Page, PageRequest
from fastlane.storage.codec import clean, definition_from, definition_text

T = TypeVar("T")
Row = tuple[Any, ...]

# Bounds an offset to what SQLite can count; no table is that long.
MAX_OFFSET = 2**62

TASK_COLUMNS = "id, created_at, modified_at, jobs_count"
JOB_COLUMNS = (
    "task_id, id, definition, start_at, cron, timezone, created_at, modified_at, queue_job_id, "
    "generation, next_run_at, stopped_at, execution_count, request_ip"
)
EXECUTION_COLUMNS = (
    "id, task_id, job_id, definition, farm, created_at, queue_job_id, generation, number, attempt, "
    "tick, late_seconds, request_ip, status, reason, error, exit_code, started_at, finished_at, "
    "due_at, waits_for, position, owner, epoch, host, run_id, stop_reason, stop_requested_at, "
    "lost_reruns"
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
        e.lost_reruns,
    )


def delivery_from(row: Row) -> Delivery:
    values = list(row)
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


def page_of(
    connection: sqlite3.Connection,
    query: str,
    parameters: Row,
    page: PageRequest,
    total: int,
    record_from: Callable[[Row], T],
) -> Page[T]:
    """Run *query*, whose first column is the cursor and whose last parameters are limit, offset.

    It reads one row more than it gives back, to know whether that was the last page.
    """
    offset = 0 if page.after is not None else min((page.number - 1) * page.size, MAX_OFFSET)
    rows: list[Any] = connection.execute(query, (*parameters, page.size + 1, offset)).fetchall()
    items = [record_from(row[1:]) for row in rows[: page.size]]
    more = len(rows) > page.size
    return Page(items, total, str(rows[page.size - 1][0]) if more else None)
