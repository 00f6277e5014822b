"""Engines that fail in a named way, on a unix socket."""

from __future__ import annotations

import asyncio
import json
import struct
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def frame(number: int, data: bytes, kind: int = 1) -> bytes:
    payload = b"2026-11-22T03:57:50.%09dZ " % number + data
    return struct.pack(">B3xI", kind, len(payload)) + payload


class FakeEngine:
    """Answers what an executor asks before it comes to the point, and keeps count."""

    def __init__(self) -> None:
        self.version = {"ApiVersion": "1.47", "MinAPIVersion": "1.24"}
        self.asked: list[str] = []
        self._app = web.Application()
        self._app.router.add_get("/version", self._version)
        self._app.router.add_get("/{v}/_ping", self._ping)
        self.prepare()

    def prepare(self) -> None:
        """Add what is wrong with it."""

    def on(self, method: str, path: str, handler: Handler) -> None:
        async def counted(request: web.Request) -> web.StreamResponse:
            self.asked.append(f"{request.method} {request.path_qs.partition('/v1.47/')[2]}")
            return await handler(request)

        self._app.router.add_route(method, f"/{{v}}/{path}", counted)

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response(self.version)

    async def _ping(self, _: web.Request) -> web.Response:
        return web.Response(text="OK")

    async def __aenter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="engine-")
        path = Path(self._directory.name, "engine.sock")
        self.host = f"unix://{path}"
        self._runner = web.AppRunner(self._app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(path)).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        self._directory.cleanup()


class PullingEngine(FakeEngine):
    """Says *lines* of a pull in a 200 answer, waiting for *go* before the last of them."""

    def __init__(self, *lines: object) -> None:
        self.lines = lines
        self.go = asyncio.Event()
        self.go.set()
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        super().__init__()

    def prepare(self) -> None:
        self.on("POST", "images/create", self._pull)

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            for line in self.lines[:-1]:
                await response.write(json.dumps(line).encode() + b"\r\n")
            self.begun.set()
            await self.go.wait()
            for line in self.lines[-1:]:
                await response.write(json.dumps(line).encode() + b"\r\n")
        finally:
            self.ended.set()
        return response


class LoggingEngine(FakeEngine):
    """A container whose log is *frames*; ``_follow`` is how the engine follows it."""

    def __init__(self, *frames: bytes) -> None:
        self.frames = list(frames)
        self.status = "running"
        self.follows = 0
        self.tails = 0
        self.looked = asyncio.Event()
        super().__init__()

    def prepare(self) -> None:
        self.on("GET", "containers/{id}/json", self._inspect)
        self.on("GET", "containers/{id}/logs", self._logs)

    async def _inspect(self, request: web.Request) -> web.Response:
        state: dict[str, Any] = {"Status": self.status, "ExitCode": 0}
        return web.json_response(
            {"Id": request.match_info["id"], "State": state, "Config": {"Tty": False}}
        )

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        if request.query.get("tail") == "1":
            self.tails += 1
            self.looked.set()
            await response.write(b"".join(self.frames[-1:]))
        elif request.query["follow"] == "0":
            await response.write(b"".join(self.frames))
        else:
            self.follows += 1
            await self.follow(response)
        return response

    async def follow(self, response: web.StreamResponse) -> None:
        """How it follows the log."""
        await response.write(b"".join(self.frames))


class FollowBreaksOff(LoggingEngine):
    """Each follow ends behind one frame more, as at a rotation; the last ends with the run."""

    async def follow(self, response: web.StreamResponse) -> None:
        await response.write(b"".join(self.frames[: self.follows]))
        if self.follows >= len(self.frames):
            self.status = "exited"


class FollowHangs(LoggingEngine):
    """The follow gives *given* frames and then neither goes on nor ends, also after the exit."""

    def __init__(self, *frames: bytes, given: int) -> None:
        self.given = given
        self.hanging = asyncio.Event()
        super().__init__(*frames)

    async def follow(self, response: web.StreamResponse) -> None:
        await response.write(b"".join(self.frames[: self.given]))
        self.hanging.set()
        await asyncio.Event().wait()


class FollowMissesTheEnd(LoggingEngine):
    """The run is over, and the follow ends in order without the last frame."""

    async def follow(self, response: web.StreamResponse) -> None:
        await response.write(b"".join(self.frames[:-1]))
        self.status = "exited"
