"""People and machines that meddle with an engine: prune, restart, rename, loss of power, refusals.

On an engine of its own, because a prune takes the containers of all.
"""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.instances import ContainerRuns, Servers
from tests.engine import EngineServer
from tests.engines import CHUNK_BYTES, EngineProxy
from tests.eventually import wait_for
from tests.fastlane_server import FINAL
from tests.faults.conftest import Place
from tests.load import Expected, Load, Report, await_ends, digest, judge, path_of
from tests.scoreboard import Scoreboard

pytestmark = pytest.mark.timeout(900)

LINES = 20


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineServer]:
    with EngineServer(tmp_path_factory.mktemp("engine")) as engine:
        yield engine


@pytest.fixture(scope="module")
def image(engine: EngineServer) -> str:
    return engine.image()


@pytest.fixture
def servers(engine: EngineServer, image: str, place: Place, tmp_path: Path) -> Iterator[Servers]:
    options = {"STOP_GRACE_SECONDS": "1", "MAX_RUNNING": "24", "LEASE_SECONDS": "4"}
    runs = ContainerRuns(tmp_path, engine.url, image)
    with place.servers(runs=runs, **options) as servers:
        yield servers


def jobs(short: int, long: int) -> pytest.MarkDecorator:
    """How many of them: in `make test`, and in `make faults`."""
    return pytest.mark.parametrize(
        "count", [short, pytest.param(long, marks=pytest.mark.faults)], ids=["short", "long"]
    )


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


@jobs(40, 200)
def test_a_host_that_is_pruned_all_the_time(
    engine: EngineServer, servers: Servers, place: Place, scoreboard: Scoreboard, count: int
) -> None:
    """``docker system prune -f`` removes what has ended, and what has not been started yet."""
    # Of what ends before anybody reads its log there is none; that is a prune's own doing. So many
    # at once take the longer to be read.
    script = (
        f"sleep {count / 80}; i=0; while [ $i -lt {LINES} ]; do echo $i; i=$((i+1)); done; exit 7"
    )
    text = digest("".join(f"{number}\n" for number in range(LINES)))

    def make(name: str) -> Expected:
        return Expected(servers.shell(name, script), stdout=text, stderr=digest(""))

    load = Load(servers, count, make=make, every_seconds=0, settle_seconds=300)
    with load.running() as report, pruned_all_the_time(engine):
        load.await_accepted()
        await_ends(servers, load.accepted, 300)
    scoreboard.take(report, "docker system prune -f all the time", place.where)


def await_output(servers: Servers, url: str, text: str) -> None:
    """Wait until the first execution of the job at *url* has written *text*."""

    def is_there() -> bool:
        found = servers.insist(path_of(url))["job"]["executions"]
        return bool(found) and text in servers.text(f"{path_of(found[-1]['url'])}stdout/")

    wait_for(is_there, f"{text!r} of {url}")


# The first life ends with its SIGTERM, the second by itself.
LIVES = "if [ -e lived ]; then echo second; exit 3; fi; touch lived; {}; echo first; {}"


@pytest.mark.parametrize(
    ("trap", "forever"),
    [
        ("trap 'echo last; exit 0' TERM", "while :; do sleep 0.05; done"),
        ("trap 'echo last; exit 0' TERM", "sleep 600 & wait"),
        ("true", "exec sleep 600"),
        ("trap '' TERM", "while :; do sleep 0.05; done"),
    ],
    ids=["exits-with-0", "exits-at-once", "terminated", "killed"],
)
@jobs(4, 20)
def test_a_container_that_someone_restarts(
    engine: EngineServer,
    servers: Servers,
    place: Place,
    scoreboard: Scoreboard,
    trap: str,
    forever: str,
    count: int,
) -> None:
    """Its end is the one that lasts, and its log has both lives."""
    last = "last\n" if "last" in trap else ""

    def make(name: str) -> Expected:
        body = servers.shell(name, LIVES.format(trap, forever))
        text = digest(f"first\n{last}second\n")
        # Of its two starts one is somebody else's.
        return Expected(body, exit_code=3, stdout=text, stderr=digest(""), starts=2)

    load = Load(servers, count, make=make, every_seconds=0)
    with load.running() as report:
        load.await_accepted()
        for url in load.accepted.values():
            await_output(servers, url, "first\n")
        restarts = [
            subprocess.Popen(["docker", "-H", engine.url, "restart", "-t", "1", each["Id"]])
            for each in containers(servers)
        ]
        assert [each.wait(60) for each in restarts] == [0] * count
    scoreboard.take(report, "docker restart of a running container", place.where)


def containers(servers: Servers) -> list[dict[str, Any]]:
    """What is there of the servers' runs."""
    assert isinstance(servers.runs, ContainerRuns)
    return servers.runs.containers()


@jobs(1, 20)
def test_a_container_that_someone_renames(
    engine: EngineServer, servers: Servers, place: Place, scoreboard: Scoreboard, count: int
) -> None:
    """It is found again by its labels when the servers are restarted."""
    script = "echo first; while [ ! -e go ]; do sleep 0.05; done; echo last; exit 5"

    def make(name: str) -> Expected:
        body = servers.shell(name, script)
        return Expected(body, exit_code=5, stdout=digest("first\nlast\n"), stderr=digest(""))

    load = Load(servers, count, make=make, every_seconds=0)
    with load.running() as report:
        load.await_accepted()
        for url in load.accepted.values():
            await_output(servers, url, "first\n")
        found = [each["Id"] for each in containers(servers)]
        for number, each in enumerate(found):
            docker(engine, "rename", each, f"something-else-{number}-{time.monotonic_ns()}")
        for instance in servers.instances:
            instance.kill()
        for instance in servers.instances:
            instance.start()
        servers.await_recovery(report)
        for each in found:
            docker(engine, "exec", each, "touch", "go")
    scoreboard.take(report, "containers renamed, servers restarted", place.where)
    wait_for(lambda: not containers(servers), "the removal of the containers")


def test_an_exit_code_of_255_is_a_commands_own(servers: Servers) -> None:
    (server,) = servers.instances[:1]
    made = server.submit("code", **servers.shell("code", "exit 255"))
    (ended,) = server.await_end(made["jobUrl"])
    assert (ended["status"], ended["reason"], ended["exitCode"]) == ("failed", "exit-code", 255)


@jobs(1, 8)
def test_a_machine_that_loses_power(
    engine: EngineServer, servers: Servers, place: Place, scoreboard: Scoreboard, count: int
) -> None:
    """What ran on it is lost, and run again where the job says so."""
    server = servers.instances[0]
    body = servers.shell("power", "echo ran; sleep 600")
    lost = [server.submit("power", **body)["jobUrl"] for _ in range(count)]
    again = [
        server.submit("power", **body, rerunWhenLost=True, retries=0)["jobUrl"]
        for _ in range(count)
    ]
    for url in (*lost, *again):
        await_output(servers, url, "ran\n")
    engine.lose_power()
    engine.start()
    began = time.monotonic()
    report = Report(accepted=2 * count)
    wanted = Expected(body, reason="lost", exit_code=None, stdout=digest("ran\n"), stderr=None)
    for name, url in [*(("lost", url) for url in lost), *(("again", url) for url in again)]:
        (first,) = wait_for(partial(first_ended, servers, url), f"the end of {url}", 120)
        judge(report, servers, name, wanted, {**first, "exitCode": None})
    for url in again:
        wait_for(partial(runs_again, servers, url), "another run", 120)
    report.recoveries.append(time.monotonic() - began)
    for url in again:
        servers.request("POST", f"{path_of(url)}stop/")
        wait_for(partial(are_final, servers, url), "the end", 120)
    counts = [len(servers.insist(path_of(url))["job"]["executions"]) for url in (*lost, *again)]
    report.started_twice = [str(number) for number in counts[:count] if number > 1]
    report.lost = [str(number) for number in counts[count:] if number < 2]
    scoreboard.take(report, "the engine's machine loses power", place.where)


def first_ended(servers: Servers, url: str) -> list[dict[str, Any]] | None:
    found = servers.insist(path_of(url))["job"]["executions"]
    return [found[-1]] if found[-1]["status"] in FINAL else None


def runs_again(servers: Servers, url: str) -> bool:
    newest, *before = servers.insist(path_of(url))["job"]["executions"]
    return len(before) == 1 and newest["status"] == "running"


def are_final(servers: Servers, url: str) -> bool:
    found = servers.insist(path_of(url))["job"]["executions"]
    return all(each["status"] in FINAL for each in found)


class Refusing(EngineProxy):
    """An engine that cannot create a container while *refuses* is true."""

    REASON = "no space left on device"
    refuses = True

    def _requests(self, client: socket.socket, upstream: socket.socket) -> None:
        body = json.dumps({"message": self.REASON}).encode()
        head = (
            "HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        with suppress(OSError):
            while chunk := client.recv(CHUNK_BYTES):
                if self.refuses and b"/containers/create" in chunk.partition(b"\r\n")[0]:
                    client.sendall(head.encode() + body)
                    break
                upstream.sendall(chunk)
        with suppress(OSError):
            upstream.shutdown(socket.SHUT_WR)


@jobs(1, 20)
def test_a_host_that_cannot_create(
    engine: EngineServer,
    image: str,
    place: Place,
    tmp_path: Path,
    scoreboard: Scoreboard,
    count: int,
) -> None:
    """Each execution says why it waits within 10 s, and runs once the host is well."""
    runs = ContainerRuns(tmp_path, engine.url, image)
    with (
        Refusing.to_socket(engine.url) as proxy,
        place.servers(runs=runs, DOCKER_HOST=proxy.host, LEASE_SECONDS="4") as servers,
    ):
        assert isinstance(proxy, Refusing)
        load = Load(servers, count, pause=0.02, every_seconds=0)
        with load.running() as report:
            load.await_accepted()
            began = time.monotonic()
            for url in load.accepted.values():
                wait_for(partial(says, servers, url, proxy.REASON), f"the reason in {url}")
            seconds = time.monotonic() - began
            proxy.refuses = False
            began = time.monotonic()
            wait_for(servers.starts, "a start")
            report.recoveries.append(time.monotonic() - began)
        what = "a host that cannot create a container"
        scoreboard.take(report, what, place.where, f"all {count} say why after {seconds:.1f} s")
        assert seconds < 10


def says(servers: Servers, url: str, reason: str) -> bool:
    (execution,) = servers.insist(path_of(url))["job"]["executions"]
    return reason in (execution["metadata"]["waiting"] or "")
