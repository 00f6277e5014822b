"""``…/ws/``: the log of an execution as it is written, to any number of viewers.

The contract is API.md, "Streams". In addition, ``state=true`` (with ``format=json``) sends frames
``{"state": {...}}`` whenever the execution's state changes, for the log page and the client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NoReturn

import structlog
from tornado.iostream import IOStream, StreamClosedError
from tornado.websocket import WebSocketHandler, WebSocketProtocol, WebSocketProtocol13

from fastlane.api import parameters
from fastlane.api.base import RETRY_AFTER_SECONDS, BaseHandler
from fastlane.api.lookup import find_log
from fastlane.api.problems import Problem
from fastlane.api.schemas.build import time_or_none
from fastlane.api.streaming.encoded import Format, View, frame_header, time_text
from fastlane.api.streaming.feed import Watch
from fastlane.api.waiting import reasons
from fastlane.encoding import to_json
from fastlane.errors import NotFound, StorageError
from fastlane.model import Execution, Job, Status
from fastlane.redact import Redactor, redactor

log = structlog.get_logger(__name__)

# Bounds how long a client may take to receive one page.
STALL_SECONDS = 60.0
# Bounds how long a dead peer goes unnoticed (an interval and a timeout of the same length).
PING_SECONDS = 60.0
# Bounds a message of a client, which has no reason to send one.
MAX_MESSAGE_BYTES = 4096
# Bounds the frames of one client in a second: viewers have nothing to say but pings.
MAX_FRAMES = 100
# Bounds ``after``: what JSON numbers hold exactly (RFC 8259, section 6).
MAX_SEQ = 2**53 - 1

FORMAT = parameters.choice(
    "format", "What a frame holds: text, or a record as JSON.", Format.PLAIN, Format.JSON
)
AFTER = parameters.number("after", "Continue after this record.", 0, MAX_SEQ, 0)
STATE = parameters.choice(
    "state", "With `format=json`: also send changes of state.", "false", "true"
)

DONE = "done"
RETRY = "retry"

# RFC 6455, section 7.4.1, and the registry that it established.
NORMAL, GOING_AWAY, PROTOCOL_ERROR, POLICY_VIOLATION = 1000, 1001, 1002, 1008
INTERNAL_ERROR, TRY_AGAIN_LATER = 1011, 1013
# In the second byte of a frame (section 5.2). A server closes where it is missing (section 5.1).
_MASKED = 0x80


class Stalled(Exception):
    """The client does not read."""


class _Protocol(WebSocketProtocol13):
    """Reads frames as a server must, and no faster than its client reads the answers."""

    _at_header = False
    _frames, _since = 0, 0.0

    async def _receive_frame(self) -> None:
        self._frames += 1
        now = asyncio.get_running_loop().time()
        if now - self._since >= 1:
            self._frames, self._since = 1, now
        elif self._frames > MAX_FRAMES:
            self._refuse(POLICY_VIOLATION, "too many frames")
        if self.stream.writing():
            # Otherwise the answers to a flood of pings would pile up.
            await self.stream.write(b"")
        self._at_header = True
        await super()._receive_frame()

    async def _read_bytes(self, n: int) -> bytes:
        data = await super()._read_bytes(n)
        if self._at_header:
            self._at_header = False
            if not data[1] & _MASKED:
                self._refuse(PROTOCOL_ERROR, "a client's frames are masked")
        return data

    def _refuse(self, code: int, reason: str) -> NoReturn:
        self.close(code, reason)
        self._abort()
        raise StreamClosedError


class StreamSocket(BaseHandler, WebSocketHandler):
    """One client's connection, on which only the server has something to say."""

    _task: asyncio.Task[None]
    _wire: IOStream

    async def connect(self) -> None:
        """Shake hands.

        :raises Problem: the request is for no WebSocket, or there are too many.
        """
        if self.request.headers.get("Upgrade", "").lower() != "websocket":
            raise Problem(
                426,
                "This is a WebSocket; connect to it by a ws or wss URL.",
                headers={"Upgrade": "websocket"},
            )
        if not self.services.sockets.admits(self.peer):
            raise Problem(
                503,
                "The server, or your address, has too many open sockets; try again later.",
                headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
            )
        await WebSocketHandler.get(self)

    @property
    def peer(self) -> str:
        """See :class:`fastlane.api.streaming.sockets.Socket`."""
        return self.caller.address

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        found = super().get_websocket_protocol()
        if isinstance(found, WebSocketProtocol13):
            return _Protocol(self, mask_outgoing=False, params=found.params)
        return found

    @property
    def ping_interval(self) -> float | None:
        return PING_SECONDS

    @property
    def ping_timeout(self) -> float | None:
        return PING_SECONDS

    @property
    def max_message_size(self) -> int:
        return MAX_MESSAGE_BYTES

    def open(self) -> None:
        assert self.ws_connection is not None
        assert self.ws_connection.stream is not None
        self._wire = self.ws_connection.stream
        # From here on it is in the registry of sockets.
        self.services.requests.end(self)
        self.set_nodelay(True)
        self._task = asyncio.create_task(self._serve(), name=f"socket {self.request.path}")
        self.services.sockets.add(self)

    def on_message(self, message: str | bytes) -> None:
        """Ignore it: viewers only receive."""

    def on_close(self) -> None:
        self._task.cancel()
        self._task.add_done_callback(lambda _: self.services.sockets.discard(self))

    def shut_down(self) -> None:
        """See :class:`fastlane.api.streaming.sockets.Socket`."""
        self._task.cancel()
        self.close(GOING_AWAY, RETRY)

    def cut_off(self) -> None:
        """See :class:`fastlane.api.streaming.sockets.Socket`."""
        self._wire.close()

    async def _serve(self) -> None:
        code, reason = INTERNAL_ERROR, RETRY
        try:
            code, reason = await self._stream()
        except StreamClosedError:
            return
        except Stalled:
            code = TRY_AGAIN_LATER
        except StorageError as error:
            log.warning("A stream failed", path=self.request.path, error=str(error))
        except NotFound:
            # It was found at the handshake, and has been cleaned up since.
            pass
        except Exception:
            log.exception("A stream failed", path=self.request.path)
        self.close(code, reason)

    async def _stream(self) -> tuple[int, str]:
        """Send everything there is; the code and reason to close with."""
        raise NotImplementedError

    async def _send_json(self, message: Mapping[str, Any]) -> None:
        text = to_json(message).encode()
        await self._send(frame_header(len(text)) + text)

    async def _send(self, frames: bytes | memoryview) -> None:
        """Write whole frames and return once the kernel has them.

        Straight to the stream, because ``write_message`` would copy each page for each viewer; a
        page remains one object, however many sockets wait to send it.

        :raises StreamClosedError: the connection is gone.
        :raises Stalled: the client does not read.
        """
        if self.ws_connection is None or self.ws_connection.is_closing():
            raise StreamClosedError
        written = self._wire.write(memoryview(frames))
        if written.done():
            # Give others a turn, even if this socket never has to wait.
            await asyncio.sleep(0)
        else:
            # Unlike wait_for, this does not cancel the stream's own future.
            await asyncio.wait([written], timeout=STALL_SECONDS)
            if not written.done():
                raise Stalled
        written.result()


class LogSocket(StreamSocket):
    """One viewer's connection."""

    _stream_format = Format.PLAIN
    _after = 0
    _with_state = False
    _follows_job: bool
    _job: Job
    _execution: Execution | None = None

    async def get(self, task_id: str, job_id: str, execution_id: str | None = None) -> None:
        """Text frames from the first byte, both streams in the order in which they were written.

        Live while the execution runs. Close code 1000 with reason `done`: everything was sent and
        no retry is due. Reason `retry`: there is nothing to send yet, or the stream broke; connect
        again. With `format=json` each frame is `{seq, ts, stream, text}`, and the last one is
        `{end, status, exitCode, reason}`.
        """
        # What can be refused is refused by an HTTP response, before the handshake.
        self._read_query()
        self._follows_job = execution_id is None
        self._job, self._execution = await find_log(
            self.services.storage, task_id, job_id, execution_id
        )
        await self.connect()

    def _read_query(self) -> None:
        self._stream_format = Format(FORMAT.choice(self) or Format.PLAIN)
        self._after = AFTER.number(self) or 0
        self._with_state = STATE.choice(self) == "true"
        if self._with_state and self._stream_format is not Format.JSON:
            raise Problem(400, "state=true requires format=json.")

    async def _stream(self) -> tuple[int, str]:
        """Send everything there is; the code and reason to close with."""
        if self._execution is None:
            await self._send_state(None, None)
            return NORMAL, RETRY
        sent = retry = None
        async with self.services.sockets.feed.watch(self._execution.id) as watch:
            while True:
                execution, version = watch.execution, watch.version
                if execution != sent:
                    if self._with_state or self._follows_job:
                        retry = await self.services.lifecycle.retry_after(execution)
                    await self._send_state(execution, retry)
                    sent = execution
                if execution.status is Status.ENQUEUED:
                    return NORMAL, RETRY
                await self._drain(watch)
                if execution.final:
                    await self._send_end(execution)
                    return NORMAL, RETRY if self._follows_job and retry else DONE
                await watch.news(version)

    async def _drain(self, watch: Watch) -> None:
        while (page := await watch.page(self._after, View(self._stream_format))) is not None:
            await self._send(page.rest(self._after))
            self._after = page.last

    async def _send_state(self, execution: Execution | None, retry: Execution | None) -> None:
        if not self._with_state:
            return
        state = {**_state_of_job(self._job), "now": time_text(self.services.clock())}
        if execution is not None:
            waiting = await reasons(self.services, [execution])
            words = self.services.config.env_blacklisted_words
            state |= _state_of(execution, waiting[execution.id], retry, redactor(words))
        await self._send_json({"state": state})

    async def _send_end(self, execution: Execution) -> None:
        if self._stream_format is Format.JSON:
            await self._send_json(
                {
                    "end": True,
                    "status": execution.status,
                    "exitCode": execution.exit_code,
                    "reason": execution.reason,
                }
            )


def _state_of_job(job: Job) -> dict[str, Any]:
    """What the page shows of a job that has not run yet."""
    return {
        "status": "scheduled" if job.scheduled else "idle",
        "executionId": None,
        "scheduled": job.scheduled,
        "nextScheduledAt": time_or_none(job.next_run_at),
    }


def _state_of(
    execution: Execution, waiting: str | None, retry: Execution | None, hide: Redactor
) -> Mapping[str, Any]:
    """What the page shows beside the log.

    :param waiting: why it does not run yet, in a sentence.
    :param retry: the execution that follows it as its retry.
    """
    return {
        "status": execution.status,
        "executionId": execution.id,
        "exitCode": execution.exit_code,
        "reason": execution.reason,
        "error": execution.error and hide.text(execution.error),
        "startedAt": time_or_none(execution.started_at),
        "finishedAt": time_or_none(execution.finished_at),
        "waiting": waiting,
        "attempt": execution.attempt + 1,
        "attempts": execution.definition.retries + 1,
        "dueAt": time_or_none(execution.due_at),
        "retry": retry
        and {
            "executionId": retry.id,
            "attempt": retry.attempt + 1,
            "dueAt": time_or_none(retry.due_at),
        },
    }
