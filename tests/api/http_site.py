"""A whole server in this process, with runs that end when the test says so, and a small client."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import multidict
from yarl import URL

from fastlane.config import Config
from fastlane.executors.base import Executor
from fastlane.server import Server
from fastlane.storage.base import Overview, Storage
from tests.api.log_owner import Owner
from tests.eventually import eventually
from tests.fakes import FakeRun, MemoryExecutor

# Bounds what a test waits for, in seconds.
PATIENCE = 15.0
JSON_TYPE = "application/json; charset=utf-8"
PROBLEM_TYPE = "application/problem+json"
PAYLOAD: Mapping[str, Any] = {"image": "busy:latest", "command": "true"}


class StillServer(Server):
    """Does no work in the background: what is enqueued stays so, unless the test takes it."""

    def __init__(self, config: Config, **parts: Any) -> None:
        super().__init__(config, **parts)
        self.parts = replace(self.parts, work=())


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: multidict.CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        """The object of a 2xx answer."""
        assert self.status == 200, (self.status, self.body)
        assert self.headers["Content-Type"] == JSON_TYPE
        assert self.headers["Cache-Control"] == "no-store"
        return json.loads(self.body)

    @property
    def any_json(self) -> Any:
        """The object of an answer, whatever its status."""
        return json.loads(self.body)

    def problem(self, status: int) -> dict[str, Any]:
        """The problem of an answer that must have *status*; its form is checked."""
        assert self.status == status, (self.status, self.body)
        assert self.headers["Content-Type"] == PROBLEM_TYPE
        assert self.headers["Cache-Control"] == "no-store"
        found: dict[str, Any] = json.loads(self.body)
        assert set(found) - {"errors"} == {"type", "title", "status", "detail", "requestId"}
        assert found["status"] == status
        assert found["requestId"] == self.headers["X-Request-ID"] != ""
        assert found["detail"].endswith((".", "?")), found["detail"]
        for fault in found.get("errors", ()):
            assert set(fault) == {"pointer", "message"}
            assert fault["message"].endswith((".", "?")), fault
        return found


class Site:
    """A server that serves, and a client of it."""

    def __init__(self, server: Server, executor: Any) -> None:
        self.server = server
        self.executor: MemoryExecutor = executor
        self.storage = server.storage
        self._client = aiohttp.ClientSession(auto_decompress=False)

    async def close(self) -> None:
        await self._client.close()
        await self.server.stop()

    # -- as a client --------------------------------------------------------------------------

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | str | Mapping[str, Any] | None = None,
        **headers: str,
    ) -> Answer:
        """Send a request as it is: nothing in *path* is encoded or resolved.

        A text or bytes go with the form type that ``curl -d`` sends. Underscores in the names of
        *headers* stand for dashes.
        """
        sent = {"Accept": "application/json", "Accept-Encoding": "identity"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        data: bytes | None
        if isinstance(body, Mapping):
            sent.setdefault("Content-Type", "application/json")
            data = json.dumps(body).encode()
        elif body is not None:
            sent.setdefault("Content-Type", "application/x-www-form-urlencoded")
            data = body.encode() if isinstance(body, str) else body
        else:
            data = None
        url = URL(path if path.startswith("http") else self.base + path, encoded=True)
        async with asyncio.timeout(PATIENCE):
            async with self._client.request(
                method, url, data=data and io.BytesIO(data), headers=sent, allow_redirects=False
            ) as response:
                return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.request("GET", path, **headers)

    async def post(
        self, path: str, body: bytes | str | Mapping[str, Any] | None = None, **headers: str
    ) -> Answer:
        return await self.request("POST", path, body, **headers)

    async def put(
        self, path: str, body: bytes | str | Mapping[str, Any] | None = None, **headers: str
    ) -> Answer:
        return await self.request("PUT", path, body, **headers)

    async def raw(self, *pieces: bytes, end: bool = False) -> bytes:
        """Send bytes over a connection of their own; what came back when the server closed it.

        :param end: say that nothing more will come.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            async with asyncio.timeout(PATIENCE):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                if end:
                    writer.write_eof()
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.transport.abort()

    async def submit(self, task_id: str = "tests", **keys: Any) -> dict[str, Any]:
        """Submit a job; the answer."""
        found: dict[str, Any] = (await self.post(f"/tasks/{task_id}/", {**PAYLOAD, **keys})).json
        return found

    # -- behind the scenes --------------------------------------------------------------------

    async def run_of(self, submitted: Mapping[str, Any]) -> FakeRun:
        """The run of the execution in an answer, once it was started."""
        return await self.executor.started(submitted["executionId"])

    async def execution(self, submitted: Mapping[str, Any]) -> dict[str, Any]:
        """The details of the execution in an answer."""
        found: dict[str, Any] = (await self.get(submitted["executionUrl"])).json["execution"]
        return found

    async def status(self, submitted: Mapping[str, Any], *wanted: str) -> dict[str, Any]:
        """The details of an execution once its status is one of *wanted*."""
        return await self.status_at(submitted["executionUrl"], *wanted)

    async def status_at(self, url: str, *wanted: str) -> dict[str, Any]:
        async def probe() -> dict[str, Any] | None:
            found: dict[str, Any] = (await self.get(url)).json["execution"]
            return found if found["status"] in wanted else None

        return await eventually(probe, f"{' or '.join(wanted)} at {url}", PATIENCE)

    async def failed_notifications(self, count: int = 1) -> list[dict[str, Any]]:
        """The error queue of notifications once it holds *count*."""

        async def probe() -> list[dict[str, Any]] | None:
            found: list[dict[str, Any]] = (await self.get("/notifications/")).json["items"]
            return found if len(found) == count else None

        return await eventually(probe, f"{count} failed notifications", PATIENCE)

    async def counts(self) -> Overview:
        """What there is; unchanged when nothing was created."""
        return await self.storage.overview()

    def owner(self, task_id: str = "tests") -> Owner:
        """Takes executions of a server without background work."""
        return Owner(self.storage, self.server.lifecycle, task_id)


async def start_site(
    data_dir: Path,
    *,
    still: bool = False,
    storage: Callable[[Path], Storage] | None = None,
    executor: Executor | None = None,
    clock: Any = None,
    **options: Any,
) -> Site:
    """:param storage: makes it from the data directory.
    :param options: of the configuration.
    """
    config = Config(port=0, data_dir=data_dir, **{"docker_host": "tcp://localhost:1234", **options})
    executor = executor or MemoryExecutor()
    parts: dict[str, Any] = {"executor": executor, "storage": storage and storage(data_dir)}
    if clock is not None:
        parts["clock"] = clock
    server = (StillServer if still else Server)(config, **parts)
    await server.start()
    return Site(server, executor)
