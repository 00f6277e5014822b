"""The leases of instances, and the adoption of what they no longer own."""

# ruff: noqa: S608 (what is put into a query is a constant of this package)

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from fastlane.model import Execution
from fastlane.storage.base import Instances
from fastlane.storage.sqlite.changes import change_execution, executions
from fastlane.storage.sqlite.facet import Facet, on_writer
from fastlane.storage.sqlite.records import EXECUTION_COLUMNS

STORE_LEASE = """
INSERT INTO leases (instance, ends_at) VALUES (?, ?)
ON CONFLICT (instance) DO UPDATE SET ends_at = excluded.ends_at
"""
END_LEASE = "DELETE FROM leases WHERE instance = ?"
ORPHANS = f"""
SELECT {EXECUTION_COLUMNS} FROM executions INDEXED BY executions_active
WHERE status IN ('pulling', 'running') AND owner <> ?
    AND NOT EXISTS (SELECT 1 FROM leases WHERE instance = owner AND ends_at > ?)
ORDER BY seq LIMIT ?
"""


class SqliteInstances(Facet, Instances):
    """:class:`fastlane.storage.base.Instances` in SQLite."""

    @on_writer
    def beat(
        self, connection: sqlite3.Connection, instance: str, *, now: float, lease_seconds: float
    ) -> None:
        connection.execute(STORE_LEASE, (instance, now + lease_seconds))

    @on_writer
    def leave(self, connection: sqlite3.Connection, instance: str) -> None:
        connection.execute(END_LEASE, (instance,))

    @on_writer
    def adopt(
        self, connection: sqlite3.Connection, instance: str, *, now: float, limit: int
    ) -> Sequence[Execution]:
        return [
            change_execution(connection, orphan, owner=instance, epoch=orphan.epoch + 1)
            for orphan in list(executions(connection, ORPHANS, (instance, now, limit)))
        ]
