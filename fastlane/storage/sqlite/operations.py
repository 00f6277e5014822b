"""Every write, as a function of a connection; the writer's thread runs it in a transaction."""

# ruff: noqa: S608 (what is put into a query is a constant of this package)

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace as copy_with
from typing import Any

from fastlane.errors import CompareFailed, KeyReused, NotFound, Rejected
from fastlane.model import (
    ACTIVE,
    ATTEMPTS_KEPT,
    Attempt,
    Delivery,
    DeliveryState,
    Execution,
    HostRecord,
    Job,
    Outcome,
    Reason,
    Status,
)
from fastlane.policy import deliveries_of
from fastlane.storage.base import IdempotencyKey, Submitted
from fastlane.storage.shared import (
    STOPPED,
    UNREADABLE,
    UNREADABLE_RUN,
    clean,
    definition_text,
    words,
)
from fastlane.storage.sqlite.records import (
    DELIVERY_COLUMNS,
    EXECUTION_COLUMNS,
    JOB_COLUMNS,
    Row,
    delivery_from,
    delivery_row,
    execution_from,
    execution_row,
    history_text,
    job_from,
    job_row,
)

# Bounds the log that one step of a clean-up takes away, but for a single longer one.
CLEAN_UP_BYTES = 64 * 1024 * 1024

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

FIND_JOB = f"SELECT {JOB_COLUMNS} FROM jobs WHERE id = ?"
STORE_JOB = f"INSERT INTO jobs ({JOB_COLUMNS}) VALUES ({', '.join('?' * 14)})"

FIND_EXECUTION = f"SELECT {EXECUTION_COLUMNS} FROM executions WHERE id = ?"
FIND_STATUS = "SELECT status FROM executions WHERE id = ?"
STORE_EXECUTION = (
    f"INSERT INTO executions ({EXECUTION_COLUMNS}, expires_at) "
    f"VALUES ({', '.join('?' * (EXECUTION_COLUMNS.count(',') + 2))})"
)
FIND_TICK = "SELECT 1 FROM executions WHERE job_id = ? AND tick = ? AND attempt = 0"
LAST_EXECUTION = f"""
SELECT {EXECUTION_COLUMNS} FROM executions WHERE job_id = ? ORDER BY number DESC LIMIT 1
"""
ENQUEUED_OF_JOB = "SELECT id FROM executions WHERE job_id = ? AND status = 'enqueued'"
ENQUEUED_RETRIES_OF_JOB = f"{ENQUEUED_OF_JOB} AND attempt + lost_reruns > 0"
EVER_CLAIMED = """
SELECT 1 FROM executions WHERE job_id = ?1 AND epoch > 0
UNION ALL SELECT 1 FROM jobs WHERE id = ?1 AND removed > 0
LIMIT 1
"""
NEXT_POSITION = "SELECT position + 1 FROM counters"

COUNT_ACTIVE = """
SELECT count(*) FROM executions WHERE farm = ? AND status IN ('pulling', 'running')
"""
FIRST_QUEUED = f"""
SELECT {EXECUTION_COLUMNS} FROM executions
WHERE farm = ? AND status = 'enqueued' AND position IS NOT NULL
    AND (expires_at IS NULL OR expires_at > ?)
ORDER BY position LIMIT 1
"""
WAITING_FOR = """
SELECT id, due_at FROM executions WHERE status = 'enqueued' AND waits_for = ? ORDER BY seq
"""
WAIT_FOR_ANOTHER = "UPDATE executions SET waits_for = ? WHERE id = ?"
QUEUE = """
UPDATE executions SET waits_for = NULL, due_at = NULL,
    position = (SELECT position + 1 FROM counters)
WHERE id = ?
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

STORE_DELIVERY = (
    f"INSERT OR IGNORE INTO deliveries ({DELIVERY_COLUMNS}) VALUES ({', '.join('?' * 16)})"
)
FIND_DELIVERY = f"SELECT {DELIVERY_COLUMNS} FROM deliveries WHERE id = ?"
# Steps from receiver to receiver through the index, however many deliveries each of them has.
DUE_RECEIVERS = """
WITH RECURSIVE receivers (name) AS (
    SELECT min(receiver) FROM deliveries WHERE state = 'pending'
    UNION ALL
    SELECT (SELECT min(receiver) FROM deliveries WHERE state = 'pending' AND receiver > name)
    FROM receivers WHERE name IS NOT NULL
)
SELECT name, (
    SELECT min(due_at) FROM deliveries WHERE state = 'pending' AND receiver = name
) AS earliest
FROM receivers WHERE name IS NOT NULL AND earliest <= ? ORDER BY earliest
"""
DUE_DELIVERIES = f"""
SELECT {DELIVERY_COLUMNS} FROM deliveries
WHERE state = 'pending' AND receiver = ? AND due_at <= ? ORDER BY due_at LIMIT ?
"""

STRAYS = f"""
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

HOSTS = "SELECT host, failures, error, open_until, blacklisted FROM hosts ORDER BY host"
STORE_BREAKER = """
INSERT INTO hosts (host, failures, error, open_until) VALUES (?, ?, ?, ?)
ON CONFLICT (host) DO UPDATE SET
    failures = excluded.failures, error = excluded.error, open_until = excluded.open_until
"""
BLACKLIST_HOST = """
INSERT INTO hosts (host, blacklisted) VALUES (?, ?)
ON CONFLICT (host) DO UPDATE SET blacklisted = excluded.blacklisted
"""

OLD_EXECUTIONS = """
SELECT seq, id, job_id, ifnull((SELECT kept_bytes FROM logs WHERE execution = seq), 0)
FROM executions INDEXED BY executions_finished
WHERE status IN ('done', 'failed', 'timedout', 'expired') AND finished_at < ?
    AND NOT EXISTS (
        SELECT 1 FROM deliveries WHERE execution_id = executions.id AND state = 'pending'
    )
ORDER BY finished_at LIMIT ?
"""
REMOVE_EXECUTION = (
    "DELETE FROM log_chunks WHERE execution = :seq",
    "DELETE FROM logs WHERE execution = :seq",
    "DELETE FROM deliveries WHERE execution_id = :id",
    "DELETE FROM executions WHERE seq = :seq",
    "UPDATE jobs SET removed = removed + 1 WHERE id = :job_id",
)
IDLE_JOBS = """
SELECT id, task_id FROM jobs INDEXED BY jobs_idle
WHERE next_run_at IS NULL AND execution_count = removed AND modified_at < ?
ORDER BY modified_at LIMIT ?
"""
REMOVE_JOB = (
    "DELETE FROM idempotency WHERE job_id = :id",
    "DELETE FROM jobs WHERE id = :id",
    "UPDATE tasks SET jobs_count = jobs_count - 1 WHERE id = :task_id",
)
EMPTY_TASK = "SELECT seq FROM tasks WHERE id = ? AND jobs_count = 0"
REMOVE_WORD = "DELETE FROM words WHERE word = ? AND task = ?"
REMOVE_TASK = "DELETE FROM tasks WHERE seq = ?"

STORE_LEASE = """
INSERT INTO leases (instance, ends_at) VALUES (?, ?)
ON CONFLICT (instance) DO UPDATE SET ends_at = excluded.ends_at
"""
END_LEASE = "DELETE FROM leases WHERE instance = ?"
ORPHANS = f"""
SELECT {EXECUTION_COLUMNS} FROM executions INDEXED BY executions_active
WHERE status IN ('pulling', 'running') AND owner <> ?
    AND NOT EXISTS (SELECT 1 FROM leases WHERE instance = owner AND ends_at > ?)
ORDER BY seq LIMIT ?
"""


# -- submitting -------------------------------------------------------------------------------


def submit(
    connection: sqlite3.Connection,
    job: Job,
    execution: Execution | None,
    replace: bool,
    idempotency: IdempotencyKey | None,
) -> Submitted:
    """:meth:`fastlane.storage.base.Storage.submit`."""
    if idempotency is not None:
        first = _first_answer(connection, job.task_id, idempotency)
        if first is not None:
            return first
    there = _find_job(connection, job.id)
    if there is None:
        stored = copy_with(job, execution_count=0 if execution is None else 1)
        connection.execute(STORE_JOB, job_row(stored))
    elif not replace:
        raise CompareFailed(f"there is a job {job.id} already")
    elif there.task_id != job.task_id:
        raise Rejected(f"job {job.id} belongs to another task")
    else:
        stored = _replace_job(connection, there, job, execution)
    _store_task(connection, job, is_new_job=there is None)
    if execution is not None:
        execution = _store_execution(
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


def _first_answer(
    connection: sqlite3.Connection, task_id: str, idempotency: IdempotencyKey
) -> Submitted | None:
    row = connection.execute(FIND_KEY, (task_id, idempotency.key)).fetchone()
    if row is None:
        return None
    fingerprint, job_id, queue_job_id, execution_id = row
    if fingerprint != idempotency.fingerprint:
        raise KeyReused(idempotency.key)
    job = _find_job(connection, job_id)
    if job is None:
        return None
    execution = None if execution_id is None else _find_execution(connection, execution_id)
    # The job's own may have changed since, by a retry or a PUT.
    return Submitted(copy_with(job, queue_job_id=queue_job_id), execution, repeated=True)


def _replace_job(
    connection: sqlite3.Connection, there: Job, job: Job, execution: Execution | None
) -> Job:
    _end_all(connection, ENQUEUED_RETRIES_OF_JOB, (there.id,), STOPPED, job.modified_at)
    return _change_job(
        connection,
        there,
        definition=job.definition,
        schedule=job.schedule,
        queue_job_id=job.queue_job_id,
        next_run_at=job.next_run_at,
        modified_at=job.modified_at,
        request_ip=job.request_ip,
        generation=there.generation + 1,
        stopped_at=None,
        execution_count=there.execution_count + (execution is not None),
    )


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


def tick(
    connection: sqlite3.Connection,
    job: Job,
    execution: Execution | None,
    next_run_at: float | None,
    now: float,
) -> Execution | None:
    """:meth:`fastlane.storage.base.Storage.tick`."""
    there = _find_job(connection, job.id)
    if (
        there is None
        or there.generation != job.generation
        or there.next_run_at is None
        or there.next_run_at != job.next_run_at
    ):
        raise CompareFailed(f"job {job.id} does not stand at this tick any more")
    if execution is not None and _tick_is_taken(connection, execution):
        # A clock that was put back, say: the job moves on, or it would be due for ever.
        execution = None
    count = there.execution_count + (execution is not None)
    _change_job(connection, there, next_run_at=next_run_at, execution_count=count, modified_at=now)
    if execution is None:
        return None
    return _store_execution(connection, copy_with(execution, number=count))


def _tick_is_taken(connection: sqlite3.Connection, execution: Execution) -> bool:
    taken = connection.execute(FIND_TICK, (execution.job_id, execution.tick)).fetchone()
    return taken is not None


def stop_job(connection: sqlite3.Connection, task_id: str, job_id: str, now: float) -> Job:
    """:meth:`fastlane.storage.base.Storage.stop_job`."""
    job = _find_job(connection, job_id)
    if job is None or job.task_id != task_id:
        raise NotFound(f"there is no job {job_id} in task {task_id}")
    if job.stopped_at is not None:
        return job
    last = _last_execution(connection, job_id)
    _end_all(connection, ENQUEUED_OF_JOB, (job_id,), STOPPED, now)
    if last is not None and last.status in ACTIVE:
        _intend_stop(connection, last, Reason.STOPPED, now)
    return _change_job(
        connection,
        job,
        generation=job.generation + 1,
        next_run_at=None,
        stopped_at=now,
        modified_at=now,
    )


def retry_job(
    connection: sqlite3.Connection, job: Job, execution: Execution, now: float
) -> Execution:
    """:meth:`fastlane.storage.base.Storage.retry_job`."""
    there = _find_job(connection, job.id)
    if there is None or there.generation != job.generation:
        raise CompareFailed(f"job {job.id} was changed or stopped meanwhile")
    if connection.execute(EVER_CLAIMED, (job.id,)).fetchone() is None:
        raise Rejected(f"job {job.id} has not run yet")
    last = _last_execution(connection, job.id)
    waits_for = execution.waits_for
    if last is not None and last.status is Status.ENQUEUED:
        waits_for = waits_for or last.waits_for
        _end(connection, last, STOPPED, now)
    elif last is not None and last.status in ACTIVE:
        waits_for = last.id
        _intend_stop(connection, last, Reason.STOPPED, now)
    count = there.execution_count + 1
    _change_job(
        connection,
        there,
        queue_job_id=execution.queue_job_id,
        stopped_at=None,
        execution_count=count,
        modified_at=now,
    )
    return _store_execution(connection, copy_with(execution, number=count, waits_for=waits_for))


# -- the life of an execution -----------------------------------------------------------------


def claim(
    connection: sqlite3.Connection, farm: str, host: str, owner: str, max_running: int, now: float
) -> Execution | None:
    """:meth:`fastlane.storage.base.Storage.claim`."""
    if connection.execute(COUNT_ACTIVE, (farm,)).fetchone()[0] >= max_running:
        return None
    while (row := connection.execute(FIRST_QUEUED, (farm, now)).fetchone()) is not None:
        first = execution_from(row)
        if first.definition != UNREADABLE:
            return _change_execution(
                connection,
                first,
                status=Status.PULLING,
                owner=owner,
                host=host,
                epoch=first.epoch + 1,
            )
        _end(connection, first, UNREADABLE_RUN, now)
    return None


def release(connection: sqlite3.Connection, execution_id: str, epoch: int) -> None:
    """:meth:`fastlane.storage.base.Storage.release`."""
    execution = _owned(connection, execution_id, epoch)
    if execution.status is not Status.PULLING:
        raise CompareFailed(f"execution {execution_id} is not pulling any more", execution)
    if execution.stop_reason is not None:
        assert execution.stop_requested_at is not None
        _end(connection, execution, STOPPED, execution.stop_requested_at)
        return
    _change_execution(connection, execution, status=Status.ENQUEUED, owner=None, host=None)


def started(
    connection: sqlite3.Connection, execution_id: str, epoch: int, run_id: str, started_at: float
) -> Execution:
    """:meth:`fastlane.storage.base.Storage.started`."""
    execution = _owned(connection, execution_id, epoch)
    if execution.status is Status.RUNNING:
        return execution
    running = _change_execution(
        connection, execution, status=Status.RUNNING, run_id=run_id, started_at=started_at
    )
    _notify(connection, running, started_at, retry_follows=False)
    return running


def finish(
    connection: sqlite3.Connection,
    execution_id: str,
    epoch: int,
    outcome: Outcome,
    expected_stop: Reason | None,
    retry: Execution | None,
    finished_at: float,
) -> tuple[Execution, Execution | None]:
    """:meth:`fastlane.storage.base.Storage.finish`."""
    execution = _owned(connection, execution_id, epoch)
    if execution.stop_reason != expected_stop:
        raise CompareFailed(f"execution {execution_id} has another stop intent", execution)
    job = None if retry is None else _find_job(connection, execution.job_id)
    follows = job is not None and job.generation == execution.generation
    ended = _end(connection, execution, outcome, finished_at, retry_follows=follows)
    if retry is None or job is None or not follows:
        return ended, None
    count = job.execution_count + 1
    _change_job(connection, job, execution_count=count, modified_at=finished_at)
    return ended, _store_execution(connection, copy_with(retry, number=count))


def stop_execution(
    connection: sqlite3.Connection, execution_id: str, reason: Reason, now: float
) -> Execution:
    """:meth:`fastlane.storage.base.Storage.stop_execution`."""
    execution = _find_execution(connection, execution_id)
    if execution is None:
        raise NotFound(f"there is no execution {execution_id}")
    if execution.status is Status.ENQUEUED:
        return _end(connection, execution, STOPPED, now)
    if execution.status in ACTIVE:
        return _intend_stop(connection, execution, reason, now)
    return execution


# -- what is due ------------------------------------------------------------------------------


def queue_due(connection: sqlite3.Connection, now: float, limit: int) -> int:
    """:meth:`fastlane.storage.base.Storage.queue_due`.

    Nobody here waits for a final execution: what frees them is in the same transaction.
    """
    due = connection.execute(DUE_EXECUTIONS, (now, limit)).fetchall()
    connection.executemany(QUEUE, due)
    return len(due)


def expire(connection: sqlite3.Connection, now: float, limit: int) -> Sequence[Execution]:
    """:meth:`fastlane.storage.base.Storage.expire`."""
    expired = Outcome(Status.EXPIRED, Reason.EXPIRED)
    return _end_all(connection, EXPIRED_EXECUTIONS, (now, limit), expired, now)


# -- queues, hosts and retention --------------------------------------------------------------


def assign_farm(
    connection: sqlite3.Connection, execution_id: str, expected: str, farm: str
) -> None:
    """:meth:`fastlane.storage.base.Storage.assign_farm`."""
    execution = _find_execution(connection, execution_id)
    if execution is None or execution.status is not Status.ENQUEUED or execution.farm != expected:
        raise CompareFailed(
            f"execution {execution_id} is not enqueued for farm {expected} any more", execution
        )
    _change_execution(connection, execution, farm=farm)


def store_breaker(connection: sqlite3.Connection, record: HostRecord) -> None:
    """:meth:`fastlane.storage.base.Storage.store_breaker`."""
    values = (record.host, record.failures, clean(record.error), record.open_until)
    connection.execute(STORE_BREAKER, values)


def blacklist_host(connection: sqlite3.Connection, host: str, blacklisted: bool) -> None:
    """:meth:`fastlane.storage.base.Storage.blacklist_host`."""
    connection.execute(BLACKLIST_HOST, (host, int(blacklisted)))


def clean_up(connection: sqlite3.Connection, before: float, limit: int) -> int:
    """:meth:`fastlane.storage.base.Storage.clean_up`."""
    removed = 0
    log_bytes = 0
    for seq, execution_id, job_id, kept_bytes in connection.execute(
        OLD_EXECUTIONS, (before, limit)
    ).fetchall():
        if removed and log_bytes + kept_bytes > CLEAN_UP_BYTES:
            break
        log_bytes += kept_bytes
        for statement in REMOVE_EXECUTION:
            connection.execute(statement, {"seq": seq, "id": execution_id, "job_id": job_id})
        removed += 1
    for job_id, task_id in connection.execute(IDLE_JOBS, (before, limit)).fetchall():
        for statement in REMOVE_JOB:
            connection.execute(statement, {"id": job_id, "task_id": task_id})
        empty = connection.execute(EMPTY_TASK, (task_id,)).fetchone()
        if empty is not None:
            connection.executemany(REMOVE_WORD, [(word, empty[0]) for word in words(task_id)])
            connection.execute(REMOVE_TASK, empty)
        removed += 1
    return removed


# -- the outbox -------------------------------------------------------------------------------


def claim_deliveries(
    connection: sqlite3.Connection,
    now: float,
    claim_seconds: float,
    limit: int,
    per_receiver: int,
    busy: Mapping[str, int],
) -> Sequence[Delivery]:
    """:meth:`fastlane.storage.base.Storage.claim_deliveries`."""
    due: list[Delivery] = []
    for receiver, earliest in connection.execute(DUE_RECEIVERS, (now,)).fetchall():
        if len(due) >= limit and earliest >= max(_due(one) for one in due[:limit]):
            break
        room = min(limit, per_receiver - busy.get(receiver, 0))
        if room > 0:
            rows = connection.execute(DUE_DELIVERIES, (receiver, now, room))
            due = sorted([*due, *map(delivery_from, rows)], key=_due)[:limit]
    return [
        _change_delivery(
            connection,
            delivery,
            claim=delivery.claim + 1,
            claimed_at=now,
            due_at=now + claim_seconds,
        )
        for delivery in due
    ]


def attempted(
    connection: sqlite3.Connection,
    delivery_id: str,
    claim: int,
    attempt: Attempt,
    retry_at: float | None,
) -> Delivery:
    """:meth:`fastlane.storage.base.Storage.attempted`."""
    delivery = _claimed(connection, delivery_id, claim)
    if attempt.error is None:
        state, retry_at = DeliveryState.DELIVERED, None
    else:
        state = DeliveryState.FAILED if retry_at is None else DeliveryState.PENDING
    return _change_delivery(
        connection,
        delivery,
        state=state,
        attempts=delivery.attempts + 1,
        due_at=retry_at,
        claimed_at=None,
        history=(*delivery.history, attempt)[-ATTEMPTS_KEPT:],
    )


def unclaim_delivery(connection: sqlite3.Connection, delivery_id: str, claim: int) -> None:
    """:meth:`fastlane.storage.base.Storage.unclaim_delivery`."""
    delivery = _claimed(connection, delivery_id, claim)
    _change_delivery(connection, delivery, due_at=delivery.claimed_at, claimed_at=None)


def requeue_delivery(connection: sqlite3.Connection, delivery_id: str, now: float) -> Delivery:
    """:meth:`fastlane.storage.base.Storage.requeue_delivery`."""
    delivery = _find_delivery(connection, delivery_id)
    if delivery is None:
        raise NotFound(f"there is no notification {delivery_id}")
    if delivery.state is DeliveryState.DELIVERED:
        raise Rejected(f"notification {delivery_id} was delivered; there is nothing to requeue")
    if delivery.state is DeliveryState.PENDING:
        return delivery
    return _change_delivery(
        connection, delivery, state=DeliveryState.PENDING, attempts=0, due_at=now
    )


def _due(delivery: Delivery) -> float:
    assert delivery.due_at is not None
    return delivery.due_at


def _find_delivery(connection: sqlite3.Connection, delivery_id: str) -> Delivery | None:
    row = connection.execute(FIND_DELIVERY, (delivery_id,)).fetchone()
    return None if row is None else delivery_from(row)


def _claimed(connection: sqlite3.Connection, delivery_id: str, claim: int) -> Delivery:
    """The pending delivery, as long as it is claimed under *claim*."""
    delivery = _find_delivery(connection, delivery_id)
    if delivery is None or delivery.claimed_at is None or delivery.claim != claim:
        raise CompareFailed(f"notification {delivery_id} is not claimed under {claim} any more")
    return delivery


def _change_delivery(
    connection: sqlite3.Connection, delivery: Delivery, **changes: Any
) -> Delivery:
    columns = dict(changes)
    if "history" in columns:
        columns["history"] = history_text(columns["history"])
    _update(connection, "deliveries", delivery.id, columns)
    return copy_with(delivery, **changes)


# -- instances --------------------------------------------------------------------------------


def beat(connection: sqlite3.Connection, instance: str, ends_at: float) -> None:
    """:meth:`fastlane.storage.base.Storage.beat`."""
    connection.execute(STORE_LEASE, (instance, ends_at))


def leave(connection: sqlite3.Connection, instance: str) -> None:
    """:meth:`fastlane.storage.base.Storage.leave`."""
    connection.execute(END_LEASE, (instance,))


def adopt(
    connection: sqlite3.Connection, instance: str, now: float, limit: int
) -> Sequence[Execution]:
    """:meth:`fastlane.storage.base.Storage.adopt`."""
    return [
        _change_execution(connection, orphan, owner=instance, epoch=orphan.epoch + 1)
        for orphan in list(_executions(connection, ORPHANS, (instance, now, limit)))
    ]


# -- the parts that several of them share -----------------------------------------------------


def _find_job(connection: sqlite3.Connection, job_id: str) -> Job | None:
    row = connection.execute(FIND_JOB, (job_id,)).fetchone()
    return None if row is None else job_from(row)


def _find_execution(connection: sqlite3.Connection, execution_id: str) -> Execution | None:
    return next(_executions(connection, FIND_EXECUTION, (execution_id,)), None)


def _last_execution(connection: sqlite3.Connection, job_id: str) -> Execution | None:
    return next(_executions(connection, LAST_EXECUTION, (job_id,)), None)


def _executions(connection: sqlite3.Connection, query: str, parameters: Row) -> Iterator[Execution]:
    return map(execution_from, connection.execute(query, parameters).fetchall())


def _owned(connection: sqlite3.Connection, execution_id: str, epoch: int) -> Execution:
    """The active execution, as long as *epoch* is its owner's."""
    execution = _find_execution(connection, execution_id)
    if execution is None:
        raise CompareFailed(f"there is no execution {execution_id}")
    if execution.status not in ACTIVE or execution.epoch != epoch:
        raise CompareFailed(
            f"execution {execution_id} is {execution.status} under epoch {execution.epoch}, "
            f"not active under epoch {epoch}",
            execution,
        )
    return execution


def _store_execution(connection: sqlite3.Connection, execution: Execution) -> Execution:
    """Store a new execution, at the end of its queue unless it is delayed."""
    if execution.waits_for is not None and not _is_unfinished(connection, execution.waits_for):
        execution = copy_with(execution, waits_for=None)
    position: int | None = None
    if execution.waits_for is None and execution.due_at is None:
        position = connection.execute(NEXT_POSITION).fetchone()[0]
    stored = copy_with(execution, position=position)
    try:
        connection.execute(STORE_EXECUTION, (*execution_row(stored), stored.definition.expires_at))
    except sqlite3.IntegrityError as error:
        raise CompareFailed(f"there is an execution {stored.id} already") from error
    return stored


def _is_unfinished(connection: sqlite3.Connection, execution_id: str) -> bool:
    row = connection.execute(FIND_STATUS, (execution_id,)).fetchone()
    return row is not None and row[0] in {Status.ENQUEUED, *ACTIVE}


def _change_job(connection: sqlite3.Connection, job: Job, **changes: Any) -> Job:
    columns = dict(changes)
    if "definition" in columns:
        columns["definition"] = definition_text(columns["definition"])
    if (schedule := columns.pop("schedule", None)) is not None:
        columns |= {
            "start_at": schedule.start_at,
            "cron": schedule.cron,
            "timezone": schedule.timezone,
        }
    _update(connection, "jobs", job.id, columns)
    return copy_with(job, **changes)


def _change_execution(
    connection: sqlite3.Connection, execution: Execution, **changes: Any
) -> Execution:
    _update(connection, "executions", execution.id, changes)
    return copy_with(execution, **changes)


def _update(
    connection: sqlite3.Connection, table: str, record_id: str, columns: dict[str, Any]
) -> None:
    assignments = ", ".join(f"{column} = ?" for column in columns)
    connection.execute(
        f"UPDATE {table} SET {assignments} WHERE id = ?",
        (*columns.values(), record_id),
    )


def _notify(
    connection: sqlite3.Connection, execution: Execution, now: float, *, retry_follows: bool
) -> None:
    """Put into the outbox whom the status of *execution* is told to."""
    for delivery in deliveries_of(execution, now=now, retry_follows=retry_follows):
        connection.execute(STORE_DELIVERY, delivery_row(delivery))


def _end(
    connection: sqlite3.Connection,
    execution: Execution,
    outcome: Outcome,
    finished_at: float,
    *,
    retry_follows: bool = False,
) -> Execution:
    """Make *execution* final, tell of it, and free what waited for it.

    Where it waited itself, what waited for it waits for that one now: the chain stays a chain.
    """
    ended = _change_execution(
        connection,
        execution,
        status=outcome.status,
        reason=outcome.reason,
        exit_code=outcome.exit_code,
        error=clean(outcome.error),
        finished_at=finished_at,
        waits_for=None,
        due_at=None,
    )
    for waiting, due_at in connection.execute(WAITING_FOR, (execution.id,)).fetchall():
        if execution.waits_for is not None or due_at is not None:
            connection.execute(WAIT_FOR_ANOTHER, (execution.waits_for, waiting))
        else:
            connection.execute(QUEUE, (waiting,))
    _notify(connection, ended, finished_at, retry_follows=retry_follows)
    return ended


def _end_all(
    connection: sqlite3.Connection,
    query: str,
    parameters: Row,
    outcome: Outcome,
    finished_at: float,
) -> Sequence[Execution]:
    """End what *query* names; each is read only then, for one may wait for another of them."""
    return [
        _end(connection, execution, outcome, finished_at)
        for (execution_id,) in connection.execute(query, parameters).fetchall()
        if (execution := _find_execution(connection, execution_id)) is not None
    ]


def _intend_stop(
    connection: sqlite3.Connection, execution: Execution, reason: Reason, now: float
) -> Execution:
    if execution.stop_reason is not None:
        return execution
    return _change_execution(connection, execution, stop_reason=reason, stop_requested_at=now)
