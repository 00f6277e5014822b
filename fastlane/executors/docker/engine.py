"""One Docker host: its connections, its API version, and its failures in the executor's words.

aiodocker opens connections, negotiates and addresses; where it loses information (the log's
streams, errors inside a pull) the raw response of its session is used. Calls and streams have
sessions of their own, because a hundred followed logs must not keep ``stop`` waiting.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiodocker import Docker
from aiodocker.exceptions import DockerError

from fastlane.errors import HostUnavailable
from fastlane.executors.base import EngineVersion

# The newest API version that this code was written against.
TESTED_API_VERSION = (1, 47)
# The last API version of engines seen to forget it (Docker 20.10).
LOSES_NEWLINES_UP_TO = (1, 41)
# Bounds a call that only reads the engine's memory or writes a little.
CALL_SECONDS = 30.0
# Bounds a call that makes or destroys a file system or a process, on a disk under load.
SLOW_CALL_SECONDS = 120.0
# Bounds how long a host may take to accept a connection.
CONNECT_SECONDS = 5.0
# Bounds the connections of one host's short calls.
CALL_CONNECTIONS = 100
# Bounds what is buffered of one stream before the socket is no longer read.
STREAM_BUFFER_BYTES = 256 * 1024
# Bounds the answer to one call; ten thousand listed containers have about 20 MB.
ANSWER_BYTES = 64 * 1024 * 1024
# Bounds how much of the engine's own words goes into an error.
MESSAGE_CHARS = 500
# Bounds each end of a longer message that is looked at: what happened, and why.
MESSAGE_END_CHARS = 4096
# aiodocker's status for "no connection".
# Bounds what is kept of an engine's version.
VERSION_CHARS = 100
_NOT_CONNECTED = 900

_HOST = re.compile(r"(?:(?P<scheme>unix|tcp|http|https)://)?(?P<rest>.+)", re.DOTALL)


class Refused(HostUnavailable):
    """The engine answered with an HTTP error.

    A caller that knows what *status* means translates it. Any other refusal is a failure of the
    host, so this is a ``HostUnavailable``.
    """

    def __init__(self, host: str, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason[:MESSAGE_CHARS]
        self.whole_reason = (
            reason
            if len(reason) <= 2 * MESSAGE_END_CHARS
            else reason[:MESSAGE_END_CHARS] + reason[-MESSAGE_END_CHARS:]
        )
        super().__init__(host, f"the engine answered {status}: {self.reason}")


class Engine:
    """The connections to one host, made when they are first needed.

    :param tls: how to speak TLS with a tcp host, or None for plain tcp.
    """

    def __init__(self, host: str, tls: ssl.SSLContext | None = None) -> None:
        self.host = host
        self._tls = tls if tls is not None else _tls_of_environment(host)
        self._clients: tuple[Docker, Docker] | None = None
        self._negotiated = False
        self._offered = (0, 0)
        self.version: EngineVersion | None = None
        self._negotiating = asyncio.Lock()

    @property
    def loses_newlines(self) -> bool:
        """Whether its ``local`` log driver drops the newline after a line over 16 KiB."""
        return self._offered <= LOSES_NEWLINES_UP_TO

    async def close(self) -> None:
        clients, self._clients = self._clients, None
        self._negotiated = False
        for client in clients or ():
            await client.close()
            await client.session.close()

    @contextmanager
    def understood(self, what: str) -> Iterator[None]:
        """For code that reads a response: an unexpected form is a failure of the host.

        :raises HostUnavailable: the code inside failed on what it found.
        """
        try:
            yield
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            message = f"an answer on {what} that cannot be read: {type(error).__name__}: {error}"
            raise HostUnavailable(self.host, message[:MESSAGE_CHARS]) from error

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = CALL_SECONDS,
        long: bool = False,
        raw: bool = False,
    ) -> Any:
        """One request and its decoded answer (None when it has no body).

        :param seconds: bounds the whole call.
        :param long: it waits for something: keep it off the connections of the short calls.
        :param raw: the answer is no JSON.
        :raises Refused: the engine answered 4xx or 5xx.
        :raises HostUnavailable: there was no answer, or none that can be read.
        """
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        async with self._request(method, path, params, body, timeout, long, headers) as response:
            data = await _whole(response)
            return data if raw else json.loads(data) if data else None

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str],
        silence_seconds: float | None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request whose answer is read piece by piece; leaving the context ends it.

        :param silence_seconds: bounds the time between two reads; None where silence is normal.
        :raises Refused: the engine answered 4xx or 5xx.
        :raises HostUnavailable: there was no answer, or it broke off.
        """
        timeout = aiohttp.ClientTimeout(sock_read=silence_seconds, sock_connect=CONNECT_SECONDS)
        async with self._request(method, path, params, None, timeout, True, headers) as response:
            yield response

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        limits: aiohttp.ClientTimeout,
        long: bool,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            # Otherwise the time limit of a caller would begin only when it gets the lock.
            async with asyncio.timeout(limits.total or CALL_SECONDS):
                client = (await self._connected())[long]
            async with AsyncExitStack() as stack:
                query = client._query(
                    path,
                    method,
                    params=dict(params or {}),
                    data=None if body is None else json.dumps(body),
                    headers=headers,
                    timeout=limits,
                )
                try:
                    response = await stack.enter_async_context(query)
                except TypeError as error:
                    raise ValueError("an error in a form that is none") from error
                await stack.enter_async_context(response)
                yield response
        except DockerError as error:
            if error.status == _NOT_CONNECTED:
                # An engine that comes back may be another version.
                self._negotiated = False
                raise HostUnavailable(self.host, _not_connected(error)) from error
            raise Refused(self.host, error.status, _words(error.message)) from error
        except TimeoutError as error:
            raise HostUnavailable(self.host, f"no answer to {method} {path} in time") from error
        except (aiohttp.ClientError, OSError, ValueError, KeyError) as error:
            self._negotiated = False
            message = f"{method} {path}: {type(error).__name__}: {error}"
            raise HostUnavailable(self.host, message[:MESSAGE_CHARS]) from error

    async def _connected(self) -> tuple[Docker, Docker]:
        """The clients for calls and for streams, speaking a version that the engine knows."""
        if self._clients is None:
            self._clients = (
                self._client(limit=CALL_CONNECTIONS),
                self._client(limit=0),
            )
        clients = self._clients
        if not self._negotiated:
            async with self._negotiating:
                if not self._negotiated:
                    with self.understood("version"):
                        # Not by `_query_json`, which lets go of an answer of another form unread.
                        query = clients[0]._query("version", versioned_api=False)
                        async with query as answer, answer:
                            offered = json.loads(await _whole(answer))
                        self._offered = _version(offered["ApiVersion"])
                        self.version = _engine_version(offered)
                        version = negotiate(offered["ApiVersion"], offered.get("MinAPIVersion"))
                    for client in clients:
                        client.api_version = version
                    self._negotiated = True
        return clients

    def _client(self, *, limit: int) -> Docker:
        match = _HOST.fullmatch(self.host)
        if match is None or "://" in match["rest"]:
            raise ValueError("an empty address, or an unknown scheme")
        connector: aiohttp.BaseConnector
        if match["scheme"] == "unix" or match["rest"].startswith("/"):
            connector = aiohttp.UnixConnector(match["rest"], limit=limit)
            url = "http://docker"
        else:
            secure = self._tls is not None or match["scheme"] == "https"
            connector = aiohttp.TCPConnector(
                limit=limit,
                ssl=self._tls if self._tls is not None else True,
                socket_factory=_kept_alive_socket,
            )
            url = f"{'https' if secure else 'http'}://{match['rest'].rstrip('/')}"
        timeout = aiohttp.ClientTimeout(total=CALL_SECONDS, sock_connect=CONNECT_SECONDS)
        session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, read_bufsize=STREAM_BUFFER_BYTES
        )
        return Docker(url, connector=connector, session=session, timeout=timeout)


def _not_connected(error: DockerError) -> str:
    """Why there is no connection, without the addresses that aiodocker puts around the reason."""
    cause = error.__context__
    code = cause.errno if isinstance(cause, aiohttp.ClientConnectorError) else None
    # Below 0 it is a resolver's.
    if code is not None and code > 0:
        return f"it cannot be reached ({os.strerror(code)})"
    return error.message[:MESSAGE_CHARS]


def _words(message: str) -> str:
    """The engine's own words: aiodocker leaves the JSON around them where a proxy has added a
    parameter to the content type.
    """
    try:
        answer = json.loads(message)
    except ValueError:
        return message
    words = answer.get("message") if isinstance(answer, dict) else None
    return words if isinstance(words, str) else message


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > ANSWER_BYTES:
            raise ValueError("an answer without end")
    return bytes(data)


def negotiate(offered: str, minimum: str | None) -> str:
    """The API version to use: the smaller of the tested and the *offered* one.

    If the engine no longer supports the tested version, its *minimum* is used.
    """
    versions = [_version(offered), TESTED_API_VERSION]
    chosen = max(min(versions), _version(minimum)) if minimum else min(versions)
    return f"v{chosen[0]}.{chosen[1]}"


def _engine_version(offered: Mapping[str, Any]) -> EngineVersion:
    """What an engine says of itself; the first component of Podman's is Podman itself."""
    try:
        name = offered["Components"][0]["Name"]
    except (KeyError, IndexError, TypeError):
        name = ""
    known = "Podman" if "podman" in str(name).lower() else "Docker"
    return EngineVersion(known, str(offered.get("Version", ""))[:VERSION_CHARS])


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)


def _tls_of_environment(host: str) -> ssl.SSLContext | None:
    """What ``docker`` itself would use for its default host.

    Source: https://docs.docker.com/reference/cli/docker/#environment-variables
    """
    directory = os.environ.get("DOCKER_CERT_PATH")
    if host != os.environ.get("DOCKER_HOST") or not os.environ.get("DOCKER_TLS_VERIFY"):
        return None
    if host.startswith("unix://") or not directory:
        return None
    context = ssl.create_default_context(cafile=str(Path(directory) / "ca.pem"))
    context.load_cert_chain(Path(directory) / "cert.pem", Path(directory) / "key.pem")
    return context


def _kept_alive_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket that notices within a minute or so that the other machine is gone.

    A followed log may be silent for days, so nothing else would tell.
    """
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
    return made
