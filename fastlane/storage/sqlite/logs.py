"""The log: rows of packed records, the cap, and reading from either end.

A chunk's sequence numbers have no gap, so a record is packed without its own. Small appends are
merged into the last chunk while that is small, so a talkative job does not make a row per line.
"""

# ruff: noqa: S608 (what is put into a query is a constant of this package)

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import astuple, fields
from operator import attrgetter

from fastlane.errors import CompareFailed
from fastlane.model import ACTIVE, LogCap, LogRecord, LogState, Stream
from fastlane.storage.base import Logs
from fastlane.storage.packing import (
    MERGED_CHUNK_BYTES,
    Chunk,
    Counts,
    bytes_of,
    check_next,
    dropped_note,
    take,
    take_back,
)
from fastlane.storage.sqlite.facet import Facet, on_reader

FIND_OWNER = "SELECT seq, status, epoch FROM executions WHERE id = ?"
FIND_LOG = """
SELECT last_seq, kept_bytes, stdout_bytes, stderr_bytes, dropped_bytes, head_seq, head_bytes,
       dropped_at
FROM logs WHERE execution = ?
"""
STORE_LOG = """
INSERT INTO logs (execution, bookmark, last_seq, kept_bytes, stdout_bytes, stderr_bytes,
                  dropped_bytes, head_seq, head_bytes, dropped_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (execution) DO UPDATE SET
    bookmark = excluded.bookmark, last_seq = excluded.last_seq,
    kept_bytes = excluded.kept_bytes, stdout_bytes = excluded.stdout_bytes,
    stderr_bytes = excluded.stderr_bytes, dropped_bytes = excluded.dropped_bytes,
    head_seq = excluded.head_seq, head_bytes = excluded.head_bytes,
    dropped_at = excluded.dropped_at
"""
CHUNK = "first_seq, last_seq, last_at, bytes, stdout_bytes, stderr_bytes, id"
LAST_CHUNK = f"""
SELECT {CHUNK} FROM log_chunks WHERE execution = ? ORDER BY last_seq DESC LIMIT 1
"""
CHUNK_RECORDS = "SELECT records FROM log_chunks WHERE id = ?"
STORE_CHUNK = f"""
INSERT OR REPLACE INTO log_chunks (execution, {CHUNK}, records) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
OLDEST_CHUNK_OF_TAIL = f"""
SELECT {CHUNK} FROM log_chunks WHERE execution = ? AND last_seq > ? ORDER BY last_seq LIMIT 1
"""
DROP_CHUNK = "DELETE FROM log_chunks WHERE id = ?"
LOG_STATE = """
SELECT last_seq, bookmark, stdout_bytes, stderr_bytes, dropped_bytes
FROM logs WHERE execution = (SELECT seq FROM executions WHERE id = ?)
"""
LOG_TO_READ = """
SELECT execution, kept_bytes, stdout_bytes, stderr_bytes, dropped_bytes, dropped_at
FROM logs WHERE execution = (SELECT seq FROM executions WHERE id = ?)
"""
CHUNKS_AFTER = """
SELECT first_seq, records FROM log_chunks WHERE execution = ? AND last_seq > ? ORDER BY last_seq
"""
CHUNKS_BACKWARDS = """
SELECT id, bytes, stdout_bytes, stderr_bytes
FROM log_chunks WHERE execution = ? ORDER BY last_seq DESC
"""


_values = attrgetter(*(field.name for field in fields(Chunk)[:-1]))


class SqliteLogs(Facet, Logs):
    """:class:`fastlane.storage.base.Logs` in SQLite."""

    async def append(
        self,
        execution_id: str,
        epoch: int,
        records: Sequence[LogRecord],
        *,
        bookmark: str,
        cap: LogCap | None,
    ) -> None:
        def append(connection: sqlite3.Connection) -> None:
            owner = connection.execute(FIND_OWNER, (execution_id,)).fetchone()
            if owner is None or owner[1] not in ACTIVE or owner[2] != epoch:
                raise CompareFailed(f"execution {execution_id} is not active under epoch {epoch}")
            execution: int = owner[0]
            found = connection.execute(FIND_LOG, (execution,)).fetchone()
            log = Counts() if found is None else Counts(*found)
            check_next(execution_id, log.last_seq, records)
            _add(connection, execution, log, records, cap)
            if cap is not None:
                _drop(connection, execution, log, cap)
            connection.execute(STORE_LOG, (execution, bookmark, *astuple(log)))

        weight_bytes = sum(len(record.data) for record in records)
        await self._file.write(append, weight_bytes=weight_bytes)

    @on_reader
    def state(self, connection: sqlite3.Connection, execution_id: str) -> LogState:
        row = connection.execute(LOG_STATE, (execution_id,)).fetchone()
        return LogState() if row is None else LogState(*row)

    @on_reader
    def read(
        self,
        connection: sqlite3.Connection,
        execution_id: str,
        *,
        after: int = 0,
        max_bytes: int = 256 * 1024,
    ) -> Sequence[LogRecord]:
        log = connection.execute(LOG_TO_READ, (execution_id,)).fetchone()
        if log is None:
            return []
        execution, _, _, _, dropped_bytes, dropped_at = log
        taken: list[LogRecord] = []
        room = max_bytes
        seq = max(after, 0)
        for first_seq, records in connection.execute(CHUNKS_AFTER, (execution, seq)):
            if first_seq > seq + 1:
                note = dropped_note(dropped_bytes)
                if taken and len(note) > room:
                    break
                seq = first_seq - 1
                room -= len(note)
                taken.append(LogRecord(seq, dropped_at, Stream.FASTLANE, note))
            whole, room = take(records, first_seq, seq, room, taken)
            if not whole:
                break
            seq = taken[-1].seq
        return taken

    @on_reader
    def tails(
        self,
        connection: sqlite3.Connection,
        wanted: Sequence[tuple[str, Stream]],
        *,
        max_bytes: int,
    ) -> Sequence[tuple[bytes, bool]]:
        return [
            _tail(connection, execution_id, stream, max_bytes) for execution_id, stream in wanted
        ]


def _add(
    connection: sqlite3.Connection,
    execution: int,
    log: Counts,
    records: Sequence[LogRecord],
    cap: LogCap | None,
) -> None:
    """Store *records* in chunks."""
    if not records:
        return
    chunk = _small_last_chunk(connection, execution, log, sum(len(r.data) for r in records))
    for packed in log.pack(chunk or Chunk(log.last_seq + 1, log.last_seq), records, cap):
        if packed.parts:
            connection.execute(STORE_CHUNK, (execution, *_values(packed), packed.packed))


def _small_last_chunk(
    connection: sqlite3.Connection, execution: int, log: Counts, more_bytes: int
) -> Chunk | None:
    """The last chunk to append to, if it stays small and is not the end of the head."""
    if more_bytes > MERGED_CHUNK_BYTES or log.last_seq == log.head_seq:
        return None
    row = connection.execute(LAST_CHUNK, (execution,)).fetchone()
    if row is None:
        return None
    chunk = Chunk(*row)
    if chunk.kept_bytes + more_bytes > MERGED_CHUNK_BYTES:
        return None
    chunk.parts.append(connection.execute(CHUNK_RECORDS, (chunk.id,)).fetchone()[0])
    return chunk


def _drop(connection: sqlite3.Connection, execution: int, log: Counts, cap: LogCap) -> None:
    """Drop the oldest chunks after the head while the tail stays long enough without them.

    The newest chunk always stays, so what is missing lies between two chunks.
    """
    while log.head_seq is not None and log.kept_bytes - log.head_bytes > cap.tail_bytes:
        row = connection.execute(OLDEST_CHUNK_OF_TAIL, (execution, log.head_seq)).fetchone()
        if row is None:
            return
        chunk = Chunk(*row)
        stays = log.kept_bytes - log.head_bytes - chunk.kept_bytes
        if stays < cap.tail_bytes or chunk.last_seq == log.last_seq:
            return
        connection.execute(DROP_CHUNK, (chunk.id,))
        log.kept_bytes -= chunk.kept_bytes
        log.stdout_bytes -= chunk.stdout_bytes
        log.stderr_bytes -= chunk.stderr_bytes
        log.dropped_bytes += chunk.kept_bytes
        log.dropped_at = chunk.last_at


def _tail(
    connection: sqlite3.Connection, execution_id: str, stream: Stream, max_bytes: int
) -> tuple[bytes, bool]:
    log = connection.execute(LOG_TO_READ, (execution_id,)).fetchone()
    if log is None:
        return b"", False
    execution, kept_bytes, stdout_bytes, stderr_bytes, _, _ = log
    kept = bytes_of(stream, kept_bytes, stdout_bytes, stderr_bytes)
    wanted = min(max_bytes, kept)
    parts: list[bytes] = []
    missing = wanted
    chunks = connection.execute(CHUNKS_BACKWARDS, (execution,))
    while missing > 0 and (row := chunks.fetchone()) is not None:
        chunk, *sizes = row
        if not bytes_of(stream, *sizes):
            continue
        packed = connection.execute(CHUNK_RECORDS, (chunk,)).fetchone()[0]
        missing = take_back(packed, stream, missing, parts)
    chunks.close()
    return b"".join(reversed(parts)), kept > wanted
