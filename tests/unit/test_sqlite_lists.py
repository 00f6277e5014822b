"""What SQLite reads for a page of a list, with 100,000 executions."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from fastlane.model import JobState, Reason, Status, Trigger
from fastlane.storage.base import ExecutionFilter, JobFilter
from fastlane.storage.lists import SORTED, Index, plan
from fastlane.storage.sqlite.connections import connect_writer
from fastlane.storage.sqlite.known import known
from fastlane.storage.sqlite.lists import INDEXES, Query, SqliteLists
from tests.contracts.test_storage import NOW

COUNT = 100_000
SIZE = 20
JOB = "00000000-0000-4000-8000-000000000007"
FAILED = frozenset({Status.FAILED})
FILTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "task": {"task_id": "rare"},
    "task, which has many": {"task_id": "many"},
    "task and status": {"task_id": "many", "statuses": FAILED},
    "task and since": {"task_id": "many", "since": NOW + 50_000},
    "job": {"job_id": JOB},
    "status": {"statuses": FAILED},
    "waiting": {"statuses": frozenset({Status.ENQUEUED})},
    "active": {"statuses": frozenset({Status.RUNNING, Status.PULLING})},
    "status and since": {"statuses": FAILED, "since": NOW + 50_000},
    "reason": {"reasons": frozenset({Reason.OOM})},
    "trigger": {"triggers": frozenset({Trigger.MANUAL})},
    "farm": {"farm": "gpu"},
    "host": {"host": "h:7"},
    "since": {"since": NOW + 99_000},
    "until": {"until": NOW + 90_000},
    "query": {"query": "rare"},
    "id": {"query": "00000011"},
    "beginning of few tasks that have many": {"task_prefix": "m"},
}
SEVERAL: dict[str, dict[str, Any]] = {
    "status, host and farm": {"statuses": FAILED, "host": "h:7", "farm": "nowhere"},
    "beginning of many": {"task_prefix": "t"},
    "words of many": {"query": "many"},
}
# Instructions of SQLite's machine: about ten for each entry and column that is read.
PAGE_STEPS, COUNT_STEPS, SCAN_STEPS = 60_000, 500_000, 2_000_000


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    connection = connect_writer(tmp_path_factory.mktemp("lists") / "x.db")
    connection.execute("PRAGMA synchronous = OFF")
    definition = '{"image":"a","command":"b","retries":0,"backoff":[1,2,3],"timeout_seconds":1}'
    connection.execute("BEGIN")
    connection.execute(
        f"""
        WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers LIMIT {COUNT})
        INSERT INTO executions (seq, id, task_id, job_id, definition, farm, created_at,
            queue_job_id, generation, number, attempt, trigger, status, reason, host, finished_at,
            epoch, owner)
        SELECT n + 1, printf('%08x', n),
            CASE WHEN n = 17 THEN 'rare' WHEN n % 2 THEN 'many' ELSE 't' || n END,
            iif(n % 10 = 3, '{JOB}', 'j' || n), '{definition}', iif(n % 9, 'default', 'gpu'),
            {NOW} + n, '', 1, n, 0, iif(n % 1000, 'submit', 'manual'),
            CASE WHEN n > {COUNT} - 5 THEN 'running' WHEN n % 100 = 99 THEN 'enqueued'
                WHEN n % 50 = 1 THEN 'failed' ELSE 'done' END,
            CASE WHEN n > {COUNT} - 5 OR n % 100 = 99 THEN NULL
                WHEN n % 500 = 1 THEN 'oom' ELSE 'exit-code' END,
            'h:' || (n % 8), {NOW} + n + 1, 1, 'me'
        FROM numbers
        """
    )
    connection.execute(
        "INSERT INTO tasks VALUES (1, 'rare', 1.0, 1.0, 1), (2, 'many', 1.0, 1.0, 1)"
    )
    names = [(f"t{number}",) for number in range(100)]
    connection.executemany("INSERT INTO tasks VALUES (NULL, ?, 1.0, 1.0, 1)", names)
    connection.execute("INSERT INTO words VALUES ('rare', 1), ('many', 2)")
    connection.execute("COMMIT")
    yield connection
    connection.close()


def steps(connection: sqlite3.Connection, call: Any) -> tuple[Any, int]:
    """What *call* returns, and about how many instructions it took."""
    taken = 0

    def count() -> int:
        nonlocal taken
        taken += 100
        return 0

    connection.set_progress_handler(count, 100)
    try:
        return call(), taken
    finally:
        connection.set_progress_handler(None, 0)


def read(connection: sqlite3.Connection, wanted: ExecutionFilter, after: str | None) -> Any:
    return SqliteLists.executions.__wrapped__(  # type: ignore[attr-defined]
        None, connection, wanted, size=SIZE, after=after
    )


@pytest.mark.parametrize("name", [*FILTERS, *SEVERAL])
def test_a_page_reads_a_page(connection: sqlite3.Connection, name: str) -> None:
    wanted = ExecutionFilter(**{**FILTERS, **SEVERAL}[name])
    middle = str(COUNT // 2) if name == "job" else f"{NOW + COUNT / 2!r}_{COUNT // 2}"
    for after in (None, middle):
        page, taken = steps(connection, lambda after=after: read(connection, wanted, after))
        assert page.items or after or name in {"status, host and farm"}, name
        if name in FILTERS:
            counted = page.total is not None
            assert taken <= PAGE_STEPS + counted * COUNT_STEPS, (name, after, taken)
            assert len(page.items) == SIZE or page.next_cursor is None, (name, after)
        else:
            assert taken <= SCAN_STEPS, (name, after, taken)


@pytest.mark.parametrize("name", [*FILTERS, *SEVERAL])
def test_ranges_of_an_index_are_read_in_order(connection: sqlite3.Connection, name: str) -> None:
    wanted = ExecutionFilter(**{**FILTERS, **SEVERAL}[name])
    for scan in plan(wanted, known(connection, wanted)):
        index, _ = INDEXES[scan.index]
        key = (COUNT,) if scan.index is Index.JOB else (NOW + COUNT, COUNT)
        query, values = Query(scan, wanted).entries(key)
        found = connection.execute(f"EXPLAIN QUERY PLAN {query}", (*values, 10)).fetchall()
        lines = [line for *_, line in found]
        reads = [line for line in lines if "executions" in line]
        assert reads, lines
        for line in reads:
            assert re.search(rf"SEARCH executions USING (COVERING )?INDEX {index} \(", line) or (
                scan.index in SORTED
            ), lines
        sorts = [line for line in lines if "TEMP B-TREE" in line]
        assert bool(sorts) <= (scan.index in SORTED), lines


@pytest.mark.parametrize("state", JobState)
def test_the_list_of_jobs_is_bounded(connection: sqlite3.Connection, state: JobState) -> None:
    wanted = JobFilter(state=state)
    page, taken = steps(
        connection,
        lambda: SqliteLists.jobs.__wrapped__(None, connection, wanted, size=SIZE),  # type: ignore[attr-defined]
    )
    assert page.items == []
    assert taken <= SCAN_STEPS
