"""The records: frozen, and changed through a copy (``dataclasses.replace``).

Every ``*_at`` is a point in time in unix seconds (UTC, float); every ``*_seconds`` and
``*_ms`` is a duration in that unit. Nothing here does I/O or reads a clock.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Protocol

from fastlane.image import DEFAULT_TAG, ImageReference

Clock = Callable[[], float]
"""Unix seconds; ``time.time``, or a test's own."""


class Status(StrEnum):
    """Where an execution stands: ``enqueued → pulling → running →`` one of the final ones."""

    ENQUEUED = "enqueued"
    PULLING = "pulling"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    TIMEDOUT = "timedout"
    EXPIRED = "expired"


ACTIVE = frozenset({Status.PULLING, Status.RUNNING})
"""An instance owns the execution and it takes a slot of its farm."""
FINAL = frozenset({Status.DONE, Status.FAILED, Status.TIMEDOUT, Status.EXPIRED})
"""Nothing changes any more."""


class Reason(StrEnum):
    """Why an execution ended as it did, next to its status."""

    EXIT_CODE = "exit-code"
    OOM = "oom"
    STOPPED = "stopped"
    TIMEOUT = "timeout"
    EXPIRED = "expired"
    PULL_FAILED = "pull-failed"
    START_FAILED = "start-failed"
    DISK = "disk"
    LOST = "lost"


class Overlap(StrEnum):
    """What a cron tick does while the job's last execution is unfinished."""

    ALLOW = "allow"
    SKIP = "skip"
    QUEUE = "queue"


class Trigger(StrEnum):
    """Why an execution was created."""

    SUBMIT = "submit"
    """By POST or PUT."""
    SCHEDULE = "schedule"
    """By the tick of a job that runs once at a given time."""
    CRON = "cron"
    RETRY = "retry"
    """Because the attempt before it failed."""
    MANUAL = "manual"
    """Because somebody asked to run the job again."""
    LOST = "lost"
    """Because the execution before it was lost."""


class JobState(StrEnum):
    """What a job does: the first of these that holds."""

    ACTIVE = "active"
    """One of its executions is not final."""
    PAUSED = "paused"
    SCHEDULED = "scheduled"
    """It has a next run."""
    STOPPED = "stopped"
    IDLE = "idle"


class PullPolicy(StrEnum):
    """When an image is pulled before a run."""

    ALWAYS = "always"
    MISSING = "missing"
    NEVER = "never"


class Network(StrEnum):
    """What a run can reach."""

    BRIDGE = "bridge"
    """What its host's default network leads to."""
    NONE = "none"
    """Nothing; it has no interface but the loopback."""
    ISOLATED = "isolated"
    """Nothing; it has an interface in a network of its own."""


class Event(StrEnum):
    """What of an execution others are notified of."""

    STARTS = "starts"
    SUCCEEDS = "succeeds"
    FAILS = "fails"
    FINISHES = "finishes"


class DeliveryState(StrEnum):
    """How far a delivery is. ``FAILED`` is the error queue: it waits to be requeued."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class Stream(StrEnum):
    """Where a log record comes from. ``FASTLANE`` is a note of the server's own."""

    STDOUT = "stdout"
    STDERR = "stderr"
    FASTLANE = "fastlane"


@dataclass(frozen=True, slots=True)
class Command:
    """What to execute in the container, parsed once."""

    submitted: str | tuple[str, ...]
    argv: tuple[str, ...]
    """The words to execute; no shell is involved."""

    @classmethod
    def parse(cls, submitted: str | Sequence[str]) -> Command:
        """Split a string as a shell splits words; a list is used word by word.

        :raises ValueError: a quote is not closed.
        """
        if isinstance(submitted, str):
            return cls(submitted, tuple(shlex.split(submitted)))
        return cls(tuple(submitted), tuple(submitted))


@dataclass(frozen=True, slots=True)
class Backoff:
    """The delay before retry *n* is ``min_ms · factorⁿ⁻¹``, capped at ``max_ms``."""

    min_ms: float
    factor: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits of one run; None means the farm's own."""

    cpus: float | None = None
    memory_bytes: int | None = None
    pids: int | None = None
    disk_bytes: int | None = None
    """What it may write to its own file system."""


class Target(Protocol):
    """One receiver that a job names for an event."""

    @property
    def address(self) -> str:
        """Where the channel sends to, such as a URL."""

    @property
    def receiver(self) -> str:
        """Which, such as the origin of a URL."""

    @property
    def every_attempt(self) -> bool:
        """Whether a failure is reported that is followed by a retry."""

    @property
    def retries(self) -> int | None:
        """How often a failed delivery is tried again; None: as the operator configured."""


class Subscription(Protocol):
    """What a job asks of one notification channel; frozen. See :mod:`fastlane.notifications`."""

    channel: ClassVar[str]
    """The channel's name."""

    def targets(self, event: Event) -> Sequence[Target]:
        """Whom to notify of *event*, in an order that never changes."""

    def stored(self) -> dict[str, Any]:
        """As the payload has it, and as it is stored: JSON."""

    def shown(self, secret_words: Sequence[str]) -> dict[str, Any]:
        """As answers have it, without secrets."""


@dataclass(frozen=True, slots=True)
class Definition:
    """What a job runs and how, as it was submitted (for when, see :class:`Schedule`)."""

    image: ImageReference
    command: Command
    envs: Mapping[str, str] = field(default_factory=dict)
    custom: Mapping[str, Any] = field(default_factory=dict)
    """The submitter's ``metadata``."""
    retries: int = 0
    backoff: Backoff = Backoff(min_ms=1000, factor=2, max_ms=300_000)
    timeout_seconds: float = 1800
    expires_at: float | None = None
    overlap: Overlap = Overlap.ALLOW
    max_waiting: int = 1
    """How many ticks wait at most with ``Overlap.QUEUE``."""
    subscriptions: tuple[Subscription, ...] = ()
    """Who is notified of what, by channel."""
    resources: Resources = Resources()
    pull_policy: PullPolicy | None = None
    rerun_when_lost: bool = False
    dns_entries: Mapping[str, str] = field(default_factory=dict)
    traceparent: str | None = None
    """The span that submitted it (W3C Trace Context); None for one that has many ticks."""

    @classmethod
    def parse(cls, image: str, command: str | Sequence[str], **fields: Any) -> Definition:
        """Of an image and a command as they were submitted.

        :raises ValueError: one of them is malformed.
        """
        return cls(ImageReference.parse(image), Command.parse(command), **fields)

    @property
    def effective_pull_policy(self) -> PullPolicy:
        """The submitted policy, or ``always`` for ``latest`` and ``missing`` for all else."""
        if self.pull_policy is not None:
            return self.pull_policy
        return PullPolicy.ALWAYS if self.image.pinned_tag == DEFAULT_TAG else PullPolicy.MISSING


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a job runs: at most one of ``start_at`` and ``cron``; neither means at once."""

    start_at: float | None = None
    cron: str | None = None
    timezone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Task:
    """A name that groups jobs."""

    id: str
    created_at: float
    modified_at: float
    jobs_count: int


@dataclass(frozen=True, slots=True)
class Job:
    """What to run and when."""

    task_id: str
    id: str
    definition: Definition
    schedule: Schedule
    created_at: float
    modified_at: float
    queue_job_id: str
    """A new one with every enqueueing (POST, PUT, retry); ``enqueued_id`` in the API."""
    generation: int = 1
    """Increases with every PUT and stop, which cancels what an older generation planned."""
    next_run_at: float | None = None
    """The tick that is to come, or None when nothing is scheduled."""
    stopped_at: float | None = None
    execution_count: int = 0
    request_ip: str | None = None
    skipped_ticks: int = 0
    """Ticks that got no execution of their own because of the overlap rule."""
    last_skipped_tick: float | None = None
    paused_at: float | None = None
    """Since when its ticks are held back; see :attr:`paused`."""
    name: str | None = None
    """What the submitter calls it, beside its id; unique in its task."""
    deleted_at: float | None = None
    """Since when it is hidden; it is removed in the background."""

    @property
    def scheduled(self) -> bool:
        return self.next_run_at is not None

    @property
    def paused(self) -> bool:
        """Whether it is scheduled but for its pause.

        A release that knows no pauses may give a paused job a next tick, which ends the pause.
        """
        return self.paused_at is not None and self.next_run_at is None

    def state(self, *, is_active: bool) -> JobState:
        """:param is_active: whether one of its executions is not final."""
        if is_active:
            return JobState.ACTIVE
        if self.scheduled:
            return JobState.SCHEDULED
        if self.paused:
            return JobState.PAUSED
        return JobState.IDLE if self.stopped_at is None else JobState.STOPPED


@dataclass(frozen=True, slots=True)
class Execution:
    """One run of a job."""

    id: str
    task_id: str
    job_id: str
    definition: Definition
    """As it was when the execution was made; a later PUT does not change it."""
    farm: str
    created_at: float
    queue_job_id: str
    generation: int = 1
    """The job's generation that made it: a retry follows only while it is still the job's."""
    number: int = 0
    """1 for the job's first execution, given by the storage."""
    attempt: int = 0
    """0 for the first, n for the n-th retry. Reruns of what was lost do not count."""
    tick: float | None = None
    """The scheduled time that it stands for; unique in its job."""
    late_seconds: float | None = None
    """How late a missed tick was made up for; None when it was on time."""
    request_ip: str | None = None

    status: Status = Status.ENQUEUED
    reason: Reason | None = None
    error: str | None = None
    exit_code: int | None = None
    started_at: float | None = None
    finished_at: float | None = None

    due_at: float | None = None
    """Not to be queued before this time (a retry's back-off); None once it is queued."""
    waits_for: str | None = None
    """Not to be queued before this execution has ended; None once it is queued."""
    position: int | None = None
    """Its place in its farm's queue, given by the storage when it is queued; kept for good."""

    owner: str | None = None
    """The instance that runs it."""
    epoch: int = 0
    """Increases with every change of owner; a write with an older one is refused."""
    host: str | None = None
    """Where its container is, or is about to be made; set before the container is created."""
    run_id: str | None = None
    """The executor's own handle (the container id)."""
    stop_reason: Reason | None = None
    """Somebody's intent to end it early (``stopped`` or ``timeout``), written before the deed."""
    stop_requested_at: float | None = None

    lost_reruns: int = 0
    """How many executions in a row were lost before this one, each of which was run again."""
    trigger: Trigger = Trigger.SUBMIT
    retry_of: str | None = None
    """The execution that this one was created to follow, because that failed or was lost."""
    queued_at: float | None = None
    """When it got its ``position``; None before that, and of records of earlier releases."""

    deleted_at: float | None = None
    """Since when it is hidden; it is removed in the background."""

    @property
    def final(self) -> bool:
        return self.status in FINAL


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    status: Status
    reason: Reason
    exit_code: int | None = None
    error: str | None = None
    ran_seconds: float | None = None
    """How long the run lasted, by one clock of its host; None where that is unknown."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a delivery and its result; nothing of what the receiver said."""

    at: float
    duration_seconds: float
    status: int | None = None
    """The status code of the receiver; None where it gave none."""
    error: str | None = None
    """Why it failed, in a sentence; None when it was delivered."""


# Bounds the attempts that a delivery remembers.
ATTEMPTS_KEPT = 3


@dataclass(frozen=True, slots=True)
class Delivery:
    """An entry of the outbox: a notification on its way to one receiver.

    A *notification* is what a user asks for and sees below ``/notifications/``; a *delivery* is its
    way to one receiver; an *attempt* is one try at it.
    """

    id: str
    """Made from the execution, the event and the target's index, so it cannot exist twice."""
    execution_id: str
    task_id: str
    job_id: str
    channel: str
    """The channel's name."""
    event: Event
    index: int
    """The target's place in the subscription's list for this event."""
    target: str
    """Its address."""
    receiver: str
    """See :attr:`Target.receiver`."""
    created_at: float
    state: DeliveryState = DeliveryState.PENDING
    attempts: int = 0
    """Attempts that have ended since it was stored or requeued."""
    due_at: float | None = None
    """Not to be tried before; while it is claimed, the end of the claim. Set while pending."""
    claim: int = 0
    """Increases with every claim; a write under an older one is refused."""
    claimed_at: float | None = None
    """When it was claimed to be tried; None while it is not claimed."""
    history: tuple[Attempt, ...] = ()
    """The last :data:`ATTEMPTS_KEPT` attempts, oldest first."""


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A piece of log. Sequence numbers start at 1 and rise; a reader can continue after any.

    A record never ends inside a UTF-8 character (as far as the output is UTF-8).
    """

    seq: int
    at: float
    stream: Stream
    data: bytes
    line: int | None = field(default=None, compare=False)
    """The number of the line that it begins with. The storage counts; None in the server's notes
    and where nobody has counted."""
    next_line: int | None = field(default=None, compare=False)
    """The number of the line after its first newline; those after it follow one by one."""


@dataclass(frozen=True, slots=True)
class LogCap:
    """How much of one execution's log is kept: the first and the last bytes."""

    head_bytes: int
    tail_bytes: int


@dataclass(frozen=True, slots=True)
class LogState:
    """Where the stored log of an execution stands."""

    last_seq: int = 0
    bookmark: str = ""
    """The executor's own note of how far it has read; opaque to all others. "" is the start."""
    stdout_bytes: int = 0
    """Kept bytes of each stream (dropped ones are not counted)."""
    stderr_bytes: int = 0
    dropped_bytes: int = 0


@dataclass(frozen=True, slots=True)
class HostRecord:
    """What all instances know of a host: its circuit breaker, and whether it is black-listed."""

    host: str
    failures: int = 0
    """Consecutive failures; 0 if the last call succeeded."""
    error: str | None = None
    """The last error."""
    open_until: float | None = None
    """It gets nothing new before this time, and is tested after it. None: the circuit is
    closed."""
    blacklisted: bool = False
    """Someone drained it: it gets no new executions."""


@dataclass(frozen=True, slots=True)
class Farm:
    """A pool of hosts and the tasks that run on it."""

    name: str
    hosts: tuple[str, ...]
    max_running: int
    match: str = ""
    """A regular expression, searched in the task id; the first farm that matches takes the task."""
    limits: Resources = Resources()
    """Caps over what its jobs ask for; None leaves the server's own."""
    images: tuple[str, ...] = ()
    """Regular expressions, one of which must match the whole image reference; empty: any image."""
    network: Network = Network.BRIDGE
    """What its runs can reach."""
    image_ids: bool = True
    """Whether a job may name an image by its id."""
    executor: str = ""
    """The name of the executor that serves it; empty: the one that ``EXECUTOR`` names."""
    options: object = field(default=None, repr=False)
    """What is only its executor's business; None for nothing."""
    max_running_per_task: int | None = None
    """Most executions of one task at a time; None: only ``max_running`` holds."""
    fifo: bool = False
    """Executions start in the order in which they were queued; otherwise tasks take turns."""
