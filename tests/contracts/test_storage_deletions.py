"""What was deleted is hidden at once, stopped, and removed later; on every storage."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable
from typing import Any

import pytest

from fastlane.errors import CompareFailed, NotFinal, NotFound
from fastlane.model import Attempt, Execution, Reason, Status
from fastlane.storage.base import IdempotencyKey, PageRequest, Storage
from fastlane.stored_events import EventType
from tests.contracts.test_storage import (
    FAILED,
    NOW,
    Place,
    SqlitePlace,
    claim,
    claimed,
    cron_job,
    finish,
    make_execution,
    make_job,
    outcomes,
    place,
    records,
    running,
    storage,
    submit,
    whole_log,
)
from tests.contracts.test_storage_outbox import submit_telling
from tests.eventually import eventually

__all__ = ["place", "storage"]  # fixtures

LATER = NOW + 100


async def done(storage: Storage, task_id: str = "task", **changes: Any) -> Execution:
    """A job whose only execution has ended."""
    await submit(storage, task_id, **changes)
    active = await running(storage)
    await storage.logs.append(active.id, active.epoch, records(1, 2), bookmark="b", cap=None)
    return (await finish(storage, active))[0]


async def remove_all(storage: Storage) -> None:
    """What the background does, until nothing is left."""
    while found := await storage.deletions.removable(2, without=()):
        assert await storage.deletions.remove([one.id for one in found]) > 0
    while await storage.deletions.remove_jobs(2):
        pass


async def told(storage: Storage, event_type: EventType, count: int) -> None:
    """Wait for exactly so many events of a type."""

    async def enough() -> bool:
        found = [event.type for event in await storage.events.after(0, 1000)]
        assert found.count(event_type) <= count
        return found.count(event_type) == count

    await eventually(enough, f"{count} of {event_type}")


async def total(storage: Storage, job_id: str) -> tuple[int, int]:
    page = await storage.executions.of_job(job_id, PageRequest())
    return page.total, len(page.items)


async def test_an_execution_is_hidden_and_removed(storage: Storage) -> None:
    first = await done(storage)
    job = await storage.jobs.get("task", first.job_id)
    second = await storage.jobs.retry(job, make_execution(job), now=NOW)
    assert await total(storage, job.id) == (2, 2)
    delete = storage.deletions.execution
    with pytest.raises(NotFinal):
        await delete("task", job.id, second.id, force=False, now=LATER)
    marked = await delete("task", job.id, first.id, force=False, now=LATER)
    assert marked.deleted_at == LATER
    assert await total(storage, job.id) == (1, 1)
    for wrong in (
        ("task", job.id, first.id),
        ("other", job.id, second.id),
        ("task", "x", second.id),
    ):
        with pytest.raises(NotFound):
            await delete(*wrong, force=True, now=LATER)
    assert await storage.deletions.hidden([first, second, marked]) == {marked.id}
    stopped = await delete("task", job.id, second.id, force=True, now=LATER)
    assert (stopped.status, stopped.reason) == (Status.FAILED, Reason.STOPPED)
    assert await storage.executions.last_of_job(job.id) is None
    last = await storage.executions.last_of_job(job.id, deleted=True)
    assert last is not None
    assert last.id == second.id
    assert await total(storage, job.id) == (0, 0)
    await remove_all(storage)
    for one in (first, second):
        with pytest.raises(NotFound):
            await storage.executions.get(one.id)
    assert await whole_log(storage, first) == []
    assert await total(storage, job.id) == (0, 0)
    assert (await storage.jobs.get("task", job.id)).execution_count == 2
    await told(storage, EventType.EXECUTION_DELETED, 2)


async def test_a_running_execution_is_stopped_and_waited_for(storage: Storage) -> None:
    execution = await submit(storage)
    active = await running(storage)
    await storage.deletions.execution("task", execution.job_id, execution.id, force=True, now=LATER)
    stopping = await storage.executions.get(execution.id)
    assert stopping.stop_reason is Reason.STOPPED
    assert await storage.deletions.removable(10, without=()) == []
    await finish(storage, active, FAILED, expected_stop=Reason.STOPPED)
    assert await storage.deletions.removable(10, without=["host:1"]) == []
    assert len(await storage.deletions.removable(10, without=["other"])) == 1


async def test_a_job_is_hidden_with_all_that_is_its(storage: Storage) -> None:
    key = IdempotencyKey("key", "print")
    job = make_job()
    await storage.jobs.submit(job, make_execution(job), idempotency=key)
    other = await submit(storage)
    active = await claimed(storage)
    assert active.job_id == job.id
    second = await storage.jobs.retry(job, make_execution(job), now=NOW, beside=True)
    late = await storage.jobs.retry(job, make_execution(job, due_at=NOW + 50), now=NOW, beside=True)
    with pytest.raises(NotFinal):
        await storage.deletions.job("task", job.id, force=False, now=LATER)
    assert (await storage.jobs.get("task", job.id)).deleted_at is None
    before = await storage.overview()
    await storage.deletions.job("task", job.id, force=True, now=LATER)
    for call in (
        storage.jobs.get("task", job.id),
        storage.jobs.stop("task", job.id, now=LATER),
        storage.deletions.job("task", job.id, force=True, now=LATER),
        storage.deletions.execution("task", job.id, second.id, force=True, now=LATER),
    ):
        with pytest.raises(NotFound):
            await call
    assert (await storage.overview()).jobs == before.jobs - 1
    assert (await storage.tasks.get("task")).jobs_count == 1
    assert [one.id for one in (await storage.jobs.of_task("task", PageRequest())).items] == [
        other.job_id
    ]
    for one in (second, late):
        assert (await storage.executions.get(one.id)).reason is Reason.STOPPED
    stopping = await storage.executions.get(active.id)
    assert stopping.stop_reason is Reason.STOPPED
    hidden = await storage.deletions.hidden([stopping, await storage.executions.get(other.id)])
    assert hidden == {active.id}
    # No retry follows, no tick, and nothing that was decided before.
    retry = make_execution(job, attempt=1, retry_of=active.id)
    _, stored = await finish(storage, stopping, FAILED, expected_stop=Reason.STOPPED, retry=retry)
    assert stored is None
    with pytest.raises(CompareFailed):
        await storage.jobs.retry(job, make_execution(job), now=LATER, beside=True)
    # The key is free.
    again = make_job()
    answer = await storage.jobs.submit(again, make_execution(again), idempotency=key)
    assert not answer.repeated
    await remove_all(storage)
    with pytest.raises(NotFound):
        await storage.executions.get(active.id)
    assert (await storage.overview()).jobs == 2
    await told(storage, EventType.JOB_DELETED, 1)


async def test_the_schedule_of_a_deleted_job_ends(storage: Storage) -> None:
    job = await cron_job(storage)
    paused = await cron_job(storage)
    await storage.jobs.reschedule(paused, paused_at=NOW, next_run_at=None, now=NOW)
    for one in (job, paused):
        await storage.deletions.job("task", one.id, force=False, now=LATER)
    assert await storage.jobs.due(NOW + 1e6, 10) == []
    with pytest.raises(CompareFailed):
        await storage.jobs.tick(job, make_execution(job), next_run_at=NOW + 60, now=NOW)
    with pytest.raises(CompareFailed):
        await storage.jobs.reschedule(paused, paused_at=None, next_run_at=NOW, now=NOW)
    # With its last job, the task is gone.
    with pytest.raises(NotFound):
        await storage.tasks.get("task")
    assert (await storage.tasks.search("task", PageRequest())).items == []
    assert (await storage.tasks.page(PageRequest())).items == []
    await storage.clean_up(NOW + 1e6, 10)
    await remove_all(storage)
    overview = await storage.overview()
    assert (overview.jobs, overview.scheduled) == (0, 0)


async def test_a_task_is_hidden_and_its_name_used_again(storage: Storage) -> None:
    first, second = await done(storage), await done(storage)
    await cron_job(storage)
    enqueued = await submit(storage)
    elsewhere = await submit(storage, "elsewhere")
    with pytest.raises(NotFinal):
        await storage.deletions.task("task", force=False, now=LATER)
    assert (await storage.tasks.get("task")).jobs_count == 4
    await storage.deletions.task("task", force=True, now=LATER)
    for call in (
        storage.tasks.get("task"),
        storage.jobs.of_task("task", PageRequest()),
        storage.jobs.get("task", first.job_id),
        storage.deletions.task("task", force=True, now=LATER),
    ):
        with pytest.raises(NotFound):
            await call
    assert (await storage.executions.get(enqueued.id)).reason is Reason.STOPPED
    assert await storage.deletions.hidden([first, second, elsewhere]) == {first.id, second.id}
    new = await submit(storage)
    assert (await storage.tasks.get("task")).jobs_count == 1
    assert (await storage.overview()).tasks == 2
    # What is still to be removed is nothing of the new task.
    await storage.executions.stop(new.id, reason=Reason.STOPPED, now=LATER)
    await storage.deletions.task("task", force=False, now=LATER)
    await remove_all(storage)
    for one in (first, second, enqueued, new):
        with pytest.raises(NotFound):
            await storage.executions.get(one.id)
    assert (await storage.overview()).jobs == 1
    await told(storage, EventType.TASK_DELETED, 2)


async def test_what_is_being_stopped_is_in_no_ones_way(storage: Storage) -> None:
    """A job that was deleted with force does not keep its task from being deleted without."""
    await submit(storage)
    active = await running(storage)
    await done(storage)
    await storage.deletions.job("task", active.job_id, force=True, now=LATER)
    await storage.deletions.task("task", force=False, now=LATER)
    with pytest.raises(NotFound):
        await storage.tasks.get("task")


async def test_pending_notifications_are_delivered_first(storage: Storage) -> None:
    _, execution = await submit_telling(storage)
    active = await running(storage)
    await finish(storage, active)
    await storage.deletions.task("task", force=False, now=LATER)
    assert await storage.deletions.removable(10, without=()) == []
    assert await storage.deletions.remove_jobs(10) == 0
    while claimed := await storage.outbox.claim(
        now=LATER, claim_seconds=9, limit=10, per_receiver=10, busy={}
    ):
        for one in claimed:
            assert one.execution_id == execution.id
            await storage.outbox.attempted(one.id, one.claim, Attempt(LATER, 0.1), retry_at=None)
    await remove_all(storage)
    with pytest.raises(NotFound):
        await storage.executions.get(execution.id)


async def test_the_id_of_a_deleted_job_is_used_again(storage: Storage) -> None:
    old = await done(storage)
    await done(storage, "elsewhere")
    await storage.deletions.job("task", old.job_id, force=False, now=LATER)
    for task_id, count in (("task", 1), ("other", 2)):
        job = make_job(task_id, id=old.job_id, created_at=LATER, modified_at=LATER)
        stored = await storage.jobs.submit(job, make_execution(job), replace=True)
        assert stored.execution is not None
        assert stored.job == await storage.jobs.get(task_id, job.id)
        assert (stored.job.task_id, stored.job.created_at) == (task_id, LATER)
        assert await total(storage, job.id) == (1, 1)
        assert (await storage.tasks.get(task_id)).jobs_count == 1
        last = await storage.executions.last_of_job(job.id)
        assert last == stored.execution
        assert (await storage.overview()).jobs == 2
        if count == 2:
            break
        await storage.deletions.job(task_id, job.id, force=True, now=LATER)
    await remove_all(storage)
    with pytest.raises(NotFound):
        await storage.executions.get(old.id)
    assert await total(storage, old.job_id) == (1, 1)
    await storage.clean_up(NOW + 1e6, 10)
    assert (await storage.jobs.get("other", old.job_id)).deleted_at is None


@pytest.mark.parametrize("kind", ["execution", "job", "task"])
async def test_one_of_many_deletes(place: Place, kind: str) -> None:
    storages = [place.storage()]
    if not isinstance(place, SqlitePlace):
        storages += [place.storage() for _ in range(2)]
    for one in storages:
        await one.open()
    try:
        execution = await done(storages[0])
        keep = await done(storages[0], "keep")

        def delete(storage: Storage) -> Awaitable[object]:
            deletions = storage.deletions
            if kind == "execution":
                ids = ("task", execution.job_id, execution.id)
                return deletions.execution(*ids, force=False, now=LATER)
            if kind == "job":
                return deletions.job("task", execution.job_id, force=False, now=LATER)
            return deletions.task("task", force=False, now=LATER)

        won, lost = await outcomes(delete(one) for one in storages for _ in range(3))
        # Of a task on MongoDB, two may each have deleted a part.
        assert len(won) == 1 or (kind == "task" and len(won) >= 1)
        assert all(isinstance(error, NotFound) for error in lost)
        if kind == "execution":
            assert await total(storages[0], execution.job_id) == (0, 0)
        await asyncio.gather(*(remove_all(one) for one in storages))
        assert await total(storages[0], keep.job_id) == (1, 1)
        assert (await storages[0].tasks.get("keep")).jobs_count == 1
    finally:
        for one in storages:
            await one.close()


async def test_deletions_race_with_runs_and_ticks(place: Place) -> None:
    """Nothing is left that cannot be removed, and no execution is accepted and forgotten."""
    storages = [place.storage()]
    if not isinstance(place, SqlitePlace):
        storages += [place.storage() for _ in range(2)]
    for one in storages:
        await one.open()
    first = storages[0]
    try:
        for n in range(6):
            job = make_job("races", next_run_at=NOW)
            await first.jobs.submit(job, None)
            calls: list[Awaitable[object]] = []
            for one in storages:
                calls += [
                    one.jobs.tick(
                        job, make_execution(job, tick=NOW), next_run_at=NOW + 60, now=NOW
                    ),
                    one.jobs.retry(job, make_execution(job), now=NOW, beside=True),
                    one.jobs.stop("races", job.id, now=NOW),
                    one.jobs.submit(
                        dataclasses.replace(job, queue_job_id=str(n)), None, replace=True
                    ),
                    one.deletions.job("races", job.id, force=n % 2 == 0, now=LATER),
                ]
            _, failed = await outcomes(calls)
            kinds = (CompareFailed, NotFound, NotFinal)
            assert all(isinstance(error, kinds) for error in failed), failed
        while (active := await claim(first)) is not None:
            await finish(first, active)
        with contextlib.suppress(NotFound):
            await first.deletions.task("races", force=True, now=LATER)
        await remove_all(first)
        overview = await first.overview()
        assert (overview.jobs, overview.queued, overview.active) == (0, 0, 0)

        async def is_gone() -> bool:
            try:
                await first.tasks.get("races")
            except NotFound:
                return True
            return False

        # Where it was counted while it was deleted, the sweep counts again.
        await eventually(is_gone, "the end of the task")
    finally:
        for one in storages:
            await one.close()
