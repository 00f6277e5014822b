"""Adds to the log of an execution, each record once, whatever becomes of the answers."""

from __future__ import annotations

from collections.abc import Sequence

from fastlane.background.context import Context
from fastlane.background.retrying import retry_until_available
from fastlane.errors import CompareFailed
from fastlane.executors.base import LogPiece
from fastlane.model import Execution, LogRecord, LogState


class LogWriter:
    """The one writer of an execution's log under one epoch."""

    def __init__(self, context: Context, execution: Execution, *, empty: bool) -> None:
        """:param empty: nobody can have written to the log yet."""
        self._lifecycle = context.lifecycle
        self._storage = context.storage
        self._execution = execution
        self._cap = context.options.log_cap
        self._state = LogState() if empty else None

    async def state(self) -> LogState:
        """The last sequence number and bookmark in the storage."""
        if self._state is None:
            self._state = await retry_until_available(
                lambda: self._storage.logs.state(self._execution.id)
            )
        return self._state

    async def append(self, pieces: Sequence[LogPiece], bookmark: str | None = None) -> None:
        """Number *pieces* and store them, however long the storage is unreachable.

        :param bookmark: where the run's output continues; None where they are not from it.
        :raises CompareFailed: another instance owns the execution.
        """
        before = await self.state()
        after = LogState(
            last_seq=before.last_seq + len(pieces),
            bookmark=before.bookmark if bookmark is None else bookmark,
        )
        records = [
            LogRecord(seq, piece.at, piece.stream, piece.data)
            for seq, piece in enumerate(pieces, start=before.last_seq + 1)
        ]
        try:
            await retry_until_available(
                lambda: self._lifecycle.append_log(
                    self._execution, records, bookmark=after.bookmark, cap=self._cap
                )
            )
        except CompareFailed:
            if not records:
                raise
            # An attempt whose answer was lost may be the one that stored it.
            stored = await retry_until_available(
                lambda: self._storage.logs.state(self._execution.id)
            )
            if (stored.last_seq, stored.bookmark) != (after.last_seq, after.bookmark):
                raise
        self._state = after
