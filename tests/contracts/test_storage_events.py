"""Stored events, over every storage: each change has its event, in the order of the changes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from fastlane.errors import CompareFailed
from fastlane.model import (
    Attempt,
    Definition,
    HostRecord,
    Outcome,
    Overlap,
    Reason,
    Schedule,
    Status,
)
from fastlane.notifications.registry import subscriptions_of
from fastlane.storage.base import Storage
from fastlane.stored_events import StoredEvent, execution_event_id
from tests.contracts.test_storage import (
    DONE,
    FAILED,
    NOW,
    Place,
    claim,
    make_execution,
    make_job,
    place,
    storage,
    submit,
)
from tests.eventually import eventually

__all__ = ["place", "storage"]

CRON = Schedule(cron="* * * * *")


async def told(storage: Storage, count: int, *, after: int = 0) -> Sequence[StoredEvent]:
    """All events after *after*, once there are *count* of them."""
    found: Sequence[StoredEvent] = []

    async def enough() -> bool:
        nonlocal found
        found = await storage.events.after(after, 1000)
        return len(found) >= count

    await eventually(enough)
    assert len(found) == count, [event.type for event in found]
    return found


def types(events: Sequence[StoredEvent]) -> list[str]:
    return [event.type for event in events]


def same(events: Sequence[StoredEvent], *expected: str) -> None:
    assert sorted(types(events)) == sorted(expected)


async def finish(storage: Storage, outcome: Outcome = DONE, **options: Any) -> Any:
    taken = await claim(storage)
    assert taken is not None
    await storage.executions.started(taken.id, taken.epoch, run_id="r", started_at=NOW + 5)
    given = {"expected_stop": None, "retry": None, "finished_at": NOW + 9, **options}
    return await storage.executions.finish(taken.id, taken.epoch, outcome, **given)


async def test_a_run_has_an_event_for_each_status(storage: Storage) -> None:
    assert await storage.events.after(0, 10) == []
    execution = await submit(storage)
    await finish(storage, FAILED)
    created, *of_execution = await told(storage, 5)
    assert (created.type, created.task_id, created.job_id, created.execution_id, created.at) == (
        "job.created",
        "task",
        execution.job_id,
        None,
        NOW,
    )
    assert types(of_execution) == [
        "execution.enqueued",
        "execution.pulling",
        "execution.running",
        "execution.failed",
    ]
    for event in of_execution:
        assert (event.job_id, event.execution_id) == (execution.job_id, execution.id)
        assert event.id == execution_event_id(
            execution.id, Status(str(event.status)), 1 if event.status == Status.PULLING else 0
        )
    last = of_execution[-1]
    assert (last.at, last.status, last.reason, last.exit_code, last.attempt, last.host) == (
        NOW + 9,
        "failed",
        "exit-code",
        1,
        0,
        "host:1",
    )
    assert (last.ran_seconds, last.waited_seconds) == (4.0, 5.0)
    positions = [created.position, *(event.position for event in of_execution)]
    assert positions == sorted(set(positions))


async def test_a_reader_continues_after_any_event(storage: Storage) -> None:
    for _ in range(3):
        await submit(storage)
    every = await told(storage, 6)
    for number, event in enumerate(every):
        assert await storage.events.after(event.position, 100) == every[number + 1 :]
    assert await storage.events.after(0, 2) == every[:2]
    span = await storage.events.span()
    assert (span.since, span.last) == (0, every[-1].position)


async def test_events_outlive_a_restart_and_positions_go_on(place: Place) -> None:
    first = place.storage()
    await first.open()
    await submit(first)
    before = await told(first, 2)
    await first.close()
    second = place.storage()
    await second.open()
    await submit(second)
    assert (await told(second, 4))[:2] == before
    await second.close()


async def test_what_is_handed_back_is_enqueued_again(storage: Storage) -> None:
    execution = await submit(storage)
    taken = await claim(storage)
    assert taken is not None
    await storage.executions.release(execution.id, taken.epoch, now=NOW + 3)
    assert await claim(storage) is not None
    events = (await told(storage, 5))[1:]
    assert types(events) == [
        "execution.enqueued",
        "execution.pulling",
        "execution.enqueued",
        "execution.pulling",
    ]
    assert len({event.id for event in events}) == 4
    assert [event.again for event in events] == [False, False, True, False]
    assert events[2].at == NOW + 3


async def test_a_retry_says_why_it_waits(storage: Storage) -> None:
    job = make_job(definition=Definition.parse("a", "b", retries=1))
    await submit(storage, job=job)
    retry = make_execution(job, attempt=1, due_at=NOW + 60, created_at=NOW + 9)
    await finish(storage, FAILED, retry=retry)
    every = await told(storage, 6)
    (told_retry,) = [event for event in every if event.execution_id == retry.id]
    assert (told_retry.type, told_retry.attempt, told_retry.at) == (
        "execution.enqueued",
        1,
        NOW + 9,
    )
    assert told_retry.waiting == "It is a retry whose delay has not passed."


async def test_put_stop_and_expiry(storage: Storage) -> None:
    job = make_job()
    await submit(storage, job=job)
    await storage.jobs.submit(make_job(id=job.id, modified_at=NOW + 1), None, replace=True)
    await storage.jobs.stop("task", job.id, now=NOW + 2)
    await storage.jobs.stop("task", job.id, now=NOW + 3)
    same(
        await told(storage, 5),
        "job.created",
        "execution.enqueued",
        "job.updated",
        "job.stopped",
        "execution.failed",
    )
    seen = (await storage.events.span()).last
    definition = Definition.parse("a", "b", expires_at=NOW + 10)
    await submit(storage, job=make_job(definition=definition))
    assert await storage.executions.expire(NOW + 11, 10)
    events = await told(storage, 3, after=seen)
    assert types(events)[1:] == ["execution.enqueued", "execution.expired"]
    assert events[-1].ran_seconds is None


@pytest.mark.parametrize(
    ("late", "skips", "reasons"),
    [(0, True, ["overlap"]), (120, False, ["missed"]), (120, True, ["missed", "overlap"])],
)
async def test_a_tick_without_an_execution_says_why(
    storage: Storage, late: float, skips: bool, reasons: list[str]
) -> None:
    job = make_job(schedule=CRON, next_run_at=NOW)
    await storage.jobs.submit(job, None)
    tick = NOW + late
    execution = None if skips else make_execution(job, tick=tick, created_at=tick)
    await storage.jobs.tick(
        job,
        execution,
        next_run_at=tick + 60,
        now=tick + 1,
        skipped_tick=tick if skips else None,
    )
    events = await told(storage, 1 + len(reasons) + (not skips))
    skipped = [event for event in events if event.type == "job.tick_skipped"]
    assert [event.reason for event in skipped] == reasons
    assert all(event.at == tick + 1 for event in skipped)


async def test_a_tick_that_a_waiting_execution_takes(storage: Storage) -> None:
    definition = Definition.parse("a", "b", overlap=Overlap.QUEUE)
    job = make_job(schedule=CRON, next_run_at=NOW, definition=definition)
    await storage.jobs.submit(job, None)
    for tick in (NOW, NOW + 60):
        job = await storage.jobs.get("task", job.id)
        execution = make_execution(job, tick=tick, created_at=tick)
        await storage.jobs.tick(job, execution, next_run_at=tick + 60, now=tick, max_waiting=1)
    events = await told(storage, 3)
    same(events, "job.created", "execution.enqueued", "job.tick_skipped")
    assert next(e for e in events if e.type == "job.tick_skipped").reason == "waiting"


async def test_a_host_has_an_event_for_each_change_that_is_stored(storage: Storage) -> None:
    hosts = storage.hosts
    down = HostRecord("a:1", 5, "no route", NOW + 60)
    for record in (HostRecord("a:1", 1, "no route"), down, HostRecord("a:1", 6, "no", NOW + 99)):
        await hosts.store_breaker(record, now=NOW)
    for record in (HostRecord("a:1"), HostRecord("a:1")):
        await hosts.store_breaker(record, now=NOW + 1)
    for drained in (True, True, False, False):
        await hosts.blacklist("b:1", blacklisted=drained, now=NOW + 2)
    events = await told(storage, 4)
    assert [(event.type, event.host, event.at) for event in events] == [
        ("host.down", "a:1", NOW),
        ("host.up", "a:1", NOW + 1),
        ("host.drained", "b:1", NOW + 2),
        ("host.undrained", "b:1", NOW + 2),
    ]


async def test_two_instances_find_the_same_host_down_and_tell_it_once(storage: Storage) -> None:
    await asyncio.gather(
        *(
            storage.hosts.store_breaker(HostRecord("a:1", 5, "x", NOW + 60 + n), now=NOW)
            for n in range(5)
        )
    )
    assert types(await told(storage, 1)) == ["host.down"]


async def test_a_notification_without_retries(storage: Storage) -> None:
    hook = {"url": "http://a/", "headers": {}, "retries": 0}
    subscriptions = subscriptions_of({"webhooks": {"finishes": [hook]}})
    definition = Definition.parse("a", "b", subscriptions=subscriptions)
    execution = await submit(storage, job=make_job(definition=definition))
    await finish(storage)
    seen = (await told(storage, 5))[-1].position
    (delivery,) = await storage.outbox.claim(
        now=NOW + 20, claim_seconds=60, limit=9, per_receiver=9, busy={}
    )
    await storage.outbox.attempted(
        delivery.id, delivery.claim, Attempt(NOW + 21, 0.1, 500, "no"), retry_at=None
    )
    (event,) = await told(storage, 1, after=seen)
    assert (event.type, event.execution_id, event.at) == (
        "notification.failed",
        execution.id,
        NOW + 21,
    )


async def test_what_is_refused_has_no_event(storage: Storage) -> None:
    execution = await submit(storage)
    with pytest.raises(CompareFailed):
        await storage.executions.release(execution.id, 1, now=NOW)
    with pytest.raises(CompareFailed):
        await storage.jobs.submit(make_job(id=execution.job_id), None)
    await storage.executions.stop(execution.id, reason=Reason.STOPPED, now=NOW)
    await storage.executions.stop(execution.id, reason=Reason.STOPPED, now=NOW)
    await told(storage, 3)


async def test_old_events_go_and_the_last_one_stays(storage: Storage) -> None:
    for number in range(4):
        await submit(storage, job=make_job(created_at=NOW + number, modified_at=NOW + number))
        await told(storage, 2 * (number + 1))
    every = await told(storage, 8)
    while await storage.events.forget(NOW + 2, 3):
        pass
    left = await storage.events.after(0, 100)
    # Of each job the execution was created at NOW.
    assert left[-1] == every[-1]
    assert list(left) == list(every[-len(left) :])
    assert (await storage.events.span()).last == every[-1].position
    while await storage.events.forget(NOW + 1000, 3):
        pass
    last = await storage.events.after(0, 100)
    assert last[-1] == every[-1]
    span = await storage.events.span()
    assert 0 < span.since <= last[0].position
    await submit(storage)
    assert len(await told(storage, 2, after=every[-1].position)) == 2


async def test_many_writers_and_a_reader_that_never_stops(storage: Storage) -> None:
    """What is read once never changes, and nothing appears before what was read."""
    seen: list[StoredEvent] = []
    writing = True

    async def read() -> None:
        while True:
            at_the_end = not writing
            found = await storage.events.after(seen[-1].position if seen else 0, 7)
            seen.extend(found)
            if not found and at_the_end:
                return
            await asyncio.sleep(0)

    async def write(run: Callable[[], Awaitable[Any]]) -> None:
        for _ in range(10):
            await run()

    reader = asyncio.create_task(read())
    await asyncio.gather(*(write(lambda: submit(storage)) for _ in range(4)))
    await told(storage, 80)
    writing = False
    await reader
    assert seen == list(await storage.events.after(0, 1000))
