"""Runs that end in time while nobody is there to see it, until their limit has passed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.services import prepare_mongod
from tests.cluster.instances import Cluster, ContainerRuns, ProcessRuns, Servers
from tests.engines import SwarmEngine
from tests.eventually import wait_for
from tests.faults.conftest import Place
from tests.faults.test_large import long_log
from tests.load import Expected, Load
from tests.scoreboard import Scoreboard
from tests.services import MongoServer, RedisServer, frozen, missing

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

# A run takes RUN_SECONDS and may take LIMIT_SECONDS; the server is away for longer than that.
RUN_SECONDS, LIMIT_SECONDS, AWAY_SECONDS = 4, 12, 14
# By how much the clock is ahead when the server is back.
HOUR_SECONDS = 3600

NAMES = {"docker": "containers", "process": "processes", "swarm": "services"}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def runs_of(executor: str, directory: Path, stack: ExitStack) -> ContainerRuns | ProcessRuns:
    """Runs of the *executor*; a swarm is one of the test's own."""
    if executor == "process":
        return ProcessRuns(directory)
    if executor == "docker":
        return ContainerRuns(directory)
    engine = stack.enter_context(SwarmEngine(directory / "swarm"))
    runs = ContainerRuns(directory, engine.url, engine.image())
    runs.options["EXECUTOR"] = "swarm"
    return runs


def load_of(servers: Servers, count: int) -> Load:
    """*count* at once, each of which takes half its limit."""

    def make(name: str) -> Expected:
        return Expected(servers.body(name, pause=RUN_SECONDS / 5, timeout=LIMIT_SECONDS))

    return Load(servers, count, make=make, every_seconds=0, settle_seconds=180)


def await_starts(servers: Servers, load: Load, count: int) -> None:
    load.await_accepted()
    wait_for(lambda: len(servers.starts()) == count, "all starts")


def pass_the_limit() -> None:
    over = time.monotonic() + AWAY_SECONDS
    wait_for(lambda: time.monotonic() > over, "the limits to pass")


@pytest.mark.parametrize("ahead_seconds", [0, HOUR_SECONDS], ids=["", "clock"])
@pytest.mark.parametrize("executor", list(NAMES))
def test_in_time_while_the_servers_are_away(
    executor: str,
    ahead_seconds: int,
    tmp_path: Path,
    place: Place,
    stack: ExitStack,
    scoreboard: Scoreboard,
) -> None:
    # So few that they start well before the first of them has ended.
    count = scoreboard.scaled(12 if executor == "swarm" else 24, least=8)
    runs = runs_of(executor, tmp_path, stack)
    with place.servers(runs=runs, MAX_RUNNING=str(count)) as servers:
        load = load_of(servers, count)
        with load.running() as report:
            await_starts(servers, load, count)
            for instance in servers.instances:
                instance.kill()
            pass_the_limit()
            for instance in servers.instances:
                instance.options["CLOCK_SKEW"] = str(ahead_seconds)
                instance.start()
            servers.await_recovery(report)
        what = f"{NAMES[executor]} end in time, servers away"
        if ahead_seconds:
            what += ", clock an hour ahead"
        scoreboard.take(report, what, place.where)


@pytest.mark.parametrize("executor", ["docker", "process"])
def test_in_time_while_the_database_is_frozen(
    executor: str,
    tmp_path: Path,
    redis_server: RedisServer,
    stack: ExitStack,
    scoreboard: Scoreboard,
) -> None:
    if (why := prepare_mongod()) is not None:
        missing("mongod", why)
    count = scoreboard.scaled(24, least=8)
    runs = runs_of(executor, tmp_path, stack)
    with (
        MongoServer(tmp_path / "mongo") as mongo,
        Cluster(
            tmp_path, mongo.url, redis_server.url, runs=runs, MAX_RUNNING=str(count)
        ) as servers,
    ):
        load = load_of(servers, count)
        with load.running() as report:
            await_starts(servers, load, count)
            with frozen(mongo.pid):
                pass_the_limit()
            servers.await_recovery(report)
        what = f"{NAMES[executor]} end in time, MongoDB frozen"
        scoreboard.take(report, what, "cluster", f"for {AWAY_SECONDS} s")


def test_a_log_that_is_read_for_longer_than_the_limit(place: Place, scoreboard: Scoreboard) -> None:
    """The run has ended long before its log is stored."""
    size = scoreboard.scaled(150 * 1024**2, least=30 * 1024**2)
    with place.servers(LOG_MAX_BYTES="0") as servers:

        def make(name: str) -> Expected:
            made = long_log(servers, size, name)
            return replace(made, body={**made.body, "timeout": LIMIT_SECONDS})

        load = Load(servers, 4, make=make, every_seconds=2, settle_seconds=300)
        with load.running() as report:
            pass
        slow = sum(seconds > LIMIT_SECONDS for seconds in report.seconds)
        note = f"{size / 1024**2:.0f} MB each, {slow} took longer than their limit to store"
        scoreboard.take(report, "logs that are read slowly", place.where, note)


def supervisors(servers: Servers) -> list[int]:
    """The processes that watch over the runs which are under way."""
    root = Path(servers.instances[0].options["DATA_DIR"]) / "runs"
    return [json.loads(path.read_text())["shim_pid"] for path in root.glob("*/*/state.json")]


def processes_of(servers: Servers) -> list[int]:
    """What runs with a home among the servers' runs."""
    root = f"HOME={servers.instances[0].options['DATA_DIR']}/runs/".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if root in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def test_the_supervisors_of_processes_are_killed(place: Place, scoreboard: Scoreboard) -> None:
    """Nobody knows how their runs end: these are lost, and nothing of them runs on."""
    count = scoreboard.scaled(20, least=8)
    with place.servers(MAX_RUNNING=str(count)) as servers:

        def make(name: str) -> Expected:
            body = servers.shell(name, "sleep 600 & setsid sleep 600")
            return Expected(body, reason="lost", exit_code=None, stdout=None, stderr=None)

        load = Load(servers, count, make=make, every_seconds=0)
        with load.running() as report:
            await_starts(servers, load, count)
            for pid in supervisors(servers):
                os.kill(pid, signal.SIGKILL)
        left = processes_of(servers)
        report.wrong_outcomes += [f"process {pid} runs on" for pid in left]
        scoreboard.take(report, "the supervisors of processes are killed", place.where)
