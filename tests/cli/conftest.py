"""The command line as a person uses it: in processes of its own, against a real server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pexpect
import pytest

from tests.fastlane_server import FastlaneServer

# Bounds a command, in seconds.
COMMAND_SECONDS = 60.0


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


Environment = dict[str, str]
Cli = Callable[..., Ended]
Terminal = Callable[..., "pexpect.spawn[str]"]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastlaneServer]:
    """A server that runs jobs as processes."""
    directory = tmp_path_factory.mktemp("server")
    with FastlaneServer(directory, EXECUTOR="process") as running:
        running.start()
        yield running


@pytest.fixture
def environment(server: FastlaneServer, tmp_path: Path) -> Environment:
    """Of a command that knows nothing but the server."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "PYTHONPATH") if key in os.environ}
    return kept | {
        "FASTLANE_URL": server.url,
        "FASTLANE_CONFIG_HOME": str(tmp_path / "config"),
        "USER": "ann",
        "LANG": "C.UTF-8",
    }


@pytest.fixture
def cli(environment: Environment) -> Cli:
    """Run a command with pipes for its streams."""

    def run(*arguments: str, stdin: str = "", **more: str) -> Ended:
        done = subprocess.run(
            [sys.executable, "-m", "fastlane", *arguments],
            input=stdin.encode(),
            capture_output=True,
            env=environment | more,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def terminal(environment: Environment) -> Iterator[Terminal]:
    """Start a command in a terminal of its own."""
    started: list[pexpect.spawn[str]] = []

    def start(*arguments: str, columns: int = 80, **more: str) -> pexpect.spawn[str]:
        child: pexpect.spawn[str] = pexpect.spawn(
            sys.executable,
            ["-m", "fastlane", *arguments],
            env={**environment, "TERM": "xterm", **more},
            dimensions=(24, columns),
            encoding="utf-8",
            timeout=COMMAND_SECONDS,
            # Tests that run in the background inherit that it is ignored.
            preexec_fn=_heed_interrupts,
        )
        started.append(child)
        return child

    yield start
    for child in started:
        child.close(force=True)
