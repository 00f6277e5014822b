"""A notification channel that nothing else knows: registered here, it works from end to end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import Field

from fastlane.api.openapi import schemas
from fastlane.checks import PayloadModel
from fastlane.config import Config
from fastlane.errors import DeliveryFailed
from fastlane.model import Clock, Event, Subscription, Target
from fastlane.notifications import registry
from fastlane.notifications.base import Channel, Notification, Sender
from tests.api.conftest import MakeSite
from tests.api.http_site import PATIENCE


class PagerPayload(PayloadModel):
    """Whose pager beeps when an execution fails."""

    numbers: Annotated[list[Annotated[str, Field(pattern=r"^\d+$")]], Field(max_length=5)] = Field(
        default_factory=list, examples=[["4711"]]
    )


@dataclass(frozen=True, slots=True)
class Pager(Target):
    @property
    def receiver(self) -> str:
        return "pagers"


@dataclass(frozen=True, slots=True)
class Pagers(Subscription):
    channel: ClassVar[str] = "pager"
    numbers: tuple[str, ...] = ()

    def targets(self, event: Event) -> Sequence[Pager]:
        return [Pager(one) for one in self.numbers] if event is Event.FAILS else []

    def stored(self) -> dict[str, Any]:
        return {"numbers": list(self.numbers)}


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


class PagerChannel(Channel):
    name = "pager"
    key = "pagers"
    payload = PagerPayload
    details: ClassVar[Mapping[str, tuple[Any, Any]]] = {key: (PagerPayload, ...)}
    dispatch_key = "pagerDispatch"

    def __init__(self) -> None:
        self.made: list[PagerSender] = []

    def subscription(self, stored: Mapping[str, Any]) -> Pagers:
        return Pagers(tuple(stored.get("numbers", ())))

    def sender(self, config: Config, clock: Clock) -> PagerSender:
        self.made.append(PagerSender())
        return self.made[-1]


@pytest.fixture
def pager() -> Iterator[PagerChannel]:
    channel = PagerChannel()
    registry.register(channel)
    schemas.cache_clear()
    yield channel
    registry.unregister(channel.name)
    schemas.cache_clear()


async def test_a_new_channel_needs_its_module_only(
    make_site: MakeSite, pager: PagerChannel
) -> None:
    site = await make_site(webhooks_exponential_backoff_min_ms=10)
    (sender,) = pager.made

    refused = await site.post(
        "/tasks/paged/", {"image": "i", "command": "c", "pagers": {"numbers": ["one"]}}
    )
    assert [one["pointer"] for one in refused.problem(400)["errors"]] == ["/pagers/numbers/0"]
    refused = await site.post("/tasks/paged/", {"image": "i", "command": "c", "pager": {}})
    assert 'Did you mean "pagers"?' in refused.problem(400)["errors"][0]["message"]

    submitted = await site.submit(pagers={"numbers": ["4711"]})
    (await site.run_of(submitted)).end(1)
    async with asyncio.timeout(PATIENCE):
        sent = await sender.accepted.get()
    assert (sent.target, sent.event) == (Pager("4711"), Event.FAILS)
    assert sent.report.execution.id == submitted["executionId"]

    job = (await site.get(submitted["jobUrl"])).json["job"]
    assert job["metadata"]["pagers"] == {"numbers": ["4711"]}
    execution = await site.execution(submitted)
    errors = [one["error"] for one in execution["metadata"]["pagerDispatch"]]
    assert errors[0] == "The pager is out of reach."
    assert execution["metadata"]["webhookDispatch"] == []
    assert (await site.get("/status/")).json["queues"]["pagers"] == {"length": 0}


def test_a_new_channel_is_documented(pager: PagerChannel) -> None:
    found = schemas()
    for name, key in (
        ("JobPayload", "pagers"),
        ("JobMetadata", "pagers"),
        ("ExecutionMetadata", "pagerDispatch"),
        ("Queues", "pagers"),
    ):
        assert key in found[name]["properties"], name
