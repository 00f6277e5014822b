"""Hosts: their circuit breakers, and which of them take nothing new."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from fastlane.model import HostRecord
from fastlane.storage.base import Hosts
from fastlane.storage.codec import clean
from fastlane.storage.sqlite.facet import Facet, on_reader, on_writer

HOSTS = "SELECT host, failures, error, open_until, blacklisted FROM hosts ORDER BY host"
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
        return [
            HostRecord(host, failures, error, open_until, bool(blacklisted))
            for host, failures, error, open_until, blacklisted in connection.execute(HOSTS)
        ]

    @on_writer
    def store_breaker(self, connection: sqlite3.Connection, record: HostRecord) -> None:
        values = (record.host, record.failures, clean(record.error), record.open_until)
        connection.execute(STORE_BREAKER, values)

    @on_writer
    def blacklist(self, connection: sqlite3.Connection, host: str, *, blacklisted: bool) -> None:
        connection.execute(BLACKLIST_HOST, (host, int(blacklisted)))
