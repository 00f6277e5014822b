"""Executions: the queue, the claim, start, end and stop."""

# ruff: noqa: S608 (what is put into a query is a constant of this package)

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple
from dataclasses import replace as copy_with

from fastlane.errors import CompareFailed, HostDrained, NotFound
from fastlane.model import ACTIVE, Execution, Outcome, Reason, Status
from fastlane.policy import not_before
from fastlane.storage.base import Executions, Page, PageRequest
from fastlane.storage.codec import (
    STOPPED,
    UNREADABLE,
    UNREADABLE_RUN,
    active_run_of,
    cursor_numbers,
)
from fastlane.storage.sqlite.changes import (
    LAST_EXECUTION,
    LAST_SHOWN,
    QUEUE,
    change_execution,
    change_job,
    end,
    end_all,
    executions,
    find_execution,
    find_job,
    intend_stop,
    notify,
    record,
    store_execution,
)
from fastlane.storage.sqlite.facet import Facet, on_reader, on_writer
from fastlane.storage.sqlite.records import EXECUTION_COLUMNS, MAX_OFFSET, execution_from, page_of
from fastlane.storage.turns import Turn
from fastlane.storage.values import ACTIVE_RUN_FIELDS, ActiveRun, FarmQueue
from fastlane.stored_events import execution_event

IS_BLACKLISTED = "SELECT 1 FROM hosts WHERE host = ? AND blacklisted"
COUNT_ACTIVE = """
SELECT count(*) FROM executions INDEXED BY executions_active
WHERE farm = ? AND status IN ('pulling', 'running')
"""
ACTIVE_OF_TASK = f"{COUNT_ACTIVE} AND task_id = ?"
FIRST_QUEUED = """
SELECT task_id, position, seq FROM executions INDEXED BY executions_queue
WHERE farm = ? AND status = 'enqueued' AND position IS NOT NULL
    AND (expires_at IS NULL OR expires_at > ?)
ORDER BY position LIMIT 1
"""
FIRST_OF_NEXT_TASK = """
SELECT task_id, position, seq FROM executions INDEXED BY executions_turns
WHERE farm = ? AND task_id > ? AND task_id <= ? AND status = 'enqueued' AND position IS NOT NULL
    AND (expires_at IS NULL OR expires_at > ?)
ORDER BY task_id, position LIMIT 1
"""
BY_SEQ = f"SELECT {EXECUTION_COLUMNS} FROM executions WHERE seq = ?"
LAST_TURN = "SELECT task_id, start, upto, wrapped FROM turns WHERE farm = ?"
KEEP_TURN = """
INSERT OR REPLACE INTO turns (farm, task_id, start, upto, wrapped) VALUES (?, ?, ?, ?, ?)
"""
LAST_POSITION = "SELECT position FROM counters"
AHEAD_IN_TASK = """
SELECT count(*) FROM (
    SELECT 1 FROM executions INDEXED BY executions_turns
    WHERE farm = ? AND task_id = ? AND status = 'enqueued' AND position IS NOT NULL
        AND position < ? LIMIT ?
)
"""
AHEAD_IN_FARM = """
SELECT count(*) FROM (
    SELECT 1 FROM executions INDEXED BY executions_queue
    WHERE farm = ? AND status = 'enqueued' AND position IS NOT NULL AND position < ? LIMIT ?
)
"""
DUE_EXECUTIONS = """
SELECT id FROM executions
WHERE status = 'enqueued' AND due_at IS NOT NULL AND waits_for IS NULL AND due_at <= ?
ORDER BY due_at LIMIT ?
"""
EXPIRED_EXECUTIONS = """
SELECT id FROM executions
WHERE status = 'enqueued' AND expires_at IS NOT NULL AND expires_at <= ?
ORDER BY expires_at LIMIT ?
"""
ORPHANED = f"""
WITH RECURSIVE farms (name) AS (
    SELECT min(farm) FROM executions INDEXED BY executions_queue
    WHERE status = 'enqueued' AND position IS NOT NULL
    UNION ALL
    SELECT (
        SELECT min(farm) FROM executions INDEXED BY executions_queue
        WHERE status = 'enqueued' AND position IS NOT NULL AND farm > name
    ) FROM farms WHERE name IS NOT NULL
)
SELECT {EXECUTION_COLUMNS} FROM executions INDEXED BY executions_queue
WHERE status = 'enqueued' AND position IS NOT NULL AND position > ?2
    AND farm IN (
        SELECT name FROM farms
        WHERE name IS NOT NULL AND name NOT IN (SELECT value FROM json_each(?1))
    )
ORDER BY position LIMIT ?3
"""
EXECUTIONS_TOTAL = "SELECT execution_count - removed FROM jobs WHERE id = ?"
EXECUTIONS_PAGE = f"""
SELECT number, {EXECUTION_COLUMNS} FROM executions
WHERE job_id = ? AND number < ? AND deleted_at IS NULL ORDER BY number DESC LIMIT ? OFFSET ?
"""
RETRY_OF = f"SELECT {EXECUTION_COLUMNS} FROM executions WHERE retry_of = ?"
ACTIVE_COUNTS = """
SELECT farm, task_id, host, count(*) FROM executions INDEXED BY executions_active
WHERE status IN ('pulling', 'running') GROUP BY farm, task_id, host
"""
_QUEUED = "FROM executions INDEXED BY executions_queue WHERE farm = ? AND status = 'enqueued'"
QUEUE_LENGTH = f"SELECT count(*) {_QUEUED} AND position IS NOT NULL"
OLDEST_QUEUED = f"""
SELECT ifnull(queued_at, created_at) {_QUEUED} AND position IS NOT NULL ORDER BY position LIMIT 1
"""
ACTIVE_RUNS = f"""
SELECT {", ".join(ACTIVE_RUN_FIELDS)} FROM executions INDEXED BY executions_active
WHERE status IN ('pulling', 'running') ORDER BY seq
"""
ACTIVE_EXECUTIONS_OF_OWNER = f"""
SELECT {EXECUTION_COLUMNS} FROM executions INDEXED BY executions_active
WHERE status IN ('pulling', 'running') AND owner = ? ORDER BY seq
"""


class SqliteExecutions(Facet, Executions):
    """:class:`fastlane.storage.base.Executions` in SQLite."""

    @on_writer
    def claim(
        self,
        connection: sqlite3.Connection,
        farm: str,
        *,
        host: str,
        owner: str,
        max_running: int,
        now: float,
        max_per_task: int | None = None,
        fifo: bool = False,
    ) -> Execution | None:
        if connection.execute(COUNT_ACTIVE, (farm,)).fetchone()[0] >= max_running:
            return None
        if connection.execute(IS_BLACKLISTED, (host,)).fetchone() is not None:
            raise HostDrained(host)
        while (found := _next(connection, farm, now, max_per_task, fifo)) is not None:
            first, turn = found
            if first.definition != UNREADABLE:
                if not fifo:
                    connection.execute(KEEP_TURN, (farm, *astuple(turn)))
                claimed = change_execution(
                    connection,
                    first,
                    status=Status.PULLING,
                    owner=owner,
                    host=host,
                    epoch=first.epoch + 1,
                )
                record(connection, execution_event(claimed, now))
                return claimed
            end(connection, first, UNREADABLE_RUN, now)
        return None

    @on_writer
    def release(
        self, connection: sqlite3.Connection, execution_id: str, epoch: int, *, now: float
    ) -> None:
        execution = _owned(connection, execution_id, epoch)
        if execution.status is not Status.PULLING:
            raise CompareFailed(f"execution {execution_id} is not pulling any more", execution)
        if execution.stop_reason is not None:
            assert execution.stop_requested_at is not None
            end(connection, execution, STOPPED, execution.stop_requested_at)
            return
        released = change_execution(
            connection, execution, status=Status.ENQUEUED, owner=None, host=None
        )
        record(connection, execution_event(released, now))

    @on_writer
    def started(
        self,
        connection: sqlite3.Connection,
        execution_id: str,
        epoch: int,
        *,
        run_id: str,
        started_at: float,
    ) -> Execution:
        execution = _owned(connection, execution_id, epoch)
        if execution.status is Status.RUNNING:
            return execution
        started_at = not_before(started_at, execution)
        running = change_execution(
            connection, execution, status=Status.RUNNING, run_id=run_id, started_at=started_at
        )
        notify(connection, running, started_at, retry_follows=False)
        record(connection, execution_event(running, started_at))
        return running

    @on_writer
    def finish(
        self,
        connection: sqlite3.Connection,
        execution_id: str,
        epoch: int,
        outcome: Outcome,
        *,
        expected_stop: Reason | None,
        retry: Execution | None,
        finished_at: float,
    ) -> tuple[Execution, Execution | None]:
        execution = _owned(connection, execution_id, epoch)
        if execution.stop_reason != expected_stop:
            raise CompareFailed(f"execution {execution_id} has another stop intent", execution)
        job = None if retry is None else find_job(connection, execution.job_id)
        follows = job is not None and job.generation == execution.generation
        ended = end(connection, execution, outcome, finished_at, retry_follows=follows)
        if retry is None or job is None or not follows:
            return ended, None
        count = job.execution_count + 1
        change_job(connection, job, execution_count=count, modified_at=finished_at)
        return ended, store_execution(connection, copy_with(retry, number=count))

    @on_writer
    def stop(
        self, connection: sqlite3.Connection, execution_id: str, *, reason: Reason, now: float
    ) -> Execution:
        execution = find_execution(connection, execution_id)
        if execution is None:
            raise NotFound(f'There is no execution "{execution_id}".')
        if execution.status is Status.ENQUEUED:
            return end(connection, execution, STOPPED, now)
        if execution.status in ACTIVE:
            return intend_stop(connection, execution, reason, now)
        return execution

    @on_writer
    def queue_due(self, connection: sqlite3.Connection, now: float, limit: int) -> int:
        """Nobody here waits for a final execution: what frees them is in the same transaction."""
        due = connection.execute(DUE_EXECUTIONS, (now, limit)).fetchall()
        connection.executemany(QUEUE, [(now, execution_id) for (execution_id,) in due])
        return len(due)

    @on_writer
    def expire(self, connection: sqlite3.Connection, now: float, limit: int) -> Sequence[Execution]:
        expired = Outcome(Status.EXPIRED, Reason.EXPIRED)
        return end_all(connection, EXPIRED_EXECUTIONS, (now, limit), expired, now)

    @on_reader
    def next_queued(
        self,
        connection: sqlite3.Connection,
        farm: str,
        *,
        now: float,
        max_per_task: int | None = None,
        fifo: bool = False,
    ) -> Execution | None:
        found = _next(connection, farm, now, max_per_task, fifo)
        return None if found is None else found[0]

    @on_reader
    def orphaned(
        self, connection: sqlite3.Connection, farms: Collection[str], *, after: int, limit: int
    ) -> Sequence[Execution]:
        rows = connection.execute(ORPHANED, (json.dumps(list(farms)), after, limit))
        return [execution_from(row) for row in rows]

    @on_writer
    def assign_farm(
        self, connection: sqlite3.Connection, execution_id: str, *, expected: str, farm: str
    ) -> None:
        execution = find_execution(connection, execution_id)
        if (
            execution is None
            or execution.status is not Status.ENQUEUED
            or execution.farm != expected
        ):
            raise CompareFailed(
                f"execution {execution_id} is not enqueued for farm {expected} any more", execution
            )
        change_execution(connection, execution, farm=farm)

    @on_reader
    def get(self, connection: sqlite3.Connection, execution_id: str) -> Execution:
        execution = find_execution(connection, execution_id)
        if execution is None:
            raise NotFound(f'There is no execution "{execution_id}".')
        return execution

    @on_reader
    def last_of_job(
        self, connection: sqlite3.Connection, job_id: str, *, deleted: bool = False
    ) -> Execution | None:
        query = LAST_EXECUTION if deleted else LAST_SHOWN
        return next(executions(connection, query, (job_id,)), None)

    @on_reader
    def of_job(
        self, connection: sqlite3.Connection, job_id: str, page: PageRequest
    ) -> Page[Execution]:
        total = connection.execute(EXECUTIONS_TOTAL, (job_id,)).fetchone() or (0,)
        (before,) = cursor_numbers(page, parts=1) or (MAX_OFFSET,)
        return page_of(
            connection, EXECUTIONS_PAGE, (job_id, before), page, total[0], execution_from
        )

    @on_reader
    def retry_of(self, connection: sqlite3.Connection, execution_id: str) -> Execution | None:
        return next(executions(connection, RETRY_OF, (execution_id,)), None)

    @on_reader
    def ahead_of(
        self, connection: sqlite3.Connection, execution: Execution, *, fifo: bool, limit: int
    ) -> int:
        farm, position = execution.farm, execution.position
        if fifo:
            count = connection.execute(AHEAD_IN_FARM, (farm, position, limit))
        else:
            count = connection.execute(AHEAD_IN_TASK, (farm, execution.task_id, position, limit))
        return int(count.fetchone()[0])

    @on_reader
    def active_counts(self, connection: sqlite3.Connection) -> Mapping[tuple[str, str, str], int]:
        counts = connection.execute(ACTIVE_COUNTS).fetchall()
        return {(farm, task_id, host): count for farm, task_id, host, count in counts}

    @on_reader
    def queues(
        self, connection: sqlite3.Connection, farms: Sequence[str]
    ) -> Mapping[str, FarmQueue]:
        found = {}
        for farm in farms:
            (length,) = connection.execute(QUEUE_LENGTH, (farm,)).fetchone()
            oldest = connection.execute(OLDEST_QUEUED, (farm,)).fetchone()
            found[farm] = FarmQueue(length, oldest and oldest[0])
        return found

    @on_reader
    def active_runs(self, connection: sqlite3.Connection) -> Sequence[ActiveRun]:
        return [active_run_of(row) for row in connection.execute(ACTIVE_RUNS)]

    @on_reader
    def active(self, connection: sqlite3.Connection, *, owner: str) -> Sequence[Execution]:
        return list(executions(connection, ACTIVE_EXECUTIONS_OF_OWNER, (owner,)))


def _next(
    connection: sqlite3.Connection, farm: str, now: float, max_per_task: int | None, fifo: bool
) -> tuple[Execution, Turn] | None:
    """The execution that is to be claimed next, and the turn that this is."""
    if fifo:
        row = connection.execute(FIRST_QUEUED, (farm, now)).fetchone()
        return None if row is None else (next(executions(connection, BY_SEQ, row[2:])), Turn())
    row = connection.execute(LAST_TURN, (farm,)).fetchone()
    turn = Turn() if row is None else Turn(*row)
    found = _rest_of_round(connection, farm, now, max_per_task, turn)
    if found is None:
        turn = turn.next_round(connection.execute(LAST_POSITION).fetchone()[0])
        found = _rest_of_round(connection, farm, now, max_per_task, turn)
    return found


def _rest_of_round(
    connection: sqlite3.Connection, farm: str, now: float, max_per_task: int | None, turn: Turn
) -> tuple[Execution, Turn] | None:
    """Each step is one look into the index.

    It skips a task that has its share (which runs something), or that came after the start of the
    round (which happens to it once).
    """
    for part in turn.rest():
        # A blob comes after every text.
        task_id, to = part.after, b"" if part.to is None else part.to
        while row := connection.execute(FIRST_OF_NEXT_TASK, (farm, task_id, to, now)).fetchone():
            task_id, position, seq = row
            if position <= turn.upto and not _has_share(connection, farm, task_id, max_per_task):
                return next(executions(connection, BY_SEQ, (seq,))), part.turn.of(task_id)
    return None


def _has_share(
    connection: sqlite3.Connection, farm: str, task_id: str, max_per_task: int | None
) -> bool:
    if max_per_task is None:
        return False
    active: int = connection.execute(ACTIVE_OF_TASK, (farm, task_id)).fetchone()[0]
    return active >= max_per_task


def _owned(connection: sqlite3.Connection, execution_id: str, epoch: int) -> Execution:
    """The active execution, as long as *epoch* is its owner's."""
    execution = find_execution(connection, execution_id)
    if execution is None:
        raise CompareFailed(f'There is no execution "{execution_id}".')
    if execution.status not in ACTIVE or execution.epoch != epoch:
        raise CompareFailed(
            f"execution {execution_id} is {execution.status} under epoch {execution.epoch}, "
            f"not active under epoch {epoch}",
            execution,
        )
    return execution
