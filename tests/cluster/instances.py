"""Three instances as real processes on one MongoDB and one Redis, under load."""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from pymongo import MongoClient

from scripts.engine import Engine, EngineError
from tests.engine import StartsHeard, find_engine
from tests.eventually import wait_for
from tests.fastlane_server import ROOT, FastlaneServer
from tests.load import LINES, SCRIPT, SETTLE_SECONDS, Load, Report
from tests.services import MongoServer

__all__ = ["Cluster", "DockerCluster", "Instance", "Load", "Report", "Servers", "Single"]

# Bounds one request of the load, in seconds.
REQUEST_SECONDS = 15.0


def database_url(mongo: MongoServer, directory: Path) -> str:
    """A database of the test's own on a shared server."""
    return f"{mongo.url.rsplit('/', 1)[0]}/{directory.name[:60]}"


class Instance(FastlaneServer):
    """One of several; ``CLOCK_SKEW`` among its options puts its clock off."""

    def command(self) -> list[str]:
        pairs = [f"{name}={value}" for name, value in self.options.items()]
        script = ROOT / "tests" / "cluster" / "server.py"
        return ["env", f"PYTHONPATH={ROOT}", *pairs, sys.executable, str(script)]

    def ping(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/healthcheck/", timeout=2):
                return True
        except urllib.error.HTTPError:
            # It answers, though a store may be away.
            return True
        except OSError:
            return False


class ProcessRuns:
    """Runs are processes of this machine; each of them says in a file that it started."""

    image = "none:1"

    def __init__(self, directory: Path) -> None:
        self.witness = directory / "starts"
        self.options = {"EXECUTOR": "process"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left behind."""

    def command(self, name: str, script: str) -> list[str]:
        """What runs *script* and can be counted by *name*."""
        return ["sh", "-c", f"echo {name} >> {self.witness}; {script}"]

    def starts(self) -> list[str]:
        """The names of the jobs that were started, as often as they were."""
        return self.witness.read_text().split() if self.witness.exists() else []


class ContainerRuns:
    """Runs are containers; the engine itself says what was started."""

    def __init__(self, directory: Path, host: str | None = None, image: str = "") -> None:
        """:param host: an engine of the test's own with *image*; without, the one that is there."""
        self.host, self.image = (host, image) if host is not None else find_engine()
        self.engine = Engine(self.host)
        installation = directory.name[:60]
        self._label = f"fastlane.installation={installation}"
        self._heard = StartsHeard(self.host, self._label)
        self.options = {
            "EXECUTOR": "docker",
            "DOCKER_HOST": self.host,
            "INSTALLATION": installation,
        }

    def __enter__(self) -> Self:
        self._heard.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._heard.__exit__()
        for each in self.containers():
            with suppress(EngineError):
                self.engine.call("DELETE", f"/containers/{each['Id']}?force=1")

    def containers(self) -> list[dict[str, Any]]:
        """Those of this installation, the ended ones too."""
        filters = quote(json.dumps({"label": [self._label]}))
        found: list[dict[str, Any]] = self.engine.get(f"/containers/json?all=1&filters={filters}")
        return found

    def command(self, name: str, script: str) -> list[str]:
        """See :meth:`ProcessRuns.command`."""
        return ["sh", "-c", script]

    def starts(self) -> list[str]:
        """See :meth:`ProcessRuns.starts`."""
        return self._heard.labels("fastlane.task")

    def executions(self) -> list[str]:
        """The executions that were started, as often as they were."""
        return self._heard.labels("fastlane.execution")

    def exit_codes(self) -> dict[str, int]:
        """How the engine saw each execution end."""
        return self._heard.exit_codes("fastlane.execution")


class Servers:
    """One or more instances that share their store and their runs, asked at random."""

    def __init__(
        self,
        directory: Path,
        runs: ProcessRuns | ContainerRuns,
        *,
        count: int,
        seed: int | None = None,
        **options: str,
    ) -> None:
        self.runs = runs
        self.chance = random.Random(seed)
        common = {
            "DATA_DIR": str(directory / "data"),
            "MAX_RUNNING": "4",
            **runs.options,
            **options,
        }
        self.instances = [
            Instance(directory / f"instance-{number}", **common) for number in range(count)
        ]

    def __enter__(self) -> Self:
        self.runs.__enter__()
        try:
            for instance in self.instances:
                instance.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *arguments: object) -> None:
        for instance in self.instances:
            instance.kill()
        self.runs.__exit__(*arguments)

    def body(self, name: str, *, pause: float = 0.1, **more: Any) -> dict[str, Any]:
        """A job with a known log and exit code 7; each of its starts is in :meth:`starts`."""
        return self.shell(name, SCRIPT.format(lines=LINES, pause=pause), **more)

    def shell(self, name: str, script: str, **more: Any) -> dict[str, Any]:
        """A job that runs *script*; each of its starts is in :meth:`starts`."""
        return {"image": self.runs.image, "command": self.runs.command(name, script), **more}

    def starts(self) -> list[str]:
        """The names of the jobs that were started, as often as they were."""
        return self.runs.starts()

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        instance: FastlaneServer | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """One request to *instance* or any; status 0 is that no answer came."""
        chosen = instance or self.chance.choice(self.instances)
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{chosen.url}{path}", data=data, method=method, headers=dict(headers or {})
        )
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except (OSError, http.client.HTTPException):
            return 0, b""

    def insist(self, path: str) -> Any:
        """GET until some instance answers 200."""
        return json.loads(self.text(path))

    def text(self, path: str) -> str:
        """As :meth:`insist`, of a body that is not JSON."""

        def probe() -> list[str] | None:
            status, body = self.request("GET", path)
            # In a list: an empty body is an answer too.
            return [body.decode()] if status == 200 else None

        return wait_for(probe, f"an answer to {path}", SETTLE_SECONDS)[0]

    def digest(self, path: str) -> tuple[int, str]:
        """How many bytes a log has and their SHA-256, whatever its size."""

        def probe() -> tuple[int, str] | None:
            found, size = hashlib.sha256(), 0
            try:
                url = f"{self.chance.choice(self.instances).url}{path}"
                with urllib.request.urlopen(url, timeout=REQUEST_SECONDS) as answer:
                    while chunk := answer.read(1024 * 1024):
                        found.update(chunk)
                        size += len(chunk)
            except (OSError, http.client.HTTPException):
                return None
            return size, found.hexdigest()

        return wait_for(probe, f"the log at {path}", SETTLE_SECONDS)

    def await_recovery(self, report: Report, since: float | None = None) -> None:
        """Wait until a submission is accepted again, and note how long that took.

        :param since: what counts as the beginning, of ``time.monotonic``; now by default.
        """
        began = time.monotonic() if since is None else since
        name = f"probe-{len(report.recoveries)}-{began:.3f}"
        body = {"image": self.runs.image, "command": "true"}
        wait_for(
            lambda: self.request("POST", f"/tasks/{name}/", body)[0] == 200,
            "a submission that is accepted",
            SETTLE_SECONDS,
        )
        report.recoveries.append(time.monotonic() - began)


class Single(Servers):
    """One server on SQLite."""

    def __init__(
        self, directory: Path, runs: ProcessRuns | ContainerRuns | None = None, **options: Any
    ) -> None:
        super().__init__(directory, runs or ProcessRuns(directory), count=1, **options)

    @property
    def server(self) -> Instance:
        """The one."""
        return self.instances[0]


class Cluster(Servers):
    """*count* instances that share their stores and, as processes of one machine, their runs."""

    def __init__(
        self,
        directory: Path,
        mongodb_url: str,
        redis_url: str,
        *,
        count: int = 3,
        runs: ProcessRuns | ContainerRuns | None = None,
        seed: int | None = None,
        **options: str,
    ) -> None:
        self.mongodb_url = mongodb_url
        super().__init__(
            directory,
            runs or ProcessRuns(directory),
            count=count,
            seed=seed,
            MONGODB_URL=mongodb_url,
            REDIS_URL=redis_url,
            **options,
        )

    def an_owner(self) -> Instance | None:
        """An instance that runs something just now."""
        with MongoClient[dict[str, Any]](self.mongodb_url) as client:
            executions = client.get_default_database()["executions"]
            for instance in self.instances:
                if executions.find_one({"active_owner": {"$regex": f"-{instance.pid}-"}}):
                    return instance
        return None

    def await_adoption(self, report: Report, pid: int) -> None:
        """Wait until nothing active is owned by the dead process *pid*, and note how long."""
        began = time.monotonic()
        with MongoClient[dict[str, Any]](self.mongodb_url) as client:
            executions = client.get_default_database()["executions"]
            owned = {"active_owner": {"$regex": f"-{pid}-"}}
            wait_for(lambda: executions.find_one(owned) is None, "adoption", SETTLE_SECONDS)
        report.recoveries.append(time.monotonic() - began)


class DockerCluster(Cluster):
    """Runs containers; the engine itself says what was started."""

    def __init__(self, directory: Path, mongodb_url: str, redis_url: str, **options: Any) -> None:
        runs = ContainerRuns(directory)
        self.host = runs.host
        super().__init__(directory, mongodb_url, redis_url, runs=runs, **options)
