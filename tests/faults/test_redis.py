"""Redis refuses what it is asked: it is full, or has another password."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.cluster.instances import Cluster, database_url
from tests.load import Load
from tests.scoreboard import Scoreboard
from tests.services import MongoServer, RedisServer, missing

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


@pytest.fixture
def redis_own(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own."""
    if shutil.which("redis-server") is None:
        missing("redis-server", "not on the path")
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.mark.parametrize(
    ("option", "value", "what"),
    [("maxmemory", "1", "Redis is full"), ("requirepass", "other", "Redis has another password")],
)
def test_redis_refuses(
    option: str,
    value: str,
    what: str,
    tmp_path: Path,
    mongo_server: MongoServer,
    redis_own: RedisServer,
    scoreboard: Scoreboard,
) -> None:
    url = database_url(mongo_server, tmp_path)
    seconds = scoreboard.scaled(60, least=6)
    with (
        redis.Redis.from_url(redis_own.url) as client,
        Cluster(tmp_path, url, redis_own.url) as cluster,
    ):
        load = Load(cluster, scoreboard.scaled(200, least=20), settle_seconds=120)
        with load.running() as report:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set(option, value)
            # What is connected would not be asked for the password again.
            client.client_kill_filter(_type="normal", skipme=True)
            client.client_kill_filter(_type="pubsub", skipme=True)
            time.sleep(seconds)
            client.config_set(option, "0" if option == "maxmemory" else "")
            cluster.await_recovery(report)
        scoreboard.take(report, what, "cluster", f"for {seconds} s, {report.refused} times 503")
