"""Reads the log of a run: its frames, and the pieces that they make."""

from __future__ import annotations

import os
import time
from pathlib import Path

from fastlane.executors.base import LogBatch, LogPiece
from fastlane.executors.process import shim
from fastlane.executors.utf8 import incomplete_tail
from fastlane.model import Stream

# Bounds one batch of log, headers included; it holds at least one whole frame.
BATCH_BYTES = 256 * 1024
# Bounds the time between frames of one stream that are merged into one record.
MERGE_SECONDS = 0.1

_STREAMS = {shim.STDOUT: Stream.STDOUT, shim.STDERR: Stream.STDERR}
DAMAGED_NOTE = b"\n[fastlane: the rest of this log is damaged on its host]\n"


class LogReader:
    """Makes batches of frames, from a bookmark on.

    A bookmark is ``OFFSET:OUT:ERR``: where the next frame begins, and the bytes, in hex, of a
    character in each stream whose first part was in a frame before it.
    """

    def __init__(self, offset: int, held: dict[Stream, bytes]) -> None:
        self.offset = offset
        self.moved = False
        """Whether the last :meth:`take` found a frame."""
        self._held = held
        self._at = 0.0
        self._damaged = False

    @classmethod
    def at(cls, bookmark: str) -> LogReader:
        offset, out, err = (bookmark or "0::").split(":")
        held = {Stream.STDOUT: bytes.fromhex(out), Stream.STDERR: bytes.fromhex(err)}
        return cls(int(offset), held)

    @property
    def bookmark(self) -> str:
        out, err = (self._held[stream].hex() for stream in (Stream.STDOUT, Stream.STDERR))
        return f"{self.offset}:{out}:{err}"

    def take(self, data: bytes) -> LogBatch | None:
        """What the whole frames at the beginning of *data* hold; a torn one is left for later."""
        pieces: list[tuple[float, Stream, bytearray]] = []
        position = 0
        while position + shim.FRAME.size <= len(data):
            number, at, length = shim.FRAME.unpack_from(data, position)
            if number not in _STREAMS or length > shim.READ_BYTES:
                self._damaged = True
                break
            end = position + shim.FRAME.size + length
            if end > len(data):
                break
            stream = _STREAMS[number]
            payload = data[position + shim.FRAME.size : end]
            position = end
            self._at = at
            if pieces and pieces[-1][1] is stream and at - pieces[-1][0] < MERGE_SECONDS:
                pieces[-1][2].extend(payload)
            else:
                pieces.append((at, stream, bytearray(payload)))
        self.moved = position > 0
        self.offset += position
        whole: list[LogPiece] = []
        for at, stream, merged in pieces:
            complete = self._held[stream] + bytes(merged)
            cut = len(complete) - incomplete_tail(complete)
            self._held[stream] = complete[cut:]
            if cut:
                whole.append(LogPiece(at, stream, complete[:cut]))
        return LogBatch(whole, self.bookmark) if whole else None

    def flush(self) -> LogBatch | None:
        """What was held back, when no more will come."""
        pieces = [
            LogPiece(self._at or time.time(), stream, tail)
            for stream, tail in self._held.items()
            if tail
        ]
        self._held = {Stream.STDOUT: b"", Stream.STDERR: b""}
        if self._damaged:
            pieces.append(LogPiece(time.time(), Stream.FASTLANE, DAMAGED_NOTE))
        return LogBatch(pieces, self.bookmark) if pieces else None


def peek(directory: Path, offset: int) -> tuple[bool, bytes]:
    """Whether the run has ended, and what its log has at *offset*."""
    # Asked before the read: what was written before the end is then in what is read.
    ended = (directory / shim.EXIT).exists()
    try:
        descriptor = os.open(directory / shim.LOG, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        # That the run vanished is found by the look at it, which comes around.
        return False, b""
    try:
        return ended, os.pread(descriptor, BATCH_BYTES, offset)
    finally:
        os.close(descriptor)
