"""REGRESSIONS 42 on real servers: a run that ended in time is not timed out, nor run again."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.instances import Instance, database_url
from tests.engine import find_engine
from tests.eventually import wait_for
from tests.fastlane_server import FastlaneServer
from tests.services import MongoServer, RedisServer

# A run takes half its limit, and nobody watches until the limit has passed.
RUN_SECONDS, LIMIT_SECONDS = 2, 4


def farms(directory: Path) -> dict[str, str]:
    """Options for a farm of each executor."""
    hosts = [
        {"match": "^docker", "hosts": [find_engine()[0]]},
        {"match": "^process", "hosts": ["process://here"]},
    ]
    return {"DOCKER_HOSTS": json.dumps(hosts), "INSTALLATION": directory.name[:60]}


def submit(server: FastlaneServer, task: str) -> dict[str, Any]:
    """A job that ends well within its limit, and would be retried if it did not."""
    return server.submit(
        task,
        image=find_engine()[1],
        command=["sh", "-c", f"sleep {RUN_SECONDS}; echo done"],
        timeout=LIMIT_SECONDS,
        retries=2,
    )


def await_running(server: FastlaneServer, made: dict[str, Any]) -> None:
    def runs() -> bool:
        return bool(server.executions(made["jobUrl"])[0]["status"] == "running")

    wait_for(runs, f"{made['jobUrl']} to run")


def pass_the_limit() -> None:
    over = time.monotonic() + LIMIT_SECONDS + 0.5
    wait_for(lambda: time.monotonic() > over, "the limit to pass")


def assert_done_once(server: FastlaneServer, made: dict[str, Any]) -> None:
    (ended,) = server.await_end(made["jobUrl"])
    assert (ended["status"], ended["reason"], ended["exitCode"]) == ("done", "exit-code", 0)


def test_a_server_that_is_down_around_the_end(tmp_path: Path) -> None:
    """And its clock is an hour ahead when it is back."""
    with Instance(tmp_path, STOP_GRACE_SECONDS="1", **farms(tmp_path)) as server:
        made = [submit(server, task) for task in ("docker", "process")]
        long = server.submit("process", image="i", command="sleep 600", timeout=300)
        for each in (*made, long):
            await_running(server, each)
        server.kill()
        pass_the_limit()
        server.restart(CLOCK_SKEW="3600")
        for each in made:
            assert_done_once(server, each)
        assert server.executions(long["jobUrl"])[0]["status"] == "running"
        server.request("POST", f"{long['jobUrl']}stop/")
        server.await_end(long["jobUrl"])


@pytest.mark.cluster
def test_a_database_that_is_frozen_around_the_end(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    with MongoServer(tmp_path / "mongo") as mongo:
        options = {
            "MONGODB_URL": database_url(mongo, tmp_path),
            "REDIS_URL": redis_server.url,
            "DATA_DIR": str(tmp_path / "data"),
            **farms(tmp_path),
        }
        with Instance(tmp_path / "server", **options) as server:
            made = [submit(server, task) for task in ("docker", "process")]
            for each in made:
                await_running(server, each)
            os.kill(mongo.pid, signal.SIGSTOP)
            try:
                pass_the_limit()
            finally:
                os.kill(mongo.pid, signal.SIGCONT)
            for each in made:
                assert_done_once(server, each)
