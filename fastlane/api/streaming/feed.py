"""The shared log feed: many viewers of a log cost as much as one.

The owner of an execution writes the engine's stream to storage once; viewers read the storage and
are woken by the bus. Their common work is done once for all of them:

* One :class:`Watch` for each execution that has viewers reads its status after every event, and
  gives each reading a version. Viewers wait for the next version.
* Pages of log are read and encoded once, ready for the wire, and kept in one cache of bounded size.
  A viewer that needs only a part of a page gets its rest, so that slow viewers fall in step.

Why nothing is lost: a log is complete in storage before its status is final. A viewer takes the
status first and then reads to the end; when that status was final, it has everything. An end of the
log is therefore only believed when it was read *after* the status that the viewer took.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from array import array
from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from fastlane.bus.local import Bus
from fastlane.encoding import to_json
from fastlane.events import Event, ExecutionChanged, LogGrown
from fastlane.model import Execution, LogRecord
from fastlane.storage.base import Storage

# Bounds the log data of one page, and with it what one viewer can hold of the server's memory.
PAGE_BYTES = 128 * 1024
# Bounds the encoded pages that are kept for all viewers of all logs together.
CACHE_BYTES = 16 * 1024 * 1024
# Bounds how late a viewer can be when an event was lost.
POLL_SECONDS = 5.0
# Bounds how often the viewers of one log are woken: what comes in between goes out in one page.
WAKE_SECONDS = 0.1
# Bounds the work done on the loop for one page; a page of more records is encoded in a thread.
RECORDS_ON_LOOP = 1000
# Bytes that a cached page takes besides its data, so that many small ones are bounded too.
_PAGE_OVERHEAD_BYTES = 1024

# RFC 6455 section 5.2: FIN and the opcode of a text frame; a server's frames are not masked.
_TEXT_FRAME = 0x81


class Format(StrEnum):
    """The form in which a viewer receives the log."""

    PLAIN = "plain"
    """Text frames of any length, cut between records."""
    JSON = "json"
    """One text frame for each record."""


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


@dataclass(frozen=True, slots=True)
class Page:
    """Consecutive records, encoded for the wire once and written to any number of sockets."""

    after: int
    """The page starts after this sequence number."""
    seqs: Sequence[int]
    starts: Sequence[int]
    """Where each record begins in ``wire``."""
    wire: bytes
    format: Format
    short: bool
    """It was read at the end of a growing log, which may be longer by now."""
    version: int
    """The version of the watch that read it."""

    @property
    def last(self) -> int:
        """The last sequence number that it holds."""
        return self.seqs[-1]

    @property
    def weight(self) -> int:
        """Its approximate size in memory, in bytes."""
        return len(self.wire) + 16 * len(self.seqs) + _PAGE_OVERHEAD_BYTES

    def rest(self, after: int) -> bytes | memoryview:
        """Whole frames with the records after sequence number *after* (less than ``last``)."""
        first = bisect_right(self.seqs, after)
        if first == 0:
            return self.wire
        rest = memoryview(self.wire)[self.starts[first] :]
        if self.format is Format.JSON:
            return rest
        return frame_header(len(rest)) + rest


def encode_page(
    records: Sequence[LogRecord], *, after: int, form: Format, short: bool, version: int
) -> Page:
    """Encode *records* (at least one) for all viewers."""
    seqs = array("Q", (record.seq for record in records))
    encode = _encode_plain if form is Format.PLAIN else _encode_json
    wire, starts = encode(records)
    return Page(after, seqs, starts, wire, form, short, version)


def _encode_plain(records: Sequence[LogRecord]) -> tuple[bytes, array[int]]:
    shares = [record.data for record in records]
    body = b"".join(shares)
    try:
        body.decode()
    except UnicodeDecodeError:
        shares = [share.decode(errors="replace").encode() for share in shares]
        body = b"".join(shares)
    header = frame_header(len(body))
    starts = array("Q", itertools.accumulate(map(len, shares[:-1]), initial=len(header)))
    return header + body, starts


def _encode_json(records: Sequence[LogRecord]) -> tuple[bytes, array[int]]:
    frames = bytearray()
    starts = array("Q")
    for record in records:
        starts.append(len(frames))
        text = to_json(
            {
                "seq": record.seq,
                "ts": time_text(record.at),
                "stream": record.stream,
                "text": record.data.decode(errors="replace"),
            }
        ).encode()
        frames += frame_header(len(text))
        frames += text
    return bytes(frames), starts


class PageCache:
    """The most recently used pages, bounded in bytes for the whole process."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._pages: OrderedDict[tuple[str, Format, int], Page] = OrderedDict()
        self._starts: dict[tuple[str, Format], list[int]] = {}
        self.weight = 0

    def find(self, execution_id: str, form: Format, after: int) -> Page | None:
        """A page that holds the record that follows *after*, perhaps with some before it."""
        starts = self._starts.get((execution_id, form), ())
        nearest = bisect_right(starts, after)
        if nearest == 0:
            return None
        key = (execution_id, form, starts[nearest - 1])
        page = self._pages[key]
        if page.last <= after:
            return None
        self._pages.move_to_end(key)
        return page

    def add(self, execution_id: str, page: Page) -> None:
        """Keep *page* instead of one with the same start, and drop the least recently used."""
        key = (execution_id, page.format, page.after)
        self._remove(key)
        self._pages[key] = page
        self.weight += page.weight
        insort(self._starts.setdefault(key[:2], []), page.after)
        while self.weight > self._limit_bytes:
            self._remove(next(iter(self._pages)))

    def _remove(self, key: tuple[str, Format, int]) -> None:
        page = self._pages.pop(key, None)
        if page is None:
            return
        self.weight -= page.weight
        starts = self._starts[key[:2]]
        del starts[bisect_right(starts, key[2]) - 1]
        if not starts:
            del self._starts[key[:2]]


@dataclass(frozen=True, slots=True)
class _Read:
    """A read under way, and the version under which it was begun."""

    version: int
    task: asyncio.Task[Page | None]


class Watch:
    """One execution while it has viewers. Made by :meth:`Feed.watch`."""

    def __init__(self, feed: Feed, execution_id: str) -> None:
        self._feed = feed
        self._id = execution_id
        self._execution: Execution | None = None
        self._error: Exception | None = None
        self._changed = asyncio.Event()
        self._reads: dict[tuple[Format, int], _Read] = {}
        self._end: tuple[int, int] | None = None
        self.viewers = 0
        self.version = 0
        """Rises with every reading of the status."""
        self._follower = asyncio.create_task(self._follow(), name=f"watch {execution_id}")

    @property
    def execution(self) -> Execution:
        """As it was last read; the log up to then is in storage."""
        assert self._execution is not None
        return self._execution

    async def news(self, version: int) -> None:
        """Return once the status was read again after *version*.

        :raises StorageError: it could not be read.
        """
        while self.version <= version:
            if self._error is not None:
                raise self._error
            await self._changed.wait()

    async def page(self, after: int, form: Format) -> Page | None:
        """A page with the records that follow *after*, or None at the end of the log.

        The end is that of a log which was read after ``version`` was.

        :raises StorageError: the log could not be read.
        """
        page = self._feed.cache.find(self._id, form, after)
        if page is not None and (not page.short or page.version == self.version):
            return page
        if self._end is not None and self._end[0] == self.version and after >= self._end[1]:
            return None
        read = self._reads.get((form, after))
        if read is None or read.version < self.version:
            task = asyncio.create_task(
                self._read(after, form, self.version), name=f"page {self._id} {after}"
            )
            read = self._reads[form, after] = _Read(self.version, task)
            task.add_done_callback(self._feed.forget)
            self._feed.tasks.add(task)
        return await asyncio.shield(read.task)

    async def _read(self, after: int, form: Format, version: int) -> Page | None:
        try:
            limit = self._feed.page_bytes
            records = await self._feed.storage.logs.read(self._id, after=after, max_bytes=limit)
            if not records:
                if self._end is None or self._end[0] < version or after < self._end[1]:
                    self._end = (version, after)
                return None
            short = sum(len(record.data) for record in records) < limit // 2
            if len(records) > RECORDS_ON_LOOP:
                page = await asyncio.to_thread(
                    encode_page, records, after=after, form=form, short=short, version=version
                )
            else:
                page = encode_page(records, after=after, form=form, short=short, version=version)
            self._feed.cache.add(self._id, page)
            return page
        finally:
            read = self._reads.get((form, after))
            if read is not None and read.task is asyncio.current_task():
                del self._reads[form, after]

    async def _follow(self) -> None:
        try:
            bus = self._feed.bus
            with (
                bus.subscribe(LogGrown, ExecutionChanged, key=self._id) as news,
                bus.subscribe(ExecutionChanged, key=self._id, wanted=_is_end) as end,
            ):
                while True:
                    self._execution = await self._feed.storage.executions.get(self._id)
                    self.version = next(self._feed.versions)
                    self._announce()
                    if self._execution.final:
                        return
                    # More log can wait and go out together; the end is not kept waiting.
                    await end.wait(WAKE_SECONDS)
                    await news.wait(self._feed.poll_seconds)
        except Exception as error:  # every viewer raises it
            self._error = error
            self._feed.drop(self._id, self)
            self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def end(self) -> None:
        """Stop following: the last viewer has left."""
        self._follower.cancel()
        self._follower.add_done_callback(self._feed.forget)
        self._feed.tasks.add(self._follower)
        for read in self._reads.values():
            read.task.cancel()


def _is_end(event: Event) -> bool:
    return isinstance(event, ExecutionChanged) and event.final


class Feed:
    """All watches and the one cache of a server."""

    def __init__(
        self,
        storage: Storage,
        bus: Bus,
        *,
        page_bytes: int = PAGE_BYTES,
        cache_bytes: int = CACHE_BYTES,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self.storage = storage
        self.bus = bus
        self.page_bytes = page_bytes
        self.poll_seconds = poll_seconds
        self.cache = PageCache(cache_bytes)
        self.versions = itertools.count(1)
        self.tasks: set[asyncio.Task[Page | None] | asyncio.Task[None]] = set()
        self._watches: dict[str, Watch] = {}

    @asynccontextmanager
    async def watch(self, execution_id: str) -> AsyncIterator[Watch]:
        """Watch an execution, together with its other viewers.

        :raises NotFound: no such execution.
        :raises StorageError: its status could not be read.
        """
        watch = self._watches.get(execution_id)
        if watch is None:
            watch = self._watches[execution_id] = Watch(self, execution_id)
        watch.viewers += 1
        try:
            await watch.news(0)
            yield watch
        finally:
            watch.viewers -= 1
            if watch.viewers == 0:
                self.drop(execution_id, watch)
                watch.end()

    def drop(self, execution_id: str, watch: Watch) -> None:
        """Give the next viewer a new watch."""
        if self._watches.get(execution_id) is watch:
            del self._watches[execution_id]

    def forget(self, task: asyncio.Task[Page | None] | asyncio.Task[None]) -> None:
        """Remove a task that has ended; its viewers, if any are left, have received its error."""
        self.tasks.discard(task)
        if not task.cancelled():
            task.exception()

    async def close(self) -> None:
        """End the reads in progress; called once the last viewer has left."""
        tasks = set(self.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
