"""Runs that end in time while nobody is there to see it, until their limit has passed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.cluster.instances import ContainerRuns, Single
from tests.eventually import wait_for
from tests.load import Expected, Load
from tests.scoreboard import Scoreboard

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

# A run takes RUN_SECONDS and may take LIMIT_SECONDS; the server is away for longer than that.
RUN_SECONDS, LIMIT_SECONDS, AWAY_SECONDS = 4, 8, 10


@pytest.mark.parametrize("executor", ["docker", "process"])
def test_in_time_while_the_server_is_away(
    executor: str, tmp_path: Path, scoreboard: Scoreboard
) -> None:
    count = scoreboard.scaled(100, least=8)
    runs = ContainerRuns(tmp_path) if executor == "docker" else None
    with Single(tmp_path, runs, MAX_RUNNING=str(count)) as single:

        def make(name: str) -> Expected:
            body = single.body(name, pause=RUN_SECONDS / 5, timeout=LIMIT_SECONDS)
            return Expected(body)

        load = Load(single, count, make=make, every_seconds=0)
        with load.running() as report:
            wait_for(lambda: not load.under_way, "all submissions")
            wait_for(lambda: len(single.starts()) == count, "all starts")
            began = time.monotonic()
            single.server.kill()
            wait_for(lambda: time.monotonic() - began > AWAY_SECONDS, "the limits to pass")
            single.server.start()
            single.await_recovery(report)
        what = "containers" if executor == "docker" else "processes"
        scoreboard.take(report, f"{what} end in time, server away", "SQLite")
