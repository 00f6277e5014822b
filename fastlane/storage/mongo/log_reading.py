"""Reading the logs that :mod:`fastlane.storage.mongo.logs` writes, and counting their lines."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import astuple

from pymongo import ASCENDING, DESCENDING, UpdateOne

from fastlane.model import LogRecord, LogState, Stream
from fastlane.storage.base import LogPlace, Logs
from fastlane.storage.mongo.facet import Facet, operation
from fastlane.storage.mongo.writes import FOLLOW, Doc, insert, swap
from fastlane.storage.packing import (
    Lines,
    PackedChunk,
    bytes_of,
    count_lines,
    dropped_note,
    take_back,
    unpack,
)

# Bounds the looks at a log that changes while it is read.
READ_TRIES = 10
# Bounds the chunks whose sizes are asked for at once.
SIZES_AT_ONCE = 8


class LogReading(Facet, Logs):
    """The part of :class:`fastlane.storage.base.Logs` that only reads."""

    async def swap(self, log: Doc, new: Doc) -> bool:
        if log["rev"] == 0:
            new["rev"] = 1
            return await insert(self._db.logs, new)
        return await swap(self._db.logs, log, new)

    @operation
    async def state(self, execution_id: str) -> LogState:
        log = await self._db.logs.find_one({"_id": execution_id}, {"open": 0})
        if log is None:
            return LogState()
        return LogState(
            log["last_seq"], log["bookmark"], log["stdout"], log["stderr"], log["dropped"]
        )

    @operation
    async def read(
        self, execution_id: str, *, after: int = 0, max_bytes: int = 256 * 1024
    ) -> Sequence[LogRecord]:
        after = max(after, 0)
        log, found = await self._chunks(execution_id, after, max_bytes)

        def note(seq: int) -> LogRecord:
            return LogRecord(seq, log["dropped_at"], Stream.FASTLANE, dropped_note(log["dropped"]))

        return unpack(found, after, max_bytes, note)

    @operation
    async def chunks(
        self, execution_id: str, *, after: int = 0, max_bytes: int
    ) -> Sequence[PackedChunk]:
        return (await self._chunks(execution_id, max(after, 0), max_bytes))[1]

    async def _chunks(
        self, execution_id: str, after: int, max_bytes: int
    ) -> tuple[Doc, list[PackedChunk]]:
        """The log's document, and its chunks from *after* on."""
        for _ in range(READ_TRIES):
            log = await self._db.logs.find_one({"_id": execution_id})
            if log is None or after >= log["last_seq"]:
                break
            found = await self._stored_chunks(log, after, max_bytes)
            if found is None:
                continue
            if not is_counted(log) or any("lines" not in chunk for chunk in found):
                await self.count(log)
                continue
            return log, [
                PackedChunk(
                    chunk["first_seq"], chunk["last_seq"], chunk["records"], Lines(*chunk["lines"])
                )
                for chunk in found
            ]
        return {}, []

    async def _stored_chunks(self, log: Doc, after: int, max_bytes: int) -> list[Doc] | None:
        """Those that hold the next *max_bytes*, the open one included.

        :return: None if chunks were deleted while they were read.
        """
        head, dropped_to = log.get("head_seq", 0), log["dropped_to"]
        seq, size = after, 0
        found: list[Doc] = []

        def is_next(first_seq: int) -> bool:
            """Whether nothing is missing before it, but for what was dropped."""
            return first_seq <= seq + 1 or (head <= seq and first_seq == dropped_to + 1)

        for chunk in await self._chunks_after(log, seq, max_bytes):
            if not is_next(chunk["first_seq"]):
                return found or None
            size += chunk["kept"] if found else 0
            found.append(chunk)
            seq = chunk["last_seq"]
        if size >= max_bytes and found:
            return found
        if log["open"]:
            if not is_next(log["open_first"]):
                return found or None
            lines = {"lines": log["open_lines"]} if "open_lines" in log else {}
            open_ = {"first_seq": log["open_first"], "last_seq": log["last_seq"]}
            found.append({**open_, "records": log["open"], **lines})
        return found

    async def _chunks_after(self, log: Doc, seq: int, max_bytes: int) -> Sequence[Doc]:
        """The chunks that hold the next *max_bytes* after *seq*, found by their sizes first."""
        if seq + 1 >= log["open_first"]:
            return []
        # The server reads a whole chunk to tell its size, so it tells those of a few at a time.
        sizes = self._db.log_chunks.find(
            {"execution": log["_id"], "last_seq": {"$gt": seq, "$lt": log["open_first"]}},
            {"records": 0},
            batch_size=SIZES_AT_ONCE,
        ).sort("last_seq", ASCENDING)
        wanted: list[str] = []
        size = 0
        async with sizes:
            async for chunk in sizes:
                if not _is_there(chunk, log):
                    continue
                if not wanted:
                    # Of the first one only the end may be wanted.
                    size -= chunk["kept"]
                wanted.append(chunk["_id"])
                size += chunk["kept"]
                if size >= max_bytes:
                    break
        found = self._db.log_chunks.find({"_id": {"$in": wanted}}).sort("last_seq", ASCENDING)
        return await found.to_list(None)

    @operation
    async def find(self, execution_id: str, place: LogPlace, value: float) -> int:
        """Halves what is left to search with each look at a chunk; what is dropped has none."""
        while True:
            log = await self._db.logs.find_one({"_id": execution_id})
            if log is None:
                return 0
            if is_counted(log):
                break
            await self.count(log)
        first = int(log["open_first"])
        if log["open"] and _begins_before(first, log["open_lines"], place, value):
            return first - 1
        found, low, high = 0, 1, first - 1
        while low <= high:
            middle = (low + high) // 2
            chunk = await self._chunk_at(log, middle)
            if chunk is None:
                high = middle - 1
                continue
            first = chunk["first_seq"]
            if _begins_before(first, chunk.get("lines", (0, 0, 0, 0.0)), place, value):
                found, low = first - 1, chunk["last_seq"] + 1
            else:
                high = min(middle, first) - 1
        return found

    async def _chunk_at(self, log: Doc, seq: int) -> Doc | None:
        """The first chunk that ends at *seq* or after it, without its records."""
        chunks = self._db.log_chunks.find(
            {"execution": log["_id"], "last_seq": {"$gte": seq, "$lt": log["open_first"]}},
            {"records": 0},
        ).sort("last_seq", ASCENDING)
        async with chunks:
            async for chunk in chunks:
                if _is_there(chunk, log):
                    return chunk
        return None

    async def count(self, log: Doc) -> None:
        """Count the lines of a log, all or a part of which another release has written.

        It may be changed meanwhile: then nothing is stored, and the caller finds it so.
        """
        lines = Lines()
        changes: list[UpdateOne] = []
        chunks = self._db.log_chunks.find(
            {"execution": log["_id"], "last_seq": {"$lt": log["open_first"]}}
        ).sort("last_seq", ASCENDING)
        async with chunks:
            async for chunk in chunks:
                if not _is_there(chunk, log):
                    continue
                if "lines" in chunk:
                    lines = Lines(*chunk["lines"])
                else:
                    now = {"$set": {"lines": list(astuple(lines))}}
                    changes.append(UpdateOne({"_id": chunk["_id"]}, now))
                await asyncio.to_thread(count_lines, chunk["records"], lines)
        if changes:
            await self._db.log_chunks.with_options(write_concern=FOLLOW).bulk_write(changes)
        new = {**log, "open_lines": list(astuple(lines)), "lines_to": log["last_seq"]}
        count_lines(log["open"], lines)
        new["lines"] = list(astuple(lines))
        await self.swap(log, new)

    @operation
    async def tails(
        self, wanted: Sequence[tuple[str, Stream]], *, max_bytes: int
    ) -> Sequence[tuple[bytes, bool]]:
        execution_ids = list({execution_id for execution_id, _ in wanted})
        found = self._db.logs.find({"_id": {"$in": execution_ids}})
        logs = {log["_id"]: log for log in await found.to_list(None)}
        return [
            await self._tail(logs[execution_id], stream, max_bytes)
            if execution_id in logs
            else (b"", False)
            for execution_id, stream in wanted
        ]

    async def _tail(self, log: Doc, stream: Stream, max_bytes: int) -> tuple[bytes, bool]:
        kept = _bytes_of(stream, log)
        wanted = min(max_bytes, kept)
        parts: list[bytes] = []
        missing = wanted
        if missing > 0:
            missing = take_back(log["open"], stream, missing, parts)
        if missing > 0:
            sizes = self._db.log_chunks.find(
                {"execution": log["_id"], "last_seq": {"$lt": log["open_first"]}},
                {"records": 0},
                batch_size=SIZES_AT_ONCE,
            ).sort("last_seq", DESCENDING)
            async with sizes:
                async for chunk in sizes:
                    if not _is_there(chunk, log):
                        continue
                    if not _bytes_of(stream, chunk):
                        continue
                    whole = await self._db.log_chunks.find_one({"_id": chunk["_id"]})
                    if whole is not None:
                        missing = take_back(whole["records"], stream, missing, parts)
                    if missing <= 0:
                        break
        return b"".join(reversed(parts)), kept > wanted


def is_valid(chunk: Doc, log: Doc) -> bool:
    return "ok" in chunk or chunk["append"] == log.get("append")


def _is_there(chunk: Doc, log: Doc) -> bool:
    """Whether it is valid and was not dropped."""
    dropped = log.get("head_seq", 0) < chunk["last_seq"] <= log["dropped_to"]
    return is_valid(chunk, log) and not dropped


def is_counted(log: Doc) -> bool:
    return bool(log.get("lines_to", 0) == log["last_seq"])


def _begins_before(first_seq: int, lines: Sequence[float], place: LogPlace, value: float) -> bool:
    """Whether a chunk begins before the place that is looked for."""
    match place:
        case LogPlace.RECORD:
            return first_seq <= value
        case LogPlace.LINE:
            return lines[0] < value
        case LogPlace.TIME:
            return lines[3] < value


def _bytes_of(stream: Stream, counts: Doc) -> int:
    return bytes_of(stream, counts["kept"], counts["stdout"], counts["stderr"])
