"""Carries the log of one run from its host into the storage, once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

import structlog

from fastlane.background.patience import FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS, keep_trying
from fastlane.errors import HostUnavailable, RunVanished
from fastlane.executors.base import Executor, LogBatch
from fastlane.lifecycle import Lifecycle
from fastlane.model import Execution, LogCap, LogRecord, LogState
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
    ) -> None:
        assert execution.host is not None
        self._lifecycle = lifecycle
        self._storage = storage
        self._executor = executor
        self._execution = execution
        self._host = execution.host
        self._run_id = run_id
        self._cap = cap
        self._state = LogState()

    async def follow(self, ended: asyncio.Event) -> None:
        """Return when the whole log of an ended run is stored, or the run is gone.

        A host that is out of reach is waited for; whoever knows when it is lost cancels this.

        :raises CompareFailed: the execution is no longer ours.
        """
        if self._execution.epoch > 1:
            self._state = await keep_trying(lambda: self._storage.log_state(self._execution.id))
        pause_seconds = FIRST_PAUSE_SECONDS
        while True:
            before = self._state.last_seq
            try:
                await self._copy(ended)
            except HostUnavailable as error:
                log.info("log stream broke", error=str(error), seq=self._state.last_seq)
                if self._state.last_seq > before:
                    pause_seconds = FIRST_PAUSE_SECONDS
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(pause_seconds * 2, MAX_PAUSE_SECONDS)
            except RunVanished as error:
                log.warning("run vanished before its log was read", error=str(error))
                return
            else:
                return

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
        except (HostUnavailable, RunVanished):
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
        await keep_trying(
            lambda: self._lifecycle.append_log(
                self._execution, records, bookmark=bookmark, cap=self._cap
            )
        )
        self._state = LogState(last_seq=seq, bookmark=bookmark)
