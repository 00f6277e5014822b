"""An engine of the test's own that is frozen for minutes, or whose disk is full."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.instances import ContainerRuns, Single
from tests.engine import EngineServer
from tests.eventually import wait_for
from tests.load import Expected, Load
from tests.scoreboard import Scoreboard

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


def test_the_engine_is_frozen(tmp_path: Path, scoreboard: Scoreboard) -> None:
    """For minutes, under runs that end meanwhile: nothing is lost before its time."""
    seconds = scoreboard.scaled(180, least=8)
    with ExitStack() as stack:
        engine = stack.enter_context(EngineServer(tmp_path / "engine"))
        runs = ContainerRuns(tmp_path, engine.url, engine.image())
        single = stack.enter_context(
            Single(tmp_path, runs, HOST_LOST_AFTER_SECONDS=str(10 * seconds))
        )
        load = Load(single, scoreboard.scaled(60, least=12), settle_seconds=180)
        with load.running() as report:
            wait_for(lambda: len(single.starts()) >= 3, "some starts")
            os.kill(engine.pid, signal.SIGSTOP)
            time.sleep(seconds)
            os.kill(engine.pid, signal.SIGCONT)
            began, before = time.monotonic(), len(single.starts())
            wait_for(lambda: len(single.starts()) > before or not load.under_way, "a start")
            report.recoveries.append(time.monotonic() - began)
        scoreboard.take(report, "an engine is frozen", "SQLite", f"for {seconds} s")


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


def test_the_engines_disk_is_full(tmp_path: Path, scoreboard: Scoreboard) -> None:
    """A container that cannot be created waits, and one that cannot write goes on."""
    seconds = scoreboard.scaled(60, least=6)
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path / "disk", 256))
        engine = stack.enter_context(EngineServer(disk / "engine"))
        runs = ContainerRuns(tmp_path, engine.url, engine.image())
        single = stack.enter_context(Single(tmp_path, runs))

        def make(name: str) -> Expected:
            # What a run writes while there is no room is lost to the engine, which says so nowhere.
            return Expected(single.body(name), stdout=None, stderr=None)

        count = scoreboard.scaled(60, least=12)
        load = Load(single, count, make=make, settle_seconds=180)
        with load.running() as report:
            wait_for(lambda: len(single.starts()) >= 3, "some starts")
            rest = os.statvfs(disk)
            filler = disk / "filler"
            with filler.open("wb") as file:
                file.write(b"x" * (rest.f_bavail * rest.f_frsize - 4096))
            time.sleep(seconds)
            filler.unlink()
            single.await_recovery(report)
        row = report.row("the engine's disk is full", "SQLite", f"for {seconds} s")
        scoreboard.add(replace(row, wrong_log=None))
        report.check()
