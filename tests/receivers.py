"""Receivers of notifications that behave badly in a named way, on real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

# Bounds what a test waits for, in seconds.
PATIENCE = 20.0


@dataclass(frozen=True)
class Request:
    """What a receiver got."""

    line: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Behave = Callable[["Receiver", Request, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Receiver:
    """An HTTP server that answers as *behave* does; it may be changed while it serves."""

    behave: Behave
    scheme: str = "http"
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    open_now: int = 0
    open_most: int = 0
    """How many requests were under way at the same time."""
    release: asyncio.Event = field(default_factory=asyncio.Event)
    """Ends :func:`hangs`."""
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/hook"

    @property
    def ids(self) -> list[str]:
        return [request.headers["webhook-id"] for request in self.requests]

    async def got(self, count: int) -> list[Request]:
        """The requests, once there are *count*."""
        async with self._changed:
            async with asyncio.timeout(PATIENCE):
                await self._changed.wait_for(lambda: len(self.requests) >= count)
        return self.requests

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            pairs = [line.partition(":") for line in head[1:] if line]
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            request = Request(head[0], headers, body)
            self.open_now += 1
            self.open_most = max(self.open_most, self.open_now)
            self.requests.append(request)
            async with self._changed:
                self._changed.notify_all()
            try:
                await self.behave(self, request, writer)
            finally:
                self.open_now -= 1
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.close()


async def answer(writer: asyncio.StreamWriter, status: int, *headers: str, body: str = "") -> None:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "", body]
    writer.write("\r\n".join(lines).encode())
    await writer.drain()


async def accepts(_: Receiver, __: Request, writer: asyncio.StreamWriter) -> None:
    await answer(writer, 200, body="thanks")


async def refuses(_: Receiver, __: Request, writer: asyncio.StreamWriter) -> None:
    await answer(writer, 500, body="RECEIVER-BODY-CANARY")


async def hangs(receiver: Receiver, _: Request, writer: asyncio.StreamWriter) -> None:
    await receiver.release.wait()


async def resets(_: Receiver, __: Request, writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    # SO_LINGER with a time of 0: closing sends RST.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def redirects_to(location: str) -> Behave:
    async def redirects(_: Receiver, __: Request, writer: asyncio.StreamWriter) -> None:
        await answer(writer, 302, f"Location: {location}")

    return redirects


async def never_ends(_: Receiver, __: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    while True:
        writer.write(chunk)
        await writer.drain()


async def drips(_: Receiver, __: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


async def endless_headers(_: Receiver, __: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    number = 0
    while True:
        number += 1
        writer.write(b"X-%d: %s\r\n" % (number, b"y" * 1000))
        await writer.drain()


async def never_answers_finally(_: Receiver, __: Request, writer: asyncio.StreamWriter) -> None:
    """100,000 interim answers before the one that counts."""
    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000)
    await answer(writer, 200)


async def talks_nonsense(_: Receiver, __: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 smtp.example.org ESMTP\r\n")
    await writer.drain()


def fails_first(times: int) -> Behave:
    """500 for the first *times* requests, 204 for the others."""

    async def behave(receiver: Receiver, _: Request, writer: asyncio.StreamWriter) -> None:
        await answer(writer, 500 if len(receiver.requests) <= times else 204)

    return behave


@asynccontextmanager
async def receiving(
    behave: Behave = accepts, *, tls: ssl.SSLContext | None = None, port: int = 0
) -> AsyncIterator[Receiver]:
    """A receiver on a port of its own of 127.0.0.1."""
    receiver = Receiver(behave, "https" if tls else "http")
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", port, ssl=tls, limit=2**22)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        receiver.release.set()
        server.close()


# -- mail -------------------------------------------------------------------------------------


@dataclass
class MailServer:
    """A mail server of aiosmtpd; each of the times and refusals may be set by a test."""

    user: str = ""
    password: str = ""
    refuse_recipients: str = ""
    """What it answers to RCPT, such as ``550 no such user``."""
    refuse_data: str = ""
    hold: asyncio.Event | None = None
    """It takes no mail before this is set."""
    port: int = 0
    over_tls: bool = False
    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    was_tls: list[bool] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def got(self, count: int) -> list[EmailMessage]:
        """The mails, once there are *count*."""
        async with self._changed:
            async with asyncio.timeout(PATIENCE):
                await self._changed.wait_for(lambda: len(self.mails) >= count)
        return self.mails

    # The names are aiosmtpd's.
    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.refuse_recipients:
            return self.refuse_recipients
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        if self.hold is not None:
            await self.hold.wait()
        if self.refuse_data:
            return self.refuse_data
        content = envelope.content
        assert isinstance(content, bytes)
        self.recipients += envelope.rcpt_tos
        self.was_tls.append(self.over_tls or session.ssl is not None)
        self.mails.append(message_from_bytes(content, policy=policy.default))
        async with self._changed:
            self._changed.notify_all()
        return "250 taken"

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        good = isinstance(data, LoginPassword) and (data.login, data.password) == (
            self.user.encode(),
            self.password.encode(),
        )
        if good:
            self.logins.append(self.user)
        return AuthResult(success=good, handled=False)


@asynccontextmanager
async def mail_server(
    *,
    starttls: ssl.SSLContext | None = None,
    tls: ssl.SSLContext | None = None,
    port: int = 0,
    **behaviour: Any,
) -> AsyncIterator[MailServer]:
    """A mail server on 127.0.0.1; *starttls* offers it, *tls* speaks it from the first byte."""
    mails = MailServer(over_tls=tls is not None, **behaviour)

    def protocol() -> SMTP:
        with warnings.catch_warnings():
            # It warns of logins without TLS, which is what some tests are about.
            warnings.simplefilter("ignore", UserWarning)
            return make()

    def make() -> SMTP:
        return SMTP(
            mails,
            hostname="mail.test",
            tls_context=starttls,
            require_starttls=starttls is not None,
            authenticator=mails.authenticate if mails.user else None,
            auth_required=bool(mails.user),
            auth_require_tls=bool(starttls),
            loop=asyncio.get_running_loop(),
        )

    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, "127.0.0.1", port, ssl=tls)
    mails.port = server.sockets[0].getsockname()[1]
    try:
        yield mails
    finally:
        if mails.hold is not None:
            mails.hold.set()
        server.close()
