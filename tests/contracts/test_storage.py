"""One suite over every storage: what ``fastlane/storage/base.py`` promises, a storage keeps.

Another storage is one more line in :data:`PLACES`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastlane.errors import CompareFailed, NotFound, Rejected, StorageUnavailable
from fastlane.model import (
    ACTIVE,
    Backoff,
    Definition,
    Execution,
    Job,
    LogCap,
    LogRecord,
    LogState,
    Outcome,
    Overlap,
    PullPolicy,
    Reason,
    Resources,
    Schedule,
    Status,
    Stream,
    Trigger,
)
from fastlane.notifications.registry import subscriptions_of
from fastlane.storage.base import (
    IdempotencyKey,
    Overview,
    Page,
    PageRequest,
    Storage,
)
from fastlane.storage.packing import LOG_CHUNK_BYTES, dropped_note
from fastlane.storage.sqlite import SqliteStorage
from fastlane.storage.values import ACTIVE_RUN_FIELDS, ActiveRun, FarmQueue
from tests.services import MongoServer

T = TypeVar("T")

NOW = 1_700_000_000.0
FARM = "default"
DONE = Outcome(Status.DONE, Reason.EXIT_CODE, exit_code=0)
FAILED = Outcome(Status.FAILED, Reason.EXIT_CODE, exit_code=1)


# -- where the storages live ------------------------------------------------------------------


class Place(ABC):
    """Where a storage keeps its data: every storage of one place sees the same records."""

    @abstractmethod
    def storage(self) -> Storage:
        """A storage that has not been opened yet."""


class SqlitePlace(Place):
    def __init__(self, request: pytest.FixtureRequest) -> None:
        tmp_path: Path = request.getfixturevalue("tmp_path")
        self._data_dir = tmp_path / "data"

    def storage(self) -> Storage:
        return SqliteStorage(self._data_dir)


class ClusterPlace(Place):
    def __init__(self, request: pytest.FixtureRequest) -> None:
        from pymongo import MongoClient

        mongo: MongoServer = request.getfixturevalue("mongo_server")
        self._mongodb_url = mongo.url
        with MongoClient[dict[str, Any]](mongo.url) as client:
            database = client.get_default_database()
            # Emptied, not dropped: its indexes take longer to make than a test runs.
            for name in database.list_collection_names():
                database[name].delete_many({})

    def storage(self) -> Storage:
        from fastlane.storage.mongo import ClusterStorage

        return ClusterStorage(self._mongodb_url)


PLACES = [
    pytest.param(SqlitePlace, id="sqlite"),
    pytest.param(ClusterPlace, id="cluster", marks=pytest.mark.cluster),
]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Place:
    make: Callable[[pytest.FixtureRequest], Place] = request.param
    return make(request)


@pytest.fixture
async def storage(place: Place) -> AsyncIterator[Storage]:
    storage = place.storage()
    await storage.open()
    yield storage
    await storage.close()


# -- makers -----------------------------------------------------------------------------------


def new_id() -> str:
    return str(uuid.uuid4())


def make_job(task_id: str = "task", **changes: Any) -> Job:
    fields: dict[str, Any] = {
        "task_id": task_id,
        "id": new_id(),
        "definition": Definition.parse("busy:latest", ("true",)),
        "schedule": Schedule(),
        "created_at": NOW,
        "modified_at": NOW,
        "queue_job_id": new_id(),
    }
    return Job(**fields | changes)


def make_execution(job: Job, **changes: Any) -> Execution:
    fields: dict[str, Any] = {
        "id": new_id(),
        "task_id": job.task_id,
        "job_id": job.id,
        "definition": job.definition,
        "farm": FARM,
        "created_at": NOW,
        "queue_job_id": job.queue_job_id,
        "generation": job.generation,
    }
    return Execution(**fields | changes)


async def submit(
    storage: Storage, task_id: str = "task", *, job: Job | None = None, **changes: Any
) -> Execution:
    """Submit a job and its first execution (which gets *changes*)."""
    job = job or make_job(task_id)
    submitted = await storage.jobs.submit(job, make_execution(job, **changes))
    assert submitted.execution is not None
    return submitted.execution


async def claim(
    storage: Storage,
    *,
    farm: str = FARM,
    owner: str = "one",
    max_running: int = 100,
    now: float = NOW,
) -> Execution | None:
    return await storage.executions.claim(
        farm, host="host:1", owner=owner, max_running=max_running, now=now
    )


async def claimed(storage: Storage, **options: Any) -> Execution:
    execution = await claim(storage, **options)
    assert execution is not None
    return execution


async def running(storage: Storage, **options: Any) -> Execution:
    """The first in the queue, started."""
    execution = await claimed(storage, **options)
    return await storage.executions.started(
        execution.id, execution.epoch, run_id="c1", started_at=NOW + 1
    )


async def finish(
    storage: Storage, execution: Execution, outcome: Outcome = DONE, **changes: Any
) -> tuple[Execution, Execution | None]:
    options: dict[str, Any] = {"expected_stop": None, "retry": None, "finished_at": NOW + 2}
    return await storage.executions.finish(
        execution.id, execution.epoch, outcome, **options | changes
    )


async def outcomes(calls: Iterable[Awaitable[T]]) -> tuple[list[T], list[BaseException]]:
    """Run *calls* at once: what they returned, and what they raised."""
    ended = await asyncio.gather(*calls, return_exceptions=True)
    return (
        [one for one in ended if not isinstance(one, BaseException)],
        [one for one in ended if isinstance(one, BaseException)],
    )


async def every_page(
    listing: Callable[[PageRequest], Awaitable[Page[T]]], size: int
) -> AsyncIterator[Page[T]]:
    page = await listing(PageRequest(size=size))
    yield page
    while page.next_cursor is not None:
        page = await listing(PageRequest(size=size, after=page.next_cursor))
        yield page


# -- opening and closing ----------------------------------------------------------------------


async def test_what_was_stored_is_there_after_a_restart(place: Place) -> None:
    first = place.storage()
    await first.open()
    execution = await submit(first)
    await first.close()

    second = place.storage()
    await second.open()
    try:
        assert await second.executions.get(execution.id) == execution
        assert (await second.jobs.get("task", execution.job_id)).execution_count == 1
        assert await second.overview() == Overview(
            tasks=1, jobs=1, queued=1, delayed=0, active=0, scheduled=0
        )
        later = await submit(second)
        assert later.position is not None
        assert execution.position is not None
        assert later.position > execution.position
        assert (await claimed(second)).id == execution.id
    finally:
        await second.close()


async def test_close_may_be_repeated_and_ends_what_is_under_way(place: Place) -> None:
    storage = place.storage()
    await storage.open()
    under_way = [asyncio.create_task(submit(storage)) for _ in range(20)]
    await asyncio.sleep(0)
    await storage.close()
    await storage.close()
    stored, refused = await outcomes(under_way)
    assert all(isinstance(error, StorageUnavailable) for error in refused)

    again = place.storage()
    await again.open()
    try:
        assert (await again.overview()).queued == len(stored)
    finally:
        await again.close()


async def test_close_before_open_does_nothing(place: Place) -> None:
    await place.storage().close()


async def test_a_healthy_storage_says_so(storage: Storage) -> None:
    assert await storage.check() == {"mongo": None, "redis": None}


# -- submitting -------------------------------------------------------------------------------


async def test_submit_stores_task_job_and_execution(storage: Storage) -> None:
    job = make_job(
        request_ip="10.0.0.1",
        definition=Definition.parse(
            image="registry:5000/a/b@sha256:" + "0" * 64,
            command="echo 'a b' ü",
            envs={"A": "1", "NUL": "\0"},
            custom={"any": ["thing", {"ü": None, "n": 2**70, "lone": "\ud800"}]},
            retries=3,
            backoff=Backoff(min_ms=1.5, factor=1.1, max_ms=7),
            timeout_seconds=0.5,
            expires_at=NOW + 60.25,
            overlap=Overlap.QUEUE,
            subscriptions=subscriptions_of(
                {
                    "notify": {"fails": ["a@example.com"], "everyAttempt": True},
                    "webhooks": {
                        "finishes": [{"url": "http://example.com", "headers": {"X": "1"}}]
                    },
                }
            ),
            resources=Resources(cpus=0.5, memory_bytes=2**40, pids=7, disk_bytes=2**41),
            pull_policy=PullPolicy.NEVER,
            rerun_when_lost=True,
            dns_entries={"db": "10.0.0.2"},
        ),
    )
    execution = make_execution(job, attempt=0, tick=NOW - 0.125, late_seconds=0.1)

    submitted = await storage.jobs.submit(job, execution)

    assert not submitted.repeated
    assert submitted.job == dataclasses.replace(job, execution_count=1)
    assert submitted.execution is not None
    position = submitted.execution.position
    assert position is not None
    assert submitted.execution == dataclasses.replace(
        execution, number=1, position=position, queued_at=execution.created_at
    )
    assert await storage.jobs.get(job.task_id, job.id) == submitted.job
    assert await storage.executions.get(execution.id) == submitted.execution
    task = await storage.tasks.get(job.task_id)
    assert (task.created_at, task.modified_at, task.jobs_count) == (NOW, NOW, 1)


async def test_submit_of_a_scheduled_job_stores_no_execution(storage: Storage) -> None:
    job = make_job(schedule=Schedule(cron="* * * * *", timezone="Europe/Berlin"), next_run_at=NOW)
    submitted = await storage.jobs.submit(job, None)
    assert submitted.job == job
    assert submitted.execution is None
    assert await storage.executions.last_of_job(job.id) is None
    assert await storage.jobs.get(job.task_id, job.id) == job


async def test_a_second_job_touches_the_task(storage: Storage) -> None:
    await submit(storage)
    await storage.jobs.submit(make_job(created_at=NOW + 5, modified_at=NOW + 5), None)
    task = await storage.tasks.get("task")
    assert (task.created_at, task.modified_at, task.jobs_count) == (NOW, NOW + 5, 2)


async def test_concurrent_creators_of_a_task_make_one(storage: Storage) -> None:
    await asyncio.gather(*[submit(storage) for _ in range(20)])
    assert (await storage.tasks.get("task")).jobs_count == 20
    assert (await storage.tasks.page(PageRequest())).total == 1
    assert (await storage.jobs.of_task("task", PageRequest())).total == 20


async def test_the_same_job_is_not_stored_twice(storage: Storage) -> None:
    execution = await submit(storage)
    job = await storage.jobs.get("task", execution.job_id)
    with pytest.raises(CompareFailed):
        await storage.jobs.submit(job, make_execution(job))
    assert (await storage.tasks.get("task")).jobs_count == 1
    assert (await storage.executions.of_job(job.id, PageRequest())).total == 1


async def test_replace_gives_the_next_generation(storage: Storage) -> None:
    job = make_job()
    first = await submit(storage, job=job)
    await storage.jobs.stop("task", job.id, now=NOW + 1)
    new = make_job(
        id=job.id,
        created_at=NOW + 9,
        modified_at=NOW + 9,
        definition=Definition.parse("other:1", "false"),
        schedule=Schedule(cron="0 * * * *"),
        next_run_at=NOW + 100,
    )
    second = make_execution(new)

    submitted = await storage.jobs.submit(new, second, replace=True)

    assert submitted.job == dataclasses.replace(
        new, created_at=NOW, generation=3, execution_count=2, stopped_at=None
    )
    assert submitted.execution is not None
    assert submitted.execution.generation == 3
    assert submitted.execution.number == 2
    assert await storage.jobs.get("task", job.id) == submitted.job
    assert (await storage.executions.get(first.id)).definition == job.definition
    assert (await storage.tasks.get("task")).jobs_count == 1


async def test_replace_creates_a_job_that_is_not_there(storage: Storage) -> None:
    job = make_job()
    submitted = await storage.jobs.submit(job, make_execution(job), replace=True)
    assert submitted.job.generation == 1
    assert (await storage.tasks.get("task")).jobs_count == 1


async def test_replace_refuses_the_job_of_another_task(storage: Storage) -> None:
    job = make_job("mine")
    await storage.jobs.submit(job, None)
    with pytest.raises(Rejected):
        await storage.jobs.submit(dataclasses.replace(job, task_id="theirs"), None, replace=True)
    with pytest.raises(NotFound):
        await storage.tasks.get("theirs")
    assert (await storage.jobs.get("mine", job.id)).generation == 1


@pytest.mark.parametrize(("attempt", "lost_reruns"), [(1, 0), (0, 1)], ids=["retry", "rerun"])
async def test_replace_ends_retries_and_nothing_else(
    storage: Storage, attempt: int, lost_reruns: int
) -> None:
    job = make_job()
    await submit(storage, job=job)
    active = await running(storage)
    queued_first = await storage.jobs.retry(
        await storage.jobs.get("task", job.id), make_execution(job), now=NOW
    )
    other = await submit(storage, attempt=1, due_at=NOW + 100)
    _, retry = await finish(
        storage,
        active,
        Outcome(Status.FAILED, Reason.STOPPED),
        expected_stop=Reason.STOPPED,
        retry=make_execution(job, attempt=attempt, lost_reruns=lost_reruns, due_at=NOW + 50),
    )
    assert retry is not None
    assert (await storage.executions.get(retry.id)).lost_reruns == lost_reruns
    replaced = dataclasses.replace(job, modified_at=NOW + 7)

    await storage.jobs.submit(replaced, None, replace=True)

    ended = await storage.executions.get(retry.id)
    assert (ended.status, ended.reason) == (Status.FAILED, Reason.STOPPED)
    assert ended.finished_at == NOW + 7
    assert (await storage.executions.get(queued_first.id)).status is Status.ENQUEUED
    assert (await storage.executions.get(other.id)).status is Status.ENQUEUED


def times(execution: Execution) -> list[float]:
    """What is known of when it was made, started and ended, in this order."""
    known = (execution.created_at, execution.started_at, execution.finished_at)
    return [time for time in known if time is not None]


async def test_times_never_run_backwards(storage: Storage) -> None:
    """Instances whose clocks differ make, start and end the same executions."""
    fast, slow = NOW + 60, NOW - 60
    expiring = Definition.parse("busy:latest", ("true",), expires_at=slow)
    stopped = await submit(storage, created_at=fast)
    await storage.executions.stop(stopped.id, reason=Reason.STOPPED, now=slow)
    expired = await submit(storage, created_at=fast, definition=expiring)
    await storage.executions.expire(slow, 10)

    job = make_job()
    of_stopped_job = await submit(storage, job=job, created_at=fast)
    await storage.jobs.stop(job.task_id, job.id, now=slow)

    released = await submit(storage, created_at=fast)
    taken = await claim(storage)
    assert taken is not None
    await storage.executions.stop(taken.id, reason=Reason.STOPPED, now=slow)
    await storage.executions.release(taken.id, taken.epoch, now=NOW)

    finished = await submit(storage, created_at=fast)
    taken = await claim(storage)
    assert taken is not None
    await storage.executions.started(taken.id, taken.epoch, run_id="c1", started_at=slow)
    await finish(storage, taken, finished_at=slow + 1)

    for made in (stopped, expired, of_stopped_job, released, finished):
        ended = await storage.executions.get(made.id)
        assert ended.final
        assert times(ended) == sorted(times(ended))


async def test_an_idempotency_key_returns_what_was_stored_first(storage: Storage) -> None:
    key = IdempotencyKey("key", "print")
    job = make_job()
    first = await storage.jobs.submit(job, make_execution(job), idempotency=key)
    again = make_job()
    second = await storage.jobs.submit(again, make_execution(again), idempotency=key)
    assert not first.repeated
    assert second == dataclasses.replace(first, repeated=True)
    assert (await storage.overview()).jobs == 1

    with pytest.raises(Rejected):
        await storage.jobs.submit(make_job(), None, idempotency=IdempotencyKey("key", "other"))
    elsewhere = await storage.jobs.submit(make_job("elsewhere"), None, idempotency=key)
    assert not elsewhere.repeated


async def test_an_idempotency_key_of_a_scheduled_job(storage: Storage) -> None:
    key = IdempotencyKey("key", "print")
    job = make_job(next_run_at=NOW + 5, schedule=Schedule(start_at=NOW + 5))
    await storage.jobs.submit(job, None, idempotency=key)
    again = await storage.jobs.submit(make_job(), None, idempotency=key)
    assert again.repeated
    assert again.execution is None
    assert again.job == job


async def test_an_idempotency_key_used_at_once_makes_one_job(storage: Storage) -> None:
    jobs = [make_job() for _ in range(20)]
    key = IdempotencyKey("key", "print")
    answers = await asyncio.gather(
        *[storage.jobs.submit(job, make_execution(job), idempotency=key) for job in jobs]
    )
    assert len({answer.job.id for answer in answers}) == 1
    assert [answer.repeated for answer in answers].count(False) == 1
    assert (await storage.overview()).queued == 1


async def test_a_delayed_execution_has_no_position(storage: Storage) -> None:
    assert (await submit(storage, due_at=NOW + 10)).position is None
    assert await claim(storage) is None


# -- ticks ------------------------------------------------------------------------------------


async def cron_job(storage: Storage, **changes: Any) -> Job:
    job = make_job(schedule=Schedule(cron="* * * * *"), next_run_at=NOW, **changes)
    return (await storage.jobs.submit(job, None)).job


async def test_tick_stores_the_execution_and_moves_on(storage: Storage) -> None:
    job = await cron_job(storage)
    execution = await storage.jobs.tick(
        job, make_execution(job, tick=NOW), next_run_at=NOW + 60, now=NOW + 1
    )
    assert execution is not None
    assert execution.number == 1
    assert execution.position is not None
    assert await storage.executions.get(execution.id) == execution
    after = await storage.jobs.get("task", job.id)
    assert after.next_run_at == NOW + 60
    assert after.execution_count == 1
    assert after.generation == job.generation


async def test_a_skipped_tick_and_the_last_tick(storage: Storage) -> None:
    job = await cron_job(storage)
    assert await storage.jobs.tick(job, None, next_run_at=NOW + 60, now=NOW) is None
    job = await storage.jobs.get("task", job.id)
    assert (job.next_run_at, job.execution_count) == (NOW + 60, 0)
    await storage.jobs.tick(job, make_execution(job, tick=NOW + 60), next_run_at=None, now=NOW + 60)
    assert not (await storage.jobs.get("task", job.id)).scheduled
    assert (await storage.overview()).scheduled == 0


async def test_one_of_many_takes_a_tick(storage: Storage) -> None:
    job = await cron_job(storage)
    taken, refused = await outcomes(
        storage.jobs.tick(job, make_execution(job, tick=NOW), next_run_at=NOW + 60, now=NOW)
        for _ in range(10)
    )
    assert len(taken) == 1
    assert {type(error) for error in refused} == {CompareFailed}
    assert (await storage.executions.of_job(job.id, PageRequest())).total == 1


async def test_a_tick_never_has_two_executions(storage: Storage) -> None:
    job = await cron_job(storage)
    await storage.jobs.tick(job, make_execution(job, tick=NOW), next_run_at=NOW + 60, now=NOW)
    back = (await storage.jobs.submit(job, None, replace=True)).job
    assert back.next_run_at == NOW
    again = await storage.jobs.tick(
        back, make_execution(back, tick=NOW), next_run_at=NOW + 60, now=NOW
    )
    assert again is None
    assert (await storage.executions.of_job(job.id, PageRequest())).total == 1
    assert (await storage.jobs.get("task", job.id)).next_run_at == NOW + 60


async def test_a_retry_may_stand_for_the_same_tick(storage: Storage) -> None:
    job = await cron_job(storage)
    await storage.jobs.tick(job, make_execution(job, tick=NOW), next_run_at=None, now=NOW)
    retry = make_execution(job, tick=NOW, attempt=1)
    assert (await finish(storage, await running(storage), FAILED, retry=retry))[1] is not None


async def test_the_tick_of_a_stopped_or_replaced_job_is_refused(storage: Storage) -> None:
    stopped = await cron_job(storage)
    await storage.jobs.stop("task", stopped.id, now=NOW)
    replaced = await cron_job(storage)
    await storage.jobs.submit(replaced, None, replace=True)
    for job in (stopped, replaced, make_job(next_run_at=NOW)):
        with pytest.raises(CompareFailed):
            await storage.jobs.tick(job, make_execution(job), next_run_at=NOW + 60, now=NOW)
        assert (await storage.executions.of_job(job.id, PageRequest())).total == 0


async def test_ticks_that_wait_for_each_other_run_one_by_one(storage: Storage) -> None:
    job = await cron_job(storage)
    runs: list[Execution] = []
    for number in range(4):
        tick = NOW + 60 * number
        execution = await storage.jobs.tick(
            await storage.jobs.get("task", job.id),
            make_execution(job, tick=tick, waits_for=runs[-1].id if runs else None),
            next_run_at=tick + 60,
            now=tick,
        )
        assert execution is not None
        runs.append(execution)
    assert [run.position is None for run in runs] == [False, True, True, True]
    assert (await storage.overview()).delayed == 3

    first = await running(storage)
    assert first.id == runs[0].id
    assert await claim(storage) is None
    # What waited for one that never ran waits on for the one that runs.
    await storage.executions.stop(runs[1].id, reason=Reason.STOPPED, now=NOW)
    assert await claim(storage) is None
    await finish(storage, first)
    third = await running(storage)
    assert third.id == runs[2].id
    assert third.waits_for is None
    await finish(storage, third)
    assert (await claimed(storage)).id == runs[3].id


async def test_who_waits_for_a_final_execution_is_queued_at_once(storage: Storage) -> None:
    job = await cron_job(storage)
    first = await storage.jobs.tick(job, make_execution(job), next_run_at=NOW + 60, now=NOW)
    assert first is not None
    await finish(storage, await running(storage))
    late = await storage.jobs.tick(
        await storage.jobs.get("task", job.id),
        make_execution(job, waits_for=first.id),
        next_run_at=NOW + 120,
        now=NOW + 60,
    )
    assert late is not None
    await storage.executions.queue_due(NOW + 60, 10)
    assert (await claimed(storage)).id == late.id


# -- stopping a job ---------------------------------------------------------------------------


async def test_stop_job_ends_what_is_enqueued(storage: Storage) -> None:
    execution = await submit(storage)
    job = await storage.jobs.stop("task", execution.job_id, now=NOW + 3)
    assert (job.generation, job.stopped_at, job.next_run_at) == (2, NOW + 3, None)
    ended = await storage.executions.get(execution.id)
    assert (ended.status, ended.reason) == (Status.FAILED, Reason.STOPPED)
    assert ended.finished_at == NOW + 3
    assert await claim(storage) is None
    assert await storage.jobs.get("task", job.id) == job


async def test_stop_job_asks_an_active_execution_to_end(storage: Storage) -> None:
    job = await cron_job(storage)
    await storage.jobs.tick(job, make_execution(job), next_run_at=NOW + 60, now=NOW)
    active = await running(storage)

    first = await storage.jobs.stop("task", job.id, now=NOW + 3)
    again = await storage.jobs.stop("task", job.id, now=NOW + 9)

    assert again == first
    assert not first.scheduled
    stopping = await storage.executions.get(active.id)
    assert stopping.status is Status.RUNNING
    assert (stopping.stop_reason, stopping.stop_requested_at) == (Reason.STOPPED, NOW + 3)
    retry = make_execution(job, attempt=1)
    ended, stored = await finish(storage, active, FAILED, expected_stop=Reason.STOPPED, retry=retry)
    assert ended.final
    assert stored is None
    with pytest.raises(NotFound):
        await storage.executions.get(retry.id)


async def test_stop_job_ends_delayed_and_waiting_ones(storage: Storage) -> None:
    job = make_job()
    first = await submit(storage, job=job)
    active = await running(storage)
    _, retry = await finish(
        storage, active, FAILED, retry=make_execution(job, attempt=1, due_at=NOW + 50)
    )
    await storage.jobs.submit(job, make_execution(job, waits_for=first.id), replace=True)
    assert retry is not None
    await storage.jobs.stop("task", job.id, now=NOW)
    assert (await storage.executions.get(retry.id)).reason is Reason.STOPPED
    assert (await storage.overview()).delayed == 0
    assert (await storage.overview()).queued == 0
    assert await storage.executions.queue_due(NOW + 100, 10) == 0


async def test_stop_job_of_what_is_not_there(storage: Storage) -> None:
    execution = await submit(storage)
    with pytest.raises(NotFound):
        await storage.jobs.stop("task", new_id(), now=NOW)
    with pytest.raises(NotFound):
        await storage.jobs.stop("other", execution.job_id, now=NOW)
    assert (await storage.executions.get(execution.id)).status is Status.ENQUEUED


@pytest.mark.parametrize("first", ["stop", "finish"])
async def test_stop_racing_with_finish_leaves_it_stopped(storage: Storage, first: str) -> None:
    """REGRESSIONS 16. Either may win; whichever does, no retry is left to run."""
    for _ in range(10):
        job = make_job()
        await submit(storage, job=job)
        active = await running(storage)
        retry = make_execution(job, attempt=1)
        stopping = storage.jobs.stop("task", job.id, now=NOW)
        finishing = finish(storage, active, FAILED, retry=retry)
        calls = (stopping, finishing) if first == "stop" else (finishing, stopping)
        _, errors = await outcomes(calls)
        current = await storage.executions.get(active.id)
        # The stop is never refused, the end only because of it.
        assert [type(error) for error in errors] == [CompareFailed] * (not current.final)
        assert current.stop_reason is (None if current.final else Reason.STOPPED)
        if not current.final:
            _, followed = await finish(
                storage, active, FAILED, expected_stop=Reason.STOPPED, retry=retry
            )
            assert followed is None
        assert (await storage.jobs.get("task", job.id)).stopped_at == NOW
        assert await claim(storage) is None
        found = (await storage.executions.of_job(job.id, PageRequest())).items
        assert active.id in [execution.id for execution in found]
        assert all(execution.final for execution in found)


# -- retrying a job ---------------------------------------------------------------------------


async def test_retry_job_queues_a_new_run(storage: Storage) -> None:
    job = make_job()
    await submit(storage, job=job)
    await finish(storage, await running(storage))
    stopped = await storage.jobs.stop("task", job.id, now=NOW)
    execution = make_execution(stopped, queue_job_id=new_id())

    stored = await storage.jobs.retry(stopped, execution, now=NOW + 5)

    assert (stored.number, stored.waits_for) == (2, None)
    assert stored.position is not None
    after = await storage.jobs.get("task", job.id)
    assert (after.generation, after.stopped_at) == (stopped.generation, None)
    assert (after.queue_job_id, after.execution_count) == (execution.queue_job_id, 2)
    assert await storage.executions.last_of_job(job.id) == stored


async def test_retry_job_waits_for_a_running_one(storage: Storage) -> None:
    job = make_job()
    await submit(storage, job=job)
    active = await running(storage)
    stored = await storage.jobs.retry(job, make_execution(job), now=NOW + 5)
    assert stored.waits_for == active.id
    assert stored.position is None
    stopping = await storage.executions.get(active.id)
    assert stopping.stop_reason is Reason.STOPPED
    assert await claim(storage) is None
    await finish(storage, active, FAILED, expected_stop=Reason.STOPPED)
    assert (await claimed(storage)).id == stored.id

    # And again, with the new one only enqueued: it ends, the newest takes its place.
    third = await storage.jobs.retry(job, make_execution(job), now=NOW + 6)
    fourth = await storage.jobs.retry(job, make_execution(job), now=NOW + 7)
    assert (await storage.executions.get(third.id)).reason is Reason.STOPPED
    assert fourth.waits_for == stored.id


async def test_retry_job_is_refused_before_the_first_run(storage: Storage) -> None:
    job = make_job()
    execution = await submit(storage, job=job)
    with pytest.raises(Rejected):
        await storage.jobs.retry(job, make_execution(job), now=NOW)
    assert (await storage.executions.get(execution.id)).status is Status.ENQUEUED
    scheduled = await cron_job(storage)
    with pytest.raises(Rejected):
        await storage.jobs.retry(scheduled, make_execution(scheduled), now=NOW)


async def test_a_run_beside_the_others(storage: Storage) -> None:
    """Also before the first run; nothing is stopped and nobody waits."""
    first = await submit(storage)
    active = await running(storage)
    job = await storage.jobs.stop("task", (await cron_job(storage)).id, now=NOW + 1)
    assert job.stopped_at is not None
    new = await storage.jobs.retry(job, make_execution(job), now=NOW + 2, beside=True)
    assert (new.number, new.waits_for, new.position is not None) == (1, None, True)
    assert (await storage.jobs.get("task", job.id)).stopped_at is None
    job = await storage.jobs.get("task", first.job_id)
    beside = await storage.jobs.retry(job, make_execution(job), now=NOW + 2, beside=True)
    assert (beside.number, beside.waits_for) == (2, None)
    assert await storage.executions.get(active.id) == active
    with pytest.raises(CompareFailed):
        await storage.jobs.retry(
            dataclasses.replace(job, generation=7), make_execution(job), now=NOW, beside=True
        )


async def test_a_pause_holds_ticks_back(storage: Storage) -> None:
    job = await cron_job(storage)
    retried = make_execution(job, attempt=1, due_at=NOW + 5)
    paused = await storage.jobs.reschedule(job, paused_at=NOW, next_run_at=None, now=NOW)
    assert paused.paused
    assert paused == await storage.jobs.get("task", job.id)
    assert (paused.generation, paused.stopped_at) == (job.generation, None)
    assert await storage.jobs.due(NOW + 1e6, 10) == []
    assert await storage.jobs.scheduled(10) == []
    assert (await storage.overview()).scheduled == 0
    with pytest.raises(CompareFailed):
        await storage.jobs.tick(job, make_execution(job), next_run_at=NOW + 60, now=NOW)
    # What was read before the pause decides nothing.
    for late in (NOW + 9, None):
        with pytest.raises(CompareFailed):
            await storage.jobs.reschedule(job, paused_at=late, next_run_at=None, now=NOW)
    # The same generation: runs of it are retried.
    assert (await storage.jobs.retry(paused, retried, now=NOW, beside=True)).due_at == NOW + 5
    resumed = await storage.jobs.reschedule(paused, paused_at=None, next_run_at=NOW + 9, now=NOW)
    assert (resumed.paused, resumed.next_run_at) == (False, NOW + 9)
    assert await storage.jobs.due(NOW + 9, 10) == [await storage.jobs.get("task", job.id)]


async def test_put_keeps_a_pause_and_stop_ends_it(storage: Storage) -> None:
    job = await cron_job(storage)
    await storage.jobs.reschedule(job, paused_at=NOW, next_run_at=None, now=NOW)
    again = make_job(id=job.id, next_run_at=NOW + 60)
    replaced = (await storage.jobs.submit(again, None, replace=True)).job
    assert (replaced.paused, replaced.next_run_at, replaced.generation) == (True, None, 2)
    assert replaced == await storage.jobs.get("task", job.id)
    at_once = make_job(id=job.id)
    replaced = (await storage.jobs.submit(at_once, make_execution(at_once), replace=True)).job
    assert (replaced.paused, replaced.paused_at) == (False, None)
    replaced = (await storage.jobs.submit(again, None, replace=True)).job
    await storage.jobs.reschedule(replaced, paused_at=NOW, next_run_at=None, now=NOW)
    stopped = await storage.jobs.stop("task", job.id, now=NOW + 1)
    assert (stopped.paused, stopped.paused_at) == (False, None)


async def test_a_paused_job_is_not_forgotten(storage: Storage) -> None:
    job = await cron_job(storage)
    paused = await storage.jobs.reschedule(job, paused_at=NOW, next_run_at=None, now=NOW)
    assert await storage.clean_up(NOW + 1e6, 10) == 0
    await storage.jobs.reschedule(paused, paused_at=None, next_run_at=None, now=NOW)
    assert await storage.clean_up(NOW + 1e6, 10) == 1


async def test_pauses_race_with_ticks(place: Place) -> None:
    """Of a tick and a pause of the same moment one wins; never both, on any instance."""
    storages = [place.storage()]
    if not isinstance(place, SqlitePlace):
        storages += [place.storage() for _ in range(2)]
    for storage in storages:
        await storage.open()
    try:
        job = make_job(next_run_at=NOW)
        await storages[0].jobs.submit(job, None)
        count = 0
        for n in range(10):
            tick = NOW + 60 * n
            current = await storages[0].jobs.get("task", job.id)
            calls: list[Awaitable[object]] = []
            for storage in storages:
                calls += [
                    storage.jobs.tick(
                        current,
                        make_execution(current, tick=tick),
                        next_run_at=tick + 60,
                        now=tick,
                    ),
                    storage.jobs.reschedule(current, paused_at=tick, next_run_at=None, now=tick),
                ]
            won, lost = await outcomes(calls)
            assert len(won) == 1
            assert all(isinstance(error, CompareFailed) for error in lost)
            now = await storages[0].jobs.get("task", job.id)
            count += not now.paused
            assert now.execution_count == count
            if now.paused:
                await storages[0].jobs.reschedule(
                    now, paused_at=None, next_run_at=tick + 60, now=tick
                )
    finally:
        for storage in storages:
            await storage.close()


async def test_retry_job_compares_the_generation(storage: Storage) -> None:
    job = make_job()
    await submit(storage, job=job)
    await finish(storage, await running(storage))
    await storage.jobs.stop("task", job.id, now=NOW)
    with pytest.raises(CompareFailed):
        await storage.jobs.retry(job, make_execution(job), now=NOW)
    with pytest.raises(CompareFailed):
        await storage.jobs.retry(make_job(), make_execution(job), now=NOW)
    assert await claim(storage) is None


# -- the queue --------------------------------------------------------------------------------


async def test_claim_is_first_in_first_out_per_farm(storage: Storage) -> None:
    ids = [(await submit(storage)).id for _ in range(5)]
    other = await submit(storage, farm="other")
    assert (await claimed(storage, farm="other")).id == other.id
    assert [(await claimed(storage)).id for _ in ids] == ids
    assert await claim(storage) is None
    assert await claim(storage, farm="unknown") is None


async def test_claim_makes_it_pulling(storage: Storage) -> None:
    execution = await submit(storage)
    taken = await claimed(storage, owner="me")
    assert taken == dataclasses.replace(
        execution, status=Status.PULLING, owner="me", host="host:1", epoch=1
    )
    assert await storage.executions.get(execution.id) == taken


async def test_claim_never_exceeds_max_running(storage: Storage) -> None:
    for _ in range(20):
        await submit(storage)
    taken = await asyncio.gather(
        *[claim(storage, owner=f"owner {n}", max_running=3) for n in range(20)]
    )
    got = [execution for execution in taken if execution is not None]
    assert len({execution.id for execution in got}) == 3
    assert (await storage.overview()).active == 3
    await storage.executions.started(got[0].id, got[0].epoch, run_id="c", started_at=NOW)
    assert await claim(storage, max_running=3) is None
    await finish(storage, got[0])
    assert await claim(storage, max_running=3) is not None
    assert await claim(storage, max_running=3) is None


async def test_claim_passes_over_the_expired(storage: Storage) -> None:
    late = make_job(definition=Definition.parse("busy", ("true",), expires_at=NOW))
    expired = await submit(storage, job=late)
    good = await submit(storage)
    assert (await claimed(storage, now=NOW)).id == good.id
    assert (await storage.executions.get(expired.id)).status is Status.ENQUEUED


async def test_release_gives_the_old_place_back(storage: Storage) -> None:
    first = await submit(storage)
    await submit(storage)
    taken = await claimed(storage)
    await storage.executions.release(taken.id, taken.epoch, now=NOW)
    back = await storage.executions.get(first.id)
    assert back == dataclasses.replace(first, epoch=1)
    again = await claimed(storage)
    assert (again.id, again.epoch) == (first.id, 2)
    with pytest.raises(CompareFailed):
        await storage.executions.release(first.id, 1, now=NOW)


async def test_release_of_what_is_not_pulling_is_refused(storage: Storage) -> None:
    await submit(storage)
    active = await running(storage)
    with pytest.raises(CompareFailed) as refused:
        await storage.executions.release(active.id, active.epoch, now=NOW)
    assert refused.value.current == active
    with pytest.raises(CompareFailed):
        await storage.executions.release(new_id(), 1, now=NOW)


async def test_release_with_a_stop_intent_ends_it(storage: Storage) -> None:
    await submit(storage)
    taken = await claimed(storage)
    await storage.executions.stop(taken.id, reason=Reason.STOPPED, now=NOW + 3)
    await storage.executions.release(taken.id, taken.epoch, now=NOW)
    ended = await storage.executions.get(taken.id)
    assert (ended.status, ended.reason) == (Status.FAILED, Reason.STOPPED)
    assert ended.finished_at is not None
    assert await claim(storage) is None


# -- starting and finishing -------------------------------------------------------------------


async def test_started_makes_it_running_and_may_be_repeated(storage: Storage) -> None:
    await submit(storage)
    taken = await claimed(storage)
    first = await storage.executions.started(taken.id, taken.epoch, run_id="c1", started_at=NOW + 1)
    assert first == dataclasses.replace(
        taken, status=Status.RUNNING, run_id="c1", started_at=NOW + 1
    )
    again = await storage.executions.started(taken.id, taken.epoch, run_id="c2", started_at=NOW + 9)
    assert again == first
    with pytest.raises(CompareFailed):
        await storage.executions.started(taken.id, taken.epoch + 1, run_id="c1", started_at=NOW)
    await finish(storage, taken)
    with pytest.raises(CompareFailed):
        await storage.executions.started(taken.id, taken.epoch, run_id="c1", started_at=NOW)
    with pytest.raises(CompareFailed):
        await storage.executions.started(new_id(), 1, run_id="c1", started_at=NOW)


async def test_finish_writes_outcome_and_retry(storage: Storage) -> None:
    job = make_job()
    await submit(storage, job=job)
    active = await running(storage)
    retry = make_execution(job, attempt=1, due_at=NOW + 30)
    error = Outcome(Status.FAILED, Reason.OOM, exit_code=137, error="no memory \udcff left")

    ended, stored = await finish(storage, active, error, retry=retry)

    assert ended.status is Status.FAILED
    assert (ended.reason, ended.exit_code) == (Reason.OOM, 137)
    assert ended.finished_at == NOW + 2
    assert ended.error is not None
    assert ended.error.startswith("no memory")
    assert await storage.executions.get(ended.id) == ended
    assert stored == dataclasses.replace(retry, number=2)
    assert await storage.executions.last_of_job(job.id) == stored
    assert (await storage.jobs.get("task", job.id)).execution_count == 2
    assert (await storage.overview()).delayed == 1


async def test_a_retry_without_delay_is_queued(storage: Storage) -> None:
    job = make_job()
    await submit(storage, job=job)
    _, retry = await finish(
        storage, await running(storage), FAILED, retry=make_execution(job, attempt=1)
    )
    assert retry is not None
    assert (await claimed(storage)).id == retry.id


async def test_a_retry_of_an_older_generation_is_not_stored(storage: Storage) -> None:
    job = make_job()
    await submit(storage, job=job)
    active = await running(storage)
    await storage.jobs.submit(job, None, replace=True)
    retry = make_execution(job, attempt=1)
    assert (await finish(storage, active, FAILED, retry=retry))[1] is None
    assert await claim(storage) is None


async def test_finish_while_pulling(storage: Storage) -> None:
    await submit(storage)
    ended, _ = await finish(
        storage, await claimed(storage), Outcome(Status.FAILED, Reason.PULL_FAILED, error="no")
    )
    assert ended.reason is Reason.PULL_FAILED


async def test_one_of_two_finishes_wins(storage: Storage) -> None:
    job = make_job()
    await submit(storage, job=job)
    active = await running(storage)
    won, lost = await outcomes(
        finish(storage, active, FAILED, retry=make_execution(job, attempt=1)) for _ in range(8)
    )
    assert len(won) == 1
    assert len(lost) == 7
    for error in lost:
        assert isinstance(error, CompareFailed)
        assert error.current == won[0][0]
    assert (await storage.executions.of_job(job.id, PageRequest())).total == 2


async def test_finish_compares_the_stop_intent(storage: Storage) -> None:
    await submit(storage)
    active = await running(storage)
    with pytest.raises(CompareFailed):
        await finish(storage, active, expected_stop=Reason.TIMEOUT)
    stopping = await storage.executions.stop(active.id, reason=Reason.TIMEOUT, now=NOW)
    with pytest.raises(CompareFailed) as refused:
        await finish(storage, active)
    assert refused.value.current == stopping
    ended, _ = await finish(
        storage, active, Outcome(Status.TIMEDOUT, Reason.TIMEOUT), expected_stop=Reason.TIMEOUT
    )
    assert ended.status is Status.TIMEDOUT


async def test_finish_frees_what_waited(storage: Storage) -> None:
    job = make_job()
    first = await submit(storage, job=job)
    active = await running(storage)
    waiting = await submit(storage, waits_for=first.id)
    delayed = await submit(storage, waits_for=first.id, due_at=NOW + 100)
    await storage.executions.queue_due(NOW + 200, 10)
    assert await claim(storage) is None
    await finish(storage, active)
    assert (await claimed(storage)).id == waiting.id
    assert await claim(storage) is None
    merely = await storage.executions.get(delayed.id)
    assert (merely.waits_for, merely.due_at, merely.position) == (None, NOW + 100, None)
    assert await storage.executions.queue_due(NOW + 100, 10) == 1
    assert (await claimed(storage)).id == delayed.id


# -- stopping an execution --------------------------------------------------------------------


async def test_stop_execution_in_every_status(storage: Storage) -> None:
    enqueued = await submit(storage)
    ended = await storage.executions.stop(enqueued.id, reason=Reason.STOPPED, now=NOW + 4)
    assert (ended.status, ended.reason, ended.finished_at) == (
        Status.FAILED,
        Reason.STOPPED,
        NOW + 4,
    )
    again = await storage.executions.stop(enqueued.id, reason=Reason.STOPPED, now=NOW + 5)
    assert again == ended

    await submit(storage)
    pulling = await claimed(storage)
    first = await storage.executions.stop(pulling.id, reason=Reason.TIMEOUT, now=NOW + 4)
    assert (first.status, first.stop_reason, first.stop_requested_at) == (
        Status.PULLING,
        Reason.TIMEOUT,
        NOW + 4,
    )
    second = await storage.executions.stop(pulling.id, reason=Reason.STOPPED, now=NOW + 5)
    assert second == first
    await submit(storage)
    full = await claimed(storage)
    await storage.executions.stop(full.id, reason=Reason.DISK, now=NOW + 6)
    assert (await storage.executions.get(full.id)).stop_reason is Reason.DISK
    with pytest.raises(NotFound):
        await storage.executions.stop(new_id(), reason=Reason.STOPPED, now=NOW)


async def test_stopping_and_expiring_free_what_waited(storage: Storage) -> None:
    late = make_job(definition=Definition.parse("busy", "true", expires_at=NOW + 5))
    first = await submit(storage)
    second = await submit(storage, job=late)
    freed = [
        await submit(storage, waits_for=first.id),
        await submit(storage, waits_for=second.id),
    ]
    await storage.executions.stop(first.id, reason=Reason.STOPPED, now=NOW)
    await storage.executions.expire(NOW + 5, 10)
    assert [(await claimed(storage)).id for _ in freed] == [one.id for one in freed]


@pytest.mark.parametrize("first", ["claim", "stop"])
async def test_claim_racing_with_stop(storage: Storage, first: str) -> None:
    for _ in range(10):
        execution = await submit(storage)
        claiming = claim(storage)
        stopping = storage.executions.stop(execution.id, reason=Reason.STOPPED, now=NOW)
        if first == "claim":
            taken, _ = await asyncio.gather(claiming, stopping)
        else:
            _, taken = await asyncio.gather(stopping, claiming)
        current = await storage.executions.get(execution.id)
        if taken is None:
            assert (current.status, current.reason) == (Status.FAILED, Reason.STOPPED)
        else:
            assert current.stop_reason is Reason.STOPPED
            await finish(storage, taken, FAILED, expected_stop=Reason.STOPPED)


# -- what is due ------------------------------------------------------------------------------


async def test_due_jobs_come_earliest_first(storage: Storage) -> None:
    at = {}
    for delay in (30, 10, 20, 99):
        job = make_job(next_run_at=NOW + delay, schedule=Schedule(start_at=NOW + delay))
        await storage.jobs.submit(job, None)
        at[delay] = job.id
    assert [job.id for job in await storage.jobs.due(NOW + 30, 10)] == [at[10], at[20], at[30]]
    assert [job.id for job in await storage.jobs.due(NOW + 30, 2)] == [at[10], at[20]]
    assert await storage.jobs.due(NOW + 9, 10) == []
    assert [job.id for job in await storage.jobs.scheduled(3)] == [at[10], at[20], at[30]]
    assert (await storage.overview()).scheduled == 4


async def test_queue_due_queues_in_the_order_of_time(storage: Storage) -> None:
    second = await submit(storage, due_at=NOW + 20)
    first = await submit(storage, due_at=NOW + 10)
    third = await submit(storage, due_at=NOW + 30)
    at_once = await submit(storage)
    assert await storage.executions.queue_due(NOW + 9, 10) == 0
    assert await storage.executions.queue_due(NOW + 30, 2) == 2
    assert await storage.executions.queue_due(NOW + 30, 2) == 1
    assert await storage.executions.queue_due(NOW + 30, 2) == 0
    queued = await storage.executions.get(first.id)
    assert queued.due_at is None
    assert queued.position is not None
    order = [(await claimed(storage)).id for _ in range(4)]
    assert order == [at_once.id, first.id, second.id, third.id]


async def test_expire_ends_what_was_not_started_in_time(storage: Storage) -> None:
    late = Definition.parse("busy", "true", expires_at=NOW + 5)
    queued = await submit(storage, job=make_job(definition=late))
    delayed = await submit(storage, job=make_job(definition=late), due_at=NOW + 100)
    await submit(storage, job=make_job(definition=late))
    active = await submit(storage)
    assert await storage.executions.expire(NOW + 4, 10) == []
    first = await claimed(storage)
    assert first.id == queued.id
    await storage.executions.release(first.id, first.epoch, now=NOW)

    ended = [
        *await storage.executions.expire(NOW + 5, 2),
        *await storage.executions.expire(NOW + 5, 2),
    ]

    assert len(ended) == 3
    assert {queued.id, delayed.id} < {execution.id for execution in ended}
    for execution in ended:
        assert (execution.status, execution.reason) == (Status.EXPIRED, Reason.EXPIRED)
        assert execution.finished_at == NOW + 5
        assert await storage.executions.get(execution.id) == execution
    assert (await claimed(storage)).id == active.id
    assert (await storage.overview()).queued == 0


async def test_a_started_execution_does_not_expire(storage: Storage) -> None:
    await submit(storage, job=make_job(definition=Definition.parse("b", "c", expires_at=NOW + 5)))
    await claimed(storage)
    assert await storage.executions.expire(NOW + 10, 10) == []
    assert await storage.next_due_at() is None


async def test_next_due_at_is_the_earliest_of_three(storage: Storage) -> None:
    assert await storage.next_due_at() is None
    await submit(storage)
    assert await storage.next_due_at() is None
    await submit(storage, job=make_job(definition=Definition.parse("b", "c", expires_at=NOW + 50)))
    assert await storage.next_due_at() == NOW + 50
    await storage.jobs.submit(make_job(next_run_at=NOW + 40), None)
    assert await storage.next_due_at() == NOW + 40
    await submit(storage, due_at=NOW + 30)
    assert await storage.next_due_at() == NOW + 30
    await storage.executions.queue_due(NOW + 30, 10)
    assert await storage.next_due_at() == NOW + 40


# -- instances --------------------------------------------------------------------------------


async def test_adopt_takes_what_a_dead_owner_had(storage: Storage) -> None:
    for _ in range(3):
        await submit(storage)
    mine = await running(storage, owner="me")
    await storage.instances.beat("other", now=NOW, lease_seconds=10)
    others = [await running(storage, owner="other"), await claimed(storage, owner="other")]

    assert await storage.instances.adopt("me", now=NOW + 9.9, limit=10) == []
    await storage.instances.beat("other", now=NOW + 5, lease_seconds=10)
    assert await storage.instances.adopt("me", now=NOW + 14, limit=10) == []
    first = await storage.instances.adopt("me", now=NOW + 15, limit=1)
    rest = await storage.instances.adopt("me", now=NOW + 15, limit=10)

    assert [*first, *rest] == [
        dataclasses.replace(other, owner="me", epoch=other.epoch + 1) for other in others
    ]
    assert await storage.executions.active(owner="other") == []
    assert list(await storage.executions.active(owner="me")) == [mine, *first, *rest]


async def test_an_owner_without_any_lease_is_dead(storage: Storage) -> None:
    await submit(storage)
    await running(storage, owner="gone")
    assert len(await storage.instances.adopt("me", now=NOW, limit=10)) == 1


async def test_leave_lets_others_adopt_at_once(storage: Storage) -> None:
    await submit(storage)
    await storage.instances.beat("other", now=NOW, lease_seconds=1000)
    await running(storage, owner="other")
    await storage.instances.leave("other")
    await storage.instances.leave("other")
    assert len(await storage.instances.adopt("me", now=NOW, limit=10)) == 1


async def test_one_of_many_adopts(storage: Storage) -> None:
    await submit(storage)
    await running(storage, owner="gone")
    names = [f"instance {number}" for number in range(8)]
    for name in names:
        await storage.instances.beat(name, now=NOW, lease_seconds=100)
    adopted = await asyncio.gather(
        *[storage.instances.adopt(name, now=NOW, limit=10) for name in names]
    )
    assert sum(map(len, adopted)) == 1


async def test_the_old_owner_is_fenced_off(storage: Storage) -> None:
    await submit(storage)
    old = await running(storage, owner="frozen")
    await storage.logs.append(old.id, old.epoch, records(1, 3), bookmark="a", cap=None)
    (new,) = await storage.instances.adopt("me", now=NOW, limit=10)
    with pytest.raises(CompareFailed):
        await storage.logs.append(old.id, old.epoch, records(4, 5), bookmark="b", cap=None)
    with pytest.raises(CompareFailed):
        await finish(storage, old)
    with pytest.raises(CompareFailed):
        await storage.executions.started(old.id, old.epoch, run_id="x", started_at=NOW)
    await storage.logs.append(new.id, new.epoch, records(4, 5), bookmark="b", cap=None)
    assert (await finish(storage, new))[0].final


async def test_after_a_restart_what_was_active_can_be_adopted(place: Place) -> None:
    first = place.storage()
    await first.open()
    await submit(first)
    await first.instances.beat("first", now=NOW, lease_seconds=10)
    active = await running(first, owner="first")
    await first.logs.append(active.id, active.epoch, records(1, 3), bookmark="a", cap=None)
    await first.close()

    second = place.storage()
    await second.open()
    try:
        (adopted,) = await second.instances.adopt("second", now=NOW + 10, limit=10)
        assert (adopted.run_id, adopted.host) == (active.run_id, active.host)
        assert (await second.logs.state(active.id)).bookmark == "a"
    finally:
        await second.close()


# -- reading ----------------------------------------------------------------------------------


async def test_what_is_not_there(storage: Storage) -> None:
    execution = await submit(storage)
    with pytest.raises(NotFound):
        await storage.tasks.get("nowhere")
    with pytest.raises(NotFound):
        await storage.jobs.get("task", new_id())
    with pytest.raises(NotFound):
        await storage.jobs.get("other", execution.job_id)
    with pytest.raises(NotFound):
        await storage.jobs.of_task("nowhere", PageRequest())
    with pytest.raises(NotFound):
        await storage.executions.get(new_id())
    assert await storage.executions.last_of_job(new_id()) is None
    assert await storage.executions.of_job(new_id(), PageRequest()) == Page([], 0, None)
    assert await storage.logs.state(new_id()) == LogState()
    assert await storage.logs.read(new_id()) == []
    assert await storage.logs.tail(new_id(), Stream.STDOUT, max_bytes=10) == (b"", False)


async def test_tasks_are_listed_oldest_first(storage: Storage) -> None:
    names = [f"task-{number}" for number in (3, 1, 2, 5, 4)]
    for age, name in enumerate(names):
        await storage.jobs.submit(make_job(name, created_at=NOW + age, modified_at=NOW + age), None)
    await storage.jobs.submit(make_job(names[0], modified_at=NOW + 99), None)
    pages = [page async for page in every_page(storage.tasks.page, 2)]
    assert [[task.id for task in page.items] for page in pages] == [
        names[:2],
        names[2:4],
        names[4:],
    ]
    assert {page.total for page in pages} == {5}
    second = await storage.tasks.page(PageRequest(number=2, size=2))
    assert [task.id for task in second.items] == names[2:4]
    beyond = await storage.tasks.page(PageRequest(number=10**30, size=2))
    assert beyond == Page([], 5, None)
    exact = await storage.tasks.page(PageRequest(size=5))
    assert exact.next_cursor is None


async def test_jobs_and_executions_are_listed_newest_first(storage: Storage) -> None:
    job = make_job()
    await submit(storage, job=job)
    jobs = [job.id]
    for age in range(1, 5):
        other = make_job(created_at=NOW + age, modified_at=NOW + age)
        await storage.jobs.submit(other, None)
        jobs.append(other.id)
    await storage.jobs.submit(make_job("elsewhere"), None)
    for attempt in range(1, 5):
        retry = make_execution(job, attempt=attempt, created_at=NOW + attempt)
        await finish(storage, await running(storage), FAILED, retry=retry)

    job_pages = [
        page async for page in every_page(lambda request: storage.jobs.of_task("task", request), 2)
    ]
    assert [found.id for page in job_pages for found in page.items] == jobs[::-1]
    assert {page.total for page in job_pages} == {5}
    third = await storage.jobs.of_task("task", PageRequest(number=3, size=2))
    assert [found.id for found in third.items] == jobs[:1]

    pages = [
        page
        async for page in every_page(lambda request: storage.executions.of_job(job.id, request), 2)
    ]
    assert [found.number for page in pages for found in page.items] == [5, 4, 3, 2, 1]
    assert {page.total for page in pages} == {5}
    second = await storage.executions.of_job(job.id, PageRequest(number=2, size=2))
    assert [found.number for found in second.items] == [3, 2]
    newest = await storage.executions.last_of_job(job.id)
    assert newest is not None
    assert newest.number == 5


async def test_a_cursor_stays_where_it_was_while_others_come(storage: Storage) -> None:
    job = make_job()
    await submit(storage, job=job)
    for attempt in range(1, 4):
        retry = make_execution(job, attempt=attempt)
        await finish(storage, await running(storage), FAILED, retry=retry)
    page = await storage.executions.of_job(job.id, PageRequest(size=2))
    await finish(storage, await running(storage), FAILED, retry=make_execution(job, attempt=4))
    rest = await storage.executions.of_job(job.id, PageRequest(size=2, after=page.next_cursor))
    assert [found.number for found in [*page.items, *rest.items]] == [4, 3, 2, 1]


@pytest.mark.parametrize("cursor", ["x", "", "1.2.3.4", "-1", "9" * 40, "\0"])
async def test_a_cursor_that_is_none_is_refused(storage: Storage, cursor: str) -> None:
    request = PageRequest(after=cursor)
    await submit(storage)
    with pytest.raises(Rejected):
        await storage.tasks.page(request)
    with pytest.raises(Rejected):
        await storage.tasks.search("task", request)
    with pytest.raises(Rejected):
        await storage.jobs.of_task("task", request)


async def test_thousands_of_tasks_by_cursor(storage: Storage) -> None:
    # Ten thousand take a store behind a socket twenty seconds to fill, and show no more.
    count = 10_000 if isinstance(storage, SqliteStorage) else 2_000
    names = [f"t{number:05}" for number in range(count)]
    jobs = iter([make_job(name, created_at=NOW + at) for at, name in enumerate(names)])

    async def one_after_another() -> None:
        for job in jobs:
            await storage.jobs.submit(job, None)

    await asyncio.gather(*[one_after_another() for _ in range(200)])
    # More than a cursor of MongoDB's brings at once, and many pages.
    for size in (500, 100):
        seen = [
            task.id async for page in every_page(storage.tasks.page, size) for task in page.items
        ]
        assert sorted(seen) == names
    assert (await storage.overview()).tasks == count


async def test_search_finds_whole_words_best_first(storage: Storage) -> None:
    for name in ("alpha", "Alpha-Beta", "beta_gamma", "alphabet", "ÄRGER.straße 7", "beta beta"):
        await storage.jobs.submit(make_job(name), None)

    async def search(query: str) -> Sequence[str]:
        page = await storage.tasks.search(query, PageRequest(size=100))
        assert page.total == len(page.items)
        return [task.id for task in page.items]

    assert await search("alpha") == ["alpha", "Alpha-Beta"]
    assert await search("BETA, alpha!") == ["Alpha-Beta", "alpha", "beta_gamma", "beta beta"]
    assert await search("gamma") == ["beta_gamma"]
    assert await search("ärger") == ["ÄRGER.straße 7"]
    assert await search("STRASSE") == ["ÄRGER.straße 7"]
    assert await search("7") == ["ÄRGER.straße 7"]
    assert await search("alph") == []
    assert await search("") == []
    assert await search(" -_% '\"*") == []
    assert await search(" ".join(f"w{n}" for n in range(5000)) + " zzz") == []


async def test_search_by_pages(storage: Storage) -> None:
    for number in range(7):
        await storage.jobs.submit(make_job(f"one{' two' * (number % 2)} {number}"), None)
    pages = [
        page
        async for page in every_page(lambda request: storage.tasks.search("one two", request), 2)
    ]
    found = [task.id for page in pages for task in page.items]
    assert len(set(found)) == len(found) == 7
    assert all("two" in name for name in found[:3])
    assert {page.total for page in pages} == {7}
    second = await storage.tasks.search("one two", PageRequest(number=2, size=2))
    assert [task.id for task in second.items] == found[2:4]


async def test_overview_counts(storage: Storage) -> None:
    job = make_job("a")
    await submit(storage, job=job)
    await submit(storage, "a")
    await submit(storage, "b", due_at=NOW + 5)
    await storage.jobs.submit(make_job("c", next_run_at=NOW), None)
    await submit(storage, "b", farm="other")
    active = await running(storage)
    assert await storage.overview() == Overview(
        tasks=3, jobs=5, queued=2, delayed=1, active=1, scheduled=1
    )
    await finish(storage, active, FAILED, retry=make_execution(job, attempt=1, due_at=NOW + 9))
    taken = await claimed(storage)
    await storage.executions.release(taken.id, taken.epoch, now=NOW)
    await storage.executions.queue_due(NOW + 9, 10)
    assert await storage.overview() == Overview(
        tasks=3, jobs=5, queued=4, delayed=0, active=0, scheduled=1
    )


async def test_queues_say_their_length_and_who_waits_longest(storage: Storage) -> None:
    for number in range(3):
        await submit(storage, farm="busy", created_at=NOW + number)
    await submit(storage, farm="busy", due_at=NOW + 9)
    await claimed(storage, farm="busy")
    await submit(storage, farm="another")
    assert await storage.executions.queues(["busy", "idle"]) == {
        "busy": FarmQueue(2, NOW + 1),
        "idle": FarmQueue(0, None),
    }


async def test_active_executions_come_oldest_first(storage: Storage) -> None:
    for number in range(4):
        await submit(storage, farm=f"farm {number % 2}", created_at=NOW + number)
    taken = [
        await claimed(storage, farm=f"farm {number}", owner=f"owner {number}")
        for number in (1, 0, 0, 1)
    ]
    by_age = sorted(taken, key=lambda execution: execution.created_at)
    assert list(await storage.executions.active_runs()) == [
        ActiveRun(*(getattr(one, name) for name in ACTIVE_RUN_FIELDS)) for one in by_age
    ]
    mine = await storage.executions.active(owner="owner 1")
    assert list(mine) == [one for one in by_age if one.owner == "owner 1"]


# -- logs -------------------------------------------------------------------------------------


def records(
    first: int, last: int, *, size: int = 10, stream: Stream = Stream.STDOUT
) -> list[LogRecord]:
    """Records *first* to *last*; each begins with its own number."""
    return [
        LogRecord(seq, NOW + seq / 8, stream, f"{seq:09}\n".encode().ljust(size, b"."))
        for seq in range(first, last + 1)
    ]


async def whole_log(storage: Storage, execution: Execution, **options: Any) -> list[LogRecord]:
    found: list[LogRecord] = []
    after = 0
    while part := await storage.logs.read(execution.id, after=after, **options):
        found += part
        after = part[-1].seq
    return found


@pytest.fixture
async def logging(storage: Storage) -> Execution:
    """A running execution."""
    await submit(storage)
    return await running(storage)


async def test_log_round_trip(storage: Storage, logging: Execution) -> None:
    written = [
        LogRecord(1, NOW, Stream.STDOUT, b"\x00\xff\n"),
        LogRecord(2, NOW + 0.000001, Stream.STDERR, "ü".encode()),
        LogRecord(3, NOW - 5, Stream.FASTLANE, b"note"),
        LogRecord(4, NOW, Stream.STDOUT, b""),
    ]
    await storage.logs.append(logging.id, logging.epoch, written[:2], bookmark="1", cap=None)
    await storage.logs.append(logging.id, logging.epoch, written[2:], bookmark="2", cap=None)
    assert await storage.logs.read(logging.id) == written
    assert await storage.logs.state(logging.id) == LogState(
        last_seq=4, bookmark="2", stdout_bytes=3, stderr_bytes=2, dropped_bytes=0
    )
    await storage.logs.append(logging.id, logging.epoch, [], bookmark="3", cap=None)
    state = await storage.logs.state(logging.id)
    assert (state.last_seq, state.bookmark) == (4, "3")
    assert await storage.logs.read(logging.id, after=2) == written[2:]
    assert await storage.logs.read(logging.id, after=4) == []
    assert await storage.logs.read(logging.id, after=1000) == []


async def test_a_bookmark_before_the_first_record(storage: Storage, logging: Execution) -> None:
    await storage.logs.append(logging.id, logging.epoch, [], bookmark="x", cap=None)
    assert await storage.logs.state(logging.id) == LogState(bookmark="x")
    await storage.logs.append(logging.id, logging.epoch, records(1, 1), bookmark="y", cap=None)
    assert await whole_log(storage, logging) == records(1, 1)


async def test_append_refuses_a_gap_and_a_repeat(storage: Storage, logging: Execution) -> None:
    for wrong in (records(2, 3), records(0, 3), [*records(1, 1), *records(3, 3)]):
        with pytest.raises(CompareFailed):
            await storage.logs.append(logging.id, logging.epoch, wrong, bookmark="x", cap=None)
    await storage.logs.append(logging.id, logging.epoch, records(1, 3), bookmark="a", cap=None)
    for wrong in (records(1, 3), records(3, 5), records(5, 6)):
        with pytest.raises(CompareFailed):
            await storage.logs.append(logging.id, logging.epoch, wrong, bookmark="x", cap=None)
    assert await whole_log(storage, logging) == records(1, 3)
    assert (await storage.logs.state(logging.id)).bookmark == "a"


async def test_append_to_a_final_execution_is_refused(storage: Storage, logging: Execution) -> None:
    await storage.logs.append(logging.id, logging.epoch, records(1, 3), bookmark="a", cap=None)
    await finish(storage, logging)
    with pytest.raises(CompareFailed):
        await storage.logs.append(logging.id, logging.epoch, records(4, 4), bookmark="", cap=None)
    with pytest.raises(CompareFailed):
        await storage.logs.append(new_id(), 1, records(1, 1), bookmark="", cap=None)
    assert await whole_log(storage, logging) == records(1, 3)


async def test_reading_in_parts(storage: Storage, logging: Execution) -> None:
    written = records(1, 300, size=7000)
    for at in range(0, 300, 37):
        part = written[at : at + 37]
        await storage.logs.append(logging.id, logging.epoch, part, bookmark="", cap=None)
    assert await whole_log(storage, logging) == written
    for max_bytes in (1, 6999, 7000, 20_000, LOG_CHUNK_BYTES, 10**9):
        part_of_it = await storage.logs.read(logging.id, after=100, max_bytes=max_bytes)
        expected = min(200, max(1, max_bytes // 7000))
        assert part_of_it == written[100 : 100 + expected]
    assert await whole_log(storage, logging, max_bytes=15_000) == written


async def test_a_record_larger_than_a_chunk(storage: Storage, logging: Execution) -> None:
    written = [
        *records(1, 1),
        *records(2, 2, size=LOG_CHUNK_BYTES + 1),
        *records(3, 3),
    ]
    await storage.logs.append(logging.id, logging.epoch, written, bookmark="", cap=None)
    assert await storage.logs.read(logging.id, after=1, max_bytes=5) == written[1:2]
    assert await whole_log(storage, logging) == written


async def test_many_small_appends(storage: Storage, logging: Execution) -> None:
    written = records(1, 400, size=100)
    for record in written:
        await storage.logs.append(logging.id, logging.epoch, [record], bookmark="", cap=None)
    assert await whole_log(storage, logging) == written


async def test_the_cap_keeps_head_and_tail(storage: Storage, logging: Execution) -> None:
    size = 8 * 1024
    cap = LogCap(head_bytes=20 * size, tail_bytes=40 * size)
    written = records(1, 400, size=size)
    for at in range(0, 400, 7):
        part = written[at : at + 7]
        await storage.logs.append(logging.id, logging.epoch, part, bookmark="", cap=cap)
        kept = await whole_log(storage, logging)
        end = kept[-1].seq
        assert kept[: min(end, 20)] == written[: min(end, 20)]
        assert kept[-min(end, 40) :] == written[max(0, end - 40) : end]
        assert sum(len(record.data) for record in kept) <= (60 * size + 3 * LOG_CHUNK_BYTES)

    (gap,) = [record for record in kept if record.stream is Stream.FASTLANE]
    at = kept.index(gap)
    state = await storage.logs.state(logging.id)
    assert state.dropped_bytes > 0
    assert state.dropped_bytes + state.stdout_bytes == 400 * size
    assert gap.data == dropped_note(state.dropped_bytes)
    assert gap.at == written[gap.seq - 1].at
    assert kept[at + 1].seq == gap.seq + 1
    assert state.dropped_bytes == (gap.seq - kept[at - 1].seq) * size
    assert kept[:at] == written[:at]
    assert kept[at + 1 :] == written[gap.seq :]

    # Whoever had read into what is gone now gets the note and goes on behind it.
    assert (await storage.logs.read(logging.id, after=gap.seq - 1))[0] == gap
    assert (await storage.logs.read(logging.id, after=kept[at - 1].seq))[0] == gap
    assert (await storage.logs.read(logging.id, after=gap.seq))[0] == written[gap.seq]
    assert await whole_log(storage, logging, max_bytes=1) == kept
    tail, more = await storage.logs.tail(logging.id, Stream.STDOUT, max_bytes=state.stdout_bytes)
    assert tail == b"".join(r.data for r in kept if r.stream is Stream.STDOUT)
    assert not more


async def test_a_log_within_the_cap_is_whole(storage: Storage, logging: Execution) -> None:
    cap = LogCap(head_bytes=1000, tail_bytes=1000)
    written = records(1, 200)
    for record in written:
        await storage.logs.append(logging.id, logging.epoch, [record], bookmark="", cap=cap)
    assert await whole_log(storage, logging) == written
    assert (await storage.logs.state(logging.id)).dropped_bytes == 0


async def test_a_cap_without_a_head(storage: Storage, logging: Execution) -> None:
    cap = LogCap(head_bytes=0, tail_bytes=1)
    written = records(1, 20, size=LOG_CHUNK_BYTES)
    await storage.logs.append(logging.id, logging.epoch, written, bookmark="", cap=cap)
    kept = await whole_log(storage, logging)
    assert kept[0].stream is Stream.FASTLANE
    assert kept[-1] == written[-1]
    assert len(kept) <= 4


async def test_a_capped_log_of_small_appends(storage: Storage, logging: Execution) -> None:
    cap = LogCap(head_bytes=1000, tail_bytes=1000)
    written = records(1, 500, size=100)
    for record in written:
        await storage.logs.append(logging.id, logging.epoch, [record], bookmark="", cap=cap)
    kept = await whole_log(storage, logging)
    assert kept[:10] == written[:10]
    assert kept[-10:] == written[-10:]


async def test_a_cap_without_a_tail(storage: Storage, logging: Execution) -> None:
    cap = LogCap(head_bytes=1, tail_bytes=0)
    written = records(1, 5, size=LOG_CHUNK_BYTES)
    for record in written:
        await storage.logs.append(logging.id, logging.epoch, [record], bookmark="", cap=cap)
        kept = await whole_log(storage, logging)
        assert kept[0] == written[0]
        assert kept[-1].seq == record.seq


async def test_the_tail_of_each_stream(storage: Storage, logging: Execution) -> None:
    written = [
        *records(1, 40, size=30_000),
        *records(41, 80, size=30_000, stream=Stream.STDERR),
        *records(81, 81, size=5),
    ]
    for at in range(0, 81, 5):
        part = written[at : at + 5]
        await storage.logs.append(logging.id, logging.epoch, part, bookmark="", cap=None)
    for stream in (Stream.STDOUT, Stream.STDERR):
        whole = b"".join(record.data for record in written if record.stream is stream)
        for size in (0, 1, 4, 5, 6, 30_000, 100_001, len(whole) - 1, len(whole), 10**9):
            tail, more = await storage.logs.tail(logging.id, stream, max_bytes=size)
            assert tail == (whole[-size:] if size else b"")
            assert more == (size < len(whole))
    assert await storage.logs.tail(logging.id, Stream.FASTLANE, max_bytes=9) == (b"", False)


async def test_the_tails_of_several_logs_at_once(storage: Storage) -> None:
    for _ in range(3):
        await submit(storage)
    executions = [await running(storage) for _ in range(3)]
    for number, execution in enumerate(executions[:2]):
        text = f"{number}\n".encode() * 20_000
        for seq, stream in enumerate((Stream.STDOUT, Stream.STDERR, Stream.STDOUT), start=1):
            record = LogRecord(seq, NOW, stream, text)
            await storage.logs.append(
                execution.id, execution.epoch, [record], bookmark="", cap=None
            )
    first, second, silent = (execution.id for execution in executions)
    tails = await storage.logs.tails(
        [
            (second, Stream.STDOUT),
            (silent, Stream.STDERR),
            (first, Stream.STDERR),
            (new_id(), Stream.STDOUT),
            (second, Stream.FASTLANE),
            (first, Stream.STDOUT),
            (second, Stream.STDOUT),
        ],
        max_bytes=60_000,
    )
    nothing = (b"", False)
    zeros, ones = (b"0\n" * 30_000, True), (b"1\n" * 30_000, True)
    assert list(tails) == [
        ones, nothing, (b"0\n" * 20_000, False), nothing, nothing, zeros, ones
    ]  # fmt: skip
    assert await storage.logs.tails([], max_bytes=10) == []


async def test_a_log_can_be_read_while_it_is_written(storage: Storage, logging: Execution) -> None:
    written = records(1, 2000, size=500)

    async def write() -> None:
        for at in range(0, 2000, 20):
            part = written[at : at + 20]
            await storage.logs.append(logging.id, logging.epoch, part, bookmark="", cap=None)

    async def follow() -> list[LogRecord]:
        found: list[LogRecord] = []
        while len(found) < 2000:
            found += await storage.logs.read(logging.id, after=len(found), max_bytes=9000)
        return found

    _, first, second = await asyncio.gather(write(), follow(), follow())
    assert first == second == written


# -- any order of events ----------------------------------------------------------------------

EVENTS = (
    "submit",
    "submit late",
    "submit waiting",
    "submit expiring",
    "replace",
    "claim",
    "claim",
    "release",
    "started",
    "finish",
    "finish and retry",
    "stop execution",
    "stop job",
    "retry job",
    "queue due",
    "expire",
    "adopt",
    "submit scheduled",
    "tick",
    "tick",
    "pause",
    "resume",
    "run beside",
    "delete execution",
    "delete job",
    "remove",
)


JOB_EVENTS = frozenset({"replace", "stop job", "retry job", "run beside"})
SCHEDULE_EVENTS = frozenset({"tick", "pause", "resume"})


class Storm:
    """Any events in any order on one farm; after each, what must always hold is looked at."""

    MAX_RUNNING = 2

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.farm = new_id()
        self.task_id = new_id()
        self.now = NOW
        self.jobs: list[Job] = []
        self.seen: dict[str, Execution] = {}
        """All that are there, those that were deleted and are not removed yet included."""
        self.deleted: set[str] = set()
        """Ids of jobs and of executions."""
        self.ticked: set[tuple[str, float]] = set()
        self.numbers: dict[str, dict[str, int]] = {}
        """Of the executions that were seen, by job."""

    async def meet(self, event: str, pick: int) -> None:
        self.now += 1
        active = [one for one in self.seen.values() if not one.final and one.owner]
        with contextlib.suppress(CompareFailed, Rejected, NotFound):
            if event.startswith("submit"):
                await self._submit(event.removeprefix("submit").strip(), pick)
            elif event == "claim":
                await self._claim()
            elif event == "queue due":
                await self.storage.executions.queue_due(self.now, 2)
            elif event == "expire":
                await self.storage.executions.expire(self.now, 2)
            elif event == "adopt":
                await self.storage.instances.adopt(f"owner {pick}", now=self.now, limit=2)
            elif event in JOB_EVENTS and self.jobs:
                await self._change_job(event, self.jobs[pick % len(self.jobs)])
            elif event in SCHEDULE_EVENTS and self.jobs:
                await self._reschedule(event, self.jobs[pick % len(self.jobs)])
            elif event.startswith("delete") and self.seen:
                await self._delete(event, list(self.seen.values())[pick % len(self.seen)], pick)
            elif event == "remove":
                await self._remove()
            elif event == "stop execution" and self.seen:
                chosen = list(self.seen)[pick % len(self.seen)]
                await self.storage.executions.stop(chosen, reason=Reason.STOPPED, now=self.now)
            elif active:
                await self._act(event, active[pick % len(active)])
        await self.look()

    async def _submit(self, kind: str, pick: int) -> None:
        changes: dict[str, Any] = {}
        definition = Definition.parse("busy", "true")
        if kind == "late":
            changes["due_at"] = self.now + pick % 7
        if kind == "waiting" and self.seen:
            changes["waits_for"] = list(self.seen)[pick % len(self.seen)]
        if kind == "expiring":
            definition = Definition.parse("busy", "true", expires_at=self.now + pick % 7)
        at = self.now + pick % 7 if kind == "scheduled" else None
        job = make_job(self.task_id, definition=definition, next_run_at=at)
        self.jobs.append(job)
        execution = None if at is not None else make_execution(job, farm=self.farm, **changes)
        await self.storage.jobs.submit(job, execution)

    async def _claim(self) -> None:
        queue = sorted(
            (one.position, one.id)
            for one in self.seen.values()
            if one.status is Status.ENQUEUED
            and one.position is not None
            and (one.definition.expires_at or self.now + 1) > self.now
        )
        active = sum(one.status in ACTIVE for one in self.seen.values())
        got = await self.storage.executions.claim(
            self.farm, host="h", owner="one", max_running=self.MAX_RUNNING, now=self.now
        )
        if not queue or active >= self.MAX_RUNNING:
            assert got is None
        else:
            assert got is not None
            assert got.id == queue[0][1]

    async def _change_job(self, event: str, job: Job) -> None:
        job = await self.storage.jobs.get(self.task_id, job.id)
        execution = make_execution(job, farm=self.farm)
        if event == "replace":
            await self.storage.jobs.submit(job, execution, replace=True)
        elif event == "retry job":
            await self.storage.jobs.retry(job, execution, now=self.now)
        elif event == "run beside":
            await self.storage.jobs.retry(job, execution, now=self.now, beside=True)
        else:
            await self.storage.jobs.stop(self.task_id, job.id, now=self.now)

    async def _reschedule(self, event: str, job: Job) -> None:
        job = await self.storage.jobs.get(self.task_id, job.id)
        reschedule = self.storage.jobs.reschedule
        if event == "pause" and job.scheduled:
            await reschedule(job, paused_at=self.now, next_run_at=None, now=self.now)
        elif event == "resume" and job.paused:
            await reschedule(job, paused_at=None, next_run_at=self.now + 3, now=self.now)
        elif event == "tick" and job.paused:
            late = dataclasses.replace(job, next_run_at=self.now)
            with pytest.raises(CompareFailed):
                await self._tick(late, self.now)
        elif event == "tick" and job.next_run_at is not None:
            await self._tick(job, job.next_run_at)
            self.ticked.add((job.id, job.next_run_at))

    async def _tick(self, job: Job, tick: float) -> None:
        execution = make_execution(job, farm=self.farm, tick=tick, trigger=Trigger.CRON)
        await self.storage.jobs.tick(job, execution, next_run_at=self.now + 5, now=self.now)

    async def _delete(self, event: str, execution: Execution, pick: int) -> None:
        deletions, job_id = self.storage.deletions, execution.job_id
        own = [one for one in self.seen.values() if one.job_id == job_id]
        options: dict[str, Any] = {"force": pick % 2 == 0, "now": self.now}
        if event == "delete job":
            await deletions.job(self.task_id, job_id, **options)
            assert options["force"] or all(one.final or one.id in self.deleted for one in own)
            self.deleted |= {job_id, *(one.id for one in own)}
        else:
            await deletions.execution(self.task_id, job_id, execution.id, **options)
            assert options["force"] or execution.final
            self.deleted.add(execution.id)

    async def _remove(self) -> None:
        found = await self.storage.deletions.removable(2, without=())
        for one in found:
            assert one.id in self.deleted
            assert one.final
        await self.storage.deletions.remove([one.id for one in found])
        await self.storage.deletions.remove_jobs(2)

    async def _shown(self, job: Job) -> list[Execution]:
        """The executions of a job; none of one that was deleted."""
        if job.id in self.deleted:
            with pytest.raises(NotFound):
                await self.storage.jobs.get(self.task_id, job.id)
            return []
        current = await self.storage.jobs.get(self.task_id, job.id)
        assert not (current.scheduled and current.paused_at)
        page = await self.storage.executions.of_job(job.id, PageRequest(size=1000))
        numbers = [execution.number for execution in page.items]
        assert numbers == sorted(set(numbers), reverse=True)
        assert all(1 <= number <= current.execution_count for number in numbers)
        assert page.total == len(numbers)
        # Nothing is missing but what was deleted.
        gone = [one for one in self.deleted if one in self.numbers.get(job.id, {})]
        assert current.execution_count == len(numbers) + len(gone)
        for one in page.items:
            self.numbers.setdefault(job.id, {})[one.id] = one.number
        return list(page.items)

    async def _act(self, event: str, execution: Execution) -> None:
        if event == "release":
            await self.storage.executions.release(execution.id, execution.epoch, now=NOW)
        elif event == "started":
            await self.storage.executions.started(
                execution.id, execution.epoch, run_id="c", started_at=self.now
            )
        else:
            retry = dataclasses.replace(
                make_execution(next(one for one in self.jobs if one.id == execution.job_id)),
                farm=self.farm,
                attempt=execution.attempt + 1,
                due_at=self.now + 3,
                generation=execution.generation,
            )
            await self.storage.executions.finish(
                execution.id,
                execution.epoch,
                FAILED,
                expected_stop=execution.stop_reason,
                retry=retry if event == "finish and retry" else None,
                finished_at=self.now,
            )

    async def look(self) -> None:
        before = self.seen
        self.seen = {}
        scheduled: list[float | None] = []
        for job in self.jobs:
            shown = await self._shown(job)
            assert self.deleted.isdisjoint(one.id for one in shown)
            self.seen |= {execution.id: execution for execution in shown}
            if job.id not in self.deleted:
                current = await self.storage.jobs.get(self.task_id, job.id)
                scheduled.append(current.next_run_at)
        for one in before:
            if one in self.deleted:
                with contextlib.suppress(NotFound):
                    self.seen[one] = await self.storage.executions.get(one)
        hidden = await self.storage.deletions.hidden(list(self.seen.values()))
        assert hidden == self.deleted & self.seen.keys()
        ticks = [(one.job_id, one.tick) for one in self.seen.values() if one.tick is not None]
        assert len(ticks) == len(set(ticks))
        assert self.ticked.issuperset(ticks)
        everything = self.seen.values()
        for execution in everything:
            earlier = before.get(execution.id, execution)
            assert execution.epoch >= earlier.epoch
            if earlier.final:
                assert execution == dataclasses.replace(earlier, deleted_at=execution.deleted_at)
            if execution.status is Status.ENQUEUED:
                waits = execution.waits_for is not None or execution.due_at is not None
                assert waits == (execution.position is None)
                if execution.waits_for is not None:
                    assert not self.seen[execution.waits_for].final
        places = [one.position for one in everything if one.position is not None]
        assert len(places) == len(set(places))
        enqueued = [one for one in everything if one.status is Status.ENQUEUED]
        active = [one for one in everything if one.status in ACTIVE]
        assert len(active) <= self.MAX_RUNNING
        overview = await self.storage.overview()
        assert overview.queued == sum(one.position is not None for one in enqueued)
        assert overview.delayed == sum(one.position is None for one in enqueued)
        assert overview.active == len(active)
        times = [one.due_at for one in enqueued if one.waits_for is None] + [
            one.definition.expires_at for one in enqueued
        ]
        assert await self.storage.next_due_at() == min(
            (at for at in (*times, *scheduled) if at is not None), default=None
        )

    async def calm_down(self) -> None:
        """Leave nothing unfinished behind for the next storm."""
        for execution_id in self.seen:
            await self.storage.executions.stop(execution_id, reason=Reason.STOPPED, now=self.now)
        await self.look()
        for execution in self.seen.values():
            if not execution.final:
                await self._act("finish", execution)
        await self.look()
        assert all(execution.final for execution in self.seen.values())
        with contextlib.suppress(NotFound):
            await self.storage.deletions.task(self.task_id, force=False, now=self.now)
        while await self.storage.deletions.removable(1, without=()):
            self.deleted |= self.seen.keys()
            await self._remove()
        while await self.storage.deletions.remove_jobs(10):
            pass
        # Nothing is left that cannot be removed.
        for execution_id in self.seen:
            with pytest.raises(NotFound):
                await self.storage.executions.get(execution_id)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    events=st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 20)), min_size=5, max_size=60)
)
async def test_any_order_of_events(storage: Storage, events: list[tuple[str, int]]) -> None:
    storm = Storm(storage)
    try:
        for event, pick in events:
            await storm.meet(event, pick)
    finally:
        await storm.look()
        await storm.calm_down()


# -- overlap, retries and counts --------------------------------------------------------------


async def run_tick(
    storage: Storage, job: Job, tick: float, *, skip: bool = False, max_waiting: int | None = None
) -> Execution | None:
    """Tick *job*, whatever its next tick is, and move it on by a minute."""
    job = await storage.jobs.get(job.task_id, job.id)
    assert job.next_run_at == tick
    return await storage.jobs.tick(
        job,
        None if skip else make_execution(job, tick=tick, trigger=Trigger.CRON),
        next_run_at=tick + 60,
        now=tick,
        skipped_tick=tick if skip else None,
        max_waiting=max_waiting,
    )


@pytest.mark.parametrize("max_waiting", [1, 3])
async def test_ticks_that_wait_beyond_the_bound_are_merged(
    storage: Storage, max_waiting: int
) -> None:
    job = make_job(next_run_at=NOW)
    await storage.jobs.submit(job, None)
    first = await run_tick(storage, job, NOW, max_waiting=max_waiting)
    assert first is not None
    active = await running(storage)
    waiting = [
        await run_tick(storage, job, NOW + 60 * n, max_waiting=max_waiting)
        for n in range(1, max_waiting + 1)
    ]
    assert len({one.id for one in waiting if one is not None}) == max_waiting
    stored = await storage.jobs.get("task", job.id)
    assert (stored.skipped_ticks, stored.last_skipped_tick) == (0, None)

    newest = waiting[-1]
    assert newest is not None
    for n in range(max_waiting + 1, max_waiting + 6):
        merged = await run_tick(storage, job, NOW + 60 * n, max_waiting=max_waiting)
        assert merged is not None
        assert (merged.id, merged.tick, merged.number) == (newest.id, NOW + 60 * n, newest.number)
        assert await storage.executions.get(newest.id) == merged
    stored = await storage.jobs.get("task", job.id)
    assert stored.skipped_ticks == 5
    assert stored.last_skipped_tick == NOW + 60 * (max_waiting + 4)
    assert stored.execution_count == 1 + max_waiting
    assert (await storage.executions.of_job(job.id, PageRequest())).total == 1 + max_waiting
    # With room again, a tick has an execution of its own.
    await finish(storage, active, DONE)
    assert await claim(storage, now=NOW + 1000) is not None
    later = await run_tick(storage, job, NOW + 60 * (max_waiting + 6), max_waiting=max_waiting)
    assert later is not None
    assert later.number == 2 + max_waiting


async def test_instances_that_tick_at_once_keep_the_bound(place: Place) -> None:
    storages = [place.storage()]
    if not isinstance(place, SqlitePlace):
        storages += [place.storage() for _ in range(2)]
    for storage in storages:
        await storage.open()
    try:
        job = make_job(next_run_at=NOW)
        await storages[0].jobs.submit(job, None)
        for n in range(8):
            current = await storages[0].jobs.get("task", job.id)

            async def tick(storage: Storage, current: Job, tick: float) -> None:
                with contextlib.suppress(CompareFailed):
                    await storage.jobs.tick(
                        current,
                        make_execution(current, tick=tick),
                        next_run_at=tick + 60,
                        now=tick,
                        max_waiting=2,
                    )

            await asyncio.gather(
                *(tick(one, current, NOW + 60 * n) for one in storages for _ in range(3))
            )
        assert (await storages[0].overview()).queued == 2
        stored = await storages[0].jobs.get("task", job.id)
        assert (stored.execution_count, stored.skipped_ticks) == (2, 6)
    finally:
        for storage in storages:
            await storage.close()


async def test_a_skipped_tick_is_counted(storage: Storage) -> None:
    job = make_job(next_run_at=NOW)
    await storage.jobs.submit(job, None)
    assert await run_tick(storage, job, NOW, skip=True) is None
    assert await run_tick(storage, job, NOW + 60, skip=True) is None
    assert await run_tick(storage, job, NOW + 120) is not None
    stored = await storage.jobs.get("task", job.id)
    assert (stored.skipped_ticks, stored.last_skipped_tick) == (2, NOW + 60)
    # A PUT changes the definition; what was skipped stays.
    replaced = (await storage.jobs.submit(make_job(id=job.id), None, replace=True)).job
    assert (replaced.skipped_ticks, replaced.last_skipped_tick) == (2, NOW + 60)


async def test_a_retry_is_found_by_what_it_follows(storage: Storage) -> None:
    execution = await submit(storage)
    assert await storage.executions.retry_of(execution.id) is None
    assert await storage.executions.retry_of(new_id()) is None
    active = await running(storage)
    job = await storage.jobs.get("task", execution.job_id)
    retry = make_execution(job, attempt=1, retry_of=execution.id, trigger=Trigger.RETRY)
    _, stored = await finish(storage, active, FAILED, retry=retry)
    assert stored is not None
    assert (stored.retry_of, stored.trigger) == (execution.id, Trigger.RETRY)
    assert await storage.executions.retry_of(execution.id) == stored
    assert await storage.executions.get(stored.id) == stored
    again = await running(storage)
    assert (again.id, again.retry_of, again.trigger) == (stored.id, execution.id, Trigger.RETRY)


async def test_active_executions_are_counted_by_farm_and_host(storage: Storage) -> None:
    assert await storage.executions.active_counts() == {}
    for farm, host, count in (("a", "h:1", 2), ("a", "h:2", 1), ("b", "h:1", 1)):
        for _ in range(count):
            await submit(storage, farm=farm)
            await storage.executions.claim(farm, host=host, owner="me", max_running=9, now=NOW)
    await submit(storage, farm="a")
    expected = {("a", "task", "h:1"): 2, ("a", "task", "h:2"): 1, ("b", "task", "h:1"): 1}
    assert await storage.executions.active_counts() == expected
    (first, *_) = await storage.executions.active(owner="me")
    await finish(storage, first, DONE)
    assert await storage.executions.active_counts() == expected | {("a", "task", "h:1"): 1}


# -- names ------------------------------------------------------------------------------------


async def test_a_name_is_unique_in_its_task(storage: Storage) -> None:
    job = make_job(name="nightly")
    first = await storage.jobs.submit(job, make_execution(job), replace=True)
    assert (first.job.id, first.job.name) == (job.id, "nightly")
    assert await storage.jobs.named("task", "nightly") == first.job
    other = make_job(name="nightly", definition=Definition.parse("busy:2", "true"))
    second = await storage.jobs.submit(other, make_execution(other), replace=True)
    assert (second.job.id, second.job.generation) == (job.id, 2)
    assert second.execution is not None
    assert (second.execution.job_id, second.execution.number) == (job.id, 2)
    assert second.job.definition.image.submitted == "busy:2"
    assert (await storage.tasks.get("task")).jobs_count == 1
    # By its id, it keeps its name.
    by_id = await storage.jobs.submit(make_job(id=job.id), None, replace=True)
    assert by_id.job.name == "nightly"
    elsewhere = make_job("other", name="nightly")
    assert (await storage.jobs.submit(elsewhere, None, replace=True)).job.id == elsewhere.id
    for task_id, name in (("task", "none"), ("none", "nightly")):
        with pytest.raises(NotFound):
            await storage.jobs.named(task_id, name)


async def test_the_name_of_a_deleted_job_is_free(storage: Storage) -> None:
    job = make_job(name="nightly", next_run_at=NOW)
    await storage.jobs.submit(job, None, replace=True)
    await storage.deletions.job("task", job.id, force=False, now=NOW)
    with pytest.raises(NotFound):
        await storage.jobs.named("task", "nightly")
    again = make_job(name="nightly", next_run_at=NOW)
    assert (await storage.jobs.submit(again, None, replace=True)).job.id == again.id
    await storage.deletions.task("task", force=False, now=NOW)
    third = make_job(name="nightly", next_run_at=NOW)
    assert (await storage.jobs.submit(third, None, replace=True)).job == third


async def test_who_comes_with_a_new_name_at_once_makes_one_job(place: Place) -> None:
    storages = [place.storage()]
    if not isinstance(place, SqlitePlace):
        storages += [place.storage() for _ in range(2)]
    for storage in storages:
        await storage.open()
    try:
        jobs = [make_job(name="nightly") for _ in range(9)]
        calls = [
            storages[n % len(storages)].jobs.submit(one, make_execution(one), replace=True)
            for n, one in enumerate(jobs)
        ]
        submitted, failed = await outcomes(calls)
        assert failed == []
        assert len({one.job.id for one in submitted}) == 1
        numbers = sorted(one.execution.number for one in submitted if one.execution)
        assert numbers == list(range(1, 10))
        assert (await storages[0].overview()).jobs == 1
    finally:
        for storage in storages:
            await storage.close()
