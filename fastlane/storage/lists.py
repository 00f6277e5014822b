"""Lists over all tasks: the facet, and how both storages read it.

A list of executions is read from one to three indexes (:func:`plan`), each of which has the wanted
ones in the order of the list. What an index does not hold is checked on the records
(:attr:`Scan.rest`). The parts are put together by :func:`merged`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

from fastlane.checks import shown
from fastlane.errors import Rejected
from fastlane.model import ACTIVE, FINAL, Execution, Reason, Status, Trigger
from fastlane.storage.values import ExecutionFilter, JobFilter, ListedJob, Listing

T = TypeVar("T")
Key = tuple[float | int, ...]
"""Where an execution is in a list; the list goes from the highest to the lowest."""

# WATCH.md: bounds the entries of indexes that one request reads.
MOST_READ = 10_000
# WATCH.md: bounds the total that is counted.
MOST_COUNTED = 10_000
_CURSOR = re.compile(r"([0-9]{1,17}(?:\.[0-9]{1,17})?)_([0-9]{1,18})|([0-9]{1,18})")


class Lists(ABC):
    """Lists over all tasks. A call reads at most :data:`MOST_READ` entries of indexes for a part,
    and as many to count.
    """

    @abstractmethod
    async def executions(
        self, wanted: ExecutionFilter, *, size: int, after: str | None = None
    ) -> Listing[Execution]:
        """The executions that *wanted* names, newest first (``created_at``), at most *size*.

        Following ``next_cursor`` gives each execution exactly once, also while others are added.
        There may be fewer than *size*, even none, although more follow.

        :param after: the ``next_cursor`` of the part before.
        :raises Rejected: *after* is not a cursor of this list.
        """

    @abstractmethod
    async def jobs(
        self, wanted: JobFilter, *, size: int, after: str | None = None
    ) -> Listing[ListedJob]:
        """The jobs that *wanted* names, newest first, at most *size*. As :meth:`executions`."""

    @abstractmethod
    async def last_of_tasks(self, task_ids: Sequence[str]) -> Mapping[str, Execution]:
        """The newest execution of each task that has one, by task id; for one page of tasks."""

    @abstractmethod
    async def last_of_jobs(self, job_ids: Sequence[str]) -> Mapping[str, Execution]:
        """The newest execution of each job that has one, by job id; for one page of jobs."""

    @abstractmethod
    async def active(self, limit: int) -> Sequence[ActiveRun]:
        """The executions that hold a slot, newest first; none of their definitions is read."""

    @abstractmethod
    async def times_of_task(self, task_id: str, limit: int) -> Sequence[RunTimes]:
        """Of a task's newest executions; none of their definitions is read."""


@dataclass(frozen=True, slots=True)
class RunTimes:
    """The status and the times of an execution. See :class:`Execution`."""

    status: str
    created_at: float
    queued_at: float | None
    started_at: float | None
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class ActiveRun:
    """Of an execution that holds a slot, what a list of hosts shows. See :class:`Execution`."""

    id: str
    task_id: str
    job_id: str
    farm: str
    host: str
    status: Status
    started_at: float | None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ActiveRun:
        """The one that a storage keeps as *values*."""
        return cls(**{**values, "status": Status(values["status"])})


class Index(StrEnum):
    """An index on executions, by what it holds. Each ends with ``created_at`` and a number, but
    for two.
    """

    CREATED = "created"
    ENDED = "ended"
    """By status and reason: only final ones."""
    ENDED_OF_TASK = "ended_of_task"
    """By task and status: only final ones."""
    WAITING = "waiting"
    """Only enqueued ones."""
    WAITING_OF_TASK = "waiting_of_task"
    """By task: only enqueued ones."""
    ACTIVE = "active"
    """Only those that hold a slot, so few that they are sorted when they are read."""
    ORIGIN = "origin"
    """By farm and trigger."""
    HOST = "host"
    JOB = "job"
    """By job; it ends with ``number``."""


COLUMNS: Mapping[Index, tuple[str, ...]] = {
    Index.CREATED: (),
    Index.ENDED: ("status", "reason"),
    Index.ENDED_OF_TASK: ("task_id", "status"),
    Index.WAITING: (),
    Index.WAITING_OF_TASK: ("task_id",),
    Index.ACTIVE: (),
    Index.ORIGIN: ("farm", "trigger"),
    Index.HOST: ("host",),
    Index.JOB: ("job_id",),
}
"""The fields before those of the order. All are of :class:`Execution`."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What is read of one index: a range for each combination of the values in *equal*."""

    index: Index
    equal: Mapping[str, tuple[Any, ...]]
    """For each of its :data:`COLUMNS`, in their order, the values."""
    rest: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Of other fields, the values of which a record must have one."""
    prefix: str | None = None
    """How the task id of a record must begin."""

    @property
    def by(self) -> tuple[str, ...]:
        """The fields of the key."""
        return ("number",) if self.index is Index.JOB else ("created_at", "seq")

    @property
    def is_exact(self) -> bool:
        """Whether every entry that it reads is wanted."""
        return not self.rest and self.prefix is None


def needs_farms(wanted: ExecutionFilter) -> bool:
    """Whether :func:`plan` needs the names of all farms that have executions."""
    return bool(wanted.triggers) and wanted.farm is None


def plan(wanted: ExecutionFilter, farms: Sequence[str] = ()) -> Sequence[Scan]:
    """The scans that together read what *wanted* names, and each execution once at most.

    :param farms: see :func:`needs_farms`.
    """
    conditions = _conditions(wanted)

    def scan(index: Index, **values: Sequence[Any]) -> Scan:
        equal = {one: tuple(values.get(one) or conditions[one]) for one in COLUMNS[index]}
        covered = equal.keys() | ({"status"} if index in _BY_STATUS else set())
        rest = {name: found for name, found in conditions.items() if name not in covered}
        return Scan(index, equal, rest, wanted.task_prefix)

    statuses = wanted.statuses or frozenset(Status)
    if wanted.reasons:
        statuses &= FINAL
    found = []
    if "job_id" in conditions:
        return [scan(Index.JOB)]
    if "task_id" in conditions:
        if final := sorted(statuses & FINAL):
            found.append(scan(Index.ENDED_OF_TASK, status=final))
        if Status.ENQUEUED in statuses:
            found.append(scan(Index.WAITING_OF_TASK))
    elif "status" in conditions or "reason" in conditions:
        if final := sorted(statuses & FINAL):
            reasons: Sequence[Any] = sorted(wanted.reasons) or [*Reason, None]
            found.append(scan(Index.ENDED, status=final, reason=reasons))
        if Status.ENQUEUED in statuses:
            found.append(scan(Index.WAITING))
    elif "host" in conditions:
        return [scan(Index.HOST)]
    elif "farm" in conditions or "trigger" in conditions:
        names = farms if wanted.farm is None else (wanted.farm,)
        triggers = sorted(wanted.triggers) or list(Trigger)
        return [scan(Index.ORIGIN, farm=names, trigger=triggers)] if names else []
    else:
        return [scan(Index.CREATED)]
    if active := statuses & ACTIVE:
        one = scan(Index.ACTIVE)
        rest = one.rest if active == ACTIVE else {**one.rest, "status": tuple(sorted(active))}
        found.append(Scan(one.index, one.equal, rest, one.prefix))
    return found


# Each of these has certain statuses only, so that these need not be checked.
_BY_STATUS = frozenset({Index.WAITING, Index.WAITING_OF_TASK, Index.ACTIVE})


def _conditions(wanted: ExecutionFilter) -> dict[str, tuple[Any, ...]]:
    given = {
        "task_id": (wanted.task_id,),
        "job_id": (wanted.job_id,),
        "status": tuple(sorted(wanted.statuses)),
        "reason": tuple(sorted(wanted.reasons)),
        "trigger": tuple(sorted(wanted.triggers)),
        "farm": (wanted.farm,),
        "host": (wanted.host,),
    }
    return {name: values for name, values in given.items() if values and values != (None,)}


@dataclass(frozen=True, slots=True)
class Part(Generic[T]):
    """What a scan has read."""

    rows: Sequence[tuple[Key, T]]
    complete_to: Key | None
    """It has everything down to this key; None: to the end."""


def merged(parts: Sequence[Part[T]], size: int) -> tuple[Sequence[T], str | None]:
    """The first *size* rows of all *parts* together, and the cursor after them."""
    ends = [part.complete_to for part in parts if part.complete_to is not None]
    end = max(ends, default=None)
    rows = [row for part in parts for row in part.rows if end is None or row[0] >= end]
    rows.sort(key=lambda row: row[0], reverse=True)
    if len(rows) > size:
        rows = rows[:size]
        end = rows[-1][0]
    return [row for _, row in rows], None if end is None else "_".join(map(repr, end))


def key_after(after: str | None, scans: Sequence[Scan]) -> Key | None:
    """The key in the cursor *after*.

    :raises Rejected: it is not a cursor of the list that *scans* read.
    """
    if after is None:
        return None
    found = _CURSOR.fullmatch(after)
    is_of_job = any(one.index is Index.JOB for one in scans)
    if found is None or (found[3] is not None) != is_of_job:
        raise Rejected(f"{shown(after)} is not a cursor of this list.")
    return (int(found[3]),) if is_of_job else (float(found[1]), int(found[2]))


def number_after(after: str | None) -> int | None:
    """The number in the cursor *after* of a list of jobs.

    :raises Rejected: it is not a cursor of such a list.
    """
    if after is None:
        return None
    found = _CURSOR.fullmatch(after)
    if found is None or found[3] is None:
        raise Rejected(f"{shown(after)} is not a cursor of this list.")
    return int(found[3])


def counted(counts: Sequence[int]) -> tuple[int, bool]:
    """The total of what each scan counted (to one more than :data:`MOST_COUNTED`), and whether
    there are more.
    """
    total = sum(counts)
    return min(total, MOST_COUNTED), total > MOST_COUNTED
