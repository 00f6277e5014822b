"""The log routes from any point: follow, lines of JSON, server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from fastlane.api.streaming.encoded import time_text
from fastlane.model import Stream
from tests.api.conftest import MakeSite
from tests.api.http_site import PATIENCE, Site

SSE = {"Accept": "text/event-stream"}


def lines_of(body: bytes) -> list[dict[str, Any]]:
    assert body == b"" or body.endswith(b"\n")
    return [json.loads(line) for line in body.splitlines()]


def events_of(body: bytes) -> list[dict[str, str]]:
    """The fields of each server-sent event (without comments)."""
    events = []
    for block in body.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line[0] != ":")
        events += [fields] if fields else []
    return events


class Opened:
    """An answer that is read while it is sent."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.body = b""

    async def until(self, end: bytes) -> bytes:
        """Read until the body ends with *end*."""
        async with asyncio.timeout(PATIENCE):
            while not self.body.endswith(end):
                part = await self.response.content.readany()
                assert part, self.body
                self.body += part
        return self.body

    async def rest(self) -> bytes:
        """Read to the orderly end."""
        async with asyncio.timeout(PATIENCE):
            self.body += await self.response.content.read()
        return self.body

    async def breaks(self) -> None:
        """Read until it is cut off, which must be visible."""
        with pytest.raises(aiohttp.ClientPayloadError):
            await self.rest()


@asynccontextmanager
async def opened(site: Site, path: str, **headers: str) -> AsyncIterator[Opened]:
    sent = {"Accept-Encoding": "identity", **headers}
    async with (
        aiohttp.ClientSession(auto_decompress=False) as client,
        client.get(site.base + path, headers=sent) as response,
    ):
        yield Opened(response)


END = {"end": True, "status": "failed", "exitCode": 7, "reason": "exit-code"}


# -- follow ---------------------------------------------------------------------------------------


async def test_follow_sends_both_streams_in_their_order_until_the_end(still: Site) -> None:
    owner = still.owner()
    await owner.start()
    await owner.write((Stream.FASTLANE, b"[fastlane: pulling busy]\n"))
    await owner.write(b"one\n", (Stream.STDERR, b"\xff"))
    async with (
        opened(still, f"{owner.path}/logs/?follow=true") as both,
        opened(still, f"{owner.path}/stdout/?follow=true") as stdout,
        opened(still, f"{owner.path}/stderr/?follow=true") as stderr,
    ):
        assert both.response.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert both.response.headers["Fastlane-Status"] == "running"
        assert both.response.headers["Fastlane-Execution-Id"] == owner.execution.id  # type: ignore
        await both.until(b"one\n\xff")
        await owner.write(b"two\n", (Stream.FASTLANE, b"[note]\n"), (Stream.STDERR, b"x"))
        await both.until(b"two\n[note]\nx")
        await owner.finish(7)
        assert await both.rest() == b"one\n\xfftwo\n[note]\nx"
        assert await stdout.rest() == b"one\ntwo\n[note]\n"
        assert await stderr.rest() == b"\xff[note]\nx"


async def test_follow_waits_for_the_execution_to_start(still: Site) -> None:
    owner = still.owner()
    await owner.submit()
    async with opened(still, f"{owner.path}/logs/?follow=true") as follower:
        assert follower.response.headers["Fastlane-Status"] == "enqueued"
        owner.execution = await owner.lifecycle.started(await owner.claim(), "run-1")
        await owner.write(b"hello")
        await follower.until(b"hello")
        await owner.finish()
        assert await follower.rest() == b"hello"


async def test_follow_of_a_job_goes_on_with_its_retries(still: Site) -> None:
    owner = still.owner()
    await owner.start(retries=1, retry_after=0.01)
    await owner.write(b"first\n")
    async with (
        opened(still, f"{owner.job_path}/logs/?follow=true") as of_job,
        opened(still, f"{owner.path}/logs/?follow=true") as of_execution,
    ):
        await of_job.until(b"first\n")
        await owner.finish(1)
        assert await of_execution.rest() == b"first\n"
        await asyncio.sleep(0.02)
        await owner.start_retry()
        await owner.write(b"second\n")
        await of_job.until(b"second\n")
        await owner.finish(0)
        assert await of_job.rest() == b"first\nsecond\n"


async def test_follow_of_a_job_that_has_not_run(still: Site) -> None:
    submitted = await still.submit(startIn="5m")
    answer = await still.get(f"{submitted['jobUrl']}logs/?follow=true")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Fastlane-Status"] == "scheduled"


@pytest.mark.parametrize("form", ["follow=true", "follow=true&format=json", "sse"])
async def test_a_shutdown_breaks_followers_off_visibly(make_site: MakeSite, form: str) -> None:
    site = await make_site(still=True)
    owner = site.owner()
    await owner.start()
    await owner.write(b"so far\n")
    headers = SSE if form == "sse" else {}
    query = "" if form == "sse" else f"?{form}"
    async with opened(site, f"{owner.path}/logs/{query}", **headers) as follower:
        await follower.until({"follow=true": b"so far\n", "sse": b"\n\n"}.get(form, b"}\n"))
        began = asyncio.get_running_loop().time()
        await site.close()
        assert asyncio.get_running_loop().time() - began < 4
        await follower.breaks()


async def test_a_follower_who_leaves_is_forgotten(still: Site) -> None:
    owner = still.owner()
    await owner.start()
    async with opened(still, f"{owner.path}/logs/?follow=true"):
        assert len(still.server.services.sockets) == 1
    async with asyncio.timeout(PATIENCE):
        await still.server.services.sockets._empty.wait()
    assert not still.server.services.sockets.feed._watches


async def test_followers_are_bounded(still: Site) -> None:
    owner = still.owner()
    await owner.start()
    still.server.services.sockets.limit = 2
    async with opened(still, f"{owner.path}/logs/?follow=true"):
        for query in ("follow=true", "format=json&wait=5", "format=json&follow=true"):
            answer = await still.get(f"{owner.path}/logs/?{query}")
            assert answer.problem(503)["detail"].startswith("The server, or your address, has too")
            assert answer.headers["Retry-After"] == "5"
        # Who does not wait has no need of a place.
        assert (await still.get(f"{owner.path}/logs/?format=json")).status == 200


# -- records --------------------------------------------------------------------------------------


async def test_records_from_any_point(still: Site) -> None:
    owner = still.owner()
    await owner.start()
    written = await owner.write(
        (Stream.FASTLANE, b"[pull]\n"), b"a\xff", (Stream.STDERR, b"err\n"), b"b\nc"
    )
    records = [
        {
            "seq": record.seq,
            "ts": time_text(record.at),
            "stream": record.stream,
            "text": record.data.decode(errors="replace"),
        }
        for record in written
    ]
    path = f"{owner.path}/logs/?format=json"
    answer = await still.get(path)
    assert answer.headers["Content-Type"] == "application/x-ndjson; charset=utf-8"
    assert answer.headers["Fastlane-Status"] == "running"
    assert [bare(one) for one in lines_of(answer.body)] == records
    await owner.finish(7)
    for after in range(6):
        for limit in (1, 2, 3, 10_000):
            found = lines_of((await still.get(f"{path}&after={after}&limit={limit}")).body)
            wanted = records[after : after + limit]
            # The end is not a record: it comes once there is nothing more.
            wanted += [END] if len(wanted) < limit else []
            assert [bare(one) for one in found] == wanted
    of_stderr = lines_of((await still.get(f"{owner.path}/stderr/?format=json&after=1")).body)
    assert [bare(one) for one in of_stderr] == [records[2], END]


def bare(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in ("line", "nextLine")}


async def test_wait_for_the_first_record_and_for_the_end(still: Site) -> None:
    owner = still.owner()
    await owner.start()
    path = f"{owner.path}/logs/?format=json&wait=30&after="
    waiting = asyncio.create_task(still.get(f"{path}0"))
    await viewers(still, 1)
    await owner.write(b"one\n")
    (record,) = lines_of((await waiting).body)
    assert record["text"] == "one\n"
    waiting = asyncio.create_task(still.get(f"{path}1"))
    await viewers(still, 1)
    await owner.finish(7)
    answer = await waiting
    assert lines_of(answer.body) == [END]
    assert answer.headers["Fastlane-Status"] == "failed"
    assert answer.headers["Fastlane-Exit-Code"] == "7"


async def viewers(site: Site, count: int) -> None:
    from tests.eventually import eventually

    await eventually(lambda: len(site.server.services.sockets) == count, f"{count} viewers")


async def test_a_wait_that_is_over_is_an_empty_answer(still: Site) -> None:
    owner = still.owner()
    await owner.start()
    answer = await still.get(f"{owner.path}/logs/?format=json&wait=1")
    assert (answer.status, answer.body) == (200, b"")


async def test_a_shutdown_ends_a_wait_in_order(make_site: MakeSite) -> None:
    site = await make_site(still=True)
    owner = site.owner()
    await owner.start()
    waiting = asyncio.create_task(site.get(f"{owner.path}/logs/?format=json&wait=30"))
    await viewers(site, 1)
    await site.server.stop()
    answer = await waiting
    assert (answer.status, answer.body) == (200, b"")


async def test_who_waits_and_leaves_is_forgotten(still: Site) -> None:
    owner = still.owner()
    await owner.start()
    waiting = asyncio.create_task(still.get(f"{owner.path}/logs/?format=json&wait=30"))
    await viewers(still, 1)
    waiting.cancel()
    await viewers(still, 0)


# -- server-sent events ---------------------------------------------------------------------------


@pytest.mark.parametrize("of_job", [False, True])
async def test_server_sent_events(still: Site, of_job: bool) -> None:
    owner = still.owner()
    await owner.start()
    path = f"{owner.job_path if of_job else owner.path}/logs/"
    assert owner.execution is not None
    prefix = f"{owner.execution.id}:" if of_job else ""
    await owner.write(b"one\n", b"two\nthree\n")
    async with opened(still, path, **SSE) as events:
        assert events.response.headers["Content-Type"] == "text/event-stream"
        await events.until(b"\n\n")
        await owner.write((Stream.STDERR, b"four"))
        await owner.finish(7)
        found = events_of(await events.rest())
    assert [event["id"] for event in found] == [f"{prefix}{seq}" for seq in (1, 2, 3, 4)]
    texts = [json.loads(event["data"])["text"] for event in found[:3]]
    assert texts == ["one\n", "two\nthree\n", "four"]
    assert (found[3]["event"], json.loads(found[3]["data"])) == ("end", END)

    again = await still.get(path, Accept="text/event-stream", Last_Event_ID=f"{prefix}2")
    assert [event["id"] for event in events_of(again.body)] == [f"{prefix}3", f"{prefix}4"]
    again = await still.get(path, Accept="text/event-stream", Last_Event_ID=f"{prefix}3")
    assert [event["event"] for event in events_of(again.body)] == ["end"]
    again = await still.get(path, Accept="text/event-stream", Last_Event_ID=f"{prefix}4")
    assert (again.status, again.body) == (204, b"")


async def test_events_of_a_job_begin_anew_with_another_execution(still: Site) -> None:
    owner = still.owner()
    await owner.start(retries=1, retry_after=0.01)
    await owner.write(b"first\n")
    assert owner.execution is not None
    before = f"{owner.execution.id}:2"
    await owner.finish(1)
    await asyncio.sleep(0.02)
    await owner.start_retry()
    await owner.write(b"second\n")
    await owner.finish(0)
    answer = await still.get(
        f"{owner.job_path}/logs/", Accept="text/event-stream", Last_Event_ID=before
    )
    assert [json.loads(one["data"]).get("text") for one in events_of(answer.body)] == [
        "second\n",
        None,
    ]


@pytest.mark.parametrize("query", ["after=1", "limit=5", "wait=1"])
async def test_what_needs_json_says_so(still: Site, query: str) -> None:
    owner = still.owner()
    await owner.start()
    answer = await still.get(f"{owner.path}/logs/?{query}")
    assert 'requires "format=json"' in answer.problem(400)["detail"]
