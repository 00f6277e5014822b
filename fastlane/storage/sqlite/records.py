"""Rows to frozen records and back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

from fastlane.model import Delivery, Execution, Job, Task
from fastlane.storage.base import Page, PageRequest
from fastlane.storage.codec import (
    DELIVERY_FIELDS,
    EXECUTION_FIELDS,
    JOB_FIELDS,
    delivery_of,
    execution_of,
    job_of,
)

T = TypeVar("T")
Row = tuple[Any, ...]

# Bounds an offset to what SQLite can count; no table is that long.
MAX_OFFSET = 2**62

TASK_COLUMNS = "id, created_at, modified_at, jobs_count"
JOB_COLUMNS = ", ".join(JOB_FIELDS)
EXECUTION_COLUMNS = ", ".join(EXECUTION_FIELDS)
# "index" is a word of SQL.
DELIVERY_COLUMNS = ", ".join(DELIVERY_FIELDS).replace("index", "place")


def task_from(row: Row) -> Task:
    return Task(*row)


def job_from(row: Row) -> Job:
    return job_of(list(row))


def execution_from(row: Row) -> Execution:
    return execution_of(list(row))


def delivery_from(row: Row) -> Delivery:
    return delivery_of(list(row))


def marks(columns: str) -> str:
    """As many question marks as there are *columns*."""
    return ", ".join("?" * (columns.count(",") + 1))


def page_of(
    connection: sqlite3.Connection,
    query: str,
    parameters: Row,
    page: PageRequest,
    total: int,
    record_from: Callable[[Row], T],
) -> Page[T]:
    """Run *query*, whose first column is the cursor and whose last parameters are limit, offset.

    It reads one row more than it gives back, to know whether that was the last page.
    """
    offset = 0 if page.after is not None else min((page.number - 1) * page.size, MAX_OFFSET)
    rows: list[Any] = connection.execute(query, (*parameters, page.size + 1, offset)).fetchall()
    items = [record_from(row[1:]) for row in rows[: page.size]]
    more = len(rows) > page.size
    return Page(items, total, str(rows[page.size - 1][0]) if more else None)
