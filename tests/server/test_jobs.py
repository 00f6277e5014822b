"""The path of a job through a real server: what clients of the HTTP API see, on both executors."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine import EngineServer, RegistryServer, find_engine
from tests.eventually import wait_for
from tests.fastlane_server import FINAL, FastlaneServer


@pytest.fixture(scope="module", params=["docker", "process"])
def executor(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def image(executor: str) -> str:
    return find_engine()[1] if executor == "docker" else "none:1"


@pytest.fixture(scope="module")
def server(executor: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastlaneServer]:
    options = {"DOCKER_HOST": find_engine()[0]} if executor == "docker" else {}
    directory = tmp_path_factory.mktemp("server")
    with FastlaneServer(directory, EXECUTOR=executor, STOP_GRACE_SECONDS="1", **options) as server:
        yield server


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def text(server: FastlaneServer, url: str, name: str) -> bytes:
    status, body, _ = server.request("GET", f"{url}{name}/")
    assert status == 200
    return body


def await_status(server: FastlaneServer, url: str, status: str) -> dict[str, Any]:
    def reached() -> dict[str, Any] | None:
        found: dict[str, Any] = server.get(url)["execution"]
        return found if found["status"] == status or found["status"] in FINAL else None

    execution = wait_for(reached, f"{url} to be {status}")
    assert execution["status"] == status, execution
    return execution


def await_end(server: FastlaneServer, url: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = server.get(url)["execution"]
        return found if found["status"] in FINAL else None

    return wait_for(ended, f"{url} to end")


def test_exit_code_and_both_streams(server: FastlaneServer, image: str) -> None:
    answer = server.submit(
        "plain", image=image, command=sh("echo out; echo err >&2; exit 3"), envs={"A": "b"}
    )
    ended = await_end(server, answer["executionUrl"])
    assert (ended["status"], ended["reason"], ended["exitCode"]) == ("failed", "exit-code", 3)
    assert (ended["log"], ended["error"]) == ("out\n", "err\n")
    status, body, headers = server.request("GET", f"{answer['executionUrl']}logs/")
    assert (status, body) == (200, b"out\n\n-=-\nerr\n")
    assert headers["Fastlane-Exit-Code"] == "3"
    assert headers["Content-Type"].startswith("text/plain")
    assert text(server, answer["jobUrl"], "stdout") == b"out\n"
    assert text(server, answer["jobUrl"], "stderr") == b"err\n"
    assert server.request("GET", f"{answer['jobUrl']}logs/?tail=1")[1] == b"err\n"


def test_the_environment_and_words_reach_the_command(server: FastlaneServer, image: str) -> None:
    answer = server.submit(
        "words",
        image=image,
        command="sh -c 'echo \"$GREETING, $0\"' world",
        envs={"GREETING": "hi"},
    )
    assert await_end(server, answer["executionUrl"])["log"] == "hi, world\n"


def test_logs_can_be_read_while_it_runs(server: FastlaneServer, image: str, tmp_path: Path) -> None:
    answer = server.submit("live", image=image, command=sh("echo early; sleep 30"))
    url = answer["executionUrl"]
    wait_for(lambda: text(server, url, "stdout") == b"early\n", "the early line")
    _, _, headers = server.request("GET", f"{url}stdout/")
    assert headers["Fastlane-Status"] == "running"
    assert "Fastlane-Exit-Code" not in headers
    server.request("POST", f"{url}stop/")
    ended = await_end(server, url)
    assert (ended["status"], ended["reason"]) == ("failed", "stopped")
    assert text(server, url, "stdout") == b"early\n", "a stopped execution keeps its log"


def test_a_time_limit_kills_what_does_not_listen(server: FastlaneServer, image: str) -> None:
    answer = server.submit(
        "deaf",
        image=image,
        command=sh("trap '' TERM; echo here; while :; do sleep 1; done"),
        timeout=1,
    )
    ended = await_end(server, answer["executionUrl"])
    assert (ended["status"], ended["reason"], ended["exitCode"]) == ("timedout", "timeout", 137)
    assert ended["log"] == "here\n"


def test_a_failed_execution_is_retried(server: FastlaneServer, image: str) -> None:
    answer = server.submit(
        "again", image=image, command=sh("exit 1"), retries=2, backoff={"minMs": 50, "factor": 1}
    )
    executions = server.await_end(answer["jobUrl"], executions=3)
    assert [execution["metadata"]["attempt"] for execution in executions] == [2, 1, 0]
    assert {execution["status"] for execution in executions} == {"failed"}
    assert server.get(answer["jobUrl"])["job"]["metadata"]["retry_count"] == 2


def test_start_in_and_start_at(server: FastlaneServer, image: str) -> None:
    before = time.time()
    answers = [
        server.submit("later", image=image, command="true", startIn="1s"),
        server.submit("later", image=image, command="true", startAt=int(before) + 3),
        server.submit("later", image=image, command="true", startAt=int(before) - 3600),
    ]
    assert [answer["executionId"] is None for answer in answers] == [True, True, False]
    for answer in answers:
        (execution,) = server.await_end(answer["jobUrl"])
        assert execution["status"] == "done"
        assert execution["metadata"]["lateSeconds"] is None
    assert not server.get(answers[0]["jobUrl"])["job"]["scheduled"]


def test_an_expired_execution_never_runs(server: FastlaneServer, image: str) -> None:
    answer = server.submit("expired", image=image, command="true", expiration=int(time.time()) - 5)
    ended = await_end(server, answer["executionUrl"])
    assert (ended["status"], ended["reason"], ended["startedAt"]) == ("expired", "expired", None)


def test_a_job_is_stopped_before_its_time(server: FastlaneServer, image: str) -> None:
    answer = server.submit("never", image=image, command="true", startIn="1h")
    assert server.request("POST", f"{answer['jobUrl']}stop/")[0] == 200
    assert server.request("POST", f"{answer['jobUrl']}stop/")[0] == 200, "safe to repeat"
    job = server.get(answer["jobUrl"])["job"]
    assert (job["scheduled"], job["executionCount"]) == (False, 0)


def test_what_is_enqueued_can_be_stopped(
    server: FastlaneServer, image: str, executor: str, tmp_path: Path
) -> None:
    options = {"DOCKER_HOST": find_engine()[0]} if executor == "docker" else {}
    options |= {"EXECUTOR": executor, "MAX_RUNNING": "1", "STOP_GRACE_SECONDS": "0"}
    with FastlaneServer(tmp_path, **options) as narrow:
        first = narrow.submit("slot", image=image, command="sleep 30")
        await_status(narrow, first["executionUrl"], "running")
        second = narrow.submit("queue", image=image, command="true")
        narrow.request("POST", f"{second['executionUrl']}stop/")
        ended = await_end(narrow, second["executionUrl"])
        assert (ended["status"], ended["reason"]) == ("failed", "stopped")
        narrow.request("POST", f"{first['jobUrl']}stop/")
        assert await_end(narrow, first["executionUrl"])["reason"] == "stopped"


def test_retry_stops_what_still_runs(server: FastlaneServer, image: str) -> None:
    answer = server.submit("twice", image=image, command=sh("echo $RANDOM; sleep 30"))
    await_status(server, answer["executionUrl"], "running")
    status, body, _ = server.request("POST", f"{answer['jobUrl']}retry/")
    assert status == 200
    again = json.loads(body)["executionUrl"]
    assert await_end(server, answer["executionUrl"])["reason"] == "stopped"
    await_status(server, again, "running")
    server.request("POST", f"{again}stop/")
    await_end(server, again)


def test_a_missing_command_is_said(server: FastlaneServer, image: str) -> None:
    answer = server.submit("missing", image=image, command="no-such-program --help")
    ended = await_end(server, answer["executionUrl"])
    assert (ended["status"], ended["reason"], ended["exitCode"]) == ("failed", "start-failed", 127)
    assert "no-such-program" in ended["error"]


def test_a_character_over_a_frame_boundary_and_a_long_line(
    server: FastlaneServer, image: str
) -> None:
    # The engine cuts lines at 16 KiB: an odd offset puts a two-byte character on the cut.
    script = (
        "printf x; i=0; while [ $i -lt 4096 ]; do printf 'éééééééé'; i=$((i+1)); done; echo; "
        "head -c 1000000 /dev/zero | tr '\\0' z; printf '\\377\\376\\0end\\n'"
    )
    answer = server.submit("bytes", image=image, command=sh(script))
    assert await_end(server, answer["executionUrl"])["status"] == "done"
    expected = b"x" + "é".encode() * 8 * 4096 + b"\n" + b"z" * 1_000_000
    assert text(server, answer["executionUrl"], "stdout") == expected + b"\xff\xfe\0end\n"


BIG_LINES = 500_000
BIG = sh(f"i=0; yes {'y' * 99} | head -n {BIG_LINES}")
BIG_BYTES = BIG_LINES * 100


def test_fifty_megabytes_are_kept_whole(image: str, executor: str, tmp_path: Path) -> None:
    """REGRESSIONS 23, with the cap off."""
    options = {"DOCKER_HOST": find_engine()[0]} if executor == "docker" else {}
    with FastlaneServer(tmp_path, EXECUTOR=executor, LOG_MAX_BYTES="0", **options) as server:
        answer = server.submit("big", image=image, command=BIG)
        ended = await_end(server, answer["executionUrl"])
        assert ended["status"] == "done"
        assert ended["logTruncated"]
        assert len(ended["log"]) <= 64 * 1024
        body = text(server, answer["executionUrl"], "stdout")
        assert body == (b"y" * 99 + b"\n") * BIG_LINES


def test_fifty_megabytes_are_capped_in_the_middle(
    image: str, executor: str, tmp_path: Path
) -> None:
    options = {"DOCKER_HOST": find_engine()[0]} if executor == "docker" else {}
    with FastlaneServer(tmp_path, EXECUTOR=executor, LOG_MAX_BYTES="4m", **options) as server:
        answer = server.submit("big", image=image, command=BIG)
        assert await_end(server, answer["executionUrl"])["status"] == "done"
        body = text(server, answer["executionUrl"], "stdout")
        head, note, tail = body.partition(b"\n[fastlane: ")
        said, rest, tail = tail.partition(b" bytes of this log were dropped here]\n")
        assert note, "the gap is marked"
        assert rest
        assert int(said) + len(head) + len(tail) == BIG_BYTES
        assert len(body) < 6 * 1024 * 1024
        assert len(tail) >= 2 * 1024 * 1024
        assert head.startswith(b"y" * 99 + b"\n")


def test_image_that_is_not_there(tmp_path: Path) -> None:
    with FastlaneServer(tmp_path, DOCKER_HOST=find_engine()[0]) as server:
        answer = server.submit(
            "absent", image="no-such-image:1", command="true", pullPolicy="never"
        )
        ended = await_end(server, answer["executionUrl"])
        assert (ended["status"], ended["reason"]) == ("failed", "pull-failed")
        assert "no-such-image:1" in ended["error"]


def test_image_with_a_registry_port(tmp_path: Path, registry: RegistryServer) -> None:
    """REGRESSIONS 7: run exactly that image."""
    host, image = find_engine()
    name = registry.push(host, image, "team/tool:v2")
    with FastlaneServer(tmp_path, DOCKER_HOST=host, REGISTRIES_ALLOWED=registry.url) as server:
        answer = server.submit("pulled", image=name, command="echo pulled", pullPolicy="always")
        ended = await_end(server, answer["executionUrl"])
        assert (ended["status"], ended["log"], ended["image"]) == ("done", "pulled\n", name)


@pytest.mark.parametrize("options", [(), ("--live-restore",)], ids=["plain", "live-restore"])
def test_engine_restarted_under_a_running_container(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    """Either the container outlives its engine and is followed on, or its end is told."""
    with EngineServer(tmp_path / "engine", *options) as engine:
        image = engine.image()
        with FastlaneServer(tmp_path / "server", DOCKER_HOST=engine.url) as server:
            answer = server.submit(
                "survivor",
                image=image,
                command=sh("for i in 1 2 3 4 5 6; do echo $i; sleep 1; done"),
            )
            url = answer["executionUrl"]
            wait_for(lambda: text(server, url, "stdout").startswith(b"1\n2\n"), "two lines")
            engine.stop()
            engine.start()
            ended = await_end(server, url)
            log = text(server, url, "stdout")
            if options:
                assert (ended["status"], log) == ("done", b"1\n2\n3\n4\n5\n6\n")
            else:
                assert (ended["status"], ended["reason"]) == ("failed", "exit-code")
                assert b"1\n2\n3\n4\n5\n6\n".startswith(log)
                assert log.startswith(b"1\n2\n")
            assert len(server.executions(answer["jobUrl"])) == 1
            # The engine serves the next one.
            again = server.submit("next", image=image, command="true")
            assert await_end(server, again["executionUrl"])["status"] == "done"
