"""The steps that several writes share. Each runs within its caller's transaction."""

# ruff: noqa: S608 (what is put into a query is a constant of this package)

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace as copy_with
from typing import Any

from fastlane.encoding import to_json
from fastlane.errors import CompareFailed, NotFound
from fastlane.model import ACTIVE, Execution, Job, Outcome, Reason, Status
from fastlane.policy import deliveries_of, not_before
from fastlane.storage.codec import delivery_values, execution_values, plain
from fastlane.storage.sqlite.records import (
    DELIVERY_COLUMNS,
    EXECUTION_COLUMNS,
    JOB_COLUMNS,
    Row,
    execution_from,
    job_from,
    marks,
)
from fastlane.storage.transitions import ended
from fastlane.stored_events import StoredEvent, event_doc, execution_event

FIND_JOB = f"SELECT {JOB_COLUMNS} FROM jobs WHERE id = ?"
FIND_EXECUTION = f"SELECT {EXECUTION_COLUMNS} FROM executions WHERE id = ?"
FIND_STATUS = "SELECT status FROM executions WHERE id = ?"
STORE_EXECUTION = (
    f"INSERT INTO executions ({EXECUTION_COLUMNS}, expires_at) "
    f"VALUES ({marks(EXECUTION_COLUMNS)}, ?)"
)
LAST_SHOWN = f"""
SELECT {EXECUTION_COLUMNS} FROM executions
WHERE job_id = ? AND deleted_at IS NULL ORDER BY number DESC LIMIT 1
"""
LAST_EXECUTION = f"""
SELECT {EXECUTION_COLUMNS} FROM executions WHERE job_id = ? ORDER BY number DESC LIMIT 1
"""
NEXT_POSITION = "SELECT position + 1 FROM counters"
WAITING_FOR = """
SELECT id, due_at FROM executions WHERE status = 'enqueued' AND waits_for = ? ORDER BY seq
"""
WAIT_FOR_ANOTHER = "UPDATE executions SET waits_for = ? WHERE id = ?"
QUEUE = """
UPDATE executions SET waits_for = NULL, due_at = NULL,
    position = (SELECT position + 1 FROM counters), queued_at = ?
WHERE id = ?
"""
STORE_DELIVERY = (
    f"INSERT OR IGNORE INTO deliveries ({DELIVERY_COLUMNS}) VALUES ({marks(DELIVERY_COLUMNS)})"
)
STORE_EVENT = "INSERT INTO events (at, event) VALUES (?, ?)"


def record(connection: sqlite3.Connection, *events: StoredEvent) -> None:
    """Store what the caller's transaction has changed."""
    for event in events:
        connection.execute(STORE_EVENT, (event.at, to_json(event_doc(event))))


def find_job(connection: sqlite3.Connection, job_id: str) -> Job | None:
    row = connection.execute(FIND_JOB, (job_id,)).fetchone()
    return None if row is None else job_from(row)


def visible_job(connection: sqlite3.Connection, task_id: str, job_id: str) -> Job:
    """:raises NotFound: it is not there, or was deleted."""
    job = find_job(connection, job_id)
    if job is None or job.task_id != task_id or job.deleted_at is not None:
        raise NotFound(f'There is no job "{job_id}" in task "{task_id}".')
    return job


def find_execution(connection: sqlite3.Connection, execution_id: str) -> Execution | None:
    return next(executions(connection, FIND_EXECUTION, (execution_id,)), None)


def last_execution(connection: sqlite3.Connection, job_id: str) -> Execution | None:
    return next(executions(connection, LAST_EXECUTION, (job_id,)), None)


def executions(connection: sqlite3.Connection, query: str, parameters: Row) -> Iterator[Execution]:
    return map(execution_from, connection.execute(query, parameters).fetchall())


def store_execution(connection: sqlite3.Connection, execution: Execution) -> Execution:
    """Store a new execution, at the end of its queue unless it is delayed."""
    if execution.waits_for is not None and not is_unfinished(connection, execution.waits_for):
        execution = copy_with(execution, waits_for=None)
    stored = copy_with(execution, position=None, queued_at=None)
    if execution.waits_for is None and execution.due_at is None:
        position = connection.execute(NEXT_POSITION).fetchone()[0]
        stored = copy_with(execution, position=position, queued_at=execution.created_at)
    try:
        connection.execute(
            STORE_EXECUTION, (*execution_values(stored), stored.definition.expires_at)
        )
    except sqlite3.IntegrityError as error:
        raise CompareFailed(f"there is an execution {stored.id} already") from error
    record(connection, execution_event(stored, stored.created_at))
    return stored


def is_unfinished(connection: sqlite3.Connection, execution_id: str) -> bool:
    row = connection.execute(FIND_STATUS, (execution_id,)).fetchone()
    return row is not None and row[0] in {Status.ENQUEUED, *ACTIVE}


def change_job(connection: sqlite3.Connection, job: Job, **changes: Any) -> Job:
    columns = dict(changes)
    if (schedule := columns.pop("schedule", None)) is not None:
        columns |= {
            "start_at": schedule.start_at,
            "cron": schedule.cron,
            "timezone": schedule.timezone,
        }
    update(connection, "jobs", job.id, columns)
    return copy_with(job, **changes)


def change_execution(
    connection: sqlite3.Connection, execution: Execution, **changes: Any
) -> Execution:
    update(connection, "executions", execution.id, changes)
    return copy_with(execution, **changes)


def update(
    connection: sqlite3.Connection, table: str, record_id: str, columns: dict[str, Any]
) -> None:
    assignments = ", ".join(f"{column} = ?" for column in columns)
    connection.execute(
        f"UPDATE {table} SET {assignments} WHERE id = ?",
        (*map(plain, columns.values()), record_id),
    )


def notify(
    connection: sqlite3.Connection, execution: Execution, now: float, *, retry_follows: bool
) -> None:
    """Store the deliveries that report the status of *execution*."""
    for delivery in deliveries_of(execution, now=now, retry_follows=retry_follows):
        connection.execute(STORE_DELIVERY, delivery_values(delivery))


def end(
    connection: sqlite3.Connection,
    execution: Execution,
    outcome: Outcome,
    finished_at: float,
    *,
    retry_follows: bool = False,
) -> Execution:
    """Make *execution* final, store its deliveries, and free what waited for it.

    Where it waited itself, what waited for it waits for that one now: the chain stays a chain.
    """
    finished_at = not_before(finished_at, execution)
    final = change_execution(connection, execution, **ended(outcome, finished_at))
    for waiting, due_at in connection.execute(WAITING_FOR, (execution.id,)).fetchall():
        if execution.waits_for is not None or due_at is not None:
            connection.execute(WAIT_FOR_ANOTHER, (execution.waits_for, waiting))
        else:
            connection.execute(QUEUE, (finished_at, waiting))
    notify(connection, final, finished_at, retry_follows=retry_follows)
    record(connection, execution_event(final, finished_at))
    return final


def end_all(
    connection: sqlite3.Connection,
    query: str,
    parameters: Row,
    outcome: Outcome,
    finished_at: float,
) -> Sequence[Execution]:
    """End what *query* names; each is read only then, for one may wait for another of them."""
    return [
        end(connection, execution, outcome, finished_at)
        for (execution_id,) in connection.execute(query, parameters).fetchall()
        if (execution := find_execution(connection, execution_id)) is not None
    ]


def intend_stop(
    connection: sqlite3.Connection, execution: Execution, reason: Reason, now: float
) -> Execution:
    if execution.stop_reason is not None:
        return execution
    return change_execution(connection, execution, stop_reason=reason, stop_requested_at=now)
