"""``fastlane run`` and ``fastlane logs -f``: what they print where, and how they exit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, Environment, Terminal
from tests.fastlane_server import FastlaneServer


def test_the_job_runs_as_if_it_ran_here(cli: Cli) -> None:
    ended = cli("run", "any:1", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (ended.code, ended.out) == (3, "out\n")
    lines = ended.err.splitlines()
    assert lines[-1] == "fastlane: Failed with exit code 3."
    assert "err" in lines
    assert any("/tasks/run-ann/jobs/" in line for line in lines)


def test_retries_are_followed(cli: Cli, tmp_path: Path) -> None:
    script = f"echo once more; test -e {tmp_path}/lived || {{ touch {tmp_path}/lived; exit 4; }}"
    ended = cli("run", "--retries=2", "--backoff=10s", "any:1", "--", "sh", "-c", script)
    assert (ended.code, ended.out) == (0, "once more\nonce more\n")
    assert "Attempt 2 of 3 follows in" in ended.err


@pytest.mark.parametrize(
    ("flags", "command", "code", "sentence"),
    [
        ((), "true", 0, ""),
        (("--no-exit-code",), "exit 9", 0, "Failed with exit code 9."),
        (("--timeout=1",), "sleep 60", 124, "Timed out"),
        (("--name=nightly-1", "--meta=a=b", "-eA=b"), 'test "$A" = b', 0, ""),
    ],
)
def test_exit_codes(
    cli: Cli, flags: tuple[str, ...], command: str, code: int, sentence: str
) -> None:
    ended = cli("run", *flags, "any:1", "--", "sh", "-c", command)
    assert ended.code == code, ended.err
    assert sentence in ended.err


def test_detached_it_prints_ids(cli: Cli) -> None:
    shown = cli("run", "-d", "any:1", "--", "true")
    assert [line.split()[0] for line in shown.out.splitlines()] == ["job", "execution", "url"]
    one = cli("run", "-q", "any:1", "--", "true").out.strip()
    assert cli("wait", one).code == 0
    ids = json.loads(cli("run", "--json", "-t", "other", "any:1", "--", "true").out)
    assert ids["taskId"] == "other"
    assert ids["url"].endswith(f"/executions/{ids['executionId']}/")


def test_the_payload_of_all_flags(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("image: other:1\nretries: 7\nmetadata: {kept: true}\n")
    env_file = tmp_path / "env"
    env_file.write_text("# a comment\nB=from file\nHERE\n")
    ended = cli(
        *("run", "-q", "--in=1h", "-e", "A=b=c", "--env-file", str(env_file), "--file", str(file)),
        *("--overlap=skip", "--retries=2", "--backoff=1s:3:1m", "--timeout=90", "--cpus=0.5"),
        *("-m", "64m", "--pids=20", "--pull=missing", "--rerun-when-lost", "--dns=db=10.0.0.7"),
        *("--webhook=http://127.0.0.1:9/x", "--webhook=fails=http://127.0.0.1:9/y"),
        *("--notify=ann@example.org", "--meta", "team=a", "any:1", "--", "echo", "two words"),
        HERE="from here",
    )
    assert ended.code == 0, ended.err
    shown = json.loads(cli("show", "--json", ended.out.strip()).out)
    assert shown["image"] == "any:1"
    assert shown["command"] == ["echo", "two words"]
    kept = shown["metadata"]
    assert kept["envs"] == {"A": "b=c", "B": "from file", "HERE": "from here"}
    assert kept["custom"] == {"kept": True, "team": "a"}
    assert (kept["retries"], kept["timeout"], kept["overlap"]) == (2, 90, "skip")
    assert cli("rm", "--force", ended.out.strip()).code == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("run",), "Give an image"),
        (("run", "any:1"), "Give a command"),
        (("run", "-e", "NOT_SET_HERE", "any:1", "--", "true"), '--env is "NOT_SET_HERE"'),
        (("run", "--backoff=soon", "any:1", "--", "true"), '--backoff is "soon"'),
        (("stop",), "Name executions"),
        (("logs", "--stdout", "--stderr", "x"), "Give --stdout or --stderr"),
        (("ps", "--server=http://a", "--context=b"), "not both"),
        (("ps", "--server=nonsense"), "is not the URL of a server"),
        (("wait", "ftp://x/tasks/a/jobs/b"), "is not the URL of a job"),
        (("api", "GET", "/tasks/", "-d", "{"), "--data is not JSON"),
    ],
)
def test_wrong_arguments_exit_with_2(cli: Cli, arguments: tuple[str, ...], sentence: str) -> None:
    ended = cli(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert sentence in ended.err
    assert "Traceback" not in ended.err


def test_the_server_has_the_last_word_on_a_payload(cli: Cli) -> None:
    ended = cli("run", "--cron=61 * * * *", "any:1", "--", "true")
    assert ended.code == 1
    assert ended.err.splitlines()[-1].startswith('fastlane: cron: "61 * * * *" is not')


def test_a_reader_that_leaves_ends_it(environment: Environment) -> None:
    command = "echo first; sleep 60"
    shell = f"'{sys.executable}' -m fastlane run any:1 -- sh -c '{command}' | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell],
        env=environment,
        capture_output=True,
        timeout=45,
        check=False,
    )
    assert (done.returncode, done.stdout) == (141, b"first\n")
    assert b"Traceback" not in done.stderr


def test_interrupted_once_the_job_continues(terminal: Terminal, cli: Cli) -> None:
    child = terminal("run", "-t", "left", "any:1", "--", "sh", "-c", "echo ready; sleep 60")
    child.expect("ready")
    child.sendintr()
    child.expect("The job continues; to stop it: fastlane stop ([0-9a-f-]+)")
    execution = str(child.match[1])  # type: ignore[index]
    child.expect("$")
    child.wait()
    assert child.exitstatus == 130
    assert cli("ps", "-q", "--task=left").out.split() == [execution]
    assert cli("stop", execution).code == 0
    assert cli("wait", execution).code == 143


def test_interrupted_the_job_can_be_stopped(terminal: Terminal, cli: Cli) -> None:
    flags = ("-t", "ended", "--stop-on-interrupt")
    child = terminal("run", *flags, "any:1", "--", "sh", "-c", "echo up; sleep 60")
    child.expect("up")
    child.sendintr()
    child.expect("The job was stopped")
    child.wait()
    assert child.exitstatus == 130
    assert cli("wait", "ended").code == 143


def test_a_log_is_the_same_as_it_was(cli: Cli, terminal: Terminal) -> None:
    made = cli("run", "-t", "counted", "any:1", "--", "sh", "-c", "seq 5; echo no >&2; exit 1")
    assert made.out == "1\n2\n3\n4\n5\n"
    assert cli("logs", "counted").out == made.out
    assert cli("logs", "--tail=2", "--stdout", "counted").out == "4\n5\n"
    assert cli("logs", "--stderr", "counted").out == "no\n"
    followed = cli("logs", "-f", "counted")
    assert (followed.code, followed.out) == (1, made.out)
    stamped = cli("logs", "--timestamps", "counted").out.splitlines()
    assert [line.split()[1] for line in stamped] == ["1", "2", "3", "4", "5"]


def test_a_killed_server_leaves_no_gap_and_no_repeat(
    tmp_path: Path, environment: Environment
) -> None:
    with FastlaneServer(tmp_path, EXECUTOR="process") as own:
        own.start()
        script = "for i in $(seq 30); do echo line $i; sleep 0.1; done; exit 7"
        child = subprocess.Popen(
            [sys.executable, "-m", "fastlane", "run", "any:1", "--", "sh", "-c", script],
            env=environment | {"FASTLANE_URL": own.url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert child.stdout is not None
        first = child.stdout.readline()
        own.kill()
        own.start()
        out, err = child.communicate(timeout=60)
    assert child.returncode == 7, err.decode()
    assert (first + out).decode() == "".join(f"line {i}\n" for i in range(1, 31))
