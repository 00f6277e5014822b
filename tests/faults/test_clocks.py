"""Cron while the clocks go forward and back, with each rule for ticks that overlap."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from scripts.scoreboard import Row
from tests.cluster.instances import Instance, Servers
from tests.eventually import wait_for
from tests.fastlane_server import FINAL
from tests.faults.conftest import Place
from tests.load import path_of
from tests.scoreboard import Scoreboard

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

# Berlin in 2026. Forward: 02:00 to 03:00 at 01:00 UTC. Back: 03:00 to 02:00 at 01:00 UTC.
FORWARD = datetime(2026, 3, 29, 1, 0, tzinfo=UTC).timestamp()
BACK = datetime(2026, 10, 25, 1, 0, tzinfo=UTC).timestamp()
HALF_HOUR = 1800.0
# How long before a tick the servers are started; they take about two seconds.
LEAD_SECONDS = 8.0

# What the wall shows → when it ticks, in order, and when 02:30 must not tick again.
CHANGES = {
    # 02:30 does not exist: it ticks at the end of the gap.
    "forward": (FORWARD, [FORWARD]),
    # It exists twice, and ticks the first time.
    "back": (BACK, [BACK - HALF_HOUR, BACK + HALF_HOUR]),
}


@pytest.mark.parametrize("overlap", ["allow", "skip", "queue"])
@pytest.mark.parametrize("change", CHANGES)
def test_the_clocks_change(change: str, overlap: str, place: Place, scoreboard: Scoreboard) -> None:
    """Daily at 02:30: one execution, on time, whatever the wall clock does."""
    servers = place.servers()
    _, moments = CHANGES[change]
    job: dict[str, Any] = {}
    # In a context, so that nothing is left running when a moment fails.
    set_clock(servers.instances, moments[0])
    with servers:
        body = servers.shell(
            "daily", "true", cron="30 2 * * *", timezone="Europe/Berlin", overlap=overlap
        )
        job = servers.instances[0].submit("daily", **body)
        minutely = servers.shell("minutely", "true", cron="* * * * *", overlap=overlap)
        beside = servers.instances[0].submit("minutely", **minutely)
        for number, moment in enumerate(moments):
            if number:
                for instance in servers.instances:
                    instance.kill()
                set_clock(servers.instances, moment)
                for instance in servers.instances:
                    instance.start()
            before = servers.starts().count("minutely")
            # A job of every minute shows that the moment has come.
            wait_for(partial(has_ticked, servers, before), "a minute")
        path = path_of(job["jobUrl"])
        wait_for(lambda: servers.starts().count("daily") > 0, "the tick")
        wait_for(
            lambda: all(
                each["status"] in FINAL for each in servers.insist(path)["job"]["executions"]
            ),
            "its end",
        )
        executions = servers.insist(path)["job"]["executions"]
        late = [each["metadata"]["lateSeconds"] or 0 for each in executions]
        scoreboard.add(
            Row(
                f"the clocks go {change}",
                place.where,
                1,
                "ticks",
                lost=int(not executions),
                twice=max(servers.starts().count("daily") - 1, 0),
                wrong_outcome=sum(each["status"] != "done" for each in executions),
                note=f"{overlap}: {max(late, default=0):.1f} s late",
            )
        )
        assert len(executions) == servers.starts().count("daily") == 1
        assert max(late) < LEAD_SECONDS
        assert beside["jobUrl"]


def has_ticked(servers: Servers, before: int) -> bool:
    """Whether the job of every minute has run since."""
    return servers.starts().count("minutely") > before


def set_clock(instances: Iterable[Instance], moment: float) -> None:
    """Let their clocks show :data:`LEAD_SECONDS` before *moment* when they start."""
    for instance in instances:
        instance.options["CLOCK_SKEW"] = str(moment - LEAD_SECONDS - time.time())
