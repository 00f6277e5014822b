"""A fastlane server that kills itself (SIGKILL) at a named point of a job's path.

``CRASH_AT`` is ``before OPERATION`` or ``after OPERATION``, where the operation is one of the
storage (``executions.claim``) or of the executor (``pull``). ``CRASH_ON`` (1) says at which of its
calls. Without ``CRASH_AT`` it is the server as users run it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from fastlane import config, logs, server
from fastlane.executors import registry
from fastlane.executors.base import Executor
from fastlane.storage.sqlite import SqliteStorage
from tests.storage_calls import OPERATIONS, Call, wrap


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


class Crashing:
    """Lets one call of an operation be the last thing that the process does."""

    def __init__(self, crash_at: str, crash_on: int) -> None:
        self.armed = False
        """Set by the first submission; an idle server looks for work, too."""
        self._when, _, self._operation = crash_at.partition(" ")
        self._left = crash_on

    def storage(self, storage: SqliteStorage) -> SqliteStorage:
        wrap(storage, "jobs.submit", self._arm)
        if self._operation in OPERATIONS:
            wrap(storage, self._operation, self._crash)
        return storage

    def executor(self, executor: Executor) -> Executor:
        call = getattr(executor, self._operation, None)
        if call is not None:
            setattr(executor, self._operation, self._crash(call))
        return executor

    def _arm(self, submit: Call) -> Call:
        async def arm(*args: Any, **kwargs: Any) -> Any:
            self.armed = True
            return await submit(*args, **kwargs)

        return arm

    def _crash(self, call: Call) -> Call:
        async def crash(*args: Any, **kwargs: Any) -> Any:
            if not self.armed and self._operation != "jobs.submit":
                return await call(*args, **kwargs)
            self._left -= 1
            # Decided before the call: others of its kind may come while it lasts.
            last = self._left == 0
            if last and self._when == "before":
                die()
            result = await call(*args, **kwargs)
            if self._operation == "executions.claim" and result is None:
                self._left += 1
            elif last:
                die()
            return result

        return crash


def main() -> None:
    loaded = config.load(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    logs.configure(loaded)
    crash = Crashing(os.environ.get("CRASH_AT", ""), int(os.environ.get("CRASH_ON", "1")))
    storage = crash.storage(SqliteStorage(loaded.data_dir))
    for name in registry.names():
        factory = registry.factory(name)
        crashing_make = partial(lambda make, *args: crash.executor(make(*args)), factory.make)
        setattr(factory, "make", crashing_make)  # noqa: B010
    asyncio.run(server.serve(server.Server(loaded, storage=storage)))


if __name__ == "__main__":
    main()
