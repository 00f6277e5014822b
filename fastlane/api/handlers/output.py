"""``logs``, ``stdout`` and ``stderr``: as text, as lines of JSON, and as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from fastlane.api import parameters
from fastlane.api.lookup import find_log
from fastlane.api.operations import EVENT_STREAM, NDJSON, TEXT
from fastlane.api.problems import Problem
from fastlane.api.streaming.encoded import Format
from fastlane.api.streaming.following import Answer, Following, Query
from fastlane.api.streaming.snapshot import Snapshot, asked_range
from fastlane.api.streaming.start import Wanted, find_start
from fastlane.model import Execution, Stream

# Bounds the records of one answer, and how long it may be waited for, in seconds.
MAX_RECORDS = 10_000
MAX_WAIT_SECONDS = 30
# Bounds ``after``: what JSON numbers hold exactly (RFC 8259, section 6).
MAX_SEQ = 2**53 - 1

FORMAT = parameters.choice(
    "format", "`json`: records as lines of JSON instead of the text.", "text", "json"
)
FOLLOW = parameters.choice(
    "follow",
    "Also send what is written later, until the execution ends; of a job, until no retry is due. "
    "A connection that is cut before that ends without the final chunk.",
    "false",
    "true",
)
TAIL = parameters.number("tail", "Only so many of the last lines.", 0, 1_000_000)
AFTER = parameters.number("after", "Records: continue after this one.", 0, MAX_SEQ, 0)
LIMIT = parameters.number(
    "limit", "With `format=json`: at most so many records.", 1, MAX_RECORDS, MAX_RECORDS
)
WAIT = parameters.number(
    "wait",
    "With `format=json`: wait up to so many seconds for the first record, or for the end.",
    0,
    MAX_WAIT_SECONDS,
    0,
)
SINCE = parameters.Parameter(
    "since",
    "Only what was written from this time on: unix seconds, RFC 3339, or a duration back from now.",
    {"type": "string"},
    example="10m",
)
LINE = parameters.number(
    "line",
    "Records: begin with the line of this number; the first record is cut to begin with it.",
    1,
    MAX_SEQ,
)
LAST_EVENT_ID = parameters.header(
    "Last-Event-ID", "Server-sent events: continue after this one.", "17"
)
RANGE = parameters.header("Range", "Of the finished text: only these bytes.", "bytes=1000-")
PARAMETERS = (
    FORMAT, FOLLOW, SINCE, TAIL, AFTER, LINE, LIMIT, WAIT, LAST_EVENT_ID, RANGE
)  # fmt: skip
MEDIA = (TEXT, NDJSON, EVENT_STREAM)


class OutputHandler(Answer):
    """The output of an execution, or of a job's last one."""

    streams: tuple[Stream, ...]
    _following: Following | None = None

    async def get(self, task_id: str, job_id: str, execution_id: str | None = None) -> None:
        """The output byte by byte; while the execution runs, what it has written so far.

        `logs` is stdout, a line `-=-`, and stderr; with `follow=true`, both in the order in which
        they were written, without that line.

        With `format=json`, records: each a line
        `{"seq", "ts", "stream", "text", "line", "nextLine"}`: `line` is the number of the line that
        the text begins with, `nextLine` that of the line after its first newline, and those after
        it follow one by one; they are null in the server's notes (stream `fastlane`). A line
        belongs to one stream and is numbered by the place of its first byte in the whole log.
        `after` continues after a record. Once the log is
        complete, the last line is `{"end": true, "status", "exitCode", "reason"}`. Bytes that are
        not UTF-8 are U+FFFD in `text`; the text itself has them as they are.

        With `Accept: text/event-stream`, the same records as server-sent events, whose ids are the
        sequence numbers (of a job, `EXECUTION:SEQ`); at the end the event `end`. A reconnect after
        that gets 204.

        `since`, `tail`, `line` and `after` may be combined: the one that comes last in the log
        counts. The text of a finished log can be asked for in parts with `Range`.
        """
        form, query = self._query(follows_job=execution_id is None)
        storage = self.services.storage
        _, execution = await find_log(storage, task_id, job_id, execution_id)
        self.set_header("Cache-Control", "no-store")
        self.set_header("Vary", "Accept")
        self.set_header("Content-Type", _CONTENT_TYPES[form])
        self.show_status(execution)
        if self.request.method == "HEAD":
            # Otherwise Tornado would send the length of the empty body.
            await self.flush()
        elif form is Format.TEXT and not query.follow:
            await self._send_text(execution, query.wanted)
        else:
            self._following = Following(self, query, execution)
            await self._following.run()

    def _query(self, *, follows_job: bool) -> tuple[Format, Query]:
        form = Format.TEXT
        if "text/event-stream" in self.request.headers.get("Accept", ""):
            form = Format.EVENTS
        elif FORMAT.choice(self) == "json":
            form = Format.LINES
        given = self.request.query_arguments
        for one, forms in _NEEDS.items():
            if one.name in given and form not in forms:
                raise Problem(400, f'"{one.name}" requires "format=json".')
        query = Query(
            form=form,
            stream=self.streams[0] if len(self.streams) == 1 else None,
            follow=form is Format.EVENTS or FOLLOW.choice(self) == "true",
            follows_job=follows_job,
            wanted=Wanted(
                after=AFTER.number(self) or 0,
                since=SINCE.moment(self, self.services.clock()),
                line=LINE.number(self),
                tail=TAIL.number(self),
            ),
            limit=LIMIT.number(self) if LIMIT.name in given else None,
            wait_seconds=WAIT.number(self) or 0,
            last_event_id=self.request.headers.get(LAST_EVENT_ID.name, ""),
        )
        if form is Format.LINES and not query.follow:
            query.limit = query.limit or MAX_RECORDS
        return form, query

    def show_status(self, execution: Execution | None) -> None:
        """Say in headers how far *execution* is."""
        if execution is None:
            self.set_header("Fastlane-Status", "scheduled")
            return
        self.set_header("Fastlane-Execution-Id", execution.id)
        self.describe(execution)

    async def _send_text(self, execution: Execution | None, wanted: Wanted) -> None:
        if execution is None:
            return
        storage = self.services.storage
        # The status was read first: once it is final, the log is complete.
        log = Snapshot(storage, execution.id, await storage.logs.state(execution.id), self.room)
        if wanted.since is not None:
            since = Wanted(since=wanted.since)
            start = await find_start(storage.logs, execution.id, since, None)
            log = replace(log, after=log.state.last_seq if start is None else start.after)
        if wanted.tail is not None:
            self.write(await log.last_lines(self.streams, wanted.tail))
            return
        text = log.text(self.streams)
        if execution.final and wanted.since is None:
            self.set_header("Accept-Ranges", "bytes")
            text = await self._ranged(log) or text
        async for data in text:
            self.write(data)
            del data
            await self.flush()

    async def _ranged(self, log: Snapshot) -> AsyncIterator[bytes] | None:
        """The part of a complete log that ``Range`` asks for; None when it does not."""
        asked = self.request.headers.get(RANGE.name)
        # What it would be compared with is not sent (RFC 9110, section 13.1.5).
        if asked is None or "If-Range" in self.request.headers:
            return None
        length = await log.length(self.streams)
        found = asked_range(asked, length)
        if found is None:
            return None
        first, last = found
        self.set_status(206)
        self.set_header("Content-Range", f"bytes {first}-{last}/{length}")
        self.set_header("Content-Length", str(last - first + 1))
        # Compressed, it would not have this length.
        self._transforms = []
        return log.part(self.streams, first, last)

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if self._following is not None:
            self._following.leave()

    def compute_etag(self) -> None:
        """None: what must not be stored is never requested conditionally."""


_CONTENT_TYPES = {
    Format.TEXT: "text/plain; charset=utf-8",
    Format.LINES: f"{NDJSON}; charset=utf-8",
    Format.EVENTS: EVENT_STREAM,
}
# Which forms the parameters have a meaning for.
_NEEDS = {
    AFTER: (Format.LINES, Format.EVENTS),
    LINE: (Format.LINES, Format.EVENTS),
    LIMIT: (Format.LINES,),
    WAIT: (Format.LINES,),
}


class Logs(OutputHandler):
    """``…/logs/``"""

    streams = (Stream.STDOUT, Stream.STDERR)


class Stdout(OutputHandler):
    """``…/stdout/``"""

    streams = (Stream.STDOUT,)


class Stderr(OutputHandler):
    """``…/stderr/``"""

    streams = (Stream.STDERR,)
