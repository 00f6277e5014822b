"""Random calls and faults on three instances, and what must hold whatever they were.

The choices come from a seed alone. Times do not, so that a repeated run is alike and not the same.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from tests.cluster.instances import Cluster, ContainerRuns
from tests.cluster.proxy import Faults, Proxy
from tests.eventually import wait_for
from tests.fastlane_server import FINAL, ROOT
from tests.faults.event_log import EventLog
from tests.faults.receiver import Receiver
from tests.load import SETTLE_SECONDS, TIMES, Report, digest, path_of

KINDS = ("done", "failed", "retried", "long", "timedout", "later", "cron")
EVENTS = ("starts", "finishes")
# What a call may be answered while instances and stores come and go; 0: not at all.
# 400 is the answer to a retry of what has not run or not ended yet.
EXPECTED = {0, 200, 204, 400, 409, 503}
# Bounds how long the containers of what has ended may be there, in seconds.
CLEARED_SECONDS = 10.0
# Bounds what a frozen instance misses: up to twice its lease.
LEASE_SECONDS = 3
# With which a job ends that is run with an override.
OTHER_CODE = 77
SCHEDULED = {"later", "cron"}
FREEZE_SECONDS = (0.3, 2.0 * LEASE_SECONDS)


@dataclass
class Told:
    """A job as the driver knows it."""

    name: str
    path: str
    kind: str
    exit_code: int
    stdout: str
    retries: int = 0
    stops: int = 0
    """Asked for, whether or not an answer came."""
    reruns: int = 0
    """Runs that were asked for beside the job's own, whether or not an answer came."""
    is_overridden: bool = False
    """Whether one of them was asked for with :data:`OTHER_CODE`."""
    is_deleted: bool = False
    """Whether that was asked for."""
    is_unsure: bool = False
    """Whether one of them was not answered."""
    stopped_at: float | None = None
    """When a stop was answered after which nothing was asked for."""
    submitted_at: float = field(default_factory=time.time)
    seen: dict[str, tuple[object, ...]] = field(default_factory=dict)
    """The outcomes that were shown, by execution."""


class Explorer:
    """Drives the instances, then holds everything it did against what is stored."""

    def __init__(
        self,
        cluster: Cluster,
        runs: ContainerRuns,
        proxies: Sequence[Proxy],
        receiver: Receiver,
        seed: int,
    ) -> None:
        self.report = Report()
        self.done: Counter[str] = Counter()
        self._cluster = cluster
        self._runs = runs
        self._proxies = proxies
        self._receiver = receiver
        self._chance = random.Random(seed)
        self._jobs: list[Told] = []
        self._thaws: list[threading.Timer] = []
        self._numbers = 0
        self.events = EventLog(cluster)

    def explore(self, seconds: float) -> None:
        """Do things at random for so long, then put everything in order again."""
        steps: dict[Callable[[], None], int] = {
            self._submit: 12,
            self._read: 6,
            self._stop: 3,
            self._retry: 1,
            self._run: 1,
            self._rerun: 1,
            self._pause: 1,
            self._resume: 1,
            self._delete: 1,
            self._kill: 1,
            self._freeze: 1,
            self._cut: 1,
            self._prune: 1,
        }
        self.events.begin()
        until = time.monotonic() + seconds
        try:
            while time.monotonic() < until or len(self.done) < len(steps):
                (step,) = self._chance.choices(list(steps), list(steps.values()))
                self.done[step.__name__.strip("_")] += 1
                step()
        finally:
            self._mend()

    def _mend_cuts(self) -> None:
        for proxy in self._proxies:
            proxy.faults = Faults()

    def _mend(self) -> None:
        self._mend_cuts()
        for thaw in self._thaws:
            thaw.join()
        self._cluster.await_recovery(self.report)

    # -- steps ------------------------------------------------------------------------------------

    def _submit(self) -> None:
        self._numbers += 1
        name = f"explored-{self._numbers}"
        kind = self._chance.choice(KINDS)
        exit_code = self._chance.randrange(1, 100) if kind in {"failed", "retried"} else 0
        lines = self._chance.randrange(1, 2000)
        pause = {"long": 3, "timedout": 60}.get(kind, self._chance.choice([0, 0.3]))
        script = f"seq {lines}; sleep {pause}; echo end; exit ${{CODE:-{exit_code}}}"
        body: dict[str, Any] = self._cluster.shell(name, script)
        hook = {"url": self._receiver.url, "retries": 50}
        body["webhooks"] = {event: [hook] for event in EVENTS}
        if kind == "retried":
            body |= {"retries": 1, "backoff": {"minMs": 1}}
        if kind == "timedout":
            body["timeout"] = 1
        if kind == "later":
            body["startIn"] = "1s"
        if kind == "cron":
            body["cron"] = "* * * * *"
        answer = self._insist("POST", f"/tasks/{name}/", body, {"Idempotency-Key": name})
        text = "".join(f"{number}\n" for number in range(1, lines + 1)) + "end\n"
        path = path_of(answer["jobUrl"])
        retries = int(kind == "retried")
        self._jobs.append(Told(name, path, kind, exit_code, digest(text), retries=retries))

    def _insist(
        self, method: str, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> dict[str, Any]:
        def probe() -> dict[str, Any] | None:
            status, answer = self._call(method, path, body, headers)
            assert status in EXPECTED - {400}, answer
            found: dict[str, Any] | None = json.loads(answer) if status == 200 else None
            return found

        return wait_for(probe, f"an answer to {method} {path}", SETTLE_SECONDS)

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        status, answer = self._cluster.request(method, path, body, headers=headers)
        self.report.refused += status == 503
        is_gone = status == 404 and any(
            path.startswith(job.path) for job in self._jobs if job.is_deleted
        )
        if status not in EXPECTED and not is_gone:
            self.report.wrong_answers.append(f"{method} {path}: {status} {answer[:200]!r}")
        return status, answer

    def _job(self) -> Told | None:
        return self._chance.choice(self._jobs[-20:]) if self._jobs else None

    def _read(self) -> None:
        job = self._job()
        if job is None:
            return
        status, answer = self._call("GET", job.path)
        if status == 200:
            self._look(job, json.loads(answer)["job"]["executions"])

    def _look(self, job: Told, executions: Sequence[Mapping[str, Any]]) -> None:
        """What was shown as final stays as it is."""
        for one in executions:
            if one["status"] not in FINAL:
                if one["executionId"] in job.seen:
                    self.report.wrong_outcomes.append(f"{job.name}: final no more: {one}")
                continue
            outcome = (one["status"], one["reason"], one["exitCode"], one["finishedAt"])
            before = job.seen.setdefault(one["executionId"], outcome)
            if before != outcome:
                self.report.wrong_outcomes.append(f"{job.name}: {before}, then {outcome}")

    def _stop(self) -> None:
        job = self._job()
        if job is not None:
            self._stop_job(job)

    def _stop_job(self, job: Told) -> bool:
        job.stops += 1
        status, _ = self._call("POST", f"{job.path}stop/")
        if status == 200 and not job.is_unsure:
            job.stopped_at = time.time()
        return status == 200

    def _again(self, job: Told, path: str, body: Mapping[str, Any] | None = None) -> None:
        """Ask once for one more run: whether it was accepted is not known without an answer."""
        job.reruns += 1
        self._allow(job, path, body)

    def _allow(self, job: Told, path: str, body: Mapping[str, Any] | None = None) -> None:
        """Ask for what makes more runs. Without an answer it may come true at any time."""
        job.stopped_at = None
        status, _ = self._call("POST", path, body)
        job.is_unsure |= status in {0, 503}

    def _retry(self) -> None:
        job = self._job()
        if job is not None:
            self._again(job, f"{job.path}retry/")

    def _run(self) -> None:
        job = self._job()
        if job is not None:
            is_overridden = self._chance.random() < 0.5
            job.is_overridden |= is_overridden
            body = {"envs": {"CODE": str(OTHER_CODE)}} if is_overridden else {}
            self._again(job, f"{job.path}run/", body)

    def _rerun(self) -> None:
        job = self._job()
        if job is not None and job.seen:
            execution = self._chance.choice(sorted(job.seen))
            self._again(job, f"{job.path}executions/{execution}/rerun/")

    def _pause(self) -> None:
        job = self._job()
        if job is not None:
            self._call("POST", f"{job.path}pause/")

    def _resume(self) -> None:
        job = self._job()
        if job is not None:
            self._allow(job, f"{job.path}resume/")

    def _delete(self) -> None:
        job = self._job()
        if job is not None:
            job.is_deleted = True
            self._call("DELETE", f"{job.path}?force=true")

    def _kill(self) -> None:
        victim = self._chance.choice(self._cluster.instances)
        victim.kill()
        # It ends where a store does not answer at its start, and nobody here starts it again.
        self._mend_cuts()
        victim.start()

    def _freeze(self) -> None:
        pid = self._chance.choice(self._cluster.instances).pid

        def thaw() -> None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

        os.kill(pid, signal.SIGSTOP)
        self._thaws.append(threading.Timer(self._chance.uniform(*FREEZE_SECONDS), thaw))
        self._thaws[-1].start()

    def _cut(self) -> None:
        """Answers of a store are lost until the next cut."""
        proxy = self._chance.choice(self._proxies)
        likely = self._chance.choice([0.0, 0.01, 0.05])
        proxy.faults = Faults(reset_after_request=likely, cut=likely, delay=likely)

    def _prune(self) -> None:
        instance = self._chance.choice(self._cluster.instances)
        command = [sys.executable, "-m", "fastlane", "prune", "--server", instance.url]
        environment = {**os.environ, **instance.options}
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(
                command, cwd=ROOT, env=environment, timeout=30, stdout=subprocess.DEVNULL
            )

    # -- invariants -------------------------------------------------------------------------------

    def check(self) -> None:
        """Wait for the end of everything; every fault is in the report then."""
        self.report.accepted = len(self._jobs)
        kept = [job for job in self._jobs if not job.is_deleted]
        self._end_deletions()
        self._end_schedules(kept)
        ended: list[tuple[Told, list[dict[str, Any]]]] = []
        deadline = time.monotonic() + SETTLE_SECONDS
        for job in kept:
            executions = self._await_end(job, deadline)
            if all(one["status"] in FINAL for one in executions):
                ended.append((job, executions))
            else:
                self.report.lost.append(f"{job.name}: {executions}")
        started = Counter(self._runs.executions())
        self.report.started_twice += [one for one, count in started.items() if count > 1]
        exit_codes = self._runs.exit_codes()
        for job, executions in ended:
            self._look(job, executions)
            self._check_numbers(job, executions)
            for one in executions:
                self._check_execution(job, one, started, exit_codes)
        self._check_notifications(ended)
        everything = [one for _, executions in ended for one in executions]
        gone = [job.path.split("/")[4] for job in self._jobs if job.is_deleted]
        self.report.wrong_outcomes += self.events.faults(everything, gone)
        self._check_containers()

    def _end_deletions(self) -> None:
        """Repeat what was perhaps not accepted; from then on nobody shows the job."""
        for job in self._jobs:
            if job.is_deleted:
                wait_for(partial(self._deleted, job), f"the deletion of {job.name}", SETTLE_SECONDS)
                for instance in self._cluster.instances:
                    status, _ = self._cluster.request("GET", job.path, instance=instance)
                    if status not in {0, 404, 503}:
                        self.report.wrong_answers.append(f"{job.name}: {status}, though deleted")

    def _deleted(self, job: Told) -> bool:
        return self._call("DELETE", f"{job.path}?force=true")[0] in {204, 404}

    def _end_schedules(self, jobs: Sequence[Told]) -> None:
        """Let what is paused go on, and stop what has no end."""
        for job in jobs:
            if job.kind == "cron":
                wait_for(partial(self._stop_job, job), f"the stop of {job.name}", SETTLE_SECONDS)
            elif job.kind == "later":
                wait_for(partial(self._resumed, job), f"the end of a pause of {job.name}")

    def _resumed(self, job: Told) -> bool:
        # 400: it has run, or was stopped.
        return self._call("POST", f"{job.path}resume/")[0] in {200, 400}

    def _await_end(self, job: Told, deadline: float) -> list[dict[str, Any]]:
        while True:
            executions: list[dict[str, Any]] = self._cluster.insist(job.path)["job"]["executions"]
            ended = all(one["status"] in FINAL for one in executions)
            ended = ended and (bool(executions) or job.stops > 0)
            if ended or time.monotonic() > deadline:
                return executions
            time.sleep(0.1)

    def _check_numbers(self, job: Told, executions: Sequence[Mapping[str, Any]]) -> None:
        """Each execution has a reason to be there: the first, a retry, or a rerun by the driver."""
        ticks = int(job.kind == "cron") * int((time.time() - job.submitted_at) / 60 + 2)
        most = (1 + job.retries) * (1 + job.reruns) + ticks
        stored = self._cluster.insist(job.path)["job"]["executionCount"]
        least = 0 if job.kind in SCHEDULED and job.stops else 1
        late = [each["createdAt"] for each in executions if self._is_after_stop(job, each)]
        if late:
            self.report.wrong_outcomes.append(f"{job.name}: stopped, and made {late}")
        if not least <= len(executions) <= most or stored != len(executions):
            self.report.wrong_outcomes.append(
                f"{job.name} ({job.kind}): {len(executions)} of {stored} executions, {most} at most"
            )

    def _is_after_stop(self, job: Told, execution: Mapping[str, Any]) -> bool:
        """Whether it was made although its job had been stopped."""
        created_at = datetime.fromisoformat(execution["createdAt"]).timestamp()
        return job.stopped_at is not None and created_at > job.stopped_at

    def _check_execution(
        self,
        job: Told,
        one: Mapping[str, Any],
        started: Mapping[str, int],
        exit_codes: Mapping[str, int],
    ) -> None:
        key = str(one["executionId"])
        outcome = (one["status"], one["reason"], one["exitCode"])
        allowed: set[tuple[str, str | None]] = (
            {("failed", "stopped")} if job.stops + job.reruns else set()
        )
        if job.kind == "timedout":
            allowed |= {("timedout", "timeout")}
        elif job.exit_code:
            allowed |= {("failed", "exit-code")}
        else:
            allowed |= {("done", None), ("done", "exit-code")}
        codes = {job.exit_code}
        if job.is_overridden:
            allowed |= {("failed", "exit-code")}
            codes.add(OTHER_CODE)
        wrong = self.report.wrong_outcomes
        if outcome[:2] not in allowed:
            wrong.append(f"{job.name} ({job.kind}) {key}: {outcome} {one['metadata']['message']}")
        times = [one[name] for name in TIMES if one[name] is not None]
        if times != sorted(times):
            wrong.append(f"{job.name} {key}: times run backwards: {times}")
        if outcome[2] is not None and outcome[2] != exit_codes.get(key):
            wrong.append(f"{job.name} {key}: the engine saw {exit_codes.get(key)}: {outcome}")
        if outcome[1] not in {"stopped", "timeout", "lost"} and outcome[0] in {"done", "failed"}:
            if started.get(key) != 1 or outcome[2] not in codes:
                wrong.append(f"{job.name} {key}: {outcome}, started {started.get(key)} times")
            size, found = self._cluster.digest(f"{path_of(one['url'])}stdout/")
            if found != job.stdout:
                self.report.wrong_logs.append(f"{job.name} {key}: {size} bytes")

    def _check_notifications(
        self, ended: Sequence[tuple[Told, Sequence[Mapping[str, Any]]]]
    ) -> None:
        """One of each event for each execution, under one id; ``starts`` only where it started."""
        ids: dict[tuple[str, str], set[str]] = {}
        wanted = {
            (str(one["executionId"]), "finishes") for _, executions in ended for one in executions
        }

        def told() -> bool:
            for webhook_id, body in list(self._receiver.by_id.items()):
                ids.setdefault((body["executionId"], body["event"]), set()).add(webhook_id)
            return wanted <= set(ids)

        deadline = time.monotonic() + SETTLE_SECONDS
        while not told() and time.monotonic() < deadline:
            time.sleep(0.1)
        for key in wanted - set(ids):
            self.report.wrong_outcomes.append(f"{key}: not told")
        for key, found in ids.items():
            if len(found) != 1:
                self.report.wrong_outcomes.append(f"{key}: told under {len(found)} ids")

    def _check_containers(self) -> None:
        """What a dead instance has left is removed by a sweep, which prune does at once."""
        self._prune()
        deadline = time.monotonic() + CLEARED_SECONDS
        while self._runs.containers() and time.monotonic() < deadline:
            time.sleep(0.2)
        for each in self._runs.containers():
            self.report.wrong_outcomes.append(f"{each['Names']} is left behind: {each['Status']}")
