"""What every storage promises of hosts, of queues without a farm, and of what is old."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fastlane.errors import CompareFailed, HostDrained, NotFound
from fastlane.model import (
    Attempt,
    Definition,
    DeliveryState,
    Execution,
    HostRecord,
    LogRecord,
    Schedule,
    Status,
    Stream,
)
from fastlane.notifications.registry import subscriptions_of
from fastlane.storage.base import IdempotencyKey, PageRequest, Storage
from tests.contracts.test_storage import (
    DONE,
    FARM,
    NOW,
    Place,
    claim,
    finish,
    make_execution,
    make_job,
    place,
    running,
    storage,
    submit,
)

__all__ = ["place", "storage"]


# -- hosts ------------------------------------------------------------------------------------


async def test_nothing_is_known_of_hosts_at_first(storage: Storage) -> None:
    assert list(await storage.hosts.all()) == []


async def test_a_breaker_and_the_black_list_leave_each_other_alone(storage: Storage) -> None:
    await storage.hosts.blacklist("a:1", blacklisted=True, now=NOW)
    assert list(await storage.hosts.all()) == [HostRecord("a:1", blacklisted=True)]
    await storage.hosts.store_breaker(HostRecord("a:1", 5, "no route \ud800", NOW + 60), now=NOW)
    (record,) = await storage.hosts.all()
    assert (record.failures, record.open_until, record.blacklisted) == (5, NOW + 60, True)
    assert record.error is not None
    assert record.error.startswith("no route ")
    await storage.hosts.blacklist("a:1", blacklisted=False, now=NOW)
    await storage.hosts.store_breaker(
        HostRecord("b:1", 1, "reset", None, blacklisted=True), now=NOW
    )
    assert [(one.host, one.failures, one.blacklisted) for one in await storage.hosts.all()] == [
        ("a:1", 5, False),
        ("b:1", 1, False),
    ]
    await storage.hosts.store_breaker(HostRecord("a:1"), now=NOW)
    assert next(one for one in await storage.hosts.all() if one.host == "a:1") == HostRecord("a:1")


async def test_hosts_outlive_a_restart(place: Place) -> None:
    first = place.storage()
    await first.open()
    await first.hosts.blacklist("unix:///a", blacklisted=True, now=NOW)
    await first.close()
    second = place.storage()
    await second.open()
    assert list(await second.hosts.all()) == [HostRecord("unix:///a", blacklisted=True)]
    await second.close()


# -- queues and farms -------------------------------------------------------------------------


async def test_the_next_in_the_queue_is_the_one_that_is_claimed(storage: Storage) -> None:
    assert await storage.executions.next_queued(FARM, now=NOW) is None
    await submit(storage, definition=Definition.parse("busy:1", "true", expires_at=NOW - 1))
    await submit(storage, farm="other")
    made = await submit(storage)
    await submit(storage)
    assert await storage.executions.next_queued(FARM, now=NOW) == made
    claimed = await storage.executions.claim(FARM, host="a", owner="one", max_running=1, now=NOW)
    assert claimed is not None
    assert claimed.id == made.id


async def test_an_execution_without_a_farm_is_given_to_another(storage: Storage) -> None:
    gone = [await submit(storage, farm=farm) for farm in ("gone", "lost", "gone")]
    await submit(storage, farm="gone", due_at=NOW + 1)
    await submit(storage)
    assert list(await storage.executions.orphaned([FARM], after=0, limit=10)) == gone
    assert list(await storage.executions.orphaned([FARM], after=0, limit=2)) == gone[:2]
    assert gone[1].position is not None
    assert list(await storage.executions.orphaned([FARM], after=gone[1].position, limit=9)) == [
        gone[2]
    ]
    assert list(await storage.executions.orphaned([FARM, "gone", "lost"], after=0, limit=9)) == []
    assert len(await storage.executions.orphaned([], after=0, limit=9)) == 4

    await storage.executions.assign_farm(gone[0].id, expected="gone", farm=FARM)

    assert await storage.executions.get(gone[0].id) == dataclasses.replace(gone[0], farm=FARM)
    claimed = await storage.executions.claim(FARM, host="a", owner="one", max_running=9, now=NOW)
    assert claimed is not None
    assert claimed.id == gone[0].id, "it has kept its place"
    for execution_id, expected in ((gone[0].id, FARM), (gone[1].id, "gone"), ("none", "gone")):
        with pytest.raises(CompareFailed):
            await storage.executions.assign_farm(execution_id, expected=expected, farm="x")


# -- retention --------------------------------------------------------------------------------


async def ended(storage: Storage, at: float, **changes: Any) -> Execution:
    """An execution of a job of its own that ended at that time."""
    job = make_job(created_at=NOW, modified_at=NOW)
    await submit(storage, job=job, **changes)
    taken = await claim(storage)
    assert taken is not None
    active = await storage.executions.started(taken.id, taken.epoch, run_id="c1", started_at=NOW)
    await storage.logs.append(
        active.id,
        active.epoch,
        [LogRecord(1, NOW, Stream.STDOUT, b"out")],
        bookmark="",
        cap=None,
    )
    final, _ = await finish(storage, active, DONE, finished_at=at)
    return final


async def test_what_is_old_goes_and_all_else_stays(storage: Storage) -> None:
    old = await ended(storage, NOW + 10)
    new = await ended(storage, NOW + 30)
    going_on = await submit(storage)
    await storage.jobs.submit(
        make_job("scheduled", schedule=Schedule(start_at=NOW + 99), next_run_at=NOW + 99), None
    )

    assert await storage.clean_up(NOW + 20, 100) == 2
    assert await storage.clean_up(NOW + 20, 100) == 0

    with pytest.raises(NotFound):
        await storage.executions.get(old.id)
    with pytest.raises(NotFound):
        await storage.jobs.get("task", old.job_id)
    assert (await storage.logs.state(old.id)).last_seq == 0
    assert list(await storage.logs.read(old.id)) == []
    assert (await storage.executions.get(new.id)) == new
    assert (await storage.executions.get(going_on.id)).status is Status.ENQUEUED
    assert [record.data for record in await storage.logs.read(new.id)] == [b"out"]
    overview = await storage.overview()
    assert (overview.tasks, overview.jobs, overview.scheduled, overview.queued) == (2, 3, 1, 1)
    assert (await storage.tasks.get("task")).jobs_count == 2
    assert (await storage.jobs.of_task("task", PageRequest())).total == 2


async def test_a_step_of_the_clean_up_is_bounded(storage: Storage) -> None:
    made = [await ended(storage, NOW + number) for number in range(5)]
    assert await storage.clean_up(NOW + 99, 2) == 4
    assert [one.id for one in made[:3] if await _is_there(storage, one)] == [made[2].id]
    while await storage.clean_up(NOW + 99, 2):
        pass
    assert (await storage.overview()).jobs == 0


async def _is_there(storage: Storage, execution: Execution) -> bool:
    try:
        await storage.executions.get(execution.id)
    except NotFound:
        return False
    return True


async def test_a_task_goes_with_its_last_job_and_may_come_again(storage: Storage) -> None:
    await ended(storage, NOW)
    assert await storage.clean_up(NOW + 2, 100) == 2
    with pytest.raises(NotFound):
        await storage.tasks.get("task")
    assert (await storage.tasks.search("task", PageRequest())).total == 0
    assert (await storage.overview()).tasks == 0
    await submit(storage)
    assert (await storage.tasks.get("task")).jobs_count == 1
    assert (await storage.tasks.search("task", PageRequest())).total == 1


async def test_a_job_that_goes_on_keeps_its_count_and_its_numbers(storage: Storage) -> None:
    job = make_job(schedule=Schedule(cron="* * * * *"), next_run_at=NOW)
    await storage.jobs.submit(job, None)
    for number in range(3):
        current = await storage.jobs.get("task", job.id)
        tick = current.next_run_at
        assert tick is not None
        await storage.jobs.tick(
            current, make_execution(job, tick=tick), next_run_at=tick + 60, now=NOW
        )
        await finish(storage, await running(storage), DONE, finished_at=NOW + 100 * number)
    assert await storage.clean_up(NOW + 150, 100) == 2
    page = await storage.executions.of_job(job.id, PageRequest())
    assert ([one.number for one in page.items], page.total) == ([3], 1)
    assert (await storage.jobs.get("task", job.id)).execution_count == 3
    assert await storage.clean_up(NOW + 999, 100) == 1
    assert await storage.executions.last_of_job(job.id) is None
    assert (await storage.executions.of_job(job.id, PageRequest())).total == 0
    current = await storage.jobs.get("task", job.id)
    again = await storage.jobs.retry(current, make_execution(job), now=NOW)
    assert again.number == 4, "it has run before, so it may be retried"


async def test_a_job_that_never_ran_goes_when_it_is_old(storage: Storage) -> None:
    job = make_job(schedule=Schedule(start_at=NOW + 9), next_run_at=NOW + 9)
    await storage.jobs.submit(job, None)
    assert await storage.clean_up(NOW + 5, 100) == 0
    await storage.jobs.stop("task", job.id, now=NOW + 6)
    assert await storage.clean_up(NOW + 6, 100) == 0
    assert await storage.clean_up(NOW + 7, 100) == 1
    with pytest.raises(NotFound):
        await storage.jobs.get("task", job.id)


async def test_an_idempotency_key_goes_with_its_job(storage: Storage) -> None:
    key = IdempotencyKey("key", "print")
    job = make_job()
    await storage.jobs.submit(job, make_execution(job), idempotency=key)
    await finish(storage, await running(storage), DONE, finished_at=NOW)
    await storage.clean_up(NOW + 2, 100)
    again = make_job()
    other = IdempotencyKey("key", "another")
    assert not (await storage.jobs.submit(again, make_execution(again), idempotency=other)).repeated


async def test_a_notification_on_its_way_keeps_its_execution(storage: Storage) -> None:
    definition = Definition.parse(
        "busy:1",
        "true",
        subscriptions=subscriptions_of({"webhooks": {"finishes": [{"url": "http://example.com"}]}}),
    )
    execution = await ended(storage, NOW, definition=definition)
    assert await storage.clean_up(NOW + 2, 100) == 0
    (delivery,) = await storage.outbox.claim(
        now=NOW + 2, claim_seconds=9, limit=1, per_receiver=1, busy={}
    )
    failed = await storage.outbox.attempted(
        delivery.id, delivery.claim, Attempt(NOW, 0.1, 500, "no"), retry_at=None
    )
    assert failed.state is DeliveryState.FAILED
    assert await storage.clean_up(NOW + 2, 100) == 2
    assert list(await storage.outbox.of_executions([execution.id])) == []
    overview = await storage.overview()
    assert (sum(overview.pending.values()), overview.undelivered) == (0, 0)


async def test_nothing_is_claimed_for_a_host_that_is_black_listed(storage: Storage) -> None:
    execution = await submit(storage)
    await storage.hosts.store_breaker(HostRecord("host:1", 1, "reset"), now=NOW)
    await storage.hosts.blacklist("host:1", blacklisted=True, now=NOW)
    with pytest.raises(HostDrained):
        await claim(storage)
    assert (await storage.executions.get(execution.id)) == execution
    other = await storage.executions.claim(FARM, host="host:2", owner="one", max_running=1, now=NOW)
    assert other is not None
    await submit(storage)
    await storage.hosts.blacklist("host:1", blacklisted=False, now=NOW)
    # The slot that the refused claim had taken is free again.
    assert await claim(storage, max_running=2) is not None
