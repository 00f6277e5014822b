"""Carries the log of one run from its host into the storage, once and in order."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

import structlog

from fastlane.background.logwriter import LogWriter
from fastlane.background.retrying import new_pause
from fastlane.errors import ExecutorError, HostUnavailable, RunVanished
from fastlane.executors.base import Executor, LogBatch, LogPiece
from fastlane.model import Stream

log = structlog.get_logger(__name__)

# Bounds how many batches are read ahead of the storage (a batch is at most some 100 KiB).
READ_AHEAD_BATCHES = 8
# Bounds what one append takes together.
APPEND_BYTES = 512 * 1024


class LogFollower:
    """The one reader of one run's log."""

    def __init__(
        self,
        executor: Executor,
        host: str,
        run_id: str,
        writer: LogWriter,
        *,
        give_up_after_seconds: float,
    ) -> None:
        """:param give_up_after_seconds: how long a log that cannot be read keeps an ended run."""
        self._executor = executor
        self._host = host
        self._run_id = run_id
        self._writer = writer
        self._give_up_after_seconds = give_up_after_seconds

    async def follow(self, ended: asyncio.Event) -> None:
        """Return when the whole log of an ended run is stored, or the run is gone.

        While the run lasts, an unreachable host is waited for; the caller decides when it is lost
        and cancels this. Once the run has ended, a log that cannot be read for too long is given
        up, and the log says so: the outcome is known and must not wait for ever.

        :raises CompareFailed: another instance owns the execution.
        """
        now = asyncio.get_running_loop().time
        pause = new_pause()
        gives_up_at: float | None = None
        while True:
            before = (await self._writer.state()).last_seq
            try:
                await self._copy(ended)
            except HostUnavailable as error:
                last_seq = (await self._writer.state()).last_seq
                log.info("The log stream broke", error=str(error), seq=last_seq)
                if last_seq > before:
                    pause.reset()
                    gives_up_at = None
                if ended.is_set():
                    gives_up_at = gives_up_at or now() + self._give_up_after_seconds
                    if now() >= gives_up_at:
                        await self._give_up(error)
                        return
                await pause.wait()
            except RunVanished as error:
                await self._give_up(error)
                return
            else:
                return

    async def _give_up(self, error: ExecutorError) -> None:
        log.warning("The rest of a log could not be read", error=str(error))
        note = f"[fastlane: the rest of this log could not be read: {error}]\n"
        piece = LogPiece(time.time(), Stream.FASTLANE, note.encode(errors="replace"))
        await self._writer.append([piece])

    async def _copy(self, ended: asyncio.Event) -> None:
        """Read ahead of the storage, so that neither waits for each step of the other."""
        batches: asyncio.Queue[LogBatch | None] = asyncio.Queue(READ_AHEAD_BATCHES)
        reader = asyncio.create_task(self._read(batches, ended))
        try:
            at_end = False
            while not at_end:
                batch = await batches.get()
                pieces: list[LogPiece] = []
                bookmark, size = None, 0
                while batch is not None:
                    pieces += batch.pieces
                    bookmark = batch.bookmark
                    size += sum(len(piece.data) for piece in batch.pieces)
                    if size >= APPEND_BYTES or batches.empty():
                        break
                    batch = batches.get_nowait()
                at_end = batch is None
                if bookmark is not None:
                    await self._writer.append(pieces, bookmark)
            await reader
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, batches: asyncio.Queue[LogBatch | None], ended: asyncio.Event) -> None:
        try:
            bookmark = (await self._writer.state()).bookmark
            async with aclosing(
                self._executor.logs(self._host, self._run_id, bookmark=bookmark, ended=ended)
            ) as output:
                async for batch in output:
                    await batches.put(batch)
        except Exception:
            # Whatever it is: nobody must wait for another batch.
            await batches.put(None)
            raise
        await batches.put(None)
