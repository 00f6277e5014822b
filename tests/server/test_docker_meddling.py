"""People and machines that meddle with an engine: prune, restart, rename, loss of power.

On an engine of its own, because a prune takes the containers of all.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.engine import EngineServer, StartsHeard
from tests.eventually import wait_for
from tests.fastlane_server import FINAL, FastlaneServer

INSTALLATION = "meddling"
LINES = 20


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineServer]:
    with EngineServer(tmp_path_factory.mktemp("engine")) as engine:
        yield engine


@pytest.fixture(scope="module")
def image(engine: EngineServer) -> str:
    return engine.image()


@pytest.fixture
def server(engine: EngineServer, image: str, tmp_path: Path) -> Iterator[FastlaneServer]:
    options = {
        "DOCKER_HOST": engine.url,
        "INSTALLATION": INSTALLATION,
        "STOP_GRACE_SECONDS": "1",
        "MAX_RUNNING": "8",
    }
    with FastlaneServer(tmp_path, **options) as server:
        yield server


def docker(engine: EngineServer, *arguments: str) -> str:
    """The command line of Docker, as people use it; what it prints."""
    command = ["docker", "-H", engine.url, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout


@contextmanager
def pruned_all_the_time(engine: EngineServer) -> Iterator[None]:
    over = threading.Event()

    def prune() -> None:
        while not over.is_set():
            docker(engine, "system", "prune", "-f")

    thread = threading.Thread(target=prune)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize(
    "jobs", [40, pytest.param(200, marks=pytest.mark.faults)], ids=["short", "long"]
)
def test_a_host_that_is_pruned_all_the_time(
    engine: EngineServer, image: str, server: FastlaneServer, jobs: int
) -> None:
    """``docker system prune -f`` removes what has ended, and what has not been started yet."""
    # Of what ends before anybody reads its log there is none; that is a prune's own doing.
    script = f"sleep 0.5; i=0; while [ $i -lt {LINES} ]; do echo $i; i=$((i+1)); done; exit 7"
    label = f"fastlane.installation={INSTALLATION}"
    with StartsHeard(engine.url, label) as heard, pruned_all_the_time(engine):
        made = [
            server.submit(f"job-{number}", image=image, command=["sh", "-c", script])
            for number in range(jobs)
        ]
        ended = [server.await_end(each["jobUrl"])[0] for each in made]
    outcomes = [(each["status"], each["reason"], each["exitCode"]) for each in ended]
    assert [each for each in outcomes if each != ("failed", "exit-code", 7)] == []
    starts = heard.labels("fastlane.task")
    assert sorted(starts) == sorted(f"job-{number}" for number in range(jobs))
    expected = "".join(f"{number}\n" for number in range(LINES)).encode()
    logs = [server.request("GET", f"{each['url']}stdout/")[1] for each in ended]
    assert [text for text in logs if text != expected] == []


def await_output(server: FastlaneServer, url: str, text: bytes) -> None:
    wait_for(lambda: text in server.request("GET", f"{url}stdout/")[1], f"{text!r} of {url}")


def container_of(engine: EngineServer, execution: dict[str, Any]) -> str:
    wanted = f"label=fastlane.execution={execution['executionId']}"
    return docker(engine, "ps", "-aq", "--no-trunc", "--filter", wanted).strip()


# The first life ends with its SIGTERM, the second by itself.
LIVES = "if [ -e lived ]; then echo second; exit 3; fi; touch lived; {}; echo first; {}"


@pytest.mark.parametrize(
    ("trap", "forever"),
    [
        ("trap 'echo last; exit 0' TERM", "while :; do sleep 0.05; done"),
        ("true", "exec sleep 600"),
        ("trap '' TERM", "while :; do sleep 0.05; done"),
    ],
    ids=["exits-with-0", "terminated", "killed"],
)
def test_a_container_that_someone_restarts(
    engine: EngineServer, image: str, server: FastlaneServer, trap: str, forever: str
) -> None:
    """Its end is the one that lasts, and its log has both lives."""
    command = ["sh", "-c", LIVES.format(trap, forever)]
    made = [server.submit("restart", image=image, command=command) for _ in range(4)]
    executions = []
    for each in made:
        execution = server.executions(each["jobUrl"])[0]
        await_output(server, execution["url"], b"first\n")
        executions.append(execution)
    containers = [container_of(engine, each) for each in executions]
    docker(engine, "restart", "-t", "1", *containers)
    for each, execution in zip(made, executions, strict=True):
        (ended,) = server.await_end(each["jobUrl"])
        assert (ended["status"], ended["exitCode"]) == ("failed", 3), ended
        _, text, _ = server.request("GET", f"{execution['url']}stdout/")
        last = b"last\n" if "last" in trap else b""
        assert text == b"first\n" + last + b"second\n"


def test_a_container_that_someone_renames(
    engine: EngineServer, image: str, server: FastlaneServer
) -> None:
    """It is found again by its labels when the server is restarted."""
    script = "echo first; while [ ! -e go ]; do sleep 0.05; done; echo last; exit 5"
    made = server.submit("rename", image=image, command=["sh", "-c", script])
    execution = server.executions(made["jobUrl"])[0]
    await_output(server, execution["url"], b"first\n")
    container = container_of(engine, execution)
    docker(engine, "rename", container, "something-else")
    server.restart()
    docker(engine, "exec", container, "touch", "go")
    (ended,) = server.await_end(made["jobUrl"])
    assert (ended["status"], ended["exitCode"]) == ("failed", 5), ended
    assert server.request("GET", f"{execution['url']}stdout/")[1] == b"first\nlast\n"
    wait_for(lambda: not container_of(engine, execution), "the removal of the container")


def test_an_exit_code_of_255_is_a_commands_own(image: str, server: FastlaneServer) -> None:
    made = server.submit("code", image=image, command=["sh", "-c", "exit 255"])
    (ended,) = server.await_end(made["jobUrl"])
    assert (ended["status"], ended["reason"], ended["exitCode"]) == ("failed", "exit-code", 255)


def test_a_machine_that_loses_power(
    engine: EngineServer, image: str, server: FastlaneServer
) -> None:
    """What ran on it is lost, and run again where the job says so."""
    command = ["sh", "-c", "echo ran; sleep 600"]
    lost = server.submit("power", image=image, command=command)
    rerun = server.submit("power", image=image, command=command, rerunWhenLost=True, retries=0)
    for each in (lost, rerun):
        await_output(server, server.executions(each["jobUrl"])[0]["url"], b"ran\n")
    engine.lose_power()
    engine.start()
    (ended,) = server.await_end(lost["jobUrl"])
    assert (ended["status"], ended["reason"]) == ("failed", "lost"), ended

    def runs_again() -> bool:
        newest, *before = server.executions(rerun["jobUrl"])
        return len(before) == 1 and newest["status"] == "running"

    wait_for(runs_again, "another run")
    server.request("POST", f"{rerun['jobUrl']}stop/")
    wait_for(lambda: server.executions(rerun["jobUrl"])[0]["status"] in FINAL, "the end")
    assert server.executions(rerun["jobUrl"])[1]["reason"] == "lost"
