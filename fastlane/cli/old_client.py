"""A small client of a running server, for the commands that call one.

It knows only the HTTP contract and the state frames of the log page. Every failure is a
:class:`~fastlane.errors.FastlaneError` with a sentence for people.
"""

from __future__ import annotations

import json
import os
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from fastlane.errors import FastlaneError
from fastlane.pause import Pause
from fastlane.redact import HIDDEN

# Bounds one call in seconds.
_CALL_SECONDS = 30.0
# Bounds the silence on a log in seconds; pings keep a quiet one alive.
_HEARTBEAT_SECONDS = 20.0
# Bounds one message of a log in bytes.
_MESSAGE_MAX_BYTES = 16 * 1024 * 1024
# Bounds one answer in bytes; a log is not read as one.
_ANSWER_MAX_BYTES = 16 * 1024 * 1024
# Bounds the attempts in a row to reach a server.
_ATTEMPTS = 10
# Bounds the wait between two attempts in seconds; it doubles from the first.
_FIRST_WAIT_SECONDS = 0.25
_LAST_WAIT_SECONDS = 2.0

Write = Callable[[str, str], None]
"""Takes the stream (``stdout``, ``stderr``, ``fastlane``) and the text."""


class Refused(FastlaneError):
    """The server refused the call."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class State:
    """How an execution is, or how it ended."""

    status: str
    exit_code: int | None = None
    reason: str | None = None
    error: str | None = None
    """fastlane's own explanation of its end, in a sentence."""

    @property
    def sentence(self) -> str:
        """How it ended, for people."""
        head = "Timed out" if self.status == "timedout" else self.status.capitalize()
        if self.error:
            return f"{head}: {self.error}"
        code = self.reason == "exit-code"
        return f"{head} with exit code {self.exit_code}." if code else f"{head} ({self.reason})."


class Client:
    """Talks to one server. Use it as ``async with connected(url) as client``."""

    def __init__(
        self, server: URL, headers: Mapping[str, str], session: aiohttp.ClientSession
    ) -> None:
        self._origin = server.origin()
        self._server = str(server).rstrip("/")
        # Another server's URL must not be given this one's password.
        self._headers = headers
        self._session = session

    async def submit(self, task: str, payload: Mapping[str, Any]) -> tuple[str, str]:
        """POST a job; its URL, and that of its execution, or again its own while it has none."""
        where = f"{self._server}/tasks/{quote(task, safe='')}/"
        answer = await self._json("POST", where, payload)
        job_url, url = answer.get("jobUrl"), answer.get("executionUrl") or answer.get("jobUrl")
        if not isinstance(job_url, str) or not isinstance(url, str):
            raise _not_fastlane(where)
        return job_url, url

    async def status(self) -> dict[str, Any]:
        """What ``/status/`` says."""
        return await self._json("GET", f"{self._server}/status/")

    async def health(self) -> None:
        """Return when the server is healthy.

        :raises FastlaneError: it is not, or it cannot be reached.
        """
        await self._json("GET", f"{self._server}/healthcheck/")

    async def notifications(self, state: str) -> AsyncIterator[dict[str, Any]]:
        """What ``/notifications/`` lists, page by page."""
        url: str | None = f"{self._server}/notifications/?state={quote(state, safe='')}"
        while url is not None:
            page = await self._json("GET", url)
            for item in page.get("items", ()):
                yield item
            url = page.get("nextUrl")

    async def requeue(self, notification_id: str) -> dict[str, Any]:
        """Have a failed notification sent again; the server's answer."""
        where = f"{self._server}/notifications/{quote(notification_id, safe='')}/requeue/"
        return await self._json("POST", where)

    async def execution_status(self, task: str, job: str, execution: str) -> str | None:
        """The status of an execution; None when the server does not know it."""
        where = f"{self._server}/tasks/{quote(task, safe='')}/jobs/{job}/executions/{execution}/"
        try:
            answer = await self._json("GET", where)
        except Refused as refused:
            if refused.status == 404:
                return None
            raise
        status = answer.get("execution", {}).get("status")
        return status if isinstance(status, str) else None

    async def logs(self, url: str, write: Callable[[bytes], object]) -> State:
        """Hand the log of a job or execution so far to *write*: stdout, ``-=-``, stderr.

        :return: how the execution is.
        """
        url = url.rstrip("/")
        async with self._answer("GET", f"{url}/logs/", total=None) as answer:
            async for chunk in answer.content.iter_chunked(64 * 1024):
                write(chunk)
            status = answer.headers.get("Fastlane-Status", "")
            reason = answer.headers.get("Fastlane-Reason")
        # What the program wrote says why it failed, unless fastlane has more to say.
        error = None if reason in (None, "exit-code") else await self._error(url)
        return State(status, None, reason, error)

    async def _error(self, url: str) -> str | None:
        details = await self._json("GET", f"{url}/")
        execution = details.get("execution") or details["job"]["executions"][0]
        message: str | None = execution["metadata"]["message"]
        return message

    async def follow(self, url: str, write: Write) -> State:
        """Hand the log of a job or execution to *write* as it is written, until it has ended.

        A job has ended when no retry of its execution follows. A broken connection is resumed
        after the last record, so that nothing comes twice.
        """
        url = url.rstrip("/")
        is_job, watched = not _names_execution(url), url
        while True:
            end, state = await self._watch(watched, write, pin=is_job and watched == url)
            retry = state.get("retry") if is_job else None
            if retry is None:
                return end
            # In the form of the server's own notes.
            note = f"{end.sentence} Attempt {retry['attempt']} of {state['attempts']} follows."
            write("fastlane", f"\n[fastlane: {note}]\n")
            watched = f"{url}/executions/{retry['executionId']}"

    async def _watch(self, url: str, write: Write, *, pin: bool) -> tuple[State, Mapping[str, Any]]:
        """Follow one execution to its end; the end, and the last state that the server sent.

        :param pin: *url* is a job's: once it has an execution, that one is watched.
        """
        after: int | None = None
        state: Mapping[str, Any] = {}
        where = url
        pause, failures = Pause(_FIRST_WAIT_SECONDS, _LAST_WAIT_SECONDS), 0
        while True:
            try:
                async for message in self._messages(where, after):
                    pause.reset()
                    failures = 0
                    if "state" in message:
                        state = message["state"]
                        if state["status"] == "idle":
                            what = "has not run and is not scheduled: there is nothing to follow"
                            raise FastlaneError(f"{shown_url(url)} {what}.")
                        if pin and state["executionId"]:
                            where = f"{url}/executions/{state['executionId']}"
                    elif message.get("end"):
                        code, reason = message.get("exitCode"), message.get("reason")
                        return State(message["status"], code, reason, state.get("error")), state
                    else:
                        after = message["seq"]
                        write(message["stream"], message["text"])
            except (aiohttp.ClientError, TimeoutError) as error:
                failures += 1
                refused = isinstance(error, aiohttp.WSServerHandshakeError) and error.status < 500
                if refused or failures >= _ATTEMPTS:
                    raise _unreachable(url, error) from error
            await pause.wait()

    async def _messages(self, url: str, after: int | None) -> AsyncIterator[dict[str, Any]]:
        query = {"format": "json", "state": "true"}
        if after is not None:
            query["after"] = str(after)
        where = _http_url(f"{url.rstrip('/')}/ws/")
        async with self._session.ws_connect(
            where.with_user(None).update_query(query),
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
                raise _not_fastlane(url)
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
                method,
                where.with_user(None),
                json=body,
                timeout=timeout,
                headers=self._headers_for(where),
            ) as answer:
                if answer.status >= 400:
                    raise Refused(_said(url, answer.status, await _whole(answer)), answer.status)
                yield answer
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(url, error) from error

    def _headers_for(self, url: URL) -> Mapping[str, str]:
        return _credentials(url) or (self._headers if url.origin() == self._origin else {})


@asynccontextmanager
async def connected(server: str) -> AsyncIterator[Client]:
    """A client of the server at *server*; a user and password in the URL are for Basic auth.

    :raises FastlaneError: *server* is not an http URL.
    """
    url = _http_url(server)
    async with aiohttp.ClientSession() as session:
        yield Client(url.with_user(None), _credentials(url), session)


def shown_url(url: str) -> str:
    """*url* without its user and password; of a malformed one, all that could be one of them."""
    try:
        return str(_http_url(url).with_user(None))
    except FastlaneError:
        return _without_user(url)


def _without_user(text: str) -> str:
    # Where the parts of a malformed URL end is not known: a password may hold any character.
    return re.sub(r"^(\w+://)?.*@", rf"\1{HIDDEN}@", text, flags=re.DOTALL)


def _credentials(url: URL) -> Mapping[str, str]:
    """The header for Basic auth that the user and password in *url* make, if it has a user."""
    if not url.user:
        return {}
    encoded = b64encode(f"{url.user}:{url.password or ''}".encode()).decode()
    return {"Authorization": f"Basic {encoded}"}


def _names_execution(url: str) -> bool:
    return url.rstrip("/").split("/")[-2:-1] == ["executions"]


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
        shown = _without_user(text)[:200]
        raise FastlaneError(f'"{shown}" is not a URL: give one like http://localhost:10000.')
    return url


async def _whole(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_chunked(64 * 1024):
        body += chunk
        if len(body) > _ANSWER_MAX_BYTES:
            raise _not_fastlane(str(answer.url))
    return bytes(body)


def _not_fastlane(url: str) -> FastlaneError:
    return FastlaneError(f"{shown_url(url)} does not answer like fastlane: is it a server?")


def _unreachable(url: str, error: Exception) -> FastlaneError:
    if isinstance(error, aiohttp.WSServerHandshakeError):
        remedy = "give the URL of a job or an execution"
        if error.status == 401:
            remedy = "give a user and a password, as in http://user:password@host:port"
        elif error.status >= 500:
            remedy = "try again later"
        return FastlaneError(f"{shown_url(url)} answers {error.status}: {remedy}.")
    # asyncio's own text has addresses and brackets around it; a name has no positive number.
    cause = getattr(error, "os_error", error)
    why = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    if isinstance(cause, OSError) and cause.errno and cause.errno > 0:
        why = os.strerror(cause.errno)
    return FastlaneError(
        f"{shown_url(url)} cannot be reached ({why}): start a server with `fastlane server`, "
        "or name one with --server or FASTLANE_URL."
    )


def _said(url: str, status: int, body: bytes) -> str:
    """What is wrong, by a problem document (RFC 9457) or a healthcheck: one fault on each line."""
    try:
        problem = json.loads(body)
        # The messages about a payload name its keys themselves.
        faults = [
            f"{fault['source']}: {fault['message']}" if "source" in fault else fault["message"]
            for fault in problem.get("errors", ())
        ]
        detail = problem.get("detail") or problem.get("title")
    except (ValueError, AttributeError, KeyError, TypeError):
        faults, detail = [], None
    head = f"{shown_url(url)} answers {status}"
    return "\n".join([f"{head}: {detail}" if detail else f"{head}.", *faults])
