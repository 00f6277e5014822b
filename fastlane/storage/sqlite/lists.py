"""Lists over all tasks in SQLite.

The ranges of a scan are the arms of one compound query, which SQLite merges as it reads them. The
records are read only as far as the page goes.
"""

# ruff: noqa: S608 (what is put into a query is a constant of this package)

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from fastlane.model import Execution
from fastlane.storage.base import ExecutionFilter, JobFilter, ListedJob, Listing, Lists
from fastlane.storage.lists import (
    COLUMNS,
    MOST_COUNTED,
    MOST_READ,
    SORTED,
    Index,
    Key,
    Part,
    RunTimes,
    Scan,
    can_count,
    counted,
    key_after,
    merged,
    plan,
)
from fastlane.storage.sqlite.changes import executions
from fastlane.storage.sqlite.facet import Facet, on_reader
from fastlane.storage.sqlite.job_list import listed_jobs
from fastlane.storage.sqlite.known import known, prefix_range
from fastlane.storage.sqlite.records import EXECUTION_COLUMNS, Row, execution_from

_ENDED = "status IN ('done', 'failed', 'timedout', 'expired')"
_ENQUEUED = "status = 'enqueued'"
INDEXES: Mapping[Index, tuple[str, str]] = {
    Index.CREATED: ("executions_created", "TRUE"),
    Index.ENDED: ("executions_ended", _ENDED),
    Index.ENDED_OF_TASK: ("executions_ended_of_task", _ENDED),
    Index.WAITING: ("executions_enqueued_at", _ENQUEUED),
    Index.WAITING_OF_TASK: ("executions_enqueued_of_task", _ENQUEUED),
    Index.ACTIVE: ("executions_active", "status IN ('pulling', 'running')"),
    Index.ORIGIN: ("executions_origin", "TRUE"),
    Index.HOST: ("executions_host", "host IS NOT NULL"),
    Index.JOB: ("executions_of_job", "TRUE"),
    Index.RUNS: ("executions_of_job", "TRUE"),
    # What the UNIQUE of the table has made.
    Index.ID: ("sqlite_autoindex_executions_1", "TRUE"),
    Index.ENDED_OF_TASKS: ("executions_ended_of_task", _ENDED),
    Index.WAITING_OF_TASKS: ("executions_enqueued_of_task", _ENQUEUED),
}
"""The name of each, and what holds for all that are in it."""
HAS_WORDS = """
FROM tasks JOIN words ON words.task = tasks.seq
WHERE tasks.id = executions.task_id AND word IN (SELECT value FROM json_each(?))
"""
SHOWN = """executions.deleted_at IS NULL AND executions.job_id NOT IN (
    SELECT id FROM jobs INDEXED BY jobs_deleted WHERE deleted_at IS NOT NULL
)"""
"""What was not deleted."""
HIDDEN = """
SELECT seq FROM executions INDEXED BY executions_deleted WHERE deleted_at IS NOT NULL
UNION ALL SELECT executions.seq FROM jobs INDEXED BY jobs_deleted
CROSS JOIN executions INDEXED BY executions_of_job ON job_id = jobs.id
WHERE jobs.deleted_at IS NOT NULL
"""
"""What was deleted; it reads indexes only."""
COUNT_HIDDEN = f"SELECT count(*) FROM ({HIDDEN} LIMIT ?)"
_TIMES = "status, created_at, queued_at, started_at, finished_at"
LAST_OF_JOBS = f"""
SELECT {EXECUTION_COLUMNS} FROM (SELECT value AS wanted FROM json_each(?))
CROSS JOIN executions INDEXED BY executions_of_job ON job_id = wanted AND number = (
    SELECT max(number) FROM executions AS newer
    WHERE newer.job_id = wanted AND newer.deleted_at IS NULL
)
"""
NAMES_OF_JOBS = """
SELECT id, name FROM jobs WHERE id IN (SELECT value FROM json_each(?)) AND name IS NOT NULL
"""


class SqliteLists(Facet, Lists):
    """:class:`fastlane.storage.base.Lists` in SQLite."""

    @on_reader
    def executions(
        self,
        connection: sqlite3.Connection,
        wanted: ExecutionFilter,
        *,
        size: int,
        after: str | None = None,
    ) -> Listing[Execution]:
        scans = plan(wanted, known(connection, wanted))
        items, cursor = _page(connection, wanted, scans, size, key_after(after, scans))
        hidden: int = connection.execute(COUNT_HIDDEN, (MOST_COUNTED + 1,)).fetchone()[0]
        if not can_count(wanted, scans, hidden):
            return Listing(items, cursor)
        counts = [Query(scan, wanted).count(connection, hidden) for scan in scans]
        return Listing(items, cursor, *counted(counts))

    @on_reader
    def jobs(
        self,
        connection: sqlite3.Connection,
        wanted: JobFilter,
        *,
        size: int,
        after: str | None = None,
    ) -> Listing[ListedJob]:
        return listed_jobs(connection, wanted, size, after)

    @on_reader
    def last_of_tasks(
        self, connection: sqlite3.Connection, task_ids: Sequence[str]
    ) -> Mapping[str, Execution]:
        found: dict[str, Execution] = {}
        for task_id in task_ids:
            wanted = ExecutionFilter(task_id)
            for one in _page(connection, wanted, plan(wanted), 1, None)[0]:
                found[task_id] = one
        return found

    @on_reader
    def last_of_jobs(
        self, connection: sqlite3.Connection, job_ids: Sequence[str]
    ) -> Mapping[str, Execution]:
        found = executions(connection, LAST_OF_JOBS, (json.dumps(list(job_ids)),))
        return {one.job_id: one for one in found}

    @on_reader
    def names_of_jobs(
        self, connection: sqlite3.Connection, job_ids: Sequence[str]
    ) -> Mapping[str, str]:
        return dict(connection.execute(NAMES_OF_JOBS, (json.dumps(list(job_ids)),)).fetchall())

    @on_reader
    def times_of_task(
        self, connection: sqlite3.Connection, task_id: str, limit: int
    ) -> Sequence[RunTimes]:
        wanted = ExecutionFilter(task_id)
        rows, _ = _rows(connection, wanted, plan(wanted), limit, None, _TIMES)
        return [RunTimes(*row) for row in rows]


def _page(
    connection: sqlite3.Connection,
    wanted: ExecutionFilter,
    scans: Sequence[Scan],
    size: int,
    key: Key | None,
) -> tuple[Sequence[Execution], str | None]:
    rows, cursor = _rows(connection, wanted, scans, size, key, EXECUTION_COLUMNS)
    return [execution_from(row) for row in rows], cursor


def _rows(
    connection: sqlite3.Connection,
    wanted: ExecutionFilter,
    scans: Sequence[Scan],
    size: int,
    key: Key | None,
    columns: str,
) -> tuple[Sequence[Row], str | None]:
    most = MOST_READ // max(len(scans), 1)
    parts = [Query(scan, wanted).part(connection, key, size, most, columns) for scan in scans]
    return merged(parts, size)


class Query:
    """The queries of one scan."""

    def __init__(self, scan: Scan, wanted: ExecutionFilter) -> None:
        self._scan, self._by = scan, ", ".join(scan.by)
        self._wanted = wanted
        self._checks, self._checked = _checks(scan)
        if scan.index is Index.JOB:
            # Its order is not that of the times.
            self._add_checks(self._time_bounds(wanted.until))

    def _add_checks(self, more: tuple[list[str], list[Any]]) -> None:
        self._checks += more[0]
        self._checked += more[1]

    def _time_bounds(self, until: float | None) -> tuple[list[str], list[Any]]:
        bounds = {">=": self._wanted.since, "<": until}
        given = {sign: at for sign, at in bounds.items() if at is not None}
        return [f"created_at {sign} ?" for sign in given], list(given.values())

    def entries(self, key: Key | None) -> tuple[str, list[Any]]:
        """The entries of the index after *key*, in order."""
        index, always = INDEXES[self._scan.index]
        conditions: list[str] = []
        values: list[Any] = []
        if self._scan.index is not Index.JOB:
            until = self._wanted.until
            # SQLite seeks to one upper bound only, so it gets the lower one of the two.
            if key is not None and until is not None:
                until, key = (None, key) if key[0] < until else (until, None)
            conditions, values = self._time_bounds(until)
        if key is not None:
            conditions.append(f"({self._by}) < ({', '.join('?' * len(key))})")
            values += key
        if self._scan.index in SORTED:
            # All of it is read at once, and only what is wanted of it has to be sorted.
            conditions += self._checks
            values += self._checked
        fields = COLUMNS[self._scan.index]
        arm = f"SELECT {self._by}, seq AS entry FROM executions INDEXED BY {index} WHERE " + (
            " AND ".join([always, *(f"{one} IS ?" for one in fields), *conditions])
        )
        ranges = list(itertools.product(*self._scan.equal.values()))
        order = ", ".join(f"{one} DESC" for one in self._scan.by)
        found = [value for one in ranges for value in (*map(_plain, one), *values)]
        return f"{' UNION ALL '.join([arm] * len(ranges))} ORDER BY {order} LIMIT ?", found

    def part(
        self, connection: sqlite3.Connection, key: Key | None, size: int, most: int, columns: str
    ) -> Part[Row]:
        """The first *size* and one more of the wanted, as far as *most* entries go."""
        entries, values = self.entries(key)
        width = len(self._scan.by)
        shown = ", ".join(f"executions.{one}" for one in (*self._scan.by, *columns.split(", ")))
        # The entries are the outer loop, so the records are in their order.
        query = f"""
        SELECT {shown} FROM ({entries}) AS entries
        CROSS JOIN executions ON executions.seq = entry
        WHERE {" AND ".join([SHOWN, *self._checks])} LIMIT ?
        """
        found = connection.execute(query, (*values, most, *self._checked, size + 1)).fetchall()
        rows = [(row[:width], row[width:]) for row in found]
        if len(rows) > size:
            return Part(rows, rows[-1][0])
        last = f"SELECT {self._by} FROM ({entries}) LIMIT 1 OFFSET ?"
        end = connection.execute(last, (*values, most, most - 1)).fetchone()
        return Part(rows, end)

    def count(self, connection: sqlite3.Connection, hidden: int) -> int:
        """How many are wanted, to one more than :data:`MOST_COUNTED`.

        :param hidden: how many are hidden at most; they are not counted.
        """
        entries, values = self.entries(None)
        shown = f"WHERE entry NOT IN ({HIDDEN})" if hidden else ""
        query = f"SELECT count(*) FROM (SELECT 1 FROM ({entries}) {shown} LIMIT ?)"
        most = MOST_COUNTED + 1
        return int(connection.execute(query, (*values, most + hidden, most)).fetchone()[0])


def _plain(value: object) -> object:
    return None if value is None else str(value)


def _checks(scan: Scan) -> tuple[list[str], list[Any]]:
    """What is checked on the records, and the values for it."""
    checks: list[str] = []
    values: list[Any] = []
    for name, wanted in scan.rest.items():
        checks.append(f"executions.{name} IN ({', '.join('?' * len(wanted))})")
        values += map(_plain, wanted)
    for name, prefix in (("task_id", scan.prefix), ("id", scan.id_prefix)):
        if prefix is not None:
            checks.append(f"executions.{name} >= ? AND executions.{name} < ?")
            values += prefix_range(prefix)
    if scan.words:
        checks.append(f"(SELECT count(*) {HAS_WORDS}) = ?")
        values += [json.dumps(sorted(scan.words)), len(scan.words)]
    return checks, values
