"""The cluster storage: records in MongoDB. Any number of instances share it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import structlog
from pymongo.errors import PyMongoError

from fastlane.errors import StorageUnavailable
from fastlane.model import (
    Attempt,
    Clock,
    Delivery,
    DeliveryState,
    Execution,
    HostRecord,
    Job,
    LogCap,
    LogRecord,
    LogState,
    Outcome,
    Reason,
    Stream,
    Task,
)
from fastlane.storage.base import (
    IdempotencyKey,
    Overview,
    Page,
    PageRequest,
    Storage,
    Submitted,
)
from fastlane.storage.mongo.database import OPERATION_SECONDS, Database
from fastlane.storage.mongo.executions import Executions
from fastlane.storage.mongo.farms import Farms
from fastlane.storage.mongo.jobs import Jobs
from fastlane.storage.mongo.log import Logs
from fastlane.storage.mongo.outbox import Outbox
from fastlane.storage.mongo.queries import Queries
from fastlane.storage.mongo.sweep import SWEEP_SECONDS, Sweep
from fastlane.storage.mongo.todo import Todo

log = structlog.get_logger(__name__)

R = TypeVar("R")

# Bounds how long operations that are under way may keep the closing waiting.
CLOSE_SECONDS = 2 * OPERATION_SECONDS


class Relay(Protocol):
    """What carries events between the instances, as far as the storage needs to know."""

    @property
    def failure(self) -> str | None:
        """What is known to be wrong with it, or None."""

    async def check(self) -> str | None:
        """What is wrong with it now, or None."""


class ClusterStorage(Storage):
    """Everything in one MongoDB database.

    MongoDB alone decides: nothing is lost and nothing is done twice whatever becomes of Redis.
    A submission is refused while Redis is known to be unreachable, because no other instance would
    hear of it for some seconds; everything else continues.
    """

    name = "mongodb+redis"

    def __init__(
        self,
        mongodb_url: str,
        *,
        relay: Relay | None = None,
        repaired: Callable[[], None] = lambda: None,
        clock: Clock = time.time,
    ) -> None:
        """:param relay: None where nobody else is to hear of anything (tools and tests).
        :param repaired: called when the sweep has completed what a crash had left half done.
        :param clock: where the ``now`` of the calls comes from; it is compared with MongoDB's.
        """
        self._mongodb_url = mongodb_url
        self._relay = relay
        self._repaired = repaired
        self._clock = clock
        self._open = False
        self._under_way: set[asyncio.Task[Any]] = set()
        self._closing = asyncio.Event()
        self._sweeping: asyncio.Task[None] | None = None
        self._database: Database | None = None

    async def open(self) -> None:
        database = Database(self._mongodb_url, clock=self._clock)
        try:
            await database.open()
        except PyMongoError as error:
            await database.close()
            raise StorageUnavailable(f"MongoDB cannot be used: {error}") from error
        todo = Todo(database)
        self._database = database
        self._logs = Logs(database)
        self._jobs = Jobs(database, todo)
        self._executions = Executions(database, todo, self._logs)
        self._farms = Farms(database, todo)
        self._outbox = Outbox(database)
        self._queries = Queries(database)
        self._sweep = Sweep(database, todo, self._jobs)
        self._open = True
        self._sweeping = asyncio.create_task(self._keep_sweeping(), name="storage sweep")

    async def close(self) -> None:
        self._open = False
        self._closing.set()
        sweeping, self._sweeping = self._sweeping, None
        if sweeping is not None:
            self._under_way.add(sweeping)
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=CLOSE_SECONDS)
            if late:
                log.warning("operations are cut off by the closing", count=len(late))
            self._under_way.clear()
        database, self._database = self._database, None
        if database is not None:
            await database.close()

    async def _keep_sweeping(self) -> None:
        while self._open:
            try:
                if await self._sweep.round():
                    self._repaired()
            except PyMongoError as error:
                log.debug("sweep put off", error=str(error))
            except Exception:
                log.exception("sweep failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_SECONDS):
                    await self._closing.wait()

    async def _run(self, call: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """Do one operation; whatever MongoDB says against it is the storage being away.

        It has a task of its own and is done to its end when the caller is cancelled: that costs no
        more than the operation's time, and the driver does not let every cancellation through.
        """
        if not self._open:
            raise StorageUnavailable("the storage is not open")
        task = asyncio.create_task(call())
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        try:
            return await asyncio.shield(task)
        except PyMongoError as error:
            raise StorageUnavailable(f"MongoDB: {_short(error)}") from error

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            # Taken note of, also where nobody waits for it any more.
            task.exception()

    async def check(self) -> Mapping[str, str | None]:
        redis = None if self._relay is None else await self._relay.check()
        if self._database is None:
            return {"mongo": "not connected", "redis": redis}
        try:
            await self._database.ping()
        except PyMongoError as error:
            return {"mongo": _short(error), "redis": redis}
        return {"mongo": None, "redis": redis}

    async def installation(self) -> str:
        database = self._database
        if database is None:
            raise StorageUnavailable("the storage is not open")
        return await self._run(database.installation)

    # -- submitting ---------------------------------------------------------------------------

    async def submit(
        self,
        job: Job,
        execution: Execution | None,
        *,
        replace: bool = False,
        idempotency: IdempotencyKey | None = None,
    ) -> Submitted:
        if self._relay is not None and (why := self._relay.failure) is not None:
            raise StorageUnavailable(f"Redis is unreachable: {why}")
        return await self._run(lambda: self._jobs.submit(job, execution, replace, idempotency))

    async def tick(
        self, job: Job, execution: Execution | None, *, next_run_at: float | None, now: float
    ) -> Execution | None:
        return await self._run(lambda: self._jobs.tick(job, execution, next_run_at, now))

    async def stop_job(self, task_id: str, job_id: str, *, now: float) -> Job:
        return await self._run(lambda: self._jobs.stop_job(task_id, job_id, now))

    async def retry_job(self, job: Job, execution: Execution, *, now: float) -> Execution:
        return await self._run(lambda: self._jobs.retry_job(job, execution, now))

    # -- the life of an execution -------------------------------------------------------------

    async def claim(
        self, farm: str, *, host: str, owner: str, max_running: int, now: float
    ) -> Execution | None:
        return await self._run(lambda: self._executions.claim(farm, host, owner, max_running, now))

    async def release(self, execution_id: str, epoch: int) -> None:
        await self._run(lambda: self._executions.release(execution_id, epoch))

    async def started(
        self, execution_id: str, epoch: int, *, run_id: str, started_at: float
    ) -> Execution:
        return await self._run(
            lambda: self._executions.started(execution_id, epoch, run_id, started_at)
        )

    async def append_log(
        self,
        execution_id: str,
        epoch: int,
        records: Sequence[LogRecord],
        *,
        bookmark: str,
        cap: LogCap | None,
    ) -> None:
        await self._run(lambda: self._logs.append_log(execution_id, epoch, records, bookmark, cap))

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
        return await self._run(
            lambda: self._executions.finish(
                execution_id, epoch, outcome, expected_stop, retry, finished_at
            )
        )

    async def stop_execution(self, execution_id: str, *, reason: Reason, now: float) -> Execution:
        return await self._run(lambda: self._executions.stop_execution(execution_id, reason, now))

    # -- what is due --------------------------------------------------------------------------

    async def next_due_at(self) -> float | None:
        return await self._run(lambda: self._queries.next_due_at())

    async def due_jobs(self, now: float, limit: int) -> Sequence[Job]:
        return await self._run(lambda: self._queries.due_jobs(now, limit))

    async def queue_due(self, now: float, limit: int) -> int:
        return await self._run(lambda: self._executions.queue_due(now, limit))

    async def expire(self, now: float, limit: int) -> Sequence[Execution]:
        return await self._run(lambda: self._executions.expire(now, limit))

    # -- queues, hosts and retention ----------------------------------------------------------

    async def next_queued(self, farm: str, *, now: float) -> Execution | None:
        return await self._run(lambda: self._executions.next_queued(farm, now))

    async def stray_executions(
        self, farms: Collection[str], *, after: int, limit: int
    ) -> Sequence[Execution]:
        return await self._run(lambda: self._farms.stray_executions(farms, after, limit))

    async def assign_farm(self, execution_id: str, *, expected: str, farm: str) -> None:
        await self._run(lambda: self._farms.assign_farm(execution_id, expected, farm))

    async def hosts(self) -> Sequence[HostRecord]:
        return await self._run(lambda: self._farms.hosts())

    async def store_breaker(self, record: HostRecord) -> None:
        await self._run(lambda: self._farms.store_breaker(record))

    async def blacklist_host(self, host: str, *, blacklisted: bool) -> None:
        await self._run(lambda: self._farms.blacklist_host(host, blacklisted))

    async def clean_up(self, before: float, limit: int) -> int:
        return await self._run(lambda: self._farms.clean_up(before, limit))

    # -- the outbox ---------------------------------------------------------------------------

    async def next_delivery_at(self) -> float | None:
        return await self._run(lambda: self._outbox.next_delivery_at())

    async def claim_deliveries(
        self,
        *,
        now: float,
        claim_seconds: float,
        limit: int,
        per_receiver: int,
        busy: Mapping[str, int],
    ) -> Sequence[Delivery]:
        return await self._run(
            lambda: self._outbox.claim_deliveries(now, claim_seconds, limit, per_receiver, busy)
        )

    async def attempted(
        self, delivery_id: str, claim: int, attempt: Attempt, *, retry_at: float | None
    ) -> Delivery:
        return await self._run(
            lambda: self._outbox.attempted(delivery_id, claim, attempt, retry_at)
        )

    async def unclaim_delivery(self, delivery_id: str, claim: int) -> None:
        await self._run(lambda: self._outbox.unclaim_delivery(delivery_id, claim))

    async def requeue_delivery(self, delivery_id: str, *, now: float) -> Delivery:
        return await self._run(lambda: self._outbox.requeue_delivery(delivery_id, now))

    async def deliveries(self, state: DeliveryState, page: PageRequest) -> Page[Delivery]:
        return await self._run(lambda: self._outbox.deliveries(state, page))

    async def deliveries_of(self, execution_ids: Sequence[str]) -> Sequence[Delivery]:
        return await self._run(lambda: self._outbox.deliveries_of(execution_ids))

    # -- instances ----------------------------------------------------------------------------

    async def beat(self, instance: str, *, now: float, lease_seconds: float) -> None:
        await self._run(lambda: self._executions.beat(instance, now + lease_seconds))

    async def leave(self, instance: str) -> None:
        await self._run(lambda: self._executions.leave(instance))

    async def adopt(self, instance: str, *, now: float, limit: int) -> Sequence[Execution]:
        return await self._run(lambda: self._executions.adopt(instance, now, limit))

    # -- reading ------------------------------------------------------------------------------

    async def task(self, task_id: str) -> Task:
        return await self._run(lambda: self._queries.task(task_id))

    async def tasks(self, page: PageRequest) -> Page[Task]:
        return await self._run(lambda: self._queries.tasks(page))

    async def search_tasks(self, query: str, page: PageRequest) -> Page[Task]:
        return await self._run(lambda: self._queries.search_tasks(query, page))

    async def job(self, task_id: str, job_id: str) -> Job:
        return await self._run(lambda: self._queries.job(task_id, job_id))

    async def jobs(self, task_id: str, page: PageRequest) -> Page[Job]:
        return await self._run(lambda: self._queries.jobs(task_id, page))

    async def execution(self, execution_id: str) -> Execution:
        return await self._run(lambda: self._queries.execution(execution_id))

    async def last_execution(self, job_id: str) -> Execution | None:
        return await self._run(lambda: self._queries.last_execution(job_id))

    async def executions(self, job_id: str, page: PageRequest) -> Page[Execution]:
        return await self._run(lambda: self._queries.executions(job_id, page))

    async def active_executions(self, *, owner: str | None = None) -> Sequence[Execution]:
        return await self._run(lambda: self._queries.active_executions(owner))

    async def scheduled_jobs(self, limit: int) -> Sequence[Job]:
        return await self._run(lambda: self._queries.scheduled_jobs(limit))

    async def overview(self) -> Overview:
        return await self._run(lambda: self._queries.overview())

    async def log_state(self, execution_id: str) -> LogState:
        return await self._run(lambda: self._logs.log_state(execution_id))

    async def read_log(
        self, execution_id: str, *, after: int = 0, max_bytes: int = 256 * 1024
    ) -> Sequence[LogRecord]:
        return await self._run(lambda: self._logs.read_log(execution_id, after, max_bytes))

    async def read_log_tails(
        self, wanted: Sequence[tuple[str, Stream]], *, max_bytes: int
    ) -> Sequence[tuple[bytes, bool]]:
        return await self._run(lambda: self._logs.read_log_tails(wanted, max_bytes))


def _short(error: BaseException) -> str:
    """The first line of what the driver says; the rest repeats the topology."""
    return (str(error) or type(error).__name__).partition(", Timeout:")[0][:300]
