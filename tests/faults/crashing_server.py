"""A fastlane server that kills itself (SIGKILL) at a named point of a job's path.

``CRASH_AT`` is ``before OPERATION`` or ``after OPERATION``, where the operation is a method of the
storage or the executor; ``CRASH_ON`` (1) says at its how-manieth call. Without ``CRASH_AT`` it is
the server as users run it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, cast

from fastlane import config, logs, server, wiring
from fastlane.executors.base import Executor
from fastlane.storage.base import Storage
from fastlane.storage.sqlite import SqliteStorage


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


class Crashing:
    """Passes every call on to *target*, except that one of them is the last."""

    def __init__(self, target: object, crash_at: str, crash_on: int, armed: asyncio.Event) -> None:
        """:param armed: set by the first ``submit``; an idle server looks for work, too."""
        self._target = target
        self._armed = armed
        self._when, _, self._operation = crash_at.partition(" ")
        self._left = crash_on

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        if name == "submit":
            self._armed.set()
        if name != self._operation:
            return attribute
        return self._crashing(attribute)

    def _crashing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        async def crash(*args: Any, **kwargs: Any) -> Any:
            if not self._armed.is_set():
                return await call(*args, **kwargs)
            self._left -= 1
            # Decided before the call: others of its kind may come while it lasts.
            last = self._left == 0
            if last and self._when == "before":
                die()
            result = await call(*args, **kwargs)
            if self._operation == "claim" and result is None:
                self._left += 1
            elif last:
                die()
            return result

        return crash


def main() -> None:
    loaded = config.load(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    logs.configure(loaded)
    crash_at = os.environ.get("CRASH_AT", "")
    crash_on = int(os.environ.get("CRASH_ON", "1"))
    armed = asyncio.Event()

    def crashing(target: object) -> Any:
        return Crashing(target, crash_at, crash_on, armed)

    storage = cast(Storage, crashing(SqliteStorage(loaded.data_dir)))
    executor = cast(
        Executor, crashing(wiring.make_executors(loaded).of(loaded.docker_hosts[0].hosts[0]))
    )
    asyncio.run(server.serve(server.Server(loaded, storage=storage, executor=executor)))


if __name__ == "__main__":
    main()
