"""What clients see of a shutdown."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from fastlane.config import Config
from fastlane.errors import ConfigError
from fastlane.server import Server, serve
from fastlane.storage.sqlite import SqliteStorage
from tests.api.conftest import MakeSite
from tests.api.http_site import PATIENCE, PAYLOAD, StillServer
from tests.fakes import MemoryExecutor
from tests.storage_calls import Call, wrap


class SlowSubmit(SqliteStorage):
    """Takes its time to store a job."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()
        wrap(self, "jobs.submit", self._slow)

    def _slow(self, submit: Call) -> Call:
        async def slow(*args: Any, **kwargs: Any) -> Any:
            self.asked.set()
            await self.go_on.wait()
            return await submit(*args, **kwargs)

        return slow


class HangingStorage(SqliteStorage):
    """Never opens."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.asked = asyncio.Event()

    async def open(self) -> None:
        self.asked.set()
        await asyncio.Event().wait()


async def test_a_start_that_hangs_can_be_ended(tmp_path: Path) -> None:
    storage = HangingStorage(tmp_path)
    config = Config(port=0, data_dir=tmp_path, docker_host="tcp://localhost:1234")
    serving = asyncio.create_task(serve(Server(config, storage=storage, executor=MemoryExecutor())))
    await asyncio.wait_for(storage.asked.wait(), PATIENCE)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(serving, PATIENCE)


async def test_an_open_api_beyond_loopback_does_not_start(tmp_path: Path) -> None:
    """The refusal comes before anything is opened."""
    config = Config(host="0.0.0.0", port=0, data_dir=tmp_path / "data")
    with pytest.raises(ConfigError, match="AUTH=none"):
        await serve(Server(config, executor=MemoryExecutor()))
    workers = ("scheduler", "dispatcher", "monitor", "notifier")
    # What listens nowhere has nothing to open.
    worker = StillServer(config.model_copy(update={"roles": workers}), executor=MemoryExecutor())
    await worker.start()
    await worker.stop()


class UnopenedExecutor(MemoryExecutor):
    """Cannot be opened."""

    async def open(self, installation: str) -> None:
        raise RuntimeError("no room for executors")


async def test_a_start_that_fails_closes_what_it_opened(tmp_path: Path) -> None:
    config = Config(port=0, data_dir=tmp_path, docker_host="tcp://localhost:1234")
    with pytest.raises(RuntimeError, match="no room for executors"):
        await Server(config, executor=UnopenedExecutor()).start()
    # Otherwise the data directory would still be in use.
    storage = SqliteStorage(tmp_path)
    await storage.open()
    await storage.close()


async def test_a_request_under_way_is_answered(make_site: MakeSite) -> None:
    """REGRESSIONS 10: who gets no answer sends the job again, and it runs twice."""
    site = await make_site(storage=SlowSubmit)
    storage = site.storage
    assert isinstance(storage, SlowSubmit)
    post = asyncio.create_task(site.post("/tasks/t/", PAYLOAD))
    await asyncio.wait_for(storage.asked.wait(), PATIENCE)
    stop = asyncio.create_task(site.server.stop())
    # For as long as nothing is cut off there is nothing to wait for.
    assert not (await asyncio.wait({post, stop}, timeout=0.3))[0]
    storage.go_on.set()
    assert (await post).status == 200
    await asyncio.wait_for(stop, PATIENCE)
