"""Tasks: the listing and the search."""

# ruff: noqa: S608 (what is put into a query is a constant of this package)

from __future__ import annotations

import json
import sqlite3

from fastlane.errors import NotFound
from fastlane.model import Task
from fastlane.storage.base import Page, PageRequest, Tasks
from fastlane.storage.codec import MAX_QUERY_WORDS, cursor_numbers, words
from fastlane.storage.sqlite.facet import Facet, on_reader
from fastlane.storage.sqlite.records import TASK_COLUMNS, page_of, task_from

TASK = f"SELECT {TASK_COLUMNS} FROM tasks WHERE id = ?"
TASKS_PAGE = f"SELECT seq, {TASK_COLUMNS} FROM tasks WHERE seq > ? ORDER BY seq LIMIT ? OFFSET ?"
TASKS_TOTAL = "SELECT tasks FROM counters"
SEARCH_MATCHES = """
SELECT task, count(*) AS score FROM words WHERE word IN (SELECT value FROM json_each(?1))
GROUP BY task
"""
SEARCH_TOTAL = f"SELECT count(*) FROM ({SEARCH_MATCHES})"
SEARCH_PAGE = f"""
SELECT score || '.' || task, {TASK_COLUMNS}
FROM ({SEARCH_MATCHES}) JOIN tasks ON tasks.seq = task
WHERE score < ?2 OR (score = ?2 AND task > ?3)
ORDER BY score DESC, task LIMIT ?4 OFFSET ?5
"""


class SqliteTasks(Facet, Tasks):
    """:class:`fastlane.storage.base.Tasks` in SQLite."""

    @on_reader
    def get(self, connection: sqlite3.Connection, task_id: str) -> Task:
        row = connection.execute(TASK, (task_id,)).fetchone()
        if row is None:
            raise NotFound(f'There is no task "{task_id}".')
        return task_from(row)

    @on_reader
    def page(self, connection: sqlite3.Connection, page: PageRequest) -> Page[Task]:
        (after,) = cursor_numbers(page, parts=1) or (0,)
        total = connection.execute(TASKS_TOTAL).fetchone()[0]
        return page_of(connection, TASKS_PAGE, (after,), page, total, task_from)

    @on_reader
    def search(self, connection: sqlite3.Connection, query: str, page: PageRequest) -> Page[Task]:
        wanted = json.dumps(sorted(words(query))[:MAX_QUERY_WORDS])
        score, after = cursor_numbers(page, parts=2) or (MAX_QUERY_WORDS + 1, 0)
        total = connection.execute(SEARCH_TOTAL, (wanted,)).fetchone()[0]
        return page_of(connection, SEARCH_PAGE, (wanted, score, after), page, total, task_from)
