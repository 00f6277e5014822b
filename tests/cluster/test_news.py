"""News by Redis: carried, bounded, and taken for everything after an interruption."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis.asyncio

from fastlane.errors import ConfigError, StorageUnavailable
from fastlane.events import Bus
from fastlane.storage.redis import PENDING_TOPICS, News, check_url, sentinel_parts
from tests.services import RedisServer, free_port

CHANNEL = "fastlane:{test}:news"
# ruff: noqa: ASYNC110 (a failure is a state, not an event)

# Bounds the wait for news, in seconds.
NEWS_SECONDS = 15.0


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[tuple[News, Bus]]:
    bus, news = Bus(), News(url, CHANNEL)
    news.carry(bus)
    await news.open()
    with bus.subscribe("first subscription") as ready:
        # Everything is news once the subscription stands.
        assert await ready.wait(NEWS_SECONDS)
    try:
        yield news, bus
    finally:
        await news.close()


@pytest.fixture
def redis_own(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


async def test_topics_reach_the_others(redis_server: RedisServer) -> None:
    async with listening(redis_server.url) as (_, here), listening(redis_server.url) as (_, there):
        with there.subscribe("stop:1") as stop, there.subscribe("other") as other:
            here.publish("stop:1")
            assert await stop.wait(NEWS_SECONDS)
            assert not other.pending


async def test_telling_never_waits_and_is_bounded(redis_own: RedisServer) -> None:
    async with listening(redis_own.url) as (news, here):
        redis_own.kill()
        for number in range(3 * PENDING_TOPICS):
            here.publish(f"log:{number}")
        assert len(news._pending) <= PENDING_TOPICS
        async with asyncio.timeout(NEWS_SECONDS):
            while news.failure is None:
                await asyncio.sleep(0.05)
        redis_own.start()
        async with asyncio.timeout(NEWS_SECONDS):
            while news.failure is not None:
                await asyncio.sleep(0.05)
        async with listening(redis_own.url) as (_, there):
            with there.subscribe("log:1") as log:
                here.publish("log:1")
                assert await log.wait(NEWS_SECONDS)


async def test_a_restart_is_news_of_everything(redis_own: RedisServer) -> None:
    async with listening(redis_own.url) as (_, bus):
        with bus.subscribe("log:1") as log:
            redis_own.kill()
            redis_own.start()
            assert await log.wait(NEWS_SECONDS)


async def test_a_frozen_redis_is_noticed(redis_own: RedisServer) -> None:
    async with listening(redis_own.url) as (news, _):
        os.kill(redis_own.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(NEWS_SECONDS):
                while news.failure is None:
                    await asyncio.sleep(0.05)
            assert await news.check() is not None
        finally:
            os.kill(redis_own.pid, signal.SIGCONT)
        async with asyncio.timeout(NEWS_SECONDS):
            while news.failure is not None:
                await asyncio.sleep(0.05)


async def test_a_redis_without_memory_still_carries_news(redis_own: RedisServer) -> None:
    async with listening(redis_own.url) as (_, here), listening(redis_own.url) as (_, there):
        client = here_client(redis_own)
        await client.config_set("maxmemory", "1")
        await client.aclose()
        with there.subscribe("queue") as queue:
            here.publish("queue")
            assert await queue.wait(NEWS_SECONDS)


def here_client(server: RedisServer) -> redis.asyncio.Redis:
    return redis.asyncio.Redis.from_url(server.url)


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable):
        await News(f"redis://127.0.0.1:{free_port()}/0", CHANNEL).open()


class SocketRedis(RedisServer):
    """On a Unix socket as well."""

    def command(self) -> list[str]:
        return [*super().command(), "--unixsocket", str(self.directory / "s")]


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    with SocketRedis(tmp_path / "r") as server:
        async with listening(f"unix://{server.directory}/s") as (news, _):
            assert await news.check() is None


class Sentinel(RedisServer):
    """Watches *master* under the name ``mymaster``."""

    def __init__(self, directory: Path, master: RedisServer) -> None:
        super().__init__(directory)
        directory.mkdir(parents=True)
        (directory / "sentinel.conf").write_text(
            f"port {self.port}\nbind 127.0.0.1\n"
            f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
        )

    def command(self) -> list[str]:
        return ["redis-server", str(self.directory / "sentinel.conf"), "--sentinel"]


async def test_through_sentinel(tmp_path: Path, redis_own: RedisServer) -> None:
    with Sentinel(tmp_path / "sentinel", redis_own) as sentinel:
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster/0"
        async with listening(url) as (_, here), listening(redis_own.url) as (_, there):
            with there.subscribe("queue") as queue:
                here.publish("queue")
                assert await queue.wait(NEWS_SECONDS)


def test_the_parts_of_a_sentinel_url() -> None:
    parts = sentinel_parts("redis+sentinel://u:p%40@a:1,b/name/3")
    assert parts == ([("a", 1), ("b", 26379)], "name", 3, "u", "p@")
    for wrong in ("redis+sentinel://a:1", "redis+sentinel://a:x/name", "redis+sentinel:///name/0"):
        with pytest.raises(ConfigError):
            check_url(wrong)
    with pytest.raises(ConfigError):
        check_url("http://localhost")
