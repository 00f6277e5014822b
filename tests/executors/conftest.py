"""An executor on the engine that is there, and runs that are cleared away."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fastlane.errors import ExecutorError
from fastlane.executors.base import Executor, LogBatch, RunSpec, RunState
from fastlane.executors.docker.executor import DockerExecutor
from fastlane.image import ImageReference
from scripts import engine as setup
from tests.engine import docker_host, docker_image, registry
from tests.executors.engines import PATIENCE_SECONDS, output

__all__ = ["PATIENCE_SECONDS", "docker_host", "docker_image", "output", "registry"]


class Docker:
    """One installation's executor on one engine, and the engine itself by its bare API."""

    def __init__(self, host: str, image: str, **options: Any) -> None:
        self.host = host
        self.image = ImageReference.parse(image)
        self.installation = f"test-{uuid.uuid4().hex[:12]}"
        self.executor: Executor = DockerExecutor(**options)
        self.engine = setup.Engine(host)

    def spec(self, *argv: str, **fields: Any) -> RunSpec:
        return RunSpec(
            str(uuid.uuid4()), "task", "job", fields.pop("image", self.image), argv, **fields
        )

    async def launch(self, *argv: str, **fields: Any) -> str:
        run_id = await self.executor.create(self.host, self.spec(*argv, **fields))
        await self.executor.start(self.host, run_id)
        return run_id

    async def shell(self, script: str) -> str:
        return await self.launch("sh", "-c", script)

    async def wait(self, run_id: str) -> RunState:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.executor.wait(self.host, run_id)

    async def log(
        self, run_id: str, bookmark: str = "", *, ended: asyncio.Event | None = None
    ) -> list[LogBatch]:
        """The rest of an ended run's log, or of one that ends when *ended* is set."""
        if ended is None:
            ended = asyncio.Event()
            ended.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            logs = self.executor.logs(self.host, run_id, bookmark=bookmark, ended=ended)
            return [batch async for batch in logs]

    async def read_until(self, run_id: str, text: bytes, bookmark: str = "") -> list[LogBatch]:
        """Batches of a run that goes on, up to the one in which *text* is complete."""
        batches: list[LogBatch] = []
        logs = self.executor.logs(self.host, run_id, bookmark=bookmark, ended=asyncio.Event())
        async with asyncio.timeout(PATIENCE_SECONDS), contextlib.aclosing(logs):
            async for batch in logs:
                batches.append(batch)
                if text in output(batches):
                    return batches
        raise AssertionError(f"the log ended without {text!r}")

    async def call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        return await asyncio.to_thread(self.engine.call, method, path, body)

    async def open(self) -> None:
        await self.executor.open(self.installation)

    async def clear(self) -> None:
        # An engine of the test's own may be away by now, and clears its runs itself.
        with contextlib.suppress(ExecutorError):
            for run in await self.executor.runs(self.host):
                await self.executor.stop(self.host, run.run_id, grace_seconds=0)
                await self.executor.remove(self.host, run.run_id)
        await self.executor.close()


@pytest.fixture
async def docker(docker_host: str, docker_image: str) -> AsyncIterator[Docker]:
    docker = Docker(docker_host, docker_image)
    await docker.open()
    yield docker
    await docker.clear()
