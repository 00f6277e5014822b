"""Stored events: a table whose rows are inserted with each change."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from fastlane.events import ExecutionChanged, HostChanged, JobChanged, OutboxChanged
from fastlane.storage.events import Events, Span
from fastlane.storage.sqlite.facet import Facet, on_reader, on_writer
from fastlane.stored_events import StoredEvent, event_from

SPAN = "SELECT ifnull(min(position), 1) - 1, ifnull(max(position), 0) FROM events"
AFTER = "SELECT position, event FROM events WHERE position > ? ORDER BY position LIMIT ?"
# The clock may step, so only what comes before the first young one goes.
FIRST_KEPT = """
SELECT min(position) FROM (
    SELECT position, at FROM events WHERE position < (SELECT max(position) FROM events)
    ORDER BY position LIMIT ?
) WHERE at >= ?
"""
LAST_OLD = """
SELECT max(position) + 1 FROM (
    SELECT position FROM events WHERE position < (SELECT max(position) FROM events)
    ORDER BY position LIMIT ?
)
"""
FORGET = "DELETE FROM events WHERE position < ?"


class SqliteEvents(Facet, Events):
    """:class:`fastlane.storage.events.Events` in SQLite."""

    announced_by = (ExecutionChanged, JobChanged, HostChanged, OutboxChanged)

    @on_reader
    def span(self, connection: sqlite3.Connection) -> Span:
        return Span(*connection.execute(SPAN).fetchone())

    @on_reader
    def after(
        self, connection: sqlite3.Connection, position: int, limit: int
    ) -> Sequence[StoredEvent]:
        rows = connection.execute(AFTER, (position, limit))
        return [event_from(json.loads(text), number) for number, text in rows]

    @on_writer
    def forget(self, connection: sqlite3.Connection, before: float, limit: int) -> int:
        kept = connection.execute(FIRST_KEPT, (limit, before)).fetchone()[0]
        if kept is None:
            kept = connection.execute(LAST_OLD, (limit,)).fetchone()[0] or 0
        return connection.execute(FORGET, (kept,)).rowcount
