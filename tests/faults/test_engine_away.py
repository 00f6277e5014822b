"""An engine of the test's own that is frozen for minutes, or whose disk is full."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.instances import ContainerRuns
from tests.engine import EngineServer
from tests.engines import EngineProxy
from tests.eventually import wait_for
from tests.faults.conftest import Place
from tests.load import STDOUT, Expected, Load, path_of
from tests.scoreboard import Scoreboard

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineServer]:
    # Containers outlive it, as they do where it is upgraded.
    with EngineServer(tmp_path / "engine", "--live-restore") as engine:
        yield engine


def test_the_engine_is_frozen(
    tmp_path: Path, engine: EngineServer, place: Place, scoreboard: Scoreboard
) -> None:
    """For minutes, under runs that end meanwhile: nothing is lost before its time."""
    seconds = scoreboard.scaled(180, least=8)
    runs = ContainerRuns(tmp_path, engine.url, engine.image())
    with place.servers(runs=runs, HOST_LOST_AFTER_SECONDS=str(10 * seconds)) as servers:
        load = Load(servers, scoreboard.scaled(60, least=12), settle_seconds=180)
        with load.running() as report:
            wait_for(lambda: len(servers.starts()) >= 3, "some starts")
            os.kill(engine.pid, signal.SIGSTOP)
            time.sleep(seconds)
            os.kill(engine.pid, signal.SIGCONT)
            began, before = time.monotonic(), len(servers.starts())
            wait_for(lambda: len(servers.starts()) > before or not load.under_way, "a start")
            report.recoveries.append(time.monotonic() - began)
        scoreboard.take(report, "an engine is frozen", place.where, f"for {seconds} s")


def test_the_engine_is_killed_again_and_again(
    tmp_path: Path, engine: EngineServer, place: Place, scoreboard: Scoreboard
) -> None:
    """Its containers go on, and are found with their ends by the engine that follows."""
    runs = ContainerRuns(tmp_path, engine.url, engine.image())
    with place.servers(runs=runs, HOST_LOST_AFTER_SECONDS="300") as servers:

        def make(name: str) -> Expected:
            # What a run writes is lost to the engine if it ends while there is none. Whoever
            # listens to the engine for starts ends with it.
            return Expected(servers.body(name, pause=0.3), stdout=None, stderr=None, starts=0)

        load = Load(servers, scoreboard.scaled(60, least=12), make=make, settle_seconds=180)
        with load.running() as report:
            wait_for(lambda: len(servers.starts()) >= 3, "some starts")
            times = scoreboard.scaled(6, least=2)
            for _ in range(times):
                engine.kill()
                time.sleep(2)
                began = time.monotonic()
                engine.start()
                servers.await_recovery(report, began)
                time.sleep(1)
        report.started_twice = []
        for name, url in load.accepted.items():
            (execution,) = servers.insist(path_of(url))["job"]["executions"]
            # Another start would begin again.
            if not STDOUT.startswith(servers.text(f"{path_of(execution['url'])}stdout/")):
                report.started_twice.append(name)
        row = report.row("an engine is killed and back", place.where, f"{times} times")
        scoreboard.add(replace(row, wrong_log=None))
        report.check()


def test_answers_of_the_engine_are_lost(
    tmp_path: Path, engine: EngineServer, place: Place, scoreboard: Scoreboard
) -> None:
    """Whether a call has taken place is not known to who made it."""
    chance = scoreboard.chance()
    runs = ContainerRuns(tmp_path, engine.url, engine.image())
    calls = [b"/containers/create", b"/start HTTP", b"/wait", b"/json HTTP", b"DELETE /", b"/logs"]
    lost = 0
    with (
        EngineProxy.to_socket(engine.url) as proxy,
        place.servers(runs=runs, DOCKER_HOST=proxy.host) as servers,
    ):
        load = Load(servers, scoreboard.scaled(60, least=12), settle_seconds=180)
        with load.running() as report:
            while load.under_way:
                proxy.lost.clear()
                proxy.lose = chance.choice(calls)
                lost += proxy.lost.wait(1)
            proxy.lose = None
        scoreboard.take(report, "answers of an engine are lost", place.where, f"{lost} times")


@contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[Path]:
    """A tmpfs at *path*."""
    path.mkdir()
    options = f"size={megabytes}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "fastlane-test", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_the_engines_disk_is_full(tmp_path: Path, place: Place, scoreboard: Scoreboard) -> None:
    """A container that cannot be created waits, and one that cannot write goes on."""
    seconds = scoreboard.scaled(60, least=6)
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path / "disk", 256))
        engine = stack.enter_context(EngineServer(disk / "engine"))
        runs = ContainerRuns(tmp_path, engine.url, engine.image())
        servers = stack.enter_context(place.servers(runs=runs))

        def make(name: str) -> Expected:
            # What a run writes while there is no room is lost to the engine, which says so nowhere.
            return Expected(servers.body(name), stdout=None, stderr=None)

        count = scoreboard.scaled(60, least=12)
        load = Load(servers, count, make=make, settle_seconds=180)
        with load.running() as report:
            wait_for(lambda: len(servers.starts()) >= 3, "some starts")
            rest = os.statvfs(disk)
            filler = disk / "filler"
            with suppress(OSError), filler.open("wb") as file:
                # The engine may need some of it meanwhile.
                file.write(b"x" * (rest.f_bavail * rest.f_frsize - 4096))
            time.sleep(seconds)
            filler.unlink()
            servers.await_recovery(report)
        row = report.row("the engine's disk is full", place.where, f"for {seconds} s")
        scoreboard.add(replace(row, wrong_log=None))
        report.check()
