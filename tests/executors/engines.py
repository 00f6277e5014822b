"""Engines that fail in a named way, for what a real one cannot be made to do on cue.

Each is an HTTP server on a unix socket of its own, with one container that it claims to have;
:class:`CuttingProxy` stands before a real engine and loses its answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import struct
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from fastlane.executors.base import Executor, LogBatch, RunSpec
from fastlane.executors.docker import DockerExecutor
from fastlane.executors.docker.container import EXECUTION_LABEL, INSTALLATION_LABEL
from fastlane.model import ImageReference, Stream

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


def output(batches: list[LogBatch], *streams: Stream) -> bytes:
    """What the batches hold of *streams* (of all without any)."""
    pieces = [piece for batch in batches for piece in batch.pieces]
    return b"".join(piece.data for piece in pieces if not streams or piece.stream in streams)


@dataclass
class FakeEngine:
    """A Docker engine that works: each failure is a class that overrides one handler."""

    offered: str = "1.41"
    minimum: str = "1.12"
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
        frames = self.log[-1:] if "tail" in request.query else self.log
        for each in frames:
            await response.write(each)
        if request.query.get("follow") == "1":
            await self.follow(request)
        return response

    async def follow(self, request: web.Request) -> None:
        """What happens when all that there is has been sent to a follower."""
        if self.status == "running":
            await self.over.wait()

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


def reset(request: web.Request) -> web.StreamResponse:
    """Break the connection without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@contextlib.asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[Executor]:
    """An executor that is closed in the end."""
    executor = DockerExecutor(installation=INSTALLATION, **options)
    await executor.open()
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
