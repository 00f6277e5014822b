"""Writes how a pull is doing into the execution's log, before the first line of the run itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastlane.background.logwriter import LogWriter
from fastlane.executors.base import LogPiece
from fastlane.model import Stream

# Bounds the lines that one pull writes into a log; the last of them says so.
MAX_LINES = 200
# Bounds how often they are written; what comes faster is written together.
PAUSE_SECONDS = 0.5


class PullNotes:
    """The lines of one pull on their way into one log."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer
        self._lines: list[LogPiece] = []
        self._count = 0
        self._over = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None

    def add(self, line: str) -> None:
        """Add a line of the engine's."""
        self._count += 1
        if self._count > MAX_LINES:
            return
        if self._count == MAX_LINES:
            line = "the pull continues without further notes"
        note = f"[fastlane: {line}]\n".encode()
        self._lines.append(LogPiece(time.time(), Stream.FASTLANE, note))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())

    @asynccontextmanager
    async def written(self) -> AsyncIterator[None]:
        """Write lines while the context lasts; at its end all of them are written.

        :raises CompareFailed: another instance owns the execution.
        """
        try:
            yield
        except asyncio.CancelledError:
            if self._writing is not None:
                self._writing.cancel()
                await asyncio.gather(self._writing, return_exceptions=True)
            raise
        except BaseException:
            await self._end()
            raise
        await self._end()

    async def _end(self) -> None:
        self._over.set()
        if self._writing is not None:
            await self._writing

    async def _write(self) -> None:
        while self._lines or not self._over.is_set():
            lines, self._lines = self._lines, []
            if lines:
                await self._writer.append(lines)
            with suppress(TimeoutError):
                async with asyncio.timeout(PAUSE_SECONDS):
                    await self._over.wait()
