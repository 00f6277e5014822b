"""Several instances: killed, frozen, and each other's stops and logs."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pymongo import MongoClient

from tests.cluster.instances import Cluster, DockerCluster, Instance, Load, database_url
from tests.eventually import wait_for
from tests.fastlane_server import ROOT, FastlaneServer
from tests.scoreboard import Scoreboard
from tests.services import MongoServer, RedisServer, frozen


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, mongo_server: MongoServer, redis_server: RedisServer
) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("cluster")
    url = database_url(mongo_server, directory)
    with Cluster(directory, url, redis_server.url) as cluster:
        yield cluster
    with MongoClient[dict[str, Any]](url) as client:
        client.drop_database(client.get_default_database())


def kill_at_random(
    cluster: Cluster, jobs: int, every_seconds: float, scoreboard: Scoreboard, what: str
) -> None:
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
    scoreboard.take(report, what, "cluster", f"{kills} times")
    assert len(report.recoveries) == kills
    assert max(report.recoveries) < 15


@pytest.mark.timeout(240)
def test_killed_at_random(cluster: Cluster, scoreboard: Scoreboard) -> None:
    kill_at_random(cluster, 20, 1.0, scoreboard, "processes, kill -9 of a random instance")


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_killed_at_random_for_long(cluster: Cluster, scoreboard: Scoreboard) -> None:
    what = "processes, kill -9 of a random instance"
    kill_at_random(cluster, scoreboard.scaled(300), 3.0, scoreboard, what)


@pytest.mark.parametrize(
    ("jobs", "every_seconds"), [(15, 1.0), pytest.param(150, 3.0, marks=pytest.mark.faults)]
)
@pytest.mark.timeout(1200)
def test_containers_outlive_instances_killed_at_random(
    jobs: int,
    every_seconds: float,
    tmp_path: Path,
    mongo_server: MongoServer,
    redis_server: RedisServer,
    scoreboard: Scoreboard,
) -> None:
    """Containers go on without their owner, and are found again by whoever adopts them."""
    url = database_url(mongo_server, tmp_path)
    with DockerCluster(tmp_path, url, redis_server.url) as cluster:
        jobs = jobs if jobs < 100 else scoreboard.scaled(jobs)
        what = "containers, kill -9 of a random instance"
        kill_at_random(cluster, jobs, every_seconds, scoreboard, what)


@pytest.mark.timeout(240)
def test_a_frozen_owner_is_fenced_off(
    tmp_path: Path, mongo_server: MongoServer, redis_server: RedisServer, scoreboard: Scoreboard
) -> None:
    """REGRESSIONS 14: SIGSTOP until its executions are adopted; what it then writes is refused."""
    url = database_url(mongo_server, tmp_path)
    with Cluster(tmp_path, url, redis_server.url, LEASE_SECONDS="4") as cluster:
        load = Load(cluster, 12, pause=0.5)
        with load.running():
            wait_for(cluster.starts, "a first start")
            owner = wait_for(cluster.an_owner, "an owner")
            with frozen(owner.pid):
                cluster.await_adoption(load.report, owner.pid)
        scoreboard.take(load.report, "an owner frozen until others adopt its runs", "cluster")
        assert "Another instance owns the execution now" in owner.log_text()


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


def test_one_key_at_the_same_moment_is_one_job(cluster: Cluster) -> None:
    """REGRESSIONS 13: whoever does not know whether it was taken asks somebody else."""
    for number in range(5):
        body = cluster.body(f"key-{number}", pause=0)

        def post(instance: Instance, number: int = number, body: Any = body) -> tuple[int, bytes]:
            return cluster.request(
                "POST",
                f"/tasks/key-{number}/",
                body,
                instance=instance,
                headers={"Idempotency-Key": f"key-{number}"},
            )

        with ThreadPoolExecutor() as together:
            answers = list(together.map(post, cluster.instances * 3))
        assert {status for status, _ in answers} == {200}
        (job,) = {json.loads(body)["jobUrl"].split("/", 3)[3] for _, body in answers}
        cluster.instances[0].await_end(f"/{job}")
        assert cluster.starts().count(f"key-{number}") == 1


def hosts_blocked(instance: FastlaneServer) -> bool:
    return bool(instance.get("/status/")["farms"][0]["blocked"])


def test_a_host_is_drained_by_any_instance(
    tmp_path: Path, mongo_server: MongoServer, redis_server: RedisServer
) -> None:
    """One black-lists the only host: none starts anything until another puts it back."""
    url = database_url(mongo_server, tmp_path)
    with DockerCluster(tmp_path, url, redis_server.url) as cluster:
        first, second, third = cluster.instances
        path = "/docker-executor/blacklist"
        assert cluster.request("POST", path, {"host": cluster.host}, instance=first)[0] == 200
        # No waiting for the news: a claim of any instance sees it by itself.
        jobs = [
            instance.submit(f"drained-{number}", **cluster.body(f"drained-{number}", pause=0))
            for number, instance in enumerate(cluster.instances)
        ]
        for instance in cluster.instances:
            wait_for(partial(hosts_blocked, instance), "the news of the black-listed host", 5)
            for job in jobs:
                (waiting,) = instance.executions(job["jobUrl"])
                assert waiting["status"] == "enqueued"
            (host,) = instance.get("/status/")["hosts"]
            assert host["blacklisted"]
            assert instance.get("/status/")["farms"][0]["blocked"]
        assert cluster.starts() == []
        began = time.monotonic()
        assert cluster.request("DELETE", path, {"host": cluster.host}, instance=third)[0] == 200
        for job in jobs:
            (ended,) = second.await_end(job["jobUrl"])
            assert ended["exitCode"] == 7
        # It was news, and not the period of a loop.
        assert time.monotonic() - began < 5


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


def test_web_and_workers(
    tmp_path: Path, mongo_server: MongoServer, redis_server: RedisServer
) -> None:
    """One serves and runs nothing, another runs and listens nowhere."""
    url = database_url(mongo_server, tmp_path)
    with Cluster(tmp_path, url, redis_server.url, count=1, ROLES="api") as cluster:
        (web,) = cluster.instances
        job = web.submit("split", **cluster.body("split", pause=0))["jobUrl"]
        worker = Instance(
            tmp_path / "worker", **{**web.options, "ROLES": "scheduler,dispatcher,monitor,notifier"}
        )
        time.sleep(1)
        assert web.executions(job)[0]["status"] == "enqueued"
        worker.port = web.port  # its ping asks the one that listens
        with worker:
            (ended,) = web.await_end(job)
            assert ended["exitCode"] == 7
            assert "Server started" in worker.log_text()
            for instance in (web, worker):
                wait_for(partial(is_healthy, instance), "a healthy instance")
        no_worker = Instance(tmp_path / "none", **{**worker.options, "DATA_DIR": str(tmp_path)})
        assert not is_healthy(no_worker)


def is_healthy(instance: Instance) -> bool:
    """By ``fastlane healthcheck`` with the instance's own environment, as in its container."""
    checked = subprocess.run(
        [sys.executable, "-m", "fastlane", "healthcheck"],
        cwd=ROOT,
        env=os.environ | instance.options,
    )
    return checked.returncode == 0


async def test_a_log_is_shown_live_by_another_instance(cluster: Cluster) -> None:
    first = cluster.instances[0]
    script = "for i in 1 2 3 4 5 6; do echo line $i; sleep 0.5; done"
    answer = first.submit("live", image="none:1", command=["sh", "-c", script])
    path = answer["jobUrl"]
    wait_for(lambda: first.executions(path)[0]["status"] == "running", "the run")

    async def watch(instance: Instance) -> list[tuple[float, bytes]]:
        url = f"ws://127.0.0.1:{instance.port}/" + path.split("/", 3)[3] + "ws/"
        heard: list[tuple[float, bytes]] = []
        async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
            async for message in socket:
                data = message.data if isinstance(message.data, bytes) else message.data.encode()
                heard.append((time.monotonic(), data))
                if b"EXIT CODE" in data or b'"done"' in data:
                    break
        return heard

    async with asyncio.timeout(30):
        for heard in await asyncio.gather(*(watch(instance) for instance in cluster.instances)):
            text = b"".join(data for _, data in heard)
            for number in range(1, 7):
                assert b"line %d" % number in text
            # Line by line while it ran, and not at its end.
            assert heard[-1][0] - heard[0][0] > 1
