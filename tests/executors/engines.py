"""Engines that fail in a named way, for what a real one cannot be made to do on cue.

Each is an HTTP server on a unix socket of its own, with one container that it claims to have. A
fault that one test needs is a class beside that test. :class:`CuttingProxy` stands before a real
engine and loses its answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import struct
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from fastlane.executors.base import Executor, LogBatch, RunSpec
from fastlane.executors.docker.container import EXECUTION_LABEL, INSTALLATION_LABEL
from fastlane.executors.docker.executor import DockerExecutor
from fastlane.image import ImageReference
from fastlane.model import Stream

# Bounds each wait for something that must come.
PATIENCE_SECONDS = 30.0

INSTALLATION = "test"
EXECUTION_ID = "5a2c0a54-3a57-4e4f-8c6b-6a1f1f2e3d4c"
RUN_ID = "c0ffee" * 10 + "cafe"
SPEC = RunSpec(EXECUTION_ID, "task", "job", ImageReference.parse("tool:1"), ("true",))


def frame(number: int, data: bytes, kind: int = 1) -> bytes:
    """A log frame as an engine sends it with timestamps; *number* tells its time."""
    payload = b"2026-11-22T03:57:50.%09dZ " % number + data
    return struct.pack(">B3xI", kind, len(payload)) + payload


def output(batches: Sequence[LogBatch], *streams: Stream) -> bytes:
    """What the batches hold of *streams* (of all without any)."""
    pieces = [piece for batch in batches for piece in batch.pieces]
    return b"".join(piece.data for piece in pieces if not streams or piece.stream in streams)


@dataclass
class FakeEngine:
    """A Docker engine that works: each failure is a class that overrides one handler."""

    offered: str = "1.47"
    minimum: str = "1.24"
    status: str = "running"
    log: list[bytes] = field(default_factory=list)
    """The frames that there are, written so far."""
    asked: list[str] = field(default_factory=list)
    """The requests, as ``GET /v1.41/…``."""

    async def __aenter__(self) -> Self:
        self.over = asyncio.Event()
        self.changed = asyncio.Condition()
        self._directory = Path(tempfile.mkdtemp(prefix="engine-"))
        await self.listen()
        return self

    async def listen(self) -> None:
        """Take connections (again)."""
        self.over.clear()
        (self._directory / "s").unlink(missing_ok=True)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self._directory / "s")).start()

    async def hang_up(self) -> None:
        """Take no connections any more."""
        self.over.set()
        await self._runner.cleanup()

    async def __aexit__(self, *_: object) -> None:
        await self.hang_up()
        shutil.rmtree(self._directory)

    @property
    def url(self) -> str:
        return f"unix://{self._directory}/s"

    async def wait_until(self, check: Callable[[], object]) -> None:
        """Return when *check* holds; it is looked at with every request."""
        async with asyncio.timeout(PATIENCE_SECONDS), self.changed:
            await self.changed.wait_for(check)

    def count(self, words: str) -> int:
        """How many requests had *words* in them."""
        return sum(words in each for each in self.asked)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path_qs}")
        async with self.changed:
            self.changed.notify_all()
        parts = request.path.strip("/").split("/")
        if re.fullmatch(r"v\d+\.\d+", parts[0]):
            parts = parts[1:]
        if parts[0] == "images":
            name = "pull" if parts[1] == "create" else "image"
        elif parts[0] == "containers":
            name = "details" if parts[-1] == "json" else parts[-1]
            name = "list" if parts[1] == "json" else name
            name = "remove" if request.method == "DELETE" else name
        else:
            name = parts[0].strip("_")
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]] = getattr(
            self, f"on_{name}"
        )
        return await handler(request)

    async def on_version(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"ApiVersion": self.offered, "MinAPIVersion": self.minimum})

    async def on_ping(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="OK")

    async def on_create(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"Id": RUN_ID}, status=201)

    async def on_start(self, request: web.Request) -> web.StreamResponse:
        self.status = "running"
        return web.Response(status=204)

    async def on_details(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self.details())

    async def on_list(self, request: web.Request) -> web.StreamResponse:
        details = self.details()
        run = {
            "Id": RUN_ID,
            "State": details["State"]["Status"],
            "Labels": details["Config"]["Labels"],
            "Names": [f"/fastlane-{EXECUTION_ID}"],
            "Created": 1,
        }
        return web.json_response([run])

    def details(self) -> dict[str, Any]:
        """What ``inspect`` says of the container."""
        labels = {INSTALLATION_LABEL: INSTALLATION, EXECUTION_LABEL: EXECUTION_ID}
        state = {"Status": self.status, "ExitCode": 3 if self.status == "exited" else 0}
        return {"Id": RUN_ID, "State": state, "Config": {"Tty": False, "Labels": labels}}

    async def on_wait(self, request: web.Request) -> web.StreamResponse:
        if self.status == "running":
            await self.over.wait()
        return web.json_response({"StatusCode": 3})

    async def on_stop(self, request: web.Request) -> web.StreamResponse:
        self.status = "exited"
        return web.Response(status=204)

    async def on_logs(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        if request.query.get("follow") == "1":
            await self.follow(response)
        else:
            await response.write(b"".join(self.log[-1:] if "tail" in request.query else self.log))
        return response

    async def follow(self, response: web.StreamResponse) -> None:
        """How it follows the log."""
        await response.write(b"".join(self.log))
        if self.status == "running":
            await self.over.wait()

    @property
    def follows(self) -> int:
        """How many follows were asked for."""
        return self.count("follow=1")

    async def on_info(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"MemTotal": 16 * 1024**3, "Driver": "overlay2"})

    async def on_networks(self, request: web.Request) -> web.StreamResponse:
        return web.json_response([])

    async def on_image(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"message": "No such image: tool:1"}, status=404)

    async def on_pull(self, request: web.Request) -> web.StreamResponse:
        return await self.events(request, {"status": "Download complete", "id": "abc"})

    async def events(self, request: web.Request, *events: Any) -> web.StreamResponse:
        """An answer that streams *events* as lines of JSON."""
        response = web.StreamResponse()
        await response.prepare(request)
        for event in events:
            await response.write(json.dumps(event).encode() + b"\r\n")
        return response


class Answering(FakeEngine):
    """Answers everything but the version with the same *status*, *type* and *body*."""

    def __init__(self, status: int, kind: str, body: bytes, *, version: bool = True) -> None:
        super().__init__()
        self._parts = (status, kind, body)
        self._version = version

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self._version and "version" in request.path:
            return await super()._answer(request)
        status, kind, body = self._parts
        return web.Response(status=status, body=body, content_type=kind)


class Pulling(FakeEngine):
    """Says *lines* of a pull in a 200 answer, waiting for *go* before the last of them."""

    def __init__(self, *lines: object) -> None:
        super().__init__()
        self._lines = lines
        self.go = asyncio.Event()
        self.go.set()
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()

    async def on_pull(self, request: web.Request) -> web.StreamResponse:
        try:
            response = await self.events(request, *self._lines[:-1])
            self.begun.set()
            await self.go.wait()
            for line in self._lines[-1:]:
                await response.write(json.dumps(line).encode() + b"\r\n")
        finally:
            self.ended.set()
        return response


class FollowBreaksOff(FakeEngine):
    """Each follow ends behind one frame more, as at a rotation; the last ends with the run."""

    async def follow(self, response: web.StreamResponse) -> None:
        """See :meth:`FakeEngine.follow`."""
        await response.write(b"".join(self.log[: self.follows]))
        if self.follows >= len(self.log):
            self.status = "exited"


@dataclass
class FollowHangs(FakeEngine):
    """The follow gives *given* frames and then neither goes on nor ends, also after the exit."""

    given: int = 0
    hanging: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self, response: web.StreamResponse) -> None:
        """See :meth:`FakeEngine.follow`."""
        await response.write(b"".join(self.log[: self.given]))
        self.hanging.set()
        await self.over.wait()


class FollowMissesTheEnd(FakeEngine):
    """The run is over, and the follow ends in order without the last frame."""

    async def follow(self, response: web.StreamResponse) -> None:
        """See :meth:`FakeEngine.follow`."""
        await response.write(b"".join(self.log[:-1]))
        self.status = "exited"


class FollowRepeats(FakeEngine):
    """As Docker 20.10 does at a rotation: the first follow goes back by two frames."""

    async def follow(self, response: web.StreamResponse) -> None:
        """See :meth:`FakeEngine.follow`."""
        first = [*self.log[:4], *self.log[2:]]
        await response.write(b"".join(first if self.follows == 1 else self.log))
        self.status = "exited"


class ClockSetBack(FakeEngine):
    """The clock of the host was set back twice while the run wrote."""

    async def follow(self, response: web.StreamResponse) -> None:
        """See :meth:`FakeEngine.follow`."""
        await response.write(b"".join(self.log))
        if self.follows == 3:
            self.status = "exited"


class DamagedLog(FakeEngine):
    """Has a record that it cannot read, says so at each read, and then breaks the follow off."""

    async def follow(self, response: web.StreamResponse) -> None:
        """See :meth:`FakeEngine.follow`."""
        await response.write(b"".join(self.log))


def reset(request: web.Request) -> web.StreamResponse:
    """Break the connection without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@contextlib.asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[Executor]:
    """An executor that is closed in the end."""
    executor = DockerExecutor(**options)
    await executor.open(INSTALLATION)
    try:
        yield executor
    finally:
        await executor.close()


async def read_all(
    executor: Executor, host: str, run_id: str, *, bookmark: str = "", ended: bool = True
) -> list[LogBatch]:
    """The log to its end."""
    over = asyncio.Event()
    if ended:
        over.set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        logs = executor.logs(host, run_id, bookmark=bookmark, ended=over)
        return [batch async for batch in logs]


class CuttingProxy:
    """Stands before a real engine, and breaks the connection on which *request* was asked, once.

    :param request: a pattern for the request line.
    :param answered: wait for the engine's answer first, which so took effect.
    """

    def __init__(self, host: str, request: str, *, answered: bool = True) -> None:
        parts = urlsplit(host)
        if parts.scheme != "unix":
            pytest.skip("the proxy speaks with an engine on a unix socket")
        self._path = parts.path
        self._request = re.compile(request.encode())
        self._answered = answered
        self.cuts = 0

    async def __aenter__(self) -> Self:
        self._directory = Path(tempfile.mkdtemp(prefix="proxy-"))
        self._tasks: list[asyncio.Task[Any]] = []
        self._clients: list[asyncio.StreamWriter] = []
        self._server = await asyncio.start_unix_server(self._serve, path=str(self._directory / "s"))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for client in self._clients:
            client.transport.abort()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*self._tasks)
        shutil.rmtree(self._directory)

    @property
    def url(self) -> str:
        return f"unix://{self._directory}/s"

    async def _serve(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.append(task)
        self._clients.append(answer)
        engine, ask = await asyncio.open_unix_connection(self._path)
        cut = asyncio.Event()

        async def requests() -> None:
            while chunk := await client.read(65536):
                matched = self.cuts == 0 and self._request.match(chunk) is not None
                if matched:
                    self.cuts += 1
                    cut.set()
                ask.write(chunk)
                await ask.drain()
                if matched and not self._answered:
                    answer.transport.abort()
                    return

        async def answers() -> None:
            while chunk := await engine.read(65536):
                if cut.is_set():
                    answer.transport.abort()
                    return
                answer.write(chunk)
                await answer.drain()

        both = [asyncio.ensure_future(requests()), asyncio.ensure_future(answers())]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for each in both:
            each.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        for writer in (ask, answer):
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
