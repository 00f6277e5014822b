"""Any log, read from any place: numbers of lines, chunks, and where to begin to read."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fastlane.model import Execution, LogCap, LogRecord, Stream
from fastlane.storage import packing
from fastlane.storage.base import LogPlace, Storage
from fastlane.storage.mongo import ClusterStorage
from fastlane.storage.mongo import logs as mongo_logs
from fastlane.storage.packing import LOG_CHUNK_BYTES, unpack
from fastlane.storage.sqlite import SqliteStorage
from fastlane.storage.sqlite import logs as sqlite_logs
from fastlane.storage.sqlite.place import DATABASE_NAME
from tests.contracts.test_storage import (
    NOW,
    new_id,
    place,
    records,
    running,
    storage,
    submit,
    whole_log,
)
from tests.log_model import PIECES, check_numbers, lines_of, records_of
from tests.services import MongoServer

__all__ = ["place", "storage"]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of a few records, so that a short log has many."""
    monkeypatch.setattr(packing, "LOG_CHUNK_BYTES", 64)
    monkeypatch.setattr(sqlite_logs, "MERGED_CHUNK_BYTES", 32)
    monkeypatch.setattr(mongo_logs, "MERGED_CHUNK_BYTES", 32)


async def append(
    storage: Storage, execution: Execution, written: Sequence[LogRecord], cap: LogCap | None = None
) -> None:
    await storage.logs.append(execution.id, execution.epoch, written, bookmark="", cap=cap)


@pytest.mark.usefixtures("small_chunks")
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    pieces=PIECES,
    step=st.integers(1, 12),
    cap=st.none() | st.builds(LogCap, st.integers(0, 300), st.integers(0, 300)),
)
@example(pieces=[(Stream.STDOUT, b"a" * 100 + b"\n")] * 30, step=1, cap=LogCap(300, 300))
async def test_any_log_from_any_place(
    storage: Storage, pieces: list[tuple[Stream, bytes]], step: int, cap: LogCap | None
) -> None:
    await submit(storage)
    execution = await running(storage)
    written = records_of(pieces, NOW)
    lines = lines_of(written)
    for at in range(0, len(written), step):
        await append(storage, execution, written[at : at + step], cap)
        check_numbers(await whole_log(storage, execution), written)
    kept = await whole_log(storage, execution)
    for max_bytes in (1, 50, 1000):
        assert await whole_log(storage, execution, max_bytes=max_bytes) == kept
    for after in range(len(written) + 1):
        found = await storage.logs.read(execution.id, after=after, max_bytes=100)
        check_numbers(found, written)
        chunks = await storage.logs.chunks(execution.id, after=after, max_bytes=100)
        gap = {one.seq: one for one in kept if one.stream is Stream.FASTLANE}
        assert unpack(chunks, after, 100, lambda seq, gap=gap: gap[seq]) == found  # type: ignore[misc]

    async def check(place: LogPlace, value: float, first: LogRecord | None) -> None:
        start = await storage.logs.find(execution.id, place, value)
        if first is not None:
            assert start < first.seq
        if start:
            # No more than a chunk is before it.
            chunks = await storage.logs.chunks(execution.id, after=start, max_bytes=1)
            assert first is None or len(chunks) > 1 or chunks[0].first_seq == start + 1
            assert chunks[0].first_seq == start + 1

    for record in kept:
        await check(LogPlace.RECORD, record.seq, record)
        younger = (one for one in kept if one.at >= record.at)
        await check(LogPlace.TIME, record.at, next(younger, None))
    by_seq = {record.seq: record for record in kept if record.stream is not Stream.FASTLANE}
    for line in lines:
        await check(LogPlace.LINE, line.number, by_seq.get(line.places[0][0]))
    assert await storage.logs.find(execution.id, LogPlace.TIME, 0) == 0
    assert await storage.logs.find(execution.id, LogPlace.LINE, 0) == 0


async def test_nothing_before_the_place_is_read(storage: Storage) -> None:
    """One chunk is enough to get to any line, to any time and to any record."""
    await submit(storage)
    execution = await running(storage)
    written = records(1, 400, size=10_000)
    for at in range(0, 400, 30):
        await append(storage, execution, written[at : at + 30])
    last = await storage.logs.find(execution.id, LogPlace.RECORD, 10**9)
    assert last > 400 - LOG_CHUNK_BYTES // 10_000 - 2
    for what, value in (
        (LogPlace.RECORD, 300.0),
        (LogPlace.TIME, written[299].at),
        (LogPlace.LINE, 301.0),
    ):
        start = await storage.logs.find(execution.id, what, value)
        assert 0 <= 300 - start <= LOG_CHUNK_BYTES // 10_000 + 1
        (record, *_) = await storage.logs.read(execution.id, after=299, max_bytes=1)
        assert (record.seq, record.line) == (300, 300)


async def test_a_log_that_is_not_there_has_no_place(storage: Storage) -> None:
    await submit(storage)
    execution = await running(storage)
    for what in LogPlace:
        assert await storage.logs.find(execution.id, what, 7) == 0
    assert list(await storage.logs.chunks(execution.id, max_bytes=10)) == []


async def test_the_index_costs_less_than_a_hundredth(tmp_path: Path) -> None:
    """Of a log of small appends, which has the smallest chunks."""
    storage = SqliteStorage(tmp_path)
    await storage.open()
    await submit(storage)
    execution = await running(storage)
    for record in records(1, 1000, size=2000):
        await append(storage, execution, [record])
    await storage.close()
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as connection:
        rows = connection.execute("SELECT * FROM log_lines").fetchall()
    # A row has a header, and at most 8 bytes for each number.
    assert 100 < len(rows) < 200
    assert len(rows) * (len(rows[0]) * 9 + 4) < 2000 * 1000 / 100


async def test_a_release_that_counts_nothing_may_append(mongo_server: MongoServer) -> None:
    """On MongoDB it runs beside this one, and copies what it does not know."""
    storage = ClusterStorage(mongo_server.url.replace("/fastlane", f"/uncounted-{new_id()}"))
    await storage.open()
    try:
        await submit(storage)
        execution = await running(storage)
        written = [replace(one, data=b"a\nb\n" * 3000) for one in records(1, 9)]
        await append(storage, execution, written[:3])
        before = await storage._db.logs.find_one({"_id": execution.id})
        assert before is not None
        await append(storage, execution, written[3:6])
        # The same, without the counts.
        kept = {name: before[name] for name in ("lines", "open_lines", "lines_to")}
        await storage._db.logs.update_one({"_id": execution.id}, {"$set": kept})
        await storage._db.log_chunks.update_many(
            {"execution": execution.id, "last_seq": {"$gt": 3}}, {"$unset": {"lines": ""}}
        )
        cast(Any, storage.logs)._known.clear()
        await append(storage, execution, written[6:])
        check_numbers(await whole_log(storage, execution), written)
        assert await storage.logs.find(execution.id, LogPlace.LINE, 6000 * 8 + 1) >= 6
    finally:
        await storage.close()
