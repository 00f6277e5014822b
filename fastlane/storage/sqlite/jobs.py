"""Jobs: submissions, ticks, stops, manual retries."""

# ruff: noqa: S608 (what is put into a query is a constant of this package)

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace as copy_with
from typing import Any

from fastlane.errors import CompareFailed, KeyReused, NotFound, Rejected
from fastlane.model import ACTIVE, Execution, Job, Reason, Status
from fastlane.storage.base import IdempotencyKey, Jobs, Page, PageRequest, Submitted
from fastlane.storage.codec import STOPPED, cursor_numbers, job_values, words
from fastlane.storage.sqlite.changes import (
    change_execution,
    change_job,
    end,
    end_all,
    find_execution,
    find_job,
    intend_stop,
    last_execution,
    record,
    store_execution,
    visible_job,
)
from fastlane.storage.sqlite.facet import Facet, on_reader, on_writer
from fastlane.storage.sqlite.records import JOB_COLUMNS, MAX_OFFSET, job_from, marks, page_of
from fastlane.storage.transitions import made_anew, pause_event, replaced, schedule_state
from fastlane.stored_events import EventType, job_event, tick_events

FIND_TASK = "SELECT seq FROM tasks WHERE id = ?"
CREATE_TASK = "INSERT INTO tasks (id, created_at, modified_at, jobs_count) VALUES (?, ?, ?, ?)"
TOUCH_TASK = "UPDATE tasks SET modified_at = ?, jobs_count = jobs_count + ? WHERE seq = ?"
STORE_WORD = "INSERT INTO words (word, task) VALUES (?, ?)"
FIND_KEY = """
SELECT fingerprint, job_id, queue_job_id, execution_id FROM idempotency
WHERE task_id = ? AND key = ?
"""
STORE_KEY = """
INSERT OR REPLACE INTO idempotency (task_id, key, fingerprint, job_id, queue_job_id, execution_id)
VALUES (?, ?, ?, ?, ?, ?)
"""
STORE_JOB = f"INSERT INTO jobs ({JOB_COLUMNS}) VALUES ({marks(JOB_COLUMNS)})"
FIND_TICK = "SELECT 1 FROM executions WHERE job_id = ? AND tick = ? AND attempt = 0"
ENQUEUED_OF_JOB = "SELECT id FROM executions WHERE job_id = ? AND status = 'enqueued'"
WAITING_TICKS = """
SELECT id, tick FROM executions
WHERE job_id = ? AND status = 'enqueued' AND tick IS NOT NULL ORDER BY number DESC LIMIT ?
"""
ENQUEUED_RETRIES_OF_JOB = f"{ENQUEUED_OF_JOB} AND attempt + lost_reruns > 0"
EVER_CLAIMED = """
SELECT 1 FROM executions WHERE job_id = ?1 AND epoch > 0
UNION ALL SELECT 1 FROM jobs WHERE id = ?1 AND removed > 0
LIMIT 1
"""
FIND_NAMED = "SELECT id FROM jobs WHERE task_id = ? AND name = ?"
MARK_EXECUTIONS = "UPDATE executions SET deleted_at = ? WHERE job_id = ? AND deleted_at IS NULL"
FORGET_REMOVED = "UPDATE jobs SET removed = execution_count WHERE id = ?"
JOBS_TOTAL = "SELECT jobs_count FROM tasks WHERE id = ?"
JOBS_PAGE = f"""
SELECT seq, {JOB_COLUMNS} FROM jobs
WHERE task_id = ? AND seq < ? AND deleted_at IS NULL ORDER BY seq DESC LIMIT ? OFFSET ?
"""
DUE_JOBS = f"""
SELECT {JOB_COLUMNS} FROM jobs
WHERE next_run_at IS NOT NULL AND next_run_at <= ? ORDER BY next_run_at LIMIT ?
"""
SCHEDULED_JOBS = f"""
SELECT {JOB_COLUMNS} FROM jobs
WHERE next_run_at IS NOT NULL ORDER BY next_run_at LIMIT ?
"""


class SqliteJobs(Facet, Jobs):
    """:class:`fastlane.storage.base.Jobs` in SQLite."""

    @on_writer
    def submit(
        self,
        connection: sqlite3.Connection,
        job: Job,
        execution: Execution | None,
        *,
        replace: bool = False,
        idempotency: IdempotencyKey | None = None,
    ) -> Submitted:
        if idempotency is not None:
            first = _first_answer(connection, job.task_id, idempotency)
            if first is not None:
                return first
        if job.name is not None:
            row = connection.execute(FIND_NAMED, (job.task_id, job.name)).fetchone()
            job_id = job.id if row is None else row[0]
            job = copy_with(job, id=job_id)
            execution = None if execution is None else copy_with(execution, job_id=job_id)
        there = find_job(connection, job.id)
        is_new = there is None or there.deleted_at is not None
        if there is None:
            stored = copy_with(job, execution_count=0 if execution is None else 1)
            connection.execute(STORE_JOB, job_values(stored))
        elif not replace:
            raise CompareFailed(f"there is a job {job.id} already")
        elif there.deleted_at is not None:
            stored = _make_anew(connection, there, job, execution)
        elif there.task_id != job.task_id:
            raise Rejected(f'Job "{job.id}" belongs to another task.')
        else:
            stored = _replace_job(connection, there, job, execution)
        change = EventType.JOB_CREATED if is_new else EventType.JOB_UPDATED
        record(connection, job_event(stored, change, job.modified_at))
        _store_task(connection, job, is_new_job=is_new)
        if execution is not None:
            execution = store_execution(
                connection,
                copy_with(execution, generation=stored.generation, number=stored.execution_count),
            )
        if idempotency is not None:
            connection.execute(
                STORE_KEY,
                (
                    job.task_id,
                    idempotency.key,
                    idempotency.fingerprint,
                    job.id,
                    job.queue_job_id,
                    None if execution is None else execution.id,
                ),
            )
        return Submitted(stored, execution)

    @on_writer
    def tick(
        self,
        connection: sqlite3.Connection,
        job: Job,
        execution: Execution | None,
        *,
        next_run_at: float | None,
        now: float,
        skipped_tick: float | None = None,
        max_waiting: int | None = None,
    ) -> Execution | None:
        there = find_job(connection, job.id)
        if (
            there is None
            or there.generation != job.generation
            or there.next_run_at is None
            or there.next_run_at != job.next_run_at
        ):
            raise CompareFailed(f"job {job.id} is no longer at this tick")
        if execution is not None and _tick_is_taken(connection, execution):
            # After a clock was set back, say: otherwise the job would be due forever.
            execution = None
        waiting: list[tuple[str, float]] = []
        if execution is not None and max_waiting is not None:
            waiting = connection.execute(WAITING_TICKS, (job.id, max_waiting)).fetchall()
        merges = max_waiting is not None and len(waiting) >= max_waiting
        if merges:
            skipped_tick = waiting[0][1]
        count = there.execution_count + (execution is not None and not merges)
        changes: dict[str, Any] = {"next_run_at": next_run_at, "modified_at": now}
        if skipped_tick is not None:
            changes["skipped_ticks"] = there.skipped_ticks + 1
            changes["last_skipped_tick"] = skipped_tick
        change_job(connection, there, execution_count=count, **changes)
        record(connection, *tick_events(there, execution, now, skipped_tick, merges=merges))
        if execution is None:
            return None
        if not merges:
            return store_execution(connection, copy_with(execution, number=count))
        newest = find_execution(connection, waiting[0][0])
        assert newest is not None
        late_seconds = execution.late_seconds
        return change_execution(connection, newest, tick=execution.tick, late_seconds=late_seconds)

    @on_writer
    def stop(self, connection: sqlite3.Connection, task_id: str, job_id: str, *, now: float) -> Job:
        job = visible_job(connection, task_id, job_id)
        if job.stopped_at is not None:
            return job
        last = last_execution(connection, job_id)
        end_all(connection, ENQUEUED_OF_JOB, (job_id,), STOPPED, now)
        if last is not None and last.status in ACTIVE:
            intend_stop(connection, last, Reason.STOPPED, now)
        record(connection, job_event(job, EventType.JOB_STOPPED, now))
        return change_job(
            connection,
            job,
            generation=job.generation + 1,
            next_run_at=None,
            paused_at=None,
            stopped_at=now,
            modified_at=now,
        )

    @on_writer
    def reschedule(
        self,
        connection: sqlite3.Connection,
        job: Job,
        *,
        paused_at: float | None,
        next_run_at: float | None,
        now: float,
    ) -> Job:
        there = find_job(connection, job.id)
        if there is None or schedule_state(there) != schedule_state(job):
            raise CompareFailed(f"job {job.id} was changed or ticked meanwhile")
        record(connection, pause_event(there, paused_at, now))
        return change_job(
            connection, there, paused_at=paused_at, next_run_at=next_run_at, modified_at=now
        )

    @on_writer
    def retry(
        self,
        connection: sqlite3.Connection,
        job: Job,
        execution: Execution,
        *,
        now: float,
        beside: bool = False,
    ) -> Execution:
        there = find_job(connection, job.id)
        if there is None or there.generation != job.generation:
            raise CompareFailed(f"job {job.id} was changed or stopped meanwhile")
        if not beside and connection.execute(EVER_CLAIMED, (job.id,)).fetchone() is None:
            raise Rejected(f'Job "{job.id}" has not run yet.')
        last = None if beside else last_execution(connection, job.id)
        waits_for = execution.waits_for
        if last is not None and last.status is Status.ENQUEUED:
            waits_for = waits_for or last.waits_for
            end(connection, last, STOPPED, now)
        elif last is not None and last.status in ACTIVE:
            waits_for = last.id
            intend_stop(connection, last, Reason.STOPPED, now)
        count = there.execution_count + 1
        change_job(
            connection,
            there,
            queue_job_id=execution.queue_job_id,
            stopped_at=None,
            execution_count=count,
            modified_at=now,
        )
        return store_execution(connection, copy_with(execution, number=count, waits_for=waits_for))

    @on_reader
    def get(self, connection: sqlite3.Connection, task_id: str, job_id: str) -> Job:
        return visible_job(connection, task_id, job_id)

    @on_reader
    def named(self, connection: sqlite3.Connection, task_id: str, name: str) -> Job:
        row = connection.execute(FIND_NAMED, (task_id, name)).fetchone()
        job = None if row is None else find_job(connection, row[0])
        if job is None:
            raise NotFound(f'There is no job "{name}" in task "{task_id}".')
        return job

    @on_reader
    def of_task(self, connection: sqlite3.Connection, task_id: str, page: PageRequest) -> Page[Job]:
        total = connection.execute(JOBS_TOTAL, (task_id,)).fetchone()
        if total is None:
            raise NotFound(f'There is no task "{task_id}".')
        (before,) = cursor_numbers(page, parts=1) or (MAX_OFFSET,)
        return page_of(connection, JOBS_PAGE, (task_id, before), page, total[0], job_from)

    @on_reader
    def due(self, connection: sqlite3.Connection, now: float, limit: int) -> Sequence[Job]:
        return [job_from(row) for row in connection.execute(DUE_JOBS, (now, limit))]

    @on_reader
    def scheduled(self, connection: sqlite3.Connection, limit: int) -> Sequence[Job]:
        return [job_from(row) for row in connection.execute(SCHEDULED_JOBS, (limit,))]


def _first_answer(
    connection: sqlite3.Connection, task_id: str, idempotency: IdempotencyKey
) -> Submitted | None:
    row = connection.execute(FIND_KEY, (task_id, idempotency.key)).fetchone()
    if row is None:
        return None
    fingerprint, job_id, queue_job_id, execution_id = row
    if fingerprint != idempotency.fingerprint:
        raise KeyReused(idempotency.key)
    job = find_job(connection, job_id)
    if job is None or job.deleted_at is not None:
        return None
    execution = None if execution_id is None else find_execution(connection, execution_id)
    # The job's own may have changed since, by a retry or a PUT.
    return Submitted(copy_with(job, queue_job_id=queue_job_id), execution, repeated=True)


def _replace_job(
    connection: sqlite3.Connection, there: Job, job: Job, execution: Execution | None
) -> Job:
    end_all(connection, ENQUEUED_RETRIES_OF_JOB, (there.id,), STOPPED, job.modified_at)
    return change_job(connection, there, **replaced(there, job, execution))


def _make_anew(
    connection: sqlite3.Connection, there: Job, job: Job, execution: Execution | None
) -> Job:
    """Store *job* in the place of one that was deleted, whose executions stay hidden."""
    connection.execute(MARK_EXECUTIONS, (there.deleted_at, there.id))
    connection.execute(FORGET_REMOVED, (there.id,))
    return change_job(connection, there, **(replaced(there, job, execution) | made_anew(job)))


def _store_task(connection: sqlite3.Connection, job: Job, *, is_new_job: bool) -> None:
    row = connection.execute(FIND_TASK, (job.task_id,)).fetchone()
    if row is not None:
        connection.execute(TOUCH_TASK, (job.modified_at, int(is_new_job), row[0]))
        return
    task = connection.execute(
        CREATE_TASK, (job.task_id, job.created_at, job.modified_at, 1)
    ).lastrowid
    for word in words(job.task_id):
        connection.execute(STORE_WORD, (word, task))


def _tick_is_taken(connection: sqlite3.Connection, execution: Execution) -> bool:
    taken = connection.execute(FIND_TICK, (execution.job_id, execution.tick)).fetchone()
    return taken is not None
