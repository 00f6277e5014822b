"""Finds lines in packed chunks of a log, at the speed of RE2 rather than that of Python.

The records of a stream are joined, chunk by chunk, and searched at once; the numbers of lines are
worked out only where something is found. A line may be in many records: what follows the last
newline is carried over to the next chunk.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate

import re2

from fastlane.model import LogRecord, Stream
from fastlane.patterns import Pattern
from fastlane.storage.packing import HEADER, STREAMS, PackedChunk, take

# Bounds what is kept of a line that does not end, and how much of it what follows is searched with.
MAX_CARRIED_BYTES = 1024 * 1024
OVERLAP_BYTES = 64 * 1024
# Bounds the text of a match; of a longer line, the part around the match is shown.
TEXT_BYTES = 2000
_BEFORE_MATCH_BYTES = 200
# RE2's syntax for the beginning and the end of the whole text, which here is a line.
_WHOLE_TEXT = re.compile(r"\\[Az]")
_CURSOR = re.compile(r"(\d{1,16})(?:\.(\d{1,10}))?(o?e?)")
_WHOLE_RECORD = 2**62


class Query:
    """What is searched for."""

    def __init__(
        self, text: str, *, is_regex: bool, is_case_sensitive: bool, streams: Sequence[Stream]
    ) -> None:
        """:raises ValueError: *text* is not a regular expression."""
        flags = "m" if is_case_sensitive else "im"
        self.line = Pattern(f"(?{flags}){text if is_regex else re2.escape(text)}")
        """Decides about one line."""
        self.streams = streams
        self.is_anchored = is_regex and _WHOLE_TEXT.search(text) is not None
        """Whether it may match a line and yet not be found in several lines at once."""


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """A place in a log up to which it has been searched."""

    seq: int = 0
    offset: int = _WHOLE_RECORD
    """Bytes of the record *seq*."""
    found: frozenset[Stream] = field(default=frozenset(), compare=False)
    """The streams that are in the middle of a line there that has been reported."""

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """:raises ValueError: it is none, and no sequence number either."""
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise ValueError(text)
        found = {"o": Stream.STDOUT, "e": Stream.STDERR}
        return cls(
            int(match[1]),
            _WHOLE_RECORD if match[2] is None else int(match[2]),
            frozenset(found[letter] for letter in match[3]),
        )

    def __str__(self) -> str:
        letters = "o" * (Stream.STDOUT in self.found) + "e" * (Stream.STDERR in self.found)
        offset = "" if self.offset == _WHOLE_RECORD else f".{self.offset}"
        return f"{self.seq}{offset}{letters}"


@dataclass(frozen=True, slots=True)
class Match:
    """A line that matches."""

    end: Cursor
    """The end of the line, or of what is known of it."""
    seq: int
    offset: int
    at: float
    line: int
    stream: Stream
    text: bytes


class _Joined:
    """Consecutive bytes of one stream, and the records that they are from."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.records: list[tuple[int, int, float]] = []
        """Of each part the sequence number, where in the record it begins, and the time."""
        self._starts: Sequence[int] | None = None

    @property
    def starts(self) -> Sequence[int]:
        """Where each part begins; worked out when somebody asks, once all of them are there."""
        if self._starts is None:
            self._starts = list(accumulate(map(len, self.parts[:-1]), initial=0))
        return self._starts

    def place(self, at: int) -> tuple[int, int, float]:
        """The record of the byte *at*, where it is in it, and the record's time."""
        part = bisect_right(self.starts, at) - 1
        seq, offset, time = self.records[part]
        return seq, offset + at - self.starts[part], time

    def end_of(self, end: int) -> Cursor:
        """The place after the byte before *end*."""
        seq, offset, _ = self.place(end - 1)
        return Cursor(seq, offset + 1)

    def rest(self, start: int) -> _Joined:
        """What begins at *start*, which may be the end."""
        rest = _Joined()
        first = bisect_right(self.starts, start) - 1
        for part, (seq, offset, at) in enumerate(self.records[first:], start=first):
            cut = max(0, start - self.starts[part])
            if data := self.parts[part][cut:]:
                rest.parts.append(data)
                rest.records.append((seq, offset + cut, at))
        return rest


class _Chunk:
    """A chunk, and the numbers of its lines once somebody asks for one."""

    def __init__(self, packed: PackedChunk) -> None:
        self.packed = packed

    @cached_property
    def _records(self) -> Sequence[LogRecord]:
        records: list[LogRecord] = []
        take(self.packed, 0, len(self.packed.records), records)
        return records

    def line_at(self, seq: int, offset: int, stream: Stream) -> int:
        """The number of the line that begins at a place, or before this chunk."""
        if seq < self.packed.first_seq:
            lines = self.packed.lines
            return lines.stdout if stream is Stream.STDOUT else lines.stderr
        record = self._records[seq - self.packed.first_seq]
        assert record.line is not None
        assert record.next_line is not None
        newlines = record.data.count(b"\n", 0, offset)
        return record.next_line + newlines - 1 if newlines else record.line


class Search:
    """One search through a log, chunk by chunk.

    Begin a little before the cursor: a line there is searched with what is before it.
    """

    def __init__(self, query: Query, cursor: Cursor, limit: int) -> None:
        self._query = query
        self._from = cursor
        self._limit = limit
        self._carried = {stream: _Joined() for stream in query.streams}
        self._found = set(cursor.found)
        """The streams whose current line has been reported."""
        self._last: _Chunk | None = None
        self._last_seq = 0
        self.matches: list[Match] = []
        self.cursor = cursor
        """How far it has come."""

    @property
    def is_full(self) -> bool:
        """Whether its limit is reached."""
        return len(self.matches) >= self._limit

    def feed(self, packed: PackedChunk) -> None:
        """Search the next chunk."""
        if self._last is not None and packed.first_seq != self._last_seq + 1:
            # What follows in these lines was dropped.
            self.finish()
            self._carried = {stream: _Joined() for stream in self._query.streams}
        self._join(packed)
        self._last, self._last_seq = _Chunk(packed), packed.last_seq
        still_found = set(self._found)
        found = [
            match for stream in self._query.streams for match in self._search(self._last, stream)
        ]
        found.sort(key=lambda match: match.end)
        room = self._limit - len(self.matches)
        self.matches += found[:room]
        end = Cursor(self._last_seq, found=frozenset(self._found))
        if len(found) > room:
            end = found[room - 1].end
            # Some lines that were reported before may have ended, but rather twice than never.
            open_lines = {match.stream for match in found[:room] if match.end.found}
            end = replace(end, found=frozenset(open_lines | (still_found & self._found)))
        if end > self._from:
            self.cursor = end

    def finish(self) -> None:
        """Search the lines that have not ended: nothing more is read."""
        for stream, joined in self._carried.items():
            if self.is_full or self._last is None:
                return
            if joined.parts:
                text = b"".join(joined.parts)
                matches = [*self._search_lines(self._last, stream, joined, text, len(text))]
                self.matches += matches
                self._found |= {stream for _ in matches}
                self.cursor = replace(self.cursor, found=frozenset(self._found))

    def _join(self, packed: PackedChunk) -> None:
        """Add the records to what was carried over."""
        records, offset, seq = packed.records, 0, packed.first_seq - 1
        unpack, header_size, end = HEADER.unpack_from, HEADER.size, len(packed.records)
        joined = [self._carried.get(stream) for stream in STREAMS]
        while offset < end:
            at, code, size = unpack(records, offset)
            offset += header_size
            seq += 1
            wanted = joined[code]
            if wanted is not None and size:
                wanted.parts.append(records[offset : offset + size])
                wanted.records.append((seq, 0, at))
            offset += size

    def _search(self, chunk: _Chunk, stream: Stream) -> Iterator[Match]:
        """The matches in the lines of one stream that end in the chunk; the rest is carried."""
        joined = self._carried[stream]
        if not joined.parts:
            return
        text = b"".join(joined.parts)
        end = text.rfind(b"\n") + 1
        if end:
            yield from self._search_lines(chunk, stream, joined, text, end)
            if stream in self._found and joined.end_of(end) > self._from:
                self._found.discard(stream)
            self._carried[stream] = joined = joined.rest(end)
        if len(text) - end > MAX_CARRIED_BYTES:
            text = text[end:]
            for match in self._search_lines(chunk, stream, joined, text, len(text)):
                self._found.add(stream)
                yield replace(match, end=replace(match.end, found=frozenset({stream})))
            self._carried[stream] = joined.rest(len(text) - OVERLAP_BYTES)

    def _search_lines(
        self, chunk: _Chunk, stream: Stream, joined: _Joined, text: bytes, end: int
    ) -> Iterator[Match]:
        """The matching lines of ``text[:end]``, but for those that are known."""
        find = self._query.line.find
        start = 0
        while start < end:
            if not self._query.is_anchored:
                at = find(text, start)
                if at is None or at >= end:
                    return
                start = text.rfind(b"\n", start, at) + 1 or start
            newline = text.find(b"\n", start, end)
            stop = end if newline < 0 else newline
            after = min(end, stop + 1)
            if not self._is_known(stream, joined, start, after):
                line = text[start:stop]
                in_line = find(line)
                if in_line is not None:
                    yield _match(chunk, stream, joined, line, start, in_line, after)
            start = after

    def _is_known(self, stream: Stream, joined: _Joined, start: int, end: int) -> bool:
        """Whether a line ends before the cursor, or is there and has been reported."""
        if joined.end_of(end) <= self._from:
            return True
        seq, offset, _ = joined.place(start)
        return stream in self._found and (start == 0 or Cursor(seq, offset) < self._from)


def _match(
    chunk: _Chunk, stream: Stream, joined: _Joined, line: bytes, start: int, at: int, end: int
) -> Match:
    # A match of no bytes may be after the last one of its line.
    seq, offset, time = joined.place(min(start + at, end - 1))
    first_seq, first_offset, _ = joined.place(start)
    cut = 0 if at < TEXT_BYTES - _BEFORE_MATCH_BYTES else at - _BEFORE_MATCH_BYTES
    return Match(
        end=joined.end_of(end),
        seq=seq,
        offset=offset,
        at=time,
        line=chunk.line_at(first_seq, first_offset, stream),
        stream=stream,
        text=line[cut : cut + TEXT_BYTES],
    )
