"""The shared log feed, on the embedded storage."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastlane.api.streaming.encoded import Format, Page, View, encode_page, frame_header
from fastlane.api.streaming.feed import Feed, Watch
from fastlane.bus.local import Bus
from fastlane.errors import NotFound, StorageUnavailable
from fastlane.events import LogGrown
from fastlane.model import LogRecord, Stream
from fastlane.storage.sqlite import SqliteStorage
from tests.api.log_owner import Owner, make_lifecycle
from tests.storage_calls import Call, wrap

# Bounds every wait of these tests, in seconds.
TIMEOUT = 20.0
PLAIN = View(Format.PLAIN)


class CountingStorage(SqliteStorage):
    """Counts what the feed asks for; ``held`` keeps reads of the log waiting."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.log_reads = 0
        self.status_reads = 0
        self.held = asyncio.Event()
        self.held.set()
        self.reading = asyncio.Event()
        self.broken = False
        wrap(self, "executions.get", self._count_status)
        wrap(self, "logs.read", self._count_log)

    def _count_status(self, get: Call) -> Call:
        async def counted(*args: Any) -> Any:
            self.status_reads += 1
            if self.broken:
                raise StorageUnavailable("pulled the plug")
            return await get(*args)

        return counted

    def _count_log(self, read: Call) -> Call:
        async def counted(*args: Any, **kwargs: Any) -> Any:
            self.log_reads += 1
            records = await read(*args, **kwargs)
            self.reading.set()
            await self.held.wait()
            return records

        return counted


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[CountingStorage]:
    storage = CountingStorage(tmp_path)
    await storage.open()
    yield storage
    await storage.close()


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
async def feed(storage: CountingStorage, bus: Bus) -> AsyncIterator[Feed]:
    feed = Feed(storage, bus, page_bytes=4096, poll_seconds=TIMEOUT)
    yield feed
    await feed.close()


@pytest.fixture
def owner(storage: CountingStorage, bus: Bus) -> Owner:
    return Owner(storage, make_lifecycle(storage, bus))


async def drain(watch: Watch, after: int = 0, form: Format = Format.PLAIN) -> list[Page]:
    pages = []
    while (page := await watch.page(after, View(form))) is not None:
        pages.append(page)
        after = page.last
    return pages


async def follow(feed: Feed, execution_id: str) -> bytes:
    """Everything of a log, as a viewer takes it; returns when the execution is final."""
    text = b""
    after = 0
    async with feed.watch(execution_id) as watch:
        while True:
            execution, version = watch.execution, watch.version
            while (page := await watch.page(after, PLAIN)) is not None:
                text += payload(page.rest(after))
                after = page.last
            if execution.final:
                return text
            await watch.news(version)


def payload(frames: bytes | memoryview) -> bytes:
    """What the text frames hold, together."""
    data, at, text = bytes(frames), 0, b""
    while at < len(data):
        assert data[at] == 0x81
        length, at = data[at + 1], at + 2
        if length >= 126:
            width = 2 if length == 126 else 8
            length, at = int.from_bytes(data[at : at + width], "big"), at + width
        text += data[at : at + length]
        at += length
    assert at == len(data)
    return text


def records(*pieces: bytes, first: int = 1) -> list[LogRecord]:
    return [
        LogRecord(first + index, 1.5, Stream.STDOUT, piece) for index, piece in enumerate(pieces)
    ]


def page_of(*pieces: bytes, form: Format) -> Page:
    return encode_page(records(*pieces), after=0, view=View(form), short=True, version=1)


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535, 65536, 200_000])
def test_frames_of_every_length(length: int) -> None:
    assert payload(frame_header(length) + b"x" * length) == b"x" * length


def test_the_rest_of_a_page_is_whole_frames() -> None:
    pieces = (b"one\n", "zwölf\n".encode(), b"\xff three\n", b"4" * 300)
    plain = page_of(*pieces, form=Format.PLAIN)
    texts = [piece.decode(errors="replace") for piece in pieces]
    rows = page_of(*pieces, form=Format.JSON)
    for after in range(4):
        assert payload(plain.rest(after)).decode() == "".join(texts[after:])
        assert payload(rows.rest(after)).decode().count('"seq"') == 4 - after
    last = json.loads(payload(rows.rest(3)))
    assert last == {
        "seq": 4,
        "ts": "1970-01-01T00:00:01.500000",
        "stream": "stdout",
        "text": "4" * 300,
        "line": None,
        "nextLine": None,
    }


async def test_many_viewers_cost_one_read_of_each_page(
    storage: CountingStorage, feed: Feed, owner: Owner
) -> None:
    execution = await owner.start()
    lines = [b"line %04d of the log\n" % number for number in range(2000)]
    await owner.write(*lines)
    await owner.finish()
    async with asyncio.timeout(TIMEOUT):
        seen = await asyncio.gather(*(follow(feed, execution.id) for _ in range(50)))
    assert set(seen) == {b"".join(lines)}
    pages = len(b"".join(lines)) // feed.page_bytes + 2
    assert storage.log_reads <= pages + 1
    assert storage.status_reads == 1


async def test_viewers_at_odd_places_fall_in_step(
    storage: CountingStorage, feed: Feed, owner: Owner
) -> None:
    execution = await owner.start()
    await owner.write(*(b"line %04d of the log\n" % number for number in range(2000)))
    await owner.finish()
    async with feed.watch(execution.id) as watch:
        whole = await drain(watch)
        before = storage.log_reads
        for after in (1, 77, 500, 1999):
            pages = await drain(watch, after)
            assert payload(pages[0].rest(after)).startswith(b"line %04d" % after)
            assert pages == whole[-len(pages) :]
        assert storage.log_reads == before


async def test_an_end_read_before_the_status_is_not_believed(
    storage: CountingStorage, bus: Bus, feed: Feed, owner: Owner
) -> None:
    execution = await owner.start()
    async with feed.watch(execution.id) as watch:
        version = watch.version
        storage.held.clear()
        early = asyncio.create_task(watch.page(0, PLAIN))
        await storage.reading.wait()
        await owner.write(b"the last words\n")
        await owner.finish()
        async with asyncio.timeout(TIMEOUT):
            while not watch.execution.final:
                await watch.news(version)
                version = watch.version
        late = asyncio.create_task(watch.page(0, PLAIN))
        await asyncio.sleep(0)
        storage.held.set()
        assert await early is None
        page = await late
        assert page is not None
        assert payload(page.wire) == b"the last words\n"


async def test_live_viewers_get_everything(feed: Feed, owner: Owner) -> None:
    execution = await owner.start()
    viewers = [asyncio.create_task(follow(feed, execution.id)) for _ in range(10)]
    expected = b""
    for number in range(300):
        piece = b"%d " % number * (number % 40)
        if piece:
            await owner.write(piece)
            expected += piece
    late = asyncio.create_task(follow(feed, execution.id))
    await owner.finish()
    async with asyncio.timeout(TIMEOUT):
        assert set(await asyncio.gather(*viewers, late)) == {expected}


async def test_the_cache_is_bounded(storage: CountingStorage, bus: Bus, owner: Owner) -> None:
    feed = Feed(storage, bus, page_bytes=4096, cache_bytes=32 * 1024)
    execution = await owner.start()
    await owner.write(*(b"x" * 1000 for _ in range(200)))
    await owner.finish()
    async with feed.watch(execution.id) as watch:
        for form in Format:
            await drain(watch, form=form)
            assert 0 < feed.cache.weight <= 32 * 1024
    await feed.close()


async def test_a_lost_hint_costs_one_poll(storage: CountingStorage, bus: Bus, owner: Owner) -> None:
    feed = Feed(storage, bus, poll_seconds=0.05)
    execution = await owner.start()
    async with feed.watch(execution.id) as watch, asyncio.timeout(TIMEOUT):
        version = watch.version
        # The start is read before anything is there, so only a poll can find what comes later.
        assert await watch.page(0, PLAIN) is None
        await storage.logs.append(
            execution.id, execution.epoch, records(b"unheard\n"), bookmark="1", cap=None
        )
        while (page := await watch.page(0, PLAIN)) is None:
            await watch.news(version)
            version = watch.version
        assert b"unheard" in page.wire
    await feed.close()


async def test_the_end_is_not_kept_waiting(
    feed: Feed, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastlane.api.streaming.feed.WAKE_SECONDS", 10 * TIMEOUT)
    execution = await owner.start()
    async with feed.watch(execution.id) as watch, asyncio.timeout(TIMEOUT):
        await owner.finish()
        await watch.news(watch.version)
        assert watch.execution.final


async def test_a_broken_storage_reaches_every_viewer_and_no_later_one(
    storage: CountingStorage, bus: Bus, feed: Feed, owner: Owner
) -> None:
    execution = await owner.start()
    viewers = [asyncio.create_task(follow(feed, execution.id)) for _ in range(3)]
    async with asyncio.timeout(TIMEOUT):
        await storage.reading.wait()
        storage.broken = True
        while not all(viewer.done() for viewer in viewers):
            bus.wake(LogGrown, execution.id)
            await asyncio.wait(viewers, timeout=0.05)
        for viewer in viewers:
            with pytest.raises(StorageUnavailable):
                await viewer
        storage.broken = False
        async with feed.watch(execution.id) as watch:
            assert watch.execution.id == execution.id


async def test_no_such_execution(feed: Feed) -> None:
    with pytest.raises(NotFound):
        async with feed.watch("4f0c5f0a-9d7e-4a57-8e7c-0c6e2c9a5a11"):
            pass
