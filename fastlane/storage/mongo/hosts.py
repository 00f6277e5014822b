"""Hosts: their circuit breakers, and which of them take nothing new. Each change is one write."""

from __future__ import annotations

from collections.abc import Sequence

from pymongo import ASCENDING

from fastlane.model import HostRecord
from fastlane.storage.base import Hosts
from fastlane.storage.codec import clean
from fastlane.storage.mongo.facet import Facet, operation


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
        await self._db.hosts.update_one(
            {"_id": host}, {"$set": {"blacklisted": blacklisted}}, upsert=True
        )
