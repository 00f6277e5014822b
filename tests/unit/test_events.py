"""Seam 4: a consumer of all events sees the whole life of a job, in order and with its content."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from fastlane.bus.local import Bus, Subscription
from fastlane.events import (
    KINDS,
    Event,
    ExecutionChanged,
    HostChanged,
    JobChange,
    JobChanged,
    LogGrown,
    Missed,
    OutboxChanged,
    QueueChanged,
)
from fastlane.model import Backoff, Reason, Status
from fastlane.notifications.registry import subscriptions_of
from tests.fakes import MemoryExecutor
from tests.unit.test_runner import Instance

# Bounds the wait for an event, in seconds.
EVENT_SECONDS = 15.0


async def until_final(subscription: Subscription, attempts: int) -> list[Event]:
    """The events up to the last status of the last of *attempts* executions."""
    events: list[Event] = []
    async with asyncio.timeout(EVENT_SECONDS):
        while True:
            await subscription.wait()
            events += subscription.taken()
            finals = [e for e in events if isinstance(e, ExecutionChanged) and e.final]
            if len(finals) == attempts:
                return events


def check_life(events: Sequence[Event], job_id: str) -> None:
    """*events* are the life of a job whose first attempt fails and whose second is done."""
    jobs = [event for event in events if isinstance(event, JobChanged)]
    assert [(event.job_id, event.change) for event in jobs] == [(job_id, JobChange.CREATED)]
    assert events[0] is jobs[0]
    executions = [event for event in events if isinstance(event, ExecutionChanged)]
    assert {(event.task_id, event.job_id) for event in executions} == {("task", job_id)}
    assert [(e.number, e.attempt, e.status, e.reason, e.exit_code, e.host) for e in executions] == [
        (1, 0, Status.ENQUEUED, None, None, None),
        (1, 0, Status.PULLING, None, None, "a"),
        (1, 0, Status.RUNNING, None, None, "a"),
        (1, 0, Status.FAILED, Reason.EXIT_CODE, 3, "a"),
        (2, 1, Status.ENQUEUED, None, None, None),
        (2, 1, Status.PULLING, None, None, "a"),
        (2, 1, Status.RUNNING, None, None, "a"),
        (2, 1, Status.DONE, Reason.EXIT_CODE, 0, "a"),
    ]
    first, last = executions[3], executions[7]
    assert executions[4].due_at is not None
    for ended in (first, last):
        assert ended.created_at is not None
        assert ended.started_at is not None
        assert ended.finished_at is not None
        assert ended.created_at <= ended.started_at <= ended.finished_at
        grown = [e for e in events if isinstance(e, LogGrown) and e.key == ended.execution_id]
        assert grown[-1].last_seq >= 1
        assert events.index(grown[-1]) < events.index(ended), "the log is complete before"
        told = [e for e in events if isinstance(e, OutboxChanged)]
        assert ended.execution_id in {event.execution_id for event in told}


async def live(one: Instance) -> str:
    """A job whose first attempt fails and whose second is done; its id."""
    told = subscriptions_of({"webhooks": {"finishes": [{"url": "http://a.example/"}]}})
    made = await one.submit(retries=1, backoff=Backoff(10, 1, 10), subscriptions=told)
    (await one.executor.started(made.id)).end(3)
    await one.ended(made.id)
    retry = await one.storage.executions.last_of_job(made.job_id)
    assert retry is not None
    (await one.executor.started(retry.id)).end(0)
    return made.job_id


async def test_the_life_of_a_job(tmp_path: Path) -> None:
    async with Instance(tmp_path, MemoryExecutor()) as one:
        with one.bus.subscribe(*KINDS, keep=1000) as everything:
            job_id = await live(one)
            check_life(await until_final(everything, attempts=2), job_id)


async def test_a_stop_and_a_drained_host(tmp_path: Path) -> None:
    async with Instance(tmp_path, MemoryExecutor()) as one:
        made = await one.submit()
        await one.executor.started(made.id)
        await one.in_status(made.id, Status.RUNNING)
        with one.bus.subscribe(JobChanged, ExecutionChanged, HostChanged, keep=100) as news:
            await one.lifecycle.blacklist_host("a", blacklisted=True)
            await one.lifecycle.stop_job(made.task_id, made.job_id)
            events = await until_final(news, attempts=1)
    while not isinstance(events[0], HostChanged):
        # The start may be in the storage a moment before it is news.
        events = events[1:]
    assert (events[0].host, events[0].blacklisted) == ("a", True)
    assert isinstance(events[1], JobChanged)
    assert events[1].change is JobChange.STOPPED
    stops = [event for event in events[2:] if isinstance(event, ExecutionChanged)]
    assert [(stop.status, stop.stop_reason) for stop in stops] == [
        (Status.RUNNING, Reason.STOPPED),
        (Status.FAILED, Reason.STOPPED),
    ]


async def test_relays_carry_what_is_published_but_not_what_is_delivered() -> None:
    bus, carried = Bus(), list[Event]()
    bus.relay_to(carried.append)
    with bus.subscribe(QueueChanged, LogGrown) as signal:
        bus.deliver(QueueChanged())
        assert await signal.wait(1)
        bus.wake(QueueChanged)
        assert await signal.wait(0)
        bus.publish(LogGrown("t", "j", "e", 1))
        assert await signal.wait(0)
        assert not await signal.wait(0.01)
    assert carried == [LogGrown("t", "j", "e", 1)]


async def test_a_subscriber_that_does_not_read_is_bounded_and_hears_of_it() -> None:
    bus = Bus()
    with bus.subscribe(LogGrown, keep=3) as slow:
        for seq in range(1, 6):
            bus.publish(LogGrown("t", "j", "e", seq))
        events = slow.taken()
    assert events == (Missed(), LogGrown("t", "j", "e", 5))


@pytest.mark.parametrize(("key", "woken"), [("e", True), ("other", False), (None, True)])
async def test_subscribers_choose_by_key(key: str | None, woken: bool) -> None:
    bus = Bus()
    with bus.subscribe(LogGrown, key=key) as signal:
        bus.publish(LogGrown("t", "j", "e", 1))
        assert await signal.wait(0) is woken
        bus.deliver(Missed())
        assert await signal.wait(0)
    assert not bus._subscribers
