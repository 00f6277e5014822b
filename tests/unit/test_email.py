"""Mail, through real mail servers that behave well and badly (regressions 25, 34, 36, 37)."""

from __future__ import annotations

import asyncio
import ssl
import time
from email.message import EmailMessage
from typing import Any

import pytest
import trustme

from fastlane.errors import DeliveryFailed
from fastlane.model import Event
from fastlane.notifications.base import Message
from fastlane.notifications.email import (
    TAIL_LINES,
    EmailOptions,
    EmailSender,
    compose,
    outcome,
    subject,
)
from tests.receivers import MailServer, mail_server


def facts(**changes: Any) -> dict[str, Any]:
    base = "http://fastlane.example/tasks/nightly/"
    found: dict[str, Any] = {
        "executionId": "36e1b166-7c7a-4a41-a69e-8f78a9ec8128",
        "url": f"{base}jobs/j/executions/e/",
        "createdAt": "2026-01-17T15:13:02.754000",
        "startedAt": "2026-01-17T15:13:03.000000",
        "finishedAt": "2026-01-17T15:13:04.000000",
        "status": "failed",
        "reason": "exit-code",
        "exitCode": 3,
        "image": "busy:latest",
        "command": "sh -c 'exit 3'",
        "log": "one\ntwo\n",
        "logTruncated": False,
        "error": "oh <no> & so\n",
        "errorTruncated": False,
        "jobId": "5a023792-1445-44e9-8a8b-cfe5ad05d1c6",
        "jobUrl": f"{base}jobs/j/",
        "taskId": "nightly",
        "taskUrl": base,
        "metadata": {"attempt": 1, "retries": 2, "message": None, "custom": {}, "envs": {}},
    }
    return found | changes


def message(**changes: Any) -> Message:
    return Message(
        id="ba4ff7d1-57a0-5a6d-8b0f-2a4f0bd4ba3c",
        event=Event.FAILS,
        target="ann@example.org",
        created_at=1_700_000_000.0,
        data=facts(**changes),
    )


def sender(
    server: MailServer, *, tls: ssl.SSLContext | None = None, implicit: bool = False, **options: Any
) -> EmailSender:
    given: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": server.port,
        "sender": "fastlane <fastlane@example.org>",
        "timeout_seconds": 5.0,
    }
    return EmailSender(
        EmailOptions(**given | options),
        tls=tls,
        implicit_tls_port=server.port if implicit else 465,
    )


async def refusal(mails: EmailSender) -> DeliveryFailed:
    with pytest.raises(DeliveryFailed) as raised:
        await mails.send(message())
    assert "hunter2" not in str(raised.value)
    return raised.value


def parts(mail: EmailMessage) -> tuple[str, str]:
    plain, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert plain is not None
    assert html is not None
    return plain.get_content(), html.get_content()


# -- what is written ---------------------------------------------------------------------------


def test_a_mail_says_what_happened() -> None:
    mail = compose(message(), "fastlane@example.org")
    assert mail["Subject"] == "[fastlane] nightly: failed (exit code 3)"
    assert mail["To"] == "ann@example.org"
    assert mail["Message-ID"] == "<ba4ff7d1-57a0-5a6d-8b0f-2a4f0bd4ba3c@example.org>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["X-Fastlane-Event"] == "fails"
    plain, html = parts(mail)
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
    data: dict[str, Any] = dict.fromkeys(("log", "error", "command", "taskId", "image"), text)
    data["metadata"] = {**facts()["metadata"], "message": text}
    _, html = parts(compose(message(**data), "a@b.c"))
    assert text not in html
    assert "<script" not in html
    assert "<img" not in html


@pytest.mark.parametrize(
    ("status", "reason", "exit_code", "wanted"),
    [
        ("done", "exit-code", 0, "done"),
        ("failed", "exit-code", 1, "failed (exit code 1)"),
        ("failed", "lost", None, "failed (lost)"),
        ("failed", "pull-failed", None, "failed (pull-failed)"),
        ("failed", "oom", 137, "failed (oom)"),
        ("failed", None, None, "failed"),
        ("timedout", "timeout", None, "timedout"),
        ("expired", "expired", None, "expired"),
        ("running", None, None, "running"),
    ],
)
def test_every_outcome_can_be_written(
    status: str, reason: str | None, exit_code: int | None, wanted: str
) -> None:
    """Regression 36: no exit code, no start, no log."""
    data: dict[str, Any] = {"status": status, "reason": reason, "exitCode": exit_code}
    assert outcome(facts(**data)) == wanted
    data |= {"startedAt": None, "log": "", "error": ""}
    plain, html = parts(compose(message(**data), "a@b.c"))
    assert "None" not in plain
    assert "None" not in html
    assert "Started" not in plain


def test_names_and_logs_of_any_kind() -> None:
    wild = "ü\r\nBcc: evil@example.org\x1b[2J\0\ud800" + "x" * 300
    mail = compose(message(taskId=wild, log=wild, error="", command=["a", wild]), "a@b.c")
    assert mail["Bcc"] is None
    assert len(subject(facts(taskId=wild))) < 250
    raw = mail.as_bytes()
    assert b"\nBcc:" not in raw.partition(b"\r\n\r\n")[0]
    plain, _ = parts(mail)
    assert "\x1b" not in plain


def test_the_tail_is_bounded() -> None:
    long = "".join(f"line {n}\n" for n in range(5000))
    plain, _ = parts(compose(message(log=long, error="y" * 100_000), "a@b.c"))
    assert "line 4999" in plain
    assert f"line {5000 - TAIL_LINES - 1}\n" not in plain
    assert "Output (its end)" in plain
    assert len(plain) < 20_000


# -- mail servers ------------------------------------------------------------------------------


async def test_plain() -> None:
    async with mail_server() as server:
        assert await sender(server).send(message()) == 250
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
            use_tls=True,
            **({} if implicit else login),
        )
        assert await mails.send(message()) == 250
        assert server.was_tls == [True]
        assert server.logins == ([] if implicit else ["ann"])


async def test_login_without_tls() -> None:
    async with mail_server(user="ann", password="hunter2") as server:
        assert await sender(server, user="ann", password="hunter2").send(message()) == 250
        assert server.logins == ["ann"]


async def test_a_wrong_password(authority: trustme.CA) -> None:
    async with mail_server(user="ann", password="right", starttls=server_tls(authority)) as server:
        failure = await refusal(
            sender(server, user="ann", password="hunter2", use_tls=True, tls=client_tls(authority))
        )
        assert (failure.status, failure.final) == (535, False)
        assert server.mails == []


async def test_tls_is_never_skipped() -> None:
    """A server that offers no STARTTLS gets neither password nor mail."""
    async with mail_server(user="ann", password="hunter2") as server:
        await refusal(sender(server, use_tls=True, user="ann", password="hunter2"))
        assert (server.mails, server.logins) == ([], [])


@pytest.mark.parametrize("implicit", [False, True], ids=["STARTTLS", "implicit TLS"])
async def test_a_wrong_certificate(authority: trustme.CA, implicit: bool) -> None:
    wrong = server_tls(authority, "mail.other.example")
    behaviour: dict[str, Any] = {"tls" if implicit else "starttls": wrong}
    async with mail_server(**behaviour) as server:
        failure = await refusal(
            sender(server, use_tls=True, tls=client_tls(authority), implicit=implicit)
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
        assert await sender(quick).send(message()) == 250
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
    failure = await refusal(EmailSender(EmailOptions()))
    assert failure.final
    assert "SMTP_HOST" in str(failure)
