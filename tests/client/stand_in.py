"""A stand-in for a server, for answers that a real one cannot be made to give."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

Answer = Callable[[], web.StreamResponse] | None
"""Makes an answer; None breaks the connection."""


@dataclass
class Asked:
    """A request that it got."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class StandIn:
    """Gives the *answers* one after the other, the last one for ever."""

    answers: list[Answer]
    asked: list[Asked] = field(default_factory=list)
    url: str = ""
    before: Callable[[web.Request], Awaitable[None]] | None = None
    """Is awaited before each answer."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = await request.read()
        self.asked.append(Asked(request.method, request.raw_path, headers, body))
        if self.before is not None:
            await self.before(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return answer()


@asynccontextmanager
async def stand_in(*answers: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[StandIn]:
    """A stand-in that listens."""
    found = StandIn(list(answers))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.handle)
    server = TestServer(app, scheme="https" if tls else "http")
    await server.start_server(ssl=tls)
    found.url = f"{server.scheme}://localhost:{server.port}"
    try:
        yield found
    finally:
        await server.close()


def json(body: Any, status: int = 200, **headers: str) -> Answer:
    """Answers with *body*; underscores in the names of headers are dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda: web.json_response(body, status=status, headers=named)


def problem(status: int, detail: str, **headers: str) -> Answer:
    """Answers with a problem."""
    return json({"title": "Refused", "status": status, "detail": detail}, status, **headers)
