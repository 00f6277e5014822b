"""What is looked up in SQLite before a list is planned: see :mod:`fastlane.storage.lists`."""

from __future__ import annotations

import json
import sqlite3
import sys

from fastlane.errors import Rejected
from fastlane.storage.base import ExecutionFilter
from fastlane.storage.codec import words
from fastlane.storage.lists import (
    MOST_MERGED,
    MOST_OF_PREFIX,
    MOST_SORTED,
    TOO_MANY,
    Known,
    Matches,
    id_prefix_of,
    needs_farms,
    split_by_size,
)

FARMS = """
WITH RECURSIVE farms (name) AS (
    SELECT min(farm) FROM executions INDEXED BY executions_origin
    UNION ALL
    SELECT (SELECT min(farm) FROM executions INDEXED BY executions_origin WHERE farm > name)
    FROM farms WHERE name IS NOT NULL
)
SELECT name FROM farms WHERE name IS NOT NULL
"""
COUNT_OF_PREFIX = """
SELECT (
    SELECT count(*) FROM (
        SELECT 1 FROM executions INDEXED BY executions_ended_of_task
        WHERE status IN ('done', 'failed', 'timedout', 'expired')
            AND task_id >= ?1 AND task_id < ?2 LIMIT ?3
    )
) + (
    SELECT count(*) FROM (
        SELECT 1 FROM executions INDEXED BY executions_enqueued_of_task
        WHERE status = 'enqueued' AND task_id >= ?1 AND task_id < ?2 LIMIT ?3
    )
)
"""
TASKS_OF_PREFIX = "SELECT id FROM tasks WHERE id >= ? AND id < ? LIMIT ?"
COUNT_OF_WORD = "SELECT count(*) FROM (SELECT 1 FROM words WHERE word = ? LIMIT ?)"
TASKS_WITH_WORDS = """
SELECT (SELECT id FROM tasks WHERE seq = rarest.task) FROM words AS rarest
WHERE word = ?1 AND ?3 = (
    SELECT count(*) FROM words AS other
    WHERE other.word IN (SELECT value FROM json_each(?2)) AND other.task = rarest.task
)
LIMIT ?4
"""
JOBS_OF_PREFIX = """
SELECT id, task_id, execution_count - removed FROM jobs WHERE id >= ? AND id < ? LIMIT ?
"""
EXECUTIONS_OF_PREFIX = """
SELECT count(*) FROM (SELECT 1 FROM executions WHERE id >= ? AND id < ? LIMIT ?)
"""
# Bounds the tasks that are looked at to find those with several words.
MOST_WITH_WORD = 10_000


def prefix_range(prefix: str) -> tuple[str, str]:
    """From where to where strings begin with *prefix*."""
    return prefix, f"{prefix}{chr(sys.maxunicode)}"


def known(connection: sqlite3.Connection, wanted: ExecutionFilter) -> Known:
    """What is known for *wanted*.

    :raises Rejected: the query matches too many ids.
    """
    farms = connection.execute(FARMS).fetchall() if needs_farms(wanted) else []
    few, task_ids = False, None
    if wanted.task_prefix is not None:
        bounds = (*prefix_range(wanted.task_prefix), MOST_SORTED)
        few = connection.execute(COUNT_OF_PREFIX, bounds).fetchone()[0] < MOST_SORTED
        if not few:
            names = connection.execute(TASKS_OF_PREFIX, (*bounds[:2], MOST_MERGED + 1)).fetchall()
            task_ids = None if len(names) > MOST_MERGED else [name for (name,) in names]
    matches = None if wanted.query is None else find_matches(connection, wanted.query)
    return Known([name for (name,) in farms], few, task_ids, matches)


def find_matches(connection: sqlite3.Connection, query: str) -> Matches:
    all_words = words(query)
    tasks = _tasks(connection, sorted(all_words)) if all_words else []
    prefix = id_prefix_of(query)
    if prefix is None:
        return Matches(all_words, tasks)
    bounds = (*prefix_range(prefix), MOST_OF_PREFIX + 1)
    jobs = connection.execute(JOBS_OF_PREFIX, bounds).fetchall()
    count = connection.execute(EXECUTIONS_OF_PREFIX, bounds).fetchone()[0]
    if max(len(jobs), count) > MOST_OF_PREFIX:
        raise Rejected(TOO_MANY)
    return Matches(all_words, tasks, prefix, *split_by_size(jobs))


def _tasks(connection: sqlite3.Connection, all_words: list[str]) -> list[str] | None:
    """The tasks that have all of the words; None if they are too many to be named."""
    counts = {
        word: connection.execute(COUNT_OF_WORD, (word, MOST_WITH_WORD)).fetchone()[0]
        for word in all_words
    }
    rarest = min(all_words, key=lambda word: counts[word])
    if counts[rarest] >= MOST_WITH_WORD:
        return None
    values = (rarest, json.dumps(all_words), len(all_words), MOST_MERGED + 1)
    found = connection.execute(TASKS_WITH_WORDS, values).fetchall()
    return None if len(found) > MOST_MERGED else [name for (name,) in found]
