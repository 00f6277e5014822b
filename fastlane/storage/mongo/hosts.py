"""Hosts: their circuit breakers, and which of them take nothing new."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pymongo import ASCENDING

from fastlane.model import HostRecord
from fastlane.storage.base import Hosts
from fastlane.storage.codec import clean
from fastlane.storage.mongo.facet import Facet, operation
from fastlane.storage.mongo.turns import named_by
from fastlane.storage.mongo.writes import Doc
from fastlane.stored_events import StoredEvent, breaker_event, drain_event


class MongoHosts(Facet, Hosts):
    """:class:`fastlane.storage.base.Hosts` in MongoDB."""

    @operation
    async def all(self) -> Sequence[HostRecord]:
        found = self._db.hosts.find({}).sort("_id", ASCENDING)
        return [_host_from(doc) for doc in await found.to_list(None)]

    @operation
    async def store_breaker(self, host: HostRecord, *, now: float) -> None:
        """The last writer wins, but compares with what it found: each change has one event."""
        values = {
            "failures": host.failures,
            "error": clean(host.error),
            "open_until": host.open_until,
        }
        await self._change(host.host, values, lambda before: breaker_event(before, host, now))

    @operation
    async def blacklist(self, host: str, *, blacklisted: bool, now: float) -> None:
        """One write; then claims are spoilt that may have looked at the host before it.

        Such a claim has taken its slot, whose token names the execution's ``rev``; it starts again
        when that has changed.
        """
        await self._change(
            host,
            {"blacklisted": blacklisted},
            lambda before: drain_event(host, before.blacklisted, blacklisted, now),
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

    async def _change(
        self, host: str, values: Doc, event_of: Callable[[HostRecord], StoredEvent | None]
    ) -> None:
        """Store *values*, and the event that follows from what was there before.

        A release before this one does not raise ``rev``: then an event may be missing or told
        twice, but the values are stored.
        """
        while True:
            doc = await self._db.hosts.find_one({"_id": host})
            if doc is None:
                await self._db.insert(self._db.hosts, {"_id": host, "rev": 0})
                continue
            if "rev" not in doc:
                await self._db.hosts.update_one(
                    {"_id": host, "rev": {"$exists": False}}, {"$set": {"rev": 0}}
                )
                continue
            event = event_of(_host_from(doc))
            events = [] if event is None else [event]
            if await self._db.swap(self._db.hosts, doc, doc | values, *events):
                return


def _host_from(doc: Doc) -> HostRecord:
    return HostRecord(
        doc["_id"],
        doc.get("failures", 0),
        doc.get("error"),
        doc.get("open_until"),
        doc.get("blacklisted", False),
    )
