"""Mail: what became of an execution, as text and as HTML, through one mail server."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from html import escape
from typing import Any

import aiosmtplib

from fastlane.errors import DeliveryFailed
from fastlane.notifications.base import Message, Sender

# Bounds the end of each stream that a mail shows.
TAIL_LINES = 50
TAIL_CHARS = 8 * 1024
# Bounds what a mail repeats of a task's name in its subject, and of the mail server's words.
SUBJECT_CHARS = 150
ANSWER_CHARS = 200
# The port on which TLS begins with the first byte (RFC 8314, section 7.3).
IMPLICIT_TLS_PORT = 465
PLAIN_PORT = 25

NOT_CONFIGURED = "No mail is sent: SMTP_HOST is not set."


@dataclass(frozen=True, slots=True)
class EmailOptions:
    """The mail server, and whom mails come from. Without a host every mail fails for good."""

    host: str = ""
    port: int = 0
    """0: 465 with TLS, 25 without."""
    user: str = ""
    password: str = ""
    sender: str = "fastlane@localhost"
    use_tls: bool = False
    """From the first byte on port 465, by STARTTLS on every other port; never skipped."""
    timeout_seconds: float = 30.0
    """For one attempt in all."""


class EmailSender(Sender):
    """Sends each mail on a connection of its own."""

    def __init__(
        self,
        options: EmailOptions,
        *,
        tls: ssl.SSLContext | None = None,
        implicit_tls_port: int = IMPLICIT_TLS_PORT,
    ) -> None:
        """:param tls, implicit_tls_port: in place of the system's (tests)."""
        self._implicit_tls_port = implicit_tls_port
        self._options = options
        self._tls = tls or (ssl.create_default_context() if options.use_tls else None)

    @property
    def timeout_seconds(self) -> float:
        return self._options.timeout_seconds

    async def send(self, message: Message) -> int:
        options = self._options
        if not options.host:
            raise DeliveryFailed(NOT_CONFIGURED, final=True)
        port = options.port or (IMPLICIT_TLS_PORT if options.use_tls else PLAIN_PORT)
        implicit = options.use_tls and port == self._implicit_tls_port
        try:
            mail = compose(message, options.sender)
        except ValueError as error:
            raise DeliveryFailed("The mail cannot be written.", final=True) from error
        try:
            async with asyncio.timeout(options.timeout_seconds):
                await aiosmtplib.send(
                    mail,
                    sender=parseaddr(options.sender)[1],
                    recipients=[message.target],
                    hostname=options.host,
                    port=port,
                    username=options.user or None,
                    password=options.password if options.user else None,
                    use_tls=implicit,
                    start_tls=options.use_tls and not implicit,
                    tls_context=self._tls,
                    timeout=options.timeout_seconds,
                )
        except (TimeoutError, aiosmtplib.SMTPTimeoutError):
            raise DeliveryFailed(
                f"The mail server did not take the mail within {options.timeout_seconds:g} s."
            ) from None
        except aiosmtplib.SMTPRecipientsRefused as error:
            refusal = error.recipients[0]
            raise DeliveryFailed(
                f"The mail server refuses the address: {_said(refusal)}",
                refusal.code,
                final=refusal.code >= 500,
            ) from error
        except aiosmtplib.SMTPResponseException as error:
            raise DeliveryFailed(f"The mail server answered: {_said(error)}", error.code) from error
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise DeliveryFailed(_reason(error)) from error
        return aiosmtplib.SMTPStatus.completed.value


def compose(message: Message, sender: str) -> EmailMessage:
    """The mail of *message*.

    :raises ValueError: a value cannot stand in a header.
    """
    data = message.data
    mail = EmailMessage(policy=SMTP)
    mail["From"] = sender
    mail["To"] = message.target
    mail["Subject"] = subject(data)
    mail["Date"] = format_datetime(datetime.fromtimestamp(message.created_at, UTC))
    # The same for each attempt: mailboxes drop doubles by it.
    mail["Message-ID"] = f"<{message.id}@{parseaddr(sender)[1].rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody answers it from a holiday.
    mail["X-Fastlane-Event"] = str(message.event)
    mail["X-Fastlane-Status"] = str(data["status"])
    mail["X-Fastlane-Job"] = str(data["jobId"])
    mail["X-Fastlane-Execution"] = str(data["executionId"])
    mail.set_content(_text(data))
    mail.add_alternative(_html(data), subtype="html")
    return mail


def subject(data: Mapping[str, Any]) -> str:
    """The task first, then how it ended: sorted by subject, a task's mails stand together, and
    among them those of one outcome."""
    task = "".join(c if c.isprintable() else " " for c in _clean(data["taskId"]))
    if len(task) > SUBJECT_CHARS:
        task = f"{task[:SUBJECT_CHARS]}…"
    return f"[fastlane] {task}: {outcome(data)}"


def outcome(data: Mapping[str, Any]) -> str:
    """Status, and what says more than it: ``failed (exit code 3)``, ``failed (lost)``."""
    status, reason, exit_code = data["status"], data["reason"], data["exitCode"]
    if status == "done" or status == reason:
        return str(status)
    if reason == "exit-code" and exit_code is not None:
        return f"{status} (exit code {exit_code})"
    return f"{status} ({reason})" if reason and reason != "timeout" else str(status)


def _facts(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is known, as lines of a table; what there is not, is left out."""
    attempt, retries = data["metadata"]["attempt"], data["metadata"]["retries"]
    command = data["command"]
    for name, value in (
        ("Task", data["taskId"]),
        ("Status", data["status"]),
        ("Reason", data["reason"]),
        ("Exit code", data["exitCode"]),
        ("Message", data["metadata"].get("message")),
        ("Attempt", f"{attempt + 1} of {retries + 1}" if retries else None),
        ("Image", data["image"]),
        ("Command", command if isinstance(command, str) else " ".join(command)),
        ("Created", data["createdAt"]),
        ("Started", data["startedAt"]),
        ("Finished", data["finishedAt"]),
    ):
        if value is not None and value != "":
            zone = " UTC" if name in {"Created", "Started", "Finished"} else ""
            yield name, _clean(f"{value}{zone}")


def _links(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    url = str(data["url"])
    yield "Execution", url
    yield "Log", f"{url}logs/"
    yield "Job", str(data["jobUrl"])
    yield "Task", str(data["taskUrl"])


def _tails(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for title, key in (("Output", "log"), ("Error output", "error")):
        whole = _clean(data[key])
        lines = whole.splitlines()
        tail = "\n".join(lines[-TAIL_LINES:])[-TAIL_CHARS:]
        if tail.strip():
            cut = data[f"{key}Truncated"] or len(tail) < len("\n".join(lines))
            yield f"{title} (its end)" if cut else title, tail


def _text(data: Mapping[str, Any]) -> str:
    facts = [f"{name + ':':11}{value}" for name, value in _facts(data)]
    links = [f"{name + ':':11}{url}" for name, url in _links(data)]
    parts = ["\n".join(facts), "\n".join(links)]
    parts += [f"{title}\n{'-' * len(title)}\n{tail}" for title, tail in _tails(data)]
    return "\n\n".join(parts) + "\n"


def _html(data: Mapping[str, Any]) -> str:
    color = "#1a7f37" if data["status"] == "done" else "#b42318"
    cell = 'style="padding:2px 12px 2px 0;vertical-align:top;text-align:left"'
    rows = "".join(
        f"<tr><th {cell}>{escape(name)}</th><td {cell}>{escape(value)}</td></tr>"
        for name, value in _facts(data)
    )
    links = " · ".join(
        f'<a href="{escape(url, quote=True)}">{escape(name)}</a>' for name, url in _links(data)
    )
    tails = "".join(
        f'<h3 style="margin:16px 0 4px">{escape(title)}</h3>'
        '<pre style="background:#f6f8fa;padding:8px;white-space:pre-wrap">'
        f"{escape(tail)}</pre>"
        for title, tail in _tails(data)
    )
    return (
        '<!doctype html><html><body style="font-family:sans-serif;font-size:14px;color:#1f2328">'
        f'<h2 style="margin:0 0 8px;color:{color}">'
        f"{escape(_clean(data['taskId']))}: {escape(outcome(data))}</h2>"
        f"<table>{rows}</table><p>{links}</p>{tails}</body></html>"
    )


def _clean(value: object) -> str:
    """*value* without what UTF-8 cannot carry and without control characters of a terminal."""
    text = str(value).encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c >= " " or c in "\n\t" else "�" for c in text.replace("\r\n", "\n"))


def _said(error: Any) -> str:
    text = " ".join(str(error.message).split())
    return f"{error.code} {text[:ANSWER_CHARS]}"


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    match cause:
        case ssl.SSLCertVerificationError():
            return "The mail server's certificate is not valid for its name."
        case ssl.SSLError():
            return "TLS with the mail server failed."
        case OSError():
            return f"No connection to the mail server: {cause.strerror or 'it failed'}."
        case aiosmtplib.SMTPServerDisconnected():
            return "The mail server broke the connection off."
    return f"The mail server cannot be used: {str(error)[:ANSWER_CHARS]}"
