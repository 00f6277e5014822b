"""Webhooks: a POST of the execution as JSON, signed as Standard Webhooks says.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver, ResolveResult
from multidict import CIMultiDict
from yarl import URL

from fastlane import __version__
from fastlane.errors import DeliveryFailed
from fastlane.model import Clock
from fastlane.notifications.addresses import Address, Network, permitted
from fastlane.notifications.base import Message, Sender
from fastlane.notifications.resolver import Resolve, Resolver

log = structlog.get_logger(__name__)

# Bounds what is read of an answer before it counts as one without an end; none of it is kept.
ANSWER_MAX_BYTES = 1024 * 1024
# Bounds one line and one header of an answer.
HEADER_MAX_BYTES = 8190
# Refused on submission; left out here, whatever a record may hold.
RESERVED_HEADERS = ("Host", "Content-Length", "Connection", "Transfer-Encoding")


@dataclass(frozen=True, slots=True)
class WebhookOptions:
    """What the operator decides of webhooks."""

    timeout_seconds: float = 10.0
    """For one attempt in all: name, connection, TLS, request and answer."""
    secret: str = ""
    """``whsec_…``; several, separated by blanks, sign side by side. Empty: no signature."""
    allowed_networks: tuple[Network, ...] = ()


@cache
def _default_tls() -> ssl.SSLContext:
    # Reading the machine's authorities takes some 30 ms.
    return ssl.create_default_context()


class WebhookSender(Sender):
    """Sends each message on a connection of its own, to an address that was looked at before."""

    def __init__(
        self,
        options: WebhookOptions,
        *,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
        clock: Clock = time.time,
    ) -> None:
        """:param resolve, tls: in place of the system's (tests)."""
        self._options = options
        self._keys = [
            base64.b64decode(secret.removeprefix("whsec_")) for secret in options.secret.split()
        ]
        self._resolve = resolve or Resolver()
        self._tls = tls or _default_tls()
        self._clock = clock

    @property
    def timeout_seconds(self) -> float:
        return self._options.timeout_seconds

    async def send(self, message: Message) -> int:
        seconds = self._options.timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                return await self._post(message)
        except TimeoutError:
            raise DeliveryFailed(f"There was no whole answer within {seconds:g} s.") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise DeliveryFailed(_reason(error)) from error

    async def _post(self, message: Message) -> int:
        url = URL(message.target)
        host, port = url.raw_host, url.port
        if host is None or port is None or url.scheme not in {"http", "https"}:
            raise DeliveryFailed("The URL is not one of a webhook.", final=True)
        addresses = await self._addresses(host, port)
        if _is_number(host):
            # Such a host is not resolved any more, so it must read exactly as it was understood.
            url = url.with_host(str(addresses[0]))
        body = json.dumps({"event": message.event, **message.data}).encode()
        connector = aiohttp.TCPConnector(
            resolver=_Pinned(addresses),
            ssl=self._tls,
            use_dns_cache=False,
            force_close=True,
            limit=1,
        )
        async with (
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                # An answer that would unpack to gigabytes stays what it is.
                auto_decompress=False,
                max_line_size=HEADER_MAX_BYTES,
                max_field_size=HEADER_MAX_BYTES,
            ) as session,
            session.post(
                url, data=body, headers=self._headers(message, body), allow_redirects=False
            ) as answer,
        ):
            if 300 <= answer.status < 400:
                raise DeliveryFailed(
                    f"The receiver answered {answer.status}; redirects are not followed.",
                    answer.status,
                )
            if not 200 <= answer.status < 300:
                raise DeliveryFailed(f"The receiver answered {answer.status}.", answer.status)
            await _read_to_end(answer)
            return answer.status

    async def _addresses(self, host: str, port: int) -> Sequence[Address]:
        """Where *host* may be reached; looked up once for an attempt, and used as found.

        :raises DeliveryFailed: nowhere.
        """
        try:
            found = await self._resolve(host, port)
        except OSError as error:
            raise DeliveryFailed(f"The name {host} cannot be resolved.") from error
        addresses = [one for one in found if permitted(one, self._options.allowed_networks)]
        if not addresses:
            # The addresses stay in our own log: a submitter has no business with inner names.
            log.warning("webhook refused", host=host, addresses=[str(one) for one in found])
            raise DeliveryFailed(
                f"The host {host} has no address that webhooks may be sent to: public ones, and "
                "those in WEBHOOKS_ALLOWED_NETWORKS.",
                final=True,
            )
        return addresses

    def _headers(self, message: Message, body: bytes) -> CIMultiDict[str]:
        timestamp = int(self._clock())
        headers = CIMultiDict(
            {"Content-Type": "application/json", "User-Agent": f"fastlane/{__version__}"}
        )
        headers.update(message.headers)
        for name in RESERVED_HEADERS:
            headers.popall(name, None)
        headers.update({"webhook-id": message.id, "webhook-timestamp": str(timestamp)})
        headers.popall("webhook-signature", None)
        if self._keys:
            headers["webhook-signature"] = " ".join(
                signature(key, message.id, timestamp, body) for key in self._keys
            )
        return headers


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The symmetric signature of Standard Webhooks, ``v1,<base64>``."""
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


class _Pinned(AbstractResolver):
    """Knows the addresses of one host already, so that no name is looked up behind our back."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in self._addresses
        ]

    async def close(self) -> None: ...


def _is_number(host: str) -> bool:
    """Whether the client would take *host* for an address and connect to it as it stands."""
    return ":" in host or host.replace(".", "").isdigit()


async def _read_to_end(answer: aiohttp.ClientResponse) -> None:
    size = 0
    async for chunk in answer.content.iter_chunked(64 * 1024):
        size += len(chunk)
        if size > ANSWER_MAX_BYTES:
            raise DeliveryFailed(
                f"The receiver answered {answer.status} with more than "
                f"{ANSWER_MAX_BYTES // 1024**2} MiB.",
                answer.status,
            )


def _reason(error: Exception) -> str:
    """What went wrong on the way, without a word of the receiver's."""
    match error:
        case aiohttp.ClientConnectorCertificateError() | ssl.SSLCertVerificationError():
            return "The receiver's certificate is not valid for its name."
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return "TLS with the receiver failed."
        case aiohttp.ClientConnectorError():
            return f"No connection to the receiver: {error.os_error.strerror or 'it failed'}."
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError():
            return "The receiver broke the connection off."
        case aiohttp.ClientResponseError():
            return "The receiver's answer is not HTTP."
        case aiohttp.ClientOSError() | OSError():
            return f"The connection failed: {error.strerror or 'it was broken off'}."
    return "The request could not be made."
