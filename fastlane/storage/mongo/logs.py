"""The log: small appends in the log's own document, larger ones in chunks.

A log's document has the state of the log, and its last records while they are few, so a small
append is one write. A larger append first writes its chunks, each under the append's own id, and
then the document, which names that id. That is the deciding write. Its ``rev`` refuses it to a
former owner, because an adoption increments ``rev``. After it the chunks are marked as valid.
Chunks that are neither marked nor of the append that the document names are ignored.

The document also decides what the cap drops: the chunks after the head and up to ``dropped_to`` are
dropped, whether they have been deleted yet or not.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Sequence

from pymongo import ASCENDING, DESCENDING
from pymongo.errors import DuplicateKeyError

from fastlane.errors import CompareFailed
from fastlane.model import ACTIVE, LogCap, LogRecord, LogState, Stream
from fastlane.storage.base import Logs
from fastlane.storage.mongo.facet import Connection, Facet, operation
from fastlane.storage.mongo.writes import FOLLOW, HINT, Doc, insert, swap
from fastlane.storage.packing import (
    MERGED_CHUNK_BYTES,
    Chunk,
    Counts,
    bytes_of,
    check_next,
    dropped_note,
    take,
    take_back,
)

# Bounds the logs whose standing is remembered between two appends.
LOGS_KEPT = 1000
# Bounds the looks at a log that changes while it is read.
READ_TRIES = 10
# Bounds the chunks whose sizes one read looks at.
SIZES_AT_ONCE = 256
# Bounds what one insert takes to the server, in bytes.
INSERT_BYTES = 8 * 1024 * 1024

EMPTY: Doc = {
    "rev": 0,
    "last_seq": 0,
    "bookmark": "",
    "kept": 0,
    "stdout": 0,
    "stderr": 0,
    "dropped": 0,
    "head_bytes": 0,
    "dropped_to": 0,
    # The records that are in no chunk yet: the first one's number, their counts, and they.
    "open_first": 1,
    "open_kept": 0,
    "open_stdout": 0,
    "open_stderr": 0,
    "open_at": 0.0,
    "open": b"",
}


class MongoLogs(Facet, Logs):
    """:class:`fastlane.storage.base.Logs` in MongoDB."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._known: OrderedDict[str, tuple[int, Doc]] = OrderedDict()

    def forget(self, execution_id: str) -> None:
        """The execution ends: the next append, if any, looks at it again."""
        self._known.pop(execution_id, None)

    async def fence(self, execution_id: str, epoch: int) -> None:
        """Refuse every later append of an older epoch than *epoch*."""
        logs = self._db.logs
        while True:
            result = await logs.update_one(
                {"_id": execution_id}, {"$inc": {"rev": 1}, "$max": {"epoch": epoch}}
            )
            if result.matched_count:
                return
            try:
                await logs.insert_one({"_id": execution_id, **EMPTY, "rev": 1, "epoch": epoch})
            except DuplicateKeyError:
                continue
            return

    @operation
    async def append(
        self,
        execution_id: str,
        epoch: int,
        records: Sequence[LogRecord],
        *,
        bookmark: str,
        cap: LogCap | None,
    ) -> None:
        """The log's document is the deciding write.

        Killed before it: chunks that nobody sees. An append whose answer was lost may be repeated,
        with the same records and bookmark.
        """
        said = [records[0].seq, records[-1].seq, bookmark] if records else None
        while True:
            log = await self._standing(execution_id, epoch)
            if said is not None and said == log.get("last_append"):
                return
            check_next(execution_id, log["last_seq"], records)
            # Until it is known how this ends, nothing is.
            self._known.pop(execution_id, None)
            appended = await self._append(execution_id, epoch, log, records, bookmark, cap)
            if appended is not None:
                log = appended
                break
            # Changed by another owner, or by an append of ours whose answer was lost.
        if cap is not None:
            log = await self._drop(execution_id, log, cap)
        self._known[execution_id] = (epoch, log)
        if len(self._known) > LOGS_KEPT:
            self._known.popitem(last=False)

    async def _standing(self, execution_id: str, epoch: int) -> Doc:
        """The log's document as the owner under *epoch* may change it."""
        known = self._known.get(execution_id)
        if known is not None and known[0] == epoch:
            self._known.move_to_end(execution_id)
            return known[1]
        log = await self._db.logs.find_one({"_id": execution_id})
        # After the log's, so that an adoption in between is seen here or changes the log's rev.
        execution = await self._db.executions.find_one(
            {"_id": execution_id}, {"status": 1, "epoch": 1}
        )
        if (
            execution is None
            or execution["status"] not in ACTIVE
            or execution["epoch"] != epoch
            or (log is not None and log.get("epoch", 0) > epoch)
        ):
            raise CompareFailed(f"execution {execution_id} is not active under epoch {epoch}")
        return {"_id": execution_id, **EMPTY} if log is None else log

    async def _append(
        self,
        execution_id: str,
        epoch: int,
        log: Doc,
        records: Sequence[LogRecord],
        bookmark: str,
        cap: LogCap | None,
    ) -> Doc | None:
        """The log's document afterwards; None when it was no longer *log*."""
        new = dict(log)
        new["bookmark"] = bookmark
        new["epoch"] = epoch
        chunks: list[Chunk] = []
        confirm: str | None = None
        if records:
            new["last_append"] = [records[0].seq, records[-1].seq, bookmark]
            chunks = self._add(log, new, records, cap)
        if chunks:
            if "append" in log:
                # The document names one append at a time.
                await self._mark(execution_id, log["append"])
            confirm = uuid.uuid4().hex
            await self._store(execution_id, confirm, chunks)
            new["append"] = confirm
        if not await self._swap(log, new):
            return None
        if confirm is not None:
            await self._mark(execution_id, confirm)
        return new

    def _add(
        self, log: Doc, new: Doc, records: Sequence[LogRecord], cap: LogCap | None
    ) -> list[Chunk]:
        """Count *records* in *new*; the chunks that are to be stored, with what was open."""
        chunk = Chunk(
            log["open_first"],
            log["last_seq"],
            log["open_at"],
            log["open_kept"],
            log["open_stdout"],
            log["open_stderr"],
        )
        if log["open"]:
            chunk.parts.append(bytes(log["open"]))
        counts = Counts(
            log["last_seq"],
            log["kept"],
            log["stdout"],
            log["stderr"],
            head_seq=log.get("head_seq"),
            head_bytes=log["head_bytes"],
        )
        *full, chunk = counts.pack(chunk, records, cap)
        if sum(map(len, chunk.parts)) > MERGED_CHUNK_BYTES:
            full.append(chunk)
            chunk = Chunk(counts.last_seq + 1, counts.last_seq)
        new["last_seq"] = counts.last_seq
        new["kept"], new["stdout"] = counts.kept_bytes, counts.stdout_bytes
        new["stderr"], new["head_bytes"] = counts.stderr_bytes, counts.head_bytes
        if counts.head_seq is not None:
            new["head_seq"] = counts.head_seq
        new["open_first"] = chunk.first_seq
        new["open_kept"] = chunk.kept_bytes
        new["open_stdout"] = chunk.stdout_bytes
        new["open_stderr"] = chunk.stderr_bytes
        new["open_at"] = chunk.last_at
        new["open"] = chunk.packed
        return full

    async def _store(self, execution_id: str, append: str, chunks: Sequence[Chunk]) -> None:
        collection = self._db.log_chunks.with_options(write_concern=FOLLOW)
        docs: list[Doc] = []
        size = 0
        for number, chunk in enumerate(chunks):
            docs.append(
                {
                    "_id": f"{append}.{number}",
                    "append": append,
                    "execution": execution_id,
                    "first_seq": chunk.first_seq,
                    "last_seq": chunk.last_seq,
                    "last_at": chunk.last_at,
                    "kept": chunk.kept_bytes,
                    "stdout": chunk.stdout_bytes,
                    "stderr": chunk.stderr_bytes,
                    "records": chunk.packed,
                }
            )
            size += chunk.kept_bytes
            if size >= INSERT_BYTES or number == len(chunks) - 1:
                await collection.insert_many(docs)
                docs, size = [], 0

    async def _mark(self, execution_id: str, append: str) -> None:
        """Say of the chunks of a decided *append* that they are valid."""
        await self._db.log_chunks.with_options(write_concern=FOLLOW).update_many(
            {"execution": execution_id, "append": append, "ok": {"$exists": False}},
            {"$set": {"ok": True}},
        )

    async def _swap(self, log: Doc, new: Doc) -> bool:
        if log["rev"] == 0:
            new["rev"] = 1
            return await insert(self._db.logs, new)
        return await swap(self._db.logs, log, new)

    async def _drop(self, execution_id: str, log: Doc, cap: LogCap) -> Doc:
        """Drop the oldest chunks after the head while the tail stays long enough without them.

        A decision of its own: killed before it, the log is longer than its cap until the next.
        The newest records always stay, so what is missing lies between two of them.
        """
        if "head_seq" not in log or log["kept"] - log["head_bytes"] <= cap.tail_bytes:
            return log
        behind = max(log["head_seq"], log["dropped_to"])
        new = dict(log)
        chunks = self._db.log_chunks.find(
            {"execution": execution_id, "last_seq": {"$gt": behind, "$lt": log["open_first"]}},
            {"records": 0},
        ).sort("last_seq", ASCENDING)
        async with chunks:
            async for chunk in chunks:
                if not _is_valid(chunk, log):
                    continue
                stays = new["kept"] - new["head_bytes"] - chunk["kept"]
                if stays < cap.tail_bytes or chunk["last_seq"] == log["last_seq"]:
                    break
                new["kept"] -= chunk["kept"]
                new["stdout"] -= chunk["stdout"]
                new["stderr"] -= chunk["stderr"]
                new["dropped"] += chunk["kept"]
                new["dropped_to"] = chunk["last_seq"]
                new["dropped_at"] = chunk["last_at"]
        if new["dropped_to"] == log["dropped_to"]:
            return log
        if not await self._swap(log, new):
            raise CompareFailed(f"the log of execution {execution_id} has another owner now")
        await self._db.log_chunks.with_options(write_concern=HINT).delete_many(
            {
                "execution": execution_id,
                "last_seq": {"$gt": log["head_seq"], "$lte": new["dropped_to"]},
            }
        )
        return new

    # -- reading ------------------------------------------------------------------------------

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
        for _ in range(READ_TRIES):
            log = await self._db.logs.find_one({"_id": execution_id})
            if log is None or after >= log["last_seq"]:
                return []
            taken = await self._read(log, max(after, 0), max_bytes)
            if taken is not None:
                return taken
        return []

    async def _read(self, log: Doc, after: int, max_bytes: int) -> list[LogRecord] | None:
        """The records after *after*; None if chunks were deleted while they were read."""
        taken: list[LogRecord] = []
        room = max_bytes
        seq = after
        head = log.get("head_seq", 0)
        if log["dropped_to"] and head <= seq < log["dropped_to"]:
            seq, room = self._note(log, room, taken)
        for chunk in await self._chunks_behind(log, seq, max_bytes):
            if chunk["first_seq"] > seq + 1:
                if seq != head or chunk["first_seq"] != log["dropped_to"] + 1:
                    return taken or None
                if taken and len(_note_of(log)) > room:
                    return taken
                seq, room = self._note(log, room, taken)
            whole, room = take(chunk["records"], chunk["first_seq"], seq, room, taken)
            if not whole:
                return taken
            seq = taken[-1].seq
        if seq + 1 < log["open_first"]:
            if seq == head and log["dropped_to"] + 1 == log["open_first"]:
                if taken and len(_note_of(log)) > room:
                    return taken
                seq, room = self._note(log, room, taken)
            else:
                return taken or None
        take(log["open"], log["open_first"], seq, room, taken)
        return taken

    async def _chunks_behind(self, log: Doc, seq: int, max_bytes: int) -> Sequence[Doc]:
        """The chunks that hold the next *max_bytes* after *seq*, found by their sizes first."""
        if seq + 1 >= log["open_first"]:
            return []
        head, dropped_to = log.get("head_seq", 0), log["dropped_to"]
        sizes = self._db.log_chunks.find(
            {"execution": log["_id"], "last_seq": {"$gt": seq, "$lt": log["open_first"]}},
            {"records": 0},
        ).sort("last_seq", ASCENDING)
        wanted: list[str] = []
        size = 0
        for chunk in await sizes.to_list(SIZES_AT_ONCE):
            if not _is_valid(chunk, log) or head < chunk["last_seq"] <= dropped_to:
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

    def _note(self, log: Doc, room: int, taken: list[LogRecord]) -> tuple[int, int]:
        note = _note_of(log)
        taken.append(LogRecord(log["dropped_to"], log["dropped_at"], Stream.FASTLANE, note))
        return log["dropped_to"], room - len(note)

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
            head = log.get("head_seq", 0)
            sizes = self._db.log_chunks.find(
                {"execution": log["_id"], "last_seq": {"$lt": log["open_first"]}}, {"records": 0}
            ).sort("last_seq", DESCENDING)
            async with sizes:
                async for chunk in sizes:
                    if not _is_valid(chunk, log) or head < chunk["last_seq"] <= log["dropped_to"]:
                        continue
                    if not _bytes_of(stream, chunk):
                        continue
                    whole = await self._db.log_chunks.find_one({"_id": chunk["_id"]})
                    if whole is not None:
                        missing = take_back(whole["records"], stream, missing, parts)
                    if missing <= 0:
                        break
        return b"".join(reversed(parts)), kept > wanted


def _is_valid(chunk: Doc, log: Doc) -> bool:
    return "ok" in chunk or chunk["append"] == log.get("append")


def _note_of(log: Doc) -> bytes:
    return dropped_note(log["dropped"])


def _bytes_of(stream: Stream, counts: Doc) -> int:
    return bytes_of(stream, counts["kept"], counts["stdout"], counts["stderr"])
