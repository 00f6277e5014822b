"""The text of ``logs``, ``stdout`` and ``stderr`` as it stands: exact bytes, in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastlane.api.base import Room
from fastlane.api.streaming.encoded import is_output
from fastlane.model import LogState, Stream
from fastlane.storage.base import Storage

# The reference: stdout and stderr "separated by \n-=-\n".
SEPARATOR = b"\n-=-\n"
# Bounds the memory of ?tail=N; of more lines than fit, the end is sent.
TAIL_MAX_BYTES = 8 * 1024 * 1024
TAIL_FIRST_BYTES = 64 * 1024
# Bounds what is read of a log at a time.
READ_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Snapshot:
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
                begun = begun or is_output(record)
                if record.stream is stream or (record.stream is Stream.FASTLANE and begun):
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
