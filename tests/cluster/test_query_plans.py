"""No operation of the cluster storage, and no sweep, looks at what does not concern it.

Every operation runs once beside thousands of records of other jobs. Each command that it has sent
is explained by the server, which says how many keys and documents it looked at.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import pytest
from pymongo import MongoClient, monitoring

from fastlane.model import DeliveryState, LogCap, Stream
from fastlane.storage.base import ExecutionFilter, JobFilter, LogPlace, PageRequest
from fastlane.storage.mongo import ClusterStorage
from fastlane.storage.mongo.database import INDEXES
from fastlane.storage.mongo.log_reading import SIZES_AT_ONCE
from fastlane.storage.mongo.records import execution_doc
from tests.cluster.test_majority import lives, others, submits
from tests.contracts.test_storage import (
    FAILED,
    NOW,
    finish,
    make_execution,
    make_job,
    records,
    running,
)
from tests.contracts.test_storage import submit as submit_one
from tests.services import MongoServer
from tests.storage_calls import OPERATIONS, wrap

Database = Any

# Of each kind there are so many others.
OTHERS = 3000
# Bounds what a command may look at: the records of the test itself.
LOOKED_AT = 150
# What counts or reads all that is waiting or active, as its interface says.
READS_ALL = {
    "overview",
    "executions.active",
    "executions.active_counts",
    "executions.active_runs",
    "hosts.blacklist",
    # All that is active, by its index. The other indexes are looked at in test_list_plans.py.
    "lists.executions",
    "lists.jobs",
    "lists.last_of_tasks",
    "lists.times_of_task",
}
EXPLAINED = {"find", "aggregate", "count", "distinct", "findAndModify", "update", "delete"}
# What a driver adds to a command, and an explanation refuses.
ADDED = {"lsid", "$db", "txnNumber", "$clusterTime", "readConcern", "writeConcern", "maxTimeMS"}


class Commands(monitoring.CommandListener):
    """The commands that were sent while each operation ran."""

    def __init__(self) -> None:
        self.operation: str | None = None
        self.sent: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if self.operation is not None and event.command_name in EXPLAINED:
            self.sent[self.operation].append(dict(event.command))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing to note."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing to note."""

    def during(self, name: str) -> Callable[[Callable[..., Awaitable[Any]]], Any]:
        def around(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            async def run(*args: Any, **options: Any) -> Any:
                self.operation, before = name, self.operation
                try:
                    return await call(*args, **options)
                finally:
                    self.operation = before

            return run

        return around


@pytest.fixture
def database(mongo_server: MongoServer) -> Iterator[Database]:
    """A database of the test's own, with all the others in it."""
    with MongoClient[dict[str, Any]](mongo_server.url) as client:
        database = client["plans"]
        for name, indexes in INDEXES.items():
            if indexes:
                database[name].create_indexes(list(indexes))
        _fill(database)
        yield database
        client.drop_database("plans")


def _fill(database: Database) -> None:
    at = {"created_at": NOW, "modified_at": NOW}
    numbers = range(1, OTHERS + 1)
    base: list[dict[str, Any]] = [{"_id": f"other-{n}", "seq": n, "rev": 1} for n in numbers]

    def insert(collection: str, part: Callable[[int], Mapping[str, Any]], kind: str = "") -> None:
        database[collection].insert_many(
            [{**one, "_id": f"{one['_id']}{kind}", **part(one["seq"])} for one in base]
        )

    insert("tasks", lambda n: {"words": [f"w{n}"], "jobs_count": 1, **at})
    insert("jobs", lambda n: {"task_id": f"t{n}", "next_run_at": NOW + 1e6 + n}, "scheduled")
    insert("jobs", lambda n: {"task_id": f"t{n}"})
    insert("keys", lambda n: {"job_id": f"other-{n}"})
    insert("leases", lambda n: {"ends_at": NOW + 1e6})
    insert("logs", lambda n: {"last_seq": 1})
    insert("log_chunks", lambda n: {"execution": f"other-{n}", "last_seq": 1})
    insert("deliveries", lambda n: {"execution_id": f"other-{n}"})
    insert(
        "deliveries",
        lambda n: (
            {"execution_id": f"o{n}", "pending": "http://slow", "due_at": NOW + 1e6 + n}
            | {"due": NOW + 1e6 + n}
        ),
        "pending",
    )

    template = execution_doc(make_execution(make_job()), {"seq": 0})
    for name in ("_id", "seq", "rev", "delayed", "enqueued_of", "first_of_tick"):
        template.pop(name, None)

    def execution(n: int, **more: Any) -> dict[str, Any]:
        return {**template, "job_id": "other", "number": n, "farm": "other", **more}

    insert("executions", lambda n: execution(n, status="done", over=NOW + 1e6 + n))
    insert(
        "executions",
        lambda n: (
            execution(n + OTHERS, status="enqueued", queue=n, enqueued_of="other")
            | {"expires": NOW + 1e6 + n}
        ),
        "queued",
    )
    insert(
        "executions",
        lambda n: (
            execution(n + 2 * OTHERS, status="enqueued", enqueued_of="other", delayed=True)
            | {"due": NOW + 1e6 + n}
        ),
        "due",
    )
    insert(
        "executions",
        lambda n: (
            execution(n + 3 * OTHERS, status="running", active_owner="neighbour") | {"host": "h:9"}
        ),
        "active",
    )
    database.counters.insert_one({"_id": "sequence", "value": 10 * OTHERS})


async def test_no_command_looks_at_what_does_not_concern_it(
    mongo_server: MongoServer, database: Database
) -> None:
    commands = Commands()
    monitoring.register(commands)
    storage = ClusterStorage(mongo_server.url.replace("/fastlane", "/plans"))
    await storage.open()
    try:
        # Its own sweep would be taken for what an operation does.
        assert storage._sweeping is not None
        storage._sweeping.cancel()
        for name in OPERATIONS:
            wrap(storage, name, commands.during(name))
        await _exercise(storage)
        for _ in range(2):
            await commands.during("sweep")(storage._sweep.round)()
    finally:
        commands.operation = None
        await storage.close()
    lists = {name for name in OPERATIONS if name.startswith("lists.")}
    # Lists have bounds of their own (fastlane.storage.lists).
    assert set(commands.sent) >= set(OPERATIONS) - {"check", "observe"} - lists
    too_much = {
        f"{name}: {command}": seen
        for name, sent in commands.sent.items()
        for command in sent
        if (seen := _looked_at(database, command)) > LOOKED_AT and not _may_read_all(name, command)
    }
    assert not too_much, "\n".join(f"{seen} {what}" for what, seen in too_much.items())


def _may_read_all(name: str, command: Mapping[str, Any]) -> bool:
    if name == "sweep":
        # Which slots are in use is compared with all that is active.
        return bool(command.get("filter", {}).keys() == {"active_owner"})
    return name in READS_ALL


async def _exercise(storage: ClusterStorage) -> None:
    await storage.instances.beat("alive", now=NOW, lease_seconds=1e7)
    await storage.instances.beat("neighbour", now=NOW, lease_seconds=1e7)
    for operation in [*await others(storage), *await submits(storage), *await lives(storage)]:
        await operation.call(storage)
        await operation.holds(storage)
    page = PageRequest()
    execution = await submit_one(storage, "plan", farm="plan")
    await storage.executions.next_queued("plan", now=NOW)
    for fifo in (False, True):
        await storage.executions.ahead_of(execution, fifo=fifo, limit=100)
    active = await running(storage, farm="plan", owner="alive")
    for first in range(1, 60, 3):
        await storage.logs.append(
            active.id,
            active.epoch,
            records(first, first + 2, size=200_000),
            bookmark=str(first),
            cap=LogCap(250_000, 250_000),
        )
    await storage.logs.state(active.id)
    await storage.logs.read(active.id, after=10)
    await storage.logs.chunks(active.id, after=10, max_bytes=1000)
    await storage.logs.find(active.id, LogPlace.LINE, 20)
    await storage.logs.tails([(active.id, Stream.STDOUT)], max_bytes=1000)
    job = await storage.jobs.get("plan", execution.job_id)
    await finish(storage, active, FAILED, retry=make_execution(job, attempt=1, retry_of=active.id))
    await storage.executions.retry_of(active.id)
    await storage.executions.last_of_job(job.id)
    await storage.executions.of_job(job.id, page)
    await storage.executions.orphaned(["other"], after=0, limit=10)
    await asyncio.gather(storage.executions.active(owner="alive"))
    await storage.executions.active_runs()
    await storage.executions.queues(["farm"])
    await storage.executions.active_counts()
    await storage.lists.executions(ExecutionFilter("plan"), size=10)
    await storage.lists.jobs(JobFilter("plan"), size=10)
    await storage.lists.last_of_tasks(["plan"])
    await storage.lists.last_of_jobs([job.id])
    await storage.lists.names_of_jobs([job.id])
    await storage.lists.times_of_task("plan", 10)
    await storage.jobs.of_task("plan", page)
    await storage.jobs.due(NOW + 1000, 10)
    await storage.jobs.scheduled(10)
    await storage.tasks.get("plan")
    await storage.tasks.page(page)
    await storage.tasks.search("plan", page)
    await storage.outbox.next_due_at()
    await storage.outbox.in_state(DeliveryState.FAILED, page)
    await storage.outbox.of_executions([execution.id])
    await storage.hosts.all()
    await storage.instances.leave("nobody")
    await storage.overview()
    await storage.next_due_at()
    await storage.installation()
    await storage.clean_up(NOW + 3, 10)
    await _exercise_deletions(storage)


async def _exercise_deletions(storage: ClusterStorage) -> None:
    named = make_job("deleted", name="named", next_run_at=NOW + 1000)
    await storage.jobs.submit(named, None, replace=True)
    job = await storage.jobs.named("deleted", "named")
    job = await storage.jobs.reschedule(job, paused_at=NOW, next_run_at=None, now=NOW)
    first = await storage.jobs.retry(job, make_execution(job, farm="plan"), now=NOW, beside=True)
    await storage.jobs.retry(job, make_execution(job, farm="plan"), now=NOW, beside=True)
    deletions = storage.deletions
    await deletions.execution("deleted", job.id, first.id, force=True, now=NOW)
    await deletions.job("deleted", job.id, force=True, now=NOW)
    await submit_one(storage, "deleted", farm="plan")
    await deletions.task("deleted", force=True, now=NOW)
    found = await deletions.removable(10, without=())
    assert len(found) == 3
    assert len(await deletions.hidden(found)) == 3
    await deletions.remove([one.id for one in found])
    assert await deletions.remove_jobs(10) == 2


def _looked_at(database: Database, command: Mapping[str, Any]) -> int:
    """How many keys and documents the server looks at, the more of both."""
    plain = {name: value for name, value in command.items() if name not in ADDED}
    name = next(iter(plain))
    if name in {"update", "delete"}:
        # One at a time.
        each = [{**plain, f"{name}s": [one]} for one in plain[f"{name}s"]]
    else:
        each = [plain]
    seen = 0
    for one in each:
        for stats in _stats(database.command({"explain": one, "verbosity": "executionStats"})):
            seen = max(seen, stats["totalKeysExamined"], stats["totalDocsExamined"])
    return seen


def _stats(plan: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if "executionStats" in plan:
        return [plan["executionStats"]]
    return [stage["$cursor"]["executionStats"] for stage in plan["stages"] if "$cursor" in stage]


class Received(monitoring.CommandListener):
    """How many documents of the chunks of logs were received."""

    count = 0

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Nothing to note."""

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        cursor = event.reply.get("cursor", {})
        if str(cursor.get("ns", "")).endswith(".log_chunks"):
            self.count += len(cursor.get("firstBatch", cursor.get("nextBatch", ())))

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing to note."""


async def test_a_long_log_is_written_and_read_a_few_chunks_at_a_time(
    mongo_server: MongoServer, database: Database
) -> None:
    """Each page, each append and each tail went over all of them."""
    received, commands = Received(), Commands()
    storage = ClusterStorage(mongo_server.url.replace("/fastlane", "/plans"))
    monitoring.register(received)
    monitoring.register(commands)
    await storage.open()
    try:
        await submit_one(storage, "long", farm="long")
        execution = await running(storage, farm="long", owner="alive")
        count, size = 200, 64 * 1024
        for name in ("logs.append", "logs.read", "logs.tail"):
            wrap(storage, name, commands.during(name))

        async def append(first: int, cap: LogCap | None) -> None:
            some = records(first, first + 19, size=size)
            await storage.logs.append(execution.id, execution.epoch, some, bookmark="", cap=cap)

        for first in range(1, count, 20):
            await append(first, None)
        received.count = 0
        page = await storage.logs.read(execution.id, after=count // 2, max_bytes=size)
        assert [record.seq for record in page] == [count // 2 + 1]
        await storage.logs.tail(execution.id, Stream.STDOUT, max_bytes=size)
        assert received.count <= 2 * (SIZES_AT_ONCE + 2)
        looked = [
            _looked_at(database, command)
            for command in commands.sent["logs.append"]
            if "update" in command
        ]
        assert looked
        assert max(looked) <= SIZES_AT_ONCE
    finally:
        commands.operation = None
        await storage.close()
