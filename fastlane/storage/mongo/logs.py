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
from dataclasses import astuple

from pymongo import ASCENDING
from pymongo.errors import DuplicateKeyError

from fastlane.errors import CompareFailed
from fastlane.model import ACTIVE, LogCap, LogRecord
from fastlane.storage.mongo.facet import Connection, operation
from fastlane.storage.mongo.log_reading import SIZES_AT_ONCE, LogReading, is_counted, is_valid
from fastlane.storage.mongo.writes import FOLLOW, HINT, Doc
from fastlane.storage.packing import (
    MERGED_CHUNK_BYTES,
    Chunk,
    Counts,
    Lines,
    check_next,
)

# Bounds the logs whose standing is remembered between two appends.
LOGS_KEPT = 1000
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
    # How far the lines are counted, before these records and after them; see packing.Lines.
    "open_lines": [0, 0, 0, 0.0],
    "lines": [0, 0, 0, 0.0],
    # The record up to which they are: a release that counts no lines may have appended more.
    "lines_to": 0,
}


class MongoLogs(LogReading):
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
            if not is_counted(log):
                await self.count(log)
                self._known.pop(execution_id, None)
                continue
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
                await self._mark(log["append"])
            confirm = uuid.uuid4().hex
            await self._store(execution_id, confirm, chunks)
            new["append"] = confirm
        if not await self.swap(log, new):
            return None
        if confirm is not None:
            await self._mark(confirm)
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
            lines=Lines(*log.get("open_lines", ())),
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
            lines=Lines(*log.get("lines", ())),
        )
        *full, chunk = counts.pack(chunk, records, cap)
        if sum(map(len, chunk.parts)) > MERGED_CHUNK_BYTES:
            full.append(chunk)
            chunk = counts.next_chunk()
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
        new["open_lines"], new["lines"] = list(astuple(chunk.lines)), list(astuple(counts.lines))
        new["lines_to"] = counts.last_seq
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
                    "lines": list(astuple(chunk.lines)),
                    "records": chunk.packed,
                }
            )
            size += chunk.kept_bytes
            if size >= INSERT_BYTES or number == len(chunks) - 1:
                await collection.insert_many(docs)
                docs, size = [], 0

    async def _mark(self, append: str) -> None:
        """Say of the chunks of a decided *append* that they are valid."""
        # By their ids: the server would read all chunks of the log to find those of an append.
        ids = {"$gte": f"{append}.", "$lt": f"{append}/"}
        await self._db.log_chunks.with_options(write_concern=FOLLOW).update_many(
            {"_id": ids, "ok": {"$exists": False}}, {"$set": {"ok": True}}
        )

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
            batch_size=SIZES_AT_ONCE,
        ).sort("last_seq", ASCENDING)
        async with chunks:
            async for chunk in chunks:
                if not is_valid(chunk, log):
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
        if not await self.swap(log, new):
            raise CompareFailed(f"the log of execution {execution_id} has another owner now")
        await self._db.log_chunks.with_options(write_concern=HINT).delete_many(
            {
                "execution": execution_id,
                "last_seq": {"$gt": log["head_seq"], "$lte": new["dropped_to"]},
            }
        )
        return new
