"""Stored events of several instances: kills at each point, contention, fail-over, consumers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from fastlane.model import Attempt, Definition, HostRecord
from fastlane.notifications.registry import subscriptions_of
from fastlane.storage.mongo import ClusterStorage
from fastlane.storage.mongo import mover as movers
from fastlane.stored_events import StoredEvent
from tests.cluster.instances import Cluster, Load, Single, database_url
from tests.cluster.replica_set import ReplicaSet
from tests.cluster.test_crash_points import other, storage, sweep, urls
from tests.contracts.test_storage import DONE, NOW, claimed, make_job, submit
from tests.contracts.test_storage_events import told
from tests.eventually import eventually, wait_for
from tests.services import MongoServer, RedisServer
from tests.watcher import Watcher

__all__ = ["other", "storage", "urls"]


def silence(storage: ClusterStorage) -> None:
    """From now on *storage* is killed after each write and before it moves an event."""
    vars(storage._db.mover)["written"] = lambda *_: None


async def types(storage: ClusterStorage) -> list[str]:
    return [event.type for event in await storage.events.after(0, 1000)]


async def run(storage: ClusterStorage) -> None:
    """A life, from the submission to a notification that fails."""
    hook = {"url": "http://a/", "headers": {}, "retries": 0}
    subscriptions = subscriptions_of({"webhooks": {"finishes": [hook]}})
    definition = Definition.parse("a", "b", subscriptions=subscriptions)
    execution = await submit(storage, job=make_job(definition=definition))
    taken = await claimed(storage)
    await storage.executions.release(taken.id, taken.epoch, now=NOW + 1)
    taken = await claimed(storage)
    await storage.executions.started(taken.id, taken.epoch, run_id="r", started_at=NOW + 2)
    await storage.executions.finish(
        taken.id, taken.epoch, DONE, expected_stop=None, retry=None, finished_at=NOW + 3
    )
    for delivery in await storage.outbox.claim(
        now=NOW + 9, claim_seconds=9, limit=9, per_receiver=9, busy={}
    ):
        attempt = Attempt(NOW + 9, 0.1, 500, "no")
        await storage.outbox.attempted(delivery.id, delivery.claim, attempt, retry_at=None)
    await storage.jobs.stop("task", execution.job_id, now=NOW + 10)
    await storage.hosts.store_breaker(HostRecord("h:1", 5, "x", NOW + 60), now=NOW + 11)
    await storage.hosts.blacklist("h:1", blacklisted=True, now=NOW + 12)


OF_EXECUTION = ["enqueued", "pulling", "enqueued", "pulling", "running", "done"]
OTHERS = ["host.down", "host.drained", "job.created", "job.stopped", "notification.failed"]


def in_order(found: list[str]) -> bool:
    """Whether all events of :func:`run` are there, those of the execution in their order."""
    execution = [one.removeprefix("execution.") for one in found if one.startswith("execution.")]
    rest = sorted({one for one in found if not one.startswith("execution.")})
    return execution == OF_EXECUTION and rest == OTHERS


async def test_killed_before_anything_is_moved(
    storage: ClusterStorage, other: ClusterStorage
) -> None:
    """Everything a life has told is on its documents; the sweep of another moves it in order."""
    silence(storage)
    await run(storage)
    assert await types(other) == []
    await sweep(other)
    await other._db.mover.flush()
    found = await types(other)
    assert in_order(found), found
    ids = [event.id for event in await other.events.after(0, 1000)]
    await sweep(other)
    await other._db.mover.flush()
    assert [event.id for event in await other.events.after(0, 1000)] == ids


@pytest.mark.parametrize("step", ["_insert", "_take_off"])
async def test_killed_around_the_insert_of_a_batch(
    storage: ClusterStorage, other: ClusterStorage, step: str
) -> None:
    """Before it nothing is moved, after it nothing is taken off: either is made good once."""

    async def die(*_: Any) -> None:
        await asyncio.Event().wait()

    vars(storage._db.mover)[step] = die
    await run(storage)
    await asyncio.sleep(2 * movers.GATHER_SECONDS)
    await sweep(other)
    await other._db.mover.flush()
    found = await types(other)
    assert in_order(found), found
    assert len({event.id for event in await other.events.after(0, 1000)}) == len(found)
    task = storage._db.mover._task
    assert task is not None
    task.cancel()


async def test_the_documents_carry_nothing_in_the_end(
    storage: ClusterStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(movers, "KEPT_SECONDS", 0.1)
    await run(storage)
    await told(storage, len(OF_EXECUTION) + len(OTHERS))

    async def none_left() -> bool:
        sources = storage._db.event_sources().values()
        found = [await one.find_one({"events.at": {"$gt": 0}}) for one in sources]
        return not any(found)

    await eventually(none_left)


async def test_an_instance_that_is_late_moves_nothing_twice_and_nothing_out_of_order(
    storage: ClusterStorage, other: ClusterStorage
) -> None:
    """The first one is frozen with an event in its hands; others go on with the execution."""
    held = asyncio.Event()
    insert = storage._db.mover._insert

    async def late(batch: Any) -> None:
        await held.wait()
        await insert(batch)

    vars(storage._db.mover)["_insert"] = late
    execution = await submit(storage)
    await claimed(other)
    before = await told(other, 2)
    assert [event.type for event in before] == ["execution.enqueued", "execution.pulling"]
    held.set()
    every = await told(storage, 3)
    assert [event.type for event in every][:2] == [event.type for event in before]
    assert every[2].type == "job.created"
    assert every[0].execution_id == execution.id


async def test_many_instances_give_out_positions_without_a_hole(
    urls: tuple[str, str],
) -> None:
    """Three write at once, one reads: nothing appears before what was read."""
    storages = [ClusterStorage(urls[0]) for _ in range(3)]
    await asyncio.gather(*(storage.open() for storage in storages))
    seen: list[StoredEvent] = []
    ended = False

    async def read() -> None:
        while True:
            last = ended
            found = await storages[0].events.after(seen[-1].position if seen else 0, 50)
            seen.extend(found)
            if not found and last:
                return
            await asyncio.sleep(0.002)

    async def write(storage: ClusterStorage) -> None:
        for _ in range(30):
            await submit(storage)
            await asyncio.sleep(0.01)

    reading = asyncio.create_task(read())
    await asyncio.gather(*map(write, storages))
    await told(storages[0], 180)
    ended = True
    await reading
    assert len(seen) == 180
    assert seen == list(await storages[1].events.after(0, 1000))
    docs = await storages[0]._db.events.find({}, {"_id": 1}).sort("_id", 1).to_list(None)
    assert [doc["_id"] for doc in docs] == list(range(1, len(docs) + 1))
    await asyncio.gather(*(storage.close() for storage in storages))


# -- processes ------------------------------------------------------------------------------------


def watch_through_kills(servers: Cluster | Single, jobs: int, every_seconds: float) -> Watcher:
    watcher = Watcher(servers)
    load = Load(servers, jobs, pause=0.1, every_seconds=0.1)
    with watcher.watching(), load.running() as report:
        while load.under_way:
            time.sleep(every_seconds)
            victim = servers.chance.choice(servers.instances)
            victim.kill()
            victim.start()
    report.check()
    watcher.check()
    print(f"{len(watcher.received)} events over {watcher.connections} connections")
    return watcher


def ended(watcher: Watcher) -> int:
    return len(
        {
            event["id"]
            for event in watcher.received
            if event["type"] in {"execution.done", "execution.failed"}
        }
    )


@pytest.mark.parametrize(
    ("jobs", "every_seconds"), [(6, 1.0), pytest.param(300, 3.0, marks=pytest.mark.faults)]
)
@pytest.mark.timeout(1800)
def test_a_consumer_of_killed_instances(
    jobs: int,
    every_seconds: float,
    tmp_path: Path,
    mongo_server: MongoServer,
    redis_server: RedisServer,
) -> None:
    url = database_url(mongo_server, tmp_path)
    with Cluster(tmp_path, url, redis_server.url) as cluster:
        watcher = watch_through_kills(cluster, jobs, every_seconds)
        await_counted(url, ended(watcher))


def await_counted(url: str, expected: int) -> None:
    """Each end is counted once, whoever was killed while it counted."""
    with MongoClient[dict[str, Any]](url) as client:
        stats = client.get_default_database()["stats"]
        deadline = time.monotonic() + 30
        while True:
            found = sum(
                doc.get("failed", 0) + doc.get("done", 0)
                for doc in stats.find({"step": 3600, "task": ""})
            )
            if found == expected or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        assert found == expected


@pytest.mark.parametrize(
    ("jobs", "every_seconds"), [(5, 0.7), pytest.param(300, 2.0, marks=pytest.mark.faults)]
)
@pytest.mark.timeout(1800)
def test_a_consumer_of_a_single_server_that_is_killed(
    jobs: int, every_seconds: float, tmp_path: Path
) -> None:
    with Single(tmp_path) as single:
        watch_through_kills(single, jobs, every_seconds)


@pytest.fixture
def replica_set(tmp_path: Path) -> Iterator[ReplicaSet]:
    with ReplicaSet(tmp_path / "rs") as replica_set:
        yield replica_set


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_consumer_through_fail_overs(
    tmp_path: Path, replica_set: ReplicaSet, redis_server: RedisServer
) -> None:
    """The primary is killed again and again under load."""
    with Cluster(tmp_path, replica_set.url, redis_server.url) as cluster:
        watcher = Watcher(cluster)
        load = Load(cluster, 60, pause=0.1, every_seconds=0.3)
        with watcher.watching(), load.running() as report:
            while load.under_way:
                time.sleep(5)
                primary = wait_for(replica_set.primary, "a primary")
                primary.kill()
                time.sleep(5)
                primary.start()
        report.check()
        watcher.check()
        await_counted(replica_set.url, ended(watcher))
