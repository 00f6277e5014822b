"""The stores that other tests use: they start, keep what they were given, and end."""

from __future__ import annotations

from pathlib import Path

from pymongo import MongoClient
from redis.asyncio import Redis

from tests.services import MongoServer, RedisServer


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
