"""The leases of instances, and the adoption of what they no longer own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as copy_with

from pymongo import ASCENDING

from fastlane.model import Execution
from fastlane.storage.base import Instances
from fastlane.storage.mongo.facet import Connection, Facet, operation
from fastlane.storage.mongo.follow_ups import FollowUps
from fastlane.storage.mongo.logs import MongoLogs
from fastlane.storage.mongo.records import execution_doc, execution_from


class MongoInstances(Facet, Instances):
    """:class:`fastlane.storage.base.Instances` in MongoDB."""

    def __init__(self, connection: Connection, follow_ups: FollowUps, logs: MongoLogs) -> None:
        super().__init__(connection)
        self._follow_ups = follow_ups
        self._logs = logs

    @operation
    async def beat(self, instance: str, *, now: float, lease_seconds: float) -> None:
        """In the server's time.

        Leases are the one thing that is compared between the clocks of different machines, so both
        sides correct their ``now`` by how much their clock differs from the server's.
        """
        await self._db.measure_skew()
        await self._db.leases.update_one(
            {"_id": instance},
            {"$set": {"ends_at": now + lease_seconds + self._db.skew_seconds}},
            upsert=True,
        )

    @operation
    async def leave(self, instance: str) -> None:
        await self._db.leases.delete_one({"_id": instance})

    @operation
    async def adopt(self, instance: str, *, now: float, limit: int) -> Sequence[Execution]:
        """One write each decides; a second one fences the log off from the old owner.

        Killed between them: the next owner does it. When an answer is lost, the owner finds what it
        has among its own.
        """
        adopted: list[Execution] = []
        owners = [owner for owner in await self._active_owners() if owner != instance]
        if not owners:
            return adopted
        leases = self._db.leases.find(
            {"_id": {"$in": owners}, "ends_at": {"$gt": now + self._db.skew_seconds}}, {"_id": 1}
        )
        alive = {doc["_id"] for doc in await leases.to_list(None)}
        dead = [owner for owner in owners if owner not in alive]
        if not dead:
            return adopted
        found = self._db.executions.find({"active_owner": {"$in": dead}})
        for doc in await found.sort("seq", ASCENDING).limit(limit).to_list(None):
            execution = execution_from(doc)
            taken = copy_with(execution, owner=instance, epoch=execution.epoch + 1)
            if "todo" in doc:
                await self._follow_ups.settle_execution(doc)
                del doc["todo"]
            if await self._db.swap(self._db.executions, doc, execution_doc(taken, doc)):
                await self._logs.fence(taken.id, taken.epoch)
                adopted.append(taken)
        return adopted

    async def _active_owners(self) -> Sequence[str]:
        return [
            owner
            for owner in await self._db.executions.distinct(
                "active_owner", {"active_owner": {"$exists": True}}
            )
            if owner is not None
        ]
