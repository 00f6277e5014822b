"""What turns a coroutine of this package into an operation of the storage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import structlog
from pymongo.errors import PyMongoError

from fastlane.errors import StorageUnavailable
from fastlane.storage.mongo.database import OPERATION_SECONDS, Database
from fastlane.storage.observing import Observed, operation_name

log = structlog.get_logger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

# Bounds how long operations in flight may delay the closing.
CLOSE_SECONDS = 2 * OPERATION_SECONDS


class Connection(Observed):
    """The database while the storage is open, and the operations that are in flight."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.open = False
        self.in_flight: set[asyncio.Task[Any]] = set()

    async def run(self, call: Coroutine[Any, Any, R]) -> R:
        """Complete one operation; whatever MongoDB says against it makes the storage unavailable.

        It has a task of its own and is completed even when the caller is cancelled: that costs no
        more than the operation's time, and the driver does not let every cancellation through.
        """
        if not self.open:
            call.close()
            raise StorageUnavailable("the storage is not open")
        task = asyncio.create_task(call)
        self.in_flight.add(task)
        task.add_done_callback(self._ended)
        try:
            return await asyncio.shield(task)
        except PyMongoError as error:
            raise StorageUnavailable(f"MongoDB: {short(error)}") from error

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.in_flight.discard(task)
        if not task.cancelled():
            # Retrieved, also where nobody waits for it any more.
            task.exception()

    async def close(self) -> None:
        """Accept nothing new, and wait for what is in flight."""
        self.open = False
        if self.in_flight:
            _, late = await asyncio.wait(self.in_flight, timeout=CLOSE_SECONDS)
            if late:
                log.warning("Operations are cut off by the closing", count=len(late))
            self.in_flight.clear()


class Facet:
    """A part of the storage; all of them share one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._db = connection.database


F = TypeVar("F", bound=Facet)


def operation(
    method: Callable[Concatenate[F, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[F, P], Coroutine[Any, Any, R]]:
    """Run *method* as one operation: see :meth:`Connection.run`."""

    name = operation_name(method)

    @wraps(method)
    async def run(self: F, /, *args: P.args, **kwargs: P.kwargs) -> R:
        work = self._connection.run(method(self, *args, **kwargs))
        return await self._connection.measured(name, work)

    return run


def short(error: BaseException) -> str:
    """The first line of what the driver says; the rest repeats the topology."""
    return (str(error) or type(error).__name__).partition(", Timeout:")[0][:300]
