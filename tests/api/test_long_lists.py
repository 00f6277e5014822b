"""Pages cost the same at the end of a long list as at its start, and counts scan nothing.

Proved by the steps of SQLite's virtual machine, which do not depend on how busy the machine is.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from fastlane.config import Config
from fastlane.model import Definition
from fastlane.storage.base import PageRequest
from fastlane.storage.codec import definition_text
from fastlane.storage.sqlite import SqliteStorage, executions, jobs, tasks
from fastlane.storage.sqlite.connections import connect_reader, connect_writer
from fastlane.storage.sqlite.executions import SqliteExecutions
from fastlane.storage.sqlite.jobs import SqliteJobs
from fastlane.storage.sqlite.place import DATABASE_NAME
from fastlane.storage.sqlite.tasks import SqliteTasks
from tests.api.contract import Contract
from tests.api.http_site import Site, StillServer
from tests.fakes import MemoryExecutor

T = TypeVar("T")

TASKS = 100_000
EXECUTIONS = 100_000
# One task has this many jobs.
JOBS = 1_000
NOW = 1_700_000_000.0
LONG_JOB = "00000000-0000-4000-8000-000000000001"
# How much dearer a page may be than the first: what a B-tree's depth and a partial page can make.
TOLERANCE = 1.5


@pytest.fixture(scope="session")
def long_lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with 100,000 tasks, and a job with 100,000 executions."""
    data_dir = tmp_path_factory.mktemp("long")
    # Executions without it would be those of an installation that has lost its name.
    (data_dir / "installation").write_text("0" * 32)
    connection = connect_writer(data_dir / DATABASE_NAME)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO tasks (id, created_at, modified_at, jobs_count) VALUES (?, ?, ?, ?)",
        (
            (f"task-{number}", NOW + number, NOW + number, JOBS if number == 0 else 0)
            for number in range(TASKS)
        ),
    )
    connection.executemany(
        "INSERT INTO words (word, task) VALUES (?, ?)",
        sorted((word, seq) for seq in range(1, TASKS + 1) for word in ("task", str(seq - 1))),
    )
    definition = definition_text(Definition.parse(image="busy:latest", command="true"))
    connection.executemany(
        "INSERT INTO jobs (id, task_id, definition, timezone, created_at, modified_at,"
        " queue_job_id, generation, execution_count) VALUES (?, 'task-0', ?, 'UTC', ?, ?, ?, 1, ?)",
        (
            (
                LONG_JOB if number == 0 else str(uuid.UUID(int=number + 1, version=4)),
                definition,
                NOW,
                NOW,
                LONG_JOB,
                EXECUTIONS if number == 0 else 0,
            )
            for number in range(JOBS)
        ),
    )
    connection.executemany(
        "INSERT INTO executions (id, task_id, job_id, definition, farm, created_at, queue_job_id,"
        " generation, number, attempt, status, reason, exit_code, started_at, finished_at, epoch)"
        " VALUES (?, 'task-0', ?, ?, 'default', ?, ?, 1, ?, 0, 'done', 'exit-code', 0, ?, ?, 1)",
        (
            (
                str(uuid.UUID(int=number, version=4)),
                LONG_JOB,
                definition,
                NOW + number,
                LONG_JOB,
                number,
                NOW + number,
                NOW + number,
            )
            for number in range(1, EXECUTIONS + 1)
        ),
    )
    connection.execute("COMMIT")
    connection.close()
    return data_dir


def query(operation: Any, /, **arguments: Any) -> Callable[..., Any]:
    """What *operation* of a facet does with a connection of a reader's."""
    return partial(operation.__wrapped__, None, **arguments)


@pytest.fixture
def reader(long_lists: Path) -> Any:
    connection = connect_reader(long_lists / DATABASE_NAME)
    yield connection
    connection.close()


def steps(
    connection: sqlite3.Connection, query: Callable[[sqlite3.Connection], T]
) -> tuple[T, int]:
    """What *query* returns, and how many steps of the virtual machine it took."""
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    connection.set_progress_handler(step, 1)
    try:
        found = query(connection)
    finally:
        connection.set_progress_handler(None, 1)
    return found, count


@pytest.mark.parametrize(
    ("listing", "size", "total"),
    [
        (query(SqliteTasks.page), 10, TASKS),
        (query(SqliteJobs.of_task, task_id="task-0"), 100, JOBS),
        (query(SqliteExecutions.of_job, job_id=LONG_JOB), 20, EXECUTIONS),
    ],
    ids=["tasks", "jobs", "executions"],
)
def test_each_page_costs_what_the_first_does(
    reader: sqlite3.Connection, listing: Any, size: int, total: int
) -> None:
    first, cost = steps(reader, partial(listing, page=PageRequest(size=size)))
    assert first.total == total
    seen, page, number, dearest = len(first.items), first, 1, 0
    ids = {item.id for item in first.items}
    while page.next_cursor is not None:
        number += 1
        request = PageRequest(number=number, size=size, after=page.next_cursor)
        if number % 500 == 0 or total - seen <= 2 * size:
            page, here = steps(reader, partial(listing, page=request))
            dearest = max(dearest, here)
        else:
            page = listing(reader, page=request)
        seen += len(page.items)
        ids.update(item.id for item in page.items)
    assert seen == len(ids) == total
    assert 0 < dearest <= cost * TOLERANCE


@pytest.mark.parametrize(
    "counting",
    [
        query(SqliteStorage.overview),
        lambda connection: connection.execute(tasks.TASKS_TOTAL).fetchone(),
        lambda connection: connection.execute(jobs.JOBS_TOTAL, ("task-0",)).fetchone(),
        lambda connection: connection.execute(executions.EXECUTIONS_TOTAL, (LONG_JOB,)).fetchone(),
        query(SqliteExecutions.last_of_job, job_id=LONG_JOB),
        query(SqliteJobs.scheduled, limit=100),
        query(SqliteExecutions.active, owner="me"),
        query(SqliteStorage.next_due_at),
    ],
    ids=["overview", "tasks", "jobs", "executions", "last", "scheduled", "active", "due"],
)
def test_counts_are_no_scans(reader: sqlite3.Connection, counting: Any) -> None:
    _, cost = steps(reader, counting)
    # A scan of 100,000 rows takes several steps for each.
    assert cost < 200


def test_the_counters_are_right(reader: sqlite3.Connection) -> None:
    """What stands for the counts in the tests above is what a scan would have found."""
    counted = [
        reader.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        for table in ("tasks", "jobs", "executions")
    ]
    assert counted == [TASKS, JOBS, EXECUTIONS]
    assert query(SqliteStorage.overview)(reader).tasks == TASKS


def test_a_search_costs_by_what_it_finds(reader: sqlite3.Connection) -> None:
    search = query(SqliteTasks.search, query="777 nothing", page=PageRequest())
    found, cost = steps(reader, search)
    assert [task.id for task in found.items] == ["task-777"]
    assert cost < 500


# -- over HTTP ------------------------------------------------------------------------------------


@pytest.fixture
async def long_site(long_lists: Path) -> AsyncIterator[Site]:
    executor = MemoryExecutor()
    storage = SqliteStorage(long_lists)
    server = StillServer(Config(port=0, data_dir=long_lists), executor=executor, storage=storage)
    await server.start()
    site = Site(server, executor)
    yield site
    await site.close()


def of_tasks(body: Any) -> list[str]:
    return [item["taskId"] for item in body["items"]]


def of_jobs(body: Any) -> list[str]:
    return [item["id"] for item in body["jobs"]]


def of_executions(body: Any) -> list[str]:
    return [item["executionId"] for item in body["job"]["executions"]]


@pytest.mark.parametrize(
    ("path", "first_page", "ids", "left", "total"),
    [
        ("/tasks/?perPage=100", 1, of_tasks, TASKS, TASKS),
        ("/tasks/task-0/", 1, of_jobs, JOBS, JOBS),
        (f"/tasks/task-0/jobs/{LONG_JOB}/", 1, of_executions, 200, EXECUTIONS),
        # The last ten pages: the cursor is the number of the last execution before them.
        (
            f"/tasks/task-0/jobs/{LONG_JOB}/?page=4991&after=201",
            4991,
            of_executions,
            200,
            EXECUTIONS,
        ),
    ],
    ids=["tasks", "jobs", "newest executions", "oldest executions"],
)
async def test_next_url_leads_to_the_end(
    long_site: Site,
    path: str,
    first_page: int,
    ids: Callable[[Any], list[str]],
    left: int,
    total: int,
) -> None:
    contract = Contract()
    seen: list[str] = []
    url: str | None = path
    page = first_page
    while url is not None and len(seen) < left:
        answer = await long_site.get(url)
        body = answer.json
        if page == first_page or not body["hasNext"]:
            asked = url.removeprefix(long_site.base)
            contract.check("GET", asked, answer.status, answer.headers, answer.body)
        assert body["page"] == page
        assert body["total"] == total
        assert body["hasNext"] is (body["nextUrl"] is not None)
        assert body["hasNext"] is (page < body["pages"])
        seen += ids(body)
        url = body["nextUrl"]
        page += 1
    assert len(seen) == len(set(seen)) == left
