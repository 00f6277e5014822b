"""Email: the outcome of an execution, as text and as HTML, through one mail server."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import aiosmtplib
from pydantic import AfterValidator, Field
from tornado.template import Template

from fastlane.checks import Hint, shown
from fastlane.errors import DeliveryFailed
from fastlane.model import Clock, Event, Execution, Reason, Status
from fastlane.notifications.base import Channel, ChannelPayload, Notification, Report, Sender

if TYPE_CHECKING:
    from fastlane.config import Config


# Bounds the end of each stream that an email shows.
TAIL_LINES = 50
TAIL_CHARS = 8 * 1024
# Bound what an email repeats of a task's name in its subject, and of the mail server's answer.
SUBJECT_CHARS = 150
ANSWER_CHARS = 200
# Bound what a payload may hold (RFC 5321, section 4.5.3.1.3: a path has at most 256 octets).
MAX_ADDRESS_CHARS = 254
MAX_PER_EVENT = 100
# The port on which TLS begins with the first byte (RFC 8314, section 7.3).
IMPLICIT_TLS_PORT = 465
PLAIN_PORT = 25

NOT_CONFIGURED = "No email is sent because SMTP_HOST is not set."

# The shape that HTML's <input type=email> accepts (WHATWG HTML, 4.10.5.1.5).
_ADDRESS = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}"
    r"@[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    r"(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*",
    re.ASCII,
)


# -- what a job may ask for --------------------------------------------------------------------


def _address(text: str) -> str:
    if len(text) > MAX_ADDRESS_CHARS or not _ADDRESS.fullmatch(text):
        raise ValueError(f"{shown(text)} is not an email address, such as ann@example.org")
    return text


Addresses = Annotated[
    list[Annotated[str, AfterValidator(_address)]],
    Field(max_length=MAX_PER_EVENT),
    Hint(" of email addresses"),
]


@dataclass(frozen=True, slots=True)
class Addressee:
    """A receiver of emails."""

    address: str
    every_attempt: bool = False
    retries: int | None = None
    receiver: str = "smtp"
    """The mail server: it is what may be slow or unreachable, not the addressee."""


class Notify(ChannelPayload):
    """Who is notified by email of how an execution ended."""

    channel: ClassVar[str] = "email"
    succeeds: Addresses = Field(default_factory=list, examples=[[]])
    fails: Addresses = Field(default_factory=list, examples=[["ann@example.org"]])
    finishes: Addresses = Field(default_factory=list, examples=[[]])
    every_attempt: bool = Field(
        default=False, description="Also report failures that are followed by a retry."
    )

    def targets(self, event: Event) -> list[Addressee]:
        return [Addressee(one, self.every_attempt) for one in getattr(self, event, ())]


# -- how it is sent ---------------------------------------------------------------------------


class EmailSender(Sender):
    """Sends each email on a connection of its own. Without ``SMTP_HOST`` each fails for good.

    TLS begins with the first byte on port 465, by STARTTLS on every other port; it is never
    skipped.
    """

    def __init__(
        self,
        config: Config,
        _: Clock | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        implicit_tls_port: int = IMPLICIT_TLS_PORT,
    ) -> None:
        """:param tls, implicit_tls_port: in place of the system's (tests)."""
        self._implicit_tls_port = implicit_tls_port
        self._config = config
        self.timeout_seconds = config.smtp_timeout_seconds
        self.retries = config.smtp_retries
        self._tls = tls or (ssl.create_default_context() if config.smtp_use_ssl else None)

    async def send(self, notification: Notification) -> int:
        config, use_tls = self._config, self._config.smtp_use_ssl
        if not config.smtp_host:
            raise DeliveryFailed(NOT_CONFIGURED, final=True)
        port = config.smtp_port or (IMPLICIT_TLS_PORT if use_tls else PLAIN_PORT)
        implicit = use_tls and port == self._implicit_tls_port
        user, password = config.smtp_user, config.smtp_password.get_secret_value()
        try:
            mail = compose(notification, config.smtp_from)
        except ValueError as error:
            raise DeliveryFailed("The email could not be composed.", final=True) from error
        try:
            async with asyncio.timeout(self.timeout_seconds):
                await aiosmtplib.send(
                    mail,
                    sender=parseaddr(config.smtp_from)[1],
                    recipients=[notification.target.address],
                    hostname=config.smtp_host,
                    port=port,
                    username=user or None,
                    password=password if user else None,
                    use_tls=implicit,
                    start_tls=use_tls and not implicit,
                    tls_context=self._tls,
                    timeout=self.timeout_seconds,
                )
        except (TimeoutError, aiosmtplib.SMTPTimeoutError):
            raise DeliveryFailed(
                f"The mail server did not accept the email within {self.timeout_seconds:g} s."
            ) from None
        except aiosmtplib.SMTPRecipientsRefused as error:
            refusal = error.recipients[0]
            raise DeliveryFailed(
                f"The mail server refused the address: {_said(refusal)}",
                refusal.code,
                final=refusal.code >= 500,
            ) from error
        except aiosmtplib.SMTPResponseException as error:
            raise DeliveryFailed(f"The mail server answered: {_said(error)}", error.code) from error
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise DeliveryFailed(_reason(error)) from error
        return aiosmtplib.SMTPStatus.completed.value


def compose(notification: Notification, sender: str) -> EmailMessage:
    """The email of *notification*.

    :raises ValueError: a value is not allowed in a header.
    """
    report = notification.report
    execution = report.execution
    mail = EmailMessage(policy=SMTP)
    mail["From"] = sender
    mail["To"] = notification.target.address
    mail["Subject"] = subject(execution)
    mail["Date"] = format_datetime(datetime.fromtimestamp(notification.created_at, UTC))
    # The same for every attempt: mailboxes drop duplicates by it.
    mail["Message-ID"] = f"<{notification.id}@{parseaddr(sender)[1].rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no automatic reply is wanted.
    mail["X-Fastlane-Event"] = str(notification.event)
    mail["X-Fastlane-Status"] = str(execution.status)
    mail["X-Fastlane-Job"] = execution.job_id
    mail["X-Fastlane-Execution"] = execution.id
    mail.set_content(_text(report))
    mail.add_alternative(_html(report), subtype="html")
    return mail


def subject(execution: Execution) -> str:
    """The task, then the outcome: sorted by subject, emails are grouped by both."""
    task = "".join(c if c.isprintable() else " " for c in _clean(execution.task_id))
    if len(task) > SUBJECT_CHARS:
        task = f"{task[:SUBJECT_CHARS]}…"
    return f"[fastlane] {task}: {outcome(execution)}"


def outcome(execution: Execution) -> str:
    """The status and, where it says more, the reason: ``failed (exit code 3)``."""
    status, reason = execution.status, execution.reason
    if status is Status.DONE or reason is None or reason in {status.value, Reason.TIMEOUT}:
        return status.value
    if reason is Reason.EXIT_CODE and execution.exit_code is not None:
        return f"{status} (exit code {execution.exit_code})"
    return f"{status} ({reason})"


def _facts(execution: Execution) -> Iterator[tuple[str, str]]:
    """The rows of a table; what is unknown is left out."""
    definition = execution.definition
    command = definition.command.submitted
    tries = definition.retries + 1
    for name, value in (
        ("Task", execution.task_id),
        ("Status", execution.status),
        ("Reason", execution.reason),
        ("Exit code", execution.exit_code),
        ("Error", execution.error),
        ("Attempt", f"{execution.attempt + 1} of {tries}" if tries > 1 else None),
        ("Image", definition.image.submitted),
        ("Command", command if isinstance(command, str) else " ".join(command)),
        ("Created", _time(execution.created_at)),
        ("Started", _time(execution.started_at)),
        ("Finished", _time(execution.finished_at)),
    ):
        if value is not None and value != "":
            yield name, _clean(value)


def _time(at: float | None) -> str | None:
    if at is None:
        return None
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S.%f} UTC"


def _links(report: Report) -> Iterator[tuple[str, str]]:
    yield "Execution", report.url
    yield "Log", f"{report.url}logs/"
    yield "Job", report.job_url
    yield "Task", report.task_url


def _tails(report: Report) -> Iterator[tuple[str, str]]:
    for title, text, truncated in (
        ("Output", report.log, report.log_truncated),
        ("Error output", report.error, report.error_truncated),
    ):
        lines = _clean(text).splitlines()
        tail = "\n".join(lines[-TAIL_LINES:])[-TAIL_CHARS:]
        if tail.strip():
            cut = truncated or len(tail) < len("\n".join(lines))
            yield f"{title} (last lines)" if cut else title, tail


def _text(report: Report) -> str:
    facts = [f"{name + ':':11}{value}" for name, value in _facts(report.execution)]
    links = [f"{name + ':':11}{url}" for name, url in _links(report)]
    parts = ["\n".join(facts), "\n".join(links)]
    parts += [f"{title}\n{'-' * len(title)}\n{tail}" for title, tail in _tails(report)]
    return "\n\n".join(parts) + "\n"


def _html(report: Report) -> str:
    execution = report.execution
    page = _template().generate(
        color="#1a7f37" if execution.status is Status.DONE else "#b42318",
        heading=f"{_clean(execution.task_id)}: {outcome(execution)}",
        facts=_facts(execution),
        links=_links(report),
        tails=_tails(report),
    )
    return page.decode()


@cache
def _template() -> Template:
    return Template((files("fastlane.templates") / "email.html").read_text("utf-8"), "email.html")


def _clean(value: object) -> str:
    """*value* without lone surrogates and without control characters."""
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
            return "The mail server closed the connection."
    return f"The email could not be handed to the mail server: {str(error)[:ANSWER_CHARS]}"


def _error(config: Config) -> str | None:
    return None if config.smtp_host else NOT_CONFIGURED


EMAIL = Channel("email", "notify", Notify, EmailSender, error_key="notifyError", error=_error)
