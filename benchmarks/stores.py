"""The stores of each setup: an SQLite file, or a MongoDB and a Redis for the cluster storage."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.measure import Setup
from fastlane.storage.base import Storage
from fastlane.storage.mongo import ClusterStorage
from fastlane.storage.sqlite import SqliteStorage
from scripts.services import prepare_mongod
from tests.services import MongoServer, RedisServer


class SetupMissing(Exception):
    """The setup cannot be had here; the message says why."""


@asynccontextmanager
async def embedded() -> AsyncIterator[Setup]:
    """Each server's own SQLite file."""
    yield Setup("sqlite")


@asynccontextmanager
async def cluster() -> AsyncIterator[Setup]:
    """A mongod and a redis-server of its own, both ended with the context.

    :raises SetupMissing: one of them is not installed, or does not start.
    """
    if shutil.which("redis-server") is None:
        raise SetupMissing("redis-server is not on the path")
    why = await asyncio.to_thread(prepare_mongod)
    if why is not None:
        raise SetupMissing(f"mongod: {why}")
    with tempfile.TemporaryDirectory(prefix="fastlane-bench-") as directory:
        mongo = MongoServer(Path(directory) / "mongo")
        redis = RedisServer(Path(directory) / "redis")
        try:
            try:
                await asyncio.to_thread(mongo.start)
                await asyncio.to_thread(redis.start)
            except pytest.fail.Exception as error:
                raise SetupMissing(str(error)) from None
            numbers = itertools.count(1)
            yield Setup(
                "cluster",
                lambda: {
                    "MONGODB_URL": f"{mongo.url}-{next(numbers)}",
                    "REDIS_URL": redis.url,
                },
                shared=True,
            )
        finally:
            await asyncio.to_thread(redis.stop)
            await asyncio.to_thread(mongo.stop)


# Every way to run the server; another storage is one more line here.
SETUPS: tuple[tuple[str, Callable[[], AbstractAsyncContextManager[Setup]]], ...] = (
    ("sqlite", embedded),
    ("cluster", cluster),
)


def storage_of(options: Mapping[str, str]) -> Storage:
    """The storage that a server with *options* has, to be opened while no server has it."""
    if "MONGODB_URL" in options:
        return ClusterStorage(options["MONGODB_URL"])
    return SqliteStorage(Path(options["DATA_DIR"]))
