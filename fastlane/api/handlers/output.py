"""``logs``, ``stdout`` and ``stderr`` as plain text: the exact bytes, in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastlane.api import parameters
from fastlane.api.base import BaseHandler, Room
from fastlane.api.lookup import find_log
from fastlane.model import LogState, Stream
from fastlane.storage.base import Storage
from fastlane.storage.packing import dropped_note

# The reference: stdout and stderr "separated by \n-=-\n".
SEPARATOR = b"\n-=-\n"
# Bounds the memory of ?tail=N; of more lines than fit, the end is sent.
TAIL_MAX_BYTES = 8 * 1024 * 1024
TAIL_FIRST_BYTES = 64 * 1024
# Bounds what is read of a log at a time.
READ_BYTES = 256 * 1024
# How the note about dropped bytes ends, whatever their number.
DROPPED_NOTE_END = dropped_note(0).partition(b"0")[2]
TAIL = parameters.number("tail", "Only so many of the last lines.", 0, 1_000_000)


class OutputHandler(BaseHandler):
    """The output of an execution, or of a job's last one."""

    streams: tuple[Stream, ...]

    async def get(self, task_id: str, job_id: str, execution_id: str | None = None) -> None:
        """The output byte by byte; while the execution runs, what it has written so far.

        `logs` is stdout, a line `-=-`, and stderr.
        """
        tail = TAIL.number(self)
        storage = self.services.storage
        _, execution = await find_log(storage, task_id, job_id, execution_id)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        if execution is None:
            self.set_header("Fastlane-Status", "scheduled")
            return
        # The status is read first: once it is final, the log is complete.
        self.set_header("Fastlane-Status", execution.status)
        if execution.reason is not None:
            self.set_header("Fastlane-Reason", execution.reason)
        if execution.exit_code is not None:
            self.set_header("Fastlane-Exit-Code", str(execution.exit_code))
        if self.request.method == "HEAD":
            # Otherwise Tornado would send the length of the empty body.
            await self.flush()
            return
        log = _Log(storage, execution.id, await storage.logs.state(execution.id), self.room)
        if tail is not None:
            self.write(await log.last_lines(self.streams, tail))
            return
        for number, stream in enumerate(self.streams):
            if number:
                self.write(SEPARATOR)
            async for data in log.read(stream):
                self.write(data)
                del data
                await self.flush()

    def compute_etag(self) -> None:
        """None: what must not be stored is never requested conditionally."""


class Logs(OutputHandler):
    """``…/logs/``"""

    streams = (Stream.STDOUT, Stream.STDERR)


class Stdout(OutputHandler):
    """``…/stdout/``"""

    streams = (Stream.STDOUT,)


class Stderr(OutputHandler):
    """``…/stderr/``"""

    streams = (Stream.STDERR,)


@dataclass(frozen=True, slots=True)
class _Log:
    """The output of one execution, read in bounded memory."""

    storage: Storage
    id: str
    state: LogState
    room: Room
    """Is waited for before much is read."""

    @property
    def size(self) -> int:
        return self.state.stdout_bytes + self.state.stderr_bytes

    async def read(self, stream: Stream) -> AsyncIterator[bytes]:
        """One stream up to the state.

        Of the server's notes, those about dropped output are part of each stream that has any
        output, because it is not known from which one it was dropped. Notes before all output are
        about the pull, and are not part of it.
        """
        if _kept_bytes(self.state, stream) == 0:
            # Do not search the other stream, which may be a hundred megabytes long.
            return
        after, last_seq, begun = 0, self.state.last_seq, False
        while after < last_seq:
            await self.room(min(self.size, READ_BYTES))
            records = await self.storage.logs.read(self.id, after=after, max_bytes=READ_BYTES)
            if not records:
                return
            after = records[-1].seq
            parts = []
            for record in records:
                if record.seq > last_seq:
                    break
                is_note = record.stream is Stream.FASTLANE
                begun = begun or not is_note or record.data.endswith(DROPPED_NOTE_END)
                if record.stream is stream or (is_note and begun):
                    parts.append(record.data)
            # What is read is not kept while the client reads it.
            del records
            yield b"".join(parts)

    async def last_lines(self, streams: tuple[Stream, ...], lines: int) -> bytes:
        """The last *lines* lines of the whole text."""
        text = b""
        for number, stream in enumerate(reversed(streams)):
            if number:
                text = SEPARATOR + text
            text = await self._end_of(stream, lines) + text
            if _count_lines(text) > lines:
                break
        if lines == 0:
            return b""
        start = len(text) - 1
        for _ in range(lines):
            start = text.rfind(b"\n", 0, max(start, 0))
            if start < 0:
                return text
        return text[start + 1 :]

    async def _end_of(self, stream: Stream, lines: int) -> bytes:
        """The end of one stream: enough for *lines* lines, all of it, or the most that is kept."""
        # The end of a stream does not say where output was dropped. In a log that is longer than
        # this, the place is before what is read here.
        if self.state.dropped_bytes and self.size <= 2 * TAIL_MAX_BYTES:
            await self.room(self.size)
            parts = [part async for part in self.read(stream)]
            return b"".join(parts)[-TAIL_MAX_BYTES:]
        size = TAIL_FIRST_BYTES
        while True:
            data, cut = await self.storage.logs.tail(self.id, stream, max_bytes=size)
            if not cut or size >= TAIL_MAX_BYTES or _count_lines(data) > lines:
                return data
            del data
            # At once for all that may be read, of both streams: who waits must hold nothing.
            await self.room(min(self.size, 2 * TAIL_MAX_BYTES))
            size *= 8


def _kept_bytes(state: LogState, stream: Stream) -> int:
    return state.stderr_bytes if stream is Stream.STDERR else state.stdout_bytes


def _count_lines(text: bytes) -> int:
    return text.count(b"\n") + (not text.endswith(b"\n"))
