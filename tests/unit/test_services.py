"""The servers that other tests stand on: they come up, keep what they were told, and end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pymongo import MongoClient
from redis.asyncio import Redis
from selenium.webdriver import Chrome

from tests.services import MongoServer, RedisServer, missing


async def test_redis_keeps_what_it_was_told_over_a_kill(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        async with Redis.from_url(server.url) as client:
            await client.set("task", "one")
        server.kill()
        server.start()
        async with Redis.from_url(server.url) as client:
            assert await client.get("task") == b"one"


async def test_redis_session_server_answers(redis_server: RedisServer) -> None:
    async with Redis.from_url(redis_server.url) as client:
        assert await client.ping()


def test_mongo_acknowledges_a_majority(mongo_server: MongoServer) -> None:
    with MongoClient[dict[str, str]](mongo_server.url, w="majority", journal=True) as client:
        collection = client.get_database().get_collection("test_services")
        collection.insert_one({"_id": "one", "status": "done"})
        assert collection.find_one({"_id": "one"}) == {"_id": "one", "status": "done"}
        collection.drop()


async def test_chromium_shows_a_page_of_this_machine(chromium: Chrome) -> None:
    writers: list[asyncio.StreamWriter] = []

    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A browser opens connections ahead of need, and says nothing on some of them.
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        body = b"<title>log</title><p>hello"
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n"
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(page, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await asyncio.to_thread(chromium.get, f"http://127.0.0.1:{port}/")
        assert await asyncio.to_thread(lambda: chromium.title) == "log"
        for writer in writers:
            writer.transport.abort()


def test_missing_service_skips_on_a_laptop_and_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="redis-server is not there: gone"):
        missing("redis-server", "gone")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="redis-server is not there: gone"):
        missing("redis-server", "gone")
