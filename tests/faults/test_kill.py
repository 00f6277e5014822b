"""``kill -9`` at every named point of a job's path, and at random under load.

After a restart every accepted job ends with the right exit code and its whole log, and none was
started twice (REGRESSIONS 1, 2, 5, 12, 20; the rules of a restart in the README).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster.instances import ContainerRuns, Single
from tests.engine import StartsHeard, find_engine
from tests.eventually import wait_for
from tests.fastlane_server import FastlaneServer
from tests.load import Load
from tests.scoreboard import Scoreboard

# Each execution says once that it started, in a place that outlives the server.
LINES = 12
SCRIPT = (
    "echo start; i=0; while [ $i -lt {lines} ]; do echo out $i; echo err $i >&2; "
    "sleep {pause}; i=$((i+1)); done; exit 7"
)
STDOUT = "start\n" + "".join(f"out {i}\n" for i in range(LINES))
STDERR = "".join(f"err {i}\n" for i in range(LINES))

# The path of a job, point by point. Each is an operation of the storage or of the executor.
POINTS = [
    "before jobs.submit",
    "after jobs.submit",
    "before executions.claim",
    "after executions.claim",
    "before pull",
    "after pull",
    "before create",
    "after create",
    "before start",
    "after start",
    "before executions.started",
    "after executions.started",
    "before logs.append",
    "after logs.append",
    "before executions.finish",
    "after executions.finish",
    "before remove",
    "after remove",
]
# Points at which the request was not answered: the client got no 2xx and the job may not exist.
UNANSWERED = {"before jobs.submit", "after jobs.submit"}


class Witness:
    """Knows how often each execution was started, whatever fastlane says."""

    def __init__(self, directory: Path, heard: StartsHeard | None) -> None:
        """:param heard: what the engine says, where containers are run."""
        self._file = directory / "starts"
        self._heard = heard

    def command(self, name: str, pause: float = 0.05) -> list[str]:
        script = SCRIPT.format(lines=LINES, pause=pause)
        if self._heard is None:
            script = f"echo {name} >> {self._file}; {script}"
        return ["sh", "-c", script]

    def starts(self, name: str, execution_id: str) -> int:
        if self._heard is not None:
            return self._heard.labels("fastlane.execution").count(execution_id)
        return self._file.read_text().split().count(name) if self._file.exists() else 0


@pytest.fixture(params=["docker", "process"])
def executor(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def image(executor: str) -> str:
    return find_engine()[1] if executor == "docker" else "none:1"


@pytest.fixture
def server(executor: str, tmp_path: Path) -> Iterator[FastlaneServer]:
    options = {"DOCKER_HOST": find_engine()[0]} if executor == "docker" else {}
    server = FastlaneServer(tmp_path, EXECUTOR=executor, **options)
    yield server
    server.kill()


@pytest.fixture
def witness(executor: str, tmp_path: Path) -> Iterator[Witness]:
    with ExitStack() as stack:
        heard = None
        if executor == "docker":
            heard = stack.enter_context(StartsHeard(find_engine()[0], "fastlane.execution"))
        yield Witness(tmp_path, heard)


def check_ended_well(
    server: FastlaneServer, witness: Witness, name: str, execution: dict[str, object]
) -> None:
    url = f"/tasks/{name}/jobs/{execution['jobId']}/executions/{execution['executionId']}"
    assert (execution["status"], execution["exitCode"]) == ("failed", 7), execution
    assert server.request("GET", f"{url}/stdout/")[1].decode() == STDOUT
    assert server.request("GET", f"{url}/stderr/")[1].decode() == STDERR
    assert witness.starts(name, str(execution["executionId"])) == 1


@pytest.mark.parametrize("point", POINTS)
def test_killed_at(point: str, image: str, server: FastlaneServer, witness: Witness) -> None:
    # The last append of a short log is as good a middle as any: the run goes on while we are dead.
    server.start_to_crash(point, 2 if point.endswith("append_log") else 1)
    answer = server.try_submit("victim", image=image, command=witness.command("victim"))
    server.await_death()
    server.start()
    if answer is None:
        assert point in UNANSWERED
        jobs = server.get("/tasks/victim/")["jobs"] if point == "after jobs.submit" else []
        urls = [job["url"] for job in jobs]
        assert len(urls) == (1 if point == "after jobs.submit" else 0)
    else:
        urls = [answer["jobUrl"]]
    for url in urls:
        (execution,) = server.await_end(url)
        execution |= {"jobId": url.rstrip("/").rpartition("/")[2]}
        check_ended_well(server, witness, "victim", execution)


def kill_at_random(
    directory: Path, executor: str, scoreboard: Scoreboard, *, jobs: int, kills: int
) -> None:
    """Submit *jobs* while the server is killed *kills* times; check each that was accepted."""
    chance = scoreboard.chance()
    runs = ContainerRuns(directory) if executor == "docker" else None
    with Single(directory, runs, seed=scoreboard.seed) as single:
        load = Load(single, jobs, every_seconds=0.02)
        with load.running() as report:
            for _ in range(kills):
                time.sleep(chance.uniform(0.3, 2.0))
                began = time.monotonic()
                single.server.kill()
                single.server.start()
                single.await_recovery(report, began)
        what = "containers" if executor == "docker" else "processes"
        scoreboard.take(report, f"{what}, kill -9 of the server", "SQLite", f"{kills} times")


def test_killed_at_random(executor: str, tmp_path: Path, scoreboard: Scoreboard) -> None:
    kill_at_random(tmp_path, executor, scoreboard, jobs=12, kills=4)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_killed_at_random_for_long(executor: str, tmp_path: Path, scoreboard: Scoreboard) -> None:
    jobs, kills = scoreboard.scaled(150), scoreboard.scaled(40)
    kill_at_random(tmp_path, executor, scoreboard, jobs=jobs, kills=kills)


def test_due_work_that_was_missed_runs_once(
    executor: str, image: str, server: FastlaneServer, witness: Witness
) -> None:
    server.start()
    answer = server.submit(
        "later", image=image, command=witness.command("later", pause=0), startIn="1s"
    )
    server.kill()
    time.sleep(1.5)
    server.start()
    (execution,) = server.await_end(answer["jobUrl"])
    execution |= {"jobId": answer["jobId"]}
    check_ended_well(server, witness, "later", execution)


def test_sigterm_hands_over(
    executor: str, image: str, server: FastlaneServer, witness: Witness
) -> None:
    """DESIGN rule 11: out within 25 s, containers run on, nothing lost, nothing run twice."""
    server.options["MAX_RUNNING"] = "2"
    server.start()
    answers = {
        f"handed-{number}": server.submit(
            f"handed-{number}", image=image, command=witness.command(f"handed-{number}", 0.1)
        )
        for number in range(5)
    }
    first = answers["handed-0"]["jobUrl"]
    wait_for(lambda: server.executions(first)[0]["status"] == "running", "the first to run")
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 25
    server.start()
    for name, answer in answers.items():
        (execution,) = server.await_end(answer["jobUrl"])
        execution |= {"jobId": answer["jobId"]}
        check_ended_well(server, witness, name, execution)
