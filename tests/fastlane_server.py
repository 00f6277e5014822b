"""A fastlane server in a process of its own, and a small client, for tests that kill it."""

from __future__ import annotations

import http.client
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from tests.eventually import wait_for
from tests.services import Server

ROOT = Path(__file__).parent.parent

# Bounds how long a job of these tests may take, in seconds.
JOB_TIMEOUT = 60.0

FINAL = {"done", "failed", "timedout", "expired"}

T = TypeVar("T")


class FastlaneServer(Server):
    """``fastlane server`` on a data directory that outlives its processes."""

    name = "fastlane"

    def __init__(self, directory: Path, **options: str) -> None:
        """:param options: environment variables, upper-case."""
        super().__init__(directory)
        self.options = {
            "DATA_DIR": str(directory / "data"),
            "LOG_FORMAT": "json",
            "PORT": str(self.port),
            **options,
        }
        self.crash_at: str | None = None
        self.crash_on = 1

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        crash = {} if self.crash_at is None else {"CRASH_AT": self.crash_at}
        environment = {**self.options, **crash, "CRASH_ON": str(self.crash_on)}
        pairs = [f"{name}={value}" for name, value in environment.items()]
        script = ROOT / "tests" / "faults" / "crashing_server.py"
        return ["env", f"PYTHONPATH={ROOT}", *pairs, sys.executable, str(script)]

    def ping(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/healthcheck/", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def log_text(self) -> str:
        return (self.directory / "fastlane.log").read_text(errors="replace")

    def start_to_crash(self, crash_at: str, crash_on: int = 1) -> None:
        """Start it so that it kills itself at *crash_at* (see ``crashing_server``)."""
        self.crash_at, self.crash_on = crash_at, crash_on
        self.start()
        self.crash_at, self.crash_on = None, 1

    def await_death(self) -> None:
        """Wait for the process to end by itself."""
        assert self._process is not None
        self._process.wait(JOB_TIMEOUT)
        self._process = None

    def restart(self, **environment: str) -> None:
        self.kill()
        self.options.update(environment)
        self.start()

    # -- a client -----------------------------------------------------------------------------

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """One request; *path* may be a whole URL. Status, body and headers of the answer."""
        url = path if path.startswith("http") else f"{self.url}{path}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, error.read(), dict(error.headers)

    def get(self, path: str) -> Any:
        status, body, _ = self.request("GET", path)
        assert status == 200, body
        return json.loads(body)

    def submit(self, task: str, **payload: Any) -> dict[str, Any]:
        """POST a job; the answer."""
        status, body, _ = self.request("POST", f"/tasks/{task}/", payload)
        assert status == 200, body
        answer: dict[str, Any] = json.loads(body)
        return answer

    def try_submit(self, task: str, **payload: Any) -> dict[str, Any] | None:
        """POST a job to a server that may be dying; None when no answer came."""
        try:
            return self.submit(task, **payload)
        except (OSError, http.client.HTTPException):
            return None

    def executions(self, job_url: str) -> list[dict[str, Any]]:
        """A job's executions, newest first."""
        found: list[dict[str, Any]] = self.get(job_url)["job"]["executions"]
        return found

    def await_end(self, job_url: str, *, executions: int = 1) -> list[dict[str, Any]]:
        """Wait until the job has *executions*, all of them final."""

        def ended() -> list[dict[str, Any]] | None:
            found = self.executions(job_url)
            over = len(found) >= executions and all(e["status"] in FINAL for e in found)
            return found if over else None

        return wait_for(ended, f"the end of {job_url}")
