"""Tables, JSON lines and ids; what is named by what; steering; contexts."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, Terminal
from tests.fastlane_server import FastlaneServer


def ran(cli: Cli, task: str, command: str = "true", *flags: str) -> str:
    """The id of an execution of *task* that has ended."""
    execution = cli("run", "-q", "-t", task, *flags, "any:1", "--", "sh", "-c", command).out.strip()
    cli("wait", execution)
    return execution


def test_a_redirected_table_is_whole_and_plain(cli: Cli) -> None:
    long = "x" * 200
    execution = ran(cli, "wide", f"exit 2 # {long}")
    ended = cli("ps", "--task=wide")
    heading, line = ended.out.splitlines()
    assert heading.split() == [
        *("EXECUTION", "TASK", "STATUS", "CREATED", "DURATION", "IMAGE", "COMMAND", "NOTE")
    ]
    assert line.startswith(f"{execution}  wide  failed (2)  ")
    assert long in line
    assert "\033" not in ended.out


def test_a_table_fits_its_terminal(terminal: Terminal, cli: Cli) -> None:
    execution = ran(cli, "narrow", f"exit 2 # {'x' * 200}")
    child = terminal("ps", "--task=narrow", columns=70)
    child.expect("EXECUTION")
    child.expect_exact(execution[:8])
    child.expect("\r\n")
    assert len(str(child.before)) < 200
    child = terminal("ps", "--task=narrow", columns=70, NO_COLOR="1")
    rest = child.read()
    assert "\033" not in rest
    assert all(len(line) <= 70 for line in rest.splitlines())
    assert "…" in rest


def test_colours_are_for_terminals(terminal: Terminal, cli: Cli) -> None:
    ran(cli, "colourful")
    assert "\033[32m" in terminal("ps", "--task=colourful", columns=200).read()
    assert "\033" not in terminal("ps", "--task=colourful", "--no-color", columns=200).read()


def test_json_lines_and_ids(cli: Cli) -> None:
    first, second = ran(cli, "both"), ran(cli, "both", "exit 1")
    assert cli("ps", "--task=both", "-q").out.split() == [second, first]
    items = [json.loads(line) for line in cli("ps", "--task=both", "--json").out.splitlines()]
    assert [(one["executionId"], one["exitCode"]) for one in items] == [(second, 1), (first, 0)]
    assert cli("ps", "--task=both", "--status=failed", "-q").out.split() == [second]
    limited = cli("ps", "--task=both", "-n1", "-q")
    assert limited.out.split() == [second]
    assert "more than 1" in limited.err


def test_what_is_named_by_what(cli: Cli, server: FastlaneServer) -> None:
    execution = ran(cli, "named", "echo found")
    item = json.loads(cli("ps", "--task=named", "--json").out)
    for what in (
        execution,
        execution[:8],
        item["jobId"],
        item["jobId"][:10],
        "named",
        item["url"],
        f"{item['jobUrl']}stream/",
    ):
        assert cli("logs", what).out == "found\n", what
    missing = cli("logs", "nothing-of-this-name")
    assert (missing.code, missing.out) == (1, "")
    assert 'There is no execution, job or task "nothing-of-this-name"' in missing.err
    assert cli("open", execution).out.strip() == item["url"]


def test_show_is_one_screen(cli: Cli) -> None:
    execution = ran(cli, "shown", "echo out; echo err >&2; exit 5")
    shown = cli("show", execution).out
    for line in ("EXECUTION", "JOB", "STDOUT", "STDERR"):
        assert line in shown.splitlines()
    for text in (execution, "Failed with exit code 5.", "any:1", "  out", "  err", "shown"):
        assert text in shown


def test_many_are_stopped_by_a_filter(cli: Cli) -> None:
    for _ in range(3):
        assert cli("run", "-q", "-t", "many", "any:1", "--", "sleep", "60").code == 0
    asked = cli("stop", "--task=many", "--status=waiting,active")
    assert asked.code == 2
    assert "Stop 3 executions? There is no terminal to ask at" in asked.err
    done = cli("stop", "--task=many", "--status=waiting,active", "--yes")
    assert (done.code, done.out) == (0, "Stopped 3 executions.\n")
    waited = cli("wait", "--task=many")
    assert waited.code == 143
    assert waited.out.count("stopped") == 3


def test_a_question_can_be_answered_with_no(terminal: Terminal, cli: Cli) -> None:
    assert cli("run", "-q", "-t", "kept", "any:1", "--", "sleep", "60").code == 0
    child = terminal("stop", "--task=kept", "--status=waiting,active")
    child.expect("Stop 1 execution?")
    child.sendline("n")
    child.expect("Nothing was done")
    child.wait()
    assert child.exitstatus == 1
    assert cli("stop", "kept").code == 0


def test_schedules_are_paused_resumed_and_removed(cli: Cli) -> None:
    job = cli("run", "-q", "-t", "nightly", "--cron=0 4 * * *", "any:1", "--", "true").out.strip()
    assert cli("pause", job).out == f"Paused {job}.\n"
    assert cli("ls", "--state=paused", "-q").out.split() == [job]
    assert cli("resume", job).out == f"Resumed {job}.\n"
    line = cli("ls", "--task=nightly").out.splitlines()[1]
    assert "0 4 * * *" in line
    assert "scheduled" in line
    assert cli("rm", job).code == 0
    assert cli("ls", "--task=nightly", "-q").out == ""


def test_a_rerun_with_another_environment(cli: Cli) -> None:
    execution = ran(cli, "again", 'echo "$A"; test "$A" = b', "-eA=a")
    ended = cli("rerun", "-e", "A=b", execution)
    assert (ended.code, ended.out) == (0, "b\n")
    retried = cli("retry", execution)
    assert (retried.code, retried.out) == (1, "a\n")


def test_hosts_are_drained_and_put_back(cli: Cli) -> None:
    host = cli("hosts", "-q").out.strip()
    assert cli("drain", host).out == f"Drained {host}.\n"
    try:
        assert "drained" in cli("hosts").out
    finally:
        assert cli("undrain", host).out == f"Undrained {host}.\n"
    assert "drained" not in cli("hosts").out
    assert "default" in cli("status").out
    assert json.loads(cli("status", "--json").out)["executor"] == "process"


def test_events_since_a_cursor(cli: Cli) -> None:
    begin = json.loads(cli("api", "GET", "/events/?_=", "-H", "Accept: application/json").out)
    execution = ran(cli, "eventful")
    ended = cli("events", "--after", begin["cursor"], "--execution", execution, "--json")
    types = [json.loads(line)["type"] for line in ended.out.splitlines()]
    assert types[0] == "execution.enqueued"
    assert types[-1] == "execution.done"


def test_top_shows_what_runs(terminal: Terminal, cli: Cli) -> None:
    execution = cli("run", "-q", "-t", "shown-live", "any:1", "--", "sleep", "60").out.strip()
    child = terminal("top", columns=120)
    child.expect_exact(execution[:8])
    child.sendintr()
    child.wait()
    assert child.exitstatus == 0
    assert cli("stop", execution).code == 0


def test_contexts(cli: Cli, server: FastlaneServer, tmp_path: Path) -> None:
    alone = {"FASTLANE_URL": ""}
    made = cli("context", "create", "here", "--url", server.url, "--token=-", stdin="secret\n")
    assert made.out == "Created here.\n"
    file = tmp_path / "config" / "contexts.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "secret" not in cli("context", "ls").out
    assert cli("context", "ls").out.splitlines()[1].split()[:2] == ["*", "here"]
    assert cli("status", **alone).code == 0
    overridden = cli("status")
    assert 'FASTLANE_URL overrides the context "here"' in overridden.err
    assert cli("context", "create", "other", "--url=http://127.0.0.1:9").code == 0
    assert cli("context", "use", "other").code == 0
    gone = cli("status", **alone)
    assert gone.code == 1
    assert "cannot be reached (Connection refused)" in gone.err
    assert cli("status", "--context=here", **alone).code == 0
    assert cli("context", "rm", "other").code == 0
    unknown = cli("context", "use", "other")
    assert unknown.code == 2
    assert 'There is no context "other" (there are: here)' in unknown.err


@pytest.mark.parametrize("method", ["GET", "get"])
def test_any_request(cli: Cli, method: str) -> None:
    assert json.loads(cli("api", method, "/healthcheck/").out)["backend"] == "sqlite"
    refused = cli("api", method, "/nothing/")
    assert (refused.code, refused.out) == (1, "")
