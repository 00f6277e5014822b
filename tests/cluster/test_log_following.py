"""A log that is followed while its owner is killed and another instance adopts the run."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.cluster.instances import Cluster, Instance, Report, database_url
from tests.eventually import wait_for
from tests.services import MongoServer, RedisServer

# 0.1 s each, and a lease is 3 s.
LINES = 130
SCRIPT = f"""
i=1
while [ $i -le {LINES} ]; do
    echo line $i
    if [ $((i % 3)) = 0 ]; then printf 'err %s ' $i >&2; fi
    sleep 0.1
    i=$((i + 1))
done
exit 7
"""
# Bounds one request of a follower; a server that is killed may leave it waiting.
REQUEST_SECONDS = 20.0
FOLLOW_SECONDS = 90.0


@pytest.fixture
def cluster(
    tmp_path: Path, mongo_server: MongoServer, redis_server: RedisServer
) -> Iterator[Cluster]:
    url = database_url(mongo_server, tmp_path)
    with Cluster(tmp_path, url, redis_server.url, LEASE_SECONDS="3") as cluster:
        yield cluster


class Follower:
    """Reads records from any instance, and goes on with another one when that breaks."""

    def __init__(self, cluster: Cluster, path: str) -> None:
        self.cluster = cluster
        self.path = path
        self.records: list[dict[str, Any]] = []
        self.end: dict[str, Any] | None = None
        self.breaks = 0

    def take(self, record: dict[str, Any]) -> None:
        if "end" in record:
            self.end = record
        else:
            self.records.append(record)

    @property
    def last(self) -> int:
        return self.records[-1]["seq"] if self.records else 0

    async def follow(self) -> None:
        async with asyncio.timeout(FOLLOW_SECONDS), aiohttp.ClientSession() as client:
            while self.end is None:
                instance: Instance = self.cluster.chance.choice(self.cluster.instances)
                try:
                    async with asyncio.timeout(REQUEST_SECONDS):
                        await self.once(client, f"{instance.url}{self.path}")
                except (aiohttp.ClientError, OSError, TimeoutError):
                    self.breaks += 1
                    await asyncio.sleep(0.1)

    async def once(self, client: aiohttp.ClientSession, url: str) -> None:
        raise NotImplementedError


class Lines(Follower):
    """``format=json``, a request at a time."""

    async def once(self, client: aiohttp.ClientSession, url: str) -> None:
        query = {"format": "json", "after": str(self.last), "wait": "5"}
        async with client.get(f"{url}logs/", params=query) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                if line.endswith(b"\n"):
                    self.take(json.loads(line))


class Events(Follower):
    """Server-sent events."""

    async def once(self, client: aiohttp.ClientSession, url: str) -> None:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(self.last)}
        async with client.get(f"{url}logs/", headers=headers) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                if line.startswith(b"data: ") and line.endswith(b"\n"):
                    self.take(json.loads(line[6:]))


class Socket(Follower):
    """The WebSocket."""

    async def once(self, client: aiohttp.ClientSession, url: str) -> None:
        query = {"format": "json", "after": str(self.last)}
        async with client.ws_connect(f"{url}ws/", params=query) as socket:
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    self.take(json.loads(message.data))


@pytest.mark.timeout(180)
async def test_no_gap_and_no_repeat_while_owners_are_killed(cluster: Cluster) -> None:
    assert shutil.which("curl") is not None
    submitted = json.loads(
        cluster.request("POST", "/tasks/follow/", cluster.shell("follow", SCRIPT))[1]
    )
    path = f"/{submitted['executionUrl'].split('/', 3)[3]}"
    wait_for(lambda: cluster.text(f"{path}stdout/"), "the first line")
    followers: Sequence[Follower] = [kind(cluster, path) for kind in (Lines, Events, Socket)]
    following = [asyncio.create_task(one.follow()) for one in followers]
    curls = {
        one: await asyncio.create_subprocess_exec(
            "curl", "-sN", f"{one.url}{path}logs/?follow=true", stdout=asyncio.subprocess.PIPE
        )
        for one in cluster.instances
    }
    await asyncio.sleep(1)
    owner = await asyncio.to_thread(wait_for, cluster.an_owner, "an owner")
    pid = owner.pid
    await asyncio.to_thread(owner.kill)
    broken, _ = await curls[owner].communicate()
    # A partial file, or a reset connection.
    assert curls.pop(owner).returncode in {18, 56}
    await asyncio.to_thread(owner.start)
    await asyncio.to_thread(cluster.await_adoption, Report(), pid)
    await asyncio.gather(*following)
    whole = [json.loads(line) for line in cluster.text(f"{path}logs/?format=json").splitlines()]
    assert whole.pop() == followers[0].end
    for one in followers:
        assert one.records == whole
        assert one.end == {"end": True, "status": "failed", "exitCode": 7, "reason": "exit-code"}
    assert [record["seq"] for record in whole] == list(range(1, len(whole) + 1))
    stored = "".join(one["text"] for one in whole).encode()
    assert stored.startswith(broken)
    assert b"line 1\n" in broken
    stdout = "".join(one["text"] for one in whole if one["stream"] == "stdout")
    assert stdout == "".join(f"line {number}\n" for number in range(1, LINES + 1))
    for curl in curls.values():
        text, _ = await curl.communicate()
        assert (curl.returncode, text) == (0, stored)
    assert cluster.starts() == ["follow"]
