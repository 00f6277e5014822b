"""What a log is by definition, worked out byte by byte: the measure of every way to read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

from fastlane.model import LogRecord, Stream

STREAMS = (Stream.STDOUT, Stream.STDERR, Stream.FASTLANE)
PIECES = st.lists(
    st.tuples(
        st.sampled_from(STREAMS),
        st.one_of(
            st.sampled_from([b"", b"\n", b"a", b"a\n", b"\n\n", b"needle\n", b"nee", b"dle"]),
            st.binary(max_size=12),
            st.text("ab\n", max_size=40).map(str.encode),
            st.integers(100, 400).map(lambda size: b"x" * size),
        ),
    ),
    max_size=30,
)
"""Streams and data of the records of a log."""


def records_of(pieces: Sequence[tuple[Stream, bytes]], now: float) -> list[LogRecord]:
    """The records of *pieces*; their times rise, but not always."""
    return [
        LogRecord(seq, now + seq - 3 * (seq % 4 == 0), stream, data)
        for seq, (stream, data) in enumerate(pieces, start=1)
    ]


@dataclass
class Line:
    """A line of one stream."""

    number: int
    stream: Stream
    text: bytes = b""
    places: list[tuple[int, int]] = field(default_factory=list)
    """Of each byte: its record's sequence number, and where it is in the data."""


def lines_of(records: Sequence[LogRecord]) -> list[Line]:
    """The lines of a whole log, by number."""
    lines: list[Line] = []
    current: dict[Stream, Line] = {}
    for record in records:
        if record.stream is Stream.FASTLANE:
            continue
        for offset, byte in enumerate(record.data):
            line = current.get(record.stream)
            if line is None:
                line = current[record.stream] = Line(len(lines) + 1, record.stream)
                lines.append(line)
            line.text += bytes([byte])
            line.places.append((record.seq, offset))
            if byte == ord("\n"):
                del current[record.stream]
    return lines


def check_numbers(found: Sequence[LogRecord], written: Sequence[LogRecord]) -> None:
    """The records that were *found* have the numbers that they have among all *written* ones."""
    by_place = {place: line.number for line in lines_of(written) for place in line.places}
    for record in found:
        if record.stream is Stream.FASTLANE:
            assert (record.line, record.next_line) == (None, None)
            continue
        assert record.line is not None
        assert record.next_line is not None
        if record.data:
            assert record.line == by_place[record.seq, 0]
        begins = [at + 1 for at, byte in enumerate(record.data) if byte == ord("\n")]
        for number, begin in enumerate(begins, start=record.next_line):
            if begin < len(record.data):
                assert by_place[record.seq, begin] == number
