"""Cron over three instances whose clocks differ: one execution for each tick."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from tests.cluster.instances import Cluster, database_url
from tests.services import MongoServer, RedisServer

pytestmark = pytest.mark.xdist_group("cluster")


def run_cron(
    tmp_path: Path, mongo: MongoServer, redis: RedisServer, *, jobs: int, minutes: float, kills: int
) -> None:
    url = database_url(mongo, tmp_path)
    with Cluster(tmp_path, url, redis.url, MAX_RUNNING="8") as cluster:
        # The middle one is right, as the database is.
        for instance, skew in zip(cluster.instances, ("-5", "0", "5"), strict=True):
            instance.options["CLOCK_SKEW"] = skew
            instance.kill()
            instance.start()
        names = [f"cron-{number}" for number in range(jobs)]
        urls = {
            name: cluster.instances[0].submit(
                name,
                image="none:1",
                command=["sh", "-c", f"echo {name} >> {cluster.witness}"],
                cron="* * * * *",
            )["jobUrl"]
            for name in names
        }
        # Until a minute has passed for the slowest clock as well.
        until = time.time() + minutes * 60
        while time.time() < until:
            time.sleep(max((until - time.time()) / max(kills, 1) / 2, 0.1))
            if kills > 0 and time.time() < until:
                victim = cluster.chance.choice(cluster.instances)
                victim.kill()
                victim.start()
                kills -= 1
        for job in urls.values():
            cluster.request("POST", "/" + job.split("/", 3)[3] + "stop/")
        time.sleep(1)
        starts = Counter(cluster.starts())
        total = twice = 0
        for name, job in urls.items():
            executions = cluster.insist("/" + job.split("/", 3)[3])["job"]["executions"]
            ticks = (
                Counter(
                    execution["tick"] for execution in executions if execution["status"] == "done"
                )
                if executions and "tick" in executions[0]
                else Counter()
            )
            twice += sum(count - 1 for count in ticks.values())
            total += len(executions)
            done = sum(execution["status"] == "done" for execution in executions)
            assert starts[name] <= len(executions)
            assert done <= starts[name]
            assert len(executions) >= int(minutes), name
            assert len(executions) <= int(minutes) + 2, name
        print(f"\ncron: {jobs} jobs, {total} ticks, run twice {twice}")
        assert twice == 0


@pytest.mark.timeout(240)
def test_ticks_with_skew(
    tmp_path: Path, mongo_server: MongoServer, redis_server: RedisServer
) -> None:
    run_cron(tmp_path, mongo_server, redis_server, jobs=10, minutes=1.2, kills=2)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_ticks_with_skew_and_kills(
    tmp_path: Path, mongo_server: MongoServer, redis_server: RedisServer
) -> None:
    run_cron(tmp_path, mongo_server, redis_server, jobs=50, minutes=5.2, kills=20)
