"""Completion, in the shells that people use: commands, task names and ids from the server."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from tests.cli.conftest import Cli, Environment
from tests.services import missing

_BASH = """
eval "$(fastlane completion bash)"
COMP_WORDS=(fastlane logs compl) COMP_CWORD=2
_fastlane_completion fastlane
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def shell(environment: Environment, cli: Cli, tmp_path: Path) -> Environment:
    """The environment of a shell that has ``fastlane``, and a task to complete."""
    program = tmp_path / "bin" / "fastlane"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m fastlane \"$@\"\n")
    program.chmod(0o755)
    assert cli("run", "-q", "-t", "completed-task", "any:1", "--", "true").code == 0
    return environment | {
        "PATH": f"{program.parent}:{environment['PATH']}",
        "HOME": str(tmp_path),
        "TERM": "xterm",
    }


def need(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        missing(name, "it is not installed")
    return path


def test_bash(shell: Environment) -> None:
    done = subprocess.run(
        ["bash", "--norc", "-c", _BASH], env=shell, capture_output=True, timeout=60, check=True
    )
    assert done.stdout.decode().split() == ["completed-task"]


def test_fish(shell: Environment, cli: Cli) -> None:
    script = 'fastlane completion fish | source; complete -C "fastlane logs compl"'
    done = subprocess.run(
        [need("fish"), "-N", "-c", script], env=shell, capture_output=True, timeout=60, check=True
    )
    assert done.stdout.decode().split() == ["completed-task"]
    script = 'fastlane completion fish | source; complete -C "fastlane und"'
    done = subprocess.run(
        [need("fish"), "-N", "-c", script], env=shell, capture_output=True, timeout=60, check=True
    )
    assert done.stdout.decode().split()[0] == "undrain"


def test_zsh(shell: Environment) -> None:
    child = pexpect.spawn(need("zsh"), ["-f", "-i"], env=shell, encoding="utf-8", timeout=60)
    try:
        child.sendline("PS1='ready> '; autoload -Uz compinit && compinit -u -D; echo set''up")
        child.expect_exact("setup")
        child.sendline('eval "$(fastlane completion zsh)"; echo load""ed')
        child.expect_exact("loaded")
        child.expect_exact("ready> ")
        child.send("fastlane logs compl\t")
        child.expect_exact("completed-task")
    finally:
        child.close(force=True)


def test_a_server_that_is_unreachable_completes_nothing(shell: Environment) -> None:
    gone = shell | {"FASTLANE_URL": "http://127.0.0.1:9"}
    done = subprocess.run(
        ["bash", "--norc", "-c", _BASH], env=gone, capture_output=True, timeout=60, check=True
    )
    assert (done.stdout.split(), done.stderr) == ([], b"")
