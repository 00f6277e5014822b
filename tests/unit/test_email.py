"""Mail, through real mail servers that behave well and badly (regressions 25, 34, 36, 37)."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import replace
from email.message import EmailMessage
from html import escape
from typing import Any

import pytest
import trustme

from fastlane.config import Config
from fastlane.errors import DeliveryFailed
from fastlane.image import ImageReference
from fastlane.model import Command, Definition, Reason, Status
from fastlane.notifications.base import Notification
from fastlane.notifications.email import (
    TAIL_LINES,
    Addressee,
    EmailSender,
    compose,
    outcome,
    subject,
)
from tests.receivers import MailServer, mail_server
from tests.reports import EXECUTION, notification


def mail(*, definition: Definition | None = None, **changes: Any) -> Notification:
    """*changes* are of the report and of its execution."""
    parts = {name: changes.pop(name) for name in ("log", "error") if name in changes}
    execution = replace(EXECUTION, definition=definition or EXECUTION.definition, **changes)
    return notification(Addressee("ann@example.org"), execution=execution, **parts)


def sender(
    server: MailServer, *, tls: ssl.SSLContext | None = None, implicit: bool = False, **options: Any
) -> EmailSender:
    """*options* are those that begin with ``SMTP_``."""
    given: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": server.port,
        "from": "fastlane <fastlane@example.org>",
        "timeout_seconds": 5.0,
    }
    return EmailSender(
        Config(**{f"smtp_{name}": value for name, value in (given | options).items()}),
        tls=tls,
        implicit_tls_port=server.port if implicit else 465,
    )


async def refusal(mails: EmailSender) -> DeliveryFailed:
    with pytest.raises(DeliveryFailed) as raised:
        await mails.send(mail())
    assert "hunter2" not in str(raised.value)
    return raised.value


def parts(mail: EmailMessage) -> tuple[str, str]:
    plain, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert plain is not None
    assert html is not None
    return plain.get_content(), html.get_content()


# -- what is written ---------------------------------------------------------------------------


def test_a_mail_says_what_happened() -> None:
    composed = compose(mail(), "fastlane@example.org")
    assert composed["Subject"] == "[fastlane] nightly: failed (exit code 3)"
    assert composed["To"] == "ann@example.org"
    assert composed["Message-ID"] == "<ba4ff7d1-57a0-5a6d-8b0f-2a4f0bd4ba3c@example.org>"
    assert composed["Auto-Submitted"] == "auto-generated"
    assert composed["X-Fastlane-Event"] == "fails"
    plain, html = parts(composed)
    for text in (
        "nightly", "failed", "exit-code", "2 of 3", "2026-01-17T15:13:04.000000 UTC",
        "http://fastlane.example/tasks/nightly/jobs/j/executions/e/logs/", "one\ntwo",
    ):  # fmt: skip
        assert text in plain
        assert text in html
    assert "Exit code: 3" in plain
    assert "oh <no> & so" in plain
    assert "oh &lt;no&gt; &amp; so" in html


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "\"><img src=x onerror='x'>"])
def test_nothing_in_a_mail_is_markup_of_a_job(text: str) -> None:
    definition = Definition(ImageReference(text), Command(text, (text,)))
    _, html = parts(
        compose(mail(definition=definition, log=text, error=text, task_id=text), "a@b.c")
    )
    assert escape(text) in html
    assert text not in html
    assert "<script" not in html
    assert "<img" not in html


@pytest.mark.parametrize(
    ("status", "reason", "exit_code", "wanted"),
    [
        (Status.DONE, Reason.EXIT_CODE, 0, "done"),
        (Status.FAILED, Reason.EXIT_CODE, 1, "failed (exit code 1)"),
        (Status.FAILED, Reason.LOST, None, "failed (lost)"),
        (Status.FAILED, Reason.PULL_FAILED, None, "failed (pull-failed)"),
        (Status.FAILED, Reason.OOM, 137, "failed (oom)"),
        (Status.FAILED, None, None, "failed"),
        (Status.TIMEDOUT, Reason.TIMEOUT, None, "timedout"),
        (Status.EXPIRED, Reason.EXPIRED, None, "expired"),
        (Status.RUNNING, None, None, "running"),
    ],
)
def test_every_outcome_can_be_written(
    status: Status, reason: Reason | None, exit_code: int | None, wanted: str
) -> None:
    """Regression 36: no exit code, no start, no log."""
    changes: dict[str, Any] = {"status": status, "reason": reason, "exit_code": exit_code}
    assert outcome(replace(EXECUTION, **changes)) == wanted
    plain, html = parts(compose(mail(**changes, started_at=None, log="", error=""), "a@b.c"))
    assert "None" not in plain
    assert "None" not in html
    assert "Started" not in plain


def test_names_and_logs_of_any_kind() -> None:
    wild = "ü\r\nBcc: evil@example.org\x1b[2J\0\ud800" + "x" * 300
    definition = Definition.parse("busy", ["a", wild])
    composed = compose(mail(task_id=wild, log=wild, error="", definition=definition), "a@b.c")
    assert composed["Bcc"] is None
    assert len(subject(replace(EXECUTION, task_id=wild))) < 250
    raw = composed.as_bytes()
    assert b"\nBcc:" not in raw.partition(b"\r\n\r\n")[0]
    plain, _ = parts(composed)
    assert "\x1b" not in plain


def test_the_tail_is_bounded() -> None:
    long = "".join(f"line {n}\n" for n in range(5000))
    plain, _ = parts(compose(mail(log=long, error="y" * 100_000), "a@b.c"))
    assert "line 4999" in plain
    assert f"line {5000 - TAIL_LINES - 1}\n" not in plain
    assert "Output (last lines)" in plain
    assert len(plain) < 20_000


# -- mail servers ------------------------------------------------------------------------------


async def test_plain() -> None:
    async with mail_server() as server:
        assert await sender(server).send(mail()) == 250
        assert server.recipients == ["ann@example.org"]
        assert server.was_tls == [False]
        assert parts(server.mails[0])[0].startswith("Task:")
        assert server.mails[0]["From"] == "fastlane <fastlane@example.org>"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_tls(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.mark.parametrize("implicit", [False, True], ids=["STARTTLS", "implicit TLS"])
async def test_tls_and_login(authority: trustme.CA, implicit: bool) -> None:
    key = "tls" if implicit else "starttls"
    login: dict[str, Any] = {"user": "ann", "password": "hunter2"}
    behaviour: dict[str, Any] = {key: server_tls(authority)} | ({} if implicit else login)
    async with mail_server(**behaviour) as server:
        mails = sender(
            server,
            tls=client_tls(authority),
            implicit=implicit,
            use_ssl=True,
            **({} if implicit else login),
        )
        assert await mails.send(mail()) == 250
        assert server.was_tls == [True]
        assert server.logins == ([] if implicit else ["ann"])


async def test_login_without_tls() -> None:
    async with mail_server(user="ann", password="hunter2") as server:
        assert await sender(server, user="ann", password="hunter2").send(mail()) == 250
        assert server.logins == ["ann"]


async def test_a_wrong_password(authority: trustme.CA) -> None:
    async with mail_server(user="ann", password="right", starttls=server_tls(authority)) as server:
        failure = await refusal(
            sender(server, user="ann", password="hunter2", use_ssl=True, tls=client_tls(authority))
        )
        assert (failure.status, failure.final) == (535, False)
        assert server.mails == []


async def test_tls_is_never_skipped() -> None:
    """A server that offers no STARTTLS gets neither password nor mail."""
    async with mail_server(user="ann", password="hunter2") as server:
        await refusal(sender(server, use_ssl=True, user="ann", password="hunter2"))
        assert (server.mails, server.logins) == ([], [])


@pytest.mark.parametrize("implicit", [False, True], ids=["STARTTLS", "implicit TLS"])
async def test_a_wrong_certificate(authority: trustme.CA, implicit: bool) -> None:
    wrong = server_tls(authority, "mail.other.example")
    behaviour: dict[str, Any] = {"tls" if implicit else "starttls": wrong}
    async with mail_server(**behaviour) as server:
        failure = await refusal(
            sender(server, use_ssl=True, tls=client_tls(authority), implicit=implicit)
        )
        assert "certificate" in str(failure)
        assert server.mails == []


@pytest.mark.parametrize(
    ("refused", "final"), [("550 5.1.1 no such user", True), ("450 4.2.1 try later", False)]
)
async def test_a_refused_address(refused: str, final: bool) -> None:
    async with mail_server(refuse_recipients=refused) as server:
        failure = await refusal(sender(server))
    assert failure.status == int(refused[:3])
    assert failure.final is final
    assert refused in str(failure)


async def test_a_refused_mail() -> None:
    async with mail_server(refuse_data="554 5.6.0 no") as server:
        failure = await refusal(sender(server))
    assert (failure.status, failure.final) == (554, False)


async def test_a_slow_server() -> None:
    """Regression 25: bounded in all, and nobody else waits."""
    async with mail_server(hold=asyncio.Event()) as slow, mail_server() as quick:
        began = time.monotonic()
        waiting = asyncio.create_task(refusal(sender(slow, timeout_seconds=0.5)))
        assert await sender(quick).send(mail()) == 250
        assert not waiting.done()
        assert "within 0.5 s" in str(await waiting)
        assert time.monotonic() - began < 5


async def test_no_server() -> None:
    async with mail_server() as server:
        pass
    failure = await refusal(sender(server))
    assert "No connection to the mail server" in str(failure)
    assert not failure.final


async def test_nothing_is_configured() -> None:
    failure = await refusal(EmailSender(Config()))
    assert failure.final
    assert "SMTP_HOST" in str(failure)
