"""A notification channel that nothing else knows: registered here, it works from end to end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest
from pydantic import Field

from fastlane.api.openapi import schemas
from fastlane.api.routes import ROUTES
from fastlane.errors import DeliveryFailed
from fastlane.model import Event
from fastlane.notifications import registry
from fastlane.notifications.base import Channel, ChannelPayload, Notification, Sender
from tests.api.conftest import MakeSite
from tests.api.http_site import PATIENCE
from tests.eventually import eventually


@dataclass(frozen=True, slots=True)
class Pager:
    address: str
    receiver: str = "pagers"
    every_attempt: bool = False
    retries: int | None = None


Number = Annotated[str, Field(pattern=r"^\d+$")]


class Pagers(ChannelPayload):
    """Whose pager beeps when an execution fails."""

    channel: ClassVar[str] = "pager"
    numbers: list[Number] = Field(default_factory=list, examples=[["4711"]])

    def targets(self, event: Event) -> list[Pager]:
        return [Pager(one) for one in self.numbers] if event is Event.FAILS else []


class PagerSender(Sender):
    timeout_seconds = 5.0
    retries = 1

    def __init__(self) -> None:
        self.accepted: asyncio.Queue[Notification] = asyncio.Queue()
        self.refuse_next = True

    async def send(self, notification: Notification) -> int:
        if self.refuse_next:
            self.refuse_next = False
            raise DeliveryFailed("The pager is out of reach.", 404)
        self.accepted.put_nowait(notification)
        return 202


@pytest.fixture
def pager() -> Iterator[PagerSender]:
    sender = PagerSender()
    registry.register(
        Channel("pager", "pagers", Pagers, lambda *_: sender, dispatch_key="pagerDispatch")
    )
    schemas.cache_clear()
    yield sender
    registry.unregister("pager")
    schemas.cache_clear()


async def test_a_new_channel_needs_its_module_only(make_site: MakeSite, pager: PagerSender) -> None:
    site = await make_site(webhooks_exponential_backoff_min_ms=10)

    refused = await site.post(
        "/tasks/paged/", {"image": "i", "command": "c", "pagers": {"numbers": ["one"]}}
    )
    assert [one["pointer"] for one in refused.problem(400)["errors"]] == ["/pagers/numbers/0"]
    refused = await site.post("/tasks/paged/", {"image": "i", "command": "c", "pager": {}})
    assert 'Did you mean "pagers"?' in refused.problem(400)["errors"][0]["message"]

    submitted = await site.submit(pagers={"numbers": ["4711"]})
    (await site.run_of(submitted)).end(1)
    async with asyncio.timeout(PATIENCE):
        sent = await pager.accepted.get()
    assert (sent.target, sent.event) == (Pager("4711"), Event.FAILS)
    assert sent.report.execution.id == submitted["executionId"]

    job = (await site.get(submitted["jobUrl"])).json["job"]
    assert job["metadata"]["pagers"] == {"numbers": ["4711"]}

    async def delivered() -> bool:
        return bool((await site.get("/status/")).json["queues"]["pagers"] == {"length": 0})

    await eventually(delivered)
    metadata = (await site.execution(submitted))["metadata"]
    assert [(one["status"], one["error"]) for one in metadata["pagerDispatch"]] == [
        (404, "The pager is out of reach."),
        (202, None),
    ]
    assert metadata["webhookDispatch"] == []


def test_a_new_channel_is_documented(pager: PagerSender) -> None:
    found = schemas(ROUTES)
    for name, key in (
        ("JobPayload", "pagers"),
        ("JobMetadata", "pagers"),
        ("ExecutionMetadata", "pagerDispatch"),
        ("Queues", "pagers"),
    ):
        assert key in found[name]["properties"], name
