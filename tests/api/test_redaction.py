"""What stands under a secret name is shown nowhere, and its mask, sent back, keeps it."""

from __future__ import annotations

import io
import ipaddress
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest
import structlog

from fastlane import logs
from fastlane.api.routes import ROUTES
from fastlane.config import Config
from fastlane.errors import PullFailed
from fastlane.executors.base import RunSpec
from fastlane.model import Definition
from tests.api.conftest import MakeSite
from tests.api.http_site import PAYLOAD, Site
from tests.fakes import MemoryExecutor
from tests.receivers import mail_server, receiving, refuses

CANARY = "canary-7fb1c2d9"
# Receivers of webhooks get metadata as it was submitted; nobody else does.
META = f"meta-{CANARY}"
SECRETS: dict[str, Any] = {
    "command": ["run", "--password", CANARY, f"--api-key={CANARY}", f"DB_PASSWORD={CANARY}", "-v"],
    "envs": {
        "DB_PASSWORD": CANARY,
        "AUTH_TOKEN": CANARY,
        "MYSQL_PWD": CANARY,
        "DSN_URL": f"postgres://ann:{CANARY}@db/x",
        "AUTHOR": "ann",
    },
    "metadata": {"user": "ann", "deep": [{"apiKey": META, "credentials": {"a": META}}]},
}
MASKED: dict[str, Any] = {
    "command": ["run", "--password", "***", "--api-key=***", "DB_PASSWORD=***", "-v"],
    "envs": {
        "DB_PASSWORD": "***",
        "AUTH_TOKEN": "***",
        "MYSQL_PWD": "***",
        "DSN_URL": "***",
        "AUTHOR": "ann",
    },
    "metadata": {"user": "ann", "deep": [{"apiKey": "***", "credentials": "***"}]},
}


class TalkativeExecutor(MemoryExecutor):
    """Its errors repeat what was submitted."""

    async def pull(self, host: str, spec: RunSpec, progress: Callable[[str], None]) -> None:
        raise PullFailed(f"cannot pull as ann: --password={CANARY} of https://a:{CANARY}@registry/")


@pytest.fixture
def log_lines() -> Iterator[io.StringIO]:
    """Everything that is logged, as JSON."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    text = io.StringIO()
    logs.configure(Config(log_format="json", log_level="debug"), text)
    yield text
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def hook(url: str) -> dict[str, Any]:
    return {"url": f"{url}?token={CANARY}", "headers": {"X-Plain": CANARY, "Authorization": CANARY}}


def paths(job: dict[str, Any], notification: str) -> Iterator[str]:
    for route in ROUTES:
        if "get" in route.operations:
            path = (
                route.path.replace("<task>", job["taskId"])
                .replace("<job>", job["jobId"])
                .replace("<execution>", job["executionId"])
                .replace("<notification>", notification)
                .replace("<name>", "stream.js")
            )
            # The socket with events never ends; it sends what /events answers.
            if path != "/events/ws":
                yield f"{path}?query=tests" if path == "/search" else path


async def frames(site: Site, path: str) -> str:
    """All that a socket sends, with the states that the log page asks for."""
    url = f"{site.base}{path}/?format=json&state=true"
    async with aiohttp.ClientSession() as client, client.ws_connect(url) as socket:
        return "".join([str(message.data) async for message in socket])


async def test_secrets_are_shown_nowhere(make_site: MakeSite, log_lines: io.StringIO) -> None:
    """Regression 37: every route, page, socket, mail, webhook and log line."""
    async with receiving() as good, receiving(refuses) as bad, mail_server() as mails:
        site = await make_site(
            executor=TalkativeExecutor(),
            webhooks_allowed_networks=(ipaddress.ip_network("127.0.0.0/8"),),
            webhooks_exponential_backoff_min_ms=10,
            smtp_host="127.0.0.1",
            smtp_port=mails.port,
        )
        submitted = await site.submit(
            **SECRETS,
            webhooks={"fails": [hook(good.url), hook(bad.url)]},
            notify={"fails": ["ann@example.org"]},
        )
        await site.status(submitted, "failed")
        (told,) = await good.got(1)
        await mails.got(1)
        (failed,) = await site.failed_notifications()
        answers = {}
        for path in paths(submitted, failed["id"]):
            if path.endswith("/ws"):
                answers[path] = await frames(site, path)
            else:
                answers[path] = (await site.get(path)).body.decode()
        assert CANARY not in "".join(answers.values()), [
            path for path, text in answers.items() if CANARY in text
        ]
        assert "".join(answers.values()).count("***") > 20
        assert CANARY not in "".join(mail.as_string() for mail in mails.mails)
        refusal = await site.post(
            "/tasks/tests/", {**SECRETS, "command": f'x --password="{CANARY}'}
        )
        assert CANARY not in refusal.body.decode()
    # Who is meant to have them has them.
    assert told.headers["x-plain"] == CANARY
    assert told.line.split()[1].endswith(f"?token={CANARY}")
    assert told.json["metadata"]["custom"] == SECRETS["metadata"]
    assert CANARY not in told.body.decode().replace(META, "")
    structlog.get_logger("test").error(f"token={CANARY}", command=f"x --password {CANARY}")
    try:
        raise ValueError(f"password: {CANARY}")
    except ValueError:
        structlog.get_logger("test").exception("failed")
        logging.getLogger("library").exception("failed")
    assert CANARY not in log_lines.getvalue()
    assert "***" in log_lines.getvalue()


# -- sent back ------------------------------------------------------------------------------------


async def stored(site: Site, job: dict[str, Any]) -> Definition:
    return (await site.storage.jobs.get(job["taskId"], job["jobId"])).definition


async def test_a_job_as_it_is_shown_can_be_put_back(still: Site) -> None:
    """Every secret is kept; what is no mask changes."""
    webhooks = {"fails": [hook("http://a.example/x"), hook("http://b.example/x")]}
    job = await still.submit(**SECRETS, webhooks=webhooks)
    before = await stored(still, job)
    shown = (await still.get(job["jobUrl"])).json["job"]
    metadata = shown["metadata"]
    payload = {
        "image": shown["image"],
        "command": shown["command"],
        "envs": metadata["envs"] | {"AUTHOR": "bob", "NOTE": "***"},
        "metadata": metadata["custom"],
        "webhooks": metadata["webhooks"],
    }
    assert CANARY not in json.dumps(payload)
    assert (await still.put(job["jobUrl"], payload)).status == 200
    after = await stored(still, job)
    assert after.envs == {**before.envs, "AUTHOR": "bob", "NOTE": "***"}
    assert (after.command, after.custom) == (before.command, before.custom)
    assert after.subscriptions == before.subscriptions


async def test_masks_are_kept_one_by_one(still: Site) -> None:
    """A word more, a receiver less: each secret goes to where it was and nowhere else."""
    first, second = hook("http://a.example/x"), hook("http://b.example/x")
    second["headers"] = {"X-Plain": "of the second"}
    job = await still.submit(**SECRETS, webhooks={"fails": [first, second]})
    command = ["time", *MASKED["command"], "more"]
    masked = {"url": "http://b.example/x?***", "headers": {"X-Plain": "***"}}
    payload = {**PAYLOAD, "command": command, "webhooks": {"fails": [masked]}}
    assert (await still.put(job["jobUrl"], payload)).status == 200
    after = await stored(still, job)
    assert after.command.argv == ("time", *SECRETS["command"], "more")
    (subscription,) = after.subscriptions
    assert subscription.stored()["fails"][0]["headers"] == second["headers"]
    assert subscription.stored()["fails"][0]["url"] == second["url"]


@pytest.mark.parametrize(
    ("keys", "pointer"),
    [
        ({"envs": {"NEW_PASSWORD": "***"}}, "/envs/NEW_PASSWORD"),
        ({"envs": {"OTHER": "http://u:***@h/"}}, "/envs/OTHER"),
        ({"metadata": {"deep": [{"secret": "***"}]}}, "/metadata/deep/0/secret"),
        ({"metadata": {"token": {"a": "***"}}}, "/metadata/token/a"),
        ({"command": "run --token=***"}, "/command"),
        ({"command": ["run", "--token", "***"]}, "/command/2"),
        ({"command": ["run", "--token=***"]}, "/command/1"),
        (
            {"webhooks": {"fails": [{"url": "http://c.example/", "headers": {"A": "***"}}]}},
            "/webhooks/fails/0/headers/A",
        ),
        ({"webhooks": {"fails": [{"url": "http://a.example/y?***"}]}}, "/webhooks/fails/0/url"),
    ],
)
async def test_a_mask_for_nothing_is_refused(
    still: Site, keys: dict[str, Any], pointer: str
) -> None:
    job = await still.submit(**SECRETS, webhooks={"fails": [hook("http://a.example/x")]})
    before = await stored(still, job)
    new = "/tasks/tests/jobs/9e0ae5c4-3f7f-4f5e-8a2e-0d9b0c6f1a11/"
    for url in (job["jobUrl"], new):
        problem = (await still.put(url, {**PAYLOAD, **keys})).problem(400)
        assert [fault["pointer"] for fault in problem["errors"]] == [pointer]
        assert pointer.split("/")[1] in problem["errors"][0]["message"]
    assert await stored(still, job) == before
    (await still.get(new)).problem(404)
