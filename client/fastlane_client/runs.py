"""A run: a job that was submitted, or one execution, and what can be done with it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fastlane_client.address import segment
from fastlane_client.core import WAIT_SECONDS, Broken, Core, Item, Items, More, Op, Sleep, mapped
from fastlane_client.decoding import decode, loads
from fastlane_client.drivers import AsyncDriver, SyncDriver
from fastlane_client.errors import (
    JobFailed,
    NotFinished,
    NothingToFollow,
    UnexpectedAnswer,
    Unreachable,
)
from fastlane_client.records import Execution, Job, LogMatch, LogRecord, Status
from fastlane_client.styles import Async, Styled, Sync, call, items, starts

# Bounds the records of one page of a log.
LOG_PAGE = 1000
# Bounds how often a log that grows all the time is asked for, in seconds. A server that has news
# for many sends them every 0.1 s.
BATCH_SECONDS = 0.02
# How long a server is left alone that answers before it was to, in seconds: it stops.
EARLY_SECONDS = 0.1
# Bounds the lines of the log in JobFailed.
TAIL_LINES = 20
# How long the server is asked to wait while changes of the status are watched, in seconds.
WATCH_SECONDS = 2

Output = Literal["logs", "stdout", "stderr"]
Query = Mapping[str, object]
# Which ends a retry may follow.
_RETRIED = (Status.FAILED, Status.TIMEDOUT)


@dataclass(frozen=True, slots=True)
class RunId:
    """A job, or one of its executions."""

    task_id: str
    job_id: str
    execution_id: str | None = None
    url: str = ""
    """For people: of the execution, or of the job while it has none."""
    job_url: str = ""
    retries: bool = True
    """Whether the retries of the execution belong to it."""

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> RunId:
        """From the answer to a submission."""
        try:
            execution_id, url = answer.get("executionId"), answer.get("executionUrl")
            return cls(
                answer["taskId"],
                answer["jobId"],
                execution_id,
                url or answer["jobUrl"],
                answer["jobUrl"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise UnexpectedAnswer("The answer to a submission is not one of fastlane.") from error

    @property
    def job_path(self) -> str:
        return f"/tasks/{segment(self.task_id)}/jobs/{segment(self.job_id)}"

    @property
    def path(self) -> str:
        """Of the execution, or of the job while none is known."""
        return self.job_path if self.execution_id is None else self.path_of(self.execution_id)

    def path_of(self, execution_id: str) -> str:
        """Of an execution of the job."""
        return f"{self.job_path}/executions/{segment(execution_id)}"


def do(core: Core, path: str) -> Op[None]:
    """POST what may be repeated."""
    yield from core.send(core.request("POST", path, repeatable=True))


def remove(core: Core, path: str, force: bool) -> Op[None]:
    """DELETE what is at *path*."""
    query = {"force": force or None}
    yield from core.send(core.request("DELETE", path, query, repeatable=True))


def start(core: Core, path: str, overrides: Mapping[str, Any] | None) -> Op[RunId]:
    """POST what creates an execution; it is not repeated once the server may have got it."""
    answer = yield from core.json(core.request("POST", path, None, overrides or None))
    return RunId.of(answer)


def get_execution(core: Core, path: str, wait: float = 0) -> Op[Execution]:
    """The execution at *path*; *wait* so many seconds for it to be final."""
    # The server waits whole seconds; the rest is waited for here.
    seconds, since = int(wait), time.monotonic()
    request = core.request("GET", f"{path}/", {"wait": seconds or None}, wait=seconds)
    answer = yield from core.json(request)
    if not isinstance(answer, dict) or not isinstance(answer.get("execution"), dict):
        raise UnexpectedAnswer(f"{core.address.base} sent no execution.")
    execution = decode(Execution, {**answer["execution"], "retry": answer.get("retry")})
    rest = wait - (time.monotonic() - since)
    if rest > 0 and not execution.status.final:
        # A server that stops answers at once.
        yield Sleep(min(rest, EARLY_SECONDS))
    return execution


def get_job(core: Core, run: RunId) -> Op[Job]:
    """The job of *run*."""
    answer = yield from core.json(core.request("GET", f"{run.job_path}/"))
    if not isinstance(answer, dict) or not isinstance(answer.get("job"), dict):
        raise UnexpectedAnswer(f"{core.address.base} sent no job.")
    return decode(Job, answer["job"])


def _deadline(timeout: float | None) -> float:
    return float("inf") if timeout is None else time.monotonic() + timeout


def first_execution(core: Core, run: RunId, deadline: float) -> Op[str]:
    """The id of the job's last execution, once it has one."""
    if run.execution_id is not None:
        return run.execution_id
    while True:
        job = yield from get_job(core, run)
        if job.executions:
            return job.executions[0].execution_id
        if job.next_scheduled_at is None and not job.paused:
            raise NothingToFollow(
                f'Job "{run.job_id}" has not run and is not scheduled: there is nothing to follow.'
            )
        if time.monotonic() >= deadline:
            raise NotFinished(f'Job "{run.job_id}" has not started in time.')
        due = job.next_scheduled_at.timestamp() - time.time() if job.next_scheduled_at else 1.0
        yield Sleep(min(max(due, 0.05), 1.0, max(deadline - time.monotonic(), 0.0)))


def last_attempt(core: Core, run: RunId, deadline: float) -> Op[Execution]:
    """How the execution of *run* ended, or the last of its retries."""
    execution_id = yield from first_execution(core, run, deadline)
    while True:
        path = run.path_of(execution_id)
        left = deadline - time.monotonic()
        execution = yield from get_execution(core, path, max(0.0, min(left, WAIT_SECONDS)))
        if execution.status.final:
            if execution.retry is None or not run.retries:
                return execution
            execution_id = execution.retry.execution_id
        elif left <= 0:
            raise NotFinished(f'Execution "{execution_id}" is {execution.status}; it continues.')


def read_output(
    core: Core, path: str, output: Output, *, tail: int | None = None, since: object = None
) -> Items[bytes]:
    """The bytes of a log."""
    query = {"tail": tail, "since": since}
    request = core.request("GET", f"{path}/{output}/", query, accept="text/plain", streamed=True)
    yield from core.send(request)
    while True:
        try:
            piece: bytes = yield More()
        except Broken as broken:
            raise Unreachable(f"The log of {core.address.base} broke off ({broken}).") from broken
        if not piece:
            return
        yield Item(piece)


def search_log(core: Core, path: str, query: Mapping[str, object]) -> Items[LogMatch]:
    """The lines of a log that match, from the whole of it."""
    after: object = None
    while True:
        request = core.request("GET", f"{path}/logs/search/", {**query, "after": after})
        page = yield from core.json(request)
        for match in page["matches"]:
            yield Item(decode(LogMatch, match))
        after = page.get("nextAfter")
        if page.get("complete") or after is None:
            return


class _Log:
    """The log of one execution, read on from wherever it was read to."""

    def __init__(self, core: Core, path: str, execution_id: str, begin: Query) -> None:
        """:param begin: the parameters that say where to begin."""
        self.core = core
        self.path = path
        self.execution_id = execution_id
        self.query = begin
        self.execution: Execution | None = None
        """As it was seen last."""
        self.end: Mapping[str, Any] | None = None
        """``status``, ``exitCode`` and ``reason`` once all of the complete log was read."""
        self._asked = 0.0

    def more(self, wait: int) -> Op[list[LogRecord]]:
        """The next records; none when there are none, also after *wait* seconds."""
        pause = self._asked + BATCH_SECONDS - time.monotonic()
        if wait and pause > 0:
            # What a busy program writes meanwhile comes with one answer.
            yield Sleep(pause)
        self._asked = time.monotonic()
        request = self.core.request(
            "GET",
            f"{self.path}/logs/",
            {"format": "json", "limit": LOG_PAGE, "wait": wait or None, **self.query},
            accept="application/x-ndjson",
            wait=wait,
        )
        reply = yield from self.core.send(request)
        lines = [loads(line, self.core.address.base) for line in reply.body.splitlines()]
        if lines and lines[-1].get("end"):
            self.end = lines.pop()
        if lines:
            self.query = {"after": lines[-1]["seq"]}
        elif self.end is None and time.monotonic() - self._asked < wait / 2:
            yield Sleep(EARLY_SECONDS)
        return [decode(LogRecord, {**line, "executionId": self.execution_id}) for line in lines]

    def look(self) -> Items[Execution]:
        """Read the execution, and produce it if its status or what it waits for has changed."""
        before, now = self.execution, (yield from get_execution(self.core, self.path))
        self.execution = now
        if before is None or (before.status, before.waiting) != (now.status, now.waiting):
            yield Item(now)


def follow_log(
    core: Core, run: RunId, *, follow: bool, watch: bool, begin: Query
) -> Items[LogRecord | Execution]:
    """The log of *run*, with *watch* also its execution whenever its status has changed.

    :param begin: the parameters that say where to begin.
    """
    execution_id = yield from first_execution(core, run, _deadline(None if follow else 0))
    while True:
        log = _Log(core, run.path_of(execution_id), execution_id, begin)
        if watch:
            yield from log.look()
        while log.end is None:
            running = log.execution is not None and log.execution.status is Status.RUNNING
            soon = watch and not running
            wait = 0 if not follow else WATCH_SECONDS if soon else WAIT_SECONDS
            records = yield from log.more(wait)
            for record in records:
                yield Item(record)
            if not records and not follow:
                return
            if watch and (log.end is not None or not records or not running):
                yield from log.look()
        if not follow or not run.retries or log.end["status"] not in _RETRIED:
            return
        ended = log.execution or (yield from get_execution(core, log.path))
        if ended.retry is None:
            return
        execution_id, begin = ended.retry.execution_id, {}


class RunMethods(Styled):
    """What both kinds of run have. A run without an execution is that of its job."""

    def __init__(self, driver: SyncDriver | AsyncDriver, run_id: RunId) -> None:
        self._driver = driver
        self.id = run_id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id.url or self.id.path}>"

    @property
    def task_id(self) -> str:
        return self.id.task_id

    @property
    def job_id(self) -> str:
        return self.id.job_id

    @property
    def execution_id(self) -> str | None:
        """None for a job that is scheduled, or that was found by its own URL."""
        return self.id.execution_id

    @property
    def url(self) -> str:
        """Of the execution, or of the job while it has none."""
        return self.id.url or f"{self._core.address.base}{self.id.path}/"

    @call
    def job(self) -> Op[Job]:
        """The job, with the first page of its executions."""
        return get_job(self._core, self.id)

    @call
    def execution(self) -> Op[Execution]:
        """The execution as it is now; of a job, its last one.

        :raises NothingToFollow: the job has not run yet.
        """
        execution_id = yield from self._execution_id(0.0)
        return (yield from get_execution(self._core, self.id.path_of(execution_id)))

    def _execution_id(self, deadline: float) -> Op[str]:
        return first_execution(self._core, self.id, deadline)

    @call
    def wait(self, timeout: float | None = None, *, check: bool = True) -> Op[Execution]:
        """Wait for the end, retries included; the last attempt.

        :param timeout: how long, in seconds; None for as long as it takes.
        :param check: raise an exception unless it ended with exit code 0.
        :raises JobFailed: it did not.
        :raises NotFinished: it was not final in time.
        """
        core = self._core
        execution = yield from last_attempt(core, self.id, _deadline(timeout))
        if check and execution.status is not Status.DONE:
            path = self.id.path_of(execution.execution_id)
            request = core.request(
                "GET", f"{path}/logs/", {"tail": TAIL_LINES}, accept="text/plain"
            )
            reply = yield from core.send(request)
            tail = reply.body.decode(errors="replace")
            raise JobFailed(execution.sentence, execution=execution, log_tail=tail)
        return execution

    @items
    def logs(
        self,
        *,
        follow: bool = False,
        after: int | None = None,
        tail: int | None = None,
        since: object = None,
        line: int | None = None,
    ) -> Items[LogRecord]:
        """The log, record by record. A connection that breaks is resumed after the last record.

        :param follow: until the execution has ended, and its retries; otherwise what is stored.
        :param after: resume after this sequence number.
        :param tail: only so many of the last lines.
        :param since: only what was written since a time or a duration back, such as ``"10m"``.
        :param line: begin with this line, counted from 1 in the whole log.
        """
        begin = {"after": after, "tail": tail, "since": since, "line": line}
        found = follow_log(self._core, self.id, follow=follow, watch=False, begin=begin)
        return mapped(found, lambda one: one if isinstance(one, LogRecord) else None)

    @items
    def watch(
        self, *, after: int | None = None, tail: int | None = None, since: object = None
    ) -> Items[LogRecord | Execution]:
        """As ``logs(follow=True)``, and the execution whenever its status has changed.

        At the end the execution comes with its ``retry``, where one follows.
        """
        begin = {"after": after, "tail": tail, "since": since}
        return follow_log(self._core, self.id, follow=True, watch=True, begin=begin)

    @items
    def output(
        self, output: Output = "logs", *, tail: int | None = None, since: object = None
    ) -> Items[bytes]:
        """The bytes of the log so far: ``stdout``, ``stderr``, or both with ``-=-`` between."""
        return read_output(self._core, self.id.path, output, tail=tail, since=since)

    @items
    def search(
        self, q: str, *, regex: bool = False, case: bool = False, stream: str | None = None
    ) -> Items[LogMatch]:
        """The lines of the whole log that match *q*.

        :param regex: *q* is a regular expression (RE2).
        :param case: upper and lower case are different.
        """
        query = {"q": q, "regex": regex or None, "case": case or None, "stream": stream}
        return search_log(self._core, self.id.path, query)

    @call
    def stop(self) -> Op[None]:
        """Stop it and its retries; of a job, also its schedule. Safe to repeat."""
        return do(self._core, f"{self.id.path}/stop/")

    @starts
    def retry(self, overrides: Mapping[str, Any] | None = None) -> Op[RunId]:
        """Run the job's last definition once more; what runs is stopped first.

        :param overrides: for this execution: command, envs, image, timeout, resources.
        """
        return start(self._core, f"{self.id.job_path}/retry/", overrides)

    @starts
    def rerun(self, overrides: Mapping[str, Any] | None = None) -> Op[RunId]:
        """Run once more with this execution's definition; what runs is left alone."""
        execution_id = yield from self._execution_id(0.0)
        path = f"{self.id.path_of(execution_id)}/rerun/"
        return (yield from start(self._core, path, overrides))

    @starts
    def run_now(self, overrides: Mapping[str, Any] | None = None) -> Op[RunId]:
        """Run the job's current definition once more, whatever its schedule."""
        return start(self._core, f"{self.id.job_path}/run/", overrides)

    @call
    def pause(self) -> Op[None]:
        """Pause the schedule of the job."""
        return do(self._core, f"{self.id.job_path}/pause/")

    @call
    def resume(self) -> Op[None]:
        """Continue the schedule of the job."""
        return do(self._core, f"{self.id.job_path}/resume/")

    @call
    def delete(self, *, force: bool = False) -> Op[None]:
        """Delete the execution; of a job, the job with all its executions.

        :param force: stop what runs; otherwise that is a :class:`Conflict`.
        """
        return remove(self._core, f"{self.id.path}/", force)


class Run(RunMethods, Sync):
    """A run of a :class:`Client`."""


class AsyncRun(RunMethods, Async):
    """A run of an :class:`AsyncClient`."""
