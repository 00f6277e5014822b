"""The text of ``logs``, ``stdout`` and ``stderr`` as it stands: exact bytes, in bounded memory."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastlane.api.base import Room
from fastlane.api.problems import Problem
from fastlane.api.streaming.encoded import is_output
from fastlane.api.streaming.start import output_start
from fastlane.checks import shown
from fastlane.model import LogState, Stream
from fastlane.storage.base import Storage

# The reference: stdout and stderr "separated by \n-=-\n".
SEPARATOR = b"\n-=-\n"
# Bounds the memory of ?tail=N; of more lines than fit, the end is sent.
TAIL_MAX_BYTES = 8 * 1024 * 1024
TAIL_FIRST_BYTES = 64 * 1024
# Bounds what is read of a log at a time.
READ_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The output of one execution, read in bounded memory."""

    storage: Storage
    id: str
    state: LogState
    room: Room
    """Is waited for before much is read."""
    after: int = 0
    """Only what comes after this record."""

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
        after, last_seq, begun = self.after, self.state.last_seq, False
        if after:
            text = await output_start(self.storage.logs, self.id)
            if text is not None:
                after, begun = max(after, text[0]), True
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

    async def text(self, streams: tuple[Stream, ...]) -> AsyncIterator[bytes]:
        """All of *streams*, one after the other, with a separator."""
        for number, stream in enumerate(streams):
            if number:
                yield SEPARATOR
            async for data in self.read(stream):
                yield data
                del data

    async def length(self, streams: tuple[Stream, ...]) -> int:
        """How many bytes :meth:`text` has."""
        if await self._has_notes():
            return sum([len(part) async for part in self.text(streams)])
        kept_bytes = sum(_kept_bytes(self.state, stream) for stream in streams)
        return kept_bytes + len(SEPARATOR) * (len(streams) - 1)

    async def _has_notes(self) -> bool:
        """Whether notes of the server are inside the text, at places that only reading tells."""
        if self.state.dropped_bytes:
            return True
        notes, more = await self.storage.logs.tail(self.id, Stream.FASTLANE, max_bytes=READ_BYTES)
        if not notes:
            return False
        text = await output_start(self.storage.logs, self.id)
        return text is not None and (more or len(notes) > text[1])

    async def part(
        self, streams: tuple[Stream, ...], first: int, last: int
    ) -> AsyncIterator[bytes]:
        """The bytes *first* to *last* of :meth:`text`."""
        at = 0
        async for data in self.text(streams):
            if at > last:
                return
            part = data[max(0, first - at) : last + 1 - at]
            at += len(data)
            del data
            if part:
                yield part

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
        # The end of a stream has no notes. In a log that is longer than this, the place of dropped
        # output is before what is read here.
        is_short = self.size <= 2 * TAIL_MAX_BYTES
        if self.after or (is_short and await self._has_notes()):
            await self.room(min(self.size, 2 * TAIL_MAX_BYTES))
            parts, kept_bytes = deque[bytes](), 0
            async for part in self.read(stream):
                parts.append(part)
                kept_bytes += len(part)
                while kept_bytes - len(parts[0]) >= TAIL_MAX_BYTES:
                    kept_bytes -= len(parts.popleft())
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


def asked_range(header: str, length: int) -> tuple[int, int] | None:
    """The first and the last byte that a ``Range`` asks for (RFC 9110, section 14.2).

    :return: None if all of the text is to be sent: several ranges, or another unit.
    :raises Problem: 416, the text has no such bytes.
    """
    found = _RANGE.fullmatch(header.strip())
    if found is None or not (found[1] or found[2]):
        return None
    if found[1]:
        first, last = int(found[1]), int(found[2]) if found[2] else length
        if found[2] and last < first:
            return None
    else:
        first, last = max(0, length - int(found[2])), length
        first = length if found[2].strip("0") == "" else first
    if first >= length:
        raise Problem(
            416,
            f"Range is {shown(header)}; the text has {length} bytes.",
            headers={"Content-Range": f"bytes */{length}"},
        )
    return first, min(last, length - 1)
