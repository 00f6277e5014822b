"""The stores go away, lose what they had, answer late or not at all, and change their primary."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from fastlane.storage.mongo.database import OPERATION_SECONDS
from scripts.services import prepare_mongod
from tests.cluster.instances import Cluster, Load, Report
from tests.cluster.proxy import Proxy
from tests.cluster.replica_set import ReplicaSet
from tests.eventually import wait_for
from tests.fastlane_server import FINAL
from tests.scoreboard import Scoreboard
from tests.services import MongoServer, RedisServer, frozen, missing

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def mongo(tmp_path: Path) -> Iterator[MongoServer]:
    """A MongoDB of the test's own, to kill."""
    why = prepare_mongod()
    if why is not None:
        missing("mongod", why)
    with MongoServer(tmp_path / "mongo") as server:
        yield server


@pytest.fixture
def redis_own(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own, to kill."""
    if shutil.which("redis-server") is None:
        missing("redis-server", "not on the path")
    with RedisServer(tmp_path / "redis") as server:
        yield server


def load_while(
    cluster: Cluster,
    jobs: int,
    trouble: Callable[[Report], None],
    scoreboard: Scoreboard,
    what: str,
) -> Report:
    load = Load(cluster, jobs)
    with load.running() as report:
        wait_for(cluster.starts, "a first start")
        trouble(report)
    scoreboard.take(report, what, "cluster")
    return report


def statuses_for(cluster: Cluster, seconds: float) -> set[int]:
    """How POSTs are answered for so long, each of them within its bound."""
    statuses = set()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        status, _ = cluster.request("POST", "/tasks/x/", {"image": "i", "command": "true"})
        statuses.add(status)
        assert time.monotonic() - began < 10
    return statuses


def test_redis_is_flushed_frozen_and_killed(
    tmp_path: Path, mongo: MongoServer, redis_own: RedisServer, scoreboard: Scoreboard
) -> None:
    def trouble(report: Report) -> None:
        with redis.Redis.from_url(redis_own.url) as client:
            client.flushall()
        with frozen(redis_own.pid):
            assert statuses_for(cluster, 5) <= {200, 503}
        cluster.await_recovery(report)
        redis_own.kill()
        refused = wait_for(
            lambda: (
                cluster.request("POST", "/tasks/x/", {"image": "i", "command": "true"})[0] == 503
            ),
            "a refusal",
        )
        assert refused
        time.sleep(3)
        redis_own.start()
        cluster.await_recovery(report)
        with redis.Redis.from_url(redis_own.url) as client:
            client.flushall()

    with Cluster(tmp_path, mongo.url, redis_own.url) as cluster:
        what = "Redis flushed, frozen 5 s, killed 3 s"
        report = load_while(cluster, 20, trouble, scoreboard, what)
    assert max(report.recoveries) < 15


@pytest.mark.parametrize("seconds", [5, pytest.param(15, marks=pytest.mark.faults)])
def test_mongodb_is_killed_for_a_while(
    seconds: float,
    tmp_path: Path,
    mongo: MongoServer,
    redis_own: RedisServer,
    scoreboard: Scoreboard,
) -> None:
    """REGRESSIONS 4, 5: POST is answered 503 meanwhile, and work continues when it is back."""

    def trouble(report: Report) -> None:
        mongo.kill()
        assert statuses_for(cluster, seconds) == {503}
        assert cluster.request("GET", "/healthcheck/")[0] == 503
        mongo.start()
        cluster.await_recovery(report)

    with Cluster(tmp_path, mongo.url, redis_own.url) as cluster:
        report = load_while(cluster, 12, trouble, scoreboard, f"MongoDB killed for {seconds:g} s")
    assert max(report.recoveries) < 15


def test_mongodb_is_frozen_for_a_while(
    tmp_path: Path, mongo: MongoServer, redis_own: RedisServer, scoreboard: Scoreboard
) -> None:
    """REGRESSIONS 4, 5: its connections stay, and nothing comes back on them for 8 s."""

    def trouble(report: Report) -> None:
        with frozen(mongo.pid):
            assert statuses_for(cluster, 8) == {503}
        cluster.await_recovery(report)

    with Cluster(tmp_path, mongo.url, redis_own.url) as cluster:
        report = load_while(cluster, 12, trouble, scoreboard, "MongoDB frozen for 8 s")
    assert max(report.recoveries) < 15


@pytest.mark.parametrize("jobs", [12, pytest.param(150, marks=pytest.mark.faults)])
def test_a_proxy_that_loses_answers(
    jobs: int, tmp_path: Path, mongo: MongoServer, redis_own: RedisServer, scoreboard: Scoreboard
) -> None:
    """REGRESSIONS 12, 13: whether the request took place is not known to who sent it."""
    seed = scoreboard.seed
    with (
        Proxy(mongo.port, seed=seed) as to_mongo,
        Proxy(redis_own.port, seed=seed) as to_redis,
        Cluster(
            tmp_path,
            f"mongodb://127.0.0.1:{to_mongo.port}/fastlane",
            f"redis://127.0.0.1:{to_redis.port}/0",
        ) as cluster,
    ):

        def trouble(report: Report) -> None:
            for proxy in (to_mongo, to_redis):
                proxy.faults.reset_after_request = 0.004
                proxy.faults.cut = 0.002
                proxy.faults.delay = 0.005
            while load.under_way:
                time.sleep(0.2)
            for proxy in (to_mongo, to_redis):
                proxy.faults.reset_after_request = proxy.faults.cut = proxy.faults.delay = 0
            cluster.await_recovery(report)

        def faults() -> int:
            return sum(to_mongo.counts.values()) + sum(to_redis.counts.values())

        load = Load(cluster, jobs if jobs < 100 else scoreboard.scaled(jobs))
        with load.running() as report:
            trouble(report)
        scoreboard.take(
            report,
            "a proxy resets, cuts and delays",
            "cluster",
            f"{faults()} times",
        )


@pytest.fixture
def replica_set(tmp_path: Path) -> Iterator[ReplicaSet]:
    with ReplicaSet(tmp_path / "rs") as members:
        yield members


def test_the_primary_steps_down_and_is_killed(
    tmp_path: Path, replica_set: ReplicaSet, redis_own: RedisServer, scoreboard: Scoreboard
) -> None:
    def trouble(report: Report) -> None:
        primary = wait_for(replica_set.primary, "a primary")
        with replica_set.client(primary) as client:
            client.admin.command("replSetStepDown", 10, force=True)
        cluster.await_recovery(report)
        time.sleep(1)
        primary = wait_for(replica_set.primary, "a primary")
        primary.kill()
        cluster.await_recovery(report)
        primary.start()

    with Cluster(tmp_path, replica_set.url, redis_own.url) as cluster:
        what = "a primary steps down, the next one is killed"
        report = load_while(cluster, 25, trouble, scoreboard, what)
    assert max(report.recoveries) < 15


def test_what_was_read_as_done_stays_done(
    tmp_path: Path, replica_set: ReplicaSet, redis_own: RedisServer, scoreboard: Scoreboard
) -> None:
    """Jobs end while the primary's writes reach no other member; then it is killed.

    Watched for twice the time limit of an operation, so that each end is tried, and repeated.
    """
    release = tmp_path / "release"
    script = f"while [ ! -e {release} ]; do sleep 0.1; done"
    with Cluster(
        tmp_path, replica_set.url, redis_own.url, count=2, MAX_RUNNING="8", LEASE_SECONDS="6"
    ) as cluster:
        first = cluster.instances[0]
        bodies = {f"cut-{n}": cluster.shell(f"cut-{n}", script) for n in range(8)}
        urls = [
            first.submit(name, rerunWhenLost=True, **body)["jobUrl"]
            for name, body in bodies.items()
        ]
        jobs = ["/" + url.split("/", 3)[3] for url in urls]

        def statuses() -> list[str]:
            """Of all executions, as any instance answers."""
            found = [cluster.insist(job)["job"]["executions"] for job in jobs]
            return [execution["status"] for executions in found for execution in executions]

        wait_for(lambda: statuses() == ["running"] * len(jobs), "eight starts")
        primary = replica_set.hold()
        release.touch()
        until = time.monotonic() + 2 * OPERATION_SECONDS + 2
        while time.monotonic() < until:
            assert FINAL.isdisjoint(statuses()), "shown before it is committed"
            time.sleep(0.2)
        replica_set.fail_over(primary)
        primary.start()
        wait_for(lambda: FINAL.issuperset(statuses()), "the end of all")
        report = Report(accepted=len(jobs))
        report.wrong_outcomes = [status for status in statuses() if status != "done"]
        report.started_twice = [n for n in bodies if cluster.starts().count(n) > 1]
        report.lost = [n for n in bodies if n not in cluster.starts()]
        what = "jobs end while the primary's writes reach nobody"
        scoreboard.take(report, what, "cluster", "then it is killed")
        assert len(statuses()) == len(jobs)
