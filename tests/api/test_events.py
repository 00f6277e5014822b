"""``/events/``: the stream, pages, long polls and the WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import structlog.testing

from fastlane.api.handlers import events as handler
from fastlane.api.streaming import events as feeds
from fastlane.api.streaming import websocket
from fastlane.bus.local import Bus
from fastlane.errors import StorageUnavailable
from tests.api.conftest import MakeSite
from tests.api.http_site import Site
from tests.event_client import follow
from tests.eventually import eventually

JSON = {"Accept": "application/json"}


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


async def page(site: Site, query: str = "") -> dict[str, Any]:
    found: dict[str, Any] = (await site.get(f"/events/?{query}", **JSON)).json
    return found


async def test_a_page_without_a_cursor_is_empty_and_says_where_now_is(still: Site) -> None:
    await still.submit()
    now = await page(still)
    assert (now["items"], now["hasMore"]) == ([], False)
    submitted = await still.submit("billing")
    after = await page(still, f"after={now['cursor']}")
    created, enqueued = after["items"]
    assert created | {"id": "", "at": "", "cursor": ""} == {
        "id": "",
        "at": "",
        "cursor": "",
        "type": "job.created",
        "taskId": "billing",
        "jobId": submitted["jobId"],
        "url": submitted["jobUrl"],
    }
    assert enqueued["type"] == "execution.enqueued"
    assert (enqueued["url"], enqueued["status"], enqueued["attempt"]) == (
        submitted["executionUrl"],
        "enqueued",
        0,
    )
    assert enqueued["at"].endswith("Z")
    assert after["cursor"] == enqueued["cursor"]
    assert (await page(still, f"after={created['cursor']}"))["items"] == [enqueued]


async def test_a_page_is_limited_and_filtered(still: Site) -> None:
    start = (await page(still))["cursor"]
    first, second = await still.submit("billing-a"), await still.submit("mail")
    found = await page(still, f"after={start}&limit=3")
    assert (len(found["items"]), found["hasMore"]) == (3, True)
    rest = await page(still, f"after={found['cursor']}&limit=3")
    assert (len(rest["items"]), rest["hasMore"]) == (1, False)
    for query, expected in {
        "task=billing-*": ["job.created", "execution.enqueued"],
        "task=x,m%3Fil": ["job.created", "execution.enqueued"],
        "type=execution.*": ["execution.enqueued"] * 2,
        "type=job.created,host.down": ["job.created"] * 2,
        f"job={first['jobId'].upper()}": ["job.created", "execution.enqueued"],
        f"execution={second['executionId']}": ["execution.enqueued"],
        f"execution={second['executionId']}&task=billing-*": [],
    }.items():
        items = (await page(still, f"after={start}&{query}"))["items"]
        assert [item["type"] for item in items] == expected, query


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("after=12", '"12" is not a cursor of /events/.'),
        ("after=e0x1", '"e0x1" is not a cursor of /events/.'),
        ("after=effffffffffffffff", "is not a cursor"),
        ("type=execution.dne", "execution.done"),
        ("wait=61&after=e1", "from 0 to 60"),
        ("limit=0&after=e1", "from 1 to 1000"),
        ("afer=e1", "after"),
        ("task=" + "a," * 21, "at most 20"),
    ],
)
async def test_what_is_refused(still: Site, query: str, detail: str) -> None:
    assert detail in (await still.get(f"/events/?{query}", **JSON)).problem(400)["detail"]


async def test_the_stream_of_a_run(site: Site, client: aiohttp.ClientSession) -> None:
    async with follow(client, site.base) as stream:
        assert await stream.begun()
        submitted = await site.submit()
        run = await site.run_of(submitted)
        run.end(0)
        received = await stream.take(5)
    assert [event["type"] for event in received] == [
        "job.created",
        "execution.enqueued",
        "execution.pulling",
        "execution.running",
        "execution.done",
    ]
    assert received[-1]["exitCode"] == 0
    assert received[-1]["host"] == "tcp://localhost:1234"
    assert stream.last_id == received[-1]["cursor"]


async def test_a_stream_resumes_after_its_last_event(
    still: Site, client: aiohttp.ClientSession
) -> None:
    async with follow(client, still.base) as stream:
        start = await stream.begun()
        await still.submit()
        first, second = await stream.take(2)
    await still.submit()
    for query, headers in (
        (f"after={first['cursor']}", {}),
        (f"after={start}", {"Last_Event_ID": first["cursor"]}),
    ):
        async with follow(client, still.base, query, **headers) as stream:
            assert (await stream.take(3))[0] == second


async def test_a_silent_stream_has_comments_and_moves_its_id_on(
    still: Site, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "COMMENT_SECONDS", 0.05)
    async with follow(client, still.base, "type=host.down") as stream:
        start = await stream.begun()
        await still.submit()
        now = (await page(still))["cursor"]

        while stream.last_id != now:
            line = (await stream.response.content.readline()).decode()
            stream.comments += line.startswith(":")
            if line.startswith("id: "):
                stream.last_id = line.removeprefix("id: ").strip()
    assert stream.comments
    assert start != now


async def test_a_long_poll_waits_for_what_it_wants(still: Site) -> None:
    start = (await page(still))["cursor"]
    waiting = asyncio.create_task(page(still, f"after={start}&wait=30&task=wanted"))
    await eventually(lambda: still.server.services.events.followers == 1)
    await still.submit("other")
    wanted = await still.submit("wanted")
    found = await waiting
    assert found["items"][0]["jobId"] == wanted["jobId"]
    assert not (await page(still, f"after={(await page(still))['cursor']}&wait=1"))["items"]
    assert still.server.services.events.followers == 0
    assert not len(still.server.services.sockets)


async def test_head_of_a_long_poll_does_not_wait(still: Site) -> None:
    start = (await page(still))["cursor"]
    async with asyncio.timeout(10):
        answer = await still.request("HEAD", f"/events/?after={start}&wait=60", **JSON)
    assert answer.status == 200


async def test_a_shutdown_ends_streams_and_long_polls(
    make_site: MakeSite, client: aiohttp.ClientSession
) -> None:
    site = await make_site(still=True)
    start = (await page(site))["cursor"]
    waiting = asyncio.create_task(page(site, f"after={start}&wait=60"))
    async with follow(client, site.base) as stream:
        await stream.begun()
        await eventually(lambda: site.server.services.events.followers == 2)
        await site.server.stop()
        assert await stream.next() is None
    assert await waiting == {"items": [], "cursor": start, "hasMore": False}


async def test_an_old_cursor_gets_a_gap_first(still: Site, client: aiohttp.ClientSession) -> None:
    start = (await page(still))["cursor"]
    for _ in range(3):
        await still.submit()
    await still.storage.events.forget(2e9, 100)
    left = (await page(still, f"after={start}&type=job.created"))["items"]
    assert [item["type"] for item in left] == ["gap"]
    async with follow(client, still.base, f"after={start}") as stream:
        gap, last = await stream.take(2)
    assert (gap["type"], last["type"]) == ("gap", "execution.enqueued")
    # Nobody is told of the same gap again.
    again = await page(still, f"after={gap['cursor']}")
    assert [item["type"] for item in again["items"]] == ["execution.enqueued"]


async def test_a_gap_may_fill_a_page(still: Site) -> None:
    start = (await page(still))["cursor"]
    await still.submit()
    await still.storage.events.forget(2e9, 100)
    for _ in range(3):
        await still.submit()
    found = await page(still, f"after={start}&limit=1")
    assert ([item["type"] for item in found["items"]], found["hasMore"]) == (["gap"], True)
    rest = await page(still, f"after={found['cursor']}")
    assert "gap" not in [item["type"] for item in rest["items"]]
    assert len(rest["items"]) >= 6


async def test_a_cursor_beyond_the_end_gets_a_gap(still: Site) -> None:
    await still.submit()
    (gap,) = (await page(still, "after=effff"))["items"]
    assert gap["type"] == "gap"
    await still.submit()
    assert len((await page(still, f"after={gap['cursor']}"))["items"]) == 2


async def test_the_web_socket_sends_the_same(site: Site, client: aiohttp.ClientSession) -> None:
    start = (await page(site))["cursor"]
    submitted = await site.submit()
    (await site.run_of(submitted)).end(3)
    await site.status(submitted, "failed")
    expected = (await page(site, f"after={start}"))["items"]
    assert len(expected) == 5
    async with client.ws_connect(f"{site.base}/events/ws/?after={start}") as ws:
        assert [await ws.receive_json(timeout=10) for _ in expected] == expected
        later = await site.submit()
        assert (await ws.receive_json(timeout=10))["jobId"] == later["jobId"]
    query = f"after={start}&type=execution.failed"
    async with client.ws_connect(f"{site.base}/events/ws/?{query}") as ws:
        assert await ws.receive_json(timeout=10) == expected[-1]
    assert (await site.get("/events/ws/")).status == 426


async def test_times_have_any_form(still: Site, client: aiohttp.ClientSession) -> None:
    start = (await page(still))["cursor"]
    await still.submit()
    for form in ("rfc3339", "unix", "reference"):
        query = f"after={start}&times={form}"
        expected = (await page(still, query))["items"]
        assert isinstance(expected[0]["at"], float) is (form == "unix")
        async with follow(client, still.base, query) as stream:
            assert await stream.take(2) == expected
        async with client.ws_connect(f"{still.base}/events/ws/?{query}") as ws:
            assert [await ws.receive_json(timeout=10) for _ in expected] == expected
    refused = await still.get("/events/ws/?times=local")
    assert "times is" in refused.problem(400)["detail"]


async def test_a_consumer_that_falls_out_of_the_window_gets_a_gap(
    still: Site, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it had not read for long: the window moves on at once."""
    feed = still.server.services.events
    monkeypatch.setattr(feed, "_window_events", 2)
    held = asyncio.Event()
    reads = feed.read

    async def slow(place: Any) -> Any:
        if place.is_live:
            await held.wait()
        return await reads(place)

    monkeypatch.setattr(feed, "read", slow)
    async with (
        follow(client, still.base) as stream,
        client.ws_connect(f"{still.base}/events/ws/") as ws,
    ):
        start = await stream.begun()
        await eventually(lambda: feed.followers == 2)
        for _ in range(10):
            await still.submit()
        await eventually(lambda: len(feed._window) < 6 and feed._since > 0)
        held.set()
        gap = await stream.next()
        assert gap is not None
        assert (gap["type"], gap["cursor"]) == ("gap", start)
        assert await stream.next() is None
        assert (await ws.receive_json(timeout=10))["type"] == "gap"
        closed = await ws.receive(timeout=10)
        assert (closed.type, ws.close_code, closed.extra) == (
            aiohttp.WSMsgType.CLOSE,
            1013,
            "retry",
        )
    # Nothing is lost for a client that resumes.
    assert len((await page(still, f"after={start}"))["items"]) == 20


async def test_a_consumer_that_does_not_read_is_cut_off_in_bounded_memory(
    still: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "STALL_SECONDS", 0.3)
    monkeypatch.setattr(websocket, "STALL_SECONDS", 0.3)
    sent = {
        "/events/": "",
        "/events/ws/": "Connection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
    }
    sockets = []
    for path, headers in sent.items():
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect(("127.0.0.1", still.server.port))
        one.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())
        sockets.append(one)
    await eventually(lambda: still.server.services.events.followers == 2)
    long = "t" * 250
    while still.server.services.events.followers:
        await asyncio.gather(*(still.submit(long) for _ in range(200)))
    for one in sockets:
        one.setblocking(False)
        received = b""
        async with asyncio.timeout(10):
            while b'"type":"gap"' not in received:
                part = await asyncio.get_running_loop().sock_recv(one, 65536)
                assert part, received[-1000:]
                received = received[-100:] + part
        one.close()


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.faults)])
async def test_many_consumers_cost_one_read(
    make_site: MakeSite, client: aiohttp.ClientSession, count: int
) -> None:
    site = await make_site(still=True, max_sockets=4000)
    feed = site.server.services.events
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(follow(client, site.base)) for _ in range(count)]
        await asyncio.gather(*(stream.begun() for stream in streams))
        before = feed.reads
        await asyncio.gather(*(site.submit() for _ in range(5)))
        received = await asyncio.gather(*(stream.take(10) for stream in streams))
    assert all(one == received[0] for one in received)
    assert feed.reads - before < 30
    await eventually(lambda: feed.followers == 0)


async def test_events_arrive_although_their_news_are_lost(still: Site) -> None:
    """As without Redis, when another instance has stored them."""
    services = still.server.services
    feed = feeds.EventFeed(still.storage, Bus(), services.clock, poll_seconds=0.1)
    async with feed.follow():
        place = feeds.Place((await still.storage.events.span()).last)
        await still.submit()
        assert await feed.news(place.position, 10)
        assert len(await feed.read(place)) == 2


@pytest.mark.parametrize("error", [StorageUnavailable("gone"), ValueError("a bad event")])
async def test_the_reader_survives_any_error(
    still: Site, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    services, tries = still.server.services, 0
    feed = feeds.EventFeed(still.storage, Bus(), services.clock, poll_seconds=0.01)
    after = still.storage.events.after

    async def broken(position: int, limit: int) -> Any:
        nonlocal tries
        tries += 1
        if tries <= 3:
            raise error
        return await after(position, limit)

    monkeypatch.setattr(still.storage.events, "after", broken)
    with structlog.testing.capture_logs() as logged:
        async with feed.follow():
            start = (await still.storage.events.span()).last
            await still.submit()
            assert await feed.news(start, 10)
    (once,) = [one for one in logged if one["event"] == "Events cannot be read"]
    assert (once["after"], once["error"]) == (start, str(error))
    assert once["exc_info"] is (error if isinstance(error, ValueError) else None)


async def test_the_window_is_bounded(still: Site) -> None:
    feed = feeds.EventFeed(
        still.storage, still.server.services.bus, still.server.services.clock, window_events=5
    )
    async with feed.follow():
        for _ in range(20):
            await still.submit()
        end = (await still.storage.events.span()).last
        await eventually(lambda: feed._last == end)
        assert len(feed._window) <= 10
        place = feeds.Place(feed._since)
        got = list(itertools.chain(await feed.read(place)))
        assert got == list(await still.storage.events.after(feed._since, 100))
    assert json.loads(feed.encoded(got[0], "http://a"))["type"] == got[0].type
