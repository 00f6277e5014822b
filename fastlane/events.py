"""What happened, as frozen records.

An event is news and never the change itself: whoever hears one reads the storage before acting on
it, so a lost, late or repeated event costs time and nothing else. Its content is there to decide
whether the storage is worth reading at all, and for those who count. Times are unix seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from fastlane.model import FINAL, Execution, HostRecord, Job, Reason, Status


class Event:
    """The root of all events."""

    __slots__ = ()
    KEY: ClassVar[str | None] = None
    """The field by which subscribers pick theirs out of many."""

    @property
    def key(self) -> str | None:
        """What it is about: an execution's id, a job's id or a host."""
        return None if self.KEY is None else getattr(self, self.KEY)


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
    created_at: float | None = None
    due_at: float | None = None
    """When a retry joins the queue."""
    expires_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None

    @property
    def final(self) -> bool:
        return self.status in FINAL

    @classmethod
    def of(cls, execution: Execution) -> ExecutionChanged:
        """The event for what *execution* is now."""
        return cls(
            task_id=execution.task_id,
            job_id=execution.job_id,
            execution_id=execution.id,
            status=execution.status,
            number=execution.number,
            attempt=execution.attempt,
            farm=execution.farm,
            host=execution.host,
            reason=execution.reason,
            exit_code=execution.exit_code,
            stop_reason=execution.stop_reason,
            created_at=execution.created_at,
            due_at=execution.due_at,
            expires_at=execution.definition.expires_at,
            started_at=execution.started_at,
            finished_at=execution.finished_at,
        )


class JobChange(StrEnum):
    """What happened to a job."""

    CREATED = "created"
    REPLACED = "replaced"
    STOPPED = "stopped"
    TICK_SKIPPED = "tick-skipped"


@dataclass(frozen=True, slots=True)
class JobChanged(Event):
    """A job was created, replaced or stopped, or went without one of its ticks."""

    KEY = "job_id"
    task_id: str
    job_id: str
    change: JobChange
    next_run_at: float | None = None

    @classmethod
    def of(cls, job: Job, change: JobChange) -> JobChanged:
        """The event for *change*, which made *job* what it is now."""
        return cls(job.task_id, job.id, change, job.next_run_at)


@dataclass(frozen=True, slots=True)
class HostChanged(Event):
    """A host was drained or undrained, or its circuit breaker has counted."""

    KEY = "host"
    host: str
    blacklisted: bool | None = None
    """None where the breaker is what changed."""
    failures: int = 0
    open_until: float | None = None

    @classmethod
    def of(cls, record: HostRecord) -> HostChanged:
        """The event for the breaker that *record* tells of."""
        return cls(record.host, None, record.failures, record.open_until)


@dataclass(frozen=True, slots=True)
class LogGrown(Event):
    """Records were added to the log of an execution."""

    KEY = "execution_id"
    task_id: str
    job_id: str
    execution_id: str
    last_seq: int


@dataclass(frozen=True, slots=True)
class OutboxChanged(Event):
    """Notifications about a job are to be delivered."""

    KEY = "job_id"
    task_id: str
    job_id: str
    execution_id: str | None = None
    """None where several executions may have ended together."""


@dataclass(frozen=True, slots=True)
class QueueChanged(Event):
    """Executions can be claimed that could not be before; which ones is not known."""


@dataclass(frozen=True, slots=True)
class Missed(Event):
    """Events may have been lost: anything may have happened. Subscribers to anything hear it."""


KINDS = (ExecutionChanged, JobChanged, HostChanged, LogGrown, OutboxChanged, QueueChanged)
"""Every kind of event that is published."""
