"""The log over WebSockets, by API.md's "Streams" and the regressions 29, 30 and 37."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from fastlane.api.streaming import websocket
from fastlane.api.streaming.sockets import Sockets
from fastlane.model import LogCap, Schedule, Stream
from tests.api.log_owner import FARM, Owner
from tests.api.log_site import Site, serve
from tests.eventually import eventually

# Bounds every wait of these tests, in seconds.
TIMEOUT = 30.0

OUT, ERR = Stream.STDOUT, Stream.STDERR


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with serve(tmp_path) as site:
        yield site
    for viewer in Viewer.opened:
        viewer.connection.close()
    Viewer.opened.clear()


@pytest.fixture
def owner(site: Site) -> Owner:
    return site.owner()


class Viewer:
    """One connection, and what came over it."""

    opened: ClassVar[list[Viewer]] = []

    def __init__(self, connection: WebSocketClientConnection) -> None:
        self.connection = connection
        self.frames: list[str] = []

    @classmethod
    async def connect(cls, site: Site, path: str, **headers: str) -> Viewer:
        request = HTTPRequest(site.url(path), headers=headers)
        # Behind the flow control of the server, not of the test.
        viewer = cls(await websocket_connect(request, max_message_size=64 * 1024 * 1024))
        cls.opened.append(viewer)
        return viewer

    async def frame(self) -> str | None:
        async with asyncio.timeout(TIMEOUT):
            message = await self.connection.read_message()
        assert message is None or isinstance(message, str)
        if message is None:
            self.connection.close()
        else:
            self.frames.append(message)
        return message

    async def until(self, text: str) -> None:
        while text not in "".join(self.frames):
            assert await self.frame() is not None, f"closed before {text!r}"

    async def rest(self) -> str:
        """Everything, up to the close."""
        while await self.frame() is not None:
            pass
        return "".join(self.frames)

    @property
    def end(self) -> tuple[int | None, str | None]:
        return self.connection.close_code, self.connection.close_reason

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(frame) for frame in self.frames]


async def watch(site: Site, path: str, **headers: str) -> Viewer:
    viewer = await Viewer.connect(site, path, **headers)
    await viewer.rest()
    return viewer


async def refusal(site: Site, path: str, **headers: str) -> HTTPClientError:
    """The HTTP answer to a handshake that is refused."""
    with pytest.raises(HTTPClientError) as raised:
        await Viewer.connect(site, path, **headers)
    error = raised.value
    assert error.response is not None
    assert error.response.headers["Content-Type"].startswith("application/problem+json")
    body = json.loads(error.response.body)
    assert body["status"] == error.code
    assert error.response.headers["X-Request-ID"] == body["requestId"]
    return error


# -- what is sent ---------------------------------------------------------------------------------


async def test_a_finished_log_comes_whole_and_once_and_then_done(site: Site, owner: Owner) -> None:
    await owner.start()
    await owner.write((OUT, b"one\n"), (ERR, b"two\n"), (OUT, b"three\n"))
    await owner.finish(3)
    for _ in range(2):
        viewer = await watch(site, f"{owner.path}/ws/")
        assert "".join(viewer.frames) == "one\ntwo\nthree\n"
        assert viewer.end == (1000, "done")


async def test_a_live_log_comes_as_it_is_written(site: Site, owner: Owner) -> None:
    await owner.start()
    viewer = await Viewer.connect(site, f"{owner.job_path}/ws")
    for number in range(5):
        await owner.write((OUT, b"out %d\n" % number), (ERR, b"err %d\n" % number))
        await viewer.until(f"err {number}\n")
    await owner.finish()
    text = await viewer.rest()
    assert text == "".join(f"out {n}\nerr {n}\n" for n in range(5))
    assert viewer.end == (1000, "done")


async def test_one_who_comes_late_gets_it_from_the_first_byte(site: Site, owner: Owner) -> None:
    await owner.start()
    await owner.write(b"before\n")
    viewer = await Viewer.connect(site, f"{owner.path}/ws/")
    await viewer.until("before\n")
    await owner.write(b"after\n")
    await owner.finish()
    assert await viewer.rest() == "before\nafter\n"


async def test_records_as_json(site: Site, owner: Owner) -> None:
    await owner.start()
    records = await owner.write((OUT, "grüße\n".encode()), (ERR, b'<b>"quoted"\\\x00</b>'))
    await owner.finish(7)
    viewer = await watch(site, f"{owner.path}/ws/?format=json")
    first, second, end = viewer.messages
    assert list(first) == ["seq", "ts", "stream", "text", "line", "nextLine"]
    assert (first["line"], first["nextLine"], second["line"]) == (1, 2, 2)
    assert (first["seq"], first["stream"], first["text"]) == (1, "stdout", "grüße\n")
    assert len(first["ts"]) == len("2019-01-17T15:13:02.754000")
    assert (second["seq"], second["stream"], second["text"]) == (
        2,
        "stderr",
        '<b>"quoted"\\\x00</b>',
    )
    assert end == {"end": True, "status": "failed", "exitCode": 7, "reason": "exit-code"}
    assert len(records) == 2
    assert viewer.end == (1000, "done")


@pytest.mark.parametrize("after", [0, 1, 499, 999, 1000, 5000])
async def test_after_goes_on_behind_a_record(site: Site, owner: Owner, after: int) -> None:
    await owner.start()
    await owner.write(*(b"%d\n" % number for number in range(1, 1001)))
    await owner.finish()
    wanted = list(range(after + 1, 1001))
    viewer = await watch(site, f"{owner.path}/ws/?format=json&after={after}")
    assert [message["seq"] for message in viewer.messages[:-1]] == wanted
    plain = await watch(site, f"{owner.path}/ws/?after={after}")
    assert "".join(plain.frames) == "".join(f"{number}\n" for number in wanted)


async def test_after_works_during_the_run(site: Site, owner: Owner) -> None:
    await owner.start()
    await owner.write(b"1\n", b"2\n", b"3\n")
    viewer = await Viewer.connect(site, f"{owner.path}/ws/?after=2")
    await viewer.until("3\n")
    await owner.write(b"4\n")
    await owner.finish()
    assert await viewer.rest() == "3\n4\n"


@pytest.mark.parametrize("form", ["plain", "json"])
async def test_what_is_not_utf8_and_what_is_very_long(site: Site, owner: Owner, form: str) -> None:
    """Regressions 23 and 30: no character is broken, nothing stops a log from being shown."""
    pieces = ["日本語🚚".encode() * 4000, b"\xff\xfe\x00binary\x80", b"x" * 1_000_000, "é".encode()]
    await owner.start()
    for piece in pieces:
        await owner.write(piece)
    await owner.finish()
    viewer = await watch(site, f"{owner.path}/ws/?format={form}")
    text = "".join(viewer.frames)
    if form == "json":
        text = "".join(message["text"] for message in viewer.messages[:-1])
    assert text == "".join(piece.decode(errors="replace") for piece in pieces)
    assert viewer.end == (1000, "done")


async def test_where_the_cap_dropped_something_it_says_so(site: Site, owner: Owner) -> None:
    await owner.start()
    cap = LogCap(head_bytes=300_000, tail_bytes=300_000)
    for number in range(40):
        await owner.write(b"%02d" % number * 32 * 1024 + b"\n", cap=cap)
    await owner.finish()
    viewer = await watch(site, f"{owner.path}/ws/")
    text = "".join(viewer.frames)
    assert text.startswith("00")
    assert text.endswith("39\n")
    assert "bytes of this log were dropped here]" in text
    viewer = await watch(site, f"{owner.path}/ws/?format=json")
    assert [m["stream"] for m in viewer.messages[:-1]].count("fastlane") == 1


# -- done and retry -------------------------------------------------------------------------------


async def test_retry_while_nothing_has_run(site: Site, owner: Owner) -> None:
    await owner.submit(schedule=Schedule(start_at=time.time() + 3600))
    viewer = await watch(site, f"{owner.job_path}/ws/")
    assert (viewer.frames, viewer.end[1]) == ([], "retry")
    await owner.submit()
    for path in (owner.job_path, owner.path):
        viewer = await watch(site, f"{path}/ws/?format=json")
        assert (viewer.frames, viewer.end[1]) == ([], "retry")


async def test_retry_while_a_retry_is_due(site: Site, owner: Owner) -> None:
    """A job's socket is done only with its last attempt; an execution's with that execution."""
    await owner.start(retries=1, retry_after=0.0)
    first = owner.path
    viewers = [
        await Viewer.connect(site, f"{path}/ws/?format=json&state=true")
        for path in (owner.job_path, owner.path)
    ]
    for viewer in viewers:
        await viewer.until('"running"')
    await owner.finish(1)
    for viewer, reason in zip(viewers, ("retry", "done"), strict=True):
        await viewer.rest()
        assert viewer.end == (1000, reason)
        assert viewer.messages[-1]["end"] is True
        state = viewer.messages[-2]["state"]
        assert (state["attempt"], state["attempts"]) == (1, 2)
    assert state["retry"]["attempt"] == 2
    retry_id = state["retry"]["executionId"]
    (due,) = (await watch(site, f"{owner.job_path}/ws/?format=json&state=true")).messages
    assert (due["state"]["executionId"], due["state"]["attempt"]) == (retry_id, 2)
    assert due["state"]["dueAt"] is not None
    await owner.start_retry()
    viewer = await Viewer.connect(site, f"{owner.job_path}/ws/")
    await owner.write(b"again\n")
    await owner.finish(1)
    assert await viewer.rest() == "again\n"
    assert viewer.end == (1000, "done")
    # The first attempt's own socket is done, as before.
    assert (await watch(site, f"{first}/ws/")).end == (1000, "done")


async def test_the_page_is_told_why_it_waits(site: Site, owner: Owner) -> None:
    (record,) = (site.services.hosts.record(host) for host in FARM.hosts)
    site.services.hosts.take([replace(record, blacklisted=True)])
    await owner.submit()
    (told,) = (await watch(site, f"{owner.path}/ws/?format=json&state=true")).messages
    assert "localhost" in told["state"]["waiting"]


async def test_a_viewer_of_a_pulling_execution_waits_for_its_log(site: Site, owner: Owner) -> None:
    await owner.submit()
    execution = await owner.claim()
    viewer = await Viewer.connect(site, f"{owner.path}/ws/")
    owner.execution = await owner.lifecycle.started(execution, "run-1")
    await owner.write(b"here\n")
    await viewer.until("here\n")
    await owner.finish()
    await viewer.rest()
    assert viewer.end == (1000, "done")


async def test_retry_when_it_goes_back_to_the_queue(site: Site, owner: Owner) -> None:
    await owner.submit()
    execution = await owner.claim()
    viewer = await Viewer.connect(site, f"{owner.path}/ws/")
    await owner.lifecycle.release(execution)
    assert await viewer.rest() == ""
    assert viewer.end[1] == "retry"


async def test_expired_and_stopped_executions_are_done(site: Site, owner: Owner) -> None:
    """Regression 29."""
    await owner.submit(expires_at=time.time() - 1)
    await owner.lifecycle.expire_due(10)
    viewer = await watch(site, f"{owner.path}/ws/?format=json")
    assert viewer.messages == [
        {"end": True, "status": "expired", "exitCode": None, "reason": "expired"}
    ]
    assert viewer.end == (1000, "done")
    await owner.submit()
    await owner.lifecycle.stop_job(owner.task_id, owner.job_id)
    viewer = await watch(site, f"{owner.path}/ws/?format=json")
    assert viewer.messages[0]["reason"] == "stopped"
    assert viewer.end == (1000, "done")


async def test_shutdown_sends_retry_and_lets_nobody_in(site: Site, owner: Owner) -> None:
    await owner.start()
    await owner.write(b"so far\n")
    viewers = [await Viewer.connect(site, f"{owner.path}/ws/") for _ in range(5)]
    for viewer in viewers:
        await viewer.until("so far\n")
    closing = asyncio.create_task(site.services.sockets.close_all())
    for viewer in viewers:
        assert await viewer.rest() == "so far\n"
        assert viewer.end[1] == "retry"
    async with asyncio.timeout(TIMEOUT):
        await closing
    assert len(site.services.sockets) == 0
    error = await refusal(site, f"{owner.path}/ws/")
    assert error.code == 503


async def test_the_state_frames_of_the_page(site: Site, owner: Owner) -> None:
    start_at = time.time() + 3600
    await owner.submit(schedule=Schedule(start_at=start_at))
    query = "ws/?format=json&state=true"
    (scheduled,) = (await watch(site, f"{owner.job_path}/{query}")).messages
    assert scheduled["state"]["status"] == "scheduled"
    assert scheduled["state"]["executionId"] is None
    assert scheduled["state"]["nextScheduledAt"] is not None
    await owner.submit()
    (enqueued,) = (await watch(site, f"{owner.job_path}/{query}")).messages
    assert enqueued["state"]["status"] == "enqueued"
    execution = await owner.claim()
    viewer = await Viewer.connect(site, f"{owner.job_path}/{query}")
    await viewer.until('"pulling"')
    owner.execution = await owner.lifecycle.started(execution, "run-1")
    await viewer.until('"running"')
    await owner.finish(0)
    await viewer.rest()
    states = [m["state"]["status"] for m in viewer.messages if "state" in m]
    assert states == ["pulling", "running", "done"]
    assert viewer.messages[-1]["end"] is True


# -- refusals -------------------------------------------------------------------------------------


async def test_what_does_not_exist_is_404_before_the_handshake(site: Site, owner: Owner) -> None:
    await owner.start()
    other = site.owner("other")
    await other.submit()
    assert owner.execution is not None
    missing = str(uuid.uuid4())
    for path in (
        f"/tasks/nobody/jobs/{owner.job_id}/ws/",
        f"/tasks/watched/jobs/{missing}/ws/",
        "/tasks/watched/jobs/not-an-id/ws/",
        f"{owner.job_path}/executions/{missing}/ws/",
        f"{owner.job_path}/executions/not-an-id/ws/",
        f"{other.job_path}/executions/{owner.execution.id}/ws/",
    ):
        assert (await refusal(site, path)).code == 404, path


@pytest.mark.parametrize(
    "query",
    [
        "format=xml",
        "format=",
        "after=-1",
        "after=abc",
        "after=",
        "after=1.5",
        "after=99999999999999999999",
        "after=%D9%A1",
        "state=yes",
        "state=true",
    ],
)
async def test_a_malformed_query_is_400_before_the_handshake(
    site: Site, owner: Owner, query: str
) -> None:
    await owner.start()
    assert (await refusal(site, f"{owner.path}/ws/?{query}")).code == 400


async def test_a_page_of_another_origin_is_refused(site: Site, owner: Owner) -> None:
    await owner.start()
    await owner.write(b"secret\n")
    await owner.finish()
    assert (await refusal(site, f"{owner.path}/ws/", Origin="http://evil.example")).code == 403
    same = await watch(site, f"{owner.path}/ws/", Origin=site.url("", "http"))
    assert same.end == (1000, "done")


async def test_auth_covers_sockets_and_pages(tmp_path: Path) -> None:
    """Regression 37."""
    async with serve(tmp_path, basic_auth_user="me", basic_auth_password="open") as site:
        owner = site.owner()
        await owner.start()
        await owner.finish()
        assert (await refusal(site, f"{owner.path}/ws/")).code == 401
        assert (await refusal(site, f"/tasks/x/jobs/{uuid.uuid4()}/ws/")).code == 401
        answer = await AsyncHTTPClient().fetch(
            site.url(f"{owner.path}/stream/", "http"), raise_error=False
        )
        assert answer.code == 401
        word = "Basic " + base64.b64encode(b"me:open").decode()
        viewer = await watch(site, f"{owner.path}/ws/", Authorization=word)
        assert viewer.end == (1000, "done")


async def test_a_get_without_upgrade_says_what_this_is(site: Site, owner: Owner) -> None:
    await owner.start()
    answer = await AsyncHTTPClient().fetch(site.url(f"{owner.path}/ws/", "http"), raise_error=False)
    assert answer.code == 426
    assert json.loads(answer.body)["status"] == 426


async def test_too_many_sockets_is_503(site: Site, owner: Owner) -> None:
    await owner.start()
    # One address has at most half of them.
    site.services.sockets.limit = 4
    viewers = [await Viewer.connect(site, f"{owner.path}/ws/") for _ in range(2)]
    error = await refusal(site, f"{owner.path}/ws/")
    assert error.code == 503
    assert error.response is not None
    assert error.response.headers["Retry-After"]
    viewers.pop().connection.close()
    await eventually(lambda: len(site.services.sockets) == 1)
    viewers.append(await Viewer.connect(site, f"{owner.path}/ws/"))
    assert len(viewers) == 2


class FakeSocket:
    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.told = False

    def shut_down(self) -> None:
        self.told = True

    def cut_off(self) -> None:
        raise AssertionError


async def test_the_next_viewer_gets_a_place_of_who_has_most(site: Site) -> None:
    sockets = Sockets(site.services.sockets.feed, limit=20)
    opened = []
    for peer in [*"a" * 12, *"b" * 12, "c"]:
        if sockets.admits(peer):
            opened.append(FakeSocket(peer))
            sockets.add(opened[-1])
    assert [one.peer for one in opened] == [*"a" * 10, *"b" * 10, "c"]
    assert [one.told for one in opened].index(True) == 0
    # Nobody leaves for one who has as many, and not many leave at a time.
    assert not sockets.admits("b")
    assert sockets.admits("d")
    sockets.add(FakeSocket("d"))
    assert not sockets.admits("e")
    sockets.discard(opened[0])
    assert sockets.admits("e")


HANDSHAKE = (
    "GET {path}/ws/ HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@asynccontextmanager
async def handshaken(
    site: Site, owner: Owner
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection whose next bytes are frames."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=2**16)
    try:
        async with asyncio.timeout(TIMEOUT):
            writer.write(HANDSHAKE.format(path=owner.path).encode())
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            yield reader, writer
    finally:
        writer.transport.abort()


async def test_an_unmasked_frame_ends_the_connection(site: Site, owner: Owner) -> None:
    """RFC 6455, section 5.1."""
    await owner.start()
    async with handshaken(site, owner) as (reader, writer):
        writer.write(b"\x81\x02hi")
        assert (await reader.read())[2:4] == (1002).to_bytes(2, "big")


async def test_a_flood_of_frames_ends_the_connection(site: Site, owner: Owner) -> None:
    """A viewer has nothing to say; four that said a lot held up everyone for seconds."""
    await owner.start()
    for frame in (b"\x89\x80\0\0\0\0", b"\x8a\x80\0\0\0\0", b"\x81\x80\0\0\0\0"):
        async with handshaken(site, owner) as (reader, writer):
            writer.write(frame * 101)
            assert (1008).to_bytes(2, "big") + b"too many frames" in await reader.read()


async def test_pings_whose_answers_are_not_read_are_not_read_either(
    site: Site, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers piled up in memory; others are served meanwhile."""
    monkeypatch.setattr(websocket, "MAX_FRAMES", 10**9)
    await owner.start()
    ping = b"\x89\xfd\0\0\0\0" + b"x" * 125
    async with handshaken(site, owner) as (_, writer):
        (viewer,) = site.services.sockets._open
        assert isinstance(viewer, websocket.LogSocket)
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while True:
                writer.write(ping * 100)
                await writer.drain()
                sent += 1

        flooding = asyncio.create_task(flood())
        client = AsyncHTTPClient()
        try:
            # It gets no further once both directions are full.
            before = -1
            while before != sent:
                before = sent
                for _ in range(20):
                    assert (await client.fetch(site.url("/healthcheck/", "http"))).code == 200
        finally:
            flooding.cancel()
        assert len(viewer._wire._write_buffer) < 128 * 1024


# -- every spelling -------------------------------------------------------------------------------


@pytest.mark.parametrize("slash", ["", "/"])
async def test_every_spelling(site: Site, slash: str) -> None:
    owner = site.owner("a task, ünd %2F 100%")
    await owner.start()
    await owner.write(b"hello\n")
    await owner.finish()
    assert owner.execution is not None
    task = "a%20task%2C%20%C3%BCnd%20%252F%20100%25"
    job, execution = owner.job_id, owner.execution.id
    for path in (
        f"/tasks/{task}/jobs/{job}/ws",
        f"/task/{task}/jobs/{job}/ws",
        f"/tasks/{task}/job/{job}/executions/{execution}/ws",
        f"/tasks/{task}/jobs/{job}/executions/{execution}/ws",
    ):
        viewer = await watch(site, path + slash)
        assert ("".join(viewer.frames), viewer.end) == ("hello\n", (1000, "done")), path
    client = AsyncHTTPClient()
    for path in (
        f"/tasks/{task}/jobs/{job}/stream",
        f"/task/{task}/jobs/{job}/stream",
        f"/tasks/{task}/jobs/{job}/stream/executions/{execution}",
        f"/tasks/{task}/jobs/{job}/executions/{execution}/stream",
    ):
        answer = await client.fetch(site.url(path + slash, "http"), follow_redirects=False)
        body = answer.body.decode()
        assert "a task, ünd %2F 100%" in body, path
        assert f"/tasks/{task}/jobs/{job}" in body, path
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


async def test_the_page_of_what_does_not_exist_is_404(site: Site, owner: Owner) -> None:
    await owner.start()
    client = AsyncHTTPClient()
    for path in (
        f"/tasks/watched/jobs/{uuid.uuid4()}/stream/",
        f"{owner.job_path}/executions/{uuid.uuid4()}/stream/",
        "/static/../config.py",
        "/static/none.js",
    ):
        answer = await client.fetch(site.url(path, "http"), raise_error=False)
        assert answer.code == 404, path


async def test_markup_in_a_task_id_is_text(site: Site) -> None:
    owner = site.owner('"><img src=x onerror=alert(1)>')
    await owner.start()
    answer = await AsyncHTTPClient().fetch(
        site.url(
            f"/tasks/%22%3E%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E/jobs/{owner.job_id}/stream/",
            "http",
        )
    )
    assert b"<img src=x" not in answer.body


# -- many, slow and dead viewers ------------------------------------------------------------------


async def test_many_viewers_of_a_large_log(site: Site, owner: Owner) -> None:
    await owner.start()
    line = b"a line of an ordinary length, with a number behind it: %08d\n"
    size = 0
    for start in range(0, 64_000, 4000):
        piece = b"".join(line % number for number in range(start, start + 4000))
        await owner.write(piece)
        size += len(piece)
    before = psutil.Process().memory_info().rss

    async def count() -> tuple[int, tuple[int | None, str | None]]:
        viewer = await Viewer.connect(site, f"{owner.path}/ws/")
        total = 0
        while (frame := await viewer.frame()) is not None:
            total += len(frame)
            viewer.frames.clear()
        return total, viewer.end

    viewers = [asyncio.create_task(count()) for _ in range(60)]
    await owner.write(b"last\n")
    await owner.finish()
    results = await asyncio.gather(*viewers)
    assert set(results) == {(size + 5, (1000, "done"))}
    # Clients and server are one process here: this bounds both together.
    assert psutil.Process().memory_info().rss - before < 150 * 1024 * 1024


async def raw_viewer(site: Site, path: str) -> socket.socket:
    """A client that shakes hands and then reads nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", site.port))
    await loop.sock_sendall(
        client,
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode(),
    )
    return client


async def test_one_who_does_not_read_is_dropped_and_holds_nobody_up(
    site: Site, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "STALL_SECONDS", 0.5)
    await owner.start()
    for _ in range(32):
        await owner.write(b"x" * 256 * 1024)
    with await raw_viewer(site, f"{owner.path}/ws/"):
        reading = await Viewer.connect(site, f"{owner.path}/ws/")
        await owner.finish()
        assert len(await reading.rest()) == 32 * 256 * 1024
        assert reading.end == (1000, "done")
        await eventually(lambda: len(site.services.sockets) == 0)


async def test_one_who_says_too_much_is_dropped(site: Site, owner: Owner) -> None:
    await owner.start()
    viewer = await Viewer.connect(site, f"{owner.path}/ws/")
    await viewer.connection.write_message("hello")
    await owner.write(b"still here\n")
    await viewer.until("still here\n")
    await viewer.connection.write_message("x" * 100_000)
    await viewer.rest()
    assert viewer.end[1] != "done"


async def test_a_viewer_who_leaves_leaves_nothing_behind(site: Site, owner: Owner) -> None:
    execution = await owner.start()
    viewer = await Viewer.connect(site, f"{owner.path}/ws/")
    await owner.write(b"x\n")
    await viewer.until("x\n")
    viewer.connection.close()
    sockets = site.services.sockets
    await eventually(lambda: len(sockets) == 0 and not sockets.feed.tasks)
    assert not [key for _, key in site.services.bus._subscribers if key == execution.id]
