"""The embedded storage: hands operations to the writer and queries to the readers."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from fastlane.errors import StorageInUse, StorageUnavailable
from fastlane.model import (
    Attempt,
    Delivery,
    DeliveryState,
    Execution,
    HostRecord,
    Job,
    LogCap,
    LogRecord,
    LogState,
    Outcome,
    Reason,
    Stream,
    Task,
)
from fastlane.storage.base import (
    IdempotencyKey,
    Overview,
    Page,
    PageRequest,
    Storage,
    Submitted,
)
from fastlane.storage.sqlite import log, operations, queries
from fastlane.storage.sqlite.schema import connect_writer
from fastlane.storage.sqlite.writer import Readers, Writer, translated

R = TypeVar("R")

DATABASE_NAME = "fastlane.db"
LOCK_NAME = "fastlane.lock"


class SqliteStorage(Storage):
    """Everything in one SQLite file in *data_dir*, which one server at a time owns.

    Every change is on the disk before its method returns: WAL with ``synchronous=FULL``, see
    https://www.sqlite.org/pragma.html#pragma_synchronous.
    """

    name = "sqlite"

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._lock: int | None = None
        self._writer: Writer | None = None
        self._readers: Readers | None = None

    async def open(self) -> None:
        connection = await asyncio.to_thread(self._open_file)
        self._writer = Writer(connection)
        self._readers = Readers(self._data_dir / DATABASE_NAME)

    def _open_file(self) -> sqlite3.Connection:
        try:
            self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _take_lock(self._data_dir / LOCK_NAME)
        except OSError as error:
            raise StorageUnavailable(
                f"the data directory {self._data_dir} cannot be used: {error.strerror}; "
                "set DATA_DIR to one that can be written"
            ) from error
        try:
            return connect_writer(self._data_dir / DATABASE_NAME)
        except BaseException as error:
            self._unlock()
            if isinstance(error, OSError):
                raise StorageUnavailable(f"the database file cannot be used: {error}") from error
            raise translated(error) from error

    async def close(self) -> None:
        # The writer is the last, so that it takes the write-ahead log into the file.
        if self._readers is not None:
            await self._readers.close()
        if self._writer is not None:
            await self._writer.close()
        self._unlock()

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    @property
    def commits(self) -> int:
        """How many commits there have been since it was opened."""
        return 0 if self._writer is None else self._writer.commits

    async def _write(
        self, operation: Callable[[sqlite3.Connection], R], *, weight_bytes: int = 0
    ) -> R:
        if self._writer is None:
            raise StorageUnavailable("the storage is not open")
        return await self._writer.run(operation, weight_bytes=weight_bytes)

    async def _read(self, query: Callable[[sqlite3.Connection], R]) -> R:
        if self._readers is None:
            raise StorageUnavailable("the storage is not open")
        return await self._readers.run(query)

    async def check(self) -> Mapping[str, str | None]:
        """``mongo`` stands for the records and their readers, ``redis`` for the writer."""
        records = queue = None
        try:
            await self._read(queries.overview)
        except StorageUnavailable as error:
            records = str(error)
        try:
            # An empty transaction costs no fsync, so it shows a lock but not a full disk: that is
            # known from the last group which had something to write.
            await self._write(queries.overview)
            queue = None if self._writer is None else self._writer.failure
        except StorageUnavailable as error:
            queue = str(error)
        return {"mongo": records, "redis": queue}

    # -- submitting ---------------------------------------------------------------------------

    async def submit(
        self,
        job: Job,
        execution: Execution | None,
        *,
        replace: bool = False,
        idempotency: IdempotencyKey | None = None,
    ) -> Submitted:
        return await self._write(
            partial(
                operations.submit,
                job=job,
                execution=execution,
                replace=replace,
                idempotency=idempotency,
            )
        )

    async def tick(
        self, job: Job, execution: Execution | None, *, next_run_at: float | None, now: float
    ) -> Execution | None:
        return await self._write(
            partial(operations.tick, job=job, execution=execution, next_run_at=next_run_at, now=now)
        )

    async def stop_job(self, task_id: str, job_id: str, *, now: float) -> Job:
        return await self._write(
            partial(operations.stop_job, task_id=task_id, job_id=job_id, now=now)
        )

    async def retry_job(self, job: Job, execution: Execution, *, now: float) -> Execution:
        return await self._write(
            partial(operations.retry_job, job=job, execution=execution, now=now)
        )

    # -- the life of an execution -------------------------------------------------------------

    async def claim(
        self, farm: str, *, host: str, owner: str, max_running: int, now: float
    ) -> Execution | None:
        return await self._write(
            partial(
                operations.claim,
                farm=farm,
                host=host,
                owner=owner,
                max_running=max_running,
                now=now,
            )
        )

    async def release(self, execution_id: str, epoch: int) -> None:
        await self._write(partial(operations.release, execution_id=execution_id, epoch=epoch))

    async def started(
        self, execution_id: str, epoch: int, *, run_id: str, started_at: float
    ) -> Execution:
        return await self._write(
            partial(
                operations.started,
                execution_id=execution_id,
                epoch=epoch,
                run_id=run_id,
                started_at=started_at,
            )
        )

    async def append_log(
        self,
        execution_id: str,
        epoch: int,
        records: Sequence[LogRecord],
        *,
        bookmark: str,
        cap: LogCap | None,
    ) -> None:
        await self._write(
            partial(
                log.append_log,
                execution_id=execution_id,
                epoch=epoch,
                records=records,
                bookmark=bookmark,
                cap=cap,
            ),
            weight_bytes=sum(len(record.data) for record in records),
        )

    async def finish(
        self,
        execution_id: str,
        epoch: int,
        outcome: Outcome,
        *,
        expected_stop: Reason | None,
        retry: Execution | None,
        finished_at: float,
    ) -> tuple[Execution, Execution | None]:
        return await self._write(
            partial(
                operations.finish,
                execution_id=execution_id,
                epoch=epoch,
                outcome=outcome,
                expected_stop=expected_stop,
                retry=retry,
                finished_at=finished_at,
            )
        )

    async def stop_execution(self, execution_id: str, *, reason: Reason, now: float) -> Execution:
        return await self._write(
            partial(operations.stop_execution, execution_id=execution_id, reason=reason, now=now)
        )

    # -- what is due --------------------------------------------------------------------------

    async def next_due_at(self) -> float | None:
        return await self._read(queries.next_due_at)

    async def due_jobs(self, now: float, limit: int) -> Sequence[Job]:
        return await self._read(partial(queries.due_jobs, now=now, limit=limit))

    async def queue_due(self, now: float, limit: int) -> int:
        return await self._write(partial(operations.queue_due, now=now, limit=limit))

    async def expire(self, now: float, limit: int) -> Sequence[Execution]:
        return await self._write(partial(operations.expire, now=now, limit=limit))

    # -- queues, hosts and retention ----------------------------------------------------------

    async def next_queued(self, farm: str, *, now: float) -> Execution | None:
        return await self._read(partial(queries.next_queued, farm=farm, now=now))

    async def stray_executions(
        self, farms: Collection[str], *, after: int, limit: int
    ) -> Sequence[Execution]:
        return await self._read(
            partial(queries.stray_executions, farms=sorted(farms), after=after, limit=limit)
        )

    async def assign_farm(self, execution_id: str, *, expected: str, farm: str) -> None:
        await self._write(
            partial(operations.assign_farm, execution_id=execution_id, expected=expected, farm=farm)
        )

    async def hosts(self) -> Sequence[HostRecord]:
        return await self._read(queries.hosts)

    async def store_breaker(self, record: HostRecord) -> None:
        await self._write(partial(operations.store_breaker, record=record))

    async def blacklist_host(self, host: str, *, blacklisted: bool) -> None:
        await self._write(partial(operations.blacklist_host, host=host, blacklisted=blacklisted))

    async def clean_up(self, before: float, limit: int) -> int:
        return await self._write(partial(operations.clean_up, before=before, limit=limit))

    # -- the outbox ---------------------------------------------------------------------------

    async def next_delivery_at(self) -> float | None:
        return await self._read(queries.next_delivery_at)

    async def claim_deliveries(
        self,
        *,
        now: float,
        claim_seconds: float,
        limit: int,
        per_receiver: int,
        busy: Mapping[str, int],
    ) -> Sequence[Delivery]:
        return await self._write(
            partial(
                operations.claim_deliveries,
                now=now,
                claim_seconds=claim_seconds,
                limit=limit,
                per_receiver=per_receiver,
                busy=dict(busy),
            )
        )

    async def attempted(
        self, delivery_id: str, claim: int, attempt: Attempt, *, retry_at: float | None
    ) -> Delivery:
        return await self._write(
            partial(
                operations.attempted,
                delivery_id=delivery_id,
                claim=claim,
                attempt=attempt,
                retry_at=retry_at,
            )
        )

    async def unclaim_delivery(self, delivery_id: str, claim: int) -> None:
        await self._write(
            partial(operations.unclaim_delivery, delivery_id=delivery_id, claim=claim)
        )

    async def requeue_delivery(self, delivery_id: str, *, now: float) -> Delivery:
        return await self._write(
            partial(operations.requeue_delivery, delivery_id=delivery_id, now=now)
        )

    async def deliveries(self, state: DeliveryState, page: PageRequest) -> Page[Delivery]:
        return await self._read(partial(queries.deliveries, state=state, page=page))

    async def deliveries_of(self, execution_ids: Sequence[str]) -> Sequence[Delivery]:
        return await self._read(partial(queries.deliveries_of, execution_ids=execution_ids))

    # -- instances ----------------------------------------------------------------------------

    async def beat(self, instance: str, *, now: float, lease_seconds: float) -> None:
        await self._write(partial(operations.beat, instance=instance, ends_at=now + lease_seconds))

    async def leave(self, instance: str) -> None:
        await self._write(partial(operations.leave, instance=instance))

    async def adopt(self, instance: str, *, now: float, limit: int) -> Sequence[Execution]:
        return await self._write(partial(operations.adopt, instance=instance, now=now, limit=limit))

    # -- reading ------------------------------------------------------------------------------

    async def task(self, task_id: str) -> Task:
        return await self._read(partial(queries.task, task_id=task_id))

    async def tasks(self, page: PageRequest) -> Page[Task]:
        return await self._read(partial(queries.tasks, page=page))

    async def search_tasks(self, query: str, page: PageRequest) -> Page[Task]:
        return await self._read(partial(queries.search_tasks, query=query, page=page))

    async def job(self, task_id: str, job_id: str) -> Job:
        return await self._read(partial(queries.job, task_id=task_id, job_id=job_id))

    async def jobs(self, task_id: str, page: PageRequest) -> Page[Job]:
        return await self._read(partial(queries.jobs, task_id=task_id, page=page))

    async def execution(self, execution_id: str) -> Execution:
        return await self._read(partial(queries.execution, execution_id=execution_id))

    async def last_execution(self, job_id: str) -> Execution | None:
        return await self._read(partial(queries.last_execution, job_id=job_id))

    async def executions(self, job_id: str, page: PageRequest) -> Page[Execution]:
        return await self._read(partial(queries.executions, job_id=job_id, page=page))

    async def active_executions(self, *, owner: str | None = None) -> Sequence[Execution]:
        return await self._read(partial(queries.active_executions, owner=owner))

    async def scheduled_jobs(self, limit: int) -> Sequence[Job]:
        return await self._read(partial(queries.scheduled_jobs, limit=limit))

    async def overview(self) -> Overview:
        return await self._read(queries.overview)

    async def log_state(self, execution_id: str) -> LogState:
        return await self._read(partial(log.log_state, execution_id=execution_id))

    async def read_log(
        self, execution_id: str, *, after: int = 0, max_bytes: int = 256 * 1024
    ) -> Sequence[LogRecord]:
        return await self._read(
            partial(log.read_log, execution_id=execution_id, after=after, max_bytes=max_bytes)
        )

    async def read_log_tails(
        self, wanted: Sequence[tuple[str, Stream]], *, max_bytes: int
    ) -> Sequence[tuple[bytes, bool]]:
        return await self._read(partial(log.read_log_tails, wanted=wanted, max_bytes=max_bytes))


def _take_lock(path: Path) -> int:
    """The open, locked file; the lock ends with the process, however that ends.

    :raises StorageInUse: another process has it.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise StorageInUse(
            f"{path.parent} is in use by another fastlane server; stop that one, "
            "or give this one another DATA_DIR"
        ) from error
    except BaseException:
        os.close(lock)
        raise
    return lock
