"""The benchmarks clear away what they started, however they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from fastlane.executors.docker.container import INSTALLATION_LABEL
from scripts import engine as setup
from tests.engine import docker_host, docker_image
from tests.eventually import wait_for

__all__ = ["docker_host", "docker_image"]

# Bounds each wait for something that must come.
PATIENCE_SECONDS = 60.0


def test_sigterm_leaves_nothing_behind(docker_host: str, docker_image: str, tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "-m", "benchmarks", "--quick", "--setup", "sqlite"]
    benchmarks = subprocess.Popen(
        [*command, "--only", "throughput", "--results", str(tmp_path / "results")],
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
        stderr=subprocess.PIPE,
    )
    try:
        measuring = psutil.Process(benchmarks.pid)
        engine = setup.Engine(docker_host)

        def containers() -> set[str]:
            """Those of benchmarks that are there, by name of their installation."""
            found = engine.get("/containers/json?all=1")
            marks = {each["Labels"].get(INSTALLATION_LABEL, "") for each in found}
            return {mark for mark in marks if mark.startswith("bench-")}

        before = containers()
        wait_for(lambda: containers() - before and measuring.children())
        ours = containers() - before
        children = measuring.children(recursive=True)
        benchmarks.terminate()
        _, complaints = benchmarks.communicate(timeout=PATIENCE_SECONDS)
    finally:
        benchmarks.kill()
        benchmarks.wait()
    assert (benchmarks.returncode, complaints) == (128 + signal.SIGTERM, b"")
    assert list((tmp_path / "temporary").iterdir()) == []
    assert not [child for child in children if child.is_running()]
    assert not containers() & ours
