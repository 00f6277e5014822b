"""The primary of three members is cut off by the network, together with an instance."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlane.storage.mongo.database import OPERATION_SECONDS
from tests.cluster.instances import Servers
from tests.cluster.network import FarReplicaSet, FarServers, Switch
from tests.eventually import wait_for
from tests.fastlane_server import FINAL
from tests.load import Expected, Load, Report, digest, path_of
from tests.scoreboard import Scoreboard
from tests.services import RedisServer

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

LEASE_SECONDS = 6
# Each end is tried and repeated meanwhile, the others elect a primary and adopt what ran.
CUT_SECONDS = 2 * OPERATION_SECONDS + 2 * LEASE_SECONDS


@pytest.fixture
def switch() -> Iterator[Switch]:
    with Switch() as switch:
        yield switch


@pytest.fixture
def members(switch: Switch, tmp_path: Path) -> Iterator[FarReplicaSet]:
    with FarReplicaSet(tmp_path / "rs", switch) as members:
        yield members


class Watch:
    """What was shown as final, by any instance, and must stay."""

    def __init__(self, servers: Servers, report: Report) -> None:
        self._servers, self._report = servers, report
        self._shown: dict[str, tuple[object, ...]] = {}
        self.known = 0

    @property
    def count(self) -> int:
        """How many outcomes were shown."""
        return len(self._shown)

    def look(self, url: str) -> None:
        """Ask every instance."""
        for number, instance in enumerate(self._servers.instances):
            status, answer = self._servers.request("GET", path_of(url), instance=instance)
            if status not in {0, 200, 503}:
                self._report.wrong_answers.append(f"{url}: {status}")
            if status != 200:
                continue
            for one in json.loads(answer)["job"]["executions"]:
                shown = (one["status"], one["reason"], one["exitCode"], one["finishedAt"])
                before = self._shown.get(one["executionId"])
                if before not in {None, shown}:
                    self._report.wrong_outcomes.append(f"{number} {url}: {before}, then {shown}")
                if one["status"] in FINAL:
                    self._shown[one["executionId"]] = shown


@pytest.mark.parametrize("then", ["mended", "killed"])
def test_the_primary_is_cut_off_with_an_instance(
    then: str,
    tmp_path: Path,
    switch: Switch,
    members: FarReplicaSet,
    redis_server: RedisServer,
    scoreboard: Scoreboard,
) -> None:
    """Jobs end and are submitted while it is; the cable is mended, or its mongod killed first."""
    release = tmp_path / "release"
    held_count, steady_count = scoreboard.scaled(24, least=8), scoreboard.scaled(80, least=16)
    options = {"MAX_RUNNING": str(held_count + 8), "LEASE_SECONDS": str(LEASE_SECONDS)}
    with FarServers(tmp_path, switch, members, redis_server, **options) as servers:

        def make(name: str) -> Expected:
            script = f"while [ ! -e {release} ]; do sleep 0.1; done"
            body = servers.shell(name, script, rerunWhenLost=True)
            return Expected(body, "done", exit_code=0, stdout=digest(""), stderr=digest(""))

        held = Load(servers, held_count, make=make, every_seconds=0, prefix="held")
        steady = Load(servers, steady_count, every_seconds=0.3, settle_seconds=180)
        with held.running() as report:
            held.await_accepted()
            wait_for(lambda: len(servers.starts()) == held_count, "all starts")
            with steady.running() as more:
                primary = wait_for(members.primary, "a primary")
                number = members.members.index(primary)
                watch = Watch(servers, report)
                switch.cut(number)
                release.touch()
                cut_off_for(CUT_SECONDS, watch, held)
                if then == "killed":
                    primary.kill()
                switch.mend(number)
                mended = time.monotonic()
                if then == "killed":
                    primary.start()
                servers.await_recovery(report, mended)
        for url in held.accepted.values():
            watch.look(url)
        what = f"primary and an instance cut off, then {then}"
        note = f"for {CUT_SECONDS:.0f} s, {watch.known} outcomes shown meanwhile"
        scoreboard.take(more, what, "cluster", f"{more.refused} times 503")
        scoreboard.take(report, what, "cluster", note)


def cut_off_for(seconds: float, watch: Watch, held: Load) -> None:
    """Look at what is shown for so long."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        for url in held.accepted.values():
            watch.look(url)
    watch.known = watch.count
