"""What turns a function of a connection into an operation of the storage.

A facet's methods are plain functions that receive the connection. :func:`on_writer` runs them on
the writer's thread, :func:`on_reader` on one of the readers'.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from fastlane.errors import StorageUnavailable
from fastlane.storage.observing import Observed, operation_name
from fastlane.storage.sqlite.place import Place
from fastlane.storage.sqlite.writer import Readers, Writer

P = ParamSpec("P")
R = TypeVar("R")


class File(Observed):
    """The threads that have the database file open; none until :meth:`start`."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place
        self.writer: Writer | None = None
        self.readers: Readers | None = None

    def start(self, connection: sqlite3.Connection) -> None:
        self.writer = Writer(connection, self._place)
        self.readers = Readers(self._place)

    async def close(self) -> None:
        """Finish what is queued, then close. Safe to repeat."""
        # The writer is the last, so that it takes the write-ahead log into the file.
        if self.readers is not None:
            await self.readers.close()
        if self.writer is not None:
            await self.writer.close()

    async def write(
        self, operation: Callable[[sqlite3.Connection], R], *, weight_bytes: int = 0
    ) -> R:
        """Run *operation* in a transaction; when this returns, what it wrote is on the disk."""
        if self.writer is None:
            raise StorageUnavailable("the storage is not open")
        return await self.writer.run(operation, weight_bytes=weight_bytes)

    async def read(self, query: Callable[[sqlite3.Connection], R]) -> R:
        """Run *query* on one snapshot."""
        if self.readers is None:
            raise StorageUnavailable("the storage is not open")
        return await self.readers.run(query)


class Facet:
    """A part of the storage; all of them share one file."""

    def __init__(self, file: File) -> None:
        self._file = file


F = TypeVar("F", bound=Facet)


def on_writer(
    method: Callable[Concatenate[F, sqlite3.Connection, P], R],
) -> Callable[Concatenate[F, P], Coroutine[None, None, R]]:
    """Make *method* an operation that runs in a transaction on the writer's thread."""

    name = operation_name(method)

    @wraps(method)
    async def run(self: F, /, *args: P.args, **kwargs: P.kwargs) -> R:
        work = self._file.write(lambda connection: method(self, connection, *args, **kwargs))
        return await self._file.measured(name, work)

    return run


def on_reader(
    method: Callable[Concatenate[F, sqlite3.Connection, P], R],
) -> Callable[Concatenate[F, P], Coroutine[None, None, R]]:
    """Make *method* an operation that runs on one snapshot, on a reader's thread."""

    name = operation_name(method)

    @wraps(method)
    async def run(self: F, /, *args: P.args, **kwargs: P.kwargs) -> R:
        work = self._file.read(lambda connection: method(self, connection, *args, **kwargs))
        return await self._file.measured(name, work)

    return run
