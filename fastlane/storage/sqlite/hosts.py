"""Hosts: their circuit breakers, and which of them take nothing new."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from fastlane.model import HostRecord
from fastlane.storage.base import Hosts
from fastlane.storage.codec import clean
from fastlane.storage.sqlite.changes import record
from fastlane.storage.sqlite.facet import Facet, on_reader, on_writer
from fastlane.stored_events import breaker_event, drain_event

HOSTS = "SELECT host, failures, error, open_until, blacklisted FROM hosts"
HOST = f"{HOSTS} WHERE host = ?"
STORE_BREAKER = """
INSERT INTO hosts (host, failures, error, open_until) VALUES (?, ?, ?, ?)
ON CONFLICT (host) DO UPDATE SET
    failures = excluded.failures, error = excluded.error, open_until = excluded.open_until
"""
BLACKLIST_HOST = """
INSERT INTO hosts (host, blacklisted) VALUES (?, ?)
ON CONFLICT (host) DO UPDATE SET blacklisted = excluded.blacklisted
"""


class SqliteHosts(Facet, Hosts):
    """:class:`fastlane.storage.base.Hosts` in SQLite."""

    @on_reader
    def all(self, connection: sqlite3.Connection) -> Sequence[HostRecord]:
        return [_host_of(row) for row in connection.execute(f"{HOSTS} ORDER BY host")]

    @on_writer
    def store_breaker(
        self, connection: sqlite3.Connection, host: HostRecord, *, now: float
    ) -> None:
        before = _found(connection, host.host)
        if (event := breaker_event(before, host, now)) is not None:
            record(connection, event)
        values = (host.host, host.failures, clean(host.error), host.open_until)
        connection.execute(STORE_BREAKER, values)

    @on_writer
    def blacklist(
        self, connection: sqlite3.Connection, host: str, *, blacklisted: bool, now: float
    ) -> None:
        before = _found(connection, host)
        if (event := drain_event(host, before.blacklisted, blacklisted, now)) is not None:
            record(connection, event)
        connection.execute(BLACKLIST_HOST, (host, int(blacklisted)))


def _found(connection: sqlite3.Connection, host: str) -> HostRecord:
    row = connection.execute(HOST, (host,)).fetchone()
    return HostRecord(host) if row is None else _host_of(row)


def _host_of(row: Sequence[Any]) -> HostRecord:
    host, failures, error, open_until, blacklisted = row
    return HostRecord(host, failures, error, open_until, bool(blacklisted))
