"""The random explorer: short in `make test`, ten minutes in `make faults`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo import MongoClient

from tests.cluster.instances import Cluster, ContainerRuns
from tests.cluster.proxy import Proxy
from tests.faults.explorer import LEASE_SECONDS, Explorer
from tests.faults.receiver import Receiver
from tests.scoreboard import Scoreboard
from tests.services import MongoServer, RedisServer


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.mark.parametrize("seconds", [6, pytest.param(600, marks=pytest.mark.faults)])
@pytest.mark.timeout(1800)
def test_explored(
    seconds: int,
    tmp_path: Path,
    mongo_server: MongoServer,
    redis_server: RedisServer,
    receiver: Receiver,
    scoreboard: Scoreboard,
) -> None:
    seed = scoreboard.seed
    name = tmp_path.name[:60]
    runs = ContainerRuns(tmp_path)
    with (
        Proxy(mongo_server.port, seed=seed) as to_mongo,
        Proxy(redis_server.port, seed=seed) as to_redis,
        Cluster(
            tmp_path,
            f"mongodb://127.0.0.1:{to_mongo.port}/{name}",
            f"redis://127.0.0.1:{to_redis.port}/0",
            runs=runs,
            seed=seed,
            LEASE_SECONDS=str(LEASE_SECONDS),
            WEBHOOKS_ALLOWED_NETWORKS="127.0.0.0/8",
            WEBHOOKS_EXPONENTIAL_BACKOFF_MIN_MS="50",
        ) as cluster,
    ):
        explorer = Explorer(cluster, runs, (to_mongo, to_redis), receiver, seed)
        explorer.explore(seconds if seconds < 60 else scoreboard.scaled(seconds, least=20))
        try:
            explorer.check()
        finally:
            explorer.events.end()
        steps = ", ".join(f"{count} {step}" for step, count in sorted(explorer.done.items()))
        scoreboard.take(explorer.report, "explored at random", "cluster", f"seed {seed}: {steps}")
    with MongoClient[dict[str, object]](mongo_server.url) as client:
        client.drop_database(name)
