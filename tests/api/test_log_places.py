"""Any mix of after, limit, since, tail, line, follow and form equals a slice of the whole log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastlane.api.streaming.encoded import PageCache, is_output
from fastlane.model import LogCap, LogRecord, Stream
from fastlane.storage import packing
from fastlane.storage.sqlite import logs as sqlite_logs
from tests.api.http_site import Site, start_site
from tests.api.log_owner import Owner
from tests.api.test_log_answers import END, events_of
from tests.api.test_log_answers import lines_of as json_of
from tests.log_model import PIECES, Line, lines_of, records_of

NOW = 1_700_000_000.0
ROUTES = {"logs": None, "stdout": Stream.STDOUT, "stderr": Stream.STDERR}
PLACES = {
    "after": st.integers(0, 35),
    "since": st.integers(0, 35),
    "tail": st.integers(0, 40),
    "line": st.integers(1, 60),
    "limit": st.integers(1, 35),
}


@pytest.fixture
async def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """A server whose logs have many chunks and pages."""
    monkeypatch.setattr(packing, "LOG_CHUNK_BYTES", 64)
    monkeypatch.setattr(sqlite_logs, "MERGED_CHUNK_BYTES", 32)
    site = await start_site(tmp_path, still=True)
    site.server.services.sockets.feed.page_bytes = 100
    yield site
    await site.close()


def cut(
    log: Sequence[LogRecord], written: Sequence[LogRecord], stream: Stream | None, places: Any
) -> list[LogRecord]:
    """The records of *log* (what is kept of *written*) from the last of *places* on."""
    starts = [(places.get("after", 0) + 1, 0)]
    if "since" in places:
        young = [one.seq for one in log if one.at >= NOW + places["since"]]
        starts.append((young[0] if young else 10**6, 0))
    kept = {one.seq for one in log if one.stream is not Stream.FASTLANE}
    ours = [one for one in lines_of(written) if stream in (None, one.stream)]
    if "tail" in places:
        ended = [*(one.number for one in ours if one.places[0][0] in kept), 10**6]
        number = ended[-places["tail"] - 1] if places["tail"] < len(ended) else 1
        starts.append(_place_of(ours, kept, number))
    if "line" in places:
        starts.append(_place_of(ours, kept, places["line"]))
    seq, offset = max(starts)
    found = [one for one in log if one.seq >= seq]
    if offset and found:
        found[0] = replace(found[0], data=found[0].data[offset:])
    return [one for one in found if stream in (None, one.stream) or one.stream is Stream.FASTLANE]


def _place_of(ours: Sequence[Line], kept: set[int], number: int) -> tuple[int, int]:
    if number <= 1:
        return 1, 0
    for line in ours:
        if line.number >= number:
            # Of a line whose beginning was dropped, what is left of it.
            places = [place for place in line.places if place[0] in kept]
            if places:
                return min(places)
    return 10**6, 0


def begun(log: Sequence[LogRecord]) -> int:
    """The first record that is a part of the text."""
    return next((one.seq for one in log if is_output(one)), 10**6)


def snapshot(
    log: Sequence[LogRecord], route: str, since: Sequence[LogRecord], tail: int | None
) -> bytes:
    """The text as it stands. *since* is what of *log* is not too old."""
    texts = [
        b"".join(
            one.data
            for one in since
            if one.stream is stream or (one.stream is Stream.FASTLANE and one.seq >= begun(log))
        )
        if any(one.data for one in log if one.stream is stream)
        else b""
        for stream in ([ROUTES[route]] if ROUTES[route] else [Stream.STDOUT, Stream.STDERR])
    ]
    text = b"\n-=-\n".join(texts)
    if tail is None:
        return text
    rows = text.split(b"\n")
    rows = [row + b"\n" for row in rows[:-1]] + [rows[-1]] * bool(rows[-1])
    return b"".join(rows[-tail:]) if tail else b""


Queries = list[tuple[str, dict[str, int]]]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    pieces=PIECES,
    early=st.integers(0, 30),
    cap=st.none() | st.builds(LogCap, st.integers(0, 200), st.integers(0, 200)),
    queries=st.lists(
        st.tuples(st.sampled_from(sorted(ROUTES)), st.fixed_dictionaries({}, optional=PLACES)),
        min_size=1,
        max_size=5,
    ),
)
async def test_any_slice(
    small: Site,
    pieces: list[tuple[Stream, bytes]],
    early: int,
    cap: LogCap | None,
    queries: Queries,
) -> None:
    owner = small.owner()
    await owner.start()
    # What only has empty records is not known to be dropped; no executor makes them.
    written = records_of([one for one in pieces if one[1] or cap is None], NOW)
    await append(owner, written[:early], cap)
    await check(small, owner, written[:early], queries)
    following = follow(small, owner, queries) if cap is None else []
    await asyncio.sleep(0)
    for record in written[early:]:
        await append(owner, [record], cap)
    await owner.finish(7)
    if cap is not None:
        # What was dropped after it had been shown may be shown again, from the cache.
        feed = small.server.services.sockets.feed
        feed.cache = PageCache(1_000_000)
    await check(small, owner, written, queries)
    for form, route, places, answer in following:
        wanted = cut(written, written, ROUTES[route], places)
        found = await answer
        assert found.status == 200, found.body
        if form == "text":
            first = begun(written)
            assert found.body == b"".join(one.data for one in wanted if one.seq >= first)
        else:
            shown = json_of(found.body) if form == "json" else data_of(found.body)
            assert shown[-1] == END
            same(shown[:-1], wanted, written)


def follow(site: Site, owner: Owner, queries: Queries) -> list[Any]:
    """Those of *queries* whose place does not depend on when they are asked, in every form."""
    return [
        (form, route, places, asyncio.create_task(site.get(url, Accept=accept)))
        for route, places in queries
        for form, accept, more, refused in (
            ("text", "*/*", "follow=true", {"after", "line"}),
            ("json", "*/*", "follow=true&format=json", set[str]()),
            ("sse", "text/event-stream", "", set[str]()),
        )
        if not places.keys() & (refused | {"limit", "tail"})
        for url in [url_of(owner, route, places, more)]
    ]


async def check(site: Site, owner: Owner, written: Sequence[LogRecord], queries: Queries) -> None:
    """Every answer at once equals its slice of what is kept of *written*."""
    log = await whole(site, owner)
    for route, places in queries:
        wanted = cut(log, written, ROUTES[route], places)[: places.get("limit", 10_000)]
        answer = await site.get(url_of(owner, route, places, "format=json"))
        found = json_of(answer.body)
        if found and "end" in found[-1]:
            assert found.pop() == END
        same(found, wanted, written)
        if not places.keys() & {"after", "line", "limit"}:
            since = cut(log, written, None, {key: places[key] for key in places if key == "since"})
            text = snapshot(log, route, since, places.get("tail"))
            assert (await site.get(url_of(owner, route, places))).body == text
    if answer.headers["Fastlane-Status"] == "running":
        return
    whole_text = snapshot(log, route, log, None)
    for first, last in ((0, 0), (1, 50), (len(whole_text) // 2, 10**6)):
        part = await site.get(url_of(owner, route, {}), Range=f"bytes={first}-{last}")
        if first >= len(whole_text):
            assert part.status == 416
            assert part.headers["Content-Range"] == f"bytes */{len(whole_text)}"
            continue
        assert (part.status, part.body) == (206, whole_text[first : last + 1])
        end = min(last, len(whole_text) - 1)
        assert part.headers["Content-Range"] == f"bytes {first}-{end}/{len(whole_text)}"
    part = await site.get(url_of(owner, route, {}), Range="bytes=-7")
    assert part.body == whole_text[-7:] or part.status == 416


def same(
    found: list[dict[str, Any]], wanted: Sequence[LogRecord], written: Sequence[LogRecord]
) -> None:
    """The records in an answer, and the numbers of their lines."""
    assert [(one["seq"], one["stream"], one["text"]) for one in found] == [
        (one.seq, one.stream, one.data.decode(errors="replace")) for one in wanted
    ]
    by_place = {place: line.number for line in lines_of(written) for place in line.places}
    data = {one.seq: one.data for one in written}
    for record, whole_record in zip(found, wanted, strict=True):
        if record["stream"] == "fastlane":
            assert record["line"] is None
        elif whole_record.data:
            offset = len(data[record["seq"]]) - len(whole_record.data)
            assert record["line"] == by_place[record["seq"], offset]


def data_of(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(event["data"]) for event in events_of(body)]


async def append(owner: Owner, records: Sequence[LogRecord], cap: LogCap | None) -> None:
    assert owner.execution is not None
    await owner.lifecycle.append_log(owner.execution, records, bookmark="", cap=cap)


async def whole(site: Site, owner: Owner) -> list[LogRecord]:
    """All records that are kept."""
    assert owner.execution is not None
    found: list[LogRecord] = []
    while more := await site.storage.logs.read(
        owner.execution.id, after=found[-1].seq if found else 0
    ):
        found += more
    return found


def url_of(owner: Owner, route: str, places: dict[str, int], more: str = "") -> str:
    values = {**places, **({"since": int(NOW) + places["since"]} if "since" in places else {})}
    query = [f"{name}={value}" for name, value in values.items()] + [more] * bool(more)
    return f"{owner.path}/{route}/?{'&'.join(query)}"
