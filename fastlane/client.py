"""A small client of a running server, for ``fastlane submit``, ``logs`` and ``status``.

It knows nothing but the HTTP contract. Every failure is a :class:`~fastlane.errors.FastlaneError`
with a sentence for people.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from fastlane.errors import FastlaneError

# Bounds one call in seconds.
_CALL_SECONDS = 30.0
# Bounds the silence on a log in seconds; pings keep a quiet one alive.
_HEARTBEAT_SECONDS = 20.0
# Bounds one message of a log in bytes.
_MESSAGE_MAX_BYTES = 16 * 1024 * 1024
# Bounds one answer in bytes; a log is not read as one.
_ANSWER_MAX_BYTES = 16 * 1024 * 1024
# How often in a row a server that cannot be reached is tried.
_ATTEMPTS = 10
# Bounds the wait between two attempts in seconds; it doubles from the first.
_FIRST_WAIT_SECONDS = 0.25
_LAST_WAIT_SECONDS = 2.0

Write = Callable[[str, str], None]
"""Takes the stream (``stdout``, ``stderr``, ``fastlane``) and the text."""


class Answered(FastlaneError):
    """The server refused the call."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class End:
    """How an execution ended."""

    status: str
    exit_code: int | None
    reason: str | None


class Client:
    """Talks to one server. Use it as ``async with connected(url) as client``."""

    def __init__(
        self, server: URL, headers: Mapping[str, str], session: aiohttp.ClientSession
    ) -> None:
        self._origin = server.origin()
        self._server = str(server).rstrip("/")
        self._headers = headers
        self._session = session

    async def submit(self, task: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """POST a job; the server's answer."""
        return await self._json("POST", f"{self._server}/tasks/{quote(task, safe='')}/", payload)

    async def status(self) -> dict[str, Any]:
        """What ``/status/`` says."""
        return await self._json("GET", f"{self._server}/status/")

    async def notifications(self, state: str) -> AsyncIterator[dict[str, Any]]:
        """What ``/notifications/`` lists, page by page."""
        url: str | None = f"{self._server}/notifications/?state={quote(state, safe='')}"
        while url is not None:
            page = await self._json("GET", url)
            for item in page.get("items", ()):
                yield item
            url = page.get("nextUrl")

    async def requeue(self, notification_id: str) -> dict[str, Any]:
        """Have a failed notification tried again; the server's answer."""
        where = f"{self._server}/notifications/{quote(notification_id, safe='')}/requeue/"
        return await self._json("POST", where)

    async def execution_status(self, task: str, job: str, execution: str) -> str | None:
        """The status of an execution; None when the server does not know it."""
        where = f"{self._server}/tasks/{quote(task, safe='')}/jobs/{job}/executions/{execution}/"
        try:
            answer = await self._json("GET", where)
        except Answered as answered:
            if answered.status == 404:
                return None
            raise
        status = answer.get("execution", {}).get("status")
        return status if isinstance(status, str) else None

    async def logs(self, url: str) -> AsyncIterator[bytes]:
        """The log of a job or execution so far: stdout, ``-=-``, stderr."""
        async with self._answer("GET", f"{url.rstrip('/')}/logs/", total=None) as answer:
            async for chunk in answer.content.iter_chunked(64 * 1024):
                yield chunk

    async def follow(self, url: str, write: Write) -> End:
        """Hand the log of a job or execution to *write* as it comes, until it has ended.

        A broken connection is taken up again behind the last record; nothing comes twice.
        """
        after: int | None = None
        wait, failures = _FIRST_WAIT_SECONDS, 0
        while True:
            try:
                async for record in self._records(url, after):
                    wait, failures = _FIRST_WAIT_SECONDS, 0
                    if record.get("end"):
                        return End(record["status"], record.get("exitCode"), record.get("reason"))
                    after = record["seq"]
                    write(record["stream"], record["text"])
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if isinstance(error, aiohttp.WSServerHandshakeError) and 400 <= error.status < 500:
                    raise FastlaneError(
                        f"{url} answers {error.status}: give the URL of a job or an execution."
                    ) from error
                failures += 1
                if failures >= _ATTEMPTS:
                    raise _unreachable(url, error) from error
            await asyncio.sleep(wait)
            wait = min(wait * 2, _LAST_WAIT_SECONDS)

    async def _records(self, url: str, after: int | None) -> AsyncIterator[dict[str, Any]]:
        query = {"format": "json"} if after is None else {"format": "json", "after": str(after)}
        where = _http_url(f"{url.rstrip('/')}/ws/")
        async with self._session.ws_connect(
            where.update_query(query),
            headers=self._headers_for(where),
            heartbeat=_HEARTBEAT_SECONDS,
            max_msg_size=_MESSAGE_MAX_BYTES,
        ) as socket:
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    yield json.loads(message.data)

    async def _json(
        self, method: str, url: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        async with self._answer(method, url, body, total=_CALL_SECONDS) as answer:
            try:
                decoded = json.loads(await _whole(answer))
            except ValueError:
                decoded = None
            if not isinstance(decoded, dict):
                raise FastlaneError(f"{url} does not answer as fastlane does: is it a server?")
            return decoded

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        url: str,
        body: Mapping[str, Any] | None = None,
        *,
        total: float | None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        timeout = aiohttp.ClientTimeout(total=total, sock_connect=10, sock_read=_CALL_SECONDS)
        where = _http_url(url)
        try:
            async with self._session.request(
                method, where, json=body, timeout=timeout, headers=self._headers_for(where)
            ) as answer:
                if answer.status >= 400:
                    raise Answered(_said(url, answer.status, await _whole(answer)), answer.status)
                yield answer
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(url, error) from error

    def _headers_for(self, url: URL) -> Mapping[str, str]:
        # Another server's URL must not be handed this one's password.
        return self._headers if url.origin() == self._origin else {}


@asynccontextmanager
async def connected(server: str) -> AsyncIterator[Client]:
    """A client of the server at *server*; a user and password in the URL are for Basic auth.

    :raises FastlaneError: *server* is not an http URL.
    """
    url = _http_url(server)
    headers = {}
    if url.user:
        credentials = b64encode(f"{url.user}:{url.password or ''}".encode()).decode()
        headers["Authorization"] = f"Basic {credentials}"
    async with aiohttp.ClientSession() as session:
        yield Client(url.with_user(None), headers, session)


def _http_url(text: str) -> URL:
    """*text* as it is written, without decoding what is percent-encoded.

    :raises FastlaneError: it is not an http URL.
    """
    try:
        url = URL(text, encoded=True)
        good = url.scheme in ("http", "https") and bool(url.host)
    except ValueError:
        good = False
    if not good:
        raise FastlaneError(f"{text[:200]!r} is no URL: give one like http://localhost:10000.")
    return url


async def _whole(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_chunked(64 * 1024):
        body += chunk
        if len(body) > _ANSWER_MAX_BYTES:
            raise FastlaneError(f"{answer.url} answers more than fastlane does: is it a server?")
    return bytes(body)


def _unreachable(url: str, error: Exception) -> FastlaneError:
    why = str(error) or type(error).__name__
    return FastlaneError(
        f"{url} cannot be reached ({why}): start a server with `fastlane server`, "
        "or name one with --server or FASTLANE_URL."
    )


def _said(url: str, status: int, body: bytes) -> str:
    """What a problem document (RFC 9457) says, a fault a line."""
    try:
        problem = json.loads(body)
        lines = [f"{url} answers {status}: {problem.get('detail') or problem.get('title')}"]
        lines += [f"{fault['pointer']}: {fault['message']}" for fault in problem.get("errors", ())]
    except (ValueError, AttributeError, KeyError, TypeError):
        return f"{url} answers {status}."
    return "\n".join(lines)
