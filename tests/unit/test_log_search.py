"""Searching a log chunk by chunk finds what searching each of its lines finds."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlane.api.streaming import searching
from fastlane.api.streaming.searching import Cursor, Match, Query, Search
from fastlane.model import LogRecord, Stream
from fastlane.storage.packing import Chunk, Lines, PackedChunk
from tests.log_model import PIECES, lines_of, records_of

OUT, ERR = Stream.STDOUT, Stream.STDERR
BOTH = (OUT, ERR)
PATTERNS = ["needle", "a", "^a", "a$", "^$", "x{101}", r"a\s*b", "b*", r"\Aa", r"a\z", "[^x]"]


def pack(records: Sequence[LogRecord], sizes: Sequence[int]) -> list[PackedChunk]:
    """Chunks of so many records each; the last size repeats."""
    chunks: list[PackedChunk] = []
    lines, at = Lines(), 0
    while at < len(records):
        part = records[at : at + sizes[min(len(chunks), len(sizes) - 1)]]
        chunk = Chunk(part[0].seq, part[0].seq - 1)
        before = lines.copy()
        for record in part:
            chunk.add(record)
            lines.add(record.at, record.stream, record.data)
        chunks.append(PackedChunk(chunk.first_seq, chunk.last_seq, chunk.packed, before))
        at += len(part)
    return chunks


def search_all(
    chunks: Sequence[PackedChunk], query: Query, limit: int, most: int
) -> tuple[list[Match], int]:
    """All matches, by requests for *limit* of them which read *most* chunks beyond their place."""
    found: list[Match] = []
    cursor = Cursor()
    for request in range(10_000):
        search = Search(query, cursor, limit)
        at = sum(chunk.last_seq < cursor.seq for chunk in chunks)
        begin = max(0, at - 1)
        for chunk in chunks[begin : at + 1 + most]:
            if not search.is_full:
                search.feed(chunk)
        search.finish()
        found += search.matches
        assert len(search.matches) <= limit
        if not search.is_full and at + 1 + most >= len(chunks):
            return found, request
        cursor = Cursor.parse(str(search.cursor))
    raise AssertionError("it makes no progress")


@settings(deadline=None, max_examples=300)
@given(
    pieces=PIECES,
    sizes=st.lists(st.integers(1, 8), min_size=1, max_size=5),
    pattern=st.sampled_from(PATTERNS),
    streams=st.sampled_from([BOTH, (OUT,), (ERR,)]),
    limit=st.integers(1, 8),
    most=st.integers(1, 4),
)
def test_any_log(
    pieces: list[tuple[Stream, bytes]],
    sizes: list[int],
    pattern: str,
    streams: tuple[Stream, ...],
    limit: int,
    most: int,
) -> None:
    records = records_of(pieces, 1.0)
    query = Query(pattern, is_regex=True, is_case_sensitive=True, streams=streams)
    wanted = {}
    for line in lines_of(records):
        text = line.text.removesuffix(b"\n")
        match = re2.compile(pattern).search(text)
        if line.stream in streams and match is not None:
            place = line.places[min(match.start(), len(line.places) - 1)]
            wanted[line.number] = (line.stream, text[: searching.TEXT_BYTES], place)
    # At once, in one chunk and in many.
    for chunks in (pack(records, [len(records) or 1]), pack(records, sizes)):
        found, _ = search_all(chunks, query, 10_000, 10_000)
        assert {one.line: (one.stream, one.text, (one.seq, one.offset)) for one in found} == wanted
        assert len(found) == len(wanted)
    # In many requests. Of a line that is longer than what a request looks at, some is not seen.
    chunks = pack(records, sizes)
    found, _ = search_all(chunks, query, limit, most)
    assert len({one.line for one in found}) == len(found)
    longest = max((one.places[-1][0] - one.places[0][0] for one in lines_of(records)), default=0)
    if longest == 0:
        assert {one.line: (one.stream, one.text, (one.seq, one.offset)) for one in found} == wanted


def test_a_line_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "MAX_CARRIED_BYTES", 1000)
    monkeypatch.setattr(searching, "OVERLAP_BYTES", 100)
    texts = [b"x" * 333] * 20 + [b"nee"] + [b"dle" + b"y" * 400] * 10
    records = records_of([(OUT, text) for text in texts], 1.0)
    query = Query("NEEDLE", is_regex=False, is_case_sensitive=False, streams=BOTH)
    search = Search(query, Cursor(), 10)
    for chunk in pack(records, [2]):
        search.feed(chunk)
    search.finish()
    (match,) = search.matches
    assert (match.line, match.seq, match.offset) == (1, 21, 0)
    assert b"needle" in match.text
    assert len(match.text) <= searching.TEXT_BYTES
    # It is not reported again when the log has grown.
    again = Search(query, Cursor.parse(str(search.cursor)), 10)
    more = records_of([(OUT, text) for text in (*texts, b"needle\nneedle\n")], 1.0)
    for chunk in pack(more, [2])[-4:]:
        again.feed(chunk)
    assert [one.line for one in again.matches] == [2]


def test_what_was_dropped_ends_a_line() -> None:
    records = records_of([(OUT, b"nee"), (OUT, b"dropped"), (OUT, b"dle\nneedle\n")], 1.0)
    first, _, third = pack(records, [1])
    search = Search(
        Query("needle", is_regex=False, is_case_sensitive=True, streams=BOTH), Cursor(), 10
    )
    for chunk in (first, third):
        search.feed(chunk)
    assert [(one.line, one.text) for one in search.matches] == [(2, b"needle")]


@pytest.mark.parametrize("text", ["", "x", "-1", "1.", "1.2.3", "1eo", "9" * 20])
def test_what_is_no_cursor(text: str) -> None:
    with pytest.raises(ValueError, match=rf"^{re.escape(text)}$"):
        Cursor.parse(text)
