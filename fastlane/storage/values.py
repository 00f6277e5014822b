"""What the facets of a storage are given and give back besides the records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Generic, TypeVar

from fastlane.model import Execution, Job, JobState, Reason, Status, Trigger

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which part of a listing: page *number* (from 1) of *size*.

    *after* is the ``next_cursor`` of the page before and wins over *number* where it is given: with
    it the last page costs what the first does, without it the storage may have to count its way.
    """

    number: int = 1
    size: int = 10
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a listing."""

    items: Sequence[T]
    total: int
    next_cursor: str | None
    """None on the last page."""


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A submitter's name for one request, unique within its task."""

    key: str
    fingerprint: str
    """A digest of the request: the same key with another one is an error of the submitter."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """What :meth:`Jobs.submit` stored, or, for a repeat, what the first request stored."""

    job: Job
    execution: Execution | None
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class ExecutionFilter:
    """Which executions a list has: those to which all applies that is given. Empty means any."""

    task_id: str | None = None
    task_prefix: str | None = None
    """How the task id begins."""
    job_id: str | None = None
    statuses: frozenset[Status] = frozenset()
    reasons: frozenset[Reason] = frozenset()
    triggers: frozenset[Trigger] = frozenset()
    farm: str | None = None
    host: str | None = None
    """Where it runs or ran last."""
    since: float | None = None
    """Created at this time or later."""
    until: float | None = None
    """Created before this time."""
    query: str | None = None
    """Words that the task id has, all of them, or how the id of the job or of the execution
    begins."""


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs a list has: those to which all applies that is given."""

    task_id: str | None = None
    task_prefix: str | None = None
    state: JobState | None = None
    is_cron: bool | None = None
    query: str | None = None
    """Words that the task id has, all of them, or how the job's id begins."""


@dataclass(frozen=True, slots=True)
class ListedJob:
    """A job and what it does."""

    job: Job
    state: JobState


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A part of a list, and how to continue."""

    items: Sequence[T]
    next_cursor: str | None
    """None where nothing follows. What follows may be empty."""
    total: int | None = None
    """None where counting would have to look at records."""
    total_is_lower_bound: bool = False


@dataclass(frozen=True, slots=True)
class ActiveRun:
    """What is read of a pulling or running execution where there may be thousands of them."""

    id: str
    task_id: str
    job_id: str
    farm: str | None
    host: str
    run_id: str | None
    status: Status
    started_at: float | None
    deleted_at: float | None


ACTIVE_RUN_FIELDS = tuple(field.name for field in fields(ActiveRun))


@dataclass(frozen=True, slots=True)
class FarmQueue:
    """What waits for a slot of a farm."""

    length: int = 0
    oldest_at: float | None = None
    """When the first one was queued; None where nothing waits."""
