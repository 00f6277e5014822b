"""Statistics in SQLite: counted in the transaction that moves the position on."""

# ruff: noqa: S608 (what is put into a query is a constant of this package)

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from fastlane.errors import CompareFailed
from fastlane.stats import COUNTED, Bucket, Histogram, Key, Step, bucket, merged, tallies
from fastlane.storage.sqlite.facet import Facet, on_reader, on_writer
from fastlane.storage.stats import Stats
from fastlane.stored_events import StoredEvent

# Bound one step of forgetting.
BUCKETS_FORGOTTEN = 10_000
TASKS_FORGOTTEN = 100

COLUMNS = ", ".join((*COUNTED, "durations", "waits"))
POSITION = "SELECT position FROM counted"
MOVE_ON = "UPDATE counted SET position = ? WHERE position = ?"
FIND = f"SELECT {COLUMNS} FROM stats WHERE step = ? AND task = ? AND start = ?"
STORE = f"""
INSERT OR REPLACE INTO stats (step, task, start, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
TOUCH_TASK = """
INSERT INTO counted_tasks (task, active_at) VALUES (?, ?)
ON CONFLICT (task) DO UPDATE SET active_at = max(active_at, excluded.active_at)
"""
IS_COUNTED = "SELECT 1 FROM counted_tasks WHERE task = ?"
READ = f"""
SELECT start, {COLUMNS} FROM stats
WHERE step = ? AND task = ? AND start >= ? AND start < ? ORDER BY start
"""
OLD = "SELECT task, start FROM stats INDEXED BY stats_old WHERE step = ? AND start < ? LIMIT ?"
REMOVE = "DELETE FROM stats WHERE step = ? AND task = ? AND start = ?"
IDLE_TASKS = """
SELECT task FROM counted_tasks ORDER BY active_at
LIMIT min(?, max((SELECT count(*) FROM counted_tasks) - ?, 0))
"""
REMOVE_OF_TASK = "DELETE FROM stats WHERE step = ? AND task = ?"
REMOVE_TASK = "DELETE FROM counted_tasks WHERE task = ?"


class SqliteStats(Facet, Stats):
    """:class:`fastlane.storage.stats.Stats` in SQLite."""

    async def lead(self, instance: str, *, now: float, seconds: float) -> bool:
        """There is only one."""
        return True

    @on_reader
    def position(self, connection: sqlite3.Connection) -> int:
        return int(connection.execute(POSITION).fetchone()[0])

    @on_writer
    def add(
        self, connection: sqlite3.Connection, after: int, events: Sequence[StoredEvent]
    ) -> None:
        if connection.execute(MOVE_ON, (events[-1].position, after)).rowcount != 1:
            raise CompareFailed(f"events after {after} are counted already")
        active: dict[str, float] = {}
        for key, adds in tallies(events).items():
            self._add(connection, key, [one for _, one in adds])
            _, task_id, start = key
            if task_id:
                active[task_id] = max(active.get(task_id, 0), start)
        connection.executemany(TOUCH_TASK, active.items())

    def _add(self, connection: sqlite3.Connection, key: Key, adds: list[Bucket]) -> None:
        step, task_id, start = key
        name = (int(step), task_id, start)
        row = connection.execute(FIND, name).fetchone()
        if row is not None:
            adds = [_bucket(start, row), *adds]
        whole = merged(start, adds)
        values = [getattr(whole, counter) for counter in COUNTED]
        connection.execute(
            STORE, (*name, *values, json.dumps(whole.durations), json.dumps(whole.waits))
        )

    @on_reader
    def read(
        self,
        connection: sqlite3.Connection,
        task_id: str | None,
        step: Step,
        *,
        since: float,
        until: float,
    ) -> Sequence[Bucket] | None:
        if task_id is not None and connection.execute(IS_COUNTED, (task_id,)).fetchone() is None:
            return None
        rows = connection.execute(READ, (int(step), task_id or "", since, until))
        return [_bucket(start, values) for start, *values in rows]

    @on_writer
    def forget(
        self,
        connection: sqlite3.Connection,
        minutes_before: float,
        hours_before: float,
        *,
        tasks: int,
    ) -> int:
        went = 0
        for step, before in ((Step.MINUTE, minutes_before), (Step.HOUR, hours_before)):
            old = connection.execute(OLD, (int(step), before, BUCKETS_FORGOTTEN)).fetchall()
            connection.executemany(REMOVE, [(int(step), *name) for name in old])
            went += len(old)
        for (task_id,) in connection.execute(IDLE_TASKS, (TASKS_FORGOTTEN, tasks)).fetchall():
            connection.executemany(REMOVE_OF_TASK, [(int(step), task_id) for step in Step])
            connection.execute(REMOVE_TASK, (task_id,))
            went += 1
        return went


def _bucket(start: int, values: Sequence[Any]) -> Bucket:
    *counts, durations, waits = values
    return bucket(start, counts, _histogram(durations), _histogram(waits))


def _histogram(text: str) -> Histogram:
    return {int(index): count for index, count in json.loads(text).items()}
