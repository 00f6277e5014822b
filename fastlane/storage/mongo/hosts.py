"""Hosts: their circuit breakers, and which of them take nothing new."""

from __future__ import annotations

from collections.abc import Sequence

from pymongo import ASCENDING

from fastlane.model import HostRecord
from fastlane.storage.base import Hosts
from fastlane.storage.codec import clean
from fastlane.storage.mongo.facet import Facet, operation
from fastlane.storage.mongo.turns import named_by


class MongoHosts(Facet, Hosts):
    """:class:`fastlane.storage.base.Hosts` in MongoDB."""

    @operation
    async def all(self) -> Sequence[HostRecord]:
        found = self._db.hosts.find({}).sort("_id", ASCENDING)
        return [
            HostRecord(
                doc["_id"],
                doc.get("failures", 0),
                doc.get("error"),
                doc.get("open_until"),
                doc.get("blacklisted", False),
            )
            for doc in await found.to_list(None)
        ]

    @operation
    async def store_breaker(self, record: HostRecord) -> None:
        await self._db.hosts.update_one(
            {"_id": record.host},
            {
                "$set": {
                    "failures": record.failures,
                    "error": clean(record.error),
                    "open_until": record.open_until,
                }
            },
            upsert=True,
        )

    @operation
    async def blacklist(self, host: str, *, blacklisted: bool) -> None:
        """One write; then claims are spoilt that may have looked at the host before it.

        Such a claim has taken its slot, whose token names the execution's ``rev``; it starts again
        when that has changed.
        """
        await self._db.hosts.update_one(
            {"_id": host}, {"$set": {"blacklisted": blacklisted}}, upsert=True
        )
        if not blacklisted:
            return
        farms = await self._db.farms.find({}).to_list(None)
        held = dict(named_by(token) for farm in farms for token in farm["held"])
        executions = self._db.executions
        enqueued = executions.find(
            {"_id": {"$in": list(held)}, "enqueued_of": {"$exists": True}}, {"rev": 1}
        )
        for doc in await enqueued.to_list(None):
            if doc["rev"] == held[doc["_id"]]:
                await executions.update_one(doc, {"$inc": {"rev": 1}})
