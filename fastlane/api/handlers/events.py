"""``/events/``: what happened, as a stream, as pages, and as frames of a WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastlane.api import parameters
from fastlane.api.base import BaseHandler
from fastlane.api.lookup import job_in_filter
from fastlane.api.negotiation import AS
from fastlane.api.operations import EVENT_STREAM, JSON
from fastlane.api.parameters import Parameter
from fastlane.api.problems import Problem
from fastlane.api.schemas import responses
from fastlane.api.schemas.events import cursor_of, event_answer, position_of
from fastlane.api.schemas.times import TIMES
from fastlane.api.services import Services
from fastlane.api.streaming.encoded import frame_header
from fastlane.api.streaming.events import EventPage, FellBehind, Place
from fastlane.api.streaming.held import Held
from fastlane.api.streaming.websocket import RETRY, TRY_AGAIN_LATER, Stalled, StreamSocket
from fastlane.api.urls import Urls
from fastlane.checks import shown, suggestion
from fastlane.stored_events import EventFilter, EventType, StoredEvent, gap_event

# Bound a page, and how long it may be waited for, in seconds.
MAX_EVENTS = 1000
MAX_WAIT_SECONDS = 60
# Comment lines at this interval keep proxies from closing a silent stream.
COMMENT_SECONDS = 15.0
# Bounds what is written to one consumer at once, in bytes, and how long it may take.
PIECE_BYTES = 16 * 1024
STALL_SECONDS = 30.0
# How long a browser waits before it connects again, in milliseconds.
RECONNECT_MS = 1000
# Bound the filters of one request.
MAX_GLOBS = 20
MAX_FILTER_CHARS = 2000

AFTER = Parameter(
    "after",
    "Continue after this cursor, on any instance; without it, from now.",
    {"type": "string"},
)
LIMIT = parameters.number("limit", "Of a page: at most so many events.", 1, MAX_EVENTS, MAX_EVENTS)
WAIT = parameters.number(
    "wait", "Of a page: wait up to so many seconds for the first event.", 0, MAX_WAIT_SECONDS, 0
)
TASK = Parameter(
    "task",
    "Task ids, separated by commas; `*` stands for any characters, `?` for one.",
    {"type": "string"},
    example="billing-*",
)
JOB = Parameter(
    "job",
    "Only of this job: its id or, with one whole task id in `task`, its name.",
    {"type": "string"},
)
EXECUTION = Parameter("execution", "Only of this execution.", {"type": "string"})
TYPE = Parameter(
    "type",
    "Types, separated by commas; `execution.*` stands for all of executions.",
    {"type": "string"},
    example="execution.failed,execution.timedout",
)
LAST_EVENT_ID = parameters.header(
    "Last-Event-ID", "Server-sent events: the last cursor; it overrides `after`.", "e1c2"
)
FILTERS = (TASK, JOB, EXECUTION, TYPE)
STREAMED = (AFTER, *FILTERS, TIMES)
PARAMETERS = (AFTER, LIMIT, WAIT, *FILTERS, LAST_EVENT_ID)


async def wanted_events(handler: BaseHandler) -> EventFilter:
    """The filter in the query.

    :raises Problem: 400, it names an unknown type or job, or is too long.
    """
    globs = _list(handler, TASK)
    if len(globs) > MAX_GLOBS:
        raise Problem(400, f'"task" has {len(globs)} patterns; at most {MAX_GLOBS} are accepted.')
    types = _list(handler, TYPE)
    for one in types:
        if not any(known.startswith(one.removesuffix("*")) for known in EventType) or (
            not one.endswith("*") and one not in set(EventType)
        ):
            raise Problem(
                400, f"Unknown type of event {shown(one)}.{suggestion(one, list(EventType))}"
            )
    job, execution = JOB.text(handler), EXECUTION.text(handler)
    if job:
        # A name belongs to one task.
        is_one = len(globs) == 1 and not set("*?[") & set(globs[0])
        job = await job_in_filter(handler.services.storage, globs[0] if is_one else None, job)
    return EventFilter(globs, job, execution and execution.lower(), types)


def _list(handler: BaseHandler, parameter: Parameter) -> tuple[str, ...]:
    text = parameter.text(handler) or ""
    if len(text) > MAX_FILTER_CHARS:
        raise Problem(
            400,
            f'"{parameter.name}" has {len(text)} characters; '
            f"at most {MAX_FILTER_CHARS} are accepted.",
        )
    return tuple(one for one in text.split(",") if one)


def requested_cursor(handler: BaseHandler) -> int | None:
    """The position after which the client continues; None: it begins now.

    :raises Problem: 400, it is no cursor.
    """
    cursor = handler.request.headers.get(LAST_EVENT_ID.name) or AFTER.text(handler)
    if not cursor:
        return None
    try:
        return position_of(cursor)
    except ValueError:
        raise Problem(400, f"{shown(cursor)} is not a cursor of /events/.") from None


async def load_events(
    services: Services, cursor: int | None, limit: int, wanted: EventFilter
) -> EventPage:
    """A page of the events after *cursor*; without a cursor it is empty, and ends now."""
    position, gap = await services.events.begin(cursor)
    if cursor is None:
        return EventPage((), position, has_more=False)
    page = await services.events.page(position, limit - len(gap), wanted)
    return EventPage((*gap, *page.items), page.position, page.has_more)


def page_answer(page: EventPage, urls: Urls) -> responses.EventPage:
    return {
        "items": [event_answer(event, urls) for event in page.items],
        "cursor": cursor_of(page.position),
        "hasMore": page.has_more,
    }


class Events(BaseHandler):
    """``/events/``"""

    _held: Held[EventPage] | Held[None] | None = None

    async def get(self) -> None:
        """Server-sent events, each with an event as JSON; `id:` is its cursor.

        With `Accept: application/json`, a page of events: to follow, ask again with its `cursor`
        as `after`, and with `wait`. Without `after` the page is empty and has the current cursor.

        What was committed is never skipped, and the events of one execution arrive in order; an
        event may be repeated, with the same `id`. `gap` says that events are missing, because the
        cursor is older than `EVENT_RETENTION`, or because the client reads too slowly; then the
        stream ends, and can be resumed.
        """
        wanted, cursor = await wanted_events(self), requested_cursor(self)
        self.set_header("Cache-Control", "no-store")
        self.set_header("Vary", "Accept")
        if not self._is_stream():
            await self._send_page(cursor, wanted)
            return
        self.set_header("Content-Type", EVENT_STREAM)
        if self.request.method == "HEAD":
            await self.flush()
            return
        self._held = stream = Held[None](self)
        await stream.run(self._stream(cursor, wanted))
        if not self._finished:
            # A shutdown: the client comes back to another instance, or later.
            self.finish()

    def _is_stream(self) -> bool:
        given = self.request.query_arguments
        asks_for_page = {AS.name, LIMIT.name, WAIT.name} & given.keys()
        return JSON not in self.request.headers.get("Accept", "") and not asks_for_page

    # -- pages --------------------------------------------------------------------------------

    async def _send_page(self, cursor: int | None, wanted: EventFilter) -> None:
        limit, wait_seconds = LIMIT.number(self) or MAX_EVENTS, WAIT.number(self) or 0
        page = await load_events(self.services, cursor, limit, wanted)
        is_head = self.request.method == "HEAD"
        if wait_seconds and not is_head and not page.items and not page.has_more:
            self._held = held = Held[EventPage](self)
            page = await held.run(self._wait(page.position, limit, wanted, wait_seconds)) or page
        await self.send_json(page_answer(page, self.urls))

    async def _wait(
        self, position: int, limit: int, wanted: EventFilter, seconds: float
    ) -> EventPage:
        feed = self.services.events
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        async with feed.follow():
            while True:
                left_seconds = deadline - loop.time()
                await feed.news(position, max(left_seconds, 0.0))
                page = await feed.page(position, limit, wanted)
                if page.items or page.has_more or left_seconds <= 0:
                    return page
                position = page.position

    # -- the stream ---------------------------------------------------------------------------

    async def _stream(self, cursor: int | None, wanted: EventFilter) -> None:
        # Compressed, each consumer would take a quarter of a megabyte. Proxies must not keep it
        # back (nginx).
        self._transforms = []
        self.set_header("X-Accel-Buffering", "no")
        feed = self.services.events
        async with feed.follow():
            position, gap = await feed.begin(cursor)
            place, sent = Place(position), position
            # A client that loses its connection before the first event comes back to this place.
            await self._write(b"retry: %d\nid: %s\n\n" % (RECONNECT_MS, _id(position)))
            try:
                await self._send(gap)
                while True:
                    events = await feed.read(place)
                    await self._send([event for event in events if wanted.wants(event)])
                    sent = place.position
                    if not events and not await feed.news(sent, COMMENT_SECONDS):
                        await self._write(b": still here\nid: %s\n\n" % _id(sent))
            except (FellBehind, Stalled):
                self.write(self._encoded(gap_event(self.services.clock(), sent)))
                self.finish()

    async def _send(self, events: Sequence[StoredEvent]) -> None:
        piece = bytearray()
        for event in events:
            piece += self._encoded(event)
            if len(piece) >= PIECE_BYTES:
                await self._write(bytes(piece))
                piece.clear()
        if piece:
            await self._write(bytes(piece))

    def _encoded(self, event: StoredEvent) -> bytes:
        text = self.services.events.encoded(event, self.urls.base, TIMES.choice(self))
        return b"id: %s\ndata: %s\n\n" % (_id(event.position), text)

    async def _write(self, text: bytes) -> None:
        self.write(text)
        written = self.flush()
        await asyncio.wait([written], timeout=STALL_SECONDS)
        if not written.done():
            raise Stalled
        written.result()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if self._held is not None:
            self._held.shut_down()

    def compute_etag(self) -> None:
        """None: what must not be stored is never requested conditionally."""


class EventSocket(StreamSocket):
    """``/events/ws/``"""

    _wanted = EventFilter()
    _position = 0
    _gap: Sequence[StoredEvent] = ()

    async def get(self) -> None:
        """The events of `/events/`, each in a frame of text.

        Without `after` it begins now. Close code 1013 with reason `retry`, after an event `gap`:
        the client reads too slowly; connect again with the last cursor as `after`.
        """
        # What can be refused is refused by an HTTP response, before the handshake.
        self._wanted, cursor = await wanted_events(self), requested_cursor(self)
        self._position, self._gap = await self.services.events.begin(cursor)
        await self.connect()

    async def _stream(self) -> tuple[int, str]:
        feed = self.services.events
        async with feed.follow():
            place, sent = Place(self._position), self._position
            try:
                await self._send_all(self._gap)
                while True:
                    events = await feed.read(place)
                    await self._send_all([one for one in events if self._wanted.wants(one)])
                    sent = place.position
                    if not events:
                        await feed.news(sent, COMMENT_SECONDS)
            except (FellBehind, Stalled):
                # Without waiting: it may read this before the connection is closed.
                self._wire.write(self._frame(gap_event(self.services.clock(), sent)))
                return TRY_AGAIN_LATER, RETRY

    async def _send_all(self, events: Sequence[StoredEvent]) -> None:
        piece = bytearray()
        for event in events:
            piece += self._frame(event)
            if len(piece) >= PIECE_BYTES:
                await self._send(bytes(piece))
                piece.clear()
        if piece:
            await self._send(bytes(piece))

    def _frame(self, event: StoredEvent) -> bytes:
        text = self.services.events.encoded(event, self.urls.base, TIMES.choice(self))
        return frame_header(len(text)) + text


def _id(position: int) -> bytes:
    return cursor_of(position).encode()
