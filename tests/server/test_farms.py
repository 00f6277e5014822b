"""Farms of several real engines: which host runs what, and what becomes of it when one fails."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from fastlane.executors.base import RunSpec
from fastlane.executors.docker.networks import network_config
from fastlane.image import ImageReference
from scripts.engine import Engine
from scripts.scoreboard import Row
from tests.engine import EngineServer, RegistryServer, find_engine
from tests.engines import EngineProxy, SwarmEngine, TlsEngine, TwoNodeSwarm
from tests.eventually import wait_for
from tests.fastlane_server import FINAL, FastlaneServer
from tests.scoreboard import Scoreboard
from tests.services import frozen

# A host that failed once is out at once, and is tried again soon.
QUICK = {
    "DOCKER_CIRCUIT_BREAKER_MAX_FAILS": "2",
    "DOCKER_CIRCUIT_BREAKER_RESET_TIMEOUT_SECONDS": "1",
    "STOP_GRACE_SECONDS": "0",
}


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineServer]:
    """A second engine, which no test of this module leaves in a bad state."""
    with EngineServer(tmp_path_factory.mktemp("second")) as engine:
        engine.image()
        yield engine


def all_right(scenario: str, count: int) -> Row:
    """The row of a scenario whose test has checked all of it."""
    return Row(scenario, "SQLite", count, lost=0, twice=0, wrong_outcome=0, wrong_log=0)


def farms(*entries: dict[str, Any]) -> dict[str, str]:
    return {"DOCKER_HOSTS": json.dumps(entries), **QUICK}


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def execution(server: FastlaneServer, url: str) -> dict[str, Any]:
    found: dict[str, Any] = server.get(url)["execution"]
    return found


def shows(server: FastlaneServer, url: str, log: str) -> bool:
    return bool(execution(server, url)["log"] == log)


def await_end(server: FastlaneServer, url: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        found = execution(server, url)
        return found if found["status"] in FINAL else None

    return wait_for(ended, f"{url} to end")


def await_status(server: FastlaneServer, url: str, status: str) -> dict[str, Any]:
    def reached() -> dict[str, Any] | None:
        found = execution(server, url)
        assert found["status"] not in FINAL or found["status"] == status, found
        return found if found["status"] == status else None

    return wait_for(reached, f"{url} to be {status}")


def await_log(server: FastlaneServer, url: str, text: str) -> None:
    wait_for(lambda: execution(server, url)["log"] == text, f"the log of {url} to be {text!r}")


def await_rerun(server: FastlaneServer, answer: dict[str, Any]) -> dict[str, Any]:
    """The execution that follows a lost one, seen to run and stopped."""
    wait_for(lambda: len(server.executions(answer["jobUrl"])) == 2, "a second execution")
    newer, older = server.executions(answer["jobUrl"])
    assert (older["status"], older["reason"]) == ("failed", "lost")
    await_log(server, newer["url"], "here\n")
    server.request("POST", f"{newer['url']}stop/")
    return await_end(server, newer["url"])


def await_waiting(server: FastlaneServer, url: str, words: str) -> str:
    def waits() -> str | None:
        found = execution(server, url)
        assert found["status"] not in FINAL, found
        waiting = found["metadata"]["waiting"] or ""
        return waiting if words in waiting else None

    return wait_for(waits, f"{url} to wait because of {words!r}")


def host_of(server: FastlaneServer, name: str) -> dict[str, Any]:
    hosts = server.get("/status/")["hosts"]
    port = None if name.startswith("unix:") else int(name.rpartition(":")[2])
    key = (name, None) if port is None else (name.rpartition(":")[0], port)
    found: dict[str, Any] = next(h for h in hosts if (h["host"], h["port"]) == key)
    return found


def await_circuit(server: FastlaneServer, name: str, *circuits: str) -> dict[str, Any]:
    def reached() -> dict[str, Any] | None:
        host = host_of(server, name)
        return host if host["circuit"] in circuits else None

    return wait_for(reached, f"the circuit of {name} to be {circuits}")


def blacklist(server: FastlaneServer, method: str, host: Any, slash: str = "") -> int:
    body = {"host": host} if host is not None else {}
    return server.request(method, f"/docker-executor/blacklist{slash}", body)[0]


def containers(engine: str, execution_id: str) -> list[dict[str, Any]]:
    filters = quote(json.dumps({"label": [f"fastlane.execution={execution_id}"]}))
    found: list[dict[str, Any]] = Engine(engine).get(f"/containers/json?all=1&filters={filters}")
    return found


# -- draining ---------------------------------------------------------------------------------


def test_a_host_is_drained_upgraded_and_put_back_under_load(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, scoreboard: Scoreboard
) -> None:
    first, image = find_engine()
    with EngineServer(tmp_path_factory.mktemp("drained")) as engine:
        engine.image()
        options = farms({"hosts": [first, engine.url], "maxRunning": 4})
        with FastlaneServer(tmp_path, **options) as server:
            urls = [
                server.submit("load", image=image, command="sleep 0.3")["executionUrl"]
                for _ in range(30)
            ]
            wait_for(lambda: host_of(server, engine.url)["running"], "work on the second host")

            assert blacklist(server, "POST", engine.url) == 200
            assert blacklist(server, "PUT", engine.url, "/") == 200
            taken = {
                each["executionId"]
                for each in server.get("/status/")["containers"]["running"]
                if each["host"] == engine.url
            }
            host = host_of(server, engine.url)
            assert (host["blacklisted"], host["available"], host["circuit"]) == (
                True,
                False,
                "closed",
            )
            wait_for(lambda: not host_of(server, engine.url)["running"], "the host to be empty")
            # Also after a restart of the server it is left alone.
            server.restart()
            assert host_of(server, engine.url)["blacklisted"]
            drained = [execution(server, url) for url in urls]
            assert {
                one["executionId"]
                for one in drained
                if one["metadata"]["docker_host"] == engine.url and one["status"] not in FINAL
            } == set()
            assert len(taken) <= 4
            engine.stop()
            engine.start()
            assert blacklist(server, "DELETE", engine.url, "/") == 200
            urls += [
                server.submit("load", image=image, command="sleep 0.3")["executionUrl"]
                for _ in range(6)
            ]
            ended = [await_end(server, url) for url in urls]
            done = Counter(one["status"] for one in ended)["done"]
            what = "a host is drained, upgraded and put back"
            scoreboard.add(Row(what, "SQLite", 36, lost=0, wrong_outcome=len(ended) - done))
            assert done == len(ended) == 36
            assert {one["metadata"]["docker_host"] for one in ended[-6:]} == {first, engine.url}
            assert host_of(server, engine.url)["error"] is None


def test_the_black_list_knows_hosts_and_nothing_else(tmp_path: Path) -> None:
    options = {
        **farms({"hosts": ["tcp://127.0.0.1:9"]}, {"name": "b", "hosts": ["localhost:9"]}),
        "MAX_RUNNING": "2",
    }
    with FastlaneServer(tmp_path, **options) as server:
        for method in ("POST", "PUT", "DELETE"):
            assert blacklist(server, method, "127.0.0.1:10") == 404
            for malformed in ("127.0.0.1", "", 9, None, "http://a b:1", "ssh://a:1"):
                assert blacklist(server, method, malformed) == 400
        assert blacklist(server, "POST", "127.0.0.1:9") == 200
        assert host_of(server, "127.0.0.1:9")["blacklisted"]
        assert not host_of(server, "localhost:9")["blacklisted"]
        answer = server.submit("out", image="none:1", command="true")
        waiting = await_waiting(server, answer["executionUrl"], "black-listed")
        assert waiting == "No host is available: tcp://127.0.0.1:9 is black-listed."
        (farm, _) = server.get("/status/")["farms"]
        assert farm["blocked"] == waiting
        assert server.get("/docker-executor/blacklist/") == {"hosts": ["tcp://127.0.0.1:9"]}


# -- hosts that fail --------------------------------------------------------------------------


def test_a_frozen_host_is_left_and_comes_back(tmp_path: Path, second: EngineServer) -> None:
    """REGRESSIONS 8: nothing fails for it, and nothing waits for it while another host is well."""
    first, image = find_engine()
    options = farms({"hosts": [second.url, first], "maxRunning": 2})
    with FastlaneServer(tmp_path, **options) as server:
        with frozen(second.pid):
            urls = [
                server.submit("frozen", image=image, command="true")["executionUrl"]
                for _ in range(3)
            ]
            ended = [await_end(server, url) for url in urls]
            assert {(one["status"], one["metadata"]["docker_host"]) for one in ended} == {
                ("done", first)
            }
            assert "in time" in host_of(server, second.url)["error"]
        assert blacklist(server, "POST", first) == 200
        answer = server.submit("thawed", image=image, command="true")
        ended = [await_end(server, answer["executionUrl"])]
        assert (ended[0]["status"], ended[0]["metadata"]["docker_host"]) == ("done", second.url)
        assert host_of(server, second.url)["error"] is None


def test_all_hosts_out_executions_wait_and_say_why(tmp_path: Path) -> None:
    """REGRESSIONS 8 and 27."""
    with EngineServer(tmp_path / "engine") as engine:
        image = engine.image()
        options = farms({"hosts": [engine.url], "maxRunning": 1})
        with FastlaneServer(tmp_path / "server", **options) as server:
            engine.stop()
            urls = [
                server.submit("away", image=image, command="true")["executionUrl"] for _ in range(3)
            ]
            host = await_circuit(server, engine.url, "open")
            assert host["error"]
            assert not host["available"]
            await_waiting(server, urls[2], "No host is available")
            job = server.get(urls[2].partition("executions/")[0])["job"]
            assert job["executions"][0]["metadata"]["waiting"]
            engine.start()
            ended = [await_end(server, url) for url in urls]
            assert {one["status"] for one in ended} == {"done"}
            await_circuit(server, engine.url, "closed")
            assert host_of(server, engine.url)["error"] is None


def test_a_host_that_dies_with_a_container_on_it(tmp_path: Path, scoreboard: Scoreboard) -> None:
    """Lost after the time that was asked for, and run again elsewhere where the job says so."""
    first, _ = find_engine()
    with EngineServer(tmp_path / "engine") as engine:
        image = engine.image()
        options = farms({"hosts": [engine.url, first], "maxRunning": 4})
        options |= {"HOST_LOST_AFTER_SECONDS": "3"}
        with FastlaneServer(tmp_path / "server", **options) as server:
            assert blacklist(server, "POST", first) == 200
            command = sh("echo here; [ -e /never ] || sleep 60")
            lost = server.submit("dies", image=image, command=command)
            again = server.submit(
                "dies",
                image=image,
                command=sh("echo here; sleep 2"),
                rerunWhenLost=True,
                backoff={"minMs": 1},
            )
            for answer in (lost, again):
                await_log(server, answer["executionUrl"], "here\n")
            assert blacklist(server, "DELETE", first) == 200
            engine.kill()
            ended = await_end(server, lost["executionUrl"])
            assert (ended["status"], ended["reason"]) == ("failed", "lost")
            assert "unreachable" in ended["metadata"]["message"]
            assert ended["log"] == "here\n", "what was read before stays"
            newer, older = server.await_end(again["jobUrl"], executions=2)
            assert (older["reason"], newer["status"]) == ("lost", "done")
            assert newer["metadata"]["docker_host"] == first
            assert len(server.executions(lost["jobUrl"])) == 1
            scoreboard.add(all_right("an engine dies with its containers", 2))
        engine.start()


def test_a_host_that_is_back_in_time_loses_nothing(tmp_path: Path) -> None:
    with EngineServer(tmp_path / "engine", "--live-restore") as engine:
        image = engine.image()
        with FastlaneServer(tmp_path / "server", **farms({"hosts": [engine.url]})) as server:
            answer = server.submit(
                "back", image=image, command=sh("for i in 1 2 3 4 5 6; do echo $i; sleep 1; done")
            )
            url = answer["executionUrl"]
            await_status(server, url, "running")
            os.kill(engine.pid, signal.SIGKILL)
            engine.kill()
            await_circuit(server, engine.url, "open", "half-open")
            engine.start()
            ended = await_end(server, url)
            assert (ended["status"], ended["log"]) == ("done", "1\n2\n3\n4\n5\n6\n")
            await_circuit(server, engine.url, "closed")


@pytest.mark.parametrize(
    "seconds", [5, pytest.param(30, marks=[pytest.mark.faults, pytest.mark.timeout(180)])]
)
def test_a_host_that_is_frozen_under_a_run_and_thaws(tmp_path: Path, seconds: int) -> None:
    """What the run writes and how it ends while nobody can ask comes whole afterwards."""
    first, image = find_engine()
    with EngineServer(tmp_path / "engine") as engine:
        engine.image()
        options = farms({"hosts": [engine.url, first], "maxRunning": 4})
        with FastlaneServer(tmp_path / "server", **options) as server:
            assert blacklist(server, "POST", first) == 200
            # It ends while its engine is frozen.
            script = f"seq 1 500; sleep {seconds / 2}; seq 501 1000; exit 3"
            answer = server.submit("frozen", image=image, command=sh(script))
            url = answer["executionUrl"]
            await_status(server, url, "running")
            with frozen(engine.pid):
                thaw_at = time.monotonic() + seconds
                assert blacklist(server, "DELETE", first) == 200
                assert blacklist(server, "POST", engine.url) == 200
                while time.monotonic() < thaw_at:
                    other = server.submit("other", image=image, command="sleep 0.5")
                    ended = await_end(server, other["executionUrl"])
                    assert (ended["status"], ended["metadata"]["docker_host"]) == ("done", first)
                    assert execution(server, url)["status"] == "running"
            ended = await_end(server, url)
            assert (ended["status"], ended["reason"], ended["exitCode"]) == (
                "failed",
                "exit-code",
                3,
            )
            assert ended["log"] == "".join(f"{number}\n" for number in range(1, 1001))
            assert len(server.executions(answer["jobUrl"])) == 1


@pytest.mark.faults
@pytest.mark.timeout(180)
def test_a_host_that_stays_frozen_loses_its_runs(tmp_path: Path, scoreboard: Scoreboard) -> None:
    """In bounded time, though none of its calls is ever answered."""
    first, image = find_engine()
    with EngineServer(tmp_path / "engine") as engine:
        engine.image()
        options = farms({"hosts": [engine.url, first], "maxRunning": 4})
        options |= {"HOST_LOST_AFTER_SECONDS": "3"}
        with FastlaneServer(tmp_path / "server", **options) as server:
            assert blacklist(server, "POST", first) == 200
            command = sh("echo here; exec sleep 600")
            lost = server.submit("frozen", image=image, command=command)
            again = server.submit(
                "again", image=image, command=command, rerunWhenLost=True, backoff={"minMs": 1}
            )
            for answer in (lost, again):
                await_log(server, answer["executionUrl"], "here\n")
            with frozen(engine.pid):
                assert blacklist(server, "DELETE", first) == 200
                ended = await_end(server, lost["executionUrl"])
                assert (ended["status"], ended["reason"]) == ("failed", "lost")
                assert "unreachable" in ended["metadata"]["message"]
                assert ended["log"] == "here\n"
                newer = await_rerun(server, again)
                assert newer["metadata"]["docker_host"] == first
                assert len(server.executions(lost["jobUrl"])) == 1
            # What was lost does not run on for ever where it was.
            wait_for(lambda: not containers(engine.url, lost["executionId"]), "it to be ended")
            scoreboard.add(all_right("an engine stays frozen", 2))


def test_a_removed_container_is_lost_and_its_host_is_well(
    tmp_path: Path, second: EngineServer
) -> None:
    """REGRESSIONS 21 and 31."""
    image = second.image()
    with FastlaneServer(tmp_path, **farms({"hosts": [second.url]})) as server:
        answer = server.submit("removed", image=image, command=sh("echo kept; sleep 60"))
        url = answer["executionUrl"]
        wait_for(lambda: execution(server, url)["log"] == "kept\n", "its first line")
        (container,) = containers(second.url, answer["executionId"])
        Engine(second.url).call("DELETE", f"/containers/{container['Id']}?force=1")
        ended = await_end(server, url)
        # The engine may tell of the kill before it has forgotten the container.
        assert ended["status"] == "failed"
        assert ended["reason"] in {"lost", "exit-code"}
        assert ended["log"] == "kept\n"
        host = host_of(server, second.url)
        assert (host["circuit"], host["error"]) == ("closed", None)
        missing = server.submit("none", image="no-such:1", command="true", pullPolicy="never")
        assert await_end(server, missing["executionUrl"])["reason"] == "pull-failed"
        assert host_of(server, second.url)["error"] is None


@pytest.mark.parametrize("lose", [b"/start HTTP", b"/containers/create"], ids=["start", "create"])
def test_an_answer_that_is_lost_starts_nothing_twice(
    tmp_path: Path, second: EngineServer, lose: bytes
) -> None:
    """REGRESSIONS 12."""
    image = second.image()
    with EngineProxy.to_socket(second.url) as proxy:
        proxy.lose = lose
        with FastlaneServer(tmp_path, **farms({"hosts": [proxy.host]})) as server:
            answer = server.submit("lost", image=image, command="echo once")
            ended = await_end(server, answer["executionUrl"])
            assert proxy.lost.is_set()
            assert (ended["status"], ended["log"]) == ("done", "once\n")
            assert len(server.executions(answer["jobUrl"])) == 1


def test_a_host_that_is_dropped_from_the_configuration(
    tmp_path: Path, second: EngineServer
) -> None:
    """REGRESSIONS 22; and what was queued for a farm that is gone goes to the one that is there."""
    first, image = find_engine()
    options = farms({"name": "old", "hosts": [second.url], "maxRunning": 1})
    with FastlaneServer(tmp_path, **options) as server:
        answer = server.submit("dropped", image=image, command="sleep 60")
        await_status(server, answer["executionUrl"], "running")
        queued = server.submit("dropped", image=image, command="echo moved")
        assert "the most it may run" in await_waiting(server, queued["executionUrl"], "Farm old")
        server.restart(HOST_LOST_AFTER_SECONDS="1", **farms({"name": "new", "hosts": [first]}))
        moved = await_end(server, queued["executionUrl"])
        assert (moved["status"], moved["metadata"]["farm"], moved["log"]) == (
            "done",
            "new",
            "moved\n",
        )
        ended = await_end(server, answer["executionUrl"])
        assert (ended["status"], ended["reason"]) == ("failed", "lost")
        assert "no longer in any farm" in ended["metadata"]["message"]
        wait_for(
            lambda: not containers(second.url, answer["executionId"]), "its container to go, too"
        )


# -- what a farm says of its hosts and jobs ---------------------------------------------------


def test_an_engine_that_speaks_tls(tmp_path: Path) -> None:
    with TlsEngine(tmp_path / "tls") as engine:
        image = engine.image()
        plain = {"hosts": [engine.host], "maxRunning": 2}
        secure = {**plain, "tls": str(engine.certificates)}
        with FastlaneServer(tmp_path / "server", **farms(secure)) as server:
            answer = server.submit("tls", image=image, command="echo secret")
            ended = await_end(server, answer["executionUrl"])
            assert (ended["status"], ended["log"]) == ("done", "secret\n")
            # What docker itself understands.
            server.restart(
                **farms(plain), DOCKER_TLS_VERIFY="1", DOCKER_CERT_PATH=str(engine.certificates)
            )
            answer = server.submit("tls", image=image, command="echo again")
            assert await_end(server, answer["executionUrl"])["log"] == "again\n"
            # Without a certificate the engine is not to be had, and that is said.
            server.restart(**farms(plain), DOCKER_TLS_VERIFY="", DOCKER_CERT_PATH="")
            answer = server.submit("tls", image=image, command="echo never")
            await_waiting(server, answer["executionUrl"], "No host is available")
            assert host_of(server, engine.host)["error"]


def test_the_network_of_an_isolated_run_ends_with_it(tmp_path: Path) -> None:
    """Also where the server that made it was killed."""
    host, image = find_engine()

    def networks() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = Engine(host).get("/networks")
        return [each for each in found if each["Name"] == f"fastlane-{answer['executionId']}"]

    options = farms({"hosts": [host], "network": "isolated"})
    with FastlaneServer(tmp_path, **options) as server:
        answer = server.submit("isolated", image=image, command="ls /sys/class/net")
        assert await_end(server, answer["executionUrl"])["log"] == "eth0\nlo\n"
        wait_for(lambda: not networks(), "the network to go")
        answer = server.submit("isolated", image=image, command=sh("echo here; exec sleep 60"))
        await_log(server, answer["executionUrl"], "here\n")
        assert len(networks()) == 1
        server.restart()
        assert len(networks()) == 1
        server.request("POST", f"{answer['executionUrl']}stop/")
        assert await_end(server, answer["executionUrl"])["reason"] == "stopped"
        wait_for(lambda: not networks(), "the network to go")


def test_what_a_crash_left_of_an_isolated_run_is_swept(tmp_path: Path) -> None:
    host, image = find_engine()
    installation = f"test-{uuid.uuid4().hex[:8]}"
    options = {**farms({"hosts": [host], "network": "isolated"}), "INSTALLATION": installation}
    with FastlaneServer(tmp_path, **options) as server:
        answer = server.submit("isolated", image=image, command="true")
        await_end(server, answer["executionUrl"])
        wait_for(lambda: not containers(host, answer["executionId"]), "its container to go")
        server.kill()
        spec = RunSpec(answer["executionId"], "isolated", "j", ImageReference.parse(image), ())
        body = json.dumps(network_config(spec, installation, 0)).encode()
        network = json.loads(Engine(host).call("POST", "/networks/create", body))["Id"]
        server.start()

        def gone() -> bool:
            return all(each["Id"] != network for each in Engine(host).get("/networks"))

        wait_for(gone, "the network to go")


def test_a_private_registry_and_the_progress_of_a_pull(tmp_path: Path) -> None:
    host, image = find_engine()
    registry = PrivateRegistry(tmp_path / "registry")
    with registry:
        name = registry.push(host, image, "team/private:1")
    login = {"username": PrivateRegistry.USER, "password": PrivateRegistry.PASSWORD}
    registry.private = True
    docker_config = tmp_path / "docker" / "config.json"
    docker_config.parent.mkdir()
    pair = base64.b64encode(":".join(login.values()).encode()).decode()
    docker_config.write_text(json.dumps({"auths": {registry.url: {"auth": pair}}}))
    cases: list[tuple[dict[str, Any], dict[str, str], str]] = [
        ({}, {"DOCKER_CONFIG": str(tmp_path), "REGISTRIES_ALLOWED": registry.url}, "failed"),
        ({"registryAuth": {registry.url: login}}, {"DOCKER_CONFIG": str(tmp_path)}, "done"),
        ({"registryAuth": str(docker_config)}, {"DOCKER_CONFIG": str(tmp_path)}, "done"),
        ({}, {"DOCKER_CONFIG": str(docker_config.parent)}, "done"),
    ]
    with registry:
        for number, (keys, environment, status) in enumerate(cases):
            options = {**farms({"hosts": [host], **keys}), **environment}
            with FastlaneServer(tmp_path / str(number), **options) as server:
                answer = server.submit(
                    "private", image=name, command="echo pulled", pullPolicy="always"
                )
                ended = await_end(server, answer["executionUrl"])
                assert ended["status"] == status, ended
                assert PrivateRegistry.PASSWORD not in server.log_text()
                assert pair not in server.log_text()
                if status == "failed":
                    assert ended["reason"] == "pull-failed"
                    assert host_of(server, host)["error"] is None
                    continue
                assert ended["log"] == "pulled\n"
                records = stored_log(server, answer["executionUrl"])
                streams = [record["stream"] for record in records if "stream" in record]
                assert streams[-1] == "stdout"
                assert set(streams[:-1]) == {"fastlane"}
                assert "Pulling from team/private" in records[0]["text"]
    Engine(host).call("DELETE", f"/images/{name}?force=1")


class PrivateRegistry(RegistryServer):
    """A registry that asks for a password once it is ``private``."""

    USER = "ann"
    PASSWORD = "opensesame"
    # bcrypt, which is all that it takes.
    HTPASSWD = "ann:$2b$04$MEVRKnHXA3NRFnHC1gCxT..wHK.nsE6dEQQofbNWOqLeMLp6mBBVG\n"
    private = False

    def command(self) -> list[str]:
        """See :meth:`Server.command`."""
        command = super().command()
        if self.private:
            passwords = self.directory / "htpasswd"
            passwords.write_text(self.HTPASSWD)
            path = Path(command[-1])
            config = json.loads(path.read_text())
            config["auth"] = {"htpasswd": {"realm": "tests", "path": str(passwords)}}
            path.write_text(json.dumps(config))
        return command

    def ping(self) -> bool:
        """See :meth:`Server.ping`."""
        request = b"GET /v2/ HTTP/1.0\r\n\r\n"
        wanted = b" 401 " if self.private else b" 200 "
        return self.ask(request, lambda answer: wanted in answer)


def stored_log(server: FastlaneServer, url: str) -> list[dict[str, Any]]:
    """The records of a log, as a viewer gets them."""
    script = (
        "import asyncio, json, sys, aiohttp\n"
        "async def main():\n"
        "    async with aiohttp.ClientSession() as s, s.ws_connect(sys.argv[1]) as ws:\n"
        "        async for message in ws: print(message.data)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, f"{url}ws/?format=json"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_limits_and_images_of_a_farm(tmp_path: Path, second: EngineServer) -> None:
    image = second.image()
    farm = {
        "hosts": [second.url],
        "limits": {"memory": "64m", "pids": 50},
        "images": [f"{image.partition(':')[0]}:.*"],
    }
    with FastlaneServer(tmp_path, **farms(farm)) as server:
        answer = server.submit(
            "capped", image=image, command="sleep 60", resources={"memory": "1g", "pids": 10}
        )
        await_status(server, answer["executionUrl"], "running")
        (container,) = containers(second.url, answer["executionId"])
        details: Any = Engine(second.url).get(f"/containers/{container['Id']}/json")
        limits = details["HostConfig"]
        assert (limits["Memory"], limits["PidsLimit"]) == (64 * 1024**2, 10)
        server.request("POST", f"{answer['jobUrl']}stop/")
        await_end(server, answer["executionUrl"])
        status, body, _ = server.request(
            "POST", "/tasks/refused/", {"image": "other:1", "command": "true"}
        )
        assert status == 400
        assert 'does not run image "other:1"' in json.loads(body)["detail"]
        assert server.request("GET", "/tasks/refused/")[0] == 404, "nothing was created"


def test_a_run_that_fills_the_disk_of_its_host_is_ended(
    tmp_path: Path, second: EngineServer
) -> None:
    image = second.image()
    farm = {"hosts": [second.url], "limits": {"disk": "20m"}}
    with FastlaneServer(tmp_path, **farms(farm)) as server:
        script = f"head -c {40 * 1024**2} /dev/zero >/filled; echo filled; exec sleep 60"
        answer = server.submit("filling", image=image, command=sh(script), resources={"disk": "1g"})
        ended = await_end(server, answer["executionUrl"])
        assert (ended["status"], ended["reason"]) == ("failed", "disk"), ended
        assert "disk" in ended["error"]
        wait_for(lambda: not containers(second.url, answer["executionId"]), "its container to go")
        small = server.submit("small", image=image, command=sh("head -c 4096 /dev/zero >/x"))
        assert await_end(server, small["executionUrl"])["status"] == "done"


# -- clean-up ---------------------------------------------------------------------------------


def fastlane(server: FastlaneServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **server.options}
    return subprocess.run(
        [sys.executable, "-m", "fastlane", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )


def test_finished_containers_are_kept_aside_and_pruned(
    tmp_path: Path, second: EngineServer
) -> None:
    image = second.image()
    options = {**farms({"hosts": [second.url]}), "CONTAINER_RETENTION": "3600"}
    with FastlaneServer(tmp_path, **options) as server:
        ended = server.submit("kept", image=image, command="true")
        await_end(server, ended["executionUrl"])
        runs = server.submit("kept", image=image, command="sleep 60")
        await_status(server, runs["executionUrl"], "running")

        def names() -> list[str] | None:
            found = containers(second.url, ended["executionId"])
            named: list[str] = [name for each in found for name in each["Names"]]
            return named if named == [f"/fastlane-ended-{ended['executionId']}"] else None

        wait_for(names, "the container to be set aside")
        nobody = fastlane(server, "prune", "--dry-run", "--server", "http://127.0.0.1:9")
        assert nobody.returncode == 1, "nobody is there to be asked"
        shown = fastlane(server, "prune", "--dry-run", "--server", server.url)
        assert shown.returncode == 0, shown.stderr
        assert ended["executionId"] in shown.stdout
        assert runs["executionId"] not in shown.stdout
        assert names()
        server.kill()
        pruned = fastlane(server, "prune")
        assert pruned.returncode == 0, pruned.stderr
        assert ended["executionId"] in pruned.stdout
        assert not containers(second.url, ended["executionId"])
        assert containers(second.url, runs["executionId"]), "what runs is left alone"
        server.start()
        server.request("POST", f"{runs['jobUrl']}stop/")
        assert await_end(server, runs["executionUrl"])["reason"] == "stopped"
        stranger = FastlaneServer(tmp_path / "stranger", **farms({"hosts": [second.url]}))
        others = fastlane(stranger, "prune")
        assert (others.returncode, others.stdout) == (0, "")


def test_kept_containers_and_records_go_when_their_time_is_over(
    tmp_path: Path, second: EngineServer
) -> None:
    image = second.image()
    options = {
        **farms({"hosts": [second.url]}),
        "CONTAINER_RETENTION": "1",
    }
    with FastlaneServer(tmp_path, **options) as server:
        answer = server.submit("goes", image=image, command="true")
        await_end(server, answer["executionUrl"])
        wait_for(lambda: not containers(second.url, answer["executionId"]), "the container to go")
        # A step at the start is enough for what is old by then.
        server.restart(CONTAINER_RETENTION="0", EXECUTION_RETENTION="0.001")
        wait_for(lambda: server.get("/status/")["tasks"]["count"] == 0, "the record to go")
        assert server.request("GET", answer["jobUrl"])[0] == 404
        assert server.get("/tasks/")["items"] == []


# -- a swarm ----------------------------------------------------------------------------------


def test_executions_run_as_services_of_a_swarm(tmp_path: Path) -> None:
    with SwarmEngine(tmp_path / "swarm") as engine:
        image = engine.image()
        options = {**farms({"hosts": [engine.url]}), "EXECUTOR": "swarm"}
        with FastlaneServer(tmp_path / "server", **options) as server:
            answer = server.submit("swarm", image=image, command=sh("echo out; exit 3"))
            ended = await_end(server, answer["executionUrl"])
            assert (ended["status"], ended["exitCode"], ended["log"]) == ("failed", 3, "out\n")
            missing = server.submit("swarm", image="no-such:1", command="true")
            assert await_end(server, missing["executionUrl"])["reason"] == "pull-failed"
            long = server.submit("swarm", image=image, command=sh("echo here; sleep 60"))
            url = long["executionUrl"]
            wait_for(lambda: execution(server, url)["log"] == "here\n", "its first line")
            # Another owner finds it again.
            server.restart()
            assert execution(server, url)["status"] == "running"
            server.request("POST", f"{url}stop/")
            stopped = await_end(server, url)
            assert (stopped["reason"], stopped["log"]) == ("stopped", "here\n")
            wait_for(lambda: not Engine(engine.url).get("/services"), "the services to go")


def test_farms_of_three_executors_side_by_side(tmp_path: Path) -> None:
    host, image = find_engine()
    with SwarmEngine(tmp_path / "swarm") as engine:
        options = farms(
            {"match": "^docker", "hosts": [host]},
            {"match": "^swarm", "hosts": [engine.url], "executor": "swarm"},
            {"match": "^process", "hosts": ["process://here"]},
        )
        images = {"docker": image, "swarm": engine.image(), "process": "any"}
        with FastlaneServer(tmp_path / "server", **options) as server:
            script = sh('test "${HOME##*/}" = work || echo in a container; echo out; exit 3')
            urls = {
                name: server.submit(name, image=images[name], command=script)["executionUrl"]
                for name in images
            }
            ended = {name: await_end(server, url) for name, url in urls.items()}
            assert [one["exitCode"] for one in ended.values()] == [3, 3, 3]
            inside = "in a container\nout\n"
            assert {name: one["log"] for name, one in ended.items()} == {
                "docker": inside,
                "swarm": inside,
                "process": "out\n",
            }
            # Each finds its own again, and stops it.
            long = sh("echo here; exec sleep 60")
            running = {
                name: server.submit(name, image=images[name], command=long)["executionUrl"]
                for name in images
            }
            for url in running.values():
                wait_for(partial(shows, server, url, "here\n"), "a first line")
            server.restart()
            for url in running.values():
                assert execution(server, url)["status"] == "running"
                server.request("POST", f"{url}stop/")
            for url in running.values():
                assert await_end(server, url)["reason"] == "stopped"


def test_a_node_of_a_swarm_that_is_away(tmp_path: Path, scoreboard: Scoreboard) -> None:
    """What runs on it is lost in time, and not run twice unasked; the rest of the swarm is well."""
    with TwoNodeSwarm(tmp_path / "swarm") as nodes:
        manager, worker = nodes.manager, nodes.worker
        image = worker.image()
        assert manager.image() == image
        nodes.set_availability(manager, "drain")
        options = {**farms({"hosts": [manager.url], "maxRunning": 8}), "EXECUTOR": "swarm"}
        options |= {"HOST_LOST_AFTER_SECONDS": "1"}
        with FastlaneServer(tmp_path / "server", **options) as server:
            command = sh("echo here; exec sleep 600")
            stopped = server.submit("stopped", image=image, command=command)
            lost = server.submit("lost", image=image, command=command)
            again = server.submit(
                "again", image=image, command=command, rerunWhenLost=True, backoff={"minMs": 1}
            )
            for answer in (stopped, lost, again):
                await_log(server, answer["executionUrl"], "here\n")
            server.request("POST", f"{stopped['executionUrl']}stop/")
            ended = await_end(server, stopped["executionUrl"])
            assert (ended["status"], ended["reason"], ended["log"]) == (
                "failed",
                "stopped",
                "here\n",
            )
            wait_for(
                lambda: not containers(worker.url, stopped["executionId"]), "its container to go"
            )

            nodes.set_availability(manager, "active")
            nodes.cut()
            ended = await_end(server, lost["executionUrl"])
            assert (ended["status"], ended["reason"]) == ("failed", "lost")
            assert "of the swarm is down" in ended["metadata"]["message"]
            assert ended["log"] == "here\n"
            other = server.submit("other", image=image, command="echo well")
            ended = await_end(server, other["executionUrl"])
            assert (ended["status"], ended["log"]) == ("done", "well\n")
            await_rerun(server, again)
            assert len(server.executions(lost["jobUrl"])) == 1
            host = host_of(server, manager.url)
            assert (host["circuit"], host["error"]) == ("closed", None)
            assert containers(worker.url, lost["executionId"])
            nodes.mend()
            wait_for(
                lambda: not containers(worker.url, lost["executionId"]), "what was lost to be ended"
            )
            wait_for(lambda: not Engine(manager.url).get("/services"), "the services to go")
            scoreboard.add(all_right("a node of a swarm is cut off", 4))
