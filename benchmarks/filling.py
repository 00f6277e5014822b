"""Storages that are full of ended executions, written past their interface and kept.

A million tasks by way of the interface would take hours. What is written is what the interface
would have, as far as it is read: the tests of the lists hold for these records too.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastlane.model import (
    ACTIVE,
    FINAL,
    Definition,
    Execution,
    Job,
    Outcome,
    Reason,
    Schedule,
    Status,
    Trigger,
)
from fastlane.stats import Step
from fastlane.storage.codec import EXECUTION_FIELDS, JOB_FIELDS, execution_values, job_values, words
from fastlane.storage.mongo import ClusterStorage
from fastlane.storage.mongo.records import execution_doc, job_doc
from fastlane.storage.sqlite import SqliteStorage
from fastlane.storage.sqlite.place import DATABASE_NAME

CACHE = Path(os.environ.get("FASTLANE_BENCH_CACHE", ".run/filled"))
"""Where filled SQLite files are kept; delete it after a change of the schema."""
DAYS = 30
BUSY_TASKS = 100
DEFINITION = Definition.parse(
    "registry.example.org/team/worker:1.4.2",
    "python -m work --shard 17 --verbose",
    envs={"STAGE": "production", "REGION": "eu-central-1"},
)
DONE = Outcome(Status.DONE, Reason.EXIT_CODE, exit_code=0)
NOW = 1_790_000_000.0


@dataclass(frozen=True)
class Size:
    """How much there is; every task has one job."""

    tasks: int
    executions: int


def task_name(number: int) -> str:
    return f"busy-{number:03}" if number < BUSY_TASKS else f"task-{number:07}-nightly"


def made_id(kind: int, number: int) -> str:
    """An id that looks as random as others, and is found again."""
    return str(
        uuid.UUID(int=(number * 0x9E3779B97F4A7C15 + kind) % 2**64 << 64 | 0x4000 << 64, version=4)
    )


def created_at(number: int, size: Size) -> float:
    """The *number*-th execution of all; the last one is made now."""
    return NOW - (size.executions - number) * DAYS * 86_400 / size.executions


def task_of(number: int, size: Size) -> int:
    """A tenth of all executions is of few tasks."""
    return number // 10 % BUSY_TASKS if number % 10 == 0 else number % size.tasks


def outcome(number: int, size: Size) -> tuple[Status, Reason | None]:
    left = size.executions - number
    if left < 8:
        return Status.RUNNING, None
    if left < 5_000 and left < size.executions // 20:
        return Status.ENQUEUED, None
    rest = number % 1000
    if rest < 35:
        return Status.FAILED, Reason.EXIT_CODE
    if rest < 38:
        return Status.FAILED, Reason.OOM
    if rest < 45:
        return Status.TIMEDOUT, Reason.TIMEOUT
    if rest < 48:
        return Status.EXPIRED, Reason.EXPIRED
    return Status.DONE, Reason.EXIT_CODE


def execution(number: int, size: Size) -> dict[str, Any]:
    """What differs between executions."""
    task, (status, reason) = task_of(number, size), outcome(number, size)
    at, ran = created_at(number, size), status is not Status.ENQUEUED
    return {
        "id": made_id(1, number),
        "task_id": task_name(task),
        "job_id": made_id(2, task),
        "farm": "gpu" if number % 13 == 0 else "default",
        "created_at": at,
        "queued_at": at,
        # Unique in the job, which is all that it has to be here.
        "number": number,
        "trigger": Trigger.MANUAL
        if number % 997 == 0
        else (Trigger.CRON, Trigger.SUBMIT)[number % 2],
        "status": status,
        "reason": reason,
        "position": number,
        "owner": "bench" if status in ACTIVE else None,
        "host": f"host-{number % 8}:2376" if ran else None,
        "started_at": at + 1 if ran else None,
        "finished_at": at + 1 + number % 90 if status in FINAL else None,
    }


def base_execution() -> Execution:
    return Execution(
        id="",
        task_id="",
        job_id="",
        definition=DEFINITION,
        farm="",
        created_at=0.0,
        queue_job_id=made_id(3, 1),
        epoch=1,
        run_id="0" * 64,
    )


def base_job() -> Job:
    return Job("", "", DEFINITION, Schedule(), NOW, NOW, made_id(3, 1))


# -- SQLite ---------------------------------------------------------------------------------------


async def filled_sqlite(size: Size) -> Path:
    """The data directory of a filled storage."""
    directory = CACHE / f"sqlite-{size.tasks}-{size.executions}"
    if (directory / "complete").exists():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    storage = SqliteStorage(directory)
    await storage.open()
    await storage.close()
    began = time.perf_counter()
    connection = sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)
    with contextlib.closing(connection):
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -500000")
        connection.execute("BEGIN EXCLUSIVE")
        _write(connection, size)
        connection.execute("COMMIT")
    print(f"filled    {directory} in {time.perf_counter() - began:.0f} s")
    (directory / "complete").touch()
    return directory


def _write(connection: sqlite3.Connection, size: Size) -> None:
    kept = connection.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE type IN ('index', 'trigger') "
        "AND sql IS NOT NULL"
    ).fetchall()
    for kind, name, _ in kept:
        connection.execute(f"DROP {kind} {name}")
    connection.executemany(
        "INSERT INTO tasks VALUES (?, ?, ?, ?, 1)",
        ((n + 1, task_name(n), NOW - 1e7 + n, NOW) for n in range(size.tasks)),
    )
    connection.executemany(
        "INSERT INTO words VALUES (?, ?)",
        ((word, n + 1) for n in range(size.tasks) for word in words(task_name(n))),
    )
    columns = ", ".join(JOB_FIELDS)
    marks = ", ".join("?" * len(JOB_FIELDS))
    connection.executemany(f"INSERT INTO jobs ({columns}) VALUES ({marks})", _jobs(size))
    columns = ", ".join(EXECUTION_FIELDS)
    marks = ", ".join("?" * len(EXECUTION_FIELDS))
    connection.executemany(f"INSERT INTO executions ({columns}) VALUES ({marks})", _rows(size))
    connection.execute(
        "UPDATE counters SET tasks = ?1, jobs = ?1, position = ?2", (size.tasks, size.executions)
    )
    _write_stats(connection)
    for kind, name, sql in kept:
        began = time.perf_counter()
        connection.execute(sql)
        if kind == "index" and name.startswith("executions"):
            print(f"indexed   {name} in {time.perf_counter() - began:.1f} s")


def _jobs(size: Size) -> Iterator[list[Any]]:
    values = job_values(base_job())
    places = [JOB_FIELDS.index(name) for name in ("task_id", "id", "execution_count")]
    for number in range(size.tasks):
        row = list(values)
        for place, value in zip(places, (task_name(number), made_id(2, number), 3), strict=True):
            row[place] = value
        yield row


def _rows(size: Size) -> Iterator[list[Any]]:
    values = execution_values(base_execution())
    places = {name: EXECUTION_FIELDS.index(name) for name in execution(1, size)}
    for number in range(1, size.executions + 1):
        row = list(values)
        for name, value in execution(number, size).items():
            row[places[name]] = str(value) if isinstance(value, str) else value
        yield row


def _write_stats(connection: sqlite3.Connection) -> None:
    histogram = json.dumps({str(bucket): 40 for bucket in range(20, 60)})
    for step, count in ((Step.HOUR, 400 * 24), (Step.MINUTE, 25 * 60)):
        last = int(NOW // step) * step
        connection.executemany(
            "INSERT INTO stats VALUES (?, '', ?, 100, 90, 8, 1, 1, ?, ?)",
            ((int(step), last - n * step, histogram, histogram) for n in range(count)),
        )


# -- MongoDB --------------------------------------------------------------------------------------

BATCH = 1_000


async def fill_mongo(storage: ClusterStorage, size: Size) -> None:
    """Fill the empty database that *storage* has open."""
    from pymongo import WriteConcern, timeout

    began, database = time.perf_counter(), storage._db
    job, one = base_job(), base_execution()

    def task_docs() -> Iterator[dict[str, Any]]:
        for n in range(size.tasks):
            name = task_name(n)
            yield {
                "_id": name,
                "seq": n + 1,
                "created_at": NOW - 1e7 + n,
                "modified_at": NOW,
                "jobs_count": 1,
                "words": sorted(words(name)),
                "rev": 1,
            }

    def job_docs() -> Iterator[dict[str, Any]]:
        base = job_doc(job, {"seq": 0})
        for n in range(size.tasks):
            yield {
                **base,
                "_id": made_id(2, n),
                "task_id": task_name(n),
                "seq": n + 1,
                "execution_count": 3,
            }

    def execution_docs() -> Iterator[dict[str, Any]]:
        base = execution_doc(one, {"seq": 0})
        derived = ("queue", "enqueued_of", "active_owner", "over", "first_of_tick")
        for name in derived:
            base.pop(name, None)
        for n in range(1, size.executions + 1):
            found = execution(n, size)
            status = found["status"]
            doc = {**base, **found, "_id": found["id"], "seq": n, "status": str(status)}
            del doc["id"]
            doc["reason"] = None if found["reason"] is None else str(found["reason"])
            doc["trigger"] = str(found["trigger"])
            if status is Status.ENQUEUED:
                doc |= {"queue": n, "enqueued_of": found["job_id"]}
            doc["active_owner"] = found["owner"]
            doc["over"] = found["finished_at"]
            yield {name: value for name, value in doc.items() if value is not None}

    for collection, docs in (
        (database.tasks, task_docs()),
        (database.jobs, job_docs()),
        (database.executions, execution_docs()),
    ):
        fast = collection.with_options(write_concern=WriteConcern(w=1))
        batch: list[dict[str, Any]] = []
        for doc in docs:
            batch.append(doc)
            if len(batch) == BATCH:
                with timeout(None):
                    await fast.insert_many(batch, ordered=False)
                batch = []
        if batch:
            await fast.insert_many(batch, ordered=False)
    print(f"filled    MongoDB with {size} in {time.perf_counter() - began:.0f} s")
