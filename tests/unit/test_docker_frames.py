"""The engine's log stream is taken apart the same way however it arrives."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlane.executors.docker.frames import (
    SPLIT_BYTES,
    STDERR,
    STDOUT,
    SYSTEM,
    FrameDecoder,
    FrameError,
    stamp_seconds,
)
from fastlane.executors.docker.reader import LogReader
from fastlane.executors.utf8 import incomplete_tail
from fastlane.model import Stream


def stamp(number: int) -> bytes:
    return b"2026-11-22T03:57:50.%09dZ" % number


def frame(kind: int, number: int, data: bytes) -> bytes:
    payload = stamp(number) + b" " + data
    return struct.pack(">B3xI", kind, len(payload)) + payload


def decoded(decoder: FrameDecoder, chunks: list[bytes]) -> dict[int, bytes]:
    found = {STDOUT: b"", STDERR: b""}
    for chunk in chunks:
        for run in decoder.feed(chunk):
            found[run.kind] += run.data
    return found


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


FRAMES = st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=60)), max_size=30)


@given(FRAMES, st.lists(st.integers(0, 10_000), max_size=20), st.booleans())
def test_any_cut_gives_the_same_bytes(
    frames: list[tuple[int, bytes]], places: list[int], merge: bool
) -> None:
    wire = b"".join(frame(kind, n, data) for n, (kind, data) in enumerate(frames))
    decoder = FrameDecoder()
    decoder.merge = merge
    found = decoded(decoder, cut(wire, places))
    for kind in (STDOUT, STDERR):
        assert found[kind] == b"".join(data for each, data in frames if each == kind)
    assert not decoder.pending


@given(FRAMES, st.integers(0, 30))
def test_a_reader_goes_on_behind_any_bookmark(frames: list[tuple[int, bytes]], stop: int) -> None:
    wire = [frame(kind, n, data) for n, (kind, data) in enumerate(frames)]
    whole = LogReader("")
    expected = read(whole, wire)
    first = LogReader("")
    begun = read_some(first, wire[:stop])
    rest = LogReader(begun[1])
    for stream in (Stream.STDOUT, Stream.STDERR):
        assert begun[0][stream] + read(rest, wire)[stream] == expected[stream]
        rest = LogReader(begun[1])


def read_some(reader: LogReader, chunks: list[bytes]) -> tuple[dict[Stream, bytes], str]:
    found, bookmark = {Stream.STDOUT: b"", Stream.STDERR: b""}, ""
    for chunk in chunks:
        batch = reader.feed(chunk)
        if batch is not None:
            bookmark = batch.bookmark
            for piece in batch.pieces:
                found[piece.stream] += piece.data
    return found, bookmark


def read(reader: LogReader, chunks: list[bytes]) -> dict[Stream, bytes]:
    found, _ = read_some(reader, chunks)
    last = reader.finish()
    for piece in last.pieces if last is not None else ():
        found[piece.stream] += piece.data
    return found


LONG = b"x" * SPLIT_BYTES


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        # As the local driver of Docker 20.10 writes a long line: the newline is forgotten.
        ([(1, LONG), (1, b"end"), (2, b"next\n")], LONG + b"end\nnext\n"),
        ([(1, LONG), (1, LONG), (1, b""), (2, b"next\n")], LONG * 2 + b"\nnext\n"),
        # As it should be, and as json-file does.
        ([(1, LONG), (1, b"end\n"), (2, b"next\n")], LONG + b"end\nnext\n"),
        # Lines that are no parts of one.
        ([(1, b"a"), (2, b"b\n")], b"ab\n"),
        ([(1, LONG[:-1] + b"\n"), (2, b"next\n")], LONG[:-1] + b"\nnext\n"),
    ],
)
def test_the_newline_behind_a_long_line_is_put_back(
    parts: list[tuple[int, bytes]], expected: bytes
) -> None:
    wire = b"".join(frame(STDOUT, number, data) for number, data in parts)
    for chunks in ([wire], [wire[i : i + 1000] for i in range(0, len(wire), 1000)]):
        assert decoded(FrameDecoder(), chunks)[STDOUT] == expected


def test_the_other_stream_does_not_disturb_a_long_line() -> None:
    wire = [
        frame(STDOUT, 1, LONG),
        frame(STDERR, 2, b"err\n"),
        frame(STDOUT, 1, b"end"),
        frame(STDERR, 3, b"err\n"),
        frame(STDOUT, 4, b"next\n"),
    ]
    found = decoded(FrameDecoder(), wire)
    assert found == {STDOUT: LONG + b"end\nnext\n", STDERR: b"err\nerr\n"}


@pytest.mark.parametrize(("loses", "end"), [(True, b"\n"), (False, b"")])
def test_a_long_last_line_ends_as_the_engine_is_known_to_write_it(loses: bool, end: bytes) -> None:
    wire = [frame(STDOUT, 1, LONG), frame(STDOUT, 1, b"end")]
    reader = LogReader("", loses_newlines=loses)
    begun, _ = read_some(reader, wire)
    last = reader.finish()
    text = begun[Stream.STDOUT] + b"".join(p.data for p in (last.pieces if last else ()))
    assert text == LONG + b"end" + end
    if last is not None:
        # Behind the end there is nothing more, however often it is read.
        again = LogReader(last.bookmark, loses_newlines=loses)
        assert read(again, wire)[Stream.STDOUT] == b""


def test_the_engines_own_words_bear_no_time() -> None:
    words = b"error from daemon"
    wire = struct.pack(">B3xI", SYSTEM, len(words)) + words
    (run,) = FrameDecoder().feed(wire)
    assert (run.kind, run.data) == (SYSTEM, words)


@pytest.mark.parametrize(
    "wire",
    [b"\x09" + b"x" * 60, struct.pack(">B3xI", 1, 2**31), struct.pack(">B3xI", 1, 3) + b"abc"],
)
def test_what_is_no_log_stream_is_refused(wire: bytes) -> None:
    with pytest.raises(FrameError):
        FrameDecoder().feed(wire)


@given(st.text(max_size=40))
def test_an_incomplete_character_is_found_at_every_cut(text: str) -> None:
    data = text.encode()
    for end in range(len(data) + 1):
        whole = end - incomplete_tail(data[:end])
        data[:whole].decode()
        assert end - whole <= 3


def test_times_have_nanoseconds() -> None:
    assert stamp_seconds(b"2026-11-22T03:57:50.463188935Z") == pytest.approx(
        1795319870.463188935, abs=1e-6
    )
