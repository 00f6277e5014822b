"""What those take who are not known yet: connections, bodies, answers that nobody reads."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import structlog
from tornado.iostream import StreamClosedError

import fastlane.server
from fastlane.api.connections import Connections, Limits, limits_for
from tests.api.conftest import MakeSite
from tests.api.http_site import Site
from tests.eventually import eventually

REQUEST = b"GET /healthcheck/ HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextmanager
def warnings_logged() -> Iterator[list[str]]:
    """The sentences of the warnings that are logged meanwhile."""
    with structlog.testing.capture_logs() as lines:
        found: list[str] = []
        yield found
    found += [line["event"] for line in lines if line["log_level"] == "warning"]


async def bounded_site(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch, **limits: Any
) -> tuple[Site, Connections]:
    monkeypatch.setattr(fastlane.server, "limits_for", lambda *_: Limits(**limits))
    site = await make_site(still=True)
    assert site.server.connections is not None
    return site, site.server.connections


@asynccontextmanager
async def connected(site: Site, count: int = 1, send: bytes = b"") -> AsyncIterator[list[Any]]:
    """Readers of *count* connections that have sent *send* and read nothing."""
    pairs = []
    try:
        for _ in range(count):
            pairs.append(await asyncio.open_connection("127.0.0.1", site.server.port, limit=1))
            pairs[-1][1].write(send)
        yield [reader for reader, _ in pairs]
    finally:
        for _, writer in pairs:
            writer.transport.abort()


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What came until the server closed the connection."""
    async with asyncio.timeout(15):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


def test_limits_leave_a_reserve() -> None:
    assert limits_for(1024).total == 1024 - 256
    assert limits_for(1_000_000).total == 10_000
    assert limits_for(100).total == 64
    # What is allowed fits, whatever MAX_BODY_BYTES says.
    assert limits_for(1024, 1024**3).body_bytes > 2 * 1024**3


async def test_silent_connections_make_room(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 of them where 20 are allowed: the oldest go, a healthy client is served."""
    site, connections = await bounded_site(make_site, monkeypatch, total=20, per_peer=20)
    with warnings_logged() as warnings:
        async with connected(site, 200) as readers:
            for _ in range(5):
                assert (await site.get("/healthcheck/")).status == 200
            assert len(connections) <= 20
            assert await ended(readers[0]) == b""
    assert len(warnings) == 1


async def test_a_silent_connection_ends(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, connections = await bounded_site(make_site, monkeypatch, first_byte_seconds=0.1)
    async with connected(site) as (reader,):
        assert await ended(reader) == b""
    assert len(connections) == 0


async def test_an_idle_connection_makes_room_and_a_busy_one_does_not(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, connections = await bounded_site(make_site, monkeypatch, total=2, per_peer=2)
    # Busy: its body is awaited.
    head = b"POST /tasks/a/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
    async with connected(site, 1, head) as (busy,), connected(site, 1, REQUEST) as (idle,):
        assert (await idle.readexactly(12)) == b"HTTP/1.1 200"
        async with connected(site, 1, REQUEST) as (third,):
            assert (await third.readexactly(12)) == b"HTTP/1.1 200"
            await ended(idle)
            assert not busy.at_eof()
            async with connected(site, 1, head), connected(site, 1, head) as (refused,):
                assert await ended(refused) == b""
            assert not busy.at_eof()
    await eventually(lambda: len(connections) == 0)


async def test_one_peer_does_not_take_the_share_of_others(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full share evicts its own; another address still has all of its idle connections."""
    site, _ = await bounded_site(make_site, monkeypatch, total=100, per_peer=3)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", site.server.port, local_addr=("127.0.0.2", 0)
    )
    async with connected(site, 50) as readers:
        await ended(readers[0])
        writer.write(REQUEST)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.transport.abort()


async def test_no_descriptors_left(make_site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accepting pauses and resumes, and there is one line of log, not thousands."""
    monkeypatch.setattr(fastlane.server, "raise_file_limit", lambda: 10_000)
    site, connections = await bounded_site(make_site, monkeypatch)
    used = max(map(int, os.listdir("/proc/self/fd")))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    clients = [socket.socket() for _ in range(8)]
    # The lowest free descriptor is taken first, so none may be free below the new limit.
    filling = [os.dup(0)]
    while filling[-1] < used:
        filling.append(os.dup(0))
    top = max(filling[-1], *(client.fileno() for client in clients))
    with warnings_logged() as warnings:
        resource.setrlimit(resource.RLIMIT_NOFILE, (top + 3, hard))
        try:
            for client in clients:
                client.setblocking(False)
                await asyncio.get_running_loop().sock_connect(
                    client, ("127.0.0.1", site.server.port)
                )
            await eventually(lambda: len(connections) > 0)
            for _ in range(20):
                await asyncio.sleep(0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in filling:
                os.close(descriptor)
    assert warnings == ["No descriptor is left for a new connection."]
    await eventually(lambda: len(connections) == len(clients))
    assert (await site.get("/healthcheck/")).status == 200
    for client in clients:
        client.close()


async def test_bodies_have_a_budget(make_site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    site, connections = await bounded_site(make_site, monkeypatch, body_bytes=100_000)
    head = b"POST /tasks/a/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 70000\r\n\r\n"
    async with connected(site, 1, head + b" " * 60_000):
        await eventually(lambda: connections.body_bytes == 60_000)
        async with connected(site, 1, head + b" " * 60_000) as (refused,):
            answer = await ended(refused)
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"Retry-After: " in answer
        # A small body still fits, and not because there is room left for large ones.
        async with connected(site, 1, head + b" " * 16_384):
            await eventually(lambda: connections.body_bytes == 76_384)
            async with connected(site, 1, head + b" " * 10_000):
                await eventually(lambda: connections.body_bytes == 86_384)
                assert (await site.submit())["executionId"]
    await eventually(lambda: connections.body_bytes == 0)


async def test_credentials_come_before_the_body(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of a stranger's body is kept, none is asked for, and the connection can go on."""
    site = await make_site(still=True, basic_auth_user="ann", basic_auth_password="x")
    connections = site.server.connections
    assert connections is not None
    monkeypatch.setattr(connections, "receive", lambda *_: pytest.fail("a body was kept"))
    head = b"POST /tasks/a/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n"
    for sent in (
        head % 1_000_000 + b"\r\n" + b" " * 900_000,
        head % 1_000_000 + b"Expect: 100-continue\r\n\r\n",
        head % 1_000_000 + b"Authorization: Basic YW5uOnk=\r\n\r\n",
    ):
        async with connected(site, 1, sent) as (reader,):
            assert (await reader.readexactly(13)) == b"HTTP/1.1 401 "
    found = await site.raw(
        head % 1000 + b"\r\n" + b"x" * 1000,
        b"GET /healthcheck/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    )
    assert found.startswith(b"HTTP/1.1 401 ")
    assert b"HTTP/1.1 200 OK" in found


async def test_a_body_makes_progress_or_ends(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, connections = await bounded_site(make_site, monkeypatch, body_stalled_seconds=0.1)
    head = b"POST /tasks/a/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
    async with connected(site, 1, head + b"x") as (reader,):
        assert await ended(reader) == b""
    assert connections.body_bytes == 0


async def test_answers_that_are_not_read_have_a_budget(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond it the one that has stalled for longest is dropped; within it, it may wait."""
    site, connections = await bounded_site(
        make_site, monkeypatch, unsent_bytes=12 << 20, stalled_seconds=0.1
    )
    owner = site.owner()
    await owner.start()
    for _ in range(32):
        await owner.write(b"x" * 256 * 1024)
    request = f"GET {owner.path}/logs?tail=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    async with connected(site, 1, request) as (first,):
        await first.read(1)
        await eventually(lambda: 0 < connections.unsent < 8 << 20)
        async with connected(site, 3, request) as others:
            for other in others:
                await other.read(1)
            await eventually(lambda: connections.unsent < 12 << 20)
            assert len(connections) < 4
            assert (await site.get("/healthcheck/")).status == 200
    await eventually(lambda: connections.unsent == 0)
    assert connections.unsent == 0


async def test_large_answers_wait_for_room(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for a large one waits until others have read theirs, first come, first served."""
    site, connections = await bounded_site(make_site, monkeypatch, unsent_bytes=1000)
    async with connected(site, 3, REQUEST[:-2]):
        await eventually(lambda: sum(len(one.idle) for one in connections._shares.values()) == 3)
        (share,) = connections._shares.values()
        first, second, third = share.idle
        await connections.room(first, 900)
        turns = [
            asyncio.create_task(connections.room(second, 600)),
            asyncio.create_task(connections.room(third, 100)),
        ]
        await asyncio.sleep(0)
        # The small one does not overtake the other, which would wait for ever.
        assert not any(turn.done() for turn in turns)
        connections.add_unsent(first, 800)
        connections.made(first)
        await asyncio.sleep(0)
        assert (connections.unsent, turns[0].done()) == (800, False)
        connections.sent(first, 400)
        async with asyncio.timeout(5):
            await turns[0]
            await turns[1] if connections.unsent < 1000 else None
        assert connections.unsent <= 1100
        for connection in (first, second, third):
            connection.close()
    assert connections.unsent == 0


async def test_who_waits_for_room_and_hangs_up_has_no_turn(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, connections = await bounded_site(make_site, monkeypatch, unsent_bytes=1000)
    async with connected(site, 2, REQUEST[:-2]):
        await eventually(lambda: sum(len(one.idle) for one in connections._shares.values()) == 2)
        (share,) = connections._shares.values()
        first, second = share.idle
        await connections.room(first, 1000)
        turn = asyncio.create_task(connections.room(second, 1000))
        await asyncio.sleep(0)
        second.close()
        with pytest.raises(StreamClosedError):
            await turn
        connections.made(first)
    assert connections.unsent == 0


async def test_large_answers_that_nobody_reads_are_not_made_at_once(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """30 clients ask for 6 MB and do not read; a small answer waits for none of them."""
    budget = 20 << 20
    site, connections = await bounded_site(
        make_site, monkeypatch, unsent_bytes=budget, unsent_bytes_per_peer=budget
    )
    owner = site.owner()
    await owner.start()
    for _ in range(24):
        await owner.write(b"x" * 256 * 1024)
    most = 0
    add_unsent = connections.add_unsent

    def add(*given: Any) -> None:
        nonlocal most
        add_unsent(*given)
        most = max(most, connections.unsent)

    monkeypatch.setattr(connections, "add_unsent", add)
    request = f"GET {owner.path}/logs?tail=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    async with connected(site, 30, request) as readers:
        await readers[0].read(1)
        await eventually(lambda: connections._waiting_for_room)
        assert (await site.get("/healthcheck/")).status == 200
        assert (await site.submit())["executionId"]
        assert 0 < most <= budget
    await eventually(lambda: connections.unsent == 0)


async def test_a_proxys_connection_belongs_to_its_client(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastlane.server, "limits_for", lambda *_: Limits(total=9, per_peer=1))
    site = await make_site(still=True, trusted_proxies="127.0.0.1")
    connections = site.server.connections
    assert connections is not None
    head = b"POST /tasks/a/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
    async with (
        connected(site, 2, head + b"X-Forwarded-For: 10.0.0.7\r\n\r\n"),
        connected(site, 3, head + b"\r\n"),
    ):
        await eventually(
            lambda: (
                {peer: one.count for peer, one in connections._shares.items()}
                == {"10.0.0.7": 2, "127.0.0.1": 3}
            )
        )


async def test_a_flood_of_requests_leaves_the_loop_to_others(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that are answered at once, sent before the answers to others were read."""
    site = await make_site(still=True)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    request = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"
    counting = asyncio.create_task(count())
    async with connected(site, 1, request * 200 + REQUEST) as (reader,):
        await eventually(lambda: turns > 0)
        before, answers = turns, b""
        while not answers.endswith(b'"backend":"sqlite"}'):
            answers += await reader.read(1 << 20)
        # Otherwise it would be a handful.
        assert turns - before >= 200
        assert answers.count(b"HTTP/1.1 404") == 200
    counting.cancel()
