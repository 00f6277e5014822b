"""Three instances as real processes on one MongoDB and one Redis, under load."""

from __future__ import annotations

import http.client
import json
import random
import statistics
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from pymongo import MongoClient

from scripts.engine import Engine, EngineError
from tests.engine import StartsHeard, find_engine
from tests.eventually import wait_for
from tests.fastlane_server import FINAL, ROOT, FastlaneServer
from tests.services import MongoServer

# Bounds how long what was accepted may take to its end, in seconds.
SETTLE_SECONDS = 90.0
# Bounds one request of the load, in seconds.
REQUEST_SECONDS = 15.0

LINES = 5
SCRIPT = (
    "echo start; i=0; while [ $i -lt {lines} ]; do echo out $i; echo err $i >&2; "
    "sleep {pause}; i=$((i+1)); done; exit 7"
)
STDOUT = "start\n" + "".join(f"out {i}\n" for i in range(LINES))
STDERR = "".join(f"err {i}\n" for i in range(LINES))


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


@dataclass
class Report:
    """What came of a load; every fault is a name."""

    accepted: int = 0
    lost: list[str] = field(default_factory=list)
    started_twice: list[str] = field(default_factory=list)
    wrong_logs: list[str] = field(default_factory=list)
    wrong_answers: list[str] = field(default_factory=list)
    refused: int = 0
    seconds: list[float] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)

    def show(self, what: str) -> None:
        times = sorted(self.seconds) or [0.0]
        back = sorted(self.recoveries) or [0.0]
        print(
            f"\n{what}: n {self.accepted}, lost {len(self.lost)}, "
            f"started twice {len(self.started_twice)}, log mismatches {len(self.wrong_logs)}, "
            f"wrong 2xx or 5xx {len(self.wrong_answers)}, answered 503 {self.refused}, "
            f"job time median {statistics.median(times):.2f} s p99 {_p99(times):.2f} s, "
            f"recovery p99 {_p99(back):.2f} s of {len(self.recoveries)}"
        )

    def check(self) -> None:
        faults = (self.lost, self.started_twice, self.wrong_logs, self.wrong_answers)
        assert not any(faults), faults


def _p99(ordered: list[float]) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


class Cluster:
    """*count* instances that share their stores and, as processes of one machine, their runs."""

    def __init__(
        self, directory: Path, mongodb_url: str, redis_url: str, *, count: int = 3, **options: str
    ) -> None:
        self.mongodb_url = mongodb_url
        self.witness = directory / "starts"
        self.chance = random.Random()
        common = {
            "DATA_DIR": str(directory / "data"),
            "MONGODB_URL": mongodb_url,
            "REDIS_URL": redis_url,
            "EXECUTOR": "process",
            "MAX_RUNNING": "4",
            **options,
        }
        self.instances = [
            Instance(directory / f"instance-{number}", **common) for number in range(count)
        ]

    def __enter__(self) -> Self:
        for instance in self.instances:
            instance.start()
        return self

    def __exit__(self, *_: object) -> None:
        for instance in self.instances:
            instance.kill()

    def body(self, name: str, *, pause: float = 0.1, **more: Any) -> dict[str, Any]:
        """A job with a known log and exit code 7; each of its starts is in :meth:`starts`."""
        script = SCRIPT.format(lines=LINES, pause=pause)
        return {
            "image": "none:1",
            "command": ["sh", "-c", f"echo {name} >> {self.witness}; {script}"],
            **more,
        }

    def starts(self) -> list[str]:
        """The names of the jobs that were started, as often as they were."""
        return self.witness.read_text().split() if self.witness.exists() else []

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

    def await_recovery(self, report: Report) -> None:
        """Wait until a submission is accepted again, and note how long that took."""
        began = time.monotonic()
        name = f"probe-{len(report.recoveries)}-{began:.3f}"
        body = {"image": "i", "command": "true"}
        wait_for(
            lambda: self.request("POST", f"/tasks/{name}/", body)[0] == 200,
            "a submission that is accepted",
            SETTLE_SECONDS,
        )
        report.recoveries.append(time.monotonic() - began)


class DockerCluster(Cluster):
    """Runs containers; the engine itself says what was started."""

    def __init__(
        self, directory: Path, mongodb_url: str, redis_url: str, *, count: int = 3, **options: str
    ) -> None:
        self.host, self._image = find_engine()
        self._engine = Engine(self.host)
        self._label = f"fastlane.installation={directory.name[:60]}"
        self._heard = StartsHeard(self.host, self._label)
        super().__init__(
            directory,
            mongodb_url,
            redis_url,
            count=count,
            EXECUTOR="docker",
            DOCKER_HOST=self.host,
            INSTALLATION=directory.name[:60],
            **options,
        )

    def __enter__(self) -> Self:
        self._heard.__enter__()
        return super().__enter__()

    def __exit__(self, *arguments: object) -> None:
        super().__exit__(*arguments)
        self._heard.__exit__()
        filters = quote(json.dumps({"label": [self._label]}))
        for each in self._engine.get(f"/containers/json?all=1&filters={filters}"):
            with suppress(EngineError):
                self._engine.call("DELETE", f"/containers/{each['Id']}?force=1")

    def body(self, name: str, *, pause: float = 0.1, **more: Any) -> dict[str, Any]:
        """See :meth:`Cluster.body`."""
        script = SCRIPT.format(lines=LINES, pause=pause)
        return {"image": self._image, "command": ["sh", "-c", script], **more}

    def starts(self) -> list[str]:
        """See :meth:`Cluster.starts`."""
        return self._heard.labels("fastlane.task")


class Load:
    """Submits jobs under idempotency keys while the test makes trouble."""

    def __init__(
        self, cluster: Cluster, jobs: int, *, pause: float = 0.1, every_seconds: float = 0.25
    ) -> None:
        """:param pause: of each job between two lines; :param every_seconds: one is submitted."""
        self.cluster = cluster
        self.report = Report()
        self.accepted: dict[str, str] = {}
        self._jobs = jobs
        self._pause = pause
        self._every_seconds = every_seconds
        self._thread = threading.Thread(target=self._submit_all)

    @property
    def under_way(self) -> bool:
        return self._thread.is_alive()

    def _submit_all(self) -> None:
        for number in range(self._jobs):
            name = f"load-{number}"
            body = self.cluster.body(name, pause=self._pause)
            deadline = time.monotonic() + SETTLE_SECONDS
            while time.monotonic() < deadline:
                status, answer = self.cluster.request(
                    "POST", f"/tasks/{name}/", body, headers={"Idempotency-Key": name}
                )
                if status == 200:
                    self.accepted[name] = json.loads(answer)["jobUrl"]
                    break
                if status == 503:
                    self.report.refused += 1
                elif status != 0:
                    self.report.wrong_answers.append(f"{name}: {status} {answer[:200]!r}")
                time.sleep(0.05)
            else:
                self.report.wrong_answers.append(f"{name}: never accepted")
            time.sleep(self._every_seconds)

    @contextmanager
    def running(self) -> Iterator[Report]:
        """While the block makes trouble jobs are submitted; behind it the report is complete."""
        self._thread.start()
        yield self.report
        self._thread.join()
        self._settle()

    def _settle(self) -> None:
        report = self.report
        report.accepted = len(self.accepted)
        open_ = dict(self.accepted)
        ended: dict[str, Mapping[str, Any]] = {}

        def settled() -> bool:
            for name, url in list(open_.items()):
                path = "/" + url.split("/", 3)[3]
                executions = self.cluster.insist(path)["job"]["executions"]
                if len(executions) == 1 and executions[0]["status"] in FINAL:
                    ended[name] = executions[0]
                    del open_[name]
            return not open_

        wait_for(settled, "the end of all that was accepted", SETTLE_SECONDS, every=0.1)
        report.lost = sorted(open_)
        starts = self.cluster.starts()
        for name, execution in ended.items():
            if (execution["status"], execution["exitCode"]) != ("failed", 7):
                report.lost.append(f"{name}: {execution}")
            if starts.count(name) != 1:
                report.started_twice.append(f"{name}: {starts.count(name)}")
            path = "/" + execution["url"].split("/", 3)[3]
            out = self.cluster.text(f"{path}stdout/")
            err = self.cluster.text(f"{path}stderr/")
            if (out, err) != (STDOUT, STDERR):
                report.wrong_logs.append(f"{name}: {out!r} {err!r}")
            report.seconds.append(
                _seconds(execution["finishedAt"]) - _seconds(execution["createdAt"])
            )


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
