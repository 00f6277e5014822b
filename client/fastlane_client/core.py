"""The core of both styles: operations as generators that do no I/O themselves.

An operation yields what it needs done, and gets the result back: a :class:`Request` gives a
:class:`Reply`, :class:`More` a piece of the reply that is being received, :class:`Sleep` nothing.
An operation that produces many things yields each in an :class:`Item`. A driver
(:mod:`fastlane_client.drivers`) does what is asked, by blocking or by awaiting, and raises
:class:`Broken` inside the operation where a connection fails. So every rule is written once:
what is retried and for how long, how an answer is read, how a log is resumed.
"""

from __future__ import annotations

import json
import random
import time
import uuid
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

from fastlane_client.address import Address
from fastlane_client.decoding import loads
from fastlane_client.errors import (
    ClientError,
    Fault,
    Refused,
    UnexpectedAnswer,
    Unreachable,
    class_of,
)
from fastlane_client.version import VERSION

T = TypeVar("T")
R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)

# Bounds one request in seconds, beside what the server is asked to wait.
CALL_SECONDS = 30.0
# Bounds the seconds that a server which has answered before may be unreachable.
PATIENCE_SECONDS = 60.0
# Bounds the same for a server that has never answered: it probably is not there.
FIRST_PATIENCE_SECONDS = 1.5
# Bound the pause between two tries, which doubles from the first.
FIRST_PAUSE_SECONDS = 0.1
LAST_PAUSE_SECONDS = 3.0
# A server that has kept a waiting request for so many seconds was alive.
ALIVE_SECONDS = 0.5
# Bounds one answer in bytes; a log is not read as one.
ANSWER_MAX_BYTES = 64 * 1024 * 1024
# How long the server is asked to wait for news: below the idle limit of proxies (Heroku: 30 s).
WAIT_SECONDS = 25

Query = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Request:
    """One request, for a driver to send."""

    method: str
    path: str
    """Percent-encoded, with a slash at the beginning."""
    query: str = ""
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = False
    """Whether the server may get it twice."""
    seconds: float = CALL_SECONDS
    """Bounds the silence of the server."""
    waits: bool = False
    """The server is asked to wait for news, so that an answer may take long."""
    streamed: bool = False
    """The body is received piece by piece, by :class:`More`."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server answered."""

    status: int
    headers: Mapping[str, str]
    """By names in lower case."""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class More:
    """Asks for the next piece of the streamed reply; b"" is its end."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """Asks for a pause."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Item(Generic[T_co]):
    """One of the things that an operation produces."""

    value: T_co


Step = Request | More | Sleep
Op = Generator[Step, Any, T]
"""An operation that returns a T."""
Items = Generator[Step | Item[T], Any, None]
"""An operation that produces many T."""


class Broken(Exception):
    """A driver found the connection broken."""

    def __init__(self, why: str, *, sent: bool) -> None:
        super().__init__(why)
        self.sent = sent
        """Whether the server may have got the request."""


class VersionWarning(UserWarning):
    """The client and the server are of different versions."""


class Core:
    """The rules of one client: where the server is, and how patiently it is called."""

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout: float = CALL_SECONDS,
        patience: float = PATIENCE_SECONDS,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.address = Address.of(url, token)
        self.timeout = timeout
        self.patience = patience
        self.headers = {
            "User-Agent": f"fastlane-client/{VERSION}",
            "Accept": "application/json",
            **(headers or {}),
            **self.address.headers,
        }
        self._reached = False
        self._succeeded_at = 0.0
        self._version_checked = False

    def request(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: object = None,
        *,
        repeatable: bool | None = None,
        wait: float = 0,
        accept: str | None = None,
        streamed: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Request:
        """:param wait: how long the server is asked to wait, in seconds."""
        given = dict(headers or {})
        if accept is not None:
            given["Accept"] = accept
        if body is not None:
            given["Content-Type"] = "application/json"
        return Request(
            method,
            path,
            encode_query(query or {}),
            None if body is None else json.dumps(body).encode(),
            given,
            method in ("GET", "HEAD") if repeatable is None else repeatable,
            self.timeout + wait,
            wait > 0,
            streamed,
        )

    def send(self, request: Request) -> Op[Reply]:
        """Send it, again where that can help and do no harm.

        :raises Unreachable: no answer came in time.
        :raises Refused: the server answered with an error status.
        """
        pauses = _pauses()
        since: float | None = None
        while True:
            asked_at = time.monotonic()
            asked: float | None = None
            error: ClientError
            try:
                reply: Reply = yield request
            except Broken as broken:
                error = self._unreachable(broken)
                again = request.repeatable or not broken.sent
                # A connection that was made had somebody at its other end.
                self._reached = self._reached or broken.sent
                if request.waits and broken.sent and time.monotonic() > asked_at + ALIVE_SECONDS:
                    # There was a server, which only had no news before it was gone.
                    since, pauses = None, _pauses()
                elif since is not None:
                    # It may have answered others meanwhile.
                    since = max(since, self._succeeded_at)
            else:
                self._reached = True
                if reply.status < 300:
                    self._succeeded_at = time.monotonic()
                    self._check_version(reply)
                    return reply
                if since is not None and reply.status == 404 and request.method == "DELETE":
                    # The try before has deleted it, and its answer was lost.
                    return replace(reply, status=204, body=b"")
                if request.streamed:
                    reply = replace(reply, body=(yield from self.rest()))
                error = self._refused(request, reply)
                again = reply.status == 429 or (
                    request.repeatable and reply.status in (502, 503, 504)
                )
                asked = error.retry_after if isinstance(error, Refused) else None
            pause = next(pauses) if asked is None else asked
            now = time.monotonic()
            since = now if since is None else since
            patience = self.patience if self._reached else FIRST_PATIENCE_SECONDS
            if not again or now + pause > since + min(patience, self.patience):
                raise error
            yield Sleep(pause)

    def json(self, request: Request) -> Op[Any]:
        """The JSON that the server answers; None where it answers nothing."""
        reply = yield from self.send(request)
        return loads(reply.body, self.address.base) if reply.body else None

    def rest(self) -> Op[bytes]:
        """The rest of a streamed reply."""
        body = bytearray()
        while piece := (yield More()):
            body += piece
            if len(body) > ANSWER_MAX_BYTES:
                raise UnexpectedAnswer(f"{self.address.base} sends more than an answer can be.")
        return bytes(body)

    def pages(self, path: str, query: Query, key: str = "items") -> Items[Any]:
        """All items of a list, page by page."""
        more = encode_query(query)
        while True:
            request = replace(self.request("GET", path), query=more)
            page = yield from self.json(request)
            items = page.get(key) if isinstance(page, dict) else None
            if not isinstance(items, list):
                raise UnexpectedAnswer(f"{self.address.base} sent a page without items.")
            for item in items:
                yield Item(item)
            url = page.get("nextUrl")
            if not url:
                return
            # Only the query: a proxy may know this server by another name and path.
            more = urlsplit(url).query

    def _unreachable(self, broken: Broken) -> Unreachable:
        return Unreachable(
            f"{self.address.base} cannot be reached ({broken}): start a server with "
            "`fastlane server`, or name one with FASTLANE_URL."
        )

    def _refused(self, request: Request, reply: Reply) -> ClientError:
        if reply.status < 400:
            target = urlsplit(reply.headers.get("location", ""))
            to = f" to {target.scheme}://{target.hostname}" if target.hostname else ""
            # Not followed: it would hand the credentials to another server.
            return UnexpectedAnswer(
                f"{self.address.base} redirects{to}. Redirects are not followed; "
                "give the URL of the server itself."
            )
        return refusal(f"{self.address.base}{request.path}", reply)

    def _check_version(self, reply: Reply) -> None:
        version = reply.headers.get("fastlane-version")
        if version is None or self._version_checked:
            return
        self._version_checked = True
        if _release(version) != _release(VERSION):
            warnings.warn(
                f"The server at {self.address.base} has version {version}, and this client "
                f"{VERSION}. What only one of them knows does not work; the rest does.",
                VersionWarning,
                stacklevel=2,
            )


def mapped(operation: Items[T], function: Callable[[T], R | None]) -> Items[R]:
    """*operation* with *function* of each item; without those of which it is None."""
    try:
        step = next(operation)
        while True:
            if isinstance(step, Item):
                value = function(step.value)
                if value is not None:
                    yield Item(value)
                step = operation.send(None)
                continue
            try:
                result = yield step
            except Exception as error:
                step = operation.throw(error)
            else:
                step = operation.send(result)
    except StopIteration:
        return
    finally:
        operation.close()


def encode_query(query: Query) -> str:
    """What is None is left out; several values are separated by commas."""
    pairs = []
    for name, value in query.items():
        if value is None:
            continue
        if isinstance(value, bool):
            text = "true" if value else "false"
        elif isinstance(value, datetime):
            text = value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        elif isinstance(value, str):
            text = value
        elif isinstance(value, Sequence):
            text = ",".join(str(one) for one in value)
        else:
            text = str(value)
        pairs.append((name, text))
    return urlencode(pairs)


def decode_query(query: str) -> list[tuple[str, str]]:
    """The names and values of *query*."""
    return parse_qsl(query, keep_blank_values=True)


def new_key() -> str:
    """An ``Idempotency-Key`` that nobody else has."""
    return str(uuid.uuid4())


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE_SECONDS
    while True:
        # Not all clients at the same time, once a server is back.
        yield pause * random.uniform(0.7, 1.3)  # noqa: S311
        pause = min(pause * 2, LAST_PAUSE_SECONDS)


def _release(version: str) -> list[str]:
    return version.split(".")[:2]


def refusal(where: str, reply: Reply) -> Refused:
    """The exception for an error status, by its problem document (RFC 9457) or a healthcheck."""
    try:
        problem = json.loads(reply.body)
        faults = [
            Fault(
                fault.get("pointer", ""),
                f"{fault['source']}: {fault['message']}" if "source" in fault else fault["message"],
            )
            for fault in problem.get("errors", ())
        ]
        detail = problem.get("detail") or problem.get("title")
    except (ValueError, AttributeError, KeyError, TypeError):
        problem, faults, detail = {}, [], None
    head = f"{where} answers {reply.status}"
    lines = [f"{head}: {detail}" if detail else f"{head}.", *(one.message for one in faults)]
    if reply.status == 401:
        lines.append("Give a token in FASTLANE_TOKEN, or a user as in http://user:password@host.")
    return class_of(reply.status)(
        "\n".join(lines),
        status=reply.status,
        detail=detail,
        faults=faults,
        request_id=reply.headers.get("x-request-id"),
        retry_after=_retry_after(reply.headers.get("retry-after")),
    )


def _retry_after(text: str | None) -> float | None:
    """Seconds (RFC 9110, section 10.2.3)."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, at.timestamp() - time.time())
