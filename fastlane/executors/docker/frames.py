"""Decodes the engine's raw log stream.

A frame is eight bytes (stream, three zeros, length as 32 bits big-endian) and a payload. With
``timestamps=1`` the payload begins with the time at which the engine read it, in a fixed width, and
a space. Source: "Stream format" in https://docs.docker.com/reference/api/engine/version/v1.47/
"""

from __future__ import annotations

import struct
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

STDOUT = 1
STDERR = 2
# Messages of the engine about a log that it cannot read; they have no timestamp.
SYSTEM = 3

HEADER_BYTES = 8
# "2026-11-22T03:57:50.463188935Z " (Go's RFC3339NanoFixed in UTC, and a space)
STAMP_BYTES = 31
# The engine's own split of long lines (bufSize in moby's daemon/logger/copier.go).
SPLIT_BYTES = 16 * 1024
# Bounds the frames that are merged into one run; the engine's own frames have 16 KiB.
RUN_BYTES = 64 * 1024
# Bounds one frame: something this long is not a log stream.
FRAME_BYTES = 1024 * 1024

_HEADER = struct.Struct(">B3xI")
_NEWLINE = ord("\n")
_PAYLOAD = HEADER_BYTES + STAMP_BYTES


class FrameError(ValueError):
    """The bytes are not a framed log stream."""


class Run(NamedTuple):
    """Adjacent frames of one stream, none older than the one before."""

    kind: int
    first_stamp: bytes
    """The first frame's timestamp as the engine wrote it."""
    last_stamp: bytes
    data: bytes
    last_bytes: int
    """How much of the end of *data* is the last frame's."""
    repeats: bool = False
    """Whether it begins with the line that came right before, of the very same time."""


class FrameDecoder:
    """Splits a stream that arrives in arbitrary pieces; not reused after a :class:`FrameError`.

    The loop is where a log's time goes: per frame there is one header to unpack and one slice to
    cut, and everything else happens per run.

    A line over 16 KiB arrives in several frames of one time. The ``local`` driver of engines up to
    20.10 drops the newline after such a line, because it treats the last part as one that
    continues. The newline is restored when the stream's next line begins. Whether one is missing
    at the very end is not known from the frames: see :meth:`owes_newline`.
    """

    def __init__(self) -> None:
        self.merge = True
        """Whether adjacent frames become one run; False gives every frame on its own."""
        self._rest = b""
        # The last frame that was complete.
        self._previous = b""
        # Streams of which a long line is under way, with the time of its frames.
        self._long: dict[int, bytes] = {}
        # Streams whose long line has ended without a newline.
        self._owed: set[int] = set()

    def owes_newline(self, kind: int) -> bool:
        """Whether the last line of *kind* was a long one that ended without a newline."""
        return kind in self._owed

    @property
    def pending(self) -> bool:
        """Whether a frame has begun that is not complete."""
        return bool(self._rest)

    def feed(self, chunk: bytes) -> list[Run]:
        """The frames that *chunk* completes.

        :raises FrameError: the stream is malformed.
        """
        data = self._rest + chunk if self._rest else chunk
        unpack = _HEADER.unpack_from
        run_bytes = RUN_BYTES if self.merge else 0
        runs: list[Run] = []
        parts: list[bytes] = []
        append = parts.append
        current = begin = last = position = skip = 0
        repeats = False
        before = self._previous[HEADER_BYTES : _PAYLOAD - 1]
        end = len(data)
        long_frame = SPLIT_BYTES + STAMP_BYTES
        watching = bool(self._long or self._owed)
        while end - position >= HEADER_BYTES:
            kind, size = unpack(data, position)
            stop = position + HEADER_BYTES + size
            if stop > end:
                if size > FRAME_BYTES:
                    raise FrameError(f"a frame of {size} bytes")
                break
            stamp = data[position + HEADER_BYTES : position + _PAYLOAD - 1]
            again = (
                stamp == before
                and data[position:stop] == (data[last:position] if position else self._previous)
                and data[stop - 1] == _NEWLINE
            )
            if kind != current or stop - begin > run_bytes or stamp < before or again:
                if parts:
                    runs.append(_run(current, data, begin, last, position, parts, repeats))
                    parts.clear()
                repeats = again
                current, begin, skip = kind, position, _skip(kind, data, position, size)
            before = stamp
            if (watching or size >= long_frame) and kind != SYSTEM:
                if self._newline_is_due(kind, data[position + HEADER_BYTES : stop]):
                    append(b"\n")
                watching = bool(self._long or self._owed)
            append(data[position + skip : stop])
            last = position
            position = stop
        if parts:
            runs.append(_run(current, data, begin, last, position, parts, repeats))
        if position:
            self._previous = data[last:position]
        self._rest = data[position:]
        return runs

    def _newline_is_due(self, kind: int, payload: bytes) -> bool:
        """Whether a newline was forgotten before the frame that holds *payload*."""
        stamp, text = payload[: STAMP_BYTES - 1], payload[STAMP_BYTES:]
        unended = not text.endswith(b"\n")
        due = kind in self._owed
        self._owed.discard(kind)
        goes_on = self._long.pop(kind, None) == stamp
        if unended and len(text) >= SPLIT_BYTES:
            self._long[kind] = stamp
        elif unended and goes_on:
            self._owed.add(kind)
        return due


def _skip(kind: int, data: bytes, position: int, size: int) -> int:
    """How many bytes stand before the output of the frame at *position*."""
    if kind == SYSTEM:
        return HEADER_BYTES
    if kind > SYSTEM or size < STAMP_BYTES or data[position + _PAYLOAD - 1] != ord(" "):
        raise FrameError(f"a frame that begins with {data[position : position + _PAYLOAD]!r}")
    return _PAYLOAD


def _run(
    kind: int, data: bytes, begin: int, last: int, stop: int, parts: list[bytes], repeats: bool
) -> Run:
    joined = b"".join(parts)
    if kind == SYSTEM:
        return Run(kind, b"", b"", joined, stop - last - HEADER_BYTES)
    first_stamp = data[begin + HEADER_BYTES : begin + _PAYLOAD - 1]
    last_stamp = data[last + HEADER_BYTES : last + _PAYLOAD - 1]
    # Zero is stdin, which the engine writes on stdout.
    return Run(kind or STDOUT, first_stamp, last_stamp, joined, stop - last - _PAYLOAD, repeats)


def stamp_seconds(stamp: bytes) -> float:
    """Unix seconds of a frame's timestamp.

    :raises FrameError: it is none.
    """
    try:
        return _whole_second(stamp[:19]) + int(stamp[20:29]) / 1e9
    except ValueError as error:
        raise FrameError(f"a frame that begins with {stamp!r}") from error


# Bounds nothing but the memory of seconds that were just seen.
@lru_cache(maxsize=64)
def _whole_second(stamp: bytes) -> float:
    return datetime.fromisoformat(stamp.decode("ascii") + "+00:00").timestamp()
