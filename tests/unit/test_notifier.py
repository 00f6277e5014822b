"""The notifier over a real storage, with senders that behave in a named way."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fastlane.background.notifier import (
    CLAIM_MARGIN_SECONDS,
    FULL_SECONDS,
    IDLE_SECONDS,
    PARALLEL,
    PER_RECEIVER,
    Notifier,
)
from fastlane.bus.local import Bus
from fastlane.errors import DeliveryFailed, StorageUnavailable
from fastlane.events import OutboxChanged
from fastlane.lifecycle import Lifecycle
from fastlane.model import (
    Backoff,
    Definition,
    Delivery,
    DeliveryState,
    Event,
    Execution,
    Farm,
    Outcome,
    Reason,
    Schedule,
    Status,
)
from fastlane.notifications.base import Notification, Report, Sender
from fastlane.notifications.registry import channels, subscriptions_of
from fastlane.notifications.webhook import Webhook
from fastlane.storage.base import PageRequest
from fastlane.storage.sqlite import SqliteStorage
from tests.storage_calls import OPERATIONS, Call, wrap

FARM = Farm("default", ("h:1",), 1000)
PATIENCE = 15.0


class Mailbox(Sender):
    """Takes everything at once."""

    timeout_seconds = 5.0
    retries = 3

    def __init__(self) -> None:
        self.sent: list[Notification] = []

    async def send(self, notification: Notification) -> int:
        self.sent.append(notification)
        return 200


class Held(Mailbox):
    """Takes nothing before it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.release = asyncio.Event()

    async def send(self, notification: Notification) -> int:
        await super().send(notification)
        await self.release.wait()
        return 200


class Refusing(Mailbox):
    """Takes nothing, for good or not."""

    def __init__(self, *, final: bool) -> None:
        super().__init__()
        self._final = final

    async def send(self, notification: Notification) -> int:
        await super().send(notification)
        raise DeliveryFailed("No.", 500, final=self._final)


class Faulty(Mailbox):
    """Has a bug of our own."""

    async def send(self, notification: Notification) -> int:
        await super().send(notification)
        raise ZeroDivisionError("a bug")


class AwayAtTimes(SqliteStorage):
    """Is away for the operations that a test names."""

    away: frozenset[str] = frozenset()

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.refusals = asyncio.Semaphore(0)
        """Released with every refusal."""
        for operation in OPERATIONS:
            wrap(self, operation, partial(self._refuse, operation))

    def _refuse(self, operation: str, call: Call) -> Call:
        async def refuse(*args: Any, **kwargs: Any) -> Any:
            if operation in self.away:
                self.refusals.release()
                raise StorageUnavailable("connection refused")
            return await call(*args, **kwargs)

        return refuse


class Setting:
    """A notifier, and executions that end."""

    def __init__(self, storage: AwayAtTimes, sender: Sender) -> None:
        self.storage = storage
        self.now = time.time()
        self.bus = Bus()
        self.lifecycle = Lifecycle(
            storage, self.bus, clock=self.clock, farms=[FARM], instance="one"
        )
        self.notifier = self.another(sender)

    def clock(self) -> float:
        return self.now

    def another(self, sender: Sender) -> Notifier:
        senders = {channel.name: sender for channel in channels()}
        backoff = Backoff(min_ms=1000, factor=2, max_ms=3_600_000)
        return Notifier(
            self.lifecycle,
            self.storage,
            self.bus,
            senders,
            self.describe,
            clock=self.clock,
            backoff=backoff,
        )

    async def describe(self, execution: Execution, event: Event) -> Report:
        if execution.task_id == "faulty":
            raise ZeroDivisionError("a bug")
        return Report(execution, "", False, "", False, "", "", "", event.encode())

    async def end(self, *urls: str, task_id: str = "t", **hook: Any) -> Execution:
        """An execution that has ended, and is to be told to *urls*."""
        webhooks = {"finishes": [{"url": url, "headers": {"X": "1"}, **hook} for url in urls]}
        await self.lifecycle.submit(
            task_id=task_id,
            job_id=None,
            definition=Definition.parse(
                "busy", "true", subscriptions=subscriptions_of({"webhooks": webhooks})
            ),
            schedule=Schedule(),
        )
        execution = await self.lifecycle.claim(FARM, "h:1")
        assert execution is not None
        return await self.lifecycle.finish(execution, Outcome(Status.DONE, Reason.EXIT_CODE, 0))

    async def state(self, execution: Execution) -> Delivery:
        (delivery,) = await self.storage.outbox.of_executions([execution.id])
        return delivery

    async def settled(self, notifier: Notifier | None = None) -> None:
        """Wait until nothing is being tried."""
        tasks = (notifier or self.notifier)._tasks
        async with asyncio.timeout(PATIENCE):
            while tasks:
                await asyncio.wait(tasks)
                await asyncio.sleep(0)


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[AwayAtTimes]:
    storage = AwayAtTimes(tmp_path)
    await storage.open()
    yield storage
    storage.away = frozenset()
    await storage.close()


async def test_an_idle_notifier_sleeps(storage: AwayAtTimes) -> None:
    setting = Setting(storage, Mailbox())
    commits = storage.commits
    assert await setting.notifier.step() == IDLE_SECONDS
    assert storage.commits == commits


async def test_delivered(storage: AwayAtTimes) -> None:
    mailbox = Mailbox()
    setting = Setting(storage, mailbox)
    execution = await setting.end("http://a.example/")
    with setting.bus.subscribe(OutboxChanged) as news:
        await setting.notifier.step()
        await setting.settled()
        assert await news.wait(0)
    delivery = await setting.state(execution)
    assert delivery.state is DeliveryState.DELIVERED
    (sent,) = mailbox.sent
    assert sent.id == delivery.id
    assert sent.target == Webhook(url="http://a.example/", headers={"X": "1"})
    assert (sent.report.execution.id, sent.report.body) == (execution.id, b"finishes")
    assert await setting.notifier.step() == IDLE_SECONDS


async def test_tried_again_after_growing_delays(storage: AwayAtTimes) -> None:
    mailbox = Refusing(final=False)
    setting = Setting(storage, mailbox)
    execution = await setting.end("http://a.example/", retries=3)
    for number, delay in enumerate((1, 2, 4), 1):
        await setting.notifier.step()
        await setting.settled()
        delivery = await setting.state(execution)
        assert (delivery.attempts, delivery.due_at) == (number, setting.now + delay)
        setting.now += delay - 0.01
        assert await setting.notifier.step() == pytest.approx(0.01, abs=1e-3)
        await setting.settled()
        assert len(mailbox.sent) == number
        setting.now += 0.01
    await setting.notifier.step()
    await setting.settled()
    delivery = await setting.state(execution)
    assert (delivery.state, delivery.attempts) == (DeliveryState.FAILED, 4)


async def test_a_final_refusal_is_not_tried_again(storage: AwayAtTimes) -> None:
    setting = Setting(storage, Refusing(final=True))
    execution = await setting.end("http://a.example/", retries=3)
    await setting.notifier.step()
    await setting.settled()
    delivery = await setting.state(execution)
    assert (delivery.state, delivery.attempts) == (DeliveryState.FAILED, 1)


@pytest.mark.parametrize("where", ["sender", "description"])
async def test_our_own_fault_is_recorded_and_stops_nobody(storage: AwayAtTimes, where: str) -> None:
    setting = Setting(storage, Faulty() if where == "sender" else Mailbox())
    execution = await setting.end("http://a.example/", task_id="faulty", retries=0)
    await setting.notifier.step()
    await setting.settled()
    delivery = await setting.state(execution)
    assert delivery.state is DeliveryState.FAILED
    assert delivery.history[0].error == (
        "An internal error occurred in fastlane; its log has the details."
    )


async def test_a_record_that_cannot_be_read_goes_to_the_error_queue(storage: AwayAtTimes) -> None:
    """Regression 11."""
    mailbox = Mailbox()
    setting = Setting(storage, mailbox)
    good, bad = await setting.end("http://a.example/"), await setting.end("http://b.example/")
    assert storage._file.writer is not None
    await storage._file.writer.run(
        lambda connection: connection.execute(
            "UPDATE executions SET definition = '{}' WHERE id = ?", (bad.id,)
        )
    )
    await setting.notifier.step()
    await setting.settled()
    assert (await setting.state(good)).state is DeliveryState.DELIVERED
    delivery = await setting.state(bad)
    assert delivery.state is DeliveryState.FAILED
    assert delivery.history[0].error == "The stored definition of the job cannot be read."


async def test_the_outcome_is_written_when_the_storage_is_back(storage: AwayAtTimes) -> None:
    """Regression 4: what the receiver took is not sent again."""
    mailbox = Mailbox()
    setting = Setting(storage, mailbox)
    execution = await setting.end("http://a.example/")
    storage.away = frozenset({"outbox.attempted"})
    await setting.notifier.step()
    async with asyncio.timeout(PATIENCE):
        await storage.refusals.acquire()
        await storage.refusals.acquire()
    storage.away = frozenset()
    await setting.settled()
    assert (await setting.state(execution)).state is DeliveryState.DELIVERED
    assert len(mailbox.sent) == 1


async def test_what_could_not_be_tried_is_due_again(storage: AwayAtTimes) -> None:
    setting = Setting(storage, Mailbox())
    execution = await setting.end("http://a.example/")
    storage.away = frozenset({"executions.get"})
    await setting.notifier.step()
    await setting.settled()
    delivery = await setting.state(execution)
    assert (delivery.claimed_at, delivery.attempts) == (None, 0)
    storage.away = frozenset()
    await setting.notifier.step()
    await setting.settled()
    assert (await setting.state(execution)).state is DeliveryState.DELIVERED


async def test_a_frozen_instance_is_refused(storage: AwayAtTimes) -> None:
    """Regression 14: it wakes up when its claim has run out and another has delivered."""
    held, mailbox = Held(), Mailbox()
    setting = Setting(storage, held)
    execution = await setting.end("http://a.example/", retries=5)
    await setting.notifier.step()
    setting.now += CLAIM_MARGIN_SECONDS + held.timeout_seconds
    other = setting.another(mailbox)
    await other.step()
    await setting.settled(other)
    delivered = await setting.state(execution)
    assert delivered.state is DeliveryState.DELIVERED
    held.release.set()
    await setting.settled()
    assert await setting.state(execution) == delivered
    assert {one.id for one in (*held.sent, *mailbox.sent)} == {delivered.id}


async def test_bounds(storage: AwayAtTimes) -> None:
    held = Held()
    setting = Setting(storage, held)
    for number in range(15):
        await setting.end(*(f"http://r{number}.example/{n}" for n in range(PER_RECEIVER + 2)))
    for _ in range(3):
        pause = await setting.notifier.step()
        await asyncio.sleep(0)
    assert len(setting.notifier._tasks) == PARALLEL
    assert pause == IDLE_SECONDS
    held.release.set()
    while (await storage.overview()).pending:
        await setting.notifier.step()
        await setting.settled()
    assert len({one.id for one in held.sent}) == 15 * (PER_RECEIVER + 2)


async def test_a_full_receiver_is_not_asked_for_all_the_time(storage: AwayAtTimes) -> None:
    held = Held()
    setting = Setting(storage, held)
    await setting.end(*(f"http://r.example/{n}" for n in range(PER_RECEIVER + 1)))
    assert await setting.notifier.step() == FULL_SECONDS
    assert await setting.notifier.step() == FULL_SECONDS
    assert len(setting.notifier._tasks) == PER_RECEIVER
    held.release.set()
    await setting.settled()


async def test_closing_hands_back(storage: AwayAtTimes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression 10."""
    monkeypatch.setattr("fastlane.background.notifier.SHUTDOWN_SECONDS", 0.05)
    setting = Setting(storage, Held())
    execution = await setting.end("http://a.example/")
    await setting.notifier.step()
    await setting.notifier.close()
    delivery = await setting.state(execution)
    assert (delivery.claimed_at, delivery.attempts) == (None, 0)
    assert delivery.state is DeliveryState.PENDING
    page = await storage.outbox.in_state(DeliveryState.PENDING, PageRequest())
    assert page.items == [delivery]


async def test_mail_goes_by_its_own_retries(storage: AwayAtTimes) -> None:
    setting = Setting(storage, Refusing(final=False))
    wanted = subscriptions_of({"notify": {"finishes": ["a@b.c"]}})
    definition = Definition.parse("busy", "true", subscriptions=wanted)
    submitted = await setting.lifecycle.submit(
        task_id="t", job_id=None, definition=definition, schedule=Schedule()
    )
    assert submitted.execution is not None
    await setting.lifecycle.stop_execution("t", submitted.job.id, submitted.execution.id)
    for _ in range(4):
        await setting.notifier.step()
        await setting.settled()
        setting.now += 3600
    delivery = await setting.state(dataclasses.replace(submitted.execution))
    assert (delivery.state, delivery.attempts) == (DeliveryState.FAILED, 4)
