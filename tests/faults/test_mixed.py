"""Instances on one store that are not alike: other farms, other leases, the version before."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.instances import Instance
from tests.fastlane_server import ROOT
from tests.faults.conftest import OnCluster
from tests.load import Load
from tests.scoreboard import Scoreboard

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

# The last release: what runs beside a new instance during an upgrade.
VERSION_BEFORE = "4f86ea2"


def kill_now_and_then(load: Load, scoreboard: Scoreboard, *, every_seconds: float = 2.0) -> int:
    """Kill a random instance again and again while *load* submits; how often."""
    chance = scoreboard.chance()
    kills = 0
    while load.under_way:
        time.sleep(every_seconds)
        victim = chance.choice(load.servers.instances)
        victim.kill()
        victim.start()
        load.servers.await_recovery(load.report)
        kills += 1
    return kills


def test_other_farms_and_leases(on_cluster: OnCluster, scoreboard: Scoreboard) -> None:
    servers = on_cluster.servers()
    for number, instance in enumerate(servers.instances):
        instance.options["LEASE_SECONDS"] = str((3, 10, 20)[number])
        instance.options["MAX_RUNNING"] = str((1, 4, 8)[number])
        if number == 2:
            named = {"name": "other", "executor": "process", "hosts": ["localhost"]}
            instance.options["DOCKER_HOSTS"] = json.dumps(
                [{"name": "default", "executor": "process", "hosts": ["localhost"]}, named]
            )
    with servers:
        load = Load(servers, scoreboard.scaled(150, least=15), settle_seconds=180)
        with load.running() as report:
            kills = kill_now_and_then(load, scoreboard)
        what = "other farms and leases, kill -9"
        scoreboard.take(report, what, "cluster", f"{kills} times")


class OldInstance(Instance):
    """Runs the code of the version before."""

    source: Path

    def command(self) -> list[str]:
        pairs = [f"{name}={value}" for name, value in self.options.items() if name != "PYTHONPATH"]
        script = self.source / "tests" / "cluster" / "server.py"
        return ["env", f"PYTHONPATH={self.source}", *pairs, sys.executable, str(script)]


def checkout(directory: Path) -> Path:
    """The code of :data:`VERSION_BEFORE`; fails where the history is not there."""
    directory.mkdir()
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", VERSION_BEFORE], stdout=subprocess.PIPE, check=True
    )
    subprocess.run(["tar", "-x", "-C", str(directory)], input=archive.stdout, check=True)
    return directory


def test_the_version_before(tmp_path: Path, on_cluster: OnCluster, scoreboard: Scoreboard) -> None:
    """The old code starts first, as in an upgrade; both are killed now and then."""
    servers = on_cluster.servers(count=2)
    (first, second) = servers.instances
    old = OldInstance(first.directory, **first.options)
    old.port = first.port
    old.source = checkout(tmp_path / "before")
    servers.instances[:] = [old, second]
    with servers:
        load = Load(servers, scoreboard.scaled(150, least=15), settle_seconds=180)
        with load.running() as report:
            kills = kill_now_and_then(load, scoreboard)
        what = "the version before beside this one, kill -9"
        scoreboard.take(report, what, "cluster", f"{VERSION_BEFORE}; {kills} times")
