"""``…/logs/search/``: lines of a whole log."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tornado.iostream import StreamClosedError

from fastlane.api import parameters
from fastlane.api.base import BaseHandler
from fastlane.api.lookup import find_log
from fastlane.api.parameters import Parameter
from fastlane.api.problems import Problem
from fastlane.api.schemas import responses
from fastlane.api.streaming.encoded import time_text
from fastlane.api.streaming.searching import Cursor, Query, Search
from fastlane.checks import shown
from fastlane.model import Stream
from fastlane.storage.base import LogPlace
from fastlane.storage.packing import PackedChunk

# Bounds what one request reads, and what of that is in memory at a time (twice, with the next).
MAX_BYTES = 64 * 1024 * 1024
BATCH_BYTES = 2 * 1024 * 1024
# Bound the searches at a time, each of which keeps a thread busy: of who signed in, or else of one
# address, and of all.
MAX_AT_ONCE = 2
MAX_TOGETHER = 8
RETRY_AFTER_SECONDS = 1
MAX_MATCHES = 1000
MAX_PATTERN_CHARS = 1000

Q = Parameter("q", "What to find in a line.", {"type": "string"}, required=True, example="error")
REGEX = parameters.choice("regex", "`true`: `q` is a regular expression (RE2).", "false", "true")
CASE = parameters.choice("case", "`true`: capitals and small letters differ.", "false", "true")
STREAM = Parameter(
    "stream",
    "Only lines of this stream.",
    {"type": "string", "enum": [Stream.STDOUT, Stream.STDERR]},
)
AFTER = Parameter(
    "after", "Continue there: `nextAfter`, or a record's number.", {"type": "string"}, example="17"
)
LIMIT = parameters.number("limit", "At most so many lines.", 1, MAX_MATCHES, 100)
PARAMETERS = (Q, REGEX, CASE, STREAM, AFTER, LIMIT)


class LogSearch(BaseHandler):
    """The lines of an execution's log, or of a job's last one, that match."""

    _has_left = False

    async def get(self, task_id: str, job_id: str, execution_id: str | None = None) -> None:
        """Lines that contain `q`, or match it, in the order in which they end.

        A request reads at most 64 MiB and may find nothing in them: while `complete` is false,
        continue with `after=` and its `nextAfter`. The server's notes are not searched. You may
        search two logs at a time, and all users eight.
        """
        query, cursor = self._query(), self._cursor()
        storage = self.services.storage
        _, execution = await find_log(storage, task_id, job_id, execution_id)
        if execution is None:
            await self.send_json({"matches": [], "nextAfter": "0", "complete": True})
            return
        searches = self.services.searches
        share = self.caller.share
        if searches[share] >= MAX_AT_ONCE or searches.total() >= MAX_TOGETHER:
            raise Problem(
                429,
                f"You have {MAX_AT_ONCE} searches under way, or all users {MAX_TOGETHER}, the most "
                "at a time; try again.",
                headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
            )
        searches[share] += 1
        try:
            search = Search(query, cursor, LIMIT.number(self) or MAX_MATCHES)
            complete = await self._search(search, execution.id, cursor)
        finally:
            searches[share] -= 1
            if not searches[share]:
                del searches[share]
        await self.send_json(_answer(search, complete=complete))

    def _query(self) -> Query:
        text = Q.text(self) or ""
        if not 1 <= len(text) <= MAX_PATTERN_CHARS:
            raise Problem(
                400, f"q has {len(text)} characters; it must have 1 to {MAX_PATTERN_CHARS}."
            )
        stream = STREAM.choice(self)
        try:
            return Query(
                text,
                is_regex=REGEX.choice(self) == "true",
                is_case_sensitive=CASE.choice(self) == "true",
                streams=[Stream(stream)] if stream else [Stream.STDOUT, Stream.STDERR],
            )
        except ValueError as error:
            raise Problem(
                400, f"q is {shown(text)}, which is not a regular expression of RE2: {error}."
            ) from error

    def _cursor(self) -> Cursor:
        after = AFTER.text(self)
        try:
            return Cursor() if after is None else Cursor.parse(after)
        except ValueError as error:
            raise Problem(
                400, f"after is {shown(after or '')}; it must be a nextAfter or a record's number."
            ) from error

    async def _search(self, search: Search, execution_id: str, cursor: Cursor) -> bool:
        """:return: whether it has come to the end of the log."""
        logs = self.services.storage.logs
        # A line at the cursor is searched with what is before it.
        after = cursor.seq
        for _ in range(2):
            after = await logs.find(execution_id, LogPlace.RECORD, after) if after else 0
        read_bytes = 0
        reading = asyncio.create_task(self._read(execution_id, after))
        try:
            while chunks := await reading:
                read_bytes += sum(len(chunk.records) for chunk in chunks)
                # Reads what is next while this is searched.
                reading = asyncio.create_task(self._read(execution_id, chunks[-1].last_seq))
                await asyncio.to_thread(_feed, search, chunks)
                if self._has_left:
                    raise StreamClosedError
                if search.is_full:
                    return False
                if read_bytes >= MAX_BYTES - BATCH_BYTES:
                    search.finish()
                    return not search.is_full and not await reading
        finally:
            reading.cancel()
        search.finish()
        return not search.is_full

    async def _read(self, execution_id: str, after: int) -> Sequence[PackedChunk]:
        return await self.services.storage.logs.chunks(
            execution_id, after=after, max_bytes=BATCH_BYTES
        )

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._has_left = True


def _feed(search: Search, chunks: Sequence[PackedChunk]) -> None:
    for chunk in chunks:
        if search.is_full:
            return
        search.feed(chunk)


def _answer(search: Search, *, complete: bool) -> responses.LogMatches:
    return {
        "matches": [
            {
                "seq": match.seq,
                "offset": match.offset,
                "line": match.line,
                "ts": time_text(match.at),
                "stream": "stderr" if match.stream is Stream.STDERR else "stdout",
                "text": match.text.decode(errors="replace"),
            }
            for match in search.matches
        ],
        "nextAfter": str(search.cursor),
        "complete": complete,
    }
