"""The shared feed of stored events: a thousand consumers cost the storage as much as one.

While somebody follows, one task reads each new event once into a window that all consumers share. A
consumer has only a place in it, so a slow one costs no memory: it gets a gap once the window has
moved on without it. One that begins before the window reads the storage until it is there, a few
of them at a time.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import structlog

from fastlane.api.schemas.events import event_answer
from fastlane.api.schemas.responses.events import Event
from fastlane.api.schemas.times import in_form
from fastlane.api.urls import Urls
from fastlane.bus.local import Bus
from fastlane.encoding import to_json
from fastlane.errors import StorageUnavailable
from fastlane.model import Clock
from fastlane.storage.base import Storage
from fastlane.stored_events import EventFilter, StoredEvent, gap_event

log = structlog.get_logger(__name__)

# Bounds the events of the window, which may be twice as long for a moment.
WINDOW_EVENTS = 10_000
# Bounds the encoded events that are kept for all consumers.
ENCODED_KEPT = 4000
# Bounds one read of the storage.
READ_EVENTS = 500
# Bounds the events that one request for a page looks at.
SCANNED_EVENTS = 10_000
# Bounds the consumers that read what is before the window at the same time.
CATCHING_UP = 4
# Bounds how late an event is when its news was lost.
POLL_SECONDS = 1.0
# How long news is gathered, so that a burst wakes all consumers once.
GATHER_SECONDS = 0.02

_position = attrgetter("position")


class FellBehind(Exception):
    """The window has moved on without this consumer."""


@dataclass(slots=True)
class Place:
    """How far one consumer is."""

    position: int
    is_live: bool = False
    """Whether it has reached the window."""


@dataclass(frozen=True, slots=True)
class EventPage:
    """Some events, and where the next page begins."""

    items: Sequence[StoredEvent]
    position: int
    has_more: bool


class EventFeed:
    """The window of a server, and what reads it."""

    def __init__(
        self,
        storage: Storage,
        bus: Bus,
        clock: Clock,
        *,
        window_events: int = WINDOW_EVENTS,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._events = storage.events
        self._bus = bus
        self._clock = clock
        self._window_events = window_events
        self._poll_seconds = poll_seconds
        self._window: list[StoredEvent] = []
        self._since = 0
        self._last = 0
        self._encoded: dict[tuple[str, str | None, str], bytes] = {}
        self._catching_up = asyncio.Semaphore(CATCHING_UP)
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.followers = 0
        self.reads = 0
        """How often the storage was read for the window."""

    # -- pages --------------------------------------------------------------------------------

    async def begin(self, cursor: int | None) -> tuple[int, Sequence[StoredEvent]]:
        """The position after which somebody with *cursor* reads, and the gap before it, if any."""
        span = await self._events.span()
        if cursor is None:
            return span.last, ()
        # Beyond the end: of a storage that was restored from a backup.
        position = min(max(cursor, span.since), span.last)
        return position, () if position == cursor else (gap_event(self._clock(), position),)

    async def page(self, position: int, limit: int, wanted: EventFilter) -> EventPage:
        """The events after *position* that are *wanted*.

        It looks at a bounded number of them, so it may have fewer than *limit*, even none, although
        there are more.
        """
        if not limit:
            # A gap has filled the page.
            return EventPage((), position, bool(await self._events.after(position, 1)))
        items: list[StoredEvent] = []
        for _ in range(0, SCANNED_EVENTS, READ_EVENTS):
            events = await self._events.after(position, READ_EVENTS)
            for index, event in enumerate(events, start=1):
                position = event.position
                if wanted.wants(event):
                    items.append(event)
                if len(items) == limit:
                    more = index < len(events) or len(events) == READ_EVENTS
                    return EventPage(items, position, more)
            if len(events) < READ_EVENTS:
                return EventPage(items, position, has_more=False)
        return EventPage(items, position, has_more=True)

    # -- consumers ----------------------------------------------------------------------------

    @asynccontextmanager
    async def follow(self) -> AsyncIterator[None]:
        """Keep the window up to date for as long as the context lasts.

        :raises StorageError: there is no window yet, and the storage cannot be read.
        """
        if self._task is None:
            span = await self._events.span()
        # Another may have begun meanwhile.
        if self._task is None:
            self._window, self._since, self._last = [], span.last, span.last
            self._task = asyncio.create_task(self._read_all(), name="event feed")
        self.followers += 1
        try:
            yield
        finally:
            self.followers -= 1
            if self.followers == 0:
                self._task.cancel()
                self._task = None
                self._window, self._encoded = [], {}

    async def read(self, place: Place) -> Sequence[StoredEvent]:
        """The next events of a consumer, whose *place* moves on; empty at the end.

        :raises FellBehind: it had reached the window, which has moved on without it.
        :raises StorageError: what is before the window cannot be read.
        """
        if place.position >= self._since:
            place.is_live = True
            first = bisect_right(self._window, place.position, key=_position)
            found: Sequence[StoredEvent] = self._window[first : first + READ_EVENTS]
        elif place.is_live:
            raise FellBehind
        else:
            async with self._catching_up:
                found = await self._events.after(place.position, READ_EVENTS)
                since = (await self._events.span()).since
            if place.position < since:
                place.position = since
                return (gap_event(self._clock(), since),)
        if found:
            place.position = found[-1].position
        return found

    async def news(self, position: int, timeout_seconds: float) -> bool:
        """Wait for an event after *position*; False when there is none in time."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while self._last <= position:
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def encoded(self, event: StoredEvent, base: str, form: str | None = None) -> bytes:
        """*event* as JSON with URLs below *base*; the same object for all who ask for it.

        :param form: of its times, see :mod:`fastlane.api.schemas.times`.
        """
        key = (base, form, event.id)
        text = self._encoded.get(key)
        if text is None:
            answer: Any = event_answer(event, Urls(base))
            text = to_json(in_form(answer, form, Event) if form else answer).encode()
            if len(self._encoded) >= ENCODED_KEPT:
                del self._encoded[next(iter(self._encoded))]
            self._encoded[key] = text
        return text

    async def _read_all(self) -> None:
        failing = False
        with self._bus.subscribe(*self._events.announced_by) as news:
            while True:
                try:
                    self.reads += 1
                    found = await self._events.after(self._last, READ_EVENTS)
                except Exception as error:
                    # Whatever it is, those who follow must not wait for ever.
                    if not failing:
                        unexpected = None if isinstance(error, StorageUnavailable) else error
                        log.warning(
                            "Events cannot be read",
                            after=self._last,
                            error=str(error),
                            exc_info=unexpected,
                        )
                    failing = True
                    await asyncio.sleep(self._poll_seconds)
                    continue
                failing = False
                if found:
                    self._add(found)
                if len(found) < READ_EVENTS:
                    await news.wait(self._poll_seconds)
                    await asyncio.sleep(GATHER_SECONDS)

    def _add(self, found: Sequence[StoredEvent]) -> None:
        self._window += found
        self._last = found[-1].position
        if len(self._window) > 2 * self._window_events:
            left = self._window[-self._window_events :]
            self._since = self._window[-self._window_events - 1].position
            self._window = left
        self._changed.set()
        self._changed = asyncio.Event()
