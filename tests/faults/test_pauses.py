"""An instance that stands still for longer than its lease, in the middle of a write."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.eventually import wait_for
from tests.faults.conftest import Place
from tests.load import Load
from tests.scoreboard import Scoreboard

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

LEASE_SECONDS = 4


def is_stopped(pid: int) -> bool:
    """Whether the process stands still."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize("operation", ["logs.append", "executions.finish"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_paused_in_a_write(when: str, operation: str, place: Place, scoreboard: Scoreboard) -> None:
    seconds = scoreboard.scaled(60, least=2 * LEASE_SECONDS)
    with place.servers(LEASE_SECONDS=str(LEASE_SECONDS)) as servers:
        load = Load(servers, scoreboard.scaled(60, least=12), pause=0.2, every_seconds=0.1)
        victim = servers.instances[0]
        victim.kill()
        victim.options["PAUSE_AT"] = f"{when} {operation}"
        victim.start()
        with load.running() as report:
            wait_for(lambda: is_stopped(victim.pid), "the pause")
            began = time.monotonic()
            wait_for(lambda: time.monotonic() - began > seconds, "its end", 2 * seconds)
            os.kill(victim.pid, signal.SIGCONT)
            servers.await_recovery(report)
        what = "an append" if operation == "logs.append" else "a finish"
        scoreboard.take(
            report, f"an instance is paused in {what}", place.where, f"{seconds} s {when} it"
        )
