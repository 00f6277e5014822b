"""Several instances: killed, frozen, and each other's stops and logs."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from tests.cluster.instances import Cluster, Load, database_url
from tests.fastlane_server import wait_for
from tests.services import MongoServer, RedisServer

pytestmark = pytest.mark.xdist_group("cluster")


@pytest.fixture
def cluster(
    tmp_path: Path, mongo_server: MongoServer, redis_server: RedisServer
) -> Iterator[Cluster]:
    url = database_url(mongo_server, tmp_path)
    with Cluster(tmp_path, url, redis_server.url) as cluster:
        yield cluster
    with MongoClient[dict[str, Any]](url) as client:
        client.drop_database(client.get_default_database())


def kill_at_random(cluster: Cluster, jobs: int, every_seconds: float) -> None:
    load = Load(cluster, jobs, pause=0.3, every_seconds=0.2)
    kills = 0
    adoptions = []
    with load.running() as report:
        while load.under_way:
            time.sleep(every_seconds)
            victim = cluster.chance.choice(cluster.instances)
            pid = victim.pid
            victim.kill()
            adoptions.append(threading.Thread(target=cluster.await_adoption, args=(report, pid)))
            adoptions[-1].start()
            victim.start()
            kills += 1
        for adoption in adoptions:
            adoption.join()
    report.show(f"kill -9 of a random instance every {every_seconds:g} s, {kills} times")
    report.check()
    assert len(report.recoveries) == kills
    assert max(report.recoveries) < 15


@pytest.mark.timeout(240)
def test_killed_at_random(cluster: Cluster) -> None:
    kill_at_random(cluster, 20, 1.0)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_killed_at_random_for_long(cluster: Cluster) -> None:
    kill_at_random(cluster, 300, 3.0)


@pytest.mark.timeout(240)
def test_a_frozen_owner_is_fenced_off(
    tmp_path: Path, mongo_server: MongoServer, redis_server: RedisServer
) -> None:
    """REGRESSIONS 14: SIGSTOP for three leases; what it then writes is refused."""
    url = database_url(mongo_server, tmp_path)
    with Cluster(tmp_path, url, redis_server.url, LEASE_SECONDS="4") as cluster:
        load = Load(cluster, 12, pause=0.5)
        with load.running():
            wait_for(cluster.starts, "a first start")
            frozen = cluster.instances[0]
            os.kill(frozen.pid, signal.SIGSTOP)
            try:
                time.sleep(12)
            finally:
                os.kill(frozen.pid, signal.SIGCONT)
        load.report.show("an owner frozen for three leases")
        load.report.check()


def test_each_others_stops_and_logs(cluster: Cluster) -> None:
    first, second, third = cluster.instances
    answer = first.submit(
        "long", image="none:1", command=["sh", "-c", "while :; do echo tick; sleep 0.2; done"]
    )
    path = answer["jobUrl"]
    wait_for(lambda: first.executions(path)[0]["status"] == "running", "the run")
    url = "/" + first.executions(path)[0]["url"].split("/", 3)[3]
    for instance in cluster.instances:
        wait_for(lambda: b"tick" in instance.request("GET", f"{url}stdout/")[1], "its log")  # noqa: B023
    began = time.monotonic()
    third.request("POST", f"{url}stop/")
    (ended,) = second.await_end(path)
    assert ended["status"] == "failed"
    assert time.monotonic() - began < 4


def test_max_running_holds_over_instances(
    tmp_path: Path, mongo_server: MongoServer, redis_server: RedisServer
) -> None:
    url = database_url(mongo_server, tmp_path)
    with Cluster(tmp_path, url, redis_server.url, MAX_RUNNING="1") as cluster:
        clashes = tmp_path / "clashes"
        script = f"mkdir {tmp_path}/one || echo x >> {clashes}; sleep 0.1; rmdir {tmp_path}/one"
        jobs = [
            instance.submit(f"one-{n}", image="none:1", command=["sh", "-c", script])["jobUrl"]
            for n, instance in enumerate(cluster.instances * 4)
        ]
        for job in jobs:
            (ended,) = cluster.instances[0].await_end(job)
            assert ended["status"] == "done"
        assert not clashes.exists()
