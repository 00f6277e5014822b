"""What the server tells: frozen records and enums. Times are aware; durations in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fastlane_client.decoding import OpenEnum, Record, named

Command = str | tuple[str, ...] | None
"""As submitted: a string that is split as a shell splits words, or the words."""


class Status(OpenEnum):
    """Where an execution stands."""

    SCHEDULED = "scheduled"
    ENQUEUED = "enqueued"
    PULLING = "pulling"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    TIMEDOUT = "timedout"
    EXPIRED = "expired"

    @property
    def final(self) -> bool:
        """Whether nothing changes any more."""
        return self in _FINAL


_FINAL = frozenset({Status.DONE, Status.FAILED, Status.TIMEDOUT, Status.EXPIRED})


class Reason(OpenEnum):
    """Why an execution ended as it did."""

    EXIT_CODE = "exit-code"
    OOM = "oom"
    STOPPED = "stopped"
    TIMEOUT = "timeout"
    EXPIRED = "expired"
    PULL_FAILED = "pull-failed"
    START_FAILED = "start-failed"
    DISK = "disk"
    LOST = "lost"


class Trigger(OpenEnum):
    """Why an execution was created."""

    SUBMIT = "submit"
    SCHEDULE = "schedule"
    CRON = "cron"
    RETRY = "retry"
    MANUAL = "manual"
    LOST = "lost"


class JobState(OpenEnum):
    """How a job is."""

    ACTIVE = "active"
    PAUSED = "paused"
    SCHEDULED = "scheduled"
    STOPPED = "stopped"
    IDLE = "idle"


class Stream(OpenEnum):
    """Where a log record comes from; ``fastlane`` is a note of the server."""

    STDOUT = "stdout"
    STDERR = "stderr"
    FASTLANE = "fastlane"


class PullPolicy(OpenEnum):
    """When an image is pulled before a run."""

    ALWAYS = "always"
    MISSING = "missing"
    NEVER = "never"


class Overlap(OpenEnum):
    """What a cron tick does while the job's last execution still runs."""

    ALLOW = "allow"
    SKIP = "skip"
    QUEUE = "queue"


class DeliveryState(OpenEnum):
    """How far a notification is."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


# -- executions --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry(Record):
    """The attempt that follows a failed one."""

    execution_id: str
    url: str = ""
    attempt: int = 0
    due_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionMetadata(Record):
    """Where an execution ran, and which of the job's executions it is."""

    container_id: str | None = named("container_id", default=None)
    docker_host: str | None = named("docker_host", default=None)
    docker_port: int | None = named("docker_port", default=None)
    envs: Mapping[str, str] = named("envs", default_factory=dict)
    attempt: int = 0
    """0 for the first run, n for the n-th retry."""
    retries: int = 0
    farm: str = ""
    scheduled_for: datetime | None = None
    late_seconds: float | None = None
    due_at: datetime | None = None
    message: str | None = None
    """What fastlane reports about its end."""
    waiting: str | None = None
    """Why it does not run yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution(Record):
    """One run of a job."""

    execution_id: str
    url: str = ""
    status: Status
    reason: Reason | None = None
    exit_code: int | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    image: str = ""
    command: Command = None
    log: str = ""
    """The last 64 KiB of stdout."""
    log_truncated: bool = False
    error: str = ""
    """The last 64 KiB of stderr, or a sentence of fastlane's."""
    error_truncated: bool = False
    metadata: ExecutionMetadata = ExecutionMetadata()
    retry: Retry | None = None
    """The attempt that follows this one; None where none does, and in lists."""

    @property
    def attempt(self) -> int:
        """0 for the first run, n for the n-th retry."""
        return self.metadata.attempt

    @property
    def waiting(self) -> str | None:
        """Why it does not run yet, in words."""
        return self.metadata.waiting

    @property
    def sentence(self) -> str:
        """How it is or ended, for people."""
        if not self.status.final:
            return f"{self.status.capitalize()}{f': {self.waiting}' if self.waiting else '.'}"
        if self.status is Status.DONE:
            return "Done."
        head = "Timed out" if self.status is Status.TIMEDOUT else self.status.capitalize()
        if self.metadata.message:
            return f"{head}: {self.metadata.message}"
        if self.reason is Reason.EXIT_CODE:
            return f"{head} with exit code {self.exit_code}."
        return f"{head} ({self.reason})." if self.reason else f"{head}."


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionItem(Record):
    """An execution in a list across tasks."""

    execution_id: str
    url: str = ""
    task_id: str
    task_url: str = ""
    job_id: str
    job_url: str = ""
    job_name: str | None = None
    number: int | None = None
    attempt: int = 0
    trigger: Trigger | None = None
    status: Status
    reason: Reason | None = None
    error: str | None = None
    """Its first 300 characters."""
    exit_code: int | None = None
    image: str = ""
    command: Command = None
    farm: str | None = None
    host: str | None = None
    created_at: datetime
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    duration_seconds: float | None = None
    waiting: str | None = None
    next_attempt_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LastExecution(Record):
    """The last execution of a job or a task."""

    execution_id: str
    url: str = ""
    status: Status
    reason: Reason | None = None
    exit_code: int | None = None
    created_at: datetime | None = None
    finished_at: datetime | None = None


# -- tasks and jobs ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(Record):
    """A task."""

    task_id: str
    url: str = ""
    created_at: datetime
    last_modified_at: datetime | None = None
    jobs_count: int = 0
    last_execution: LastExecution | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskJob(Record):
    """A job in the list of its task."""

    id: str
    url: str = ""
    created_at: datetime
    name: str | None = None
    last_execution: LastExecution | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule(Record):
    """When a job runs: ``cron`` and ``timezone``, or ``start_at``."""

    cron: str | None = None
    timezone: str | None = None
    start_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobItem(Record):
    """A job in a list across tasks."""

    job_id: str
    name: str | None = None
    url: str = ""
    task_id: str
    task_url: str = ""
    image: str = ""
    command: Command = None
    schedule: Schedule | None = None
    schedule_text: str | None = None
    """The cron expression in words."""
    next_scheduled_at: datetime | None = None
    state: JobState
    paused: bool = False
    execution_count: int = 0
    last_execution: LastExecution | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Record):
    """What to run and when, with the first page of its executions, newest first."""

    id: str
    url: str = ""
    task_id: str
    name: str | None = None
    created_at: datetime
    last_modified_at: datetime | None = None
    image: str = ""
    command: Command = None
    scheduled: bool = False
    next_scheduled_at: datetime | None = None
    stopped_at: datetime | None = None
    paused: bool = False
    execution_count: int = 0
    skipped_ticks: int = 0
    last_skipped_tick: datetime | None = None
    executions: tuple[Execution, ...] = ()
    metadata: Mapping[str, Any] = named("metadata", default_factory=dict)
    """Its definition, with the keys of the payload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Record):
    """What a submission would create."""

    task_id: str = ""
    job: Mapping[str, Any] = named("job", default_factory=dict)
    """The job as its details would show it."""
    next_runs: tuple[datetime, ...] = ()
    """The next five runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkResult(Record):
    """What stopping or rerunning many executions has done, or would do."""

    matched: int
    changed: int = 0
    executions: tuple[Mapping[str, Any], ...] = ()


# -- logs and events ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord(Record):
    """A piece of log."""

    seq: int
    """Rises within one execution; a reader can continue after any."""
    ts: datetime
    stream: Stream
    text: str
    line: int | None = None
    """The number of its first line; None for notes and where the server does not say."""
    execution_id: str = ""
    """Of which execution: a job's log continues with that of its retries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMatch(Record):
    """A line of a log that a search has found."""

    seq: int
    offset: int = 0
    """Where the match begins in the record, in bytes."""
    line: int | None = None
    ts: datetime | None = None
    stream: Stream
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Record):
    """Something that happened."""

    id: str = ""
    cursor: str = ""
    """Resumes after it."""
    type: str
    at: datetime | None = None
    task_id: str | None = None
    job_id: str | None = None
    execution_id: str | None = None
    url: str | None = None
    status: Status | None = None
    reason: str | None = None
    exit_code: int | None = None
    attempt: int | None = None
    host: str | None = None
    waiting: str | None = None


# -- counts -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles(Record):
    """Of durations, in seconds, with an error of at most 10 %; None where nothing ended."""

    median: float | None = None
    p95: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Record):
    """What happened in one step of time."""

    at: datetime
    """Its beginning."""
    enqueued: int = 0
    done: int = 0
    failed: int = 0
    timedout: int = 0
    expired: int = 0
    duration_seconds: Quantiles = Quantiles()
    waiting_seconds: Quantiles = Quantiles()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats(Record):
    """How many executions ended how, and how long they took."""

    task: str | None = None
    """None: all tasks together."""
    step: str = ""
    source: str = ""
    """``counters``, or ``executions``: only the last 1,000 of the task."""
    items: tuple[Step, ...] = ()


# -- the server --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Host(Record):
    """A host and its state."""

    host: str
    port: int | None = None
    farm: str = ""
    available: bool = True
    blacklisted: bool = False
    """Drained: it gets no new executions."""
    circuit: str | None = None
    error: str | None = None
    running: int = 0
    max_running: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Farm(Record):
    """A pool of hosts."""

    name: str
    match: str = ""
    running: int = 0
    max_running: int = 0
    blocked: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine(Record):
    """The engine of a host."""

    name: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRun(Record):
    """An execution that runs on a host."""

    execution_id: str
    url: str = ""
    task_id: str = ""
    job_id: str = ""
    status: Status
    started_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FarmHost(Record):
    """A host of a farm, and what runs on it."""

    host: str
    """As in the configuration; :meth:`Client.drain` takes it."""
    configured: bool = True
    """False: it was removed from the configuration, and executions still run on it."""
    available: bool = True
    drained: bool = False
    circuit: str | None = None
    failures: int = 0
    error: str | None = None
    tried_again_at: datetime | None = None
    engine: Engine | None = None
    running: int = 0
    executions: tuple[HostRun, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FarmHosts(Record):
    """A farm with its slots and hosts."""

    name: str
    match: str = ""
    executor: str = ""
    running: int = 0
    max_running: int = 0
    max_running_per_task: int | None = None
    blocked: str | None = None
    hosts: tuple[FarmHost, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatus(Record):
    """What the server does, and the state of its hosts."""

    version: str = ""
    executor: str = ""
    backend: str = ""
    hosts: tuple[Host, ...] = ()
    farms: tuple[Farm, ...] = ()
    containers: Mapping[str, Any] = named("containers", default_factory=dict)
    jobs: Mapping[str, Any] = named("jobs", default_factory=dict)
    queues: Mapping[str, Any] = named("queues", default_factory=dict)
    tasks: Mapping[str, Any] = named("tasks", default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health(Record):
    """Whether the storage is available."""

    errors: tuple[Mapping[str, Any], ...] = ()
    mongo: bool = True
    redis: bool = True
    backend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt(Record):
    """One attempt to deliver a notification."""

    time: datetime
    event: str = ""
    status: int | None = None
    error: str | None = None
    duration: float = 0.0
    notification_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification(Record):
    """A notification about an execution to one receiver."""

    id: str
    channel: str = ""
    event: str = ""
    target: str = ""
    state: DeliveryState = DeliveryState.PENDING
    created_at: datetime | None = None
    due_at: datetime | None = None
    attempts: int = 0
    dispatch: tuple[Attempt, ...] = ()
    """The last attempts, oldest first."""
    execution: Mapping[str, Any] = named("execution", default_factory=dict)
    job: Mapping[str, Any] = named("job", default_factory=dict)
    task: Mapping[str, Any] = named("task", default_factory=dict)
