"""Where in a log an answer begins: after a record, at a time, at a line, at the last lines."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastlane.api.streaming.encoded import is_output
from fastlane.model import LogRecord, Stream
from fastlane.storage.base import LogPlace, Logs
from fastlane.storage.packing import PackedChunk, count_lines, take

# Bounds what is read at a time, and how far back the last lines of one stream are looked for.
READ_BYTES = 256 * 1024
LOOK_BACK_BYTES = 64 * 1024 * 1024
_LAST_SEQ = 2**62


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the client wants to begin with; of several, the one that comes last in the log."""

    after: int = 0
    since: float | None = None
    line: int | None = None
    tail: int | None = None
    """So many of the last lines."""

    @property
    def is_simple(self) -> bool:
        """Whether the log need not be asked."""
        return self.since is None and self.line is None and self.tail is None


@dataclass(frozen=True, slots=True)
class Start:
    """A place between two bytes of a log."""

    after: int
    """All records after this sequence number are after it."""
    first: LogRecord | None = None
    """The end of the record before them, where it is inside of one."""

    @property
    def place(self) -> tuple[int, int]:
        """For comparing: the next record to read, and how much of it is before the place."""
        if self.first is None:
            return self.after + 1, 0
        return self.after, 1


async def find_start(
    logs: Logs, execution_id: str, wanted: Wanted, stream: Stream | None
) -> Start | None:
    """The place, or None while the log does not reach that far.

    :param stream: the only one whose lines count; None: both.
    """
    starts = [Start(wanted.after)]
    if wanted.since is not None:
        since = await _at_time(logs, execution_id, wanted.since)
        if since is None:
            return None
        starts.append(Start(since))
    line = wanted.line or 1
    if wanted.tail is not None:
        last = await _last_lines(logs, execution_id, stream, wanted.tail)
        if isinstance(last, Start):
            starts.append(last)
        else:
            line = max(line, last)
    if line > 1:
        begin = await _at_line(logs, execution_id, stream, line)
        if begin is None:
            return None
        starts.append(begin)
    return max(starts, key=lambda start: start.place)


async def output_start(logs: Logs, execution_id: str) -> tuple[int, int] | None:
    """The sequence number after which the text begins, and the bytes of the notes before it.

    :return: None while there is no text.
    """
    after = noted_bytes = 0
    while records := await logs.read(execution_id, after=after, max_bytes=READ_BYTES // 4):
        for record in records:
            if is_output(record):
                return record.seq - 1, noted_bytes
            noted_bytes += len(record.data)
        after = records[-1].seq
    return None


async def _at_time(logs: Logs, execution_id: str, at: float) -> int | None:
    after = await logs.find(execution_id, LogPlace.TIME, at)
    while records := await logs.read(execution_id, after=after, max_bytes=READ_BYTES):
        for record in records:
            if record.at >= at:
                return record.seq - 1
        after = records[-1].seq
    return None


async def _at_line(logs: Logs, execution_id: str, stream: Stream | None, line: int) -> Start | None:
    """The place of the first line from number *line* on."""
    after = await logs.find(execution_id, LogPlace.LINE, line)
    # No line from that number on has begun before here.
    while records := await logs.read(execution_id, after=after, max_bytes=READ_BYTES):
        for record in records:
            if record.line is None or record.next_line is None or not record.data:
                continue
            if stream is not None and record.stream is not stream:
                continue
            if record.line >= line:
                return Start(record.seq - 1)
            cut = _after_newline(record.data, max(1, line - record.next_line + 1))
            if cut is not None and cut < len(record.data):
                number = max(line, record.next_line)
                data = record.data[cut:]
                first = replace(record, data=data, line=number, next_line=number + 1)
                return Start(record.seq, first)
        after = records[-1].seq
    return None


def _after_newline(data: bytes, count: int) -> int | None:
    """Where the text after newline number *count* begins."""
    at = 0
    for _ in range(count):
        at = data.find(b"\n", at) + 1
        if at == 0:
            return None
    return at


async def _last_lines(
    logs: Logs, execution_id: str, stream: Stream | None, count: int
) -> Start | int:
    """The place of the end, or the number of the first of the last *count* lines."""
    end = await logs.find(execution_id, LogPlace.RECORD, _LAST_SEQ)
    chunks = await logs.chunks(execution_id, after=end, max_bytes=READ_BYTES)
    if count == 0:
        last = await logs.read(execution_id, after=end, max_bytes=_LAST_SEQ)
        return Start(last[-1].seq if last else 0)
    if stream is None and not (await logs.state(execution_id)).dropped_bytes:
        if not chunks:
            return 1
        lines = chunks[-1].lines.copy()
        await asyncio.to_thread(count_lines, chunks[-1].records, lines)
        return max(1, lines.begun - count + 1)
    looked_at = 0
    while True:
        begins: list[int] = []
        for chunk in chunks:
            begins += await asyncio.to_thread(_lines_that_begin, chunk, stream)
            looked_at += len(chunk.records)
        if len(begins) >= count:
            return begins[-count]
        if end == 0:
            return 1
        if looked_at >= LOOK_BACK_BYTES:
            return begins[0] if begins else chunks[0].lines.begun + 1
        count -= len(begins)
        before = await logs.find(execution_id, LogPlace.RECORD, end)
        chunks = (await logs.chunks(execution_id, after=before, max_bytes=0))[:1]
        end = before


def _lines_that_begin(chunk: PackedChunk, stream: Stream | None) -> Sequence[int]:
    """The numbers of the lines that begin in *chunk*."""
    records: list[LogRecord] = []
    take(chunk, 0, len(chunk.records), records)
    begins: list[int] = []
    last = chunk.lines.begun
    for record in records:
        if record.line is None or record.next_line is None or not record.data:
            continue
        more = record.data.count(b"\n", 0, len(record.data) - 1)
        # Every line from the last one on begins here: at the record's start or after a newline.
        new = range(last + 1, record.next_line + more)
        last = max(last, record.next_line + more - 1)
        if stream in (None, record.stream):
            begins.extend(new)
    return begins
