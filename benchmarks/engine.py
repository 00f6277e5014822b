"""The bare engine: the calls that fastlane cannot do without, and nothing around them.

aiohttp over the engine's socket, no library between, as little Python as there can be. The
container is the one that fastlane makes.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import aiohttp

from fastlane.executors.base import RunSpec
from fastlane.executors.docker.container import INSTALLATION_LABEL, LogLimits, container_config
from fastlane.image import ImageReference
from scripts import engine as setup

# Bounds one read of the log stream, in bytes.
READ_BYTES = 1024 * 1024
INSTALLATION = f"bench-{uuid.uuid4().hex}"
"""Marks every container of these measurements, bare ones and fastlane's."""


class BareEngine:
    """A Docker engine through plain HTTP calls."""

    def __init__(self, host: str, image: str) -> None:
        """:param image: one that the engine holds."""
        self.host = host
        self.image = image

    @classmethod
    def from_environment(cls) -> BareEngine:
        """The engine of ``DOCKER_HOST`` or the default socket, with a small image made for it.

        :raises setup.EngineError: it does not answer.
        :raises scripts.machine.SetupError: it has no image and none can be made.
        """
        engine = setup.Engine.from_environment()
        return cls(engine.host, setup.small_image(engine))

    async def __aenter__(self) -> Self:
        parts = urlsplit(self.host)
        connector: aiohttp.BaseConnector
        if parts.scheme == "unix":
            connector = aiohttp.UnixConnector(parts.path, limit=0)
            base = "http://engine"
        else:
            connector = aiohttp.TCPConnector(limit=0)
            base = f"http://{parts.netloc}"
        self._session = aiohttp.ClientSession(
            base_url=base,
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            read_bufsize=READ_BYTES,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def version(self) -> str:
        """The engine's version."""
        return str((await self._get("/version"))["Version"])

    async def create(self, command: Sequence[str]) -> str:
        """Make a container; its id."""
        spec = RunSpec(
            execution_id=str(uuid.uuid4()),
            task_id="bare",
            job_id=str(uuid.uuid4()),
            image=ImageReference.parse(self.image),
            argv=tuple(command),
        )
        body = container_config(spec, installation=INSTALLATION, log_limits=LogLimits())
        async with self._session.post("/containers/create", json=body) as response:
            return str((await _checked(response))["Id"])

    async def start(self, container: str) -> None:
        """Start a container."""
        async with self._session.post(f"/containers/{container}/start") as response:
            await _checked(response)

    async def wait(self, container: str) -> int:
        """Its exit code, once it has one."""
        async with self._session.post(f"/containers/{container}/wait") as response:
            return int((await _checked(response))["StatusCode"])

    async def read_log(self, container: str) -> int:
        """Read its log to the end without looking at it; how many bytes came."""
        query = "follow=1&stdout=1&stderr=1&timestamps=1"
        size = 0
        async with self._session.get(f"/containers/{container}/logs?{query}") as response:
            if response.status != 200:
                await _checked(response)
            async for chunk in response.content.iter_any():
                size += len(chunk)
        return size

    async def inspect(self, container: str) -> dict[str, Any]:
        """What the engine knows of it."""
        found: dict[str, Any] = await self._get(f"/containers/{container}/json")
        return found

    async def remove(self, container: str, *, force: bool = False) -> None:
        """Remove a container."""
        query = f"?force={int(force)}&v=1"
        async with self._session.delete(f"/containers/{container}{query}") as response:
            await _checked(response)

    async def clear(self) -> None:
        """Remove every container of these measurements, as where they were broken off."""
        filters = quote(json.dumps({"label": [f"{INSTALLATION_LABEL}={INSTALLATION}"]}))
        for container in await self._get(f"/containers/json?all=1&filters={filters}"):
            # One that is going by itself is no trouble.
            with suppress(RuntimeError):
                await self.remove(container["Id"], force=True)

    async def run(self, command: Sequence[str]) -> str:
        """Create, start, wait, logs and inspect, side by side where that is faster; its id.

        :raises RuntimeError: it did not end with exit code 0.
        """
        container = await self.create(command)
        await self.start(container)
        code, _ = await asyncio.gather(self.wait(container), self.read_log(container))
        state = (await self.inspect(container))["State"]
        if code != 0 or state["ExitCode"] != 0:
            raise RuntimeError(f"{command} ended with {code} in a bare container")
        return container

    async def containers_named(self, part: str) -> list[str]:
        """Ids of the containers whose name holds *part*, ended ones too."""
        filters = quote(json.dumps({"name": [part]}))
        found = await self._get(f"/containers/json?all=1&filters={filters}")
        return [container["Id"] for container in found]

    async def await_removed(self, part: str) -> None:
        """Wait until no container's name holds *part*."""
        async with asyncio.timeout(60):
            while True:
                if not await self.containers_named(part):
                    return
                await asyncio.sleep(0.01)

    async def _get(self, path: str) -> Any:
        async with self._session.get(path) as response:
            return await _checked(response)


async def _checked(response: aiohttp.ClientResponse) -> Any:
    text = await response.text()
    if response.status >= 400:
        raise RuntimeError(f"{response.method} {response.url.path}: {response.status} {text}")
    return json.loads(text) if text else None
