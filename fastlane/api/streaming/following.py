"""Records of a log over HTTP: to a limit, to the end, or for as long as the execution runs.

A client that waits is in the registry of sockets: their number is bounded, and a shutdown ends
them.
An answer that is not complete ends without its final chunk, which every client reports.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from fastlane.api.base import RETRY_AFTER_SECONDS, BaseHandler
from fastlane.api.problems import Problem
from fastlane.api.streaming.encoded import Format, View, encode_page
from fastlane.api.streaming.feed import Watch
from fastlane.api.streaming.start import Wanted, find_start, output_start
from fastlane.encoding import to_json
from fastlane.model import Execution, Stream

# Comment lines at this interval keep proxies from closing a silent stream of events.
COMMENT_SECONDS = 15.0


@dataclass(slots=True)
class Query:
    """What a client asked for."""

    form: Format
    stream: Stream | None
    """Only this one; None: both."""
    follow: bool
    follows_job: bool
    wanted: Wanted
    limit: int | None
    wait_seconds: float
    last_event_id: str


class Answer(BaseHandler):
    """What :class:`Following` needs of its handler."""

    def show_status(self, execution: Execution | None) -> None:
        """Say in headers how far *execution* is."""
        raise NotImplementedError


class Following:
    """One client's answer."""

    def __init__(self, handler: Answer, query: Query, execution: Execution | None) -> None:
        self._handler = handler
        self._services = handler.services
        self._query = query
        self._execution = execution
        self._wanted = query.wanted
        self._is_placed = query.wanted.is_simple
        """Whether the place where it begins is known."""
        self._after = query.wanted.after
        self._left = query.limit
        self._begun = False
        """Whether the text has begun: what is before all output is not a part of it."""
        self._task: asyncio.Task[None] | None = None
        self._waits = query.follow or query.wait_seconds > 0

    async def run(self) -> None:
        """Answer.

        :raises Problem: too many are waiting.
        """
        if not self._waits:
            await self._send_all()
            return
        sockets = self._services.sockets
        if not sockets.admits(self.peer):
            raise Problem(
                503,
                "The server, or your address, has too many open streams; try again later.",
                headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
            )
        # Tornado does not expect that its own task is cancelled.
        self._task = asyncio.create_task(self._send_all(), name="log answer")
        sockets.add(self)
        # The registry ends it at a shutdown, which need not wait for it.
        self._services.requests.end(self._handler)
        try:
            await asyncio.wait([self._task])
            if self._task.cancelled():
                self._break_off()
            else:
                self._task.result()
        finally:
            self._task.cancel()
            sockets.discard(self)

    def _break_off(self) -> None:
        # An answer that has not begun can end in order: the client asks again.
        if self._query.follow or self._handler._headers_written:
            self._handler.hang_up()
            self._handler._finished = True

    def leave(self) -> None:
        """The client has left."""
        if self._task is not None:
            self._task.cancel()

    # -- as a socket --------------------------------------------------------------------------

    @property
    def peer(self) -> str:
        """See :class:`fastlane.api.streaming.sockets.Socket`."""
        return self._handler.caller.address

    def shut_down(self) -> None:
        """See :class:`fastlane.api.streaming.sockets.Socket`."""
        self.leave()

    def cut_off(self) -> None:
        """See :class:`fastlane.api.streaming.sockets.Socket`."""
        self.leave()
        self._handler.hang_up()

    # -- sending ------------------------------------------------------------------------------

    async def _send_all(self) -> None:
        query, execution = self._query, self._execution
        if execution is None:
            return
        if query.form is Format.EVENTS:
            state = await self._services.storage.logs.state(execution.id)
            seen = self._seen(execution)
            if seen is not None:
                # It has begun where it was asked to.
                self._after, self._is_placed = seen, True
                if execution.final and seen > state.last_seq:
                    self._handler.set_status(204)
                    self._handler.clear_header("Content-Type")
                    return
        if query.follow:
            # Proxies that buffer would keep it back (nginx).
            self._handler.set_header("X-Accel-Buffering", "no")
            await self._handler.flush()
        while execution is not None:
            ended = await self._send(execution)
            if not (query.form is Format.TEXT and query.follows_job and ended is not None):
                return
            execution = await self._services.lifecycle.retry_after(ended)
            self._after, self._begun, self._is_placed = 0, False, True

    def _seen(self, execution: Execution) -> int | None:
        """The sequence number that the client says it has seen; None of another execution."""
        given = self._query.last_event_id
        if self._query.follows_job:
            of, _, given = given.rpartition(":")
            if of != execution.id:
                return None
        return int(given) if given.isascii() and given.isdigit() and len(given) <= 16 else None

    async def _send(self, execution: Execution) -> Execution | None:
        """Send the log of one execution; None when that is not all of it."""
        query = self._query
        loop = asyncio.get_running_loop()
        deadline = loop.time() + query.wait_seconds
        prefix = f"{execution.id}:" if query.follows_job and query.form is Format.EVENTS else ""
        view = View(query.form, query.stream, prefix)
        async with self._services.sockets.feed.watch(execution.id) as watch:
            while True:
                execution, version = watch.execution, watch.version
                if not self._handler._headers_written:
                    self._handler.show_status(execution)
                before = self._after
                if not await self._place(execution, view) or not await self._drain(watch, view):
                    return None
                if execution.final:
                    await self._send_end(execution, prefix)
                    return execution
                sent = self._is_placed and self._after > before
                if not query.follow and (sent or loop.time() >= deadline):
                    return None
                await self._news(watch, version, deadline)

    async def _place(self, execution: Execution, view: View) -> bool:
        """Begin where the client wants to, once the log reaches so far.

        :return: False when no more records may be sent.
        """
        logs = self._services.storage.logs
        if self._is_placed:
            return True
        start = await find_start(logs, execution.id, self._wanted, view.stream)
        if start is None:
            # Nothing of what there is: as if it had been seen.
            self._after = (await logs.state(execution.id)).last_seq if execution.final else 0
            return True
        self._is_placed, self._after = True, start.after
        if view.form is Format.TEXT and start.after:
            text = await output_start(logs, execution.id)
            if text is not None:
                self._begun, self._after = True, max(self._after, text[0])
        if start.first is None:
            return True
        page = encode_page([start.first], after=0, view=view, short=False, version=0)
        await self._write(page.wire)
        if self._left is not None:
            self._left -= 1
        return self._left != 0

    async def _news(self, watch: Watch, version: int, deadline: float) -> None:
        until: float | None = deadline
        if self._query.follow:
            until = None
            if self._query.form is Format.EVENTS:
                until = asyncio.get_running_loop().time() + COMMENT_SECONDS
        try:
            async with asyncio.timeout_at(until):
                await watch.news(version)
        except TimeoutError:
            if self._query.form is Format.EVENTS:
                await self._write(b": still here\n\n")

    async def _drain(self, watch: Watch, view: View) -> bool:
        """Send what there is; False when no more records may be sent."""
        if not self._is_placed:
            return True
        while (page := await watch.page(self._after, view)) is not None:
            if view.form is Format.TEXT and not self._begun:
                if page.output_after is None:
                    self._after = page.last
                    continue
                self._begun, self._after = True, max(self._after, page.output_after)
            if self._left is None:
                part, self._after = page.rest(self._after), page.last
            else:
                part, count, self._after = page.up_to(self._after, self._left)
                self._left -= count
            if part:
                await self._write(part)
            if self._left == 0:
                return False
        return True

    async def _send_end(self, execution: Execution, prefix: str) -> None:
        end = {
            "end": True,
            "status": execution.status,
            "exitCode": execution.exit_code,
            "reason": execution.reason,
        }
        text = to_json(end).encode()
        if self._query.form is Format.LINES:
            await self._write(text + b"\n")
        elif self._query.form is Format.EVENTS:
            # A client that has seen it asks for what is after it.
            id_ = f"{prefix}{self._after + 1}".encode()
            await self._write(b"event: end\nid: %s\ndata: %s\n\n" % (id_, text))

    async def _write(self, part: bytes | memoryview) -> None:
        self._handler.write(bytes(part))
        await self._handler.flush()
