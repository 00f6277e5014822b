"""Notifications from end to end: a whole server, real receivers (regressions 32 to 37)."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from fastlane.background.notifier import PER_RECEIVER
from fastlane.cli import main
from fastlane.model import Event, LogRecord, Stream
from tests.api.conftest import MakeSite
from tests.api.http_site import Site, start_site
from tests.eventually import eventually
from tests.receivers import (
    Receiver,
    accepts,
    fails_first,
    hangs,
    mail_server,
    receiving,
    refuses,
)

LOCAL = (ipaddress.ip_network("127.0.0.0/8"),)
QUICK: dict[str, Any] = {
    "webhooks_allowed_networks": LOCAL,
    "webhooks_exponential_backoff_min_ms": 10,
    "webhooks_timeout_seconds": 5,
}
CANARY = "canary-0b5e55ed"


@pytest.fixture
async def telling(make_site: MakeSite) -> Site:
    """A server whose webhooks may come here."""
    return await make_site(**QUICK)


def hooks(receiver: Receiver, *events: str, **keys: Any) -> dict[str, Any]:
    return {event: [{"url": receiver.url, **keys}] for event in events or list(Event)}


async def run(site: Site, exit_code: int = 0, **keys: Any) -> dict[str, Any]:
    """Submit a job and let it end."""
    submitted = await site.submit(**keys)
    (await site.run_of(submitted)).end(exit_code)
    await site.status(submitted, "done", "failed")
    return submitted


def events(receiver: Receiver) -> list[str]:
    return sorted(request.json["event"] for request in receiver.requests)


# -- webhooks ----------------------------------------------------------------------------------


async def test_a_run_that_succeeds(telling: Site) -> None:
    async with receiving() as receiver:
        await run(telling, webhooks=hooks(receiver))
        await receiver.got(3)
        assert events(receiver) == ["finishes", "starts", "succeeds"]
        assert len(set(receiver.ids)) == 3


async def test_a_run_that_fails(telling: Site) -> None:
    async with receiving() as receiver:
        await run(telling, 3, webhooks=hooks(receiver))
        await receiver.got(3)
        assert events(receiver) == ["fails", "finishes", "starts"]


async def test_a_stopped_one_and_an_expired_one(make_site: MakeSite) -> None:
    """Regression 32; the other endings are in the storage's own suite."""
    site = await make_site(**QUICK, max_running=1)
    async with receiving() as receiver:
        first = await site.submit()
        await site.run_of(first)
        stopped = await site.submit(webhooks=hooks(receiver))
        await site.post(stopped["executionUrl"] + "stop/")
        expired = await site.submit(webhooks=hooks(receiver), expiration=1)
        await receiver.got(4)
        assert events(receiver) == ["fails", "fails", "finishes", "finishes"]
        by_execution = {request.json["executionId"]: request.json for request in receiver.requests}
        assert by_execution[stopped["executionId"]]["reason"] == "stopped"
        assert by_execution[expired["executionId"]]["status"] == "expired"
        # Regression 36.
        assert by_execution[expired["executionId"]]["exitCode"] is None


async def test_the_body_is_what_the_api_shows(make_site: MakeSite) -> None:
    site = await make_site(**QUICK, public_url="https://fastlane.example.org/below/")
    async with receiving() as receiver:
        submitted = await run(
            site,
            webhooks=hooks(receiver, "finishes", headers={"X-Own": "1"}),
            metadata={"user": "ann", "deep": [{"ü": None}]},
            envs={"A": "b", "DB_PASSWORD": CANARY},
        )
        (request,) = await receiver.got(1)
        shown = (await site.execution(submitted)) | {}
    told = request.json
    events = await site.storage.events.after(0, 100)
    (end,) = (event for event in events if event.type == "execution.done")
    assert told.pop("eventId") == end.id
    assert request.headers["x-own"] == "1"
    assert told.pop("event") == "finishes"
    base = "https://fastlane.example.org/below/tasks/tests/"
    assert told.pop("taskUrl") == base
    assert told.pop("taskId") == "tests"
    assert told.pop("jobId") == submitted["jobId"]
    assert told.pop("jobUrl") == f"{base}jobs/{submitted['jobId']}/"
    assert told["metadata"].pop("custom") == {"user": "ann", "deep": [{"ü": None}]}
    assert told["url"].startswith(f"{base}jobs/{submitted['jobId']}/executions/")
    del shown["metadata"]["webhookDispatch"]
    assert told | {"url": ""} == shown | {"url": ""}
    assert told["metadata"]["envs"] == {"A": "b", "DB_PASSWORD": "***"}
    assert told["log"] == "out\n"


async def test_links_lead_to_where_it_listens(telling: Site) -> None:
    async with receiving() as receiver:
        submitted = await run(telling, webhooks=hooks(receiver, "finishes"))
        (request,) = await receiver.got(1)
    assert request.json["url"] == submitted["executionUrl"]


async def test_log_and_error_are_cut(make_site: MakeSite) -> None:
    site = await make_site(**QUICK, still=True)
    owner = site.owner()
    execution = await owner.start()
    records = [
        LogRecord(1, 1.0, Stream.STDOUT, b"a" + b"x" * 100_000),
        LogRecord(2, 1.0, Stream.STDERR, b"b" + b"y" * 100_000),
    ]
    await site.server.lifecycle.append_log(execution, records, bookmark="1", cap=None)
    told = await site.server.parts.reports.describe(
        await site.storage.executions.get(execution.id), Event.FINISHES
    )
    assert (told.log, told.log_truncated) == ("x" * 65536, True)
    assert (told.error, told.error_truncated) == ("y" * 65536, True)


async def test_tried_again_until_it_is_taken(telling: Site) -> None:
    """Regression 34: the same id each time, and each attempt on the execution."""
    async with receiving(fails_first(2)) as receiver:
        submitted = await run(telling, webhooks=hooks(receiver, "finishes", retries=5))
        await receiver.got(3)

        async def delivered() -> bool:
            return (await telling.counts()).pending.get("webhook") is None

        await eventually(delivered, "the delivery")
        assert len(receiver.requests) == 3
        assert len(set(receiver.ids)) == 1
        dispatch = (await telling.execution(submitted))["metadata"]["webhookDispatch"]
    assert [one["status"] for one in dispatch] == [500, 500, 204]
    assert [one["error"] for one in dispatch] == ["The receiver answered 500."] * 2 + [None]
    assert {one["notificationId"] for one in dispatch} == set(receiver.ids)
    assert all(one["duration"] >= 0 for one in dispatch)
    job = (await telling.get(submitted["jobUrl"])).json["job"]
    assert job["executions"][0]["metadata"]["webhookDispatch"] == dispatch


async def test_the_back_off_grows(make_site: MakeSite) -> None:
    options = {"webhooks_exponential_backoff_factor": 3, "webhooks_exponential_backoff_min_ms": 50}
    site = await make_site(**QUICK | options)
    async with receiving(refuses) as receiver:
        submitted = await run(site, webhooks=hooks(receiver, "finishes", retries=2))
        (failed,) = await site.failed_notifications()
        assert len(receiver.requests) == 3
    first, second, third = (
        float(one["time"][-9:]) for one in failed["dispatch"]
    )  # seconds of the minute
    assert (second - first) % 60 >= 0.05
    assert (third - second) % 60 >= 0.15
    assert failed["execution"]["id"] == submitted["executionId"]


async def test_used_up_listed_and_requeued(telling: Site) -> None:
    """Regression 34: the error queue."""
    async with receiving(refuses) as receiver:
        await run(telling, webhooks=hooks(receiver, "finishes", retries=1))
        (failed,) = await telling.failed_notifications()
        queues = (await telling.get("/status/")).json["queues"]
        assert (queues["error"], queues["webhooks"]) == ({"length": 1}, {"length": 0})
        assert (failed["state"], failed["attempts"], failed["dueAt"]) == ("failed", 2, None)
        assert (failed["target"], failed["channel"]) == (receiver.url, "webhook")
        assert failed["id"] == receiver.ids[0]
        assert "RECEIVER-BODY-CANARY" not in json.dumps(failed)

        receiver.behave = accepts
        answer = (await telling.post(failed["requeueUrl"])).json
        assert (answer["state"], answer["attempts"]) == ("pending", 0)
        await receiver.got(3)

        async def delivered() -> bool:
            return (await telling.counts()).pending.get("webhook") is None

        await eventually(delivered, "the delivery")
        assert len(set(receiver.ids)) == 1
        assert (await telling.get("/notifications/?state=failed")).json["items"] == []
        assert (await telling.get("/notifications/?state=pending")).json["total"] == 0
        assert (await telling.get("/status/")).json["queues"]["error"] == {"length": 0}
        problem = (await telling.post(failed["requeueUrl"])).problem(400)
        assert "was delivered" in problem["detail"]


async def test_the_list_has_pages(make_site: MakeSite) -> None:
    site = await make_site(**QUICK)
    async with receiving(refuses) as receiver:
        for _ in range(5):
            await run(site, webhooks=hooks(receiver, "finishes"))
        listed = await site.failed_notifications(5)
    page = (await site.get("/notifications/?perPage=2")).json
    found = page["items"]
    while page["nextUrl"] is not None:
        page = (await site.get(page["nextUrl"])).json
        found += page["items"]
    assert found == listed
    for query in ("state=delivered", "state=", "page=0", "perPage=1000"):
        (await site.get(f"/notifications/?{query}")).problem(400)
    (await site.post("/notifications/nothing/requeue/")).problem(404)


async def test_fails_is_told_when_no_retry_follows(telling: Site) -> None:
    async with receiving() as once, receiving() as each:
        webhooks = {"fails": [{"url": once.url}, {"url": each.url, "everyAttempt": True}]}
        submitted = await telling.submit(
            webhooks=webhooks, retries=2, backoff={"minMs": 1, "maxMs": 1}
        )
        for attempt in range(3):

            async def started(attempt: int = attempt) -> Any:
                job = (await telling.get(submitted["jobUrl"])).json["job"]
                newest = job["executions"][0]
                there = newest["metadata"]["attempt"] == attempt
                return newest if there and newest["status"] == "running" else None

            execution = await eventually(started, f"attempt {attempt}")
            (await telling.run_of(execution)).end(1)
        await each.got(3)
        await once.got(1)
        assert [request.json["metadata"]["attempt"] for request in once.requests] == [2]
        attempts = sorted(request.json["metadata"]["attempt"] for request in each.requests)
        assert attempts == [0, 1, 2]


async def test_a_receiver_that_hangs_delays_nobody(make_site: MakeSite) -> None:
    """Regression 25: it has no more than its share, and everyone else is told meanwhile."""
    site = await make_site(**QUICK | {"webhooks_timeout_seconds": 30}, max_running=100)
    async with receiving(hangs) as slow, receiving() as quick:
        targets = {"finishes": [{"url": slow.url}] * 20}
        for _ in range(3):
            await run(site, webhooks=targets)
        await slow.got(PER_RECEIVER)
        for _ in range(10):
            await run(site, webhooks=hooks(quick, "finishes"))
        await quick.got(10)
        assert slow.open_most == len(slow.requests) == PER_RECEIVER
        assert (await site.get("/healthcheck/")).status == 200
        slow.behave = accepts
        slow.release.set()
        await slow.got(60)
        assert len(set(slow.ids)) == 60
        assert slow.open_most <= PER_RECEIVER


async def test_one_bad_target_does_not_stop_the_others(telling: Site) -> None:
    """Regression 35."""
    async with receiving() as receiver:
        targets = [
            {"url": "http://nobody.invalid/"},
            {"url": "http://10.255.255.1/"},
            {"url": "http://[::ffff:169.254.169.254]/"},
            {"url": receiver.url},
        ]
        await run(telling, webhooks={"finishes": targets}, notify={"finishes": ["a@b.c"]})
        await receiver.got(1)
        failed = await telling.failed_notifications(4)
    assert {one["channel"] for one in failed} == {"webhook", "email"}


async def test_shutdown_hands_back_what_is_under_way(tmp_path: Path) -> None:
    """Regression 10: after a restart it is tried at once, not when a claim has run out."""
    options = {**QUICK, "webhooks_timeout_seconds": 60}
    async with receiving(hangs) as receiver:
        site = await start_site(tmp_path, **options)
        await run(site, webhooks=hooks(receiver, "finishes"))
        await receiver.got(1)
        await site.close()
        receiver.behave = accepts
        again = await start_site(tmp_path, **options)
        try:
            await receiver.got(2)
            assert len(set(receiver.ids)) == 1
        finally:
            await again.close()


# -- mail --------------------------------------------------------------------------------------


async def test_mail(make_site: MakeSite) -> None:
    async with mail_server() as server:
        site = await make_site(**QUICK, smtp_host="127.0.0.1", smtp_port=server.port)
        submitted = await run(
            site,
            4,
            notify={"fails": ["ann@example.org"], "finishes": ["bob@example.org"]},
            envs={"TOKEN": CANARY},
        )
        mails = await server.got(2)
        job = (await site.get(submitted["jobUrl"])).json["job"]
    assert sorted(server.recipients) == ["ann@example.org", "bob@example.org"]
    assert {mail["Subject"] for mail in mails} == {"[fastlane] tests: failed (exit code 4)"}
    for mail in mails:
        text = mail.as_string()
        assert submitted["executionUrl"] in text.replace("=\n", "")
        assert CANARY not in text
    assert job["metadata"]["notifyError"] is None


async def test_mail_is_tried_again(make_site: MakeSite) -> None:
    async with mail_server(refuse_data="451 later") as server:
        site = await make_site(**QUICK, smtp_host="127.0.0.1", smtp_port=server.port)
        await run(site, notify={"finishes": ["ann@example.org"]})

        async def refused() -> Any:
            pending = (await site.get("/notifications/?state=pending")).json["items"]
            return pending and pending[0]["attempts"] >= 1

        await eventually(refused, "a refusal")
        server.refuse_data = ""
        (mail,) = await server.got(1)
        assert mail["To"] == "ann@example.org"


async def test_without_a_mail_server_it_says_so(telling: Site) -> None:
    submitted = await run(telling, notify={"finishes": ["ann@example.org"]})
    job = (await telling.get(submitted["jobUrl"])).json["job"]
    assert job["metadata"]["notifyError"] == "No email is sent because SMTP_HOST is not set."
    (failed,) = await telling.failed_notifications()
    assert failed["dispatch"][0]["error"] == job["metadata"]["notifyError"]
    silent = await telling.submit()
    job = (await telling.get(silent["jobUrl"])).json["job"]
    assert job["metadata"]["notifyError"] is None


async def test_a_slow_mail_server_delays_no_webhook(make_site: MakeSite) -> None:
    """Regression 25."""
    async with mail_server(hold=asyncio.Event()) as server, receiving() as receiver:
        site = await make_site(**QUICK, smtp_host="127.0.0.1", smtp_port=server.port)
        for _ in range(5):
            await run(
                site,
                notify={"finishes": [f"a{n}@example.org" for n in range(10)]},
                webhooks=hooks(receiver, "finishes"),
            )
        await receiver.got(5)
        assert server.mails == []
        assert server.hold is not None
        server.hold.set()
        await server.got(50)


# -- the command line --------------------------------------------------------------------------


async def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of ``fastlane notifications``, which runs a loop of its own in a thread."""
    monkeypatch.setattr(sys, "argv", ["fastlane", "notifications", *arguments])

    def call() -> int:
        try:
            main()
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else 0
        return 0

    return await asyncio.to_thread(call)


async def test_listed_and_requeued_on_the_command_line(
    telling: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FASTLANE_URL", telling.base)
    async with receiving(refuses) as receiver:
        for _ in range(3):
            await run(telling, webhooks=hooks(receiver, "finishes"))
        failed = await telling.failed_notifications(3)
        capsys.readouterr()
        assert await command(monkeypatch, "list") == 0
        heading, *lines = capsys.readouterr().out.splitlines()
        assert heading.split() == ["ID", "EVENT", "CHANNEL", "TARGET", "CREATED", "ERROR"]
        for one, line in zip(failed, lines, strict=True):
            assert line.startswith(f"{one['id']}  finishes  webhook  {receiver.url}  ")
            assert line.endswith("The receiver answered 500.")
        assert await command(monkeypatch, "list", "--state", "pending", "-q") == 0
        assert capsys.readouterr().out == ""
        assert await command(monkeypatch, "list", "--json") == 0
        assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == failed

        receiver.behave = accepts
        assert await command(monkeypatch, "requeue", failed[1]["id"]) == 0
        # The server of the test logs to the same place, before or after.
        assert "1 requeued" in capsys.readouterr().out.splitlines()
        await telling.failed_notifications(2)
        assert await command(monkeypatch, "requeue", "--all") == 0
        assert "2 requeued" in capsys.readouterr().out.splitlines()
        await receiver.got(6)
        assert await command(monkeypatch, "requeue") == 2
        assert "give ids, or --all" in capsys.readouterr().err
        assert await command(monkeypatch, "requeue", "nothing") == 1


# -- secrets -----------------------------------------------------------------------------------


@pytest.fixture
def log_lines() -> Iterator[list[str]]:
    """Everything that is logged, as text."""
    lines: list[str] = []

    def keep(_: Any, __: str, event: Any) -> Any:
        lines.append(repr(event))
        raise structlog.DropEvent

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Keeper()
    logging.getLogger().addHandler(handler)
    before = structlog.get_config()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, keep])
    yield lines
    structlog.configure(**before)
    logging.getLogger().removeHandler(handler)


async def test_secrets_are_seen_by_nobody(make_site: MakeSite, log_lines: list[str]) -> None:
    """Regression 37: one canary in every place for secrets; hits are counted, and none is right."""
    seen: list[str] = []
    async with (
        receiving() as good,
        receiving(refuses) as bad,
        mail_server(user="ann", password=CANARY) as mails,
    ):
        site = await make_site(
            **QUICK,
            smtp_host="127.0.0.1",
            smtp_port=mails.port,
            smtp_user="ann",
            smtp_password=CANARY,
        )
        target = {"headers": {"X-Api-Key": CANARY, "Authorization": CANARY}, "retries": 1}
        submitted = await run(
            site,
            2,
            envs={"DB_PASSWORD": CANARY, "API_KEY": CANARY, "client_id_x": CANARY},
            webhooks={
                "finishes": [{"url": good.url}, {"url": bad.url, **target}],
                "fails": [{"url": "http://10.0.0.1/", **target}],
            },
            notify={"fails": ["ann@example.org"]},
        )
        await good.got(1)
        await mails.got(1)
        listed = await site.failed_notifications(2)
        seen += [json.dumps(listed), *(request.body.decode() for request in good.requests)]
        seen += [request.body.decode() for request in bad.requests]
        seen += [mail.as_string() for mail in mails.mails]
        for path in (submitted["jobUrl"], submitted["executionUrl"], "/status/", "/notifications/"):
            seen.append((await site.get(path)).body.decode())
        # The receiver that they are meant for gets them, in its headers.
        assert bad.requests[0].headers["x-api-key"] == CANARY
        assert good.requests[0].headers.get("x-api-key") is None
    assert log_lines
    hits = sum(text.count(CANARY) for text in [*seen, *log_lines])
    assert hits == 0
