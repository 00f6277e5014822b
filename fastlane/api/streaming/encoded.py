"""Pages of log, encoded for the wire once and written to any number of clients."""

from __future__ import annotations

import itertools
import struct
from array import array
from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from fastlane.encoding import to_json
from fastlane.model import LogRecord, Stream
from fastlane.storage.packing import dropped_note

# RFC 6455 section 5.2: FIN and the opcode of a text frame; a server's frames are not masked.
_TEXT_FRAME = 0x81
# Bytes that a cached page takes besides its data, so that many small ones are bounded too.
_PAGE_OVERHEAD_BYTES = 1024
# How the note about dropped bytes ends, whatever their number.
_DROPPED_NOTE_END = dropped_note(0).partition(b"0")[2]


class Format(StrEnum):
    """The form in which a viewer receives the log."""

    PLAIN = "plain"
    """Text frames (WebSocket) of any length, cut between records."""
    JSON = "json"
    """One text frame (WebSocket) for each record."""
    LINES = "lines"
    """One line of JSON for each record (NDJSON)."""
    EVENTS = "events"
    """One server-sent event for each record; its id is the sequence number."""
    TEXT = "text"
    """The exact bytes."""


@dataclass(frozen=True, slots=True)
class View:
    """Which records a viewer receives, and in which form."""

    form: Format
    stream: Stream | None = None
    """Only this one, and the server's notes; None: both streams and the notes."""
    id_prefix: str = ""
    """Before the sequence number in the ids of server-sent events."""

    def shows(self, record: LogRecord) -> bool:
        """Whether *record* is one of them."""
        return self.stream is None or record.stream in (self.stream, Stream.FASTLANE)


def frame_header(length: int) -> bytes:
    """The header of an unmasked frame with *length* bytes of text (RFC 6455, section 5.2)."""
    if length < 126:
        return struct.pack("!BB", _TEXT_FRAME, length)
    if length <= 0xFFFF:
        return struct.pack("!BBH", _TEXT_FRAME, 126, length)
    return struct.pack("!BBQ", _TEXT_FRAME, 127, length)


def time_text(at: float) -> str:
    """A point in time (unix seconds) as the API writes it: UTC, microseconds, no suffix."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").removesuffix("+00:00")


def is_output(record: LogRecord) -> bool:
    """Whether *record* is a part of the text, as are all that follow it.

    Notes before all output are about the pull, and are not. A note about dropped output is.
    """
    return record.stream is not Stream.FASTLANE or record.data.endswith(_DROPPED_NOTE_END)


@dataclass(frozen=True, slots=True)
class Page:
    """Consecutive records of a log."""

    after: int
    """The page starts after this sequence number."""
    last: int
    """The last sequence number that was read for it."""
    seqs: Sequence[int]
    """Of the records that it shows."""
    starts: Sequence[int]
    """Where each of these begins in ``wire``."""
    wire: bytes
    view: View
    output_after: int | None
    """The text begins after this sequence number; None: it has no output."""
    short: bool
    """It was read at the end of a growing log, which may be longer by now."""
    version: int
    """The version of the watch that read it."""

    @property
    def weight(self) -> int:
        """Its approximate size in memory, in bytes."""
        return len(self.wire) + 16 * len(self.seqs) + _PAGE_OVERHEAD_BYTES

    def rest(self, after: int) -> bytes | memoryview:
        """What it shows after sequence number *after*; of frames, whole ones."""
        first = bisect_right(self.seqs, after)
        if first == 0:
            return self.wire
        if first == len(self.seqs):
            return b""
        rest = memoryview(self.wire)[self.starts[first] :]
        if self.view.form is Format.PLAIN:
            return frame_header(len(rest)) + rest
        return rest

    def up_to(self, after: int, count: int) -> tuple[bytes | memoryview, int, int]:
        """As :meth:`rest`, but at most *count* records (not of the form PLAIN).

        :return: that, how many records it is, and the last sequence number.
        """
        first = bisect_right(self.seqs, after)
        end = first + count
        if end >= len(self.seqs):
            return self.rest(after), len(self.seqs) - first, self.last
        part = memoryview(self.wire)[self.starts[first] : self.starts[end]]
        return part, count, self.seqs[end - 1]


def encode_page(
    records: Sequence[LogRecord], *, after: int, view: View, short: bool, version: int
) -> Page:
    """Encode *records* (at least one) for all viewers."""
    shown = [record for record in records if view.shows(record)]
    wire, starts = _ENCODE[view.form](view, shown)
    begin = next((record.seq - 1 for record in records if is_output(record)), None)
    seqs = array("Q", (record.seq for record in shown))
    return Page(after, records[-1].seq, seqs, starts, wire, view, begin, short, version)


def _encode_plain(_: View, records: Sequence[LogRecord]) -> tuple[bytes, array[int]]:
    shares = [record.data for record in records]
    body = b"".join(shares)
    try:
        body.decode()
    except UnicodeDecodeError:
        shares = [share.decode(errors="replace").encode() for share in shares]
        body = b"".join(shares)
    header = frame_header(len(body))
    return header + body, _starts(shares, len(header))


def _encode_text(_: View, records: Sequence[LogRecord]) -> tuple[bytes, array[int]]:
    shares = [record.data for record in records]
    return b"".join(shares), _starts(shares)


def _encode_json(_: View, records: Sequence[LogRecord]) -> tuple[bytes, array[int]]:
    texts = map(record_json, records)
    shares = [frame_header(len(text)) + text for text in texts]
    return b"".join(shares), _starts(shares)


def _encode_lines(_: View, records: Sequence[LogRecord]) -> tuple[bytes, array[int]]:
    shares = [record_json(record) + b"\n" for record in records]
    return b"".join(shares), _starts(shares)


def _encode_events(view: View, records: Sequence[LogRecord]) -> tuple[bytes, array[int]]:
    shares = [
        b"id: %s%d\ndata: %s\n\n" % (view.id_prefix.encode(), record.seq, record_json(record))
        for record in records
    ]
    return b"".join(shares), _starts(shares)


_ENCODE = {
    Format.PLAIN: _encode_plain,
    Format.JSON: _encode_json,
    Format.LINES: _encode_lines,
    Format.EVENTS: _encode_events,
    Format.TEXT: _encode_text,
}


def record_json(record: LogRecord) -> bytes:
    """A record as every form of JSON shows it. Bytes that are not UTF-8 are U+FFFD."""
    return to_json(
        {
            "seq": record.seq,
            "ts": time_text(record.at),
            "stream": record.stream,
            "text": record.data.decode(errors="replace"),
            "line": record.line,
            "nextLine": record.next_line,
        }
    ).encode()


def _starts(shares: Sequence[bytes], first: int = 0) -> array[int]:
    return array("Q", itertools.accumulate(map(len, shares[:-1]), initial=first))


class PageCache:
    """The most recently used pages, bounded in bytes for the whole process."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._pages: OrderedDict[tuple[str, View, int], Page] = OrderedDict()
        self._starts: dict[tuple[str, View], list[int]] = {}
        self.weight = 0

    def find(self, execution_id: str, view: View, after: int) -> Page | None:
        """A page that holds the record that follows *after*, perhaps with some before it."""
        starts = self._starts.get((execution_id, view), ())
        nearest = bisect_right(starts, after)
        if nearest == 0:
            return None
        key = (execution_id, view, starts[nearest - 1])
        page = self._pages[key]
        if page.last <= after:
            return None
        self._pages.move_to_end(key)
        return page

    def add(self, execution_id: str, page: Page) -> None:
        """Keep *page* instead of one with the same start, and drop the least recently used."""
        key = (execution_id, page.view, page.after)
        self._remove(key)
        self._pages[key] = page
        self.weight += page.weight
        insort(self._starts.setdefault(key[:2], []), page.after)
        while self.weight > self._limit_bytes:
            self._remove(next(iter(self._pages)))

    def _remove(self, key: tuple[str, View, int]) -> None:
        page = self._pages.pop(key, None)
        if page is None:
            return
        self.weight -= page.weight
        starts = self._starts[key[:2]]
        del starts[bisect_right(starts, key[2]) - 1]
        if not starts:
            del self._starts[key[:2]]
