"""The application: decides from the head of a request whether its body is read at all.

Tornado answers what exceeds its own limits with a bare 400 or by hanging up. Here the limits are
ours, and a refusal is a problem like any other: answered at once, while what the client still sends
is thrown away.
"""

from __future__ import annotations

import asyncio
import string
from asyncio import Future
from collections.abc import Awaitable, Sequence
from typing import Any
from urllib.parse import quote

from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.routing import URLSpec
from tornado.web import Application, RequestHandler

from fastlane.api.base import RETRY_AFTER_SECONDS, BaseHandler
from fastlane.api.connections import connection_of
from fastlane.api.negotiation import wants_page
from fastlane.api.operations import Route
from fastlane.api.problems import Problem
from fastlane.api.security import Security, SignInFailed
from fastlane.api.services import Services
from fastlane.checks import shown

# Bounds the headers of a request, all of them together.
MAX_HEADER_BYTES = 64 * 1024
# Bound what is read of a body that is refused, so that its sender reads the answer first.
DISCARDED_BYTES = 16 * 1024 * 1024
DISCARDING_SECONDS = 2.0


class BoundedApplication(Application):
    """Answers the requests that may be answered.

    Serve it with an ``HTTPServer`` whose own limits lie above these.
    """

    def __init__(
        self, specs: Sequence[URLSpec], services: Services, security: Security, **settings: Any
    ) -> None:
        """:param specs: with the :class:`Route` of each as the keyword ``route``."""
        self.security = security
        super().__init__(
            list(specs),
            default_handler_class=NoSuchRoute,
            default_handler_args={"route": Route("", NoSuchRoute, {})},
            services=services,
            security=security,
            **settings,
        )

    def start_request(
        self, server_conn: object, request_conn: HTTPConnection
    ) -> HTTPMessageDelegate:
        connection = connection_of(request_conn)
        if connection is not None:
            connection.connections.idle(connection)
        inner = super().start_request(server_conn, request_conn)
        return _BoundedRequest(self, inner, server_conn, request_conn)

    def get_handler_delegate(
        self,
        request: HTTPServerRequest,
        target_class: type[RequestHandler],
        target_kwargs: dict[str, Any] | None = None,
        path_args: list[bytes] | None = None,
        path_kwargs: dict[str, bytes] | None = None,
    ) -> Any:
        """:raises Problem: *request* must not be answered."""
        parts = target_kwargs or {}
        route: Route = parts["route"]
        caller = self.security.caller(request)
        connection = connection_of(request.connection)
        if connection is not None:
            connection.connections.belongs_to(connection, caller.address)
        if target_class is not _Refusal:
            role = route.role(request.method)
            self.security.check(request, caller, role, any_host=route.any_host)
        if route.page is not None and wants_page(request):
            target_class = route.page
        parts = {**parts, "caller": caller}
        return super().get_handler_delegate(request, target_class, parts, path_args, path_kwargs)


class _BoundedRequest(HTTPMessageDelegate):
    """Hands a request on to *inner* as long as it may be answered."""

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
        self._connection = connection_of(request_conn)
        self._received = 0
        self._discarded: Future[None] | None = None
        """Set once the request is refused, and done once no more of it is read."""

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
        # A body is read as JSON whatever it calls itself; Tornado would parse a form, and refuse
        # a malformed one.
        headers.pop("Content-Type", None)
        try:
            waiting = self._inner.headers_received(start_line, headers)
            self._check_sizes()
        except Problem as problem:
            self._refuse(problem)
            return None
        return waiting

    def _check_sizes(self) -> None:
        size = sum(len(name) + len(value) + 4 for name, value in self._headers.get_all())
        size += len(self._start_line.path)
        if size > MAX_HEADER_BYTES:
            raise Problem(
                431, f"The request's headers have {size} bytes; the maximum is {MAX_HEADER_BYTES}."
            )
        length = self._headers.get("Content-Length", "")
        if length.isascii() and length.isdigit() and int(length[:18]) > self._max_body_bytes:
            raise self._too_large()

    def data_received(self, data: bytes) -> Awaitable[None] | None:
        self._received += len(data)
        if self._discarded is None:
            if self._received > self._max_body_bytes:
                self._refuse(self._too_large())
            elif self._connection is None or self._connection.connections.receive(
                self._connection, len(data)
            ):
                return self._inner.data_received(data)
            else:
                self._refuse(
                    Problem(
                        503,
                        "Too many request bodies are being received; try again.",
                        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
                    )
                )
        elif self._received > self._max_body_bytes + DISCARDED_BYTES:
            _complete(self._discarded)
        return None

    def finish(self) -> None:
        if self._connection is not None:
            self._connection.connections.body_done(self._connection)
        if self._discarded is None:
            self._inner.finish()
        else:
            _complete(self._discarded)

    def on_connection_close(self) -> None:
        if self._discarded is None:
            self._inner.on_connection_close()
        else:
            self._discarded.cancel()

    def _too_large(self) -> Problem:
        return Problem(413, f"The request body exceeds {self._max_body_bytes} bytes.")

    def _refuse(self, problem: Problem) -> None:
        """Answer now. The rest of the body is dropped, so that the sender gets the answer."""
        # What it has kept of the body is not needed any more.
        self._inner.on_connection_close()
        # The sender does not get the "100 Continue" that it may wait for.
        self._headers.pop("Expect", None)
        self._discarded = asyncio.get_running_loop().create_future()
        request = HTTPServerRequest(
            connection=self._request_conn,
            server_connection=self._server_conn,
            start_line=self._start_line,
            headers=self._headers,
        )
        parts = {"problem": problem, "discarded": self._discarded, "route": Route("", _Refusal, {})}
        self._application.get_handler_delegate(request, _Refusal, parts).finish()


def _complete(future: Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class NoSuchRoute(BaseHandler):
    """Answers whatever no route matches."""

    def check(self) -> None:
        raise self._problem_of(404, None)

    def _problem_of(self, status: int, error: BaseException | None) -> Problem:
        return Problem(404, f"There is nothing at {shown(self.request.path)}.")


class _Refusal(BaseHandler):
    """The answer to a request whose body is not read."""

    def initialize(self, **parts: Any) -> None:
        super().initialize(**parts)
        self._problem: Problem = parts["problem"]
        self._discarded: Future[None] = parts["discarded"]

    async def prepare(self) -> None:
        # Before the request counts as one that a server which ends still has to answer.
        if isinstance(self._problem, SignInFailed):
            security: Security = self.settings["security"]
            await security.failed_sign_ins.delay(self.caller.address)
        await super().prepare()

    def check(self) -> None:
        raise self._problem

    def _problem_of(self, status: int, error: BaseException | None) -> Problem:
        return self._problem

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> Future[None]:
        """Send the answer, and end it once nothing is read any more: an end closes what is read."""
        if self._headers_written or self._discarded.done():
            return super().finish(chunk)
        assert isinstance(chunk, str)
        self.write(chunk)
        self.set_header("Content-Length", str(sum(map(len, self._write_buffer))))
        # Compressed, it would not have this length.
        self._transforms = []
        sent = self.flush()
        self._finished = True
        sent.add_done_callback(lambda _: self.services.requests.end(self))
        asyncio.get_running_loop().call_later(DISCARDING_SECONDS, _complete, self._discarded)
        self._discarded.add_done_callback(self._end)
        return sent

    def _end(self, discarded: Future[None]) -> None:
        if not discarded.cancelled():
            self._finished = False
            super().finish()
