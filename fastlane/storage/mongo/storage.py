"""The cluster storage: records in MongoDB. Any number of instances share it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog
from pymongo import ASCENDING
from pymongo.errors import PyMongoError

from fastlane.errors import StorageUnavailable
from fastlane.model import Clock, DeliveryState
from fastlane.notifications.registry import channels
from fastlane.storage.base import Overview, Storage
from fastlane.storage.mongo.database import Database
from fastlane.storage.mongo.deletions import MongoDeletions
from fastlane.storage.mongo.events import MongoEvents
from fastlane.storage.mongo.executions import MongoExecutions
from fastlane.storage.mongo.facet import Connection, Facet, operation, short
from fastlane.storage.mongo.follow_ups import FollowUps
from fastlane.storage.mongo.hosts import MongoHosts
from fastlane.storage.mongo.instances import MongoInstances
from fastlane.storage.mongo.jobs import MongoJobs
from fastlane.storage.mongo.lists import MongoLists
from fastlane.storage.mongo.logs import MongoLogs
from fastlane.storage.mongo.outbox import MongoOutbox
from fastlane.storage.mongo.retention import Retention
from fastlane.storage.mongo.stats import MongoStats
from fastlane.storage.mongo.sweep import SWEEP_SECONDS, Sweep
from fastlane.storage.mongo.tasks import MongoTasks
from fastlane.storage.mongo.writes import Collection
from fastlane.storage.observing import Observe

log = structlog.get_logger(__name__)


class Relay(Protocol):
    """What carries events between the instances, as far as the storage needs to know."""

    @property
    def failure(self) -> str | None:
        """What is known to be wrong with it, or None."""

    async def check(self) -> str | None:
        """What is wrong with it now, or None."""


class ClusterStorage(Facet, Storage):
    """Everything in one MongoDB database.

    MongoDB alone decides: nothing is lost and nothing is done twice, whatever happens to Redis.
    A submission is refused while Redis is known to be unreachable, because no other instance would
    learn of it for some seconds; everything else continues.
    """

    name = "mongodb+redis"

    def __init__(
        self,
        mongodb_url: str,
        *,
        relay: Relay | None = None,
        repaired: Callable[[], None] = lambda: None,
        moved: Callable[[], None] = lambda: None,
        clock: Clock = time.time,
    ) -> None:
        """:param relay: None if no other instance needs news (tools and tests).
        :param repaired: called when the sweep has completed what a crash left.
        :param moved: called when there are new events to read.
        :param clock: where the ``now`` of the calls comes from; it is compared with MongoDB's.
        """
        super().__init__(Connection(Database(clock=clock, moved=moved)))
        self._mongodb_url = mongodb_url
        self._relay = relay
        self._repaired = repaired
        self._closing = asyncio.Event()
        self._sweeping: asyncio.Task[None] | None = None
        connection, follow_ups = self._connection, FollowUps(self._db)
        self.tasks = MongoTasks(connection)
        self.jobs = jobs = MongoJobs(connection, follow_ups, self._relay_failure)
        self.logs = logs = MongoLogs(connection)
        self.executions = MongoExecutions(connection, follow_ups, logs)
        self.lists = MongoLists(connection)
        self.deletions = MongoDeletions(connection, follow_ups)
        self.outbox = MongoOutbox(connection)
        self.events = MongoEvents(connection)
        self.stats = MongoStats(connection)
        self.hosts = MongoHosts(connection)
        self.instances = MongoInstances(connection, follow_ups, logs)
        self._retention = Retention(self._db, follow_ups)
        self._sweep = Sweep(self._db, follow_ups, jobs)

    def observe(self, observe: Observe) -> None:
        self._connection.observe = observe

    async def open(self) -> None:
        self._db.connect(self._mongodb_url)
        try:
            await self._db.open()
        except PyMongoError as error:
            await self._db.close()
            raise StorageUnavailable(f"MongoDB cannot be used: {error}") from error
        self._connection.open = True
        self._sweeping = asyncio.create_task(self._keep_sweeping(), name="storage sweep")

    async def close(self) -> None:
        self._closing.set()
        sweeping, self._sweeping = self._sweeping, None
        if sweeping is not None:
            self._connection.in_flight.add(sweeping)
        if self._connection.open:
            await self._connection.close()
            await self._db.close()

    async def _keep_sweeping(self) -> None:
        while self._connection.open:
            try:
                if await self._sweep.round():
                    self._repaired()
            except Exception:
                log.exception("Sweep failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_SECONDS):
                    await self._closing.wait()

    def _relay_failure(self) -> str | None:
        return None if self._relay is None else self._relay.failure

    async def check(self) -> Mapping[str, str | None]:
        redis = None if self._relay is None else await self._relay.check()
        if not self._connection.open:
            return {"mongo": "not connected", "redis": redis}
        try:
            await self._db.ping()
        except PyMongoError as error:
            return {"mongo": short(error), "redis": redis}
        return {"mongo": None, "redis": redis}

    @operation
    async def installation(self) -> str:
        """The id that all instances on this database share."""
        return await self._db.installation()

    @operation
    async def clean_up(self, before: float, limit: int) -> int:
        return await self._retention.clean_up(before, limit)

    @operation
    async def next_due_at(self) -> float | None:
        earliest = await asyncio.gather(
            _first(self._db.jobs, "next_run_at"),
            _first(self._db.executions, "due"),
            _first(self._db.executions, "expires"),
        )
        return min((at for at in earliest if at is not None), default=None)

    @operation
    async def overview(self) -> Overview:
        """Tasks and jobs are the collections' own counts.

        All others count the keys of an index that has only those, so nothing final is read.
        """
        executions, deliveries = self._db.executions, self._db.deliveries
        there = {"$exists": True}
        pending, names = DeliveryState.PENDING, [channel.name for channel in channels()]
        counts = await asyncio.gather(
            self._db.tasks.estimated_document_count(),
            self._db.jobs.estimated_document_count(),
            self._db.jobs.count_documents({"deleted_at": there}, hint="deleted"),
            executions.count_documents({"enqueued_of": there}),
            executions.count_documents({"delayed": True}),
            executions.count_documents({"active_owner": there}),
            self._db.jobs.count_documents({"next_run_at": there}, hint="scheduled"),
            deliveries.count_documents({"open": str(DeliveryState.FAILED)}),
            *(deliveries.count_documents({"counted": f"{pending} {name}"}) for name in names),
        )
        tasks, jobs, deleted, enqueued, delayed, active, scheduled, undelivered, *by_channel = (
            counts
        )
        return Overview(
            tasks,
            jobs - deleted,
            max(enqueued - delayed, 0),
            delayed,
            active,
            scheduled,
            undelivered,
            {name: count for name, count in zip(names, by_channel, strict=True) if count},
        )


async def _first(collection: Collection, field: str) -> float | None:
    doc = await collection.find_one(
        {field: {"$exists": True}}, {field: 1}, sort=[(field, ASCENDING)]
    )
    return None if doc is None else float(doc[field])
