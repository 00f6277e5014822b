"""Lists over all tasks: the facet, and how both storages read it.

A list of executions is read from one to three indexes (:func:`plan`), each of which has the wanted
ones in the order of the list. What an index does not hold is checked on the records
(:attr:`Scan.rest`). The parts are put together by :func:`merged`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Any, Generic, TypeVar

from fastlane.checks import shown
from fastlane.errors import Rejected
from fastlane.model import ACTIVE, FINAL, Execution, Reason, Status, Trigger
from fastlane.storage.values import ExecutionFilter, JobFilter, ListedJob, Listing

T = TypeVar("T")
Conditions = Mapping[str, tuple[Any, ...]]
"""Of fields of an execution, the values of which it must have one."""
Key = tuple[float | int, ...]
"""Where an execution is in a list; the list goes from the highest to the lowest."""

# WATCH.md: bounds the entries of indexes that one request reads.
MOST_READ = 10_000
# WATCH.md: bounds the total that is counted.
MOST_COUNTED = 10_000
# Bounds what is read whole and sorted, where no index has it in order.
MOST_SORTED = 4_000
# Bounds the tasks whose executions are merged; MongoDB merges at most 200 ranges.
MOST_MERGED = 45
# Bounds the jobs, and the executions, that the beginning of an id may match.
MOST_OF_PREFIX = 1_000
# Bounds the jobs whose tasks are read for them.
MOST_SCANS = 20
TOO_MANY = "The query is the beginning of too many ids; write more of the one that you look for."
_ID_PREFIX = re.compile(r"[0-9a-f]{4}[0-9a-f-]{0,32}")
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
    async def names_of_jobs(self, job_ids: Sequence[str]) -> Mapping[str, str]:
        """The name of each job that has one, by job id; for one page of executions."""

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
    """Only those that hold a slot."""
    ORIGIN = "origin"
    """By farm and trigger."""
    HOST = "host"
    JOB = "job"
    """By job; it ends with ``number``."""
    RUNS = "runs"
    """The same, of a few jobs that have few executions."""
    ID = "id"
    """By the beginning of the id, of which there are few."""
    ENDED_OF_TASKS = "ended_of_tasks"
    """By the beginning of the task id: as ENDED_OF_TASK, where there are few."""
    WAITING_OF_TASKS = "waiting_of_tasks"


SORTED = frozenset(
    {Index.ACTIVE, Index.RUNS, Index.ID, Index.ENDED_OF_TASKS, Index.WAITING_OF_TASKS}
)
"""Those that have so few of what is wanted that all of it is read and sorted."""
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
    Index.RUNS: ("job_id",),
    Index.ID: (),
    Index.ENDED_OF_TASKS: (),
    Index.WAITING_OF_TASKS: (),
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
    words: frozenset[str] = frozenset()
    """The words that the task id of a record must have."""
    id_prefix: str | None = None
    """How the id of a record must begin."""

    @property
    def by(self) -> tuple[str, ...]:
        """The fields of the key."""
        return ("number",) if self.index is Index.JOB else ("created_at", "seq")

    @property
    def is_exact(self) -> bool:
        """Whether every entry that it reads is wanted."""
        return not self.rest and self.prefix is None and not self.words

    @property
    def can_count(self) -> bool:
        """Whether what it reads can be counted without looking at too many records."""
        return self.is_exact or self.index in SORTED


@dataclass(frozen=True, slots=True)
class Known:
    """What a storage looks up before it plans."""

    farms: Sequence[str] = ()
    """All that have executions; see :func:`needs_farms`."""
    few_of_prefix: bool = False
    """Whether few executions have a task id with the wanted beginning (see :data:`MOST_SORTED`)."""
    task_ids: Sequence[str] | None = None
    """Else the tasks with that beginning; None if there are more than :data:`MOST_MERGED`."""
    matches: Matches | None = None
    """What the words of the query match."""


@dataclass(frozen=True, slots=True)
class Matches:
    """What the query of a filter matches."""

    words: frozenset[str]
    task_ids: Sequence[str] | None
    """The tasks that have all *words*; None if there are more than :data:`MOST_MERGED`."""
    id_prefix: str | None = None
    """How the ids of executions begin that match."""
    job_ids: Sequence[str] = ()
    """Jobs whose ids match, with at most :data:`MOST_SORTED` executions together."""
    jobs: Sequence[tuple[str, str]] = ()
    """Other jobs whose ids match, each with its task."""


NOTHING_KNOWN = Known()


def needs_farms(wanted: ExecutionFilter) -> bool:
    """Whether :func:`plan` needs the names of all farms that have executions."""
    return bool(wanted.triggers) and wanted.farm is None


def id_prefix_of(query: str) -> str | None:
    """The beginning of an id that *query* may be."""
    text = query.strip().lower()
    return text if _ID_PREFIX.fullmatch(text) else None


def plan(wanted: ExecutionFilter, known: Known = NOTHING_KNOWN) -> Sequence[Scan]:
    """The scans that together read what *wanted* names."""
    conditions = _conditions(wanted)
    if known.matches is not None:
        return _plan_of_query(wanted, conditions, known.matches)
    if "job_id" in conditions:
        return [_scan(wanted, conditions, Index.JOB)]
    if known.task_ids is not None:
        if not known.task_ids:
            return []
        wanted = replace(wanted, task_prefix=None)
        conditions = {**conditions, "task_id": tuple(known.task_ids)}
    return _plan(wanted, conditions, known)


def _plan(wanted: ExecutionFilter, conditions: Conditions, known: Known) -> Sequence[Scan]:
    scan = partial(_scan, wanted, conditions)
    statuses = wanted.statuses or frozenset(Status)
    if wanted.reasons:
        statuses &= FINAL
    final, waiting, found = sorted(statuses & FINAL), Status.ENQUEUED in statuses, []
    if "task_id" in conditions:
        found += [scan(Index.ENDED_OF_TASK, status=final)] if final else []
        found += [scan(Index.WAITING_OF_TASK)] if waiting else []
    elif wanted.task_prefix is not None and known.few_of_prefix:
        found += [scan(Index.ENDED_OF_TASKS)] if final else []
        found += [scan(Index.WAITING_OF_TASKS)] if waiting else []
    elif "status" in conditions or "reason" in conditions:
        reasons: Sequence[Any] = sorted(wanted.reasons) or [*Reason, None]
        found += [scan(Index.ENDED, status=final, reason=reasons)] if final else []
        found += [scan(Index.WAITING)] if waiting else []
    elif "host" in conditions:
        return [scan(Index.HOST)]
    elif "farm" in conditions or "trigger" in conditions:
        farms = known.farms if wanted.farm is None else (wanted.farm,)
        triggers: Sequence[Any] = sorted(wanted.triggers) or [*Trigger, None]
        return [scan(Index.ORIGIN, farm=farms, trigger=triggers)] if farms else []
    else:
        return [scan(Index.CREATED)]
    if active := statuses & ACTIVE:
        one = scan(Index.ACTIVE)
        only = {} if active == ACTIVE else {"status": tuple(sorted(active))}
        found.append(replace(one, rest={**one.rest, **only}))
    return found


def _plan_of_query(
    wanted: ExecutionFilter, conditions: Conditions, matches: Matches
) -> Sequence[Scan]:
    found: list[Scan] = []
    if matches.task_ids is None:
        found.append(replace(_scan(wanted, conditions, Index.CREATED), words=matches.words))
    else:
        task_ids = [one for one in matches.task_ids if wanted.task_id in {None, one}]
        if task_ids:
            found += _plan(wanted, {**conditions, "task_id": tuple(task_ids)}, NOTHING_KNOWN)
    if matches.job_ids:
        found.append(_scan(wanted, conditions, Index.RUNS, job_id=matches.job_ids))
    for job_id, task_id in matches.jobs:
        of_job = {"task_id": (task_id,), "job_id": (job_id,)}
        if wanted.task_id in {None, task_id} and wanted.job_id in {None, job_id}:
            found += _plan(wanted, {**conditions, **of_job}, NOTHING_KNOWN)
    if matches.id_prefix is not None:
        one = _scan(wanted, conditions, Index.ID)
        found.append(replace(one, id_prefix=matches.id_prefix))
    return found


def _scan(
    wanted: ExecutionFilter, conditions: Conditions, index: Index, **values: Sequence[Any]
) -> Scan:
    """:param values: of the fields of *index* for which there is no condition."""
    equal = {one: tuple(values.get(one) or conditions[one]) for one in COLUMNS[index]}
    covered = equal.keys() - {"job_id"} if index is Index.RUNS else equal.keys()
    covered |= {"status"} if index in _BY_STATUS else set()
    rest = {name: found for name, found in conditions.items() if name not in covered}
    return Scan(index, equal, rest, wanted.task_prefix)


# Each of these has certain statuses only, so that these need not be checked.
_BY_STATUS = frozenset({Index.WAITING, Index.WAITING_OF_TASK, Index.WAITING_OF_TASKS, Index.ACTIVE})


def _conditions(wanted: ExecutionFilter) -> Conditions:
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


def split_by_size(
    jobs: Sequence[tuple[str, str, int]],
) -> tuple[Sequence[str], Sequence[tuple[str, str]]]:
    """The ``job_ids`` and ``jobs`` of :class:`Matches`.

    :param jobs: id, task and number of executions of each.
    """
    few, many, total = list[str](), list[tuple[str, str]](), 0
    for job_id, task_id, count in sorted(jobs, key=lambda job: job[2]):
        total += count
        if total <= MOST_SORTED:
            few.append(job_id)
        else:
            many.append((job_id, task_id))
    if len(many) > MOST_SCANS:
        raise Rejected(TOO_MANY)
    return few, many


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
    # Several scans of a query may read the same execution.
    unique = dict(row for part in parts for row in part.rows if end is None or row[0] >= end)
    rows = sorted(unique.items(), key=lambda row: row[0], reverse=True)
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


def can_count(wanted: ExecutionFilter, scans: Sequence[Scan], hidden: int) -> bool:
    """Whether what *scans* read can be counted without looking at too many records.

    :param hidden: how many executions are hidden, because they were deleted.
    """
    few_hidden = hidden <= MOST_COUNTED
    return few_hidden and wanted.query is None and all(one.can_count for one in scans)


def counted(counts: Sequence[int]) -> tuple[int, bool]:
    """The total of what each scan counted (to one more than :data:`MOST_COUNTED`), and whether
    there are more.
    """
    total = sum(counts)
    return min(total, MOST_COUNTED), total > MOST_COUNTED
