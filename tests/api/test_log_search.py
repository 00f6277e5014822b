"""``…/logs/search/`` over a whole log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from fastlane.api.handlers import search
from fastlane.api.streaming.encoded import time_text
from fastlane.model import LogCap, LogRecord, Stream
from fastlane.storage import packing
from fastlane.storage.sqlite import SqliteStorage
from fastlane.storage.sqlite import logs as sqlite_logs
from tests.api.conftest import MakeSite
from tests.api.http_site import Answer, Site, start_site
from tests.eventually import eventually
from tests.log_model import lines_of
from tests.storage_calls import Call, wrap

OUT, ERR = Stream.STDOUT, Stream.STDERR


@pytest.fixture
async def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """A server whose logs have many chunks, of which a request reads a few."""
    monkeypatch.setattr(packing, "LOG_CHUNK_BYTES", 200)
    monkeypatch.setattr(sqlite_logs, "MERGED_CHUNK_BYTES", 100)
    monkeypatch.setattr(search, "BATCH_BYTES", 400)
    monkeypatch.setattr(search, "MAX_BYTES", 2000)
    site = await start_site(tmp_path, still=True)
    yield site
    await site.close()


async def find_all(site: Site, path: str, q: str, **more: Any) -> list[dict[str, Any]]:
    """All matches, over as many requests as that takes."""
    found: list[dict[str, Any]] = []
    query = "".join(f"&{name}={value}" for name, value in more.items())
    after = "0"
    for _ in range(1000):
        answer = (await site.get(f"{path}/logs/search/?q={quote(q)}{query}&after={after}")).json
        found += answer["matches"]
        after = answer["nextAfter"]
        if answer["complete"]:
            return found
    raise AssertionError("it does not end")


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_everything_is_found_once(small: Site, limit: int) -> None:
    owner = small.owner()
    await owner.start()
    pieces: list[tuple[Stream, bytes]] = [
        (ERR if n % 3 == 0 else OUT, b"%d nee" % n if n % 2 else b"dle %d\n" % n)
        for n in range(300)
    ]
    written: list[LogRecord] = []
    for at in range(0, 300, 7):
        written += await owner.write(*pieces[at : at + 7])
    wanted = [
        {
            "seq": line.places[at][0],
            "offset": line.places[at][1],
            "line": line.number,
            "ts": time_text(written[line.places[at][0] - 1].at),
            "stream": line.stream,
            "text": line.text.removesuffix(b"\n").decode(),
        }
        for line in lines_of(written)
        if (at := line.text.find(b"needle")) >= 0
    ]
    for q in ("needle", "NEEDLE"):
        found = await find_all(small, owner.path, q, limit=limit)
        assert sorted(found, key=lambda one: one["line"]) == wanted
    assert await find_all(small, owner.path, "NEEDLE", case="true") == []
    assert await find_all(small, owner.path, "n.*e", limit=limit) == []
    by_regex = await find_all(small, owner.path, "n.+dle", regex="true", limit=limit)
    assert len(by_regex) == len(wanted)
    of_stderr = await find_all(small, owner.job_path, "needle", stream="stderr")
    assert of_stderr == [one for one in wanted if one["stream"] == "stderr"]


async def test_a_log_that_grows(small: Site) -> None:
    """The last answer of a search continues it later."""
    owner = small.owner()
    await owner.start()
    await owner.write(b"error 1\nerr")
    path = f"{owner.path}/logs/search/?q=error"
    first = (await small.get(path)).json
    assert [one["text"] for one in first["matches"]] == ["error 1"]
    assert first["complete"]
    await owner.write(b"or 2\n", b"error 3")
    second = (await small.get(f"{path}&after={first['nextAfter']}")).json
    assert [(one["line"], one["text"]) for one in second["matches"]] == [
        (2, "error 2"),
        (3, "error 3"),
    ]
    await owner.write(b" is said\n")
    third = (await small.get(f"{path}&after={second['nextAfter']}")).json
    assert third["matches"] == []
    # A record's number continues after it.
    again = (await small.get(f"{path}&after=2")).json
    assert [one["line"] for one in again["matches"]] == [3]


async def test_what_was_dropped_is_not_searched(small: Site) -> None:
    owner = small.owner()
    await owner.start()
    for number in range(100):
        await owner.write(b"line %d\n" % number, cap=LogCap(200, 200))
    found = await find_all(small, owner.path, "line")
    assert 0 < len(found) < 100
    assert all(one["text"] == f"line {one['line'] - 1}" for one in found)
    assert await find_all(small, owner.path, "dropped") == []


async def test_a_job_that_has_not_run(still: Site) -> None:
    submitted = await still.submit(startIn="5m")
    answer = (await still.get(f"{submitted['jobUrl']}logs/search/?q=x")).json
    assert answer == {"matches": [], "nextAfter": "0", "complete": True}


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", 'parameter "q" is required'),
        ("q=", "q has 0 characters"),
        (f"q={'x' * 1001}", "q has 1001 characters"),
        ("q=(&regex=true", "is not a regular expression of RE2"),
        ("q=x&after=-1", "after is"),
        ("q=x&stream=fastlane", "stream is"),
        ("q=x&limit=1001", "limit is"),
    ],
)
async def test_what_is_refused(still: Site, query: str, words: str) -> None:
    owner = still.owner()
    await owner.start()
    answer = await still.get(f"{owner.path}/logs/search/?{query}")
    assert words in answer.problem(400)["detail"]


class HeldStorage(SqliteStorage):
    """Keeps searches waiting."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.go_on = asyncio.Event()
        self.reads = 0
        wrap(self, "logs.chunks", self._held)

    def _held(self, chunks: Call) -> Call:
        async def held(*args: Any, **kwargs: Any) -> Sequence[Any]:
            self.reads += 1
            await self.go_on.wait()
            found: Sequence[Any] = await chunks(*args, **kwargs)
            return found

        return held


async def test_searches_are_bounded_and_end_with_their_client(make_site: MakeSite) -> None:
    site = await make_site(still=True, storage=HeldStorage)
    storage: Any = site.storage
    owner = site.owner()
    await owner.start()
    await owner.write(*[b"x" * 250_000] * 40)
    path = f"{owner.path}/logs/search/?q=x"
    searches = [asyncio.create_task(site.get(path)) for _ in range(2)]
    await eventually(lambda: storage.reads == 2)
    refused = await site.get(path)
    assert "searches under way" in refused.problem(429)["detail"]
    assert refused.headers["Retry-After"] == "1"
    searches[0].cancel()
    searches[1].cancel()
    await asyncio.gather(*searches, return_exceptions=True)
    storage.go_on.set()
    await eventually(lambda: not site.server.services.searches)
    # The first part of 2 MiB, and the one that was read ahead.
    assert storage.reads <= 4
    assert (await site.get(path)).status == 200


@pytest.mark.parametrize("signed_in", [True, False])
async def test_who_shares_a_bound(make_site: MakeSite, signed_in: bool) -> None:
    """Another address is another client, unless the user is known."""
    user = {"basic_auth_user": "ann", "basic_auth_password": "x"} if signed_in else {}
    site = await make_site(still=True, storage=HeldStorage, trusted_proxies="127.0.0.1", **user)
    storage: Any = site.storage
    owner = site.owner()
    await owner.start()
    await owner.write(b"x")
    credentials = {"Authorization": "Basic YW5uOng="} if signed_in else {}

    def search(address: str) -> asyncio.Task[Answer]:
        path = f"{owner.path}/logs/search/?q=x"
        return asyncio.create_task(site.get(path, X_Real_Ip=address, **credentials))

    searches = [search(f"203.0.113.{1 + n * signed_in}") for n in range(2)]
    await eventually(lambda: storage.reads == 2)
    other = search("203.0.113.9")
    if signed_in:
        assert (await other).status == 429
    else:
        await eventually(lambda: storage.reads == 3)
        assert (await search("203.0.113.1")).status == 429
        searches.append(other)
    storage.go_on.set()
    assert [one.status for one in await asyncio.gather(*searches)] == [200] * len(searches)
