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
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastlane.api.streaming.encoded import Page, PageCache, View, encode_page
from fastlane.bus.local import Bus
from fastlane.events import Event, ExecutionChanged, LogGrown
from fastlane.model import Execution
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
        self._reads: dict[tuple[View, int], _Read] = {}
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

    async def page(self, after: int, view: View) -> Page | None:
        """A page with the records that follow *after*, or None at the end of the log.

        The end is that of a log which was read after ``version`` was.

        :raises StorageError: the log could not be read.
        """
        page = self._feed.cache.find(self._id, view, after)
        if page is not None and (not page.short or page.version == self.version):
            return page
        if self._end is not None and self._end[0] == self.version and after >= self._end[1]:
            return None
        read = self._reads.get((view, after))
        if read is None or read.version < self.version:
            task = asyncio.create_task(
                self._read(after, view, self.version), name=f"page {self._id} {after}"
            )
            read = self._reads[view, after] = _Read(self.version, task)
            task.add_done_callback(self._feed.forget)
            self._feed.tasks.add(task)
        return await asyncio.shield(read.task)

    async def _read(self, after: int, view: View, version: int) -> Page | None:
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
                    encode_page, records, after=after, view=view, short=short, version=version
                )
            else:
                page = encode_page(records, after=after, view=view, short=short, version=version)
            self._feed.cache.add(self._id, page)
            return page
        finally:
            read = self._reads.get((view, after))
            if read is not None and read.task is asyncio.current_task():
                del self._reads[view, after]

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

    @property
    def viewers(self) -> int:
        """How many follow a log now."""
        return sum(watch.viewers for watch in self._watches.values())

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
