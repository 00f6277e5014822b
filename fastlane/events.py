"""What happened, as frozen records.

An event is news and never the change itself: its consumers read the storage before they act, so a
lost, late or repeated event costs time and nothing else. Its content is there to decide whether the
storage is worth reading at all, and for statistics. Times are unix seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar, Self

from fastlane.model import FINAL, Reason, Status, Trigger


@dataclass(frozen=True, slots=True)
class Event:
    """The root of all events."""

    KEY: ClassVar[str | None] = None
    """The field by which subscribers pick theirs out of many."""

    @property
    def key(self) -> str | None:
        """What it is about: an execution's id, a job's id or a host."""
        return None if self.KEY is None else getattr(self, self.KEY)

    @classmethod
    def of(cls, record: object, **given: Any) -> Self:
        """The event about *record*: the fields that are not *given* have the record's values.

        Those that it does not have keep their defaults.
        """
        names = [one.name for one in fields(cls) if one.name not in given]
        return cls(**given, **{one: getattr(record, one) for one in names if hasattr(record, one)})


@dataclass(frozen=True, slots=True)
class ExecutionChanged(Event):
    """An execution was created, has another status or farm, or is to be stopped."""

    KEY = "execution_id"
    task_id: str
    job_id: str
    execution_id: str
    status: Status
    number: int = 0
    attempt: int = 0
    farm: str = ""
    host: str | None = None
    reason: Reason | None = None
    exit_code: int | None = None
    stop_reason: Reason | None = None
    """Why it is to end early, from the request on."""
    trigger: Trigger = Trigger.SUBMIT
    tick: float | None = None
    """The scheduled time that it was made for."""
    retry_of: str | None = None
    traceparent: str | None = None
    """What came with the job (W3C Trace Context)."""
    created_at: float | None = None
    queued_at: float | None = None
    due_at: float | None = None
    """When a retry joins the queue."""
    expires_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None

    @property
    def final(self) -> bool:
        return self.status in FINAL


class JobChange(StrEnum):
    """What happened to a job."""

    CREATED = "created"
    REPLACED = "replaced"
    STOPPED = "stopped"
    PAUSED = "paused"
    RESUMED = "resumed"
    TICK_SKIPPED = "tick-skipped"


@dataclass(frozen=True, slots=True)
class JobChanged(Event):
    """A job was created, replaced, stopped, paused or resumed, or went without one of its ticks."""

    KEY = "job_id"
    task_id: str
    job_id: str
    change: JobChange
    next_run_at: float | None = None
    skipped: str | None = None
    """Why a tick got no execution of its own: ``overlap``, ``waiting`` or ``missed``."""


@dataclass(frozen=True, slots=True)
class Deleted(Event):
    """A task, a job or an execution was deleted: it is hidden, and is to be removed."""

    KEY = "task_id"
    task_id: str
    job_id: str | None = None
    """None: the whole task."""
    execution_id: str | None = None
    """None: the whole job."""


@dataclass(frozen=True, slots=True)
class HostChanged(Event):
    """A host was drained or undrained, or its circuit breaker has counted."""

    KEY = "host"
    host: str
    blacklisted: bool = False
    failures: int = 0
    open_until: float | None = None


@dataclass(frozen=True, slots=True)
class LogGrown(Event):
    """Records were added to the log of an execution."""

    KEY = "execution_id"
    task_id: str
    job_id: str
    execution_id: str
    last_seq: int
    size: int = 0
    """The bytes that were added."""


@dataclass(frozen=True, slots=True)
class OutboxChanged(Event):
    """Notifications about a job are to be delivered."""

    KEY = "job_id"
    task_id: str
    job_id: str
    execution_id: str | None = None
    """None where several executions may have ended together."""


@dataclass(frozen=True, slots=True)
class EventsMoved(Event):
    """There are new stored events to read."""


@dataclass(frozen=True, slots=True)
class QueueChanged(Event):
    """Executions can be claimed that could not be before; which ones is not known."""


@dataclass(frozen=True, slots=True)
class Missed(Event):
    """Events may have been lost: anything may have happened. Subscribers to anything hear it."""


KINDS = (
    ExecutionChanged,
    JobChanged,
    Deleted,
    HostChanged,
    LogGrown,
    OutboxChanged,
    EventsMoved,
    QueueChanged,
)
"""Every kind of event that is published."""
