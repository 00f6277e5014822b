"""``kill -9`` on the way of a notification: after a restart it is delivered, under the same id.

Regression 33. Delivered at least once: each test knows how many doubles its point may make, and a
receiver can drop them by their ``webhook-id``.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.scoreboard import Row
from tests.eventually import wait_for
from tests.fastlane_server import FastlaneServer
from tests.faults.receiver import Receiver
from tests.scoreboard import Scoreboard

# The path of a notification, point by point, and how often a webhook may arrive at most: twice
# where one may be under way, its answer on the wire, when the process dies.
POINTS = {
    "before executions.started": 1,
    "after executions.started": 1,
    "before executions.finish": 2,
    "after executions.finish": 2,
    "before outbox.claim": 1,
    "after outbox.claim": 1,
    "before outbox.attempted": 2,
    "after outbox.attempted": 2,
}
EVENTS = ("starts", "succeeds", "finishes")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FastlaneServer]:
    server = FastlaneServer(
        tmp_path,
        EXECUTOR="process",
        WEBHOOKS_ALLOWED_NETWORKS="127.0.0.0/8",
        WEBHOOKS_EXPONENTIAL_BACKOFF_MIN_MS="50",
    )
    yield server
    server.kill()


def payload(receiver: Receiver) -> dict[str, Any]:
    hook = {"url": receiver.url, "retries": 20}
    return {
        "image": "none:1",
        "command": "true",
        "webhooks": {event: [hook] for event in EVENTS},
    }


@pytest.mark.parametrize("point", POINTS)
def test_killed_at(point: str, server: FastlaneServer, receiver: Receiver) -> None:
    server.start_to_crash(point)
    server.try_submit("told", **payload(receiver))
    server.await_death()
    server.start()
    # Quick after the restart: the claims of the dead process are put back with its lock.
    wait_for(lambda: len(receiver.ids) == len(EVENTS), "the webhooks", 20)

    def settled() -> bool:
        return bool(server.get("/status/")["queues"]["webhooks"]["length"] == 0)

    wait_for(settled, "an empty queue", 20)
    assert sorted(body["event"] for body in {b["event"]: b for b in receiver.bodies}.values()) == (
        sorted(EVENTS)
    )
    assert max(receiver.ids.values()) <= POINTS[point]
    (execution,) = server.await_end(receiver.bodies[0]["jobUrl"].replace("0.0.0.0", "127.0.0.1"))
    assert execution["status"] == "done"
    assert len(execution["metadata"]["webhookDispatch"]) == 3


def kill_at_random(
    server: FastlaneServer, receiver: Receiver, scoreboard: Scoreboard, *, jobs: int, kills: int
) -> None:
    """Submit *jobs* while the server is killed *kills* times; every webhook arrives."""
    chance = scoreboard.chance()
    accepted: list[dict[str, Any]] = []
    server.start()

    def submit_all() -> None:
        for number in range(jobs):
            while (answer := server.try_submit(f"load-{number}", **payload(receiver))) is None:
                time.sleep(0.05)
            accepted.append(answer)

    submitter = threading.Thread(target=submit_all)
    submitter.start()
    for _ in range(kills):
        time.sleep(chance.uniform(0.2, 1.5))
        server.restart()
    submitter.join()
    for answer in accepted:
        server.await_end(answer["jobUrl"])
    jobs_told: Counter[str] = Counter()

    wanted = {(answer["executionId"], event) for answer in accepted for event in EVENTS}

    def told() -> set[tuple[str, str]]:
        return {(body["executionId"], body["event"]) for body in list(receiver.bodies)}

    def all_told() -> bool:
        return wanted <= told()

    wait_for(all_told, "every webhook")
    doubles = sum(receiver.ids.values()) - len(receiver.ids)
    scoreboard.add(
        Row(
            "notifications, kill -9 of the server",
            "SQLite",
            len(receiver.ids),
            "webhooks",
            lost=0,
            twice=len(receiver.ids) - len(told()),
            note=f"{kills} times; {doubles} arrived again under the same id",
        )
    )
    jobs_told.update(body["event"] for body in receiver.bodies)
    # A double needs a kill between an answer and its record: no more at once than are tried.
    assert doubles <= kills * 64


def test_killed_at_random(
    server: FastlaneServer, receiver: Receiver, scoreboard: Scoreboard
) -> None:
    kill_at_random(server, receiver, scoreboard, jobs=15, kills=4)


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_killed_at_random_for_long(
    server: FastlaneServer, receiver: Receiver, scoreboard: Scoreboard
) -> None:
    jobs, kills = scoreboard.scaled(200), scoreboard.scaled(40)
    kill_at_random(server, receiver, scoreboard, jobs=jobs, kills=kills)
