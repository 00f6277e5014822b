"""Log records packed into the chunks that a storage keeps.

A chunk's sequence numbers have no gap, so a record is packed without its own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from fastlane.errors import CompareFailed
from fastlane.model import LogCap, LogRecord, Stream

# Bounds the data of one stored chunk of log: far below a MongoDB document's 16 MiB, large enough
# that 100 MB are a few hundred rows.
LOG_CHUNK_BYTES = 256 * 1024
# Bounds a chunk that still takes in the next append, and so what an append writes again.
MERGED_CHUNK_BYTES = 16 * 1024

HEADER = struct.Struct("<dBI")
"""Before each record's data: its time, its stream and the length of its data."""
STREAMS = (Stream.STDOUT, Stream.STDERR, Stream.FASTLANE)
_STREAM_CODES = {stream: code for code, stream in enumerate(STREAMS)}


def check_next(execution_id: str, last_seq: int, records: Sequence[LogRecord]) -> None:
    """:raises CompareFailed: *records* do not continue the log after *last_seq* without a gap."""
    for expected, record in enumerate(records, start=last_seq + 1):
        if record.seq != expected:
            raise CompareFailed(
                f"the log of execution {execution_id} continues with record {expected}, "
                f"not with {record.seq}"
            )


@dataclass(slots=True)
class Lines:
    """How far the lines of a log are counted, at one place between two records.

    A line belongs to one stream. It has a number, from 1, by the place of its first byte in the
    whole log. What was dropped stays counted, and the server's notes have no lines.
    """

    begun: int = 0
    """How many lines have begun before here."""
    stdout: int = 0
    """The number of the line that stdout is in the middle of; 0: its next byte begins one."""
    stderr: int = 0
    latest: float = 0.0
    """The latest time of all records before here."""

    def add(self, at: float, stream: Stream, data: bytes) -> tuple[int | None, int | None]:
        """Count the next record.

        :return: see :attr:`fastlane.model.LogRecord.line` and ``next_line``.
        """
        if at > self.latest:
            self.latest = at
        if stream is Stream.FASTLANE:
            return None, None
        current = self.stdout if stream is Stream.STDOUT else self.stderr
        numbers = current or self.begun + 1, self.begun + (1 if current else 2)
        if data:
            newlines = data.count(b"\n")
            is_open = not data.endswith(b"\n")
            self.begun += newlines + is_open - bool(current)
            if not is_open:
                current = 0
            elif newlines or not current:
                current = self.begun
            if stream is Stream.STDOUT:
                self.stdout = current
            else:
                self.stderr = current
        return numbers

    def copy(self) -> Lines:
        return Lines(self.begun, self.stdout, self.stderr, self.latest)


@dataclass(slots=True)
class Chunk:
    """Consecutive records on their way into the storage."""

    first_seq: int
    last_seq: int
    """One less than ``first_seq`` while there is none in it."""
    last_at: float = 0.0
    kept_bytes: int = 0
    """Of data, over all streams; the next two are parts of it."""
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    id: int | None = None
    """Its row, once it has been stored as one."""
    parts: list[bytes] = field(default_factory=list)
    lines: Lines = field(default_factory=Lines)
    """Up to its first record."""

    @property
    def packed(self) -> bytes:
        """All of it, as :func:`take` unpacks it."""
        return b"".join(self.parts)

    def add(self, record: LogRecord) -> None:
        """Take in the next record."""
        size = len(record.data)
        self.parts.append(HEADER.pack(record.at, _STREAM_CODES[record.stream], size))
        self.parts.append(record.data)
        self.last_seq = record.seq
        self.last_at = record.at
        _count(self, record.stream, size)


@dataclass(slots=True)
class Counts:
    """How far a log goes, and what of it is kept."""

    last_seq: int = 0
    kept_bytes: int = 0
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    dropped_bytes: int = 0
    head_seq: int | None = None
    """The last record of the head, once the head is full."""
    head_bytes: int = 0
    dropped_at: float | None = None
    """The time of the last record that was dropped."""
    lines: Lines = field(default_factory=Lines)
    """Up to its end."""

    def pack(self, chunk: Chunk, records: Sequence[LogRecord], cap: LogCap | None) -> list[Chunk]:
        """Add *records* to *chunk* and to chunks after it, and count them.

        A chunk ends where it would exceed :data:`LOG_CHUNK_BYTES` and where the head is full.

        :return: all of them; the last one takes the next records and may be empty.
        """
        chunks = [chunk]

        def end() -> None:
            if chunks[-1].parts:
                chunks.append(self.next_chunk())

        if self._head_is_full(cap):
            end()
        for record in records:
            size = len(record.data)
            if chunks[-1].kept_bytes and chunks[-1].kept_bytes + size > LOG_CHUNK_BYTES:
                end()
            chunks[-1].add(record)
            self.last_seq = record.seq
            self.lines.add(record.at, record.stream, record.data)
            _count(self, record.stream, size)
            if self._head_is_full(cap):
                end()
        return chunks

    def next_chunk(self) -> Chunk:
        """An empty one, for what comes next."""
        return Chunk(self.last_seq + 1, self.last_seq, lines=self.lines.copy())

    def _head_is_full(self, cap: LogCap | None) -> bool:
        """Whether it has just become full."""
        if cap is None or self.head_seq is not None or self.kept_bytes < cap.head_bytes:
            return False
        self.head_seq, self.head_bytes = self.last_seq, self.kept_bytes
        return True


def _count(counts: Chunk | Counts, stream: Stream, size: int) -> None:
    counts.kept_bytes += size
    if stream is Stream.STDOUT:
        counts.stdout_bytes += size
    elif stream is Stream.STDERR:
        counts.stderr_bytes += size


@dataclass(frozen=True, slots=True)
class PackedChunk:
    """Consecutive records as they are stored."""

    first_seq: int
    last_seq: int
    records: bytes
    lines: Lines
    """Up to its first record."""


def unpack(
    chunks: Iterable[PackedChunk], after: int, max_bytes: int, note: Callable[[int], LogRecord]
) -> list[LogRecord]:
    """The records of consecutive *chunks* after *after*: see :meth:`Logs.read`.

    :param note: makes the note about what was dropped, from its sequence number.
    """
    taken: list[LogRecord] = []
    room, seq = max_bytes, after
    for chunk in chunks:
        if chunk.first_seq > seq + 1:
            dropped = note(chunk.first_seq - 1)
            if taken and len(dropped.data) > room:
                break
            seq = dropped.seq
            room -= len(dropped.data)
            taken.append(dropped)
        whole, room = take(chunk, seq, room, taken)
        if not whole:
            break
        seq = taken[-1].seq
    return taken


def take(chunk: PackedChunk, after: int, room: int, taken: list[LogRecord]) -> tuple[bool, int]:
    """Unpack the records after *after* into *taken*, as far as there is *room* for its data.

    :return: whether all of it was, and the room that is left.
    """
    records, seq, lines = chunk.records, chunk.first_seq, chunk.lines.copy()
    offset = 0
    while offset < len(records):
        at, code, size = HEADER.unpack_from(records, offset)
        offset += HEADER.size
        if seq > after and taken and size > room:
            return False, room
        data = records[offset : offset + size]
        line, next_line = lines.add(at, STREAMS[code], data)
        if seq > after:
            taken.append(LogRecord(seq, at, STREAMS[code], data, line, next_line))
            room -= size
        offset += size
        seq += 1
    return True, room


def count_lines(records: bytes, lines: Lines) -> None:
    """Count all packed *records* in *lines*."""
    offset = 0
    while offset < len(records):
        at, code, size = HEADER.unpack_from(records, offset)
        offset += HEADER.size + size
        lines.add(at, STREAMS[code], records[offset - size : offset])


def take_back(records: bytes, stream: Stream, missing: int, parts: list[bytes]) -> int:
    """Add the last *missing* bytes of one stream to *parts*, from the end on, newest first.

    :return: how many are still missing.
    """
    found: list[LogRecord] = []
    take(PackedChunk(1, 0, records, Lines()), 0, len(records), found)
    for record in reversed(found):
        if missing <= 0:
            break
        if record.stream is stream:
            parts.append(record.data[max(0, len(record.data) - missing) :])
            missing -= len(parts[-1])
    return missing


def bytes_of(stream: Stream, kept_bytes: int, stdout_bytes: int, stderr_bytes: int) -> int:
    """How many of the kept bytes are the stream's."""
    if stream is Stream.STDOUT:
        return stdout_bytes
    if stream is Stream.STDERR:
        return stderr_bytes
    return kept_bytes - stdout_bytes - stderr_bytes


def dropped_note(dropped_bytes: int) -> bytes:
    """The line in the place of *dropped_bytes* of a log."""
    return f"\n[fastlane: {dropped_bytes} bytes of this log were dropped here]\n".encode()
