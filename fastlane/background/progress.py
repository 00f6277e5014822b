"""Tells of a pull in the execution's log, before the first line of the run itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastlane.background.appending import append_log
from fastlane.background.patience import keep_trying
from fastlane.lifecycle import Lifecycle
from fastlane.model import Execution, LogCap, LogRecord, Stream
from fastlane.storage.base import Storage

# Bounds the lines that one pull writes into a log; the last of them says so.
MAX_LINES = 200
# Bounds how often they are written; what comes faster is written together.
PAUSE_SECONDS = 0.5


class PullProgress:
    """The lines of one pull on their way into one log."""

    def __init__(
        self, lifecycle: Lifecycle, storage: Storage, execution: Execution, *, cap: LogCap | None
    ) -> None:
        self._lifecycle = lifecycle
        self._storage = storage
        self._execution = execution
        self._cap = cap
        self._lines: list[tuple[float, bytes]] = []
        self._count = 0
        self._over = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    @property
    def written(self) -> bool:
        """Whether there is something in the log."""
        return self._count > 0

    def tell(self, line: str) -> None:
        """Take a line of the engine's."""
        self._count += 1
        if self._count > MAX_LINES:
            return
        if self._count == MAX_LINES:
            line = "the pull goes on without further notes"
        self._lines.append((time.time(), f"[fastlane: {line}]\n".encode()))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())

    @asynccontextmanager
    async def told(self) -> AsyncIterator[None]:
        """Write what is told while the context lasts; at its end all of it is written.

        :raises CompareFailed: the execution is no longer ours.
        """
        try:
            yield
        except asyncio.CancelledError:
            if self._writer is not None:
                self._writer.cancel()
                await asyncio.gather(self._writer, return_exceptions=True)
            raise
        except BaseException:
            await self._end()
            raise
        await self._end()

    async def _end(self) -> None:
        self._over.set()
        if self._writer is not None:
            await self._writer

    async def _write(self) -> None:
        state = await keep_trying(lambda: self._storage.log_state(self._execution.id))
        seq = state.last_seq
        while self._lines or not self._over.is_set():
            lines, self._lines = self._lines, []
            records = [
                LogRecord(seq + number, at, Stream.FASTLANE, data)
                for number, (at, data) in enumerate(lines, start=1)
            ]
            seq += len(records)
            if records:
                await append_log(
                    self._lifecycle,
                    self._storage,
                    self._execution,
                    records,
                    bookmark=state.bookmark,
                    cap=self._cap,
                )
            with suppress(TimeoutError):
                async with asyncio.timeout(PAUSE_SECONDS):
                    await self._over.wait()
