"""The embedded storage: the file, its facets, and what concerns several of them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from fastlane.errors import StorageUnavailable
from fastlane.storage.base import Overview, Storage
from fastlane.storage.observing import Observe
from fastlane.storage.sqlite.connections import connect_writer
from fastlane.storage.sqlite.deletions import (
    COUNT_REMOVED,
    REMOVE_EXECUTION,
    SqliteDeletions,
    remove_task,
)
from fastlane.storage.sqlite.events import SqliteEvents
from fastlane.storage.sqlite.executions import SqliteExecutions
from fastlane.storage.sqlite.facet import Facet, File, on_reader, on_writer
from fastlane.storage.sqlite.hosts import SqliteHosts
from fastlane.storage.sqlite.instances import SqliteInstances
from fastlane.storage.sqlite.jobs import SqliteJobs
from fastlane.storage.sqlite.lists import SqliteLists
from fastlane.storage.sqlite.logs import SqliteLogs
from fastlane.storage.sqlite.outbox import SqliteOutbox
from fastlane.storage.sqlite.place import Place
from fastlane.storage.sqlite.stats import SqliteStats
from fastlane.storage.sqlite.tasks import SqliteTasks
from fastlane.storage.sqlite.writer import translated

# Bounds the log that one step of a clean-up takes away, but for a single longer one.
CLEAN_UP_BYTES = 64 * 1024 * 1024
OLD_EXECUTIONS = """
SELECT seq, id, job_id, ifnull((SELECT kept_bytes FROM logs WHERE execution = seq), 0)
FROM executions INDEXED BY executions_finished
WHERE status IN ('done', 'failed', 'timedout', 'expired') AND finished_at < ?
    AND deleted_at IS NULL
    AND NOT EXISTS (
        SELECT 1 FROM deliveries WHERE execution_id = executions.id AND state = 'pending'
    )
ORDER BY finished_at LIMIT ?
"""
IDLE_JOBS = """
SELECT id, task_id FROM jobs INDEXED BY jobs_idle
WHERE next_run_at IS NULL AND paused_at IS NULL AND deleted_at IS NULL
    AND execution_count = removed AND modified_at < ?
ORDER BY modified_at LIMIT ?
"""
REMOVE_JOB = (
    "DELETE FROM idempotency WHERE job_id = :id",
    "DELETE FROM jobs WHERE id = :id",
    "UPDATE tasks SET jobs_count = jobs_count - 1 WHERE id = :task_id",
)
EMPTY_TASK = "SELECT seq FROM tasks WHERE id = ? AND jobs_count = 0"
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
LAST_EXECUTION_EVER = "SELECT max(seq) FROM executions"


class SqliteStorage(Facet, Storage):
    """Everything in one SQLite file in *data_dir*, which one server at a time owns.

    Every change is on the disk before its method returns: WAL with ``synchronous=FULL``, see
    https://www.sqlite.org/pragma.html#pragma_synchronous.
    """

    name = "sqlite"

    def __init__(self, data_dir: Path) -> None:
        self._place = Place(data_dir)
        super().__init__(File(self._place))
        self.tasks = SqliteTasks(self._file)
        self.jobs = SqliteJobs(self._file)
        self.deletions = SqliteDeletions(self._file)
        self.executions = SqliteExecutions(self._file)
        self.lists = SqliteLists(self._file)
        self.logs = SqliteLogs(self._file)
        self.outbox = SqliteOutbox(self._file)
        self.events = SqliteEvents(self._file)
        self.stats = SqliteStats(self._file)
        self.hosts = SqliteHosts(self._file)
        self.instances = SqliteInstances(self._file)

    def observe(self, observe: Observe) -> None:
        self._file.observe = observe

    async def open(self) -> None:
        connection = await asyncio.to_thread(self._open_file)
        if self._place.claim is not None:
            asyncio.get_running_loop().add_reader(self._place.claim, self._place.answer)
        self._file.start(connection)

    def _open_file(self) -> sqlite3.Connection:
        place = self._place
        try:
            place.take()
        except OSError as error:
            raise StorageUnavailable(
                f'DATA_DIR is "{place.directory}", which cannot be used ({error.strerror}): '
                "give a directory that the server may write to."
            ) from error
        try:
            connection = connect_writer(place.database)
            place.watch()
        except BaseException as error:
            place.release()
            if isinstance(error, OSError):
                raise StorageUnavailable(f"The database file cannot be used: {error}.") from error
            if type(error) is sqlite3.DatabaseError:
                raise StorageUnavailable(
                    f'The database file "{place.database}" is damaged ({error}): restore it from a '
                    "backup."
                ) from error
            raise translated(error) from error
        return connection

    async def installation(self) -> str:
        # Where another process has the storage open, as the server for `fastlane prune`, it has
        # made the file.
        in_use = self._file.readers is None or await self._has_executions()
        return await asyncio.to_thread(self._place.installation, in_use=in_use)

    @on_reader
    def _has_executions(self, connection: sqlite3.Connection) -> bool:
        return connection.execute(LAST_EXECUTION_EVER).fetchone()[0] is not None

    async def close(self) -> None:
        await self._file.close()
        if self._place.claim is not None:
            asyncio.get_running_loop().remove_reader(self._place.claim)
        self._place.release()

    @property
    def commits(self) -> int:
        """How many commits there have been since it was opened."""
        return 0 if self._file.writer is None else self._file.writer.commits

    async def check(self) -> Mapping[str, str | None]:
        """``mongo`` stands for the records and their readers, ``redis`` for the writer."""
        records = queue = None
        try:
            await self.overview()
        except StorageUnavailable as error:
            records = str(error)
        try:
            # An empty transaction costs no fsync, so it shows a lock but not a full disk: that is
            # known from the last group which had something to write.
            await self._file.write(lambda connection: connection.execute(OVERVIEW).fetchone())
            queue = None if self._file.writer is None else self._file.writer.failure
        except StorageUnavailable as error:
            queue = str(error)
        return {"mongo": records, "redis": queue}

    @on_writer
    def clean_up(self, connection: sqlite3.Connection, before: float, limit: int) -> int:
        removed = 0
        log_bytes = 0
        for seq, execution_id, job_id, kept_bytes in connection.execute(
            OLD_EXECUTIONS, (before, limit)
        ).fetchall():
            if removed and log_bytes + kept_bytes > CLEAN_UP_BYTES:
                break
            log_bytes += kept_bytes
            for statement in REMOVE_EXECUTION:
                connection.execute(statement, {"seq": seq, "id": execution_id})
            connection.execute(COUNT_REMOVED, (job_id,))
            removed += 1
        for job_id, task_id in connection.execute(IDLE_JOBS, (before, limit)).fetchall():
            for statement in REMOVE_JOB:
                connection.execute(statement, {"id": job_id, "task_id": task_id})
            empty = connection.execute(EMPTY_TASK, (task_id,)).fetchone()
            if empty is not None:
                remove_task(connection, task_id, empty[0])
            removed += 1
        return removed

    @on_reader
    def next_due_at(self, connection: sqlite3.Connection) -> float | None:
        earliest = (
            connection.execute(query).fetchone()[0]
            for query in (NEXT_TICK, NEXT_DELAYED, NEXT_EXPIRY)
        )
        return min((at for at in earliest if at is not None), default=None)

    @on_reader
    def overview(self, connection: sqlite3.Connection) -> Overview:
        pending = dict(connection.execute(PENDING).fetchall())
        return Overview(*(*connection.execute(OVERVIEW).fetchone(), pending))
