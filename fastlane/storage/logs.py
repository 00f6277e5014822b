"""The facet of the logs; the others are in :mod:`fastlane.storage.facets`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import StrEnum

from fastlane.model import LogCap, LogRecord, LogState, Stream
from fastlane.storage.packing import PackedChunk


class LogPlace(StrEnum):
    """What :meth:`Logs.find` looks for."""

    RECORD = "record"
    """The record with this sequence number."""
    LINE = "line"
    """The first byte of the line with this number."""
    TIME = "time"
    """The first record that is not older than this."""


class Logs(ABC):
    """The log of each execution: appended by its owner, capped, read from either end."""

    @abstractmethod
    async def append(
        self,
        execution_id: str,
        epoch: int,
        records: Sequence[LogRecord],
        *,
        bookmark: str,
        cap: LogCap | None,
    ) -> None:
        """Add *records* to the end of the log together with the executor's *bookmark*.

        Sequence numbers continue after ``LogState.last_seq`` without a gap. With *cap*, what
        exceeds head and tail is dropped from the middle, whole chunks at a time, and counted in
        ``dropped_bytes``; at least ``tail_bytes`` of the end stay.

        :raises CompareFailed: it is final, under another epoch, or the first sequence number is
            not the next one.
        """

    @abstractmethod
    async def state(self, execution_id: str) -> LogState:
        """The state of the log; the empty state if nothing was logged."""

    @abstractmethod
    async def read(
        self, execution_id: str, *, after: int = 0, max_bytes: int = 256 * 1024
    ) -> Sequence[LogRecord]:
        """The next records after sequence number *after*, in order; empty at the end.

        At least one record when there is one; then no more than *max_bytes* of data. Where the cap
        has dropped something, a record of stream ``FASTLANE`` replaces it: it has the
        sequence number of the last dropped record, and its data says how much was dropped.
        Records have the numbers of their lines.
        """

    @abstractmethod
    async def chunks(
        self, execution_id: str, *, after: int = 0, max_bytes: int
    ) -> Sequence[PackedChunk]:
        """What :meth:`read` reads, still packed: from the chunk on that holds the next record.

        At least one chunk when there is one; then as many as hold the next *max_bytes*. Where the
        first sequence number of one does not follow the chunk before it, something was dropped.
        """

    @abstractmethod
    async def find(self, execution_id: str, place: LogPlace, value: float) -> int:
        """Where to begin to read, to find the *place* with this *value*.

        That is the sequence number before the last chunk that begins before it; 0 if none does.
        Reads nothing of what is before.
        """

    async def tail(
        self, execution_id: str, stream: Stream, *, max_bytes: int
    ) -> tuple[bytes, bool]:
        """The last bytes of one stream (at most *max_bytes*), and whether there are more before.

        Does not read the log from its start.
        """
        (tail,) = await self.tails([(execution_id, stream)], max_bytes=max_bytes)
        return tail

    @abstractmethod
    async def tails(
        self, wanted: Sequence[tuple[str, Stream]], *, max_bytes: int
    ) -> Sequence[tuple[bytes, bool]]:
        """As :meth:`tail` for each execution and stream of *wanted*, in their order.

        All of them at once: what a page of executions shows.
        """
