"""The two drivers: they do with httpx2 what an operation of :mod:`.core` asks for."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import ssl
import time
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from fastlane_client.core import (
    ANSWER_MAX_BYTES,
    Broken,
    Core,
    Item,
    Items,
    More,
    Op,
    Reply,
    Request,
    Sleep,
)
from fastlane_client.errors import BadAddress, UnexpectedAnswer

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

# Bounds the time to connect, in seconds.
CONNECT_SECONDS = 10.0
# Bounds the connections that wait for their next request.
IDLE_CONNECTIONS = 20
# Bounds the connections of one client: that many logs can be followed at a time.
CONNECTIONS = 1000
# httpx2 reads SSL_CERT_FILE and SSL_CERT_DIR itself.
_OTHER_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


class _Driver:
    """What both have in common."""

    def __init__(self, core: Core, verify: ssl.SSLContext | None) -> None:
        self.core = core
        self._verify = verify

    def _options(self) -> dict[str, Any]:
        import httpx2

        return {
            "headers": dict(self.core.headers),
            "verify": self._verify or _trust(self.core.address.base),
            "timeout": self.core.timeout,
            "limits": httpx2.Limits(
                max_connections=CONNECTIONS, max_keepalive_connections=IDLE_CONNECTIONS
            ),
            "follow_redirects": False,
            "mounts": _direct(self.core.address.base),
        }

    def _arguments(self, request: Request) -> dict[str, Any]:
        import httpx2

        query = f"?{request.query}" if request.query else ""
        return {
            "method": request.method,
            "url": f"{self.core.address.base}{request.path}{query}",
            "content": request.body,
            "headers": dict(request.headers),
            "timeout": httpx2.Timeout(request.seconds, connect=CONNECT_SECONDS),
        }


class SyncDriver(_Driver):
    """Blocks."""

    _http: httpx2.Client | None = None

    @property
    def _client(self) -> httpx2.Client:
        import httpx2

        if self._http is None:
            self._http = httpx2.Client(**self._options())
        return self._http

    def close(self) -> None:
        if self._http is not None:
            self._http.close()

    def run(self, operation: Op[T]) -> T:
        """What *operation* returns."""
        steps = self._steps(operation)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                result: T = done.value
                return result

    def iterate(self, operation: Items[T]) -> Iterator[T]:
        """What *operation* produces."""
        return self._steps(operation)

    def _steps(self, operation: Generator[Any, Any, Any]) -> Generator[Any, None, Any]:
        reply: httpx2.Response | None = None
        pieces: Iterator[bytes] = iter(())
        try:
            step = next(operation)
            while True:
                value: object = None
                try:
                    match step:
                        case Item():
                            yield step.value
                        case Sleep():
                            time.sleep(step.seconds)
                        case More():
                            value = next(pieces, b"")
                        case Request():
                            if reply is not None:
                                reply.close()
                                reply = None
                            reply = self._send(step)
                            pieces = reply.iter_bytes()
                            body = b"" if step.streamed else _bounded(pieces)
                            value = _reply(reply, body)
                except Exception as error:
                    step = operation.throw(_broken(error))
                else:
                    step = operation.send(value)
        except StopIteration as done:
            return done.value
        finally:
            if reply is not None:
                reply.close()
            operation.close()

    def _send(self, request: Request) -> httpx2.Response:
        client = self._client
        return client.send(client.build_request(**self._arguments(request)), stream=True)


class AsyncDriver(_Driver):
    """Awaits, on asyncio."""

    _http: httpx2.AsyncClient | None = None

    @property
    def _client(self) -> httpx2.AsyncClient:
        import httpx2

        if self._http is None:
            self._http = httpx2.AsyncClient(**self._options())
        return self._http

    async def close(self) -> None:
        if self._http is not None:
            await self._http.aclose()

    async def run(self, operation: Op[T]) -> T:
        """What *operation* returns."""
        result: list[T] = []
        async with contextlib.aclosing(self._steps(operation, result)) as steps:
            async for _ in steps:
                pass
        return result[0]

    def iterate(self, operation: Items[T]) -> AsyncIterator[T]:
        """What *operation* produces."""
        return self._steps(operation, [])

    async def _steps(
        self, operation: Generator[Any, Any, Any], result: list[Any]
    ) -> AsyncGenerator[Any, None]:
        reply: httpx2.Response | None = None
        pieces: AsyncIterator[bytes] | None = None
        try:
            step = next(operation)
            while True:
                value: object = None
                try:
                    match step:
                        case Item():
                            yield step.value
                        case Sleep():
                            await asyncio.sleep(step.seconds)
                        case More():
                            value = b"" if pieces is None else await anext(pieces, b"")
                        case Request():
                            if reply is not None:
                                await reply.aclose()
                                reply = None
                            reply = await self._send(step)
                            pieces = reply.aiter_bytes()
                            body = b"" if step.streamed else await _bounded_async(pieces)
                            value = _reply(reply, body)
                except Exception as error:
                    step = operation.throw(_broken(error))
                else:
                    step = operation.send(value)
        except StopIteration as done:
            result.append(done.value)
        finally:
            if reply is not None:
                await reply.aclose()
            operation.close()

    async def _send(self, request: Request) -> httpx2.Response:
        client = self._client
        return await client.send(client.build_request(**self._arguments(request)), stream=True)


def _reply(reply: httpx2.Response, body: bytes) -> Reply:
    headers = {name.lower(): value for name, value in reply.headers.items()}
    return Reply(reply.status_code, headers, body)


def _bounded(pieces: Iterator[bytes]) -> bytes:
    body = bytearray()
    for piece in pieces:
        _check_size(len(body) + len(piece))
        body += piece
    return bytes(body)


async def _bounded_async(pieces: AsyncIterator[bytes]) -> bytes:
    body = bytearray()
    async for piece in pieces:
        _check_size(len(body) + len(piece))
        body += piece
    return bytes(body)


def _check_size(size: int) -> None:
    if size > ANSWER_MAX_BYTES:
        raise UnexpectedAnswer(f"An answer has more than {ANSWER_MAX_BYTES} bytes.")


def _broken(error: Exception) -> Exception:
    """What is raised inside the operation for *error*."""
    import httpx2

    match error:
        case httpx2.UnsupportedProtocol() | httpx2.InvalidURL():
            return BadAddress(f"The URL of the server or of a proxy cannot be used: {error}")
        case httpx2.ConnectError() | httpx2.ConnectTimeout() | httpx2.ProxyError():
            return Broken(_why(error), sent=False)
        case httpx2.DecodingError():
            return UnexpectedAnswer(f"The server sent an answer that cannot be decoded: {error}")
        case httpx2.TransportError():
            return Broken(_why(error), sent=True)
    return error


def _why(error: BaseException) -> str:
    """In words, without the addresses and brackets that libraries put around them."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}"
        # A name that does not resolve has a negative number; those of TLS have other meanings.
        number = cause.errno if isinstance(cause, OSError) else None
        if number and number > 0 and not isinstance(cause, ssl.SSLError):
            return os.strerror(number)
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__


def _direct(base: str) -> dict[str, None]:
    """Where no proxy of the environment leads: a server on this machine, as Go's and others do."""
    host = urlsplit(base).hostname or ""
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = host == "localhost"
    place = f"[{host}]" if ":" in host else host
    return {f"all://{place}": None} if is_loopback else {}


def _trust(base: str) -> ssl.SSLContext | bool:
    """The certificates that are trusted.

    Loading them costs more than all else together, and http without a proxy needs none.
    """
    proxies = urllib.request.getproxies()
    if base.startswith("http://") and not any(url.startswith("https:") for url in proxies.values()):
        # It trusts nobody.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not os.environ.get("SSL_CERT_FILE") and not os.environ.get("SSL_CERT_DIR"):
        for bundle in filter(None, map(os.environ.get, _OTHER_BUNDLES)):
            folder = os.path.isdir(bundle)
            return ssl.create_default_context(
                cafile=None if folder else bundle, capath=bundle if folder else None
            )
    return True
