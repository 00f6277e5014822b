"""Data that the release before has written: everything is read, continued, retried and stopped.

``tests/fixtures/storage-4f86ea2.*`` were written by the code of that commit, which knew neither
``trigger``, ``retry_of`` and ``lost_reruns`` nor ``skipped_ticks``: the SQL of a file,
and the documents of a database, one of which has a follow-up that was left undone.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastlane.bus.local import Bus
from fastlane.errors import StorageUnavailable
from fastlane.lifecycle import Lifecycle
from fastlane.model import (
    Backoff,
    Execution,
    Farm,
    HostRecord,
    LogRecord,
    Overlap,
    PullPolicy,
    Reason,
    Resources,
    Status,
    Stream,
    Trigger,
)
from fastlane.storage.base import IdempotencyKey, LogPlace, Storage
from fastlane.storage.sqlite import SqliteStorage, schema
from fastlane.storage.sqlite.connections import connect_writer
from fastlane.storage.sqlite.place import DATABASE_NAME
from tests.contracts.test_storage import (
    DONE,
    NOW,
    PLACES,
    ClusterPlace,
    Place,
    finish,
    make_execution,
    make_job,
    whole_log,
)

FIXTURE = Path(__file__).parents[1] / "fixtures" / "storage-4f86ea2"
LATER = NOW + 1000


def old_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


DONE_JOB, DONE_RUN = old_id(1), old_id(3)
RETRIED_JOB, FIRST, SECOND, THIRD = old_id(4), old_id(6), old_id(7), old_id(8)
CRON_JOB, CRON_RUN, CRON_WAITING = old_id(9), old_id(11), old_id(12)
LATER_JOB, LATER_RUN = old_id(13), old_id(15)
STOPPED_RUN = old_id(20)


def write_old_file(data_dir: Path) -> None:
    data_dir.mkdir(exist_ok=True)
    connection = sqlite3.connect(data_dir / DATABASE_NAME)
    connection.executescript(FIXTURE.with_suffix(".sql").read_text())
    connection.close()


def write_old_documents(url: str) -> None:
    from bson import json_util
    from pymongo import MongoClient

    found = json_util.loads(FIXTURE.with_suffix(".json").read_text())
    with MongoClient[dict[str, Any]](url) as client:
        database = client.get_default_database()
        for name, docs in found.items():
            database[name].delete_many({})
            database[name].insert_many(docs)


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    place: Place = request.param(request)
    if isinstance(place, ClusterPlace):
        write_old_documents(place._mongodb_url)
    else:
        write_old_file(tmp_path / "data")
    return place


@pytest.fixture
async def storage(place: Place) -> AsyncIterator[Storage]:
    storage = place.storage()
    await storage.open()
    yield storage
    await storage.close()


@pytest.fixture
def lifecycle(storage: Storage) -> Lifecycle:
    farms = [Farm("default", ("host:1",), 100)]
    return Lifecycle(storage, Bus(), clock=lambda: LATER, farms=farms, instance="new")


async def get(storage: Storage, execution_id: str) -> Execution:
    return await storage.executions.get(execution_id)


async def test_everything_is_read(storage: Storage) -> None:
    first = await get(storage, FIRST)
    definition = first.definition
    assert definition.image.submitted == "registry:5000/a/b:1"
    assert definition.command.argv == ("sh", "-c", "exit 1")
    assert (definition.envs, definition.custom) == ({"A": "b"}, {"n": [1]})
    assert (definition.retries, definition.backoff) == (3, Backoff(1000, 2, 5000))
    assert (definition.overlap, definition.max_waiting) == (Overlap.QUEUE, 1)
    assert definition.resources == Resources(0.5, 1 << 20, 10)
    assert definition.pull_policy is PullPolicy.NEVER
    assert definition.rerun_when_lost
    assert definition.dns_entries == {"db": "10.0.0.7"}
    assert (first.status, first.reason, first.exit_code) == (Status.FAILED, Reason.EXIT_CODE, 1)
    done = await storage.jobs.get("done", DONE_JOB)
    assert done.definition.command.argv == ("echo", "two words")
    assert (done.skipped_ticks, done.last_skipped_tick) == (0, None)
    log = await whole_log(storage, await get(storage, DONE_RUN))
    assert [(record.stream, record.data[:6]) for record in log] == [
        (Stream.STDOUT, b"hello\n"),
        (Stream.STDERR, b"oops\n"),
        (Stream.STDOUT, b"xxxxxx"),
        (Stream.STDOUT, b"xxxxxx"),
    ]
    # Nobody had counted its lines.
    assert [record.line for record in log] == [1, 2, 3, 4]
    assert await storage.logs.find(DONE_RUN, LogPlace.LINE, 3) in {0, 2}
    notified = await storage.outbox.of_executions([FIRST, SECOND])
    assert {(one.event, one.channel) for one in notified} == {
        ("fails", "email"),
        ("finishes", "webhook"),
    }
    assert list(await storage.hosts.all()) == [
        HostRecord("host:1", 2, "no route", NOW + 5),
        HostRecord("host:2", blacklisted=True),
    ]
    repeat = make_job("done")
    key = IdempotencyKey("key", "print")
    answer = await storage.jobs.submit(repeat, make_execution(repeat), idempotency=key)
    assert answer.repeated
    assert answer.job.id == DONE_JOB
    overview = await storage.overview()
    assert (overview.active, overview.scheduled) == (1, 2)


async def test_a_retry_is_found_by_what_it_follows(storage: Storage) -> None:
    for failed, retry in ((FIRST, SECOND), (SECOND, THIRD)):
        found = await storage.executions.retry_of(failed)
        assert found is not None
        assert found.id == retry
    for execution in (THIRD, DONE_RUN, CRON_RUN, STOPPED_RUN):
        assert await storage.executions.retry_of(execution) is None


async def test_triggers_are_worked_out(place: Place, storage: Storage) -> None:
    triggers = {
        DONE_RUN: Trigger.SUBMIT,
        FIRST: Trigger.SUBMIT,
        SECOND: Trigger.RETRY,
        CRON_RUN: Trigger.CRON,
        CRON_WAITING: Trigger.CRON,
    }
    if not isinstance(place, ClusterPlace):
        # The migration of a file looks at more than the one record.
        triggers |= {THIRD: Trigger.LOST, LATER_RUN: Trigger.SCHEDULE}
    for execution_id, trigger in triggers.items():
        assert (await get(storage, execution_id)).trigger is trigger


async def test_a_stop_ends_the_retries(storage: Storage, lifecycle: Lifecycle) -> None:
    await lifecycle.stop_execution("retried", RETRIED_JOB, FIRST)
    third = await get(storage, THIRD)
    assert (third.status, third.reason) == (Status.FAILED, Reason.STOPPED)
    job = await lifecycle.stop_job("cron", CRON_JOB)
    assert not job.scheduled
    assert (await get(storage, CRON_WAITING)).reason is Reason.STOPPED
    assert (await get(storage, CRON_RUN)).stop_reason is None


async def test_retries_go_ahead(storage: Storage, lifecycle: Lifecycle) -> None:
    assert await lifecycle.queue_due(10) >= 1
    third = await get(storage, THIRD)
    assert third.position is not None
    again = await lifecycle.retry_job("done", DONE_JOB)
    assert (again.number, again.trigger) == (2, Trigger.MANUAL)


async def test_what_runs_is_adopted_and_continued(storage: Storage, lifecycle: Lifecycle) -> None:
    (adopted,) = await lifecycle.adopt(10)
    assert (adopted.id, adopted.owner, adopted.host) == (CRON_RUN, "new", "host:1")
    assert await storage.executions.active_counts() == {("default", "cron", "host:1"): 1}
    more = LogRecord(2, LATER, Stream.STDOUT, b"more\n")
    await storage.logs.append(adopted.id, adopted.epoch, [more], bookmark="2", cap=None)
    log = await whole_log(storage, adopted)
    assert [(one.data, one.line) for one in log] == [(b"running\n", 1), (b"more\n", 2)]
    await finish(storage, adopted, DONE, finished_at=LATER)
    assert (await get(storage, CRON_WAITING)).position is not None


async def test_a_schedule_continues(storage: Storage, lifecycle: Lifecycle) -> None:
    (job,) = await storage.jobs.due(LATER, 10)
    assert job.id == CRON_JOB
    merged = await lifecycle.run_tick(job)
    assert merged is not None
    assert merged.id == CRON_WAITING
    after = await storage.jobs.get("cron", CRON_JOB)
    assert (after.skipped_ticks, after.last_skipped_tick) == (1, NOW + 60)


@pytest.mark.parametrize(
    "statement", ["SELECT no_such_column FROM jobs;", "CREATE TABLE jobs (x);"]
)
async def test_a_migration_that_broke_off_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    write_old_file(tmp_path)
    whole = schema.MIGRATIONS
    for broken in range(3, len(whole)):
        scripts = (*whole[:broken], whole[broken] + statement)
        monkeypatch.setattr(schema, "MIGRATIONS", scripts)
        with pytest.raises(StorageUnavailable):
            await SqliteStorage(tmp_path).open()
    monkeypatch.setattr(schema, "MIGRATIONS", whole)
    for _ in range(2):
        storage = SqliteStorage(tmp_path)
        await storage.open()
        found = await storage.executions.retry_of(FIRST)
        assert found is not None
        assert found.id == SECOND
        await storage.close()


def test_a_migrated_file_has_the_tables_of_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    write_old_file(tmp_path / "old")
    found = []
    for name in ("old", "new"):
        connection = connect_writer(tmp_path / name / DATABASE_NAME)
        found.append(
            connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()
        )
        connection.close()
    assert found[0] == found[1]


@pytest.mark.cluster
async def test_a_follow_up_of_the_release_before_is_completed(
    request: pytest.FixtureRequest,
) -> None:
    place = ClusterPlace(request)
    write_old_documents(place._mongodb_url)
    storage = place.storage()
    await storage.open()
    try:
        docs = json.loads(FIXTURE.with_suffix(".json").read_text())["executions"]
        (crashed,) = [doc for doc in docs if "todo" in doc]
        retry = await storage.executions.retry_of(crashed["_id"])
        assert retry is not None
        assert retry.id == crashed["todo"]["retry"]["_id"]
        assert retry.number == 2
    finally:
        await storage.close()


@pytest.mark.cluster
async def test_fields_that_a_later_release_has_added_stay(request: pytest.FixtureRequest) -> None:
    from pymongo import MongoClient

    place = ClusterPlace(request)
    write_old_documents(place._mongodb_url)
    with MongoClient[dict[str, Any]](place._mongodb_url) as client:
        database = client.get_default_database()
        for collection in (database.jobs, database.executions, database.deliveries):
            collection.update_many({}, {"$set": {"from_the_future": 1}})
        storage = place.storage()
        await storage.open()
        try:
            await storage.jobs.stop("cron", CRON_JOB, now=LATER)
            (adopted,) = await storage.instances.adopt("new", now=LATER, limit=1)
            await finish(storage, adopted, DONE)
            due = await storage.outbox.claim(
                now=LATER, claim_seconds=1, limit=1, per_receiver=1, busy={}
            )
            for delivery in due:
                await storage.outbox.unclaim(delivery.id, delivery.claim)
        finally:
            await storage.close()
        for collection, document_id in (
            (database.jobs, CRON_JOB),
            (database.executions, CRON_RUN),
            (database.executions, CRON_WAITING),
            (database.deliveries, due[0].id),
        ):
            found = collection.find_one({"_id": document_id})
            assert found is not None
            assert found["from_the_future"] == 1
