"""Statistics, over every storage: each event is counted once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from fastlane.background.chronicle import Chronicle
from fastlane.errors import CompareFailed
from fastlane.stats import Bucket, Step, bucket_of
from fastlane.storage.base import Storage
from fastlane.stored_events import StoredEvent
from tests.contracts.test_storage import NOW, Place, place, storage, submit
from tests.contracts.test_storage_events import finish, told

__all__ = ["place", "storage"]

MINUTE = int(NOW // 60) * 60
HOUR = int(NOW // 3600) * 3600


def event(position: int, kind: str = "done", **fields: Any) -> StoredEvent:
    values = {"at": NOW, "task_id": "a", "ran_seconds": 2.0, "waited_seconds": 1.0, **fields}
    return StoredEvent(id=str(position), type=f"execution.{kind}", position=position, **values)


async def read(storage: Storage, task: str | None, step: Step = Step.MINUTE) -> Sequence[Bucket]:
    found = await storage.stats.read(task, step, since=0, until=2e9)
    assert found is not None
    return found


async def test_events_add_up_by_minute_hour_and_task(storage: Storage) -> None:
    events = [
        event(1, "enqueued", ran_seconds=None, waited_seconds=None),
        event(2, "enqueued", ran_seconds=None, waited_seconds=None, again=True),
        event(3, "running"),
        event(4),
        event(5, "failed", task_id="b", at=NOW + 60),
        event(6, "expired", ran_seconds=None, waited_seconds=None),
    ]
    await storage.stats.add(0, events[:4])
    await storage.stats.add(4, events[4:])
    ran, waited = {bucket_of(2.0): 1}, {bucket_of(1.0): 1}
    first = Bucket(MINUTE, enqueued=1, done=1, expired=1, durations=ran, waits=waited)
    second = Bucket(MINUTE + 60, failed=1, durations=ran, waits=waited)
    assert list(await read(storage, "a")) == [first]
    assert list(await read(storage, "b")) == [second]
    assert list(await read(storage, None)) == [first, second]
    (hour,) = await read(storage, None, Step.HOUR)
    assert (hour.start, hour.enqueued, hour.done, hour.failed, hour.expired) == (HOUR, 1, 1, 1, 1)
    assert hour.durations == {bucket_of(2.0): 2}
    assert await storage.stats.read("c", Step.HOUR, since=0, until=2e9) is None
    assert await storage.stats.read("b", Step.MINUTE, since=0, until=MINUTE) == []


async def test_what_is_counted_is_not_counted_again(storage: Storage) -> None:
    await storage.stats.add(0, [event(1), event(2)])
    with pytest.raises(CompareFailed):
        await storage.stats.add(0, [event(1), event(2), event(3)])
    assert await storage.stats.position() == 2
    await storage.stats.add(2, [event(3)])
    assert [one.done for one in await read(storage, "a")] == [3]


async def test_several_count_the_same_events_at_once(storage: Storage) -> None:
    events = [event(n, task_id=f"t{n % 3}", at=NOW + n) for n in range(1, 200)]

    async def count(part: int) -> None:
        while (at := await storage.stats.position()) < len(events):
            try:
                await storage.stats.add(at, events[at : at + part])
            except CompareFailed:
                continue

    await asyncio.gather(*(count(part) for part in (7, 11, 50)))
    assert sum(one.done for one in await read(storage, None)) == 199
    assert sum(one.done for one in await read(storage, "t1")) == 67


async def test_old_buckets_and_idle_tasks_go(storage: Storage) -> None:
    events = [event(n, task_id=f"t{n}", at=NOW + 3600 * n) for n in range(1, 6)]
    await storage.stats.add(0, events)
    before = NOW + 3 * 3600
    # Three minutes of all, the same of three tasks, and these tasks.
    assert await storage.stats.forget(before, NOW, tasks=2) == 3 + 3 + 3
    assert await storage.stats.forget(before, NOW, tasks=2) == 0
    assert all(one.start >= before for one in await read(storage, None))
    assert len(await read(storage, None, Step.HOUR)) == 5
    found = [await storage.stats.read(f"t{n}", Step.HOUR, since=0, until=2e9) for n in range(1, 6)]
    assert [one is not None for one in found] == [False, False, False, True, True]


async def test_the_chronicle_counts_what_is_stored_and_forgets(storage: Storage) -> None:
    for _ in range(3):
        await submit(storage, "a")
        await finish(storage)
    await told(storage, 15)
    now = NOW + 10
    chronicle = Chronicle(
        storage, lambda: now, "me", event_retention_seconds=60, stats_retention_seconds=9000
    )
    await chronicle.step()
    (bucket,) = await read(storage, "a")
    assert (bucket.enqueued, bucket.done) == (3, 3)
    assert bucket.durations == {bucket_of(4.0): 3}
    assert len(await storage.events.after(0, 100)) == 15
    await submit(storage, "a")
    await told(storage, 17)
    now = NOW + 1000
    chronicle._forgets_at = chronicle._counts_at = 0.0
    await chronicle.step()
    # The last one stays, and on MongoDB the others of its batch.
    assert len(await storage.events.after(0, 100)) <= 2


async def test_one_instance_leads_until_its_time_is_over(place: Place) -> None:
    storage = place.storage()
    await storage.open()
    try:
        if storage.name == "sqlite":
            assert await storage.stats.lead("one", now=NOW, seconds=10)
            return
        assert await storage.stats.lead("one", now=NOW, seconds=10)
        assert not await storage.stats.lead("two", now=NOW + 5, seconds=10)
        assert await storage.stats.lead("one", now=NOW + 5, seconds=10)
        assert not await storage.stats.lead("two", now=NOW + 14, seconds=10)
        assert await storage.stats.lead("two", now=NOW + 15, seconds=10)
    finally:
        await storage.close()
