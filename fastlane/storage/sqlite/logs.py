"""The log: rows of packed records, the cap, and reading from either end.

A chunk's sequence numbers have no gap, so a record is packed without its own. Small appends are
merged into the last chunk while that is small, so a talkative job does not make a row per line.
Where each chunk begins, ``log_lines`` says how far the lines are counted.
"""

# ruff: noqa: S608 (what is put into a query is a constant of this package)

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, fields
from operator import attrgetter
from typing import Any, TypeVar

from fastlane.errors import CompareFailed
from fastlane.model import ACTIVE, LogCap, LogRecord, LogState, Stream
from fastlane.storage.base import LogPlace, Logs
from fastlane.storage.packing import (
    MERGED_CHUNK_BYTES,
    Chunk,
    Counts,
    Lines,
    PackedChunk,
    bytes_of,
    check_next,
    count_lines,
    dropped_note,
    take_back,
    unpack,
)
from fastlane.storage.sqlite.facet import Facet, on_reader

R = TypeVar("R")

FIND_OWNER = "SELECT seq, status, epoch FROM executions WHERE id = ?"
FIND_LOG = """
SELECT begun, stdout_line, stderr_line, latest, last_seq, kept_bytes, stdout_bytes, stderr_bytes,
       dropped_bytes, head_seq, head_bytes, dropped_at
FROM logs WHERE execution = ?
"""
STORE_LOG = """
INSERT INTO logs (execution, bookmark, last_seq, kept_bytes, stdout_bytes, stderr_bytes,
                  dropped_bytes, head_seq, head_bytes, dropped_at, begun, stdout_line, stderr_line,
                  latest)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (execution) DO UPDATE SET
    bookmark = excluded.bookmark, last_seq = excluded.last_seq,
    kept_bytes = excluded.kept_bytes, stdout_bytes = excluded.stdout_bytes,
    stderr_bytes = excluded.stderr_bytes, dropped_bytes = excluded.dropped_bytes,
    head_seq = excluded.head_seq, head_bytes = excluded.head_bytes,
    dropped_at = excluded.dropped_at, begun = excluded.begun,
    stdout_line = excluded.stdout_line, stderr_line = excluded.stderr_line,
    latest = excluded.latest
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
STORE_LINES = "INSERT INTO log_lines VALUES (?, ?, ?, ?, ?, ?)"
DROP_LINES = "DELETE FROM log_lines WHERE execution = ? AND first_seq = ?"
LOG_STATE = """
SELECT last_seq, bookmark, stdout_bytes, stderr_bytes, dropped_bytes
FROM logs WHERE execution = (SELECT seq FROM executions WHERE id = ?)
"""
LOG_TO_READ = """
SELECT execution, kept_bytes, stdout_bytes, stderr_bytes, dropped_bytes, dropped_at, last_seq,
       begun
FROM logs WHERE execution = (SELECT seq FROM executions WHERE id = ?)
"""
CHUNKS_AFTER = """
SELECT first_seq, last_seq, begun, stdout_line, stderr_line, latest, bytes, records
FROM log_chunks LEFT JOIN log_lines USING (execution, first_seq)
WHERE execution = ? AND last_seq > ? ORDER BY last_seq
"""
ALL_CHUNKS = "SELECT first_seq, records FROM log_chunks WHERE execution = ? ORDER BY last_seq"
COUNTED = """
UPDATE logs SET begun = ?, stdout_line = ?, stderr_line = ?, latest = ?
WHERE execution = ? AND last_seq = ? AND begun IS NULL
"""
FIND_PLACE = {
    place: f"""
SELECT first_seq - 1 FROM log_lines WHERE execution = ? AND {begins_before}
ORDER BY first_seq DESC LIMIT 1
"""
    for place, begins_before in {
        LogPlace.RECORD: "first_seq <= ?",
        LogPlace.LINE: "begun < ?",
        LogPlace.TIME: "latest < ?",
    }.items()
}
CHUNKS_BACKWARDS = """
SELECT id, bytes, stdout_bytes, stderr_bytes
FROM log_chunks WHERE execution = ? ORDER BY last_seq DESC
"""


_values = attrgetter(*(field.name for field in fields(Chunk)[:-2]))


class _NotCounted(Exception):
    """The lines of a log of an earlier version have to be counted first."""


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
            log = _counts(connection.execute(FIND_LOG, (execution,)).fetchone())
            check_next(execution_id, log.last_seq, records)
            _add(connection, execution, log, records, cap)
            if cap is not None:
                _drop(connection, execution, log, cap)
            *counts, _ = (getattr(log, field.name) for field in fields(log))
            connection.execute(STORE_LOG, (execution, bookmark, *counts, *astuple(log.lines)))

        weight_bytes = sum(len(record.data) for record in records)
        try:
            await self._file.write(append, weight_bytes=weight_bytes)
        except _NotCounted:
            await self._count(execution_id)
            await self._file.write(append, weight_bytes=weight_bytes)

    @on_reader
    def state(self, connection: sqlite3.Connection, execution_id: str) -> LogState:
        row = connection.execute(LOG_STATE, (execution_id,)).fetchone()
        return LogState() if row is None else LogState(*row)

    async def read(
        self, execution_id: str, *, after: int = 0, max_bytes: int = 256 * 1024
    ) -> Sequence[LogRecord]:
        def read(connection: sqlite3.Connection) -> Sequence[LogRecord]:
            log = connection.execute(LOG_TO_READ, (execution_id,)).fetchone()
            if log is None:
                return []
            start = max(after, 0)
            return unpack(_chunks(connection, log, start, max_bytes), start, max_bytes, _note(log))

        return await self._read(execution_id, read)

    async def chunks(
        self, execution_id: str, *, after: int = 0, max_bytes: int
    ) -> Sequence[PackedChunk]:
        def read(connection: sqlite3.Connection) -> Sequence[PackedChunk]:
            log = connection.execute(LOG_TO_READ, (execution_id,)).fetchone()
            return [] if log is None else list(_chunks(connection, log, max(after, 0), max_bytes))

        return await self._read(execution_id, read)

    async def find(self, execution_id: str, place: LogPlace, value: float) -> int:
        def find(connection: sqlite3.Connection) -> int:
            log = connection.execute(LOG_TO_READ, (execution_id,)).fetchone()
            if log is None:
                return 0
            _check_counted(log)
            found = connection.execute(FIND_PLACE[place], (log[0], value)).fetchone()
            return 0 if found is None else int(found[0])

        return await self._read(execution_id, find)

    async def _read(self, execution_id: str, query: Callable[[sqlite3.Connection], R]) -> R:
        try:
            return await self._file.read(query)
        except _NotCounted:
            await self._count(execution_id)
            return await self._file.read(query)

    async def _count(self, execution_id: str) -> None:
        """Count the lines of a log of an earlier version, once and for all."""

        def count(connection: sqlite3.Connection) -> tuple[int, int, list[Any], Lines]:
            log = connection.execute(LOG_TO_READ, (execution_id,)).fetchone()
            lines, rows = Lines(), []
            for first_seq, records in connection.execute(ALL_CHUNKS, (log[0],)):
                rows.append((log[0], first_seq, *astuple(lines)))
                count_lines(records, lines)
            return log[0], log[6], rows, lines

        execution, last_seq, rows, lines = await self._file.read(count)

        def store(connection: sqlite3.Connection) -> None:
            counted = (*astuple(lines), execution, last_seq)
            # Nobody appends to it before it is counted, but another reader may have counted.
            if connection.execute(COUNTED, counted).rowcount:
                connection.executemany(STORE_LINES, rows)

        await self._file.write(store)

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


def _counts(row: Sequence[Any] | None) -> Counts:
    """:raises _NotCounted: its lines are not."""
    if row is None:
        return Counts()
    lines, counts = row[:4], Counts(*row[4:])
    if lines[0] is not None:
        counts.lines = Lines(*lines)
    elif counts.last_seq:
        raise _NotCounted
    return counts


def _check_counted(log: Sequence[Any]) -> None:
    if log[6] and log[7] is None:
        raise _NotCounted


def _chunks(
    connection: sqlite3.Connection, log: Sequence[Any], after: int, max_bytes: int
) -> Iterator[PackedChunk]:
    """:param log: see :data:`LOG_TO_READ`.
    :raises _NotCounted: its lines are not."""
    _check_counted(log)
    size: int | None = None
    for first_seq, last_seq, *lines, bytes_, records in connection.execute(
        CHUNKS_AFTER, (log[0], after)
    ):
        # A count may be missing, a record never.
        counted = Lines() if None in lines else Lines(*lines)
        yield PackedChunk(first_seq, last_seq, records, counted)
        # Of the first one only the end may be wanted.
        size = 0 if size is None else size + bytes_
        if size >= max_bytes:
            return


def _note(log: Sequence[Any]) -> Callable[[int], LogRecord]:
    _, _, _, _, dropped_bytes, dropped_at, _, _ = log
    return lambda seq: LogRecord(seq, dropped_at, Stream.FASTLANE, dropped_note(dropped_bytes))


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
    for packed in log.pack(chunk or log.next_chunk(), records, cap):
        if packed.parts:
            if packed.id is None:
                lines = (execution, packed.first_seq, *astuple(packed.lines))
                connection.execute(STORE_LINES, lines)
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
        connection.execute(DROP_LINES, (execution, chunk.first_seq))
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
    execution, kept_bytes, stdout_bytes, stderr_bytes, *_ = log
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
