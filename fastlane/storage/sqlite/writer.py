"""The two ways to the file: one thread that writes in groups, and a pool of readers."""

from __future__ import annotations

import asyncio
import ctypes
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from fastlane.errors import StorageUnavailable
from fastlane.storage.sqlite.connections import connect_reader
from fastlane.storage.sqlite.place import Place

R = TypeVar("R")

# Bounds the operations of one commit, and so how long the first of them waits for the last.
BATCH_OPERATIONS = 256
# Bounds the bytes of one commit (an operation may say how heavy it is).
BATCH_BYTES = 8 * 1024 * 1024
# Bounds the operations that wait for the writer; further callers wait in turn before it.
QUEUED_OPERATIONS = 2048
# Bounds the reads that are under way or wait for a reader; further callers wait in turn.
QUEUED_READS = 1024
# Bounds the reads that run at once.
READERS = 3


def translated(error: BaseException) -> BaseException:
    """What a caller of the storage gets for *error*.

    A full disk, an I/O error, a lock that stays: the store is unavailable. A violated constraint
    or a wrong statement is a bug, and is not translated.
    """
    if isinstance(error, sqlite3.Error) and not isinstance(
        error, sqlite3.IntegrityError | sqlite3.ProgrammingError | sqlite3.InterfaceError
    ):
        unavailable = StorageUnavailable(f"the database file cannot be used: {error}")
        unavailable.__cause__ = error
        return unavailable
    return error


class _Waiting(NamedTuple):
    """An operation that waits for the writer."""

    operation: Callable[[sqlite3.Connection], Any]
    weight_bytes: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


class _Ended(NamedTuple):
    """An operation that has run, and what came of it."""

    waiting: _Waiting
    result: Any
    error: BaseException | None


class _BatchLost(Exception):
    """The database has rolled the whole transaction back."""


class Writer:
    """Runs operations on one connection in one thread, and commits all that wait at once.

    The writer never waits for company: an operation that comes alone is committed alone, with one
    fsync, and what arrives during that fsync makes up the next group. In a group each operation
    has its own savepoint, so one that raises undoes only itself.
    """

    def __init__(self, connection: sqlite3.Connection, place: Place) -> None:
        self._connection = connection
        self._place = place
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._room = asyncio.Semaphore(QUEUED_OPERATIONS)
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="storage-writer", daemon=True)
        self._thread.start()
        self.commits = 0
        """How many commits there have been."""
        self.failure: str | None = None
        """What was wrong with the last group that had something to write; None when nothing."""

    async def run(
        self, operation: Callable[[sqlite3.Connection], R], *, weight_bytes: int = 0
    ) -> R:
        """Run *operation* in a transaction; when this returns, what it wrote is on the disk.

        :raises StorageUnavailable: nothing of it is.
        """
        async with self._room:
            if self._closing:
                raise StorageUnavailable("the storage is closed")
            loop = asyncio.get_running_loop()
            future: asyncio.Future[R] = loop.create_future()
            self._queue.put(_Waiting(operation, weight_bytes, loop, future))
            return await future

    async def close(self) -> None:
        """End after what is queued; safe to repeat."""
        if not self._closing:
            self._closing = True
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            try:
                self._place.check()
                ended = self._run(batch)
                # Only what is in the file at its path has been stored.
                self._place.check()
            except StorageUnavailable as error:
                ended = [_Ended(waiting, None, error) for waiting in batch]
            except Exception as error:
                self.failure = str(error)
                lost = StorageUnavailable(f"the database refused the commit: {error}")
                lost.__cause__ = error
                ended = [_Ended(waiting, None, lost) for waiting in batch]
            _deliver(ended)
        if self._place.is_lost:
            # SQLite would delete the write-ahead log by its path, where another database's may be
            # now, or which belongs to files that were moved. Never freed, it is never closed.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))
        else:
            self._connection.close()

    def _next_batch(self) -> list[_Waiting] | None:
        """All that waits, within the bounds; sleeps while nothing does. None at the end."""
        waiting = self._queue.get()
        batch: list[_Waiting] = []
        weight = 0
        while waiting is not None:
            batch.append(waiting)
            weight += waiting.weight_bytes
            if len(batch) >= BATCH_OPERATIONS or weight >= BATCH_BYTES:
                return batch
            try:
                waiting = self._queue.get_nowait()
            except queue.Empty:
                return batch
        if batch:
            self._queue.put(None)
            return batch
        return None

    def _run(self, batch: list[_Waiting]) -> list[_Ended]:
        connection = self._connection
        try:
            # Only after a roll-back that failed as well is there something to do here.
            _roll_back(connection)
            connection.execute("BEGIN IMMEDIATE")
            changes = connection.total_changes
            ended = [self._run_one(waiting) for waiting in batch if not waiting.future.cancelled()]
            connection.execute("COMMIT")
        except BaseException:
            _roll_back(connection)
            raise
        self.commits += 1
        lost = [one.error for one in ended if isinstance(one.error, StorageUnavailable)]
        if lost or connection.total_changes != changes:
            self.failure = str(lost[0]) if lost else None
        return ended

    def _run_one(self, waiting: _Waiting) -> _Ended:
        connection = self._connection
        connection.execute("SAVEPOINT operation")
        try:
            result = waiting.operation(connection)
        except Exception as error:
            if not connection.in_transaction:
                raise _BatchLost(str(error)) from error
            connection.execute("ROLLBACK TO operation")
            connection.execute("RELEASE operation")
            return _Ended(waiting, None, translated(error))
        connection.execute("RELEASE operation")
        return _Ended(waiting, result, None)


def _roll_back(connection: sqlite3.Connection) -> None:
    """End the transaction, unless the database has done so itself, as it does on some errors."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _deliver(ended: list[_Ended]) -> None:
    """Resolve the futures, each on its own loop, with one hop for each loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Ended]] = {}
    for one in ended:
        by_loop.setdefault(one.waiting.loop, []).append(one)
    for loop, ones in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, ones)
        except RuntimeError:
            # The loop has been closed: nobody is left who asked.
            continue


def _resolve(ended: list[_Ended]) -> None:
    for one in ended:
        future = one.waiting.future
        if future.done():
            continue
        if one.error is not None:
            future.set_exception(one.error)
        else:
            future.set_result(one.result)


class Readers:
    """A few threads with a read-only connection each; every query sees one snapshot."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="storage-reader")
        self._room = asyncio.Semaphore(QUEUED_READS)
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._closing = False

    async def run(self, query: Callable[[sqlite3.Connection], R]) -> R:
        """Run *query* on one snapshot of the file."""
        async with self._room:
            if self._closing:
                raise StorageUnavailable("the storage is closed")
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, self._query, query)

    async def close(self) -> None:
        """End after what is under way; safe to repeat."""
        self._closing = True
        await asyncio.to_thread(self._pool.shutdown)
        while self._connections:
            self._connections.pop().close()

    def _query(self, query: Callable[[sqlite3.Connection], R]) -> R:
        self._place.check()
        try:
            connection = self._connection()
            connection.execute("BEGIN")
            try:
                return query(connection)
            finally:
                _roll_back(connection)
        except sqlite3.Error as error:
            raise translated(error) from error

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = connect_reader(self._place.database)
            self._connections.append(connection)
        return connection
