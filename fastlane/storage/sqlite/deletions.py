"""Deletions: marks, and the removal of what is marked."""

# ruff: noqa: S608 (what is put into a query is a constant of this package)

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence

from fastlane.errors import NotFinal, NotFound
from fastlane.model import Execution, Reason, Status
from fastlane.storage.base import ActiveRun, Deletions
from fastlane.storage.codec import STOPPED, words
from fastlane.storage.sqlite.changes import (
    change_execution,
    change_job,
    end,
    executions,
    find_execution,
    intend_stop,
    record,
    visible_job,
)
from fastlane.storage.sqlite.facet import Facet, on_reader, on_writer
from fastlane.storage.sqlite.records import EXECUTION_COLUMNS
from fastlane.stored_events import EventType, deleted_execution_event, job_event, task_event

# Bounds the log that one step removes, but for a single longer one.
STEP_BYTES = 64 * 1024 * 1024

_OF_EXECUTION = ", ".join(f"executions.{name}" for name in EXECUTION_COLUMNS.split(", "))
UNFINISHED_OF_JOB = """
SELECT id FROM executions INDEXED BY executions_enqueued
WHERE status = 'enqueued' AND job_id = ?1
UNION ALL SELECT id FROM executions INDEXED BY executions_active
WHERE status IN ('pulling', 'running') AND job_id = ?1
"""
UNFINISHED_OF_TASK = """
SELECT executions.id FROM executions INDEXED BY executions_enqueued_of_task
JOIN jobs ON jobs.id = job_id
WHERE status = 'enqueued' AND executions.task_id = ?1
    AND jobs.deleted_at IS NULL AND executions.deleted_at IS NULL
UNION ALL SELECT executions.id FROM executions INDEXED BY executions_active
JOIN jobs ON jobs.id = job_id
WHERE status IN ('pulling', 'running') AND executions.task_id = ?1
    AND jobs.deleted_at IS NULL AND executions.deleted_at IS NULL
"""
FORGET_KEYS = "DELETE FROM idempotency WHERE job_id = ?"
FORGET_KEYS_OF_TASK = "DELETE FROM idempotency WHERE task_id = ?"
UNCOUNT_JOB = "UPDATE tasks SET jobs_count = jobs_count - 1 WHERE id = ?"
COUNT_REMOVED = "UPDATE jobs SET removed = removed + 1 WHERE id = ?"
FIND_TASK = "SELECT seq FROM tasks WHERE id = ?"
EMPTY_TASK = "SELECT seq FROM tasks WHERE id = ? AND jobs_count <= 0"
REMOVE_WORD = "DELETE FROM words WHERE word = ? AND task = ?"
REMOVE_TASK = "DELETE FROM tasks WHERE seq = ?"
MARK_JOBS = """
UPDATE jobs SET deleted_at = ?1, modified_at = ?1, generation = generation + 1,
    next_run_at = NULL, paused_at = NULL, name = NULL
WHERE task_id = ?2 AND deleted_at IS NULL
"""
HIDDEN_JOBS = """
SELECT id FROM jobs WHERE deleted_at IS NOT NULL AND id IN (SELECT value FROM json_each(?))
"""
_REMOVABLE = """
    status IN ('done', 'failed', 'timedout', 'expired')
    AND ifnull(host, '') NOT IN (SELECT value FROM json_each(?1))
    AND NOT EXISTS (
        SELECT 1 FROM deliveries WHERE execution_id = executions.id AND state = 'pending'
    )
"""
REMOVABLE = f"""
SELECT * FROM (
    SELECT {_OF_EXECUTION} FROM executions INDEXED BY executions_deleted
    WHERE executions.deleted_at IS NOT NULL AND {_REMOVABLE} LIMIT ?2
)
UNION ALL SELECT * FROM (
    SELECT {_OF_EXECUTION} FROM jobs INDEXED BY jobs_deleted
    CROSS JOIN executions INDEXED BY executions_of_job ON job_id = jobs.id
    WHERE jobs.deleted_at IS NOT NULL AND executions.deleted_at IS NULL AND {_REMOVABLE} LIMIT ?2
)
LIMIT ?2
"""
PLACE = """
SELECT seq, ifnull((SELECT kept_bytes FROM logs WHERE execution = seq), 0)
FROM executions WHERE id = ?
"""
REMOVE_EXECUTION = (
    "DELETE FROM log_chunks WHERE execution = :seq",
    "DELETE FROM log_lines WHERE execution = :seq",
    "DELETE FROM logs WHERE execution = :seq",
    "DELETE FROM deliveries WHERE execution_id = :id",
    "DELETE FROM executions WHERE seq = :seq",
)
REMOVE_JOBS = """
DELETE FROM jobs WHERE seq IN (
    SELECT seq FROM jobs INDEXED BY jobs_deleted WHERE deleted_at IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM executions WHERE job_id = jobs.id)
    LIMIT ?
)
"""


class SqliteDeletions(Facet, Deletions):
    """:class:`fastlane.storage.base.Deletions` in SQLite."""

    @on_writer
    def execution(
        self,
        connection: sqlite3.Connection,
        task_id: str,
        job_id: str,
        execution_id: str,
        *,
        force: bool,
        now: float,
    ) -> Execution:
        visible_job(connection, task_id, job_id)
        execution = find_execution(connection, execution_id)
        if execution is None or execution.job_id != job_id or execution.deleted_at is not None:
            raise NotFound(f'Job "{job_id}" has no execution "{execution_id}".')
        if not execution.final:
            if not force:
                raise NotFinal(f'Execution "{execution_id}"')
            execution = _stop(connection, execution, now)
        record(connection, deleted_execution_event(execution, now))
        connection.execute(COUNT_REMOVED, (job_id,))
        return change_execution(connection, execution, deleted_at=now)

    @on_writer
    def job(
        self, connection: sqlite3.Connection, task_id: str, job_id: str, *, force: bool, now: float
    ) -> Sequence[Execution]:
        job = visible_job(connection, task_id, job_id)
        stopped = _stop_all(connection, UNFINISHED_OF_JOB, job_id, f'Job "{job_id}"', force, now)
        record(connection, job_event(job, EventType.JOB_DELETED, now))
        change_job(
            connection,
            job,
            deleted_at=now,
            modified_at=now,
            generation=job.generation + 1,
            next_run_at=None,
            paused_at=None,
            name=None,
        )
        connection.execute(FORGET_KEYS, (job_id,))
        connection.execute(UNCOUNT_JOB, (task_id,))
        if (empty := connection.execute(EMPTY_TASK, (task_id,)).fetchone()) is not None:
            remove_task(connection, task_id, empty[0])
        return stopped

    @on_writer
    def task(
        self, connection: sqlite3.Connection, task_id: str, *, force: bool, now: float
    ) -> Sequence[Execution]:
        found = connection.execute(FIND_TASK, (task_id,)).fetchone()
        if found is None:
            raise NotFound(f'There is no task "{task_id}".')
        stopped = _stop_all(
            connection, UNFINISHED_OF_TASK, task_id, f'Task "{task_id}"', force, now
        )
        record(connection, task_event(task_id, EventType.TASK_DELETED, now))
        connection.execute(MARK_JOBS, (now, task_id))
        connection.execute(FORGET_KEYS_OF_TASK, (task_id,))
        remove_task(connection, task_id, found[0])
        return stopped

    @on_reader
    def hidden(
        self, connection: sqlite3.Connection, executions: Sequence[Execution | ActiveRun]
    ) -> Collection[str]:
        wanted = json.dumps(list({one.job_id for one in executions}))
        jobs = {job_id for (job_id,) in connection.execute(HIDDEN_JOBS, (wanted,))}
        return {one.id for one in executions if one.deleted_at is not None or one.job_id in jobs}

    @on_reader
    def removable(
        self, connection: sqlite3.Connection, limit: int, *, without: Collection[str]
    ) -> Sequence[Execution]:
        return list(executions(connection, REMOVABLE, (json.dumps(list(without)), limit)))

    @on_writer
    def remove(self, connection: sqlite3.Connection, execution_ids: Sequence[str]) -> int:
        removed = log_bytes = 0
        for execution_id in execution_ids:
            found = connection.execute(PLACE, (execution_id,)).fetchone()
            if found is None:
                continue
            log_bytes += found[1]
            if removed and log_bytes > STEP_BYTES:
                break
            for statement in REMOVE_EXECUTION:
                connection.execute(statement, {"seq": found[0], "id": execution_id})
            removed += 1
        return removed

    @on_writer
    def remove_jobs(self, connection: sqlite3.Connection, limit: int) -> int:
        return connection.execute(REMOVE_JOBS, (limit,)).rowcount


def remove_task(connection: sqlite3.Connection, task_id: str, seq: int) -> None:
    connection.executemany(REMOVE_WORD, [(word, seq) for word in words(task_id)])
    connection.execute(REMOVE_TASK, (seq,))


def _stop_all(
    connection: sqlite3.Connection, query: str, owner: str, what: str, force: bool, now: float
) -> Sequence[Execution]:
    unfinished = connection.execute(query, (owner,)).fetchall()
    if unfinished and not force:
        raise NotFinal(what)
    # Each is read only when it is stopped, for one may wait for another of them.
    return [
        _stop(connection, execution, now)
        for (execution_id,) in unfinished
        if (execution := find_execution(connection, execution_id)) is not None
    ]


def _stop(connection: sqlite3.Connection, execution: Execution, now: float) -> Execution:
    if execution.final:
        return execution
    if execution.status is Status.ENQUEUED:
        return end(connection, execution, STOPPED, now)
    return intend_stop(connection, execution, Reason.STOPPED, now)
