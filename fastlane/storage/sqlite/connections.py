"""How a connection to the file is set up, and the file brought up to date."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from fastlane.errors import StorageUnavailable
from fastlane.files import sync_directory
from fastlane.storage.sqlite import schema

# Bounds how long a connection waits for a lock that a stranger (a backup, a shell) holds.
BUSY_TIMEOUT_SECONDS = 5.0
# Bounds the writer's page cache, in KiB.
WRITER_CACHE_KIB = 16 * 1024
# Bounds each reader's page cache, in KiB.
READER_CACHE_KIB = 4 * 1024
# Bounds the write-ahead log between two checkpoints, in pages of 4 KiB.
CHECKPOINT_PAGES = 4000
# Bounds the write-ahead log file that remains after a burst, in bytes.
WAL_BYTES_KEPT = 64 * 1024 * 1024
# Bounds the prepared statements that a connection keeps.
CACHED_STATEMENTS = 256


def connect_writer(path: Path) -> sqlite3.Connection:
    """Open the file for writing, create it or bring it up to date, and forget all leases
    and claims.

    :raises StorageUnavailable: a newer fastlane has written the file.
    :raises sqlite3.Error: it cannot be opened.
    """
    if path.exists():
        if path.stat().st_size == 0:
            raise StorageUnavailable(
                f'The database file "{path}" is empty: restore it from a backup, or delete '
                f'"{path.name}" and "{path.name}-wal" to begin without any records.'
            )
    else:
        _create(path)
    connection = _connect(path.absolute().as_uri())
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
        connection.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIB}")
        _migrate(connection, path)
        # The lock on the data directory proves that no other instance lives.
        connection.execute("DELETE FROM leases")
        connection.execute(
            "UPDATE deliveries SET due_at = claimed_at, claimed_at = NULL "
            "WHERE state = 'pending' AND claimed_at IS NOT NULL"
        )
    except BaseException:
        connection.close()
        raise
    sync_directory(path.parent)
    return connection


def _create(path: Path) -> None:
    """Make a database without tables. It is never there half made, so an empty one is damaged."""
    wal = path.with_name(f"{path.name}-wal")
    if wal.exists():
        raise StorageUnavailable(
            f'The database file "{path}" is missing, but "{wal.name}" is there: put the file back, '
            f'or delete "{wal.name}" to begin without any records.'
        )
    new = path.with_name(f"{path.name}.new")
    for leftover in (new, *(new.with_name(f"{new.name}-{end}") for end in ("wal", "shm"))):
        leftover.unlink(missing_ok=True)
    os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = _connect(new.absolute().as_uri())
    try:
        # This writes the header of the file.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
    new.rename(path)
    sync_directory(path.parent)


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open the file, which is there, for reading only."""
    connection = _connect(f"{path.absolute().as_uri()}?mode=ro")
    connection.execute(f"PRAGMA cache_size = -{READER_CACHE_KIB}")
    return connection


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri,
        uri=True,
        timeout=BUSY_TIMEOUT_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=CACHED_STATEMENTS,
    )
    connection.execute("PRAGMA temp_store = MEMORY")
    # Off: mapped pages count as the server's memory, and an I/O error in one kills the process.
    connection.execute("PRAGMA mmap_size = 0")
    return connection


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(schema.MIGRATIONS):
        raise StorageUnavailable(
            f"{path} was written by a newer fastlane (format {version}, this one knows "
            f"{len(schema.MIGRATIONS)}); run that version or use another DATA_DIR"
        )
    for number, script in enumerate(schema.MIGRATIONS[version:], start=version + 1):
        connection.executescript(
            f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;"
        )
