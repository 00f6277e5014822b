"""Jobs that are submitted while a test makes trouble, and the invariants that hold for each.

An accepted job ends once, with the outcome and the log that its command has, and was started once.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from scripts.scoreboard import Row
from tests.eventually import wait_for
from tests.fastlane_server import FINAL

if TYPE_CHECKING:
    from tests.cluster.instances import Servers

# Bounds how long what was accepted may take to its end, in seconds.
SETTLE_SECONDS = 90.0

LINES = 5
SCRIPT = (
    "echo start; i=0; while [ $i -lt {lines} ]; do echo out $i; echo err $i >&2; "
    "sleep {pause}; i=$((i+1)); done; exit 7"
)
STDOUT = "start\n" + "".join(f"out {i}\n" for i in range(LINES))
STDERR = "".join(f"err {i}\n" for i in range(LINES))


def digest(text: str) -> str:
    """By which logs are compared."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Expected:
    """A job, and how each of its executions must end."""

    body: Mapping[str, Any]
    status: str = "failed"
    reason: str | None = "exit-code"
    exit_code: int | None = 7
    stdout: str | None = digest(STDOUT)
    """Digest of the log; None: not looked at."""
    stderr: str | None = digest(STDERR)
    starts: int = 1


@dataclass
class Report:
    """What came of a load; every fault is a name."""

    accepted: int = 0
    lost: list[str] = field(default_factory=list)
    started_twice: list[str] = field(default_factory=list)
    wrong_outcomes: list[str] = field(default_factory=list)
    wrong_logs: list[str] = field(default_factory=list)
    wrong_answers: list[str] = field(default_factory=list)
    refused: int = 0
    seconds: list[float] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)

    def row(self, scenario: str, where: str, note: str = "") -> Row:
        """For the scoreboard; it is also printed, with the times of the jobs."""
        times = sorted(self.seconds) or [0.0]
        print(
            f"\n{scenario}: job time median {statistics.median(times):.2f} s "
            f"p99 {_p99(times):.2f} s, answered 503 {self.refused}, {len(self.recoveries)} "
            f"recoveries"
        )
        return Row(
            scenario,
            where,
            self.accepted,
            lost=len(self.lost),
            twice=len(self.started_twice),
            wrong_outcome=len(self.wrong_outcomes),
            wrong_log=len(self.wrong_logs),
            wrong_answer=len(self.wrong_answers),
            recovery_seconds=max(self.recoveries, default=None),
            note=note,
        )

    def check(self) -> None:
        """Fail if anything was wrong."""
        faults = {
            "lost": self.lost,
            "started twice": self.started_twice,
            "wrong outcomes": self.wrong_outcomes,
            "wrong logs": self.wrong_logs,
            "wrong answers": self.wrong_answers,
        }
        assert not any(faults.values()), {name: found for name, found in faults.items() if found}


def _p99(ordered: list[float]) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def judge(
    report: Report, servers: Servers, name: str, expected: Expected, execution: Mapping[str, Any]
) -> None:
    """Hold one ended execution against what it must be."""
    outcome = (execution["status"], execution["reason"], execution["exitCode"])
    wanted = (expected.status, expected.reason, expected.exit_code)
    if outcome != wanted:
        report.wrong_outcomes.append(f"{name}: {outcome} instead of {wanted}")
    times = [_seconds(execution[key]) for key in TIMES if execution[key] is not None]
    if times != sorted(times):
        report.wrong_outcomes.append(f"{name}: times run backwards: {times}")
    path = path_of(execution["url"])
    for stream, right in (("stdout", expected.stdout), ("stderr", expected.stderr)):
        if right is None:
            continue
        size, found = servers.digest(f"{path}{stream}/")
        if found != right:
            report.wrong_logs.append(f"{name} {stream}: {size} bytes")
    report.seconds.append(times[-1] - times[0])


TIMES = ("createdAt", "startedAt", "finishedAt")


def path_of(url: str) -> str:
    """A URL of an answer, without its server: any of them may be asked."""
    return "/" + url.split("/", 3)[3]


class Load:
    """Submits jobs under idempotency keys while the test makes trouble."""

    def __init__(
        self,
        servers: Servers,
        jobs: int,
        *,
        pause: float = 0.1,
        every_seconds: float = 0.25,
        make: Callable[[str], Expected] | None = None,
        settle_seconds: float = SETTLE_SECONDS,
        prefix: str = "load",
    ) -> None:
        """:param pause: of each job between two lines; :param every_seconds: one is submitted.

        :param make: what the job of a name is, where it is not the usual one.
        """
        self.servers = servers
        self.report = Report()
        self.accepted: dict[str, str] = {}
        self._jobs = jobs
        self._make = make or (lambda name: Expected(servers.body(name, pause=pause)))
        self._made: dict[str, Expected] = {}
        self._every_seconds = every_seconds
        self._settle_seconds = settle_seconds
        self._prefix = prefix
        self._abandoned = False
        self._thread = threading.Thread(target=self._submit_all)

    @property
    def under_way(self) -> bool:
        """Whether not all jobs are submitted yet."""
        return self._thread.is_alive()

    def await_accepted(self) -> None:
        """Wait until all jobs are accepted."""
        wait_for(lambda: len(self.accepted) == self._jobs, "all of them", self._settle_seconds)

    def _submit_all(self) -> None:
        for number in range(self._jobs):
            if self._abandoned:
                return
            self._submit(f"{self._prefix}-{number}")
            time.sleep(self._every_seconds)

    def _submit(self, name: str) -> None:
        made = self._made[name] = self._make(name)
        deadline = time.monotonic() + self._settle_seconds
        while time.monotonic() < deadline and not self._abandoned:
            status, answer = self.servers.request(
                "POST", f"/tasks/{name}/", made.body, headers={"Idempotency-Key": name}
            )
            if status == 200:
                self.accepted[name] = json.loads(answer)["jobUrl"]
                return
            if status == 503:
                self.report.refused += 1
            elif status != 0:
                self.report.wrong_answers.append(f"{name}: {status} {answer[:200]!r}")
            time.sleep(0.05)
        self.report.wrong_answers.append(f"{name}: never accepted")

    @contextmanager
    def running(self) -> Iterator[Report]:
        """While the block makes trouble jobs are submitted; behind it the report is complete."""
        self._thread.start()
        try:
            yield self.report
        except BaseException:
            self._abandoned = True
            raise
        finally:
            self._thread.join()
        self._settle()

    def _settle(self) -> None:
        report = self.report
        report.accepted = len(self.accepted)
        ended = await_ends(self.servers, self.accepted, self._settle_seconds)
        report.lost = sorted(set(self.accepted) - set(ended))
        starts = self.servers.starts()
        for name, executions in ended.items():
            made = self._made[name]
            if starts.count(name) > made.starts:
                report.started_twice.append(f"{name}: {starts.count(name)}")
            elif starts.count(name) < made.starts:
                report.wrong_outcomes.append(f"{name}: started {starts.count(name)} times")
            if len(executions) != 1:
                report.wrong_outcomes.append(f"{name}: {len(executions)} executions")
            judge(report, self.servers, name, made, executions[-1])


def await_ends(
    servers: Servers, jobs: Mapping[str, str], seconds: float = SETTLE_SECONDS
) -> dict[str, list[dict[str, Any]]]:
    """The executions of each job by name once all are final; without those that never were."""
    open_ = dict(jobs)
    ended: dict[str, list[dict[str, Any]]] = {}
    deadline = time.monotonic() + seconds

    def settled() -> bool:
        for name, url in list(open_.items()):
            status, body = servers.request("GET", path_of(url))
            if status != 200:
                continue
            executions = json.loads(body)["job"]["executions"]
            if executions and all(each["status"] in FINAL for each in executions):
                ended[name] = executions
                del open_[name]
        return not open_ or time.monotonic() > deadline

    wait_for(settled, "the end of all that was accepted", seconds + SETTLE_SECONDS, every=0.1)
    return ended


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
