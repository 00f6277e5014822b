"""What every handler does before and after its own work.

Request id, client address, auth, host and origin checks on the way in; JSON, absolute URLs and
problem answers on the way out.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import ipaddress
import re
import uuid
from asyncio import Future
from http import HTTPStatus
from types import TracebackType
from typing import Any

import structlog
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler
from tornado.websocket import WebSocketHandler

from fastlane.api import large
from fastlane.api.problems import Problem
from fastlane.api.schemas.common import Urls
from fastlane.api.schemas.problems import problem_details
from fastlane.api.services import Services
from fastlane.encoding import to_json
from fastlane.errors import KeyReused, NotFound, Rejected, StorageUnavailable

log = structlog.get_logger(__name__)

# What a request id of a client's may be; another is replaced by one of ours.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
# What a Host header may be: a name or an address, and a port.
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?", re.ASCII)
_PORT = re.compile(r":[0-9]+$")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# Seconds after which a client may try again when the storage is away.
RETRY_AFTER_SECONDS = 5


class BaseHandler(RequestHandler):
    """The base of every handler of the API and of its pages."""

    SUPPORTED_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
    open_to_all = False
    """Whether the route is answered without auth."""
    _etag: str | None = None

    @property
    def services(self) -> Services:
        services: Services = self.settings["services"]
        return services

    # -- on the way in ------------------------------------------------------------------------

    async def prepare(self) -> None:
        self.services.requests.begin(self)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=self.request_id)
        self._scheme, self.client_ip = self._whence()
        if not self._is_preflight:
            self._check_credentials()
        self._check_host_and_origin()
        # Job and execution ids, which are UUIDs, behind the name of the task (RFC 9562, section 4:
        # either case is read, lower case is written).
        self.path_args[1:] = [part.lower() for part in self.path_args[1:]]
        encoding = self.request.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in {"", "identity"}:
            raise Problem(
                415,
                f"A body with Content-Encoding {encoding[:50]!r} is not taken; send it as it is.",
                headers={"Accept-Encoding": "identity"},
            )

    def _whence(self) -> tuple[str, str]:
        """Scheme and client address; what a proxy says counts only when we trust the proxy."""
        headers = self.request.headers
        peer = self.request.remote_ip or ""
        scheme = self.request.protocol
        if not self._is_trusted(peer):
            return scheme, peer
        forwarded = headers.get("X-Forwarded-Proto", "").split(",")[0].strip().lower()
        if forwarded in {"http", "https"}:
            scheme = forwarded
        # The last address that no trusted proxy of ours has added itself.
        chain = [part.strip() for part in headers.get("X-Forwarded-For", "").split(",")]
        for address in reversed([part for part in chain if part]):
            if not _is_address(address):
                break
            peer = address
            if not self._is_trusted(address):
                break
        else:
            real = headers.get("X-Real-Ip", "").strip()
            if not any(chain) and _is_address(real):
                peer = real
        return scheme, peer

    def _is_trusted(self, address: str) -> bool:
        networks = self.services.config.trusted_proxies
        # Without any, the usual case, each request is spared taking its address apart twice.
        if not networks or not _is_address(address):
            return False
        parsed = ipaddress.ip_address(address)
        return any(parsed in network for network in networks)

    @property
    def _host(self) -> str:
        """Host and port under which the client knows us."""
        if self._is_trusted(self.request.remote_ip or ""):
            forwarded = self.request.headers.get("X-Forwarded-Host", "").split(",")[0].strip()
            if _HOST.fullmatch(forwarded):
                return forwarded
        return self.request.host

    def _check_credentials(self) -> None:
        if not self.open_to_all and not self.has_credentials:
            raise Problem(
                401,
                "Give user and password by HTTP Basic auth.",
                headers={"WWW-Authenticate": 'Basic realm="fastlane", charset="UTF-8"'},
            )

    @property
    def has_credentials(self) -> bool:
        """Whether the request carries the credentials that are configured, or none are."""
        config = self.services.config
        user, password = config.basic_auth_user, config.basic_auth_password.get_secret_value()
        if not user:
            return True
        expected = f"{user}:{password}".encode()
        scheme, _, encoded = self.request.headers.get("Authorization", "").partition(" ")
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            given = b""
        # Constant in time, so that nothing can be learnt by measuring.
        return hmac.compare_digest(given, expected) and scheme.lower() == "basic"

    @property
    def _is_preflight(self) -> bool:
        """Whether a browser asks, without credentials, if it may send a request (Fetch, CORS)."""
        origin = self.request.headers.get("Origin")
        return (
            self.request.method == "OPTIONS"
            and origin is not None
            and "Access-Control-Request-Method" in self.request.headers
            and self._cors_allows(origin)
        )

    def _check_host_and_origin(self) -> None:
        if not _HOST.fullmatch(self._host):
            raise Problem(
                400, f"Host {self._host[:100]!r} is not a host name with or without port."
            )
        is_socket = self.request.headers.get("Upgrade", "").lower() == "websocket"
        if self.request.method in _SAFE_METHODS and not is_socket:
            return
        allowed = self.services.config.allowed_hosts
        host = self._host.lower()
        if allowed and host not in allowed and _PORT.sub("", host) not in allowed:
            raise Problem(403, f"Host {host[:100]!r} is not one of ALLOWED_HOSTS.")
        origin = self.request.headers.get("Origin")
        site = self.request.headers.get("Sec-Fetch-Site", "none")
        if site == "same-origin":
            # No page can set this header: the browser itself has compared what it sees, also in
            # front of a proxy that ends TLS and that we were not told to trust.
            return
        if origin is None:
            if site != "none":
                raise Problem(403, f"Requests from another origin ({site}) are refused.")
        elif not self._is_own_origin(origin) and not self._cors_allows(origin):
            raise Problem(403, f"Requests from origin {origin[:200]!r} are refused.")

    def _is_own_origin(self, origin: str) -> bool:
        return origin.lower() == f"{self._scheme}://{self._host}".lower()

    def _cors_allows(self, origin: str) -> bool:
        origins = self.services.config.cors_origins
        return "*" in origins or origin.lower() in origins

    def check_origin(self, origin: str) -> bool:
        """Tornado's own question for WebSockets; ``prepare`` has answered it already."""
        return True

    def _allow_cross_origin(self) -> None:
        if not self.services.config.cors_origins:
            return
        self.add_header("Vary", "Origin")
        origin = self.request.headers.get("Origin")
        if origin is None or not self._cors_allows(origin):
            return
        self.set_header("Access-Control-Allow-Origin", origin)
        self.set_header(
            "Access-Control-Expose-Headers",
            "X-Request-ID, Fastlane-Exit-Code, Fastlane-Reason, Fastlane-Status, Retry-After",
        )
        if self.request.method == "OPTIONS":
            self.set_header("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE")
            self.set_header(
                "Access-Control-Allow-Headers",
                "Authorization, Content-Type, Idempotency-Key, X-Request-ID",
            )
            self.set_header("Access-Control-Max-Age", "600")

    # -- on the way out -----------------------------------------------------------------------

    def set_default_headers(self) -> None:
        self.set_header("Server", "fastlane")
        self.set_header("X-Content-Type-Options", "nosniff")
        # Here and not in prepare(), because Tornado refuses some requests before that and clears
        # the headers before every error.
        if not hasattr(self, "request_id"):
            given = self.request.headers.get("X-Request-ID", "")
            self.request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
        self.set_header("X-Request-ID", self.request_id)
        self._allow_cross_origin()

    @property
    def urls(self) -> Urls:
        """The URLs under which this client finds things."""
        return Urls(f"{self._scheme}://{self._host}")

    async def send_json(self, body: Any, *, status: int = 200) -> None:
        """Answer with *body* as JSON."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        if not large.is_large(body):
            self.finish(to_json(body))
            return
        compressed = "gzip" in self.request.headers.get("Accept-Encoding", "")
        encoded = await asyncio.to_thread(large.encode, body, compressed=compressed)
        if compressed:
            self.set_header("Content-Encoding", "gzip")
        self._etag = encoded.etag
        self.finish(encoded.body)

    def compute_etag(self) -> str | None:
        """The tag of the answer, which is that of its text, compressed or not."""
        return self._etag or super().compute_etag()

    def options(self, *_: str, **__: str) -> None:
        self.set_header("Allow", ", ".join(self.allowed_methods()))
        self.set_status(204)
        self.finish()

    async def head(self, *ids: str, **named_ids: str) -> None:
        """As GET; Tornado leaves the body out."""
        if "HEAD" not in self.allowed_methods():
            raise HTTPError(405)
        answer = self.get(*ids, **named_ids)
        if answer is not None:
            await answer

    def allowed_methods(self) -> list[str]:
        """What this route answers."""
        handler, base = type(self), RequestHandler
        allowed = [
            method
            for method in self.SUPPORTED_METHODS
            if getattr(handler, method.lower()) is not getattr(base, method.lower())
        ]
        if "GET" not in allowed or issubclass(handler, WebSocketHandler):
            # A handshake is a GET (RFC 6455, section 4.1).
            allowed.remove("HEAD")
        return allowed

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """*value*, from the path or (with a *name*) from the query, as text."""
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            what = "The path" if name is None else f"The query's {name}"
            raise Problem(400, f"{what} is not UTF-8 text once its %XX are decoded.") from error

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> Future[None]:
        """End the answer; :mod:`fastlane.api.connections` bounds how long it may wait."""
        written = super().finish(chunk)
        written.add_done_callback(lambda _: self.services.requests.end(self))
        return written

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self.services.requests.end(self)

    def hang_up(self) -> None:
        """Close the connection as it is."""
        stream = getattr(self.request.connection, "stream", None)
        if stream is not None:
            stream.close()

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """Answer with an error, or hang up when a part of the answer is out already."""
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
        """Once, and only what is our own fault."""
        if isinstance(value, StorageUnavailable):
            log.warning("storage is away", path=self.request.path, error=str(value))
        elif isinstance(value, StreamClosedError):
            log.info("the client hung up before it had its answer", path=self.request.path)
        elif not isinstance(value, (Problem, HTTPError, NotFound, Rejected)):
            log.error(
                "request failed inside fastlane",
                method=self.request.method,
                path=self.request.path,
                exc_info=value,
            )

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        problem = self._problem_of(status_code, error)
        if not hasattr(self, "client_ip"):
            # Tornado refused it before prepare() was reached: strangers learn nothing from that.
            try:
                self._check_credentials()
            except Problem as refusal:
                problem = refusal
        for name, value in problem.headers.items():
            self.set_header(name, value)
        self.set_status(problem.status)
        if problem.status == 405:
            self.set_header("Allow", ", ".join(self.allowed_methods()))
        self.set_header("Content-Type", "application/problem+json")
        self.finish(to_json(problem_details(problem, self.request_id)))

    def _problem_of(self, status: int, error: BaseException | None) -> Problem:
        match error:
            case Problem():
                return error
            case NotFound():
                return Problem(404, str(error))
            case KeyReused():
                return Problem(422, str(error))
            case Rejected():
                return Problem(400, str(error))
            case StorageUnavailable():
                return Problem(
                    503,
                    "The storage is away; nothing was changed. Try again.",
                    headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
                )
        if status == 405:
            methods = ", ".join(self.allowed_methods())
            return Problem(405, f"{self.request.method} is not answered here; use {methods}.")
        if status >= 500:
            return Problem(500, "Something failed inside fastlane; its log has the details.")
        return Problem(status, _sentence(error) or HTTPStatus(status).description or "Refused")


class NoSuchRoute(BaseHandler):
    """Answers whatever no route matches."""

    async def prepare(self) -> None:
        await super().prepare()
        raise Problem(404, f"There is nothing at {self.request.path[:200]!r}.")


def _sentence(error: BaseException | None) -> str:
    if isinstance(error, HTTPError) and error.log_message:
        try:
            return error.log_message % error.args if error.args else error.log_message
        except (TypeError, ValueError):
            return error.log_message
    return ""


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
