"""What a request may hold, checked before a handler sees it.

Tornado answers what is beyond its own limits with a bare 400 or by hanging up. Here the limits are
ours, and who exceeds them is told so in a problem answer like any other.
"""

from __future__ import annotations

import asyncio
import string
from collections.abc import Awaitable
from urllib.parse import quote

from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.web import Application

from fastlane.api.base import RETRY_AFTER_SECONDS, BaseHandler
from fastlane.api.connections import Connection
from fastlane.api.problems import Problem

# Bounds the headers of a request, all of them together.
MAX_HEADER_BYTES = 64 * 1024
# Bounds what is read of a body that is refused anyway, so that its sender reads the answer first.
DISCARDED_BYTES = 16 * 1024 * 1024


class BoundedApplication(Application):
    """Refuses requests that are too large.

    Serve it with an ``HTTPServer`` whose own limits lie above these.
    """

    def start_request(
        self, server_conn: object, request_conn: HTTPConnection
    ) -> HTTPMessageDelegate:
        connection = _connection_of(request_conn)
        if connection is not None:
            connection.connections.idle(connection)
        inner = super().start_request(server_conn, request_conn)
        return _BoundedRequest(self, inner, server_conn, request_conn)


class _BoundedRequest(HTTPMessageDelegate):
    """Hands a request on to *inner* as long as it keeps within its bounds."""

    def __init__(
        self,
        application: Application,
        inner: HTTPMessageDelegate,
        server_conn: object,
        request_conn: HTTPConnection,
    ) -> None:
        self._application = application
        self._inner = inner
        self._server_conn = server_conn
        self._request_conn = request_conn
        self._max_body_bytes: int = application.settings["services"].config.max_body_bytes
        self._connection = _connection_of(request_conn)
        self._received = 0
        self._refused = False
        self._answered = asyncio.Event()

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        assert isinstance(start_line, RequestStartLine)
        if self._connection is not None:
            self._connection.connections.busy(self._connection)
        if not start_line.path.isascii():
            # curl sends a name as it was typed: bytes, which Tornado has read as Latin-1.
            path = quote(start_line.path.encode("latin-1"), safe=string.punctuation)
            start_line = start_line._replace(path=path)
        self._start_line, self._headers = start_line, headers
        size = sum(len(name) + len(value) + 4 for name, value in headers.get_all())
        if size + len(start_line.path) > MAX_HEADER_BYTES:
            return self._refuse(
                Problem(
                    431,
                    f"The request's headers have {size + len(start_line.path)} bytes; "
                    f"at most {MAX_HEADER_BYTES} are taken.",
                )
            )
        length = headers.get("Content-Length", "")
        if length.isascii() and length.isdigit() and self._exceeds(int(length[:18])):
            self._refused = True
            if headers.get("Expect", "").lower() == "100-continue":
                # The sender waits to be told whether the body is wanted.
                return self._refuse(self._too_large())
            return None
        # A body is read as JSON whatever it calls itself; Tornado would parse a form, and refuse
        # what is none.
        headers.pop("Content-Type", None)
        return self._inner.headers_received(start_line, headers)

    def data_received(self, data: bytes) -> Awaitable[None] | None:
        self._received += len(data)
        if not self._refused and not self._exceeds(self._received):
            if self._connection is None or self._connection.connections.receive(
                self._connection, len(data)
            ):
                return self._inner.data_received(data)
            self._inner.on_connection_close()
            return self._refuse(
                Problem(
                    503,
                    "Too many request bodies are being received; try again.",
                    headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
                )
            )
        if not self._refused:
            self._refused = True
            # What it has kept is not needed any more.
            self._inner.on_connection_close()
        if self._received > self._max_body_bytes + DISCARDED_BYTES:
            return self._refuse(self._too_large())
        return None

    def finish(self) -> None:
        if self._connection is not None:
            self._connection.connections.body_done(self._connection)
        if not self._refused:
            self._inner.finish()
        elif not self._answered.is_set():
            self._begin(self._too_large())

    def on_connection_close(self) -> None:
        self._answered.set()
        if not self._refused:
            self._inner.on_connection_close()

    def _exceeds(self, size: int) -> bool:
        return size > self._max_body_bytes

    def _too_large(self) -> Problem:
        return Problem(413, f"The body has more than {self._max_body_bytes} bytes; send a smaller.")

    async def _refuse(self, problem: Problem) -> None:
        """Answer before the body has been read; the connection ends with that."""
        self._refused = True
        self._begin(problem)
        await self._answered.wait()

    def _begin(self, problem: Problem) -> None:
        request = HTTPServerRequest(
            connection=self._request_conn,
            server_connection=self._server_conn,
            start_line=self._start_line,
            headers=self._headers,
        )
        self._headers.pop("Content-Type", None)
        self._application.get_handler_delegate(
            request, _Refusal, {"problem": problem, "answered": self._answered}
        ).finish()


def _connection_of(request_conn: HTTPConnection) -> Connection | None:
    """The client's connection; None where another server than ours accepted it (tests)."""
    stream = getattr(request_conn, "stream", None)
    return stream if isinstance(stream, Connection) else None


class _Refusal(BaseHandler):
    """The answer to a request that is too large."""

    def initialize(self, problem: Problem, answered: asyncio.Event) -> None:
        self._problem = problem
        self._answered = answered

    async def prepare(self) -> None:
        await super().prepare()
        raise self._problem

    def on_finish(self) -> None:
        self._answered.set()
