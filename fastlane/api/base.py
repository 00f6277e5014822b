"""The life of a request: what every handler does before and after its own work.

Who may ask at all is decided before, in :mod:`fastlane.api.security`.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from asyncio import Future
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from types import TracebackType
from typing import Any, ClassVar

import structlog
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler

from fastlane.api import large
from fastlane.api.connections import Connection, Crowded, connection_of
from fastlane.api.ends import Wait
from fastlane.api.names import JOB_NAME, uuid_of
from fastlane.api.negotiation import AS, VARY, wants_page
from fastlane.api.operations import Route
from fastlane.api.problems import Problem
from fastlane.api.rendering import PAGE_HEADERS, TEMPLATES
from fastlane.api.schemas.build import problem_details
from fastlane.api.schemas.times import TIMES, in_form
from fastlane.api.security import Caller, Principal, Role, Security
from fastlane.api.services import Services
from fastlane.api.urls import Urls
from fastlane.checks import shown
from fastlane.encoding import to_json
from fastlane.errors import Conflict, KeyReused, NotFound, Rejected, StorageUnavailable
from fastlane.model import Execution

log = structlog.get_logger(__name__)

# What a client's request id may be. Any other is replaced by one of ours.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
# Seconds after which a client may try again when the storage is unreachable.
RETRY_AFTER_SECONDS = 5
# An answer of at most this size (bytes) is never held up for its size.
SMALL_BYTES = 64 * 1024
# How often the text of a large answer is in memory while it is made.
COPIES = 5
Room = Callable[[int], Awaitable[None]]
"""See :meth:`BaseHandler.room`."""


class BaseHandler(RequestHandler):
    """The base of every handler of the API and of its pages."""

    SUPPORTED_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
    checks_query: ClassVar[bool] = True
    """Whether an unknown query parameter is an error."""
    route: Route
    caller: Caller
    request_id: str
    _etag: str | None = None

    def initialize(self, **parts: Any) -> None:
        """See :class:`fastlane.api.bounds.BoundedApplication`."""
        self.route, self.caller = parts["route"], parts["caller"]

    @property
    def services(self) -> Services:
        services: Services = self.settings["services"]
        return services

    @property
    def principal(self) -> Principal:
        return self.caller.principal

    @property
    def connection(self) -> Connection | None:
        """The client's connection; None where it was detached, or another server accepted it."""
        return connection_of(self.request.connection)

    # -- on the way in ------------------------------------------------------------------------

    async def prepare(self) -> None:
        self.services.requests.begin(self)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=self.request_id)
        self.check()
        # Job and execution ids, which are UUIDs, after the name of the task (RFC 9562, section 4:
        # either case is read, lower case is written).
        self.path_args[1:] = [
            part if uuid_of(part) is None else part.lower() for part in self.path_args[1:]
        ]
        await self._find_name()
        if self.principal.role >= Role.VIEWER:
            # Clients compare it with their own. It is nobody else's business.
            self.set_header("Fastlane-Version", self.services.version)

    async def _find_name(self) -> None:
        """Put the id of a job in the place of its name in the path; PUT may make one of the name.

        :raises NotFound: no job of the task has it.
        """
        if "<job>" not in self.route.path or self.request.method in {"PUT", "OPTIONS"}:
            return
        task_id, job_id = self.path_args[:2]
        if uuid_of(job_id) is None and JOB_NAME.fullmatch(job_id):
            self.path_args[1] = (await self.services.storage.jobs.named(task_id, job_id)).id

    def check(self) -> None:
        """:raises Problem: the request is not one that the route answers."""
        encoding = self.request.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in {"", "identity"}:
            raise Problem(
                415,
                f"Content-Encoding {encoding[:50]} is not supported; send the body uncompressed.",
                headers={"Accept-Encoding": "identity"},
            )
        operation = self.route.operation(self.request.method)
        if operation is not None and AS in operation.parameters:
            AS.choice(self)
        if operation is not None and self.checks_query:
            operation.check_query(self.request.query_arguments)
            # Before anything is done: the answer must not fail.
            TIMES.choice(self)

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """*value*, from the path or (with a *name*) from the query, as text."""
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            what = "The path" if name is None else f"The query parameter {shown(name)}"
            raise Problem(400, f"{what} is not UTF-8 once it is percent-decoded.") from error

    # -- on the way out -----------------------------------------------------------------------

    def set_default_headers(self) -> None:
        # Tornado calls it before initialize(), and again before every error.
        if not hasattr(self, "request_id"):
            given = self.request.headers.get("X-Request-ID", "")
            self.request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
        security: Security = self.settings["security"]
        for name, value in {
            "Server": "fastlane",
            "X-Content-Type-Options": "nosniff",
            "X-Request-ID": self.request_id,
            **security.cors_headers(self.request),
        }.items():
            self.set_header(name, value)
        # Also of what has no page: its errors have.
        self.set_header("Vary", ", ".join(filter(None, (self._headers.get("Vary"), VARY))))

    @property
    def urls(self) -> Urls:
        """The URLs that this client can follow."""
        return Urls(f"{self.caller.scheme}://{self.caller.host}")

    async def room(self, size: int) -> None:
        """Wait until an answer of about *size* bytes may be made; before it is read, that is.

        :raises StreamClosedError: the client hung up meanwhile.
        :raises Problem: too many wait already.
        """
        if size > SMALL_BYTES and self.connection is not None:
            try:
                await self.connection.connections.room(self.connection, COPIES * size)
            except Crowded:
                raise Problem(
                    503,
                    "Too many large answers are being sent; try again.",
                    headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
                ) from None

    def describe(self, execution: Execution) -> None:
        """Say in headers where *execution* is."""
        self.set_header("Fastlane-Status", execution.status)
        if execution.reason is not None:
            self.set_header("Fastlane-Reason", execution.reason)
        if execution.exit_code is not None:
            self.set_header("Fastlane-Exit-Code", str(execution.exit_code))

    async def end_of(self, execution_id: str, wait: Wait, *, retries: bool) -> Execution:
        """The execution once it is final (:meth:`fastlane.api.ends.Ends.of`), in headers, too."""
        if wait.is_preference:
            self.set_header("Preference-Applied", f"wait={wait.seconds}")
        # It may be large, and the wait long.
        self.request.body = b""
        execution = await self.services.ends.of(execution_id, wait.seconds, self, retries=retries)
        self.describe(execution)
        return execution

    async def send_json(self, body: Any, *, status: int = 200) -> None:
        """Answer with *body* as JSON, with its times as the request wants them."""
        body = self._timed(body)
        await self.room(large.size(body))
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        if not large.is_large(body):
            self.finish(to_json(body))
            return
        compressed = "gzip" in self.request.headers.get("Accept-Encoding", "")
        encoded = await asyncio.to_thread(large.encode, body, compressed=compressed)
        if compressed:
            self.set_header("Content-Encoding", "gzip")
        self._etag = encoded.etag
        self.finish(encoded.body)

    def _timed(self, body: Any) -> Any:
        operation, form = self.route.operation(self.request.method), TIMES.choice(self)
        if operation is None or form is None or not isinstance(operation.answer, type):
            return body
        models = (operation.answer, operation.other, operation.unavailable)
        found = in_form(body, form, *(one for one in models if one is not None))
        for link in ("nextUrl", "prevUrl"):
            if found.get(link):
                found = {**found, link: f"{found[link]}&times={form}"}
        return found

    async def send_html(self, body: bytes, *, status: int = 200) -> None:
        """Answer with *body*, a page or a part of one, which may load only our own files."""
        await self.room(len(body))
        self.set_status(status)
        for name, value in PAGE_HEADERS.items():
            self.set_header(name, value)
        self.finish(body)

    def around(self) -> dict[str, Any]:
        """What every page shows around its own."""
        principal, paths = self.principal, {one.path for one in self.settings["routes"]}
        return {
            "version": self.services.version,
            "role": principal.role,
            "user": principal.name,
            # The socket that says what has changed.
            "events": "/events/ws/" if "/events/ws" in paths else None,
            "may_act": principal.role >= Role.SUBMITTER,
            "may_operate": principal.role >= Role.OPERATOR,
        }

    def send_nothing(self) -> None:
        """Answer that it is done."""
        self.set_status(204)
        self.set_header("Cache-Control", "no-store")
        self.finish()

    def compute_etag(self) -> str | None:
        """The tag of the answer, which is that of its text, compressed or not."""
        return self._etag or super().compute_etag()

    def options(self, *_: str, **__: str) -> None:
        self.set_header("Allow", ", ".join(self.route.methods))
        self.set_status(204)
        self.finish()

    async def head(self, *ids: str, **named_ids: str) -> None:
        """As GET; Tornado leaves the body out."""
        if "HEAD" not in self.route.methods:
            raise HTTPError(405)
        answer = self.get(*ids, **named_ids)
        if answer is not None:
            await answer

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> Future[None]:
        """End the answer; :mod:`fastlane.api.connections` bounds how long it may wait."""
        written = super().finish(chunk)
        if self.connection is not None:
            self.connection.connections.made(self.connection)
        written.add_done_callback(lambda _: self.services.requests.end(self))
        return written

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self.services.ends.leave(self)
        self.services.requests.end(self)

    def hang_up(self) -> None:
        """Close the connection as it is."""
        if self.connection is not None:
            self.connection.close()

    # -- errors -------------------------------------------------------------------------------

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """Answer with an error, or hang up when a part of the answer was sent."""
        if self._headers_written:
            # An orderly end would make a part pass for the whole.
            self.hang_up()
            self._finished = True
            return
        super().send_error(status_code, **kwargs)

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Once, and only what is not the client's fault."""
        if isinstance(value, StorageUnavailable):
            log.warning("The storage is unreachable.", path=self.request.path, error=str(value))
        elif isinstance(value, StreamClosedError):
            log.info("The client hung up before it had its answer.", path=self.request.path)
        elif not isinstance(value, (Problem, HTTPError, NotFound, Rejected)):
            log.error(
                "A request failed.",
                method=self.request.method,
                path=self.request.path,
                exc_info=value,
            )

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        problem = self._problem_of(status_code, kwargs.get("exc_info", (None, None))[1])
        self.set_status(problem.status)
        for name, value in problem.headers.items():
            self.set_header(name, value)
        details = problem_details(problem, self.request_id)
        if wants_page(self.request):
            for name, value in PAGE_HEADERS.items():
                self.set_header(name, value)
            around = self.around() | {"problem": details, "headers": problem.headers}
            self.finish(TEMPLATES.render("error.html", {**around, "path": self.request.path}))
            return
        self.set_header("Content-Type", "application/problem+json")
        self.set_header("Cache-Control", "no-store")
        self.finish(to_json(details))

    def _problem_of(self, status: int, error: BaseException | None) -> Problem:
        match error:
            case Problem():
                return error
            case NotFound():
                return Problem(404, str(error))
            case Conflict():
                return Problem(409, str(error))
            case KeyReused():
                return Problem(422, str(error))
            case Rejected():
                return Problem(400, str(error))
            case StorageUnavailable():
                return Problem(
                    503,
                    "The storage is unreachable. Nothing was changed; try again.",
                    headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
                )
        if status == 405:
            methods = ", ".join(self.route.methods)
            return Problem(
                405,
                f"{self.request.method} is not supported here; use {methods}.",
                headers={"Allow": methods},
            )
        if status >= 500:
            return Problem(500, "Something failed inside fastlane; see its log for details.")
        return Problem(status, _sentence(error) or HTTPStatus(status).description or "Refused")


def _sentence(error: BaseException | None) -> str:
    if isinstance(error, HTTPError) and error.log_message:
        try:
            return error.log_message % error.args if error.args else error.log_message
        except (TypeError, ValueError):
            return error.log_message
    return ""
