"""Every read, as a function of a connection; a reader's thread runs it on one snapshot."""

# ruff: noqa: S608 (what is put into a query is a constant of this package)

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from fastlane.errors import NotFound, Rejected
from fastlane.model import Delivery, DeliveryState, Execution, HostRecord, Job, Task
from fastlane.storage.base import Overview, Page, PageRequest
from fastlane.storage.shared import MAX_QUERY_WORDS, cursor_numbers, words
from fastlane.storage.sqlite.operations import (
    FIND_EXECUTION,
    FIND_JOB,
    FIRST_QUEUED,
    HOSTS,
    LAST_EXECUTION,
    STRAYS,
)
from fastlane.storage.sqlite.records import (
    DELIVERY_COLUMNS,
    EXECUTION_COLUMNS,
    JOB_COLUMNS,
    TASK_COLUMNS,
    Row,
    delivery_from,
    execution_from,
    job_from,
    task_from,
)

T = TypeVar("T")

# Bounds an offset to what SQLite can count; no table is that long.
_MAX_OFFSET = 2**62

TASK = f"SELECT {TASK_COLUMNS} FROM tasks WHERE id = ?"
TASKS_PAGE = f"SELECT seq, {TASK_COLUMNS} FROM tasks WHERE seq > ? ORDER BY seq LIMIT ? OFFSET ?"
TASKS_TOTAL = "SELECT tasks FROM counters"

SEARCH_MATCHES = """
SELECT task, count(*) AS score FROM words WHERE word IN (SELECT value FROM json_each(?1))
GROUP BY task
"""
SEARCH_TOTAL = f"SELECT count(*) FROM ({SEARCH_MATCHES})"
SEARCH_PAGE = f"""
SELECT score || '.' || task, {TASK_COLUMNS}
FROM ({SEARCH_MATCHES}) JOIN tasks ON tasks.seq = task
WHERE score < ?2 OR (score = ?2 AND task > ?3)
ORDER BY score DESC, task LIMIT ?4 OFFSET ?5
"""

JOBS_TOTAL = "SELECT jobs_count FROM tasks WHERE id = ?"
JOBS_PAGE = f"""
SELECT seq, {JOB_COLUMNS} FROM jobs
WHERE task_id = ? AND seq < ? ORDER BY seq DESC LIMIT ? OFFSET ?
"""

EXECUTIONS_TOTAL = "SELECT execution_count - removed FROM jobs WHERE id = ?"
EXECUTIONS_PAGE = f"""
SELECT number, {EXECUTION_COLUMNS} FROM executions
WHERE job_id = ? AND number < ? ORDER BY number DESC LIMIT ? OFFSET ?
"""

ACTIVE_EXECUTIONS = f"""
SELECT {EXECUTION_COLUMNS} FROM executions INDEXED BY executions_active
WHERE status IN ('pulling', 'running') ORDER BY seq
"""
ACTIVE_EXECUTIONS_OF_OWNER = f"""
SELECT {EXECUTION_COLUMNS} FROM executions INDEXED BY executions_active
WHERE status IN ('pulling', 'running') AND owner = ? ORDER BY seq
"""

DUE_JOBS = f"""
SELECT {JOB_COLUMNS} FROM jobs
WHERE next_run_at IS NOT NULL AND next_run_at <= ? ORDER BY next_run_at LIMIT ?
"""
SCHEDULED_JOBS = f"""
SELECT {JOB_COLUMNS} FROM jobs
WHERE next_run_at IS NOT NULL ORDER BY next_run_at LIMIT ?
"""
NEXT_TICK = "SELECT min(next_run_at) FROM jobs WHERE next_run_at IS NOT NULL"
NEXT_DELAYED = """
SELECT min(due_at) FROM executions
WHERE status = 'enqueued' AND due_at IS NOT NULL AND waits_for IS NULL
"""
NEXT_EXPIRY = """
SELECT min(expires_at) FROM executions WHERE status = 'enqueued' AND expires_at IS NOT NULL
"""
OVERVIEW = """
SELECT tasks, jobs, queued, delayed, active, scheduled, undelivered FROM counters
"""

PENDING = "SELECT channel, deliveries FROM pending WHERE deliveries > 0"

NEXT_DELIVERY = "SELECT min(due_at) FROM deliveries WHERE state = 'pending'"
DELIVERIES_TOTAL = {
    DeliveryState.PENDING: "SELECT ifnull(sum(deliveries), 0) FROM pending",
    DeliveryState.FAILED: "SELECT undelivered FROM counters",
}
DELIVERIES_PAGE = f"""
SELECT seq, {DELIVERY_COLUMNS} FROM deliveries INDEXED BY deliveries_open
WHERE state IN ('pending', 'failed') AND state = ? AND seq < ? ORDER BY seq DESC LIMIT ? OFFSET ?
"""
DELIVERIES_OF = f"""
SELECT {DELIVERY_COLUMNS} FROM deliveries
WHERE execution_id IN (SELECT value FROM json_each(?)) ORDER BY seq
"""


def task(connection: sqlite3.Connection, task_id: str) -> Task:
    """:meth:`fastlane.storage.base.Storage.task`."""
    row = connection.execute(TASK, (task_id,)).fetchone()
    if row is None:
        raise NotFound(f"there is no task {task_id}")
    return task_from(row)


def tasks(connection: sqlite3.Connection, page: PageRequest) -> Page[Task]:
    """:meth:`fastlane.storage.base.Storage.tasks`."""
    (after,) = cursor_numbers(page, parts=1) or (0,)
    total = connection.execute(TASKS_TOTAL).fetchone()[0]
    return _page(connection, TASKS_PAGE, (after,), page, total, task_from)


def search_tasks(connection: sqlite3.Connection, query: str, page: PageRequest) -> Page[Task]:
    """:meth:`fastlane.storage.base.Storage.search_tasks`."""
    wanted = json.dumps(sorted(words(query))[:MAX_QUERY_WORDS])
    score, after = cursor_numbers(page, parts=2) or (MAX_QUERY_WORDS + 1, 0)
    total = connection.execute(SEARCH_TOTAL, (wanted,)).fetchone()[0]
    return _page(connection, SEARCH_PAGE, (wanted, score, after), page, total, task_from)


def job(connection: sqlite3.Connection, task_id: str, job_id: str) -> Job:
    """:meth:`fastlane.storage.base.Storage.job`."""
    row = connection.execute(FIND_JOB, (job_id,)).fetchone()
    if row is None or row[0] != task_id:
        raise NotFound(f"there is no job {job_id} in task {task_id}")
    return job_from(row)


def jobs(connection: sqlite3.Connection, task_id: str, page: PageRequest) -> Page[Job]:
    """:meth:`fastlane.storage.base.Storage.jobs`."""
    total = connection.execute(JOBS_TOTAL, (task_id,)).fetchone()
    if total is None:
        raise NotFound(f"there is no task {task_id}")
    (before,) = cursor_numbers(page, parts=1) or (_MAX_OFFSET,)
    return _page(connection, JOBS_PAGE, (task_id, before), page, total[0], job_from)


def execution(connection: sqlite3.Connection, execution_id: str) -> Execution:
    """:meth:`fastlane.storage.base.Storage.execution`."""
    row = connection.execute(FIND_EXECUTION, (execution_id,)).fetchone()
    if row is None:
        raise NotFound(f"there is no execution {execution_id}")
    return execution_from(row)


def last_execution(connection: sqlite3.Connection, job_id: str) -> Execution | None:
    """:meth:`fastlane.storage.base.Storage.last_execution`."""
    row = connection.execute(LAST_EXECUTION, (job_id,)).fetchone()
    return None if row is None else execution_from(row)


def executions(connection: sqlite3.Connection, job_id: str, page: PageRequest) -> Page[Execution]:
    """:meth:`fastlane.storage.base.Storage.executions`."""
    total = connection.execute(EXECUTIONS_TOTAL, (job_id,)).fetchone() or (0,)
    (before,) = cursor_numbers(page, parts=1) or (_MAX_OFFSET,)
    return _page(connection, EXECUTIONS_PAGE, (job_id, before), page, total[0], execution_from)


def active_executions(connection: sqlite3.Connection, owner: str | None) -> Sequence[Execution]:
    """:meth:`fastlane.storage.base.Storage.active_executions`."""
    if owner is None:
        rows = connection.execute(ACTIVE_EXECUTIONS)
    else:
        rows = connection.execute(ACTIVE_EXECUTIONS_OF_OWNER, (owner,))
    return [execution_from(row) for row in rows]


def due_jobs(connection: sqlite3.Connection, now: float, limit: int) -> Sequence[Job]:
    """:meth:`fastlane.storage.base.Storage.due_jobs`."""
    return [job_from(row) for row in connection.execute(DUE_JOBS, (now, limit))]


def scheduled_jobs(connection: sqlite3.Connection, limit: int) -> Sequence[Job]:
    """:meth:`fastlane.storage.base.Storage.scheduled_jobs`."""
    return [job_from(row) for row in connection.execute(SCHEDULED_JOBS, (limit,))]


def next_due_at(connection: sqlite3.Connection) -> float | None:
    """:meth:`fastlane.storage.base.Storage.next_due_at`."""
    earliest = (
        connection.execute(query).fetchone()[0] for query in (NEXT_TICK, NEXT_DELAYED, NEXT_EXPIRY)
    )
    return min((at for at in earliest if at is not None), default=None)


def overview(connection: sqlite3.Connection) -> Overview:
    """:meth:`fastlane.storage.base.Storage.overview`."""
    pending = dict(connection.execute(PENDING).fetchall())
    return Overview(*(*connection.execute(OVERVIEW).fetchone(), pending))


def next_queued(connection: sqlite3.Connection, farm: str, now: float) -> Execution | None:
    """:meth:`fastlane.storage.base.Storage.next_queued`."""
    row = connection.execute(FIRST_QUEUED, (farm, now)).fetchone()
    return None if row is None else execution_from(row)


def stray_executions(
    connection: sqlite3.Connection, farms: Sequence[str], after: int, limit: int
) -> Sequence[Execution]:
    """:meth:`fastlane.storage.base.Storage.stray_executions`."""
    rows = connection.execute(STRAYS, (json.dumps(list(farms)), after, limit))
    return [execution_from(row) for row in rows]


def hosts(connection: sqlite3.Connection) -> Sequence[HostRecord]:
    """:meth:`fastlane.storage.base.Storage.hosts`."""
    return [
        HostRecord(host, failures, error, open_until, bool(blacklisted))
        for host, failures, error, open_until, blacklisted in connection.execute(HOSTS)
    ]


def next_delivery_at(connection: sqlite3.Connection) -> float | None:
    """:meth:`fastlane.storage.base.Storage.next_delivery_at`."""
    earliest: float | None = connection.execute(NEXT_DELIVERY).fetchone()[0]
    return earliest


def deliveries(
    connection: sqlite3.Connection, state: DeliveryState, page: PageRequest
) -> Page[Delivery]:
    """:meth:`fastlane.storage.base.Storage.deliveries`."""
    if state not in DELIVERIES_TOTAL:
        raise Rejected("what was delivered is listed by its execution only")
    (before,) = cursor_numbers(page, parts=1) or (_MAX_OFFSET,)
    total = connection.execute(DELIVERIES_TOTAL[state]).fetchone()[0]
    return _page(connection, DELIVERIES_PAGE, (state, before), page, total, delivery_from)


def deliveries_of(
    connection: sqlite3.Connection, execution_ids: Sequence[str]
) -> Sequence[Delivery]:
    """:meth:`fastlane.storage.base.Storage.deliveries_of`."""
    rows = connection.execute(DELIVERIES_OF, (json.dumps(list(execution_ids)),))
    return [delivery_from(row) for row in rows]


def _page(
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
    offset = 0 if page.after is not None else min((page.number - 1) * page.size, _MAX_OFFSET)
    rows: list[Any] = connection.execute(query, (*parameters, page.size + 1, offset)).fetchall()
    items = [record_from(row[1:]) for row in rows[: page.size]]
    more = len(rows) > page.size
    return Page(items, total, str(rows[page.size - 1][0]) if more else None)
