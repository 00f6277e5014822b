"""Carries the log of one run from its host into the storage, once and in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing

import structlog

from fastlane.background.appending import append_log
from fastlane.background.patience import FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS, keep_trying
from fastlane.errors import HostUnavailable, RunVanished
from fastlane.executors.base import Executor, LogBatch, LogPiece
from fastlane.lifecycle import Lifecycle
from fastlane.model import Execution, LogCap, LogRecord, LogState, Stream
from fastlane.storage.base import Storage

log = structlog.get_logger(__name__)

# Bounds how many batches are read ahead of the storage (a batch is at most some 100 KiB).
READ_AHEAD_BATCHES = 8
# Bounds what one append takes together.
APPEND_BYTES = 512 * 1024


class LogFollower:
    """The one reader of one run's log."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        storage: Storage,
        executor: Executor,
        execution: Execution,
        run_id: str,
        *,
        cap: LogCap | None,
        give_up_after_seconds: float,
        resume: bool = False,
    ) -> None:
        """:param give_up_after_seconds: how long a log that cannot be read keeps an ended run.
        :param resume: there may be something in the log already.
        """
        assert execution.host is not None
        self._lifecycle = lifecycle
        self._storage = storage
        self._executor = executor
        self._execution = execution
        self._host = execution.host
        self._run_id = run_id
        self._cap = cap
        self._give_up_after_seconds = give_up_after_seconds
        self._resume = resume or execution.epoch > 1
        self._state = LogState()

    async def follow(self, ended: asyncio.Event) -> None:
        """Return when the whole log of an ended run is stored, or the run is gone.

        While the run lasts a host that is out of reach is waited for; whoever knows when it is lost
        cancels this. When it has ended, what cannot be read for too long is given up, and the log
        says so: the outcome is known and must not wait for ever.

        :raises CompareFailed: the execution is no longer ours.
        """
        if self._resume:
            self._state = await keep_trying(lambda: self._storage.log_state(self._execution.id))
        now = asyncio.get_running_loop().time
        pause_seconds = FIRST_PAUSE_SECONDS
        gives_up_at: float | None = None
        while True:
            before = self._state.last_seq
            try:
                await self._copy(ended)
            except HostUnavailable as error:
                log.info("log stream broke", error=str(error), seq=self._state.last_seq)
                if self._state.last_seq > before:
                    pause_seconds = FIRST_PAUSE_SECONDS
                    gives_up_at = None
                if ended.is_set():
                    gives_up_at = gives_up_at or now() + self._give_up_after_seconds
                    if now() >= gives_up_at:
                        await self._give_up(error)
                        return
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(pause_seconds * 2, MAX_PAUSE_SECONDS)
            except RunVanished as error:
                log.warning("run vanished before its log was read", error=str(error))
                return
            else:
                return

    async def _give_up(self, error: HostUnavailable) -> None:
        log.warning("the rest of a log could not be read", error=str(error))
        note = f"[fastlane: the rest of this log could not be read: {error}]\n"
        piece = LogPiece(time.time(), Stream.FASTLANE, note.encode(errors="replace"))
        await self._store([LogBatch([piece], self._state.bookmark)])

    async def _copy(self, ended: asyncio.Event) -> None:
        """Read ahead of the storage, so that neither waits for the other's every step."""
        batches: asyncio.Queue[LogBatch | None] = asyncio.Queue(READ_AHEAD_BATCHES)
        reader = asyncio.create_task(self._read(batches, ended))
        try:
            at_end = False
            while not at_end:
                batch = await batches.get()
                taken: list[LogBatch] = []
                size = 0
                while batch is not None:
                    taken.append(batch)
                    size += sum(len(piece.data) for piece in batch.pieces)
                    if size >= APPEND_BYTES or batches.empty():
                        break
                    batch = batches.get_nowait()
                at_end = batch is None
                if taken:
                    await self._store(taken)
            await reader
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, batches: asyncio.Queue[LogBatch | None], ended: asyncio.Event) -> None:
        try:
            async with aclosing(
                self._executor.logs(
                    self._host, self._run_id, bookmark=self._state.bookmark, ended=ended
                )
            ) as output:
                async for batch in output:
                    await batches.put(batch)
        except Exception:
            # Whatever it is: who waits for the next batch must hear that there is none.
            await batches.put(None)
            raise
        await batches.put(None)

    async def _store(self, batches: Sequence[LogBatch]) -> None:
        seq = self._state.last_seq
        records: list[LogRecord] = []
        for batch in batches:
            for piece in batch.pieces:
                seq += 1
                records.append(LogRecord(seq, piece.at, piece.stream, piece.data))
        bookmark = batches[-1].bookmark
        await append_log(
            self._lifecycle,
            self._storage,
            self._execution,
            records,
            bookmark=bookmark,
            cap=self._cap,
        )
        self._state = LogState(last_seq=seq, bookmark=bookmark)
