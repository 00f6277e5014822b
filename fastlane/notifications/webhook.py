"""Webhooks: a POST of the execution as JSON, signed as Standard Webhooks says.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
import socket
import ssl
from collections.abc import Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast
from urllib.parse import urlsplit

import aiohttp
import structlog
from aiohttp import StreamReader
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage
from multidict import CIMultiDict
from pydantic import AfterValidator, Field
from yarl import URL

from fastlane import __version__
from fastlane.addresses import Address, permitted
from fastlane.checks import PayloadModel, Strings, check_entries, shown
from fastlane.errors import DeliveryFailed
from fastlane.model import Clock, Event
from fastlane.notifications.base import Channel, ChannelPayload, Notification, Sender
from fastlane.redact import HIDDEN
from fastlane.resolver import Resolve, Resolver

if TYPE_CHECKING:
    from fastlane.config import Config

log = structlog.get_logger(__name__)

# Bounds what is read of an answer before it counts as endless; none of it is kept.
ANSWER_MAX_BYTES = 1024 * 1024
# Bounds the answers 1xx before the answer (RFC 9110, section 15.2).
MAX_INTERIM = 16
# Bounds one line and one header of an answer.
HEADER_MAX_BYTES = 8190
# Bound what a payload may hold.
MAX_HEADER_CHARS = 8192
MAX_URL_CHARS = 4096
MAX_PER_EVENT = 100
# Refused on submission, and left out here of what was stored before.
RESERVED_HEADERS = frozenset({"host", "content-length", "connection", "transfer-encoding"})
# RFC 9110, section 5.6.2: token.
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}", re.ASCII)


def shown_url(url: str) -> str:
    """*url* without its query, where many receivers expect a token."""
    path, question, _ = url.partition("?")
    return f"{path}{question}{HIDDEN}" if question else url


# -- what a job may ask for --------------------------------------------------------------------


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if "@" in parts.netloc:
        # Not shown: there is a password in it.
        raise ValueError("the URL contains a user or a password; send them in headers")
    if not (
        parts.scheme in {"http", "https"}
        and parts.hostname
        and port != 0
        and len(text) <= MAX_URL_CHARS
        and not any(character.isspace() or character < " " for character in text)
    ):
        raise ValueError(
            f"{shown(shown_url(text))} is not the URL of a webhook; "
            "write it as http://host/path or https://host/path"
        )
    return text


def _header(name: str, value: str) -> None:
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError(f"{shown(name)} is not the name of a header, such as X-Token")
    if name.lower() in RESERVED_HEADERS:
        raise ValueError(f"header {name} is set by fastlane itself; leave it out")
    if any(character in value for character in "\r\n\0"):
        raise ValueError(f"the value of header {name} contains a line break or NUL; leave it out")
    if len(value) > MAX_HEADER_CHARS:
        raise ValueError(
            f"the value of header {name} has {len(value)} characters; "
            f"at most {MAX_HEADER_CHARS} are accepted"
        )
    if not all(ord(character) < 256 for character in value):
        raise ValueError(f"the value of header {name} holds characters that are not Latin-1")


class Webhook(PayloadModel):
    """A receiver of POST requests about an execution."""

    url: Annotated[str, AfterValidator(_url)] = Field(examples=["https://example.org/hook"])
    headers: Annotated[Strings, AfterValidator(check_entries(_header))] = Field(
        default_factory=dict, description="Answers show the values as ***."
    )
    retries: Annotated[int, Field(ge=0, le=100)] = 0
    every_attempt: bool = Field(
        default=False, description="Also report failures that are followed by a retry."
    )

    @property
    def address(self) -> str:
        return self.url

    @property
    def receiver(self) -> str:
        """Scheme, host and port."""
        return _receiver_of(self.url)


def _receiver_of(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{(parts.hostname or '').lower()}:{port}"


PerEvent = Annotated[list[Webhook], Field(max_length=MAX_PER_EVENT)]


class Webhooks(ChannelPayload):
    """Who is notified by HTTP of what becomes of an execution."""

    channel: ClassVar[str] = "webhook"
    starts: PerEvent = Field(default_factory=list, examples=[[]])
    succeeds: PerEvent = Field(default_factory=list, examples=[[]])
    fails: PerEvent = Field(default_factory=list)
    finishes: PerEvent = Field(default_factory=list, examples=[[]])

    def targets(self, event: Event) -> list[Webhook]:
        found: list[Webhook] = getattr(self, event)
        return found

    def shown(self, secret_words: Sequence[str]) -> dict[str, Any]:
        found = self.stored()
        for hook in (hook for hooks in found.values() for hook in hooks):
            hook["url"] = shown_url(hook["url"])
            # Whatever its name: a header of a webhook is there to be a secret, more often than not.
            hook["headers"] = dict.fromkeys(hook["headers"], HIDDEN)
        return found


# -- how it is sent ---------------------------------------------------------------------------


@cache
def _default_tls() -> ssl.SSLContext:
    # Reading the machine's authorities takes some 30 ms.
    return ssl.create_default_context()


class WebhookSender(Sender):
    """Sends each notification on a connection of its own, to an address checked before."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        *,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """:param resolve, tls: in place of the system's (tests)."""
        self._allowed_networks = config.webhooks_allowed_networks
        self.timeout_seconds = config.webhooks_timeout_seconds
        self._keys: dict[str, list[bytes]] = {}
        """By receiver, with the rest under ""; each adds a signature."""
        for one in config.webhooks_secret.get_secret_value().split():
            url, _, secret = one.partition("=") if "://" in one else ("", "", one)
            keys = self._keys.setdefault(_receiver_of(url) if url else "", [])
            keys.append(base64.b64decode(secret.removeprefix("whsec_")))
        self._resolve = resolve or Resolver()
        self._tls = tls or _default_tls()
        self._clock = clock

    async def send(self, notification: Notification) -> int:
        try:
            # Name, connection, TLS, request and answer.
            async with asyncio.timeout(self.timeout_seconds):
                return await self._post(notification)
        except TimeoutError:
            raise DeliveryFailed(
                f"The receiver did not answer completely within {self.timeout_seconds:g} s."
            ) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise DeliveryFailed(_reason(error)) from error

    async def _post(self, notification: Notification) -> int:
        url = URL(notification.target.address)
        host, port = url.raw_host, url.port
        if host is None or port is None or url.scheme not in {"http", "https"}:
            raise DeliveryFailed("The URL of the webhook is malformed.", final=True)
        addresses = await self._addresses(host, port)
        if _is_number(host):
            # The client does not resolve such a host, so it must read exactly as it was checked.
            url = url.with_host(str(addresses[0]))
        body = notification.report.body
        connector = _Connector(
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
                url, data=body, headers=self._headers(notification, body), allow_redirects=False
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
        """The permitted addresses of *host*, looked up once per attempt.

        :raises DeliveryFailed: there are none.
        """
        try:
            found = await self._resolve(host, port)
        except OSError as error:
            raise DeliveryFailed(f'The name "{host}" cannot be resolved.') from error
        addresses = [one for one in found if permitted(one, self._allowed_networks)]
        if not addresses:
            # The addresses are only logged: submitters must not learn about the inner network.
            log.warning("Webhook refused", host=host, addresses=[str(one) for one in found])
            raise DeliveryFailed(
                f'Host "{host}" has no address that webhooks may be sent to; only public addresses '
                "and those in WEBHOOKS_ALLOWED_NETWORKS are allowed.",
                final=True,
            )
        return addresses

    def _headers(self, notification: Notification, body: bytes) -> CIMultiDict[str]:
        timestamp = int(self._clock())
        headers = CIMultiDict(
            {"Content-Type": "application/json", "User-Agent": f"fastlane/{__version__}"}
        )
        assert isinstance(notification.target, Webhook)
        headers.update(notification.target.headers)
        for name in RESERVED_HEADERS:
            headers.popall(name, None)
        headers.update({"webhook-id": notification.id, "webhook-timestamp": str(timestamp)})
        headers.popall("webhook-signature", None)
        # A receiver can sign in our name to all that share its secret.
        keys = self._keys.get(notification.target.receiver, self._keys.get("", ()))
        if keys:
            headers["webhook-signature"] = " ".join(
                signature(key, notification.id, timestamp, body) for key in keys
            )
        return headers


def signature(key: bytes, notification_id: str, timestamp: int, body: bytes) -> str:
    """The symmetric signature of Standard Webhooks, ``v1,<base64>``."""
    signed = b".".join((notification_id.encode(), str(timestamp).encode(), body))
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


class _Answer(ResponseHandler):
    """Reads an answer without being kept busy by what a receiver may send before it."""

    _interim = 0
    _begun = False

    def data_received(self, data: bytes) -> None:
        # A part is parsed as a whole, and may hold thousands of interim answers.
        while len(data) > HEADER_MAX_BYTES and not self._begun:
            super().data_received(data[:HEADER_MAX_BYTES])
            data = data[HEADER_MAX_BYTES:]
        if self._interim <= MAX_INTERIM:
            super().data_received(data)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        message, _ = data
        if message.code >= 200:
            self._begun = True
        else:
            self._interim += 1
        if self._interim <= MAX_INTERIM:
            super().feed_data(data, size)
        elif not self._begun:
            self._begun = True
            self.set_exception(
                DeliveryFailed(f"The receiver sent more than {MAX_INTERIM} interim answers.")
            )


class _Connector(aiohttp.TCPConnector):
    """Makes connections that read with :class:`_Answer`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = cast("partial[ResponseHandler]", partial(_Answer, loop=self._loop))


class _Pinned(AbstractResolver):
    """Knows the addresses of one host, so that the client looks up no other."""

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
    """What went wrong; nothing of what the receiver said."""
    match error:
        case aiohttp.ClientConnectorCertificateError() | ssl.SSLCertVerificationError():
            return "The receiver's certificate is not valid for its name."
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return "TLS with the receiver failed."
        case aiohttp.ClientConnectorError():
            return f"No connection to the receiver: {error.os_error.strerror or 'it failed'}."
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError():
            return "The receiver closed the connection."
        case aiohttp.ClientResponseError():
            return "The receiver's answer is not HTTP."
        case aiohttp.ClientOSError() | OSError():
            return f"The connection failed: {error.strerror or 'it was closed'}."
    return "The request could not be made."


WEBHOOKS = Channel(
    "webhook",
    "webhooks",
    Webhooks,
    WebhookSender,
    shown_target=shown_url,
    dispatch_key="webhookDispatch",
)
