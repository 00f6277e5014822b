"""The facets of the storage: one interface for each kind of record, one method for each operation.

The rules that hold for all of them are in :mod:`fastlane.storage.base`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence

from fastlane.model import (
    Attempt,
    Delivery,
    DeliveryState,
    Execution,
    HostRecord,
    Job,
    Outcome,
    Reason,
    Task,
)
from fastlane.storage.values import (
    ActiveRun,
    FarmQueue,
    IdempotencyKey,
    Page,
    PageRequest,
    Submitted,
)


class Tasks(ABC):
    """The names that group jobs. A task is created by :meth:`Jobs.submit`."""

    @abstractmethod
    async def get(self, task_id: str) -> Task:
        """:raises NotFound: no such task."""

    @abstractmethod
    async def page(self, page: PageRequest) -> Page[Task]:
        """All tasks, oldest first."""

    @abstractmethod
    async def search(self, query: str, page: PageRequest) -> Page[Task]:
        """Tasks whose id holds any word of *query*, best match first.

        Words are split at everything but letters and digits and compared without case; only whole
        words match. An empty query matches nothing.
        """


class Jobs(ABC):
    """What to run and when: submissions, ticks, stops and manual retries."""

    @abstractmethod
    async def submit(
        self,
        job: Job,
        execution: Execution | None,
        *,
        replace: bool = False,
        idempotency: IdempotencyKey | None = None,
    ) -> Submitted:
        """Store *job* and its first *execution* (None when it is only scheduled).

        The task is created when it is not there. The execution gets its ``number`` and, unless it
        is delayed (``due_at`` or ``waits_for``), its ``position`` at the end of its farm's queue.

        With *replace*, a job of this id that is there gets the new definition, schedule,
        ``queue_job_id`` and ``next_run_at``, and the next ``generation``; ``created_at`` and
        ``execution_count`` stay; ``stopped_at`` is cleared. One that is paused stays so, without
        a ``next_run_at``, unless it is not scheduled any more. Its delayed and queued *retries*
        (``attempt`` or ``lost_reruns`` above 0) end as failed with reason ``stopped``; whatever
        else is queued or active continues. The new execution gets the new generation. Without
        *replace* the id is new. A deleted job of this id, of any task, is made anew, and its
        executions stay hidden.

        A job with a ``name`` (and *replace*) is the one that has this name in its task, if there is
        one: then its id is that one's, and so is the execution's ``job_id``.

        With *idempotency*, a key known in this task returns what the first request stored, with
        ``repeated=True``, and changes nothing.

        :raises KeyReused: the idempotency key was used with another fingerprint.
        :raises Rejected: (*replace*) the job id belongs to another task.
        """

    @abstractmethod
    async def tick(
        self,
        job: Job,
        execution: Execution | None,
        *,
        next_run_at: float | None,
        now: float,
        skipped_tick: float | None = None,
        max_waiting: int | None = None,
    ) -> Execution | None:
        """Act on *job*'s next tick: store *execution* and move on to *next_run_at*.

        Compare-and-set on the job's ``generation`` and ``next_run_at``; there is never a second
        execution for one (job, tick). When *execution* is None, *skipped_tick* is skipped. When
        *max_waiting* ticks of the job (or more) are enqueued already, *execution* is not stored:
        the newest of them takes its tick, and the tick that it had is skipped. A skipped tick is
        counted in the job's ``skipped_ticks`` and is its ``last_skipped_tick``, in the same step.

        :return: the stored execution with number and position, or the one that took the tick; None
            when there is none.
        :raises CompareFailed: another instance took the tick, or the job was changed or stopped.
        """

    @abstractmethod
    async def stop(self, task_id: str, job_id: str, *, now: float) -> Job:
        """Take back a job's schedule and retries, and end its last execution.

        In one step: the next ``generation``, no ``next_run_at``, ``stopped_at``, no pause; every
        execution of
        the job that is still enqueued ends as failed with reason ``stopped``; the last execution,
        when active, gets the stop intent. Repeating changes nothing more.

        :return: the job afterwards.
        :raises NotFound: no such job in this task.
        """

    @abstractmethod
    async def reschedule(
        self, job: Job, *, paused_at: float | None, next_run_at: float | None, now: float
    ) -> Job:
        """Pause *job*, or resume it (without *paused_at*).

        Compare-and-set on ``generation``, ``next_run_at`` and ``paused_at``. Nothing else changes:
        what is queued or active, and retries, go ahead.

        :return: the job afterwards.
        :raises CompareFailed: the job was changed or ticked meanwhile.
        """

    @abstractmethod
    async def retry(
        self, job: Job, execution: Execution, *, now: float, beside: bool = False
    ) -> Execution:
        """Store *execution* as a new run of *job*, stopping an unfinished last execution first.

        With *beside* the others are left alone, and the job need not have run.

        One that is enqueued ends as failed/``stopped``; an active one gets the stop intent and the
        new execution waits for it (``waits_for``). The job's ``queue_job_id`` becomes the
        execution's; its generation stays, ``stopped_at`` is cleared.

        :return: the stored execution.
        :raises CompareFailed: the job's generation is no longer *job*'s.
        :raises Rejected: the job has not run yet: none of its executions was ever claimed.
        """

    @abstractmethod
    async def get(self, task_id: str, job_id: str) -> Job:
        """:raises NotFound: no such job in this task, or it was deleted."""

    @abstractmethod
    async def named(self, task_id: str, name: str) -> Job:
        """:raises NotFound: no job of this task has this name."""

    @abstractmethod
    async def of_task(self, task_id: str, page: PageRequest) -> Page[Job]:
        """A task's jobs, newest first.

        :raises NotFound: no such task.
        """

    @abstractmethod
    async def due(self, now: float, limit: int) -> Sequence[Job]:
        """Jobs whose ``next_run_at`` is not after *now*, earliest first."""

    @abstractmethod
    async def scheduled(self, limit: int) -> Sequence[Job]:
        """Jobs that have a next run, soonest first."""


class Executions(ABC):
    """The life of an execution: queue, claim, start, finish, stop.

    The times of an execution never run backwards: a start or an end before the time that is stored
    already, by a clock that is behind or was set back, is stored as that time.
    """

    @abstractmethod
    async def claim(
        self,
        farm: str,
        *,
        host: str,
        owner: str,
        max_running: int,
        now: float,
        max_per_task: int | None = None,
        fifo: bool = False,
    ) -> Execution | None:
        """Take the next queued execution of *farm* and make it ``pulling``.

        The tasks of a farm take turns, in rounds: a round gives each task that waited at its start
        one turn, over all owners. A task's executions are claimed first in, first out by
        ``position``. With *fifo*, all executions of the farm are, and nobody takes turns.

        One that expired by *now* is skipped (see :meth:`expire`). Sets ``owner``, ``host`` and the
        next ``epoch``. Never makes more than *max_running* executions of the farm active, over all
        owners, nor more than *max_per_task* of one task. (With *fifo*, *max_per_task* is ignored.)

        :return: the execution, or None when the queue is empty, the farm is full, or all tasks that
            wait have their share.
        :raises HostDrained: *host* is black-listed. Once :meth:`Hosts.blacklist` has returned, no
            claim for that host takes place, of any instance.
        """

    @abstractmethod
    async def release(self, execution_id: str, epoch: int, *, now: float) -> None:
        """Hand back a claimed execution whose container was never asked to start.

        ``pulling → enqueued``, without owner and host, at its old ``position``. With a stop intent
        it ends as failed/``stopped`` instead.

        :raises CompareFailed: it is not pulling any more, or not under this epoch.
        """

    @abstractmethod
    async def started(
        self, execution_id: str, epoch: int, *, run_id: str, started_at: float
    ) -> Execution:
        """``pulling → running``. Repeating it on a running execution of this epoch changes nothing.

        :raises CompareFailed: it is final, or under another epoch.
        """

    @abstractmethod
    async def finish(
        self,
        execution_id: str,
        epoch: int,
        outcome: Outcome,
        *,
        expected_stop: Reason | None,
        retry: Execution | None,
        finished_at: float,
    ) -> tuple[Execution, Execution | None]:
        """Make an active execution final, store its *retry*, and free what waited for it.

        Compare-and-set on the epoch and on ``stop_reason`` being *expected_stop*: the caller
        decided with that intent in view, so a newer one makes it decide again. The retry is stored
        only while the job's generation is still the execution's. Executions with ``waits_for``
        this one are queued (or become merely delayed when they have a ``due_at``).

        :return: the final execution, and the stored retry or None.
        :raises CompareFailed: with the execution as it is now.
        """

    @abstractmethod
    async def stop(self, execution_id: str, *, reason: Reason, now: float) -> Execution:
        """Ask for an early end: an enqueued execution is failed/``stopped`` at once, an active one
        gets the stop intent (the first intent stays), a final one is left alone.

        :return: the execution afterwards.
        :raises NotFound: no such execution.
        """

    @abstractmethod
    async def queue_due(self, now: float, limit: int) -> int:
        """Queue delayed executions whose ``due_at`` is not after *now*; also those whose awaited
        execution is final (a crash may have come between). Returns how many.
        """

    @abstractmethod
    async def expire(self, now: float, limit: int) -> Sequence[Execution]:
        """End enqueued executions whose ``definition.expires_at`` is not after *now*, as expired.

        Frees what waited for them, as :meth:`finish` does. Returns the executions it ended.
        """

    @abstractmethod
    async def next_queued(
        self, farm: str, *, now: float, max_per_task: int | None = None, fifo: bool = False
    ) -> Execution | None:
        """The execution that :meth:`claim` would take next if the farm has room; None without.

        Only a hint: by the time of the claim it may be another.
        """

    @abstractmethod
    async def orphaned(
        self, farms: Collection[str], *, after: int, limit: int
    ) -> Sequence[Execution]:
        """Queued executions of farms that are not among *farms*, by ``position`` after
        *after* (0 is the start).
        """

    @abstractmethod
    async def assign_farm(self, execution_id: str, *, expected: str, farm: str) -> None:
        """Give an enqueued execution of farm *expected* to *farm*, at its old ``position``.

        :raises CompareFailed: it is not enqueued any more, or not of that farm.
        """

    @abstractmethod
    async def get(self, execution_id: str) -> Execution:
        """Also one that was deleted, as long as it is not removed.

        :raises NotFound: no such execution.
        """

    @abstractmethod
    async def last_of_job(self, job_id: str, *, deleted: bool = False) -> Execution | None:
        """A job's newest execution, whatever its status; None when it has none.

        :param deleted: whether one counts that was deleted; it may still run.
        """

    @abstractmethod
    async def of_job(self, job_id: str, page: PageRequest) -> Page[Execution]:
        """A job's executions, newest first; empty for an unknown job."""

    @abstractmethod
    async def retry_of(self, execution_id: str) -> Execution | None:
        """The execution that was stored to follow this one (see ``Execution.retry_of``)."""

    @abstractmethod
    async def ahead_of(self, execution: Execution, *, fifo: bool, limit: int) -> int:
        """How many executions of its task start before a queued one; with *fifo*, of its farm.

        Counts to *limit* at most.
        """

    @abstractmethod
    async def active_counts(self) -> Mapping[tuple[str, str, str], int]:
        """How many executions are pulling or running, by farm, task and host; reads no record."""

    @abstractmethod
    async def queues(self, farms: Sequence[str]) -> Mapping[str, FarmQueue]:
        """What waits for each of *farms*; counts keys of an index and reads one record for each."""

    @abstractmethod
    async def active_runs(self) -> Sequence[ActiveRun]:
        """Every pulling or running execution (bounded by the farms' ``maxRunning``), oldest first;
        reads no definition."""

    @abstractmethod
    async def active(self, *, owner: str) -> Sequence[Execution]:
        """Every pulling or running execution of *owner*, oldest first."""


class Outbox(ABC):
    """Deliveries: who is to be notified, and what came of each attempt."""

    @abstractmethod
    async def next_due_at(self) -> float | None:
        """The earliest ``due_at`` of a pending delivery, claimed or not; None without any."""

    @abstractmethod
    async def claim(
        self,
        *,
        now: float,
        claim_seconds: float,
        limit: int,
        per_receiver: int,
        busy: Mapping[str, int],
    ) -> Sequence[Delivery]:
        """Take pending deliveries whose ``due_at`` is not after *now*, the longest due first.

        At most *limit* of them, and of each receiver at most *per_receiver* less what the caller
        is *busy* with already; a receiver that has no room keeps none of the others waiting. Each
        gets the next ``claim``, ``claimed_at`` *now* and ``due_at`` *now* + *claim_seconds*: who
        dies with it loses it then, and it is claimed again. No two callers get the same one
        before. (The embedded storage puts claims back when it is opened.)
        """

    @abstractmethod
    async def attempted(
        self, delivery_id: str, claim: int, attempt: Attempt, *, retry_at: float | None
    ) -> Delivery:
        """Store the result of a claimed delivery, and end the claim.

        Without an ``error`` it is delivered; with one it is pending until *retry_at*, or failed
        when that is None. ``attempts`` is incremented and the attempt joins ``history``.

        :return: the delivery afterwards.
        :raises CompareFailed: it is not pending any more, or not under this claim.
        """

    @abstractmethod
    async def unclaim(self, delivery_id: str, claim: int) -> None:
        """Hand back a claimed delivery that was not tried: due again since ``claimed_at``.

        :raises CompareFailed: as in :meth:`attempted`.
        """

    @abstractmethod
    async def requeue(self, delivery_id: str, *, now: float) -> Delivery:
        """Make a failed delivery pending again: due *now*, with ``attempts`` at 0.

        Its id and ``history`` stay. A pending one is not changed.

        :return: the delivery afterwards.
        :raises NotFound: no such delivery.
        :raises Rejected: it was delivered.
        """

    @abstractmethod
    async def in_state(self, state: DeliveryState, page: PageRequest) -> Page[Delivery]:
        """All deliveries that are pending, or all that have failed, newest first.

        :raises Rejected: *state* is ``DELIVERED``: those are listed by their executions only.
        """

    @abstractmethod
    async def of_executions(self, execution_ids: Sequence[str]) -> Sequence[Delivery]:
        """Every delivery of these executions, whatever its state, in the order they were stored."""


class Hosts(ABC):
    """What all instances know about each host."""

    @abstractmethod
    async def all(self) -> Sequence[HostRecord]:
        """Every host of which something was stored."""

    @abstractmethod
    async def store_breaker(self, host: HostRecord, *, now: float) -> None:
        """Keep the circuit breaker of a host; ``blacklisted`` stays as it is stored.

        The last writer wins: all of them look at the same host, and the breaker is a hint.
        """

    @abstractmethod
    async def blacklist(self, host: str, *, blacklisted: bool, now: float) -> None:
        """Take a host out for new executions, or put it back; its breaker stays."""


class Instances(ABC):
    """The leases of the servers that share the storage."""

    @abstractmethod
    async def beat(self, instance: str, *, now: float, lease_seconds: float) -> None:
        """Say that *instance* lives until ``now + lease_seconds``."""

    @abstractmethod
    async def leave(self, instance: str) -> None:
        """Say that *instance* has ended in order: what it owns may be adopted at once."""

    @abstractmethod
    async def adopt(self, instance: str, *, now: float, limit: int) -> Sequence[Execution]:
        """Take over active executions whose owner's lease has ended (never *instance*'s own).

        Sets the owner and the next epoch; everything else stays. Oldest first.
        """
