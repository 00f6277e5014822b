"""A whole server with background work on a loop of its own, for clients that block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fastlane.config import Config
from fastlane.executors.base import Executor
from fastlane.server import Server
from tests.fakes import MemoryExecutor

T = TypeVar("T")

# Bounds what a test may wait for in the server's thread, in seconds.
CALL_TIMEOUT = 30.0


@dataclass(frozen=True)
class Live:
    """A server that serves at ``url``."""

    server: Server
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run *work* on the server's loop and return what it returns."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(CALL_TIMEOUT)


@contextmanager
def live_server(
    data_dir: Path, *, executor: Executor | None = None, **options: Any
) -> Iterator[Live]:
    """:param options: of the configuration."""
    ready = threading.Event()
    found: list[Live] = []
    over: list[asyncio.Event] = []
    failure: list[BaseException] = []

    async def main() -> None:
        over.append(asyncio.Event())
        server = Server(
            Config(port=0, data_dir=data_dir, **options),
            executor=executor or MemoryExecutor(instant=True),
        )
        await server.start()
        found.append(Live(server, asyncio.get_running_loop()))
        ready.set()
        await over[0].wait()
        await server.stop()

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failure.append(error)
            ready.set()

    thread = threading.Thread(target=run, name="live server")
    thread.start()
    try:
        assert ready.wait(CALL_TIMEOUT), "the server did not start"
        if failure:
            raise failure[0]
        yield found[0]
    finally:
        if found:
            found[0].loop.call_soon_threadsafe(over[0].set)
        thread.join(CALL_TIMEOUT)
    assert not failure, failure
