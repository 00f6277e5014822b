"""The list of jobs in SQLite.

It is read in the order in which jobs were made. Where an index has only those in the wanted state,
and they are few, these are read and sorted instead.
"""

# ruff: noqa: S608 (what is put into a query is a constant of this package)

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from fastlane.model import JobState
from fastlane.storage.base import JobFilter, ListedJob, Listing
from fastlane.storage.codec import words
from fastlane.storage.lists import MOST_COUNTED, MOST_READ, counted, id_prefix_of, number_after
from fastlane.storage.sqlite.known import find_matches, prefix_range
from fastlane.storage.sqlite.records import JOB_COLUMNS, MAX_OFFSET, job_from

_ACTIVE_JOBS = """
SELECT job_id FROM executions INDEXED BY executions_active WHERE status IN ('pulling', 'running')
"""
IS_ACTIVE = f"""(
    EXISTS (
        SELECT 1 FROM executions INDEXED BY executions_enqueued
        WHERE job_id = jobs.id AND status = 'enqueued'
    )
    OR jobs.id IN ({_ACTIVE_JOBS})
)"""
_STATES = {
    JobState.ACTIVE: IS_ACTIVE,
    JobState.SCHEDULED: f"next_run_at IS NOT NULL AND NOT {IS_ACTIVE}",
    JobState.PAUSED: f"paused_at IS NOT NULL AND next_run_at IS NULL AND NOT {IS_ACTIVE}",
    JobState.STOPPED: "stopped_at IS NOT NULL AND paused_at IS NULL AND next_run_at IS NULL "
    f"AND NOT {IS_ACTIVE}",
    JobState.IDLE: "stopped_at IS NULL AND paused_at IS NULL AND next_run_at IS NULL "
    f"AND NOT {IS_ACTIVE}",
}
FEW: Mapping[JobState | bool, str] = {
    JobState.ACTIVE: f"""
    {_ACTIVE_JOBS} UNION ALL
    SELECT job_id FROM executions INDEXED BY executions_enqueued WHERE status = 'enqueued'
    """,
    JobState.SCHEDULED: "SELECT id FROM jobs INDEXED BY jobs_scheduled "
    "WHERE next_run_at IS NOT NULL",
    JobState.PAUSED: "SELECT id FROM jobs INDEXED BY jobs_paused WHERE paused_at IS NOT NULL",
    JobState.STOPPED: "SELECT id FROM jobs INDEXED BY jobs_stopped WHERE stopped_at IS NOT NULL",
    True: "SELECT id FROM jobs INDEXED BY jobs_cron WHERE cron IS NOT NULL",
}
"""The ids of all jobs, and maybe more, that are in a state, or (True) are of cron."""
ALL_JOBS = "SELECT seq FROM jobs WHERE seq < ? ORDER BY seq DESC LIMIT ?"
JOBS_OF_TASK = """
SELECT seq FROM jobs INDEXED BY jobs_of_task WHERE task_id = ? AND seq < ? ORDER BY seq DESC LIMIT ?
"""
JOBS_OF_TASKS = """
SELECT ifnull(sum(jobs_count), 0) FROM tasks WHERE id IN (SELECT value FROM json_each(?))
"""
JOBS_OF_QUERY = """
SELECT seq FROM jobs
WHERE (task_id IN (SELECT value FROM json_each(?)) OR id >= ? AND id < ?) AND seq < ?
ORDER BY seq DESC LIMIT ?
"""
HAS_WORDS = """
FROM tasks JOIN words ON words.task = tasks.seq
WHERE tasks.id = jobs.task_id AND word IN (SELECT value FROM json_each(?))
"""
JOBS_TOTAL = "SELECT jobs FROM counters"


def listed_jobs(
    connection: sqlite3.Connection, wanted: JobFilter, size: int, after: str | None
) -> Listing[ListedJob]:
    """See ``Lists.jobs``."""
    number = number_after(after)
    before = MAX_OFFSET if number is None else number
    source, first, is_few = _source(connection, wanted)
    checks, checked = _checks(wanted, is_few=is_few)
    where = " AND ".join(["jobs.deleted_at IS NULL", *checks])
    # The entries are the outer loop, so the records are in their order.
    query = f"""
    SELECT jobs.seq, {IS_ACTIVE}, {JOB_COLUMNS} FROM ({source}) AS entries
    CROSS JOIN jobs ON jobs.seq = entries.seq WHERE {where} LIMIT ?
    """
    found = connection.execute(query, (*first, before, MOST_READ, *checked, size + 1)).fetchall()
    jobs = [(job_from(row[2:]), bool(row[1])) for row in found[:size]]
    items = [ListedJob(job, job.state(is_active=is_active)) for job, is_active in jobs]
    cursor = str(found[size - 1][0]) if len(found) > size else None
    if cursor is None:
        last = f"SELECT seq FROM ({source}) LIMIT 1 OFFSET ?"
        end = connection.execute(last, (*first, before, MOST_READ, MOST_READ - 1)).fetchone()
        cursor = None if end is None else str(end[0])
    if wanted == JobFilter():
        return Listing(items, cursor, *counted([connection.execute(JOBS_TOTAL).fetchone()[0]]))
    if not is_few and checks:
        return Listing(items, cursor)
    query = f"""
    SELECT count(*) FROM ({source}) AS entries CROSS JOIN jobs ON jobs.seq = entries.seq
    WHERE {where}
    """
    most = MOST_COUNTED + 1
    total = connection.execute(query, (*first, MAX_OFFSET, most, *checked)).fetchone()[0]
    return Listing(items, cursor, *counted([total]))


def _source(connection: sqlite3.Connection, wanted: JobFilter) -> tuple[str, tuple[Any, ...], bool]:
    """What is read, its first values, and whether it is all there is in the wanted state."""
    if wanted.task_id is not None:
        return JOBS_OF_TASK, (wanted.task_id,), False
    if wanted.query is not None:
        matches = find_matches(connection, wanted.query)
        names = None if matches.task_ids is None else json.dumps(list(matches.task_ids))
        if names is not None:
            count = connection.execute(JOBS_OF_TASKS, (names,)).fetchone()[0]
            if count < MOST_READ:
                return JOBS_OF_QUERY, (names, *_id_range(wanted.query)), True
    for name in (wanted.state, wanted.is_cron):
        if name is not None and (few := FEW.get(name)) is not None:
            count = connection.execute(f"SELECT count(*) FROM ({few} LIMIT ?)", (MOST_READ,))
            if count.fetchone()[0] < MOST_READ:
                return (
                    f"SELECT seq FROM jobs WHERE id IN ({few}) AND seq < ? "
                    "ORDER BY seq DESC LIMIT ?",
                    (),
                    True,
                )
    return ALL_JOBS, (), False


def _id_range(query: str) -> tuple[str, str]:
    """From where to where the ids of jobs match; an empty range if none can."""
    prefix = id_prefix_of(query)
    return ("", "") if prefix is None else prefix_range(prefix)


def _checks(wanted: JobFilter, *, is_few: bool) -> tuple[list[str], list[Any]]:
    """:param is_few: whether only those are read that may be in the wanted state."""
    checks: list[str] = []
    values: list[Any] = []
    # What is read of few active ones is just these, unless there is a query.
    is_known = is_few and wanted.state is JobState.ACTIVE and wanted.query is None
    if wanted.state is not None and not is_known:
        checks.append(_STATES[wanted.state])
    if wanted.is_cron is not None:
        checks.append(f"cron IS {'NOT ' if wanted.is_cron else ''}NULL")
    if wanted.query is not None:
        checks.append(f"((SELECT count(*) {HAS_WORDS}) = ? OR id >= ? AND id < ?)")
        # Without any word, nothing has as many as that.
        found = sorted(words(wanted.query))
        values += [json.dumps(found), len(found) or -1, *_id_range(wanted.query)]
    if wanted.task_prefix is not None:
        checks.append("substr(task_id, 1, ?) = ?")
        values += [len(wanted.task_prefix), wanted.task_prefix]
    return checks, values
