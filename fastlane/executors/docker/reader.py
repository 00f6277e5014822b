"""Turns log frames into pieces, and can continue after any bookmark.

The engine cannot be asked for everything after a byte: ``since`` accepts a time, several frames
share one, and a clock may be set back. So a log is read again from its start, and the bytes that
the bookmark counts are skipped. If the host rotated the start away (the first frame has a different
time than in the bookmark), the times of the last frames decide instead.
"""

from __future__ import annotations

import json
import time
import zlib

from fastlane.executors.base import LogBatch, LogPiece
from fastlane.executors.docker.frames import (
    SPLIT_BYTES,
    STDOUT,
    SYSTEM,
    FrameDecoder,
    Run,
    stamp_seconds,
)
from fastlane.executors.utf8 import incomplete_tail
from fastlane.model import Stream

# Bounds how often a log whose times go back is read again before it is used anyway.
MAX_STEPS_BACK = 100
# Bounds how many messages of an engine about one log are passed on.
MAX_COMPLAINTS = 10
_STREAMS = (Stream.STDOUT, Stream.STDERR)

ROTATED_NOTE = b"[fastlane: a part of this log was rotated away on the host before it was read]\n"


class LogReader:
    """The state of reading one log, over any number of connections.

    :param tty: the stream is raw, without frames and times.
    :param loses_newlines: the engine drops the newline after a long line, so one is added at the
        log's end, too (a long last line without one is rarer).
    """

    def __init__(self, bookmark: str, *, tty: bool = False, loses_newlines: bool = False) -> None:
        self._tty = tty
        self._loses_newlines = loses_newlines
        note = json.loads(bookmark) if bookmark else {}
        # Bytes of each stream from the log's first frame to the last that was yielded.
        self._counts: list[int] = note.get("bytes", [0, 0])
        self._first: bytes = note.get("first", "").encode()
        # Of each stream the last frame's time, and the yielded bytes that share it (its line's).
        self._last: list[bytes] = [stamp.encode() for stamp in note.get("last", ["", ""])]
        self._line: list[int] = note.get("line", [0, 0])
        self._steps_back: set[tuple[bytes, bytes]] = set()
        # The engine's complaints that were passed on; it repeats them with every read.
        self._complaints: list[int] = note.get("said", [])
        self.restart()

    def restart(self, *, trusted: bool = False) -> None:
        """Expect the log from its start, on a new connection.

        :param trusted: it is read without following. Docker 20.10 repeats frames when the log is
            rotated under a follow, which shows as times that go back: see :attr:`suspect`.
        """
        self.suspect = False
        """Whether what follows may be a repetition: read the log again from its start."""
        self._trusted = trusted
        self._times = [b"", b""]
        self._decoder = FrameDecoder()
        self._head: bytes | None = b""
        self._skip = list(self._counts)
        self._rotated = False
        self._line_skip = list(self._line)
        self._held = [b"", b""]
        self._seen: tuple[int, bytes, bytes] | None = None

    def feed(self, chunk: bytes) -> LogBatch | None:
        """What *chunk* adds to the log, or None when that is nothing.

        :raises FrameError: the stream is malformed.
        """
        if self._tty:
            runs = [Run(STDOUT, b"", b"", chunk, len(chunk))]
        else:
            runs = self._decoder.feed(chunk)
        pieces: list[LogPiece] = []
        if self._head is not None:
            runs = self._begin(chunk, runs, pieces)
        for number, run in enumerate(runs):
            if run.kind == SYSTEM:
                self._complain(run.data, pieces)
            elif self._goes_back(run):
                self.suspect = True
                runs = runs[:number]
                break
            else:
                self._take(run, pieces)
        if runs and runs[-1].kind != SYSTEM and not self._tty:
            run = runs[-1]
            self._seen = (run.kind, run.last_stamp, run.data[len(run.data) - run.last_bytes :])
        return LogBatch(pieces, self._bookmark()) if pieces else None

    def finish(self) -> LogBatch | None:
        """The bytes that were held back for a character's end which never came."""
        pieces = []
        for index, held in enumerate(self._held):
            if self._owes_newline(index):
                held += b"\n"
            if held:
                at = stamp_seconds(self._last[index]) if self._last[index] else time.time()
                pieces.append(LogPiece(at, _STREAMS[index], held))
                self._counts[index] += len(held)
                self._line[index] += len(held)
        self._held = [b"", b""]
        return LogBatch(pieces, self._bookmark()) if pieces else None

    def _complain(self, words: bytes, pieces: list[LogPiece]) -> None:
        """Pass on what the engine says of the log, unless it was."""
        mark = zlib.crc32(words)
        if mark not in self._complaints and len(self._complaints) < MAX_COMPLAINTS:
            self._complaints.append(mark)
            pieces.append(LogPiece(time.time(), Stream.FASTLANE, _engine_note(words)))

    def _goes_back(self, run: Run) -> bool:
        """Whether *run* is older than what came before or the same once more, and not because a
        clock was set back or stood still.

        That is in the log itself, and so comes a second time when the log is read again.
        """
        index = run.kind - 1
        step = (self._times[index], run.first_stamp)
        self._times[index] = run.last_stamp
        if (step[1] >= step[0] and not run.repeats) or self._trusted or step in self._steps_back:
            return False
        self._steps_back.add(step)
        return len(self._steps_back) <= MAX_STEPS_BACK

    def _owes_newline(self, index: int) -> bool:
        owed = self._loses_newlines and self._decoder.owes_newline(index + 1)
        return owed and not self._skip[index]

    def reached(self, tail: bytes) -> bool:
        """Whether the log's last frame, as ``tail=1`` gives it, was the last on this connection.

        False where that proves nothing: the pieces of one long line share their time and may be
        equal.
        """
        if self._tty or self._decoder.pending:
            return False
        decoder = FrameDecoder()
        decoder.merge = False
        runs = [run for run in decoder.feed(tail) if run.kind != SYSTEM]
        if not runs:
            return self._seen is None
        run = runs[-1]
        if len(run.data) >= SPLIT_BYTES and not run.data.endswith(b"\n"):
            return False
        return self._seen == (run.kind, run.last_stamp, run.data)

    def _begin(self, chunk: bytes, runs: list[Run], pieces: list[LogPiece]) -> list[Run]:
        """Compare the log's first frame with the bookmark's, once there is one."""
        assert self._head is not None
        self._head += chunk
        first = next((run.first_stamp for run in runs if run.kind != SYSTEM), None)
        if first is None:
            return runs
        head, self._head = self._head, None
        if not self._first:
            self._first = first
        elif first != self._first:
            if first > max(self._last):
                pieces.append(LogPiece(stamp_seconds(first), Stream.FASTLANE, ROTATED_NOTE))
            self._first, self._counts, self._rotated = first, [0, 0], True
            # Frame by frame from here, until the last known time has passed.
            self._decoder = FrameDecoder()
            self._decoder.merge = False
            return self._decoder.feed(head)
        return runs

    def _take(self, run: Run, pieces: list[LogPiece]) -> None:
        index = run.kind - 1
        data = run.data
        if self._rotated:
            data = self._after_last(run, index)
        elif self._skip[index]:
            skipped = min(self._skip[index], len(data))
            self._skip[index] -= skipped
            data = data[skipped:]
        if not data:
            return
        if self._held[index]:
            data = self._held[index] + data
        keep = len(data) - incomplete_tail(data)
        self._held[index] = data[keep:]
        if keep < len(data):
            data = data[:keep]
        # A line's frames share one time, so what follows the last newline but one is the last's.
        line = len(data) - (data.rfind(b"\n", 0, -1) + 1)
        same_line = line == len(data) and run.first_stamp == self._last[index]
        self._line[index] = line + (self._line[index] if same_line else 0)
        self._last[index] = run.last_stamp
        self._counts[index] += len(data)
        if data:
            at = time.time() if self._tty else stamp_seconds(run.first_stamp)
            pieces.append(LogPiece(at, _STREAMS[index], data))

    def _after_last(self, run: Run, index: int) -> bytes:
        """The part of a single frame that was not yielded before, by its time."""
        if run.first_stamp > max(self._last):
            self._rotated, self._skip, self._decoder.merge = False, [0, 0], True
            return run.data
        if run.first_stamp > self._last[index]:
            self._line_skip[index] = 0
            return run.data
        skipped = len(run.data)
        if run.first_stamp == self._last[index]:
            skipped = min(self._line_skip[index], skipped)
            self._line_skip[index] -= skipped
        self._counts[index] += skipped
        return run.data[skipped:]

    def _bookmark(self) -> str:
        return json.dumps(
            {
                "bytes": self._counts,
                "first": self._first.decode("latin-1"),
                "last": [stamp.decode("latin-1") for stamp in self._last],
                "line": self._line,
                **({"said": self._complaints} if self._complaints else {}),
            },
            separators=(",", ":"),
        )


def _engine_note(text: bytes) -> bytes:
    return b"[fastlane: the engine says of this log: " + text[:500].strip() + b"]\n"
