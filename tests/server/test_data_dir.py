"""The data directory under a running server: lost, copied, and what its jobs see of the server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from scripts.scoreboard import Row
from tests.fastlane_server import ROOT, FastlaneServer
from tests.scoreboard import Scoreboard

POSTS = 20
# Bounds how long a server that is refused may take to say so, in seconds.
REFUSAL_TIMEOUT = 20.0
NOBODY = 65534


def _replace(directory: Path) -> None:
    directory.rename(directory.with_name("old"))
    # The server removes these meanwhile.
    passing = shutil.ignore_patterns(".removed-*")
    shutil.copytree(directory.with_name("old"), directory, ignore=passing)


def _delete(directory: Path) -> None:
    """The server removes and makes entries meanwhile."""
    for _ in range(100):
        shutil.rmtree(directory, ignore_errors=True)
    assert not directory.exists()


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        _delete(path) if path.is_dir() else path.unlink(missing_ok=True)


LOSSES: Mapping[str, Callable[[Path], object]] = {
    "deleted": _delete,
    "moved": lambda directory: directory.rename(directory.with_name("old")),
    "replaced": _replace,
    "emptied": _empty,
}


# File → what it is damaged to.
DAMAGES = {
    "empty database": ("fastlane.db", b""),
    "no database": ("fastlane.db", b"not one" * 1000),
    "empty installation": ("installation", b""),
    "installation cut off": ("installation", b"0123"),
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FastlaneServer]:
    with FastlaneServer(tmp_path, EXECUTOR="process") as server:
        yield server


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_is_accepted_without_the_data_directory(
    server: FastlaneServer, tmp_path: Path, loss: str, scoreboard: Scoreboard
) -> None:
    before = server.submit("t", image="none:1", command=["true"])
    server.await_end(before["jobUrl"])
    LOSSES[loss](tmp_path / "data")
    answers = [
        server.request("POST", "/tasks/t/", {"image": "none:1", "command": ["true"]})[0]
        for _ in range(POSTS)
    ]
    wrong = sum(answer != 503 for answer in answers)
    what = "DATA_DIR is deleted, moved, replaced or emptied"
    scoreboard.add(Row(what, "SQLite", POSTS, "POSTs", wrong_answer=wrong))
    assert wrong == 0
    assert server.request("GET", "/healthcheck/")[0] == 503
    lines = [line for line in server.log_text().splitlines() if "restore a backup" in line]
    assert len(lines) == 1
    # Nor is there a second server at the path while the first one lives.
    second = FastlaneServer(
        tmp_path / "second", EXECUTOR="process", DATA_DIR=str(tmp_path / "data")
    )
    second.directory.mkdir()
    refused = subprocess.run(
        second.command(), capture_output=True, timeout=REFUSAL_TIMEOUT, cwd=second.directory
    )
    assert refused.returncode != 0
    assert b"in use by another fastlane server" in refused.stdout + refused.stderr
    if loss == "moved":
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        (tmp_path / "old").rename(tmp_path / "data")
        after = server.submit("t", image="none:1", command=["true"])
        server.await_end(after["jobUrl"])
        server.restart()
        assert {each["status"] for each in server.executions(after["jobUrl"])} == {"done"}


@pytest.mark.faults
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_and_kept(
    server: FastlaneServer, tmp_path: Path, damage: str, scoreboard: Scoreboard
) -> None:
    server.await_end(server.submit("t", image="none:1", command=["true"])["jobUrl"])
    server.stop()
    name, content = DAMAGES[damage]
    path = tmp_path / "data" / name
    path.write_bytes(content)
    started = subprocess.run(
        server.command(), capture_output=True, timeout=REFUSAL_TIMEOUT, cwd=tmp_path
    )
    refused = started.returncode != 0 and name in (started.stdout + started.stderr).decode()
    wrong = int(not refused) + int(path.read_bytes() != content)
    what = "an empty or damaged file in DATA_DIR is refused"
    scoreboard.add(Row(what, "SQLite", 1, "starts", wrong_answer=wrong))
    assert wrong == 0, started.stdout + started.stderr


def test_a_copy_of_a_live_data_directory_starts_elsewhere(
    server: FastlaneServer, tmp_path: Path
) -> None:
    jobs: list[str] = []
    for number in range(2):
        for _ in range(10):
            answer = server.submit("t", image="none:1", command=["true"])
            jobs.append(answer["jobUrl"].removeprefix(server.url))
        copied = tmp_path / f"copy-{number}"
        copied.mkdir()
        # Jobs are under way, and files come and go meanwhile.
        subprocess.run(["cp", "-a", tmp_path / "data", copied / "data"], stderr=subprocess.DEVNULL)
        with FastlaneServer(copied, EXECUTOR="process") as other:
            for job in jobs[-5:]:
                other.await_end(job)


class AsNobody(FastlaneServer):
    """``fastlane server`` as users start it, but not as root."""

    def command(self) -> list[str]:
        pairs = [f"{name}={value}" for name, value in self.options.items()]
        # The interpreter may be below a directory of root's. This does not open /proc/PID/environ.
        reads = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
        user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *reads]
        command = [sys.executable, "-m", "fastlane", "server"]
        return [*(user if os.geteuid() == 0 else []), "env", f"PYTHONPATH={ROOT}", *pairs, *command]


def test_jobs_do_not_see_the_environment_of_the_server() -> None:
    secret = f"canary-{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory(prefix="fastlane-test-") as name:
        if os.geteuid() == 0:
            os.chown(name, NOBODY, NOBODY)
        mail = {"SMTP_HOST": "127.0.0.1", "SMTP_USER": "u", "SMTP_PASSWORD": secret}
        with AsNobody(Path(name), EXECUTOR="process", HOME=name, **mail) as server:
            pid = server.pid
            script = (
                f"grep -lz canary- /proc/[0-9]*/environ; cat /proc/{pid}/environ; "
                f"grep -az canary- /proc/{pid}/mem; env; true"
            )
            url = server.submit("t", image="none:1", command=["sh", "-c", script])["jobUrl"]
            server.await_end(url)
            _, out, _ = server.request("GET", f"{url}stdout/")
            _, complaints, _ = server.request("GET", f"{url}stderr/")
    own = {f"FASTLANE_{name}" for name in ("TASK_ID", "JOB_ID", "EXECUTION_ID", "ATTEMPT")}
    seen = {line.partition("=")[0] for line in out.decode().splitlines()}
    assert seen == {"HOME", "PATH", "PWD"} | own
    assert f"cat: /proc/{pid}/environ: Permission denied" in complaints.decode()
    assert secret not in (out + complaints).decode()
