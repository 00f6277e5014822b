"""Cron over three instances whose clocks differ: one execution for each tick."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from scripts.scoreboard import Row
from tests.cluster.instances import Cluster, database_url
from tests.eventually import wait_for
from tests.fastlane_server import FINAL
from tests.scoreboard import Scoreboard
from tests.services import MongoServer, RedisServer

# How far the clocks of the first and the last instance are off the middle one's.
SKEW_SECONDS = 5.0
# Leaves three instances and the submissions time before the first tick of the fastest clock.
LEAD_SECONDS = 15.0
# Leaves the last tick of the slowest clock time to be run, though its instance be killed.
SETTLE_SECONDS = 5.0


def run_cron(
    tmp_path: Path,
    mongo: MongoServer,
    redis: RedisServer,
    *,
    jobs: int,
    minutes: int,
    kills: int,
    scoreboard: Scoreboard,
    base_seconds: float = 0.0,
) -> None:
    """Cron jobs for every minute until *minutes* of them have begun on every clock.

    :param base_seconds: how far off the middle one of the three clocks is.
    """
    url = database_url(mongo, tmp_path)
    cluster = Cluster(tmp_path, url, redis.url, MAX_RUNNING="8")
    for instance, skew in zip(cluster.instances, (-SKEW_SECONDS, 0.0, SKEW_SECONDS), strict=True):
        instance.options["CLOCK_SKEW"] = str(base_seconds + skew)
    with cluster:
        slowest = cluster.instances[0]
        names = [f"cron-{number}" for number in range(jobs)]
        urls = {
            name: slowest.submit(
                name,
                image="none:1",
                command=cluster.runs.command(name, "true"),
                cron="* * * * *",
            )["jobUrl"]
            for name in names
        }
        ahead_seconds = base_seconds - SKEW_SECONDS
        first = (time.time() + ahead_seconds) // 60 * 60 + 60 - ahead_seconds
        until = first + (minutes - 1) * 60 + SETTLE_SECONDS
        while time.time() < until:
            time.sleep(max((until - time.time()) / max(kills, 1) / 2, 0.1))
            if kills > 0 and time.time() < until:
                victim = cluster.chance.choice(cluster.instances)
                victim.kill()
                victim.start()
                kills -= 1
        for job in urls.values():
            cluster.request("POST", "/" + job.split("/", 3)[3] + "stop/")
        total = twice = late = missed = 0
        for name, job in urls.items():
            path = "/" + job.split("/", 3)[3]
            executions = wait_for(partial(ended, cluster, path), f"the end of {name}")
            total += len(executions)
            ran = sum(execution["status"] == "done" for execution in executions)
            twice += max(cluster.starts().count(name) - ran, 0)
            # A tick may be under way or be stopped before it ran at either end.
            missed += max(minutes - len(executions), 0)
            assert len(executions) <= minutes + 2, name
            assert cluster.starts().count(name) <= ran or twice, name
        with MongoClient[dict[str, Any]](url) as client:
            stored = client.get_default_database()["executions"]
            ticks = Counter((one["job_id"], one["tick"]) for one in stored.find({}, TICK))
            late = sum(one.get("late_seconds", 0) > 15 for one in stored.find({}))
        twice += sum(count - 1 for count in ticks.values())
        scoreboard.add(
            Row(
                f"cron, clocks {SKEW_SECONDS:g} s apart, kill -9",
                "cluster",
                total,
                "ticks",
                lost=missed,
                twice=twice,
                note=f"{late} later than 15 s",
            )
        )
        assert missed == 0
        assert twice == 0
        assert late == 0


TICK = {"job_id": 1, "tick": 1}


def ended(cluster: Cluster, path: str) -> list[dict[str, Any]] | None:
    executions: list[dict[str, Any]] = cluster.insist(path)["job"]["executions"]
    return executions if all(one["status"] in FINAL for one in executions) else None


@pytest.mark.timeout(240)
def test_ticks_with_skew(
    tmp_path: Path, mongo_server: MongoServer, redis_server: RedisServer, scoreboard: Scoreboard
) -> None:
    """Soon for everybody: the next minute of the middle clock begins in LEAD_SECONDS."""
    base_seconds = (-LEAD_SECONDS - time.time() + 30) % 60 - 30
    run_cron(
        tmp_path,
        mongo_server,
        redis_server,
        jobs=10,
        minutes=1,
        kills=2,
        scoreboard=scoreboard,
        base_seconds=base_seconds,
    )


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_ticks_with_skew_and_kills(
    tmp_path: Path, mongo_server: MongoServer, redis_server: RedisServer, scoreboard: Scoreboard
) -> None:
    run_cron(
        tmp_path,
        mongo_server,
        redis_server,
        jobs=scoreboard.scaled(50),
        minutes=scoreboard.scaled(5),
        kills=scoreboard.scaled(20),
        scoreboard=scoreboard,
    )
