"""The commands of the README work when they are pasted as one block."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.eventually import wait_for
from tests.fastlane_server import FINAL, ROOT, FastlaneServer

# Bounds the whole block, in seconds.
BLOCK_TIMEOUT = 60


def block() -> str:
    """The one block of shell commands that calls a server."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    (found,) = [text for text in blocks if "curl" in text]
    return str(found)


def test_the_block_of_the_readme(tmp_path: Path) -> None:
    curl = shutil.which("curl")
    assert curl is not None
    # Each curl of the block fails the block when the answer is an error.
    strict = tmp_path / "bin" / "curl"
    strict.parent.mkdir()
    strict.write_text(f'#!/bin/sh\nexec {curl} -sS --fail-with-body "$@"\n')
    strict.chmod(0o755)
    with FastlaneServer(tmp_path, EXECUTOR="process") as server:
        done = subprocess.run(
            ["sh", "-e"],
            input=block(),
            text=True,
            capture_output=True,
            timeout=BLOCK_TIMEOUT,
            env={
                "PATH": f"{strict.parent}:{os.environ['PATH']}",
                "FASTLANE_URL": server.url,
            },
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        jobs = server.get("/tasks/first/")["jobs"]
        assert len(jobs) == block().count("$server/tasks/first/")
        (stopped,) = server.get("/tasks/second/")["jobs"]
        assert server.get(stopped["url"])["job"]["scheduled"] is False

        def executions(job: dict[str, str]) -> list[dict[str, object]]:
            found: list[dict[str, object]] = server.get(job["url"])["job"]["executions"]
            return found

        def ran() -> bool:
            """The first job ran twice, and the one with ``&&`` went through a shell."""
            twice = executions(jobs[-1])
            failed = [e for job in jobs for e in executions(job) if e["exitCode"] == 3]
            return len(twice) == 2 and all(e["status"] in FINAL for e in twice) and bool(failed)

        wait_for(ran, "the jobs of the README to end")
