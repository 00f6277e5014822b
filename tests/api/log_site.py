"""A real server over a real storage, without background work: the test is the owner of each run."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tornado.netutil
from tornado.httpserver import HTTPServer

from fastlane.api.ends import Ends
from fastlane.api.routes import make_app
from fastlane.api.services import Services
from fastlane.api.streaming.events import EventFeed
from fastlane.api.streaming.feed import Feed
from fastlane.api.streaming.sockets import Sockets
from fastlane.bus.local import Bus
from fastlane.config import Config
from fastlane.executors.registry import Executors
from fastlane.hosts import Hosts
from fastlane.metrics import Metrics, TaskLabels
from fastlane.model import Clock
from fastlane.storage.sqlite import SqliteStorage
from tests.api.log_owner import FARM, Owner, make_lifecycle
from tests.fakes import MemoryExecutor

T = TypeVar("T")

# Bounds what a test may wait for in the server's thread, in seconds.
CALL_TIMEOUT = 30.0


@dataclass(frozen=True)
class Site:
    """What serves, and what is behind it."""

    services: Services
    storage: SqliteStorage
    port: int

    def owner(self, task_id: str = "watched") -> Owner:
        return Owner(self.storage, self.services.lifecycle, task_id)

    def url(self, path: str, scheme: str = "ws") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{path}"


@asynccontextmanager
async def serve(data_dir: Path, *, clock: Clock = time.time, **options: Any) -> AsyncIterator[Site]:
    """:param options: of the configuration."""
    config = Config(port=0, data_dir=data_dir, **options)
    storage = SqliteStorage(data_dir)
    await storage.open()
    bus = Bus()
    lifecycle = make_lifecycle(storage, bus)
    hosts, feed = Hosts(FARM.hosts, time.time), Feed(storage, bus)
    services = Services(
        storage=storage,
        lifecycle=lifecycle,
        executors=Executors.single(MemoryExecutor()),
        bus=bus,
        clock=clock,
        config=config,
        farms=(FARM,),
        version="0.0.0",
        hosts=hosts,
        sockets=Sockets(feed),
        ends=Ends(lifecycle, storage, bus),
        events=EventFeed(storage, bus, time.time),
        metrics=Metrics(
            storage=storage,
            hosts=hosts,
            farms=[FARM],
            clock=time.time,
            version="0.0.0",
            tasks=TaskLabels([], 10),
            viewers=lambda: feed.viewers,
        ),
    )
    server = HTTPServer(make_app(services))
    sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    try:
        yield Site(services, storage, sockets[0].getsockname()[1])
    finally:
        server.stop()
        await services.sockets.close_all()
        await server.close_all_connections()
        await storage.close()


class ThreadedSite:
    """A :class:`Site` on a loop of its own, for tests that block (a browser)."""

    def __init__(self, site: Site, loop: asyncio.AbstractEventLoop) -> None:
        self.site = site
        self._loop = loop

    def call(self, work: Coroutine[Any, Any, T], timeout: float = CALL_TIMEOUT) -> T:
        """Run *work* on the server's loop and return what it returns."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)


@contextmanager
def serve_in_thread(data_dir: Path, **options: Any) -> Iterator[ThreadedSite]:
    """:param options: of the configuration."""
    ready = threading.Event()
    found: list[ThreadedSite] = []
    over: list[asyncio.Event] = []

    async def main() -> None:
        over.append(asyncio.Event())
        async with serve(data_dir, **options) as site:
            found.append(ThreadedSite(site, asyncio.get_running_loop()))
            ready.set()
            await over[0].wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="site")
    thread.start()
    try:
        assert ready.wait(CALL_TIMEOUT), "the server did not start"
        yield found[0]
    finally:
        if found:
            found[0]._loop.call_soon_threadsafe(over[0].set)
        thread.join(CALL_TIMEOUT)
