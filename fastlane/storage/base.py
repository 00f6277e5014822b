"""The storage interface: facets, with one method for each operation of the domain.

A stranger should be able to write another storage from this page. ``tests/contracts`` checks each
storage. These rules hold for all methods:

* A method that returns has made its change durable: it survives a power failure.
* Each is all or nothing, even if the process is killed inside it.
* Times are unix seconds and always come from the caller; a storage reads no clock.
* *Stores do atomic claims and compare-and-set; policy decides.* No method chooses a host, a
  backoff or an outcome.
* :class:`~fastlane.errors.StorageUnavailable` may be raised by any of them; then nothing is
  promised and the caller may try again (all of them are safe to repeat, or refuse the repeat
  with :class:`~fastlane.errors.CompareFailed`).
* *The outbox.* Every method that makes an execution running or final stores, in the same step, what
  :func:`fastlane.policy.deliveries_of` returns for the execution as it is then (``now`` is its
  ``started_at`` or ``finished_at``). ``retry_follows`` is true only in
  :meth:`Executions.finish`, and only if the retry is really stored. A delivery whose id
  exists already is not changed.
* *Stored events.* Every method stores, in the same step, an event for each change that
  :mod:`fastlane.stored_events` has a type for.
* Writes of an owner carry the ``epoch`` they were claimed with. When another instance has adopted
  the execution since, its epoch is higher and the late write is refused with ``CompareFailed``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from fastlane.storage.deletions import Deletions
from fastlane.storage.events import Events, Span
from fastlane.storage.facets import Executions, Hosts, Instances, Jobs, Outbox, Tasks
from fastlane.storage.lists import Lists, RunTimes
from fastlane.storage.logs import LogPlace, Logs
from fastlane.storage.observing import Observe
from fastlane.storage.stats import Stats
from fastlane.storage.values import (
    ActiveRun,
    ExecutionFilter,
    IdempotencyKey,
    JobFilter,
    ListedJob,
    Listing,
    Page,
    PageRequest,
    Submitted,
)

__all__ = [
    "ActiveRun",
    "Deletions",
    "Events",
    "ExecutionFilter",
    "Executions",
    "Hosts",
    "IdempotencyKey",
    "Instances",
    "JobFilter",
    "Jobs",
    "ListedJob",
    "Listing",
    "Lists",
    "LogPlace",
    "Logs",
    "Outbox",
    "Overview",
    "Page",
    "PageRequest",
    "RunTimes",
    "Span",
    "Stats",
    "Storage",
    "Submitted",
    "Tasks",
]


@dataclass(frozen=True, slots=True)
class Overview:
    """Counts for ``/status/``; none of them scans a table of finished things."""

    tasks: int
    jobs: int
    queued: int
    """Executions that wait for a slot."""
    delayed: int
    """Executions that wait for their time (retries) or for another execution."""
    active: int
    """Executions that are pulling or running."""
    scheduled: int
    """Jobs that have a next run."""
    undelivered: int = 0
    """Failed deliveries: the error queue."""
    pending: Mapping[str, int] = field(default_factory=dict)
    """Pending deliveries by channel, those being tried included; others are left out."""


class Storage(ABC):
    """Keeps tasks, jobs, executions and logs. See the module's docstring for the common rules."""

    name: str
    """As ``backend`` in ``/healthcheck/`` and ``/status/``."""
    tasks: Tasks
    jobs: Jobs
    executions: Executions
    lists: Lists
    deletions: Deletions
    logs: Logs
    outbox: Outbox
    events: Events
    stats: Stats
    hosts: Hosts
    instances: Instances

    @abstractmethod
    def observe(self, observe: Observe) -> None:
        """Report every operation to *observe* from now on."""

    @abstractmethod
    async def open(self) -> None:
        """Connect and make tables or indexes as needed. Called once, before anything else.

        :raises StorageInUse: another server owns it (the embedded storage only).
        :raises StorageUnavailable: it cannot be reached.
        """

    @abstractmethod
    async def installation(self) -> str:
        """The name that all instances on this store share, made when it is first asked for.

        The embedded store need not be open for it.
        """

    @abstractmethod
    async def close(self) -> None:
        """Release everything, after the operations in progress have ended. Safe to repeat."""

    @abstractmethod
    async def check(self) -> Mapping[str, str | None]:
        """The health of its parts: ``{"mongo": None, "redis": "connection refused"}``.

        None means healthy; a string says what is wrong. The embedded store uses the same names.
        """

    @abstractmethod
    async def next_due_at(self) -> float | None:
        """The earliest time at which
        :meth:`Jobs.due`, :meth:`Executions.queue_due` or :meth:`Executions.expire` finds something.

        None when nothing is scheduled.
        """

    @abstractmethod
    async def clean_up(self, before: float, limit: int) -> int:
        """Forget what ended before that time, the oldest first; at most *limit* executions and
        *limit* jobs, so that no step is long.

        An execution that is final since before *before* goes with its log and its deliveries,
        unless one of those is still pending. ``execution_count`` stays, and so do the numbers of
        the others; ``total`` of a page counts what is there. A job that has no executions (any
        more), is not scheduled and was not modified since *before* goes, with its idempotency
        keys; its task loses it from ``jobs_count``, and goes with its last job.

        :return: how many executions and jobs went; 0 when there was nothing left to do.
        """

    @abstractmethod
    async def overview(self) -> Overview:
        """Counts, cheap at any size."""
