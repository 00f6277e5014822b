"""Killed behind the write that decides: the sweep of another instance completes the operation.

Also fencing between instances, and skew of their clocks.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import pytest
from pymongo import MongoClient
from pymongo.errors import AutoReconnect, ExecutionTimeout

from fastlane.errors import CompareFailed, HostDrained, NotFound, StorageUnavailable
from fastlane.model import Reason, Status
from fastlane.storage.base import IdempotencyKey, PageRequest
from fastlane.storage.mongo import ClusterStorage, writes
from fastlane.storage.mongo.turns import Slot
from fastlane.stored_events import event_doc
from tests.cluster.gates import Gate, gated, held
from tests.contracts.test_storage import (
    FAILED,
    NOW,
    claim,
    claimed,
    finish,
    make_execution,
    make_job,
    records,
    running,
    submit,
    whole_log,
)
from tests.contracts.test_storage_outbox import submit_telling, told
from tests.services import MongoServer, RedisServer

__all__ = ["gated"]  # a fixture


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def urls(mongo_server: MongoServer, redis_server: RedisServer) -> tuple[str, str]:
    with MongoClient[dict[str, Any]](mongo_server.url) as client:
        database = client.get_default_database()
        for name in database.list_collection_names():
            database[name].delete_many({})
    return mongo_server.url, redis_server.url


@pytest.fixture
async def storage(urls: tuple[str, str]) -> AsyncIterator[ClusterStorage]:
    storage = ClusterStorage(urls[0])
    await storage.open()
    yield storage
    await storage.close()


@pytest.fixture
async def other(urls: tuple[str, str]) -> AsyncIterator[ClusterStorage]:
    """Another instance, which lives on."""
    storage = ClusterStorage(urls[0])
    await storage.open()
    yield storage
    await storage.close()


async def sweep(storage: ClusterStorage) -> None:
    """Three rounds: what was there in the one before is completed, what that left follows."""
    for _ in range(3):
        await storage._sweep.round()


def follow_ups(storage: ClusterStorage) -> Any:
    """What completes the second steps of its operations."""
    return cast(Any, storage.jobs)._follow_ups


async def killed_in(
    storage: ClusterStorage, part: object, step: str, call: Callable[[], Awaitable[object]]
) -> None:
    """Do *call* up to where it takes *step* of *part*, which it never does."""

    async def die(*_: Any, **__: Any) -> None:
        raise Killed

    vars(part)[step] = die
    with pytest.raises(Killed):
        await call()
    del vars(part)[step]


async def test_submit(storage: ClusterStorage, other: ClusterStorage) -> None:
    job = make_job()
    todo = follow_ups(storage)
    await killed_in(
        storage, todo, "complete_job", lambda: storage.jobs.submit(job, make_execution(job))
    )
    assert await claim(other) is None
    await sweep(other)
    assert (await claimed(other)).job_id == job.id
    assert (await other.tasks.get("task")).jobs_count == 1
    assert (await other.jobs.of_task("task", PageRequest())).total == 1


async def test_submit_under_a_key(storage: ClusterStorage, other: ClusterStorage) -> None:
    job, key = make_job(), IdempotencyKey("key", "print")
    await killed_in(
        storage,
        storage.jobs,
        "_apply",
        lambda: storage.jobs.submit(job, make_execution(job), idempotency=key),
    )
    again = make_job()
    answer = await other.jobs.submit(again, make_execution(again), idempotency=key)
    assert answer.repeated
    assert answer.job.id == job.id
    await sweep(other)
    assert (await claimed(other)).job_id == job.id
    assert await claim(other) is None
    assert (await other.overview()).jobs == 1


async def test_tick(storage: ClusterStorage, other: ClusterStorage) -> None:
    job = make_job(next_run_at=NOW)
    await storage.jobs.submit(job, None)
    await killed_in(
        storage,
        follow_ups(storage),
        "complete_job",
        lambda: storage.jobs.tick(
            job, make_execution(job, tick=NOW), next_run_at=NOW + 60, now=NOW
        ),
    )
    with pytest.raises(CompareFailed):
        await other.jobs.tick(job, make_execution(job, tick=NOW), next_run_at=NOW + 60, now=NOW)
    assert (await claimed(other)).tick == NOW
    assert (await other.executions.of_job(job.id, PageRequest())).total == 1


async def test_stop_job(storage: ClusterStorage, other: ClusterStorage) -> None:
    execution = await submit(storage)
    await killed_in(
        storage,
        follow_ups(storage),
        "complete_job",
        lambda: storage.jobs.stop("task", execution.job_id, now=NOW),
    )
    await sweep(other)
    assert (await other.executions.get(execution.id)).reason is Reason.STOPPED


async def test_finish(storage: ClusterStorage, other: ClusterStorage) -> None:
    job, execution = await submit_telling(storage)
    waiting = await submit(storage, waits_for=execution.id)
    active = await running(storage, max_running=1)
    retry = make_execution(job, attempt=1)
    await killed_in(
        storage,
        follow_ups(storage),
        "complete_execution",
        lambda: finish(storage, active, FAILED, retry=retry),
    )
    assert (await other.executions.get(active.id)).final
    assert await claim(other, max_running=1) is None
    await sweep(other)
    assert (await other.executions.get(retry.id)).number == 2
    assert (await other.executions.get(waiting.id)).position is not None
    assert ("finishes", "webhook") in await told(other, execution)
    assert ("fails", "webhook") not in await told(other, execution)
    assert await claim(other, max_running=1) is not None
    assert await claim(other, max_running=1) is None


async def test_the_retry_is_there_once_its_failed_execution_is(
    storage: ClusterStorage, other: ClusterStorage
) -> None:
    """Who asks for it between the two writes completes the second."""
    execution = await submit(storage)
    active = await running(storage)
    job = await storage.jobs.get("task", execution.job_id)
    retry = make_execution(job, attempt=1, retry_of=execution.id)
    await killed_in(
        storage,
        follow_ups(storage),
        "complete_execution",
        lambda: finish(storage, active, FAILED, retry=retry),
    )
    found = await other.executions.retry_of(execution.id)
    assert found is not None
    assert (found.id, found.number) == (retry.id, 2)


async def test_claim_between_slot_and_execution(
    storage: ClusterStorage, other: ClusterStorage
) -> None:
    execution = await submit(storage)
    turns = cast(Any, storage.executions)._turns
    found = await turns.next("default", NOW, max_per_task=None, fifo=False)
    assert await turns.take_slot(found, 1) is Slot.MOVED, "now the farm has its document"
    assert await turns.take_slot(found, 1) is Slot.TAKEN
    assert await claim(other, max_running=1) is None
    await sweep(other)
    assert (await claimed(other, max_running=1)).id == execution.id
    # The one that was frozen in between comes too late.
    late = await storage._db.executions.update_one(
        {"_id": execution.id, "rev": found.doc["rev"]}, {"$set": {"status": "pulling"}}
    )
    assert late.matched_count == 0


@pytest.mark.usefixtures("gated")
@pytest.mark.parametrize("write", [1, 2, 3, 4])
async def test_a_claim_that_is_under_way_when_its_host_is_black_listed(
    write: int, storage: ClusterStorage, other: ClusterStorage
) -> None:
    """Held before each write: a slot of the farm that is new, the farm, the slot, the execution."""
    execution = await submit(storage, farm="new")
    gate = Gate(write)
    claiming = await held(gate, claimed(storage, farm="new"))
    assert not claiming.done()
    await other.hosts.blacklist("host:1", blacklisted=True, now=NOW)
    gate.opened.set()
    with pytest.raises(HostDrained):
        await claiming
    assert (await other.executions.get(execution.id)).status is Status.ENQUEUED
    await other.hosts.blacklist("host:1", blacklisted=False, now=NOW)
    assert (await claimed(other, farm="new", max_running=1)).id == execution.id


async def test_a_turn_without_a_claim_is_lost_and_nothing_else(
    storage: ClusterStorage, other: ClusterStorage
) -> None:
    """Killed after the write that takes the slot and the turn of task "a"."""
    for task in "aab":
        await submit(storage, task)
    turns = cast(Any, storage.executions)._turns
    found = await turns.next("default", NOW, max_per_task=1, fifo=False)
    while await turns.take_slot(found, 9) is not Slot.TAKEN:
        pass
    options: dict[str, Any] = {"owner": "two", "max_running": 9, "now": NOW, "max_per_task": 1}
    one = await other.executions.claim("default", host="h", **options)
    assert one is not None
    assert one.task_id == "b"
    assert await other.executions.claim("default", host="h", **options) is None, "a has its share"
    await sweep(other)
    one = await other.executions.claim("default", host="h", **options)
    assert one is not None
    assert one.id == found.doc["_id"]


async def test_who_looked_before_another_took_a_turn_looks_again(
    storage: ClusterStorage, other: ClusterStorage
) -> None:
    for task in "abab":
        await submit(storage, task)
    assert (await claimed(storage)).task_id == "a"
    turns = cast(Any, storage.executions)._turns
    found = await turns.next("default", NOW, max_per_task=None, fifo=False)
    assert found.doc["task_id"] == "b"
    turn = await claimed(other)
    assert turn.id == found.doc["_id"]
    assert await turns.take_slot(found, 9) is Slot.OTHERS
    await finish(other, turn)
    assert await turns.take_slot(found, 9) is Slot.MOVED
    assert (await claimed(storage)).task_id == "a"


async def test_the_release_before_claims_beside_this_one(storage: ClusterStorage) -> None:
    """It takes the first in the queue and a slot, and no turn."""
    first = await submit(storage, "a")
    for task in "ab":
        await submit(storage, task)
    assert (await claimed(storage)).id == first.id
    doc = await storage._db.executions.find_one({"queue": {"$exists": True}}, sort=[("queue", 1)])
    assert doc is not None
    token = f"{doc['_id']}|{doc['rev']}"
    await storage._db.farms.update_one({"_id": "default"}, {"$push": {"held": token}})
    await storage._db.executions.update_one(
        {"_id": doc["_id"], "rev": doc["rev"]},
        {
            "$set": {"status": "pulling", "slot": token, "active_owner": "old", "owner": "old"},
            "$unset": {"queue": "", "enqueued_of": ""},
            "$inc": {"rev": 1, "epoch": 1},
        },
    )
    assert (await claimed(storage)).task_id == "b"
    assert await claim(storage) is None


async def test_append_before_its_decision(storage: ClusterStorage, other: ClusterStorage) -> None:
    await submit(storage)
    active = await running(storage, owner="frozen")
    large = records(1, 4, size=200_000)
    await killed_in(
        storage,
        storage.logs,
        "swap",
        lambda: storage.logs.append(active.id, active.epoch, large, bookmark="a", cap=None),
    )
    assert await other.logs.read(active.id) == []
    (adopted,) = await other.instances.adopt("me", now=NOW, limit=1)
    small = records(1, 30, size=9000)
    await other.logs.append(adopted.id, adopted.epoch, small, bookmark="b", cap=None)
    # What the old owner had stored in vain is in nobody's way, nor is what it still tries.
    with pytest.raises(CompareFailed):
        await storage.logs.append(active.id, active.epoch, large, bookmark="a", cap=None)
    assert await whole_log(other, adopted) == small


async def test_an_old_owner_with_a_warm_log_is_refused(
    storage: ClusterStorage, other: ClusterStorage
) -> None:
    await submit(storage)
    active = await running(storage, owner="frozen")
    await storage.logs.append(active.id, active.epoch, records(1, 2), bookmark="a", cap=None)
    (adopted,) = await other.instances.adopt("me", now=NOW, limit=1)
    with pytest.raises(CompareFailed):
        await storage.logs.append(active.id, active.epoch, records(3, 4), bookmark="b", cap=None)
    await other.logs.append(adopted.id, adopted.epoch, records(3, 3), bookmark="b", cap=None)
    assert await whole_log(other, adopted) == records(1, 3)


async def test_an_append_may_be_repeated(storage: ClusterStorage) -> None:
    await submit(storage)
    active = await running(storage)
    for _ in range(2):
        await storage.logs.append(active.id, active.epoch, records(1, 2), bookmark="a", cap=None)
        cast(Any, storage.logs).forget(active.id)
    assert await whole_log(storage, active) == records(1, 2)


async def test_claims_of_two_instances(storage: ClusterStorage, other: ClusterStorage) -> None:
    ids = [(await submit(storage)).id for _ in range(20)]
    taken = await asyncio.gather(
        *(
            claim(instance, owner=f"owner {number % 2}", max_running=7)
            for number in range(20)
            for instance in (storage, other)
        )
    )
    got = [execution.id for execution in taken if execution is not None]
    assert sorted(got) == sorted(ids[:7])
    assert (await storage.overview()).active == 7


async def test_leases_are_in_the_time_of_mongodb(
    urls: tuple[str, str], storage: ClusterStorage
) -> None:
    """Clocks that are off by 5 s each way do not adopt from each other."""
    import time

    ahead = ClusterStorage(urls[0], clock=lambda: time.time() + 5)
    await ahead.open()
    try:
        await submit(storage)
        behind = time.time() - 5
        storage._db._clock = lambda: time.time() - 5
        await storage.instances.beat("behind", now=behind, lease_seconds=6)
        await running(storage, owner="behind")
        await ahead.instances.beat("ahead", now=time.time() + 5, lease_seconds=6)
        assert await ahead.instances.adopt("ahead", now=time.time() + 5, limit=10) == []
        assert len(await ahead.instances.adopt("ahead", now=time.time() + 5 + 6, limit=10)) == 1
    finally:
        await ahead.close()


async def test_one_installation(storage: ClusterStorage, other: ClusterStorage) -> None:
    names = await asyncio.gather(storage.installation(), other.installation())
    assert len(set(names)) == 1


async def test_a_part_of_the_sweep_that_fails_keeps_no_other_from_running(
    storage: ClusterStorage, other: ClusterStorage
) -> None:
    """As a look-up did that ran into its time limit."""
    execution = await submit(storage)
    doc = await cast(Any, storage)._db.executions.find_one({"_id": execution.id})
    await other._db.farms.insert_one({"_id": "default", "held": [f"{execution.id}|{doc['rev']}"]})

    async def too_slow() -> int:
        raise ExecutionTimeout("operation exceeded time limit", 50)

    sweeping = cast(Any, other._sweep)
    sweeping._finish_follow_ups = sweeping._waiting = sweeping._recount = too_slow
    await sweep(other)
    assert (await claimed(storage, max_running=1)).id == execution.id


async def test_a_turn_is_found_without_a_scan(storage: ClusterStorage) -> None:
    """In a round that goes on, and in a new one: a step of the index for each part of the ring."""
    for task in "a" * 30 + "b" * 30 + "c":
        await submit(storage, task)
    turns = cast(Any, storage.executions)._turns
    pipelines: list[list[list[dict[str, Any]]]] = []
    each = turns._each

    async def noted(found: list[list[dict[str, Any]]]) -> object:
        pipelines.append(found)
        return await each(found)

    turns._each = noted
    assert [(await claimed(storage)).task_id for _ in range(4)] == ["a", "b", "c", "a"]
    assert {len(one) for one in pipelines} >= {2, 3}
    for pipeline in [part for one in pipelines for part in one]:
        explained = await storage._db._database.command(
            {
                "explain": {"aggregate": "executions", "pipeline": pipeline, "cursor": {}},
                "verbosity": "executionStats",
            }
        )
        plan = str(explained)
        assert "COLLSCAN" not in plan, pipeline
        assert "'stage': 'SORT'" not in plan.partition("rejectedPlans")[0], pipeline
        examined = [int(count) for count in re.findall(r"'totalDocsExamined': (\d+)", plan)]
        assert max(examined) <= 3, pipeline


async def test_an_end_whose_answer_was_lost_is_forgotten_with_its_ownership(
    storage: ClusterStorage, other: ClusterStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await submit(storage)
    execution = await running(storage)
    executions = cast(Any, storage.executions)

    async def unanswered(*_: Any) -> bool:
        raise AutoReconnect("connection closed")

    monkeypatch.setattr(executions._db, "swap", unanswered)
    with pytest.raises(StorageUnavailable):
        await finish(storage, execution)
    assert executions._unsure_ends == {execution.id: execution.epoch}
    monkeypatch.undo()
    (adopted,) = await other.instances.adopt("me", now=NOW, limit=1)
    with pytest.raises(CompareFailed):
        await finish(storage, execution)
    assert not executions._unsure_ends
    await finish(other, adopted)


async def test_an_end_whose_answer_was_lost_has_its_event(
    storage: ClusterStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repeat strikes off the todo, and must not take off the event that nobody has moved."""
    await submit(storage)
    execution = await running(storage)
    database = cast(Any, storage.executions)._db
    swap = database.swap

    async def unanswered(collection: Any, old: Any, new: Any, *events: Any) -> bool:
        # As Database.swap, until the write is stored.
        there = [*database.mover.left(old), *map(event_doc, events)]
        assert await writes.swap(collection, old, new | {"events": there})
        raise AutoReconnect("connection closed")

    # The event before is moved, and still on the document.
    await database.mover.flush()
    monkeypatch.setattr(database, "swap", unanswered)
    with pytest.raises(StorageUnavailable):
        await finish(storage, execution)
    monkeypatch.setattr(database, "swap", swap)
    await finish(storage, execution)
    await database.follow_up_runner.flush()
    for _ in range(2):
        await cast(Any, storage)._sweep.round()
    await database.mover.flush()
    events = await storage.events.after(0, 100)
    assert events[-1].status == Status.DONE


@pytest.mark.parametrize("kind", ["execution", "job", "task"])
async def test_a_deletion(storage: ClusterStorage, other: ClusterStorage, kind: str) -> None:
    """Killed after the mark: it is hidden, and another instance stops and removes it."""
    execution = await submit(storage)
    active = await running(storage)
    deletions = storage.deletions
    job_id = execution.job_id
    options: dict[str, Any] = {"force": True, "now": NOW + 5}

    async def delete() -> object:
        if kind == "execution":
            return await deletions.execution("task", job_id, execution.id, **options)
        if kind == "job":
            return await deletions.job("task", job_id, **options)
        return await deletions.task("task", **options)

    await killed_in(storage, follow_ups(storage), "complete_job", delete)
    if kind != "execution":
        with pytest.raises(NotFound):
            await other.jobs.get("task", job_id)
    await sweep(other)
    stopping = await other.executions.get(execution.id)
    assert stopping.stop_reason is Reason.STOPPED
    assert await other.deletions.hidden([stopping]) == {execution.id}
    assert (await other.executions.of_job(job_id, PageRequest())).total == (
        0 if kind == "execution" else 1
    )
    assert await other.deletions.remove_jobs(10) == 0
    await finish(other, active, FAILED, expected_stop=Reason.STOPPED)
    (removable,) = await other.deletions.removable(10, without=())
    assert await other.deletions.remove([removable.id]) == 1
    assert await other.deletions.remove_jobs(10) == (0 if kind == "execution" else 1)
    if kind == "execution":
        assert (await other.jobs.get("task", job_id)).execution_count == 1
        await other.deletions.task("task", force=False, now=NOW + 9)
        await other.deletions.remove_jobs(10)
    await sweep(other)
    with pytest.raises(NotFound):
        await other.tasks.get("task")
    assert (await other.overview()).jobs == 0


async def test_a_pause_is_one_write(storage: ClusterStorage, other: ClusterStorage) -> None:
    """Nothing is left to be done after it, whoever dies."""
    job = make_job(next_run_at=NOW)
    await storage.jobs.submit(job, None)
    paused = await storage.jobs.reschedule(job, paused_at=NOW, next_run_at=None, now=NOW)
    doc = await storage._db.jobs.find_one({"_id": job.id})
    assert doc is not None
    assert await other.jobs.get("task", job.id) == paused
    with pytest.raises(CompareFailed):
        await other.jobs.tick(job, make_execution(job, tick=NOW), next_run_at=NOW + 60, now=NOW)


async def test_a_run_beside_the_others(storage: ClusterStorage, other: ClusterStorage) -> None:
    job = make_job(next_run_at=NOW + 1000)
    await storage.jobs.submit(job, None)
    await killed_in(
        storage,
        follow_ups(storage),
        "complete_job",
        lambda: storage.jobs.retry(job, make_execution(job), now=NOW, beside=True),
    )
    await sweep(other)
    assert (await claimed(other)).job_id == job.id
    assert await claim(other) is None
    assert (await other.jobs.get("task", job.id)).next_run_at == NOW + 1000
