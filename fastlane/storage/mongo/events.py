"""Stored events: the collection into which they are moved, in batches (see :mod:`.mover`)."""

from __future__ import annotations

from collections.abc import Sequence

from pymongo import ASCENDING, DESCENDING

from fastlane.events import EventsMoved
from fastlane.storage.events import Events, Span
from fastlane.storage.mongo.facet import Facet, operation
from fastlane.storage.mongo.mover import BATCH_EVENTS
from fastlane.storage.mongo.writes import confirm
from fastlane.stored_events import StoredEvent, event_from

# Bounds what the driver reads ahead, in batches.
READ_AHEAD = 100


class MongoEvents(Facet, Events):
    """:class:`fastlane.storage.events.Events` in MongoDB."""

    announced_by = (EventsMoved,)

    @operation
    async def span(self) -> Span:
        first = await self._db.events.find_one({}, {"_id": 1}, sort=[("_id", ASCENDING)])
        last = await self._db.events.find_one({}, sort=[("_id", DESCENDING)])
        if first is None or last is None:
            return Span(0, 0)
        # Of a batch that is gone it is not known how long it was.
        since = 0 if first["_id"] == 1 else first["_id"] * BATCH_EVENTS - 1
        return Span(since, _position(last["_id"], len(last["events"]) - 1))

    @operation
    async def after(self, position: int, limit: int) -> Sequence[StoredEvent]:
        """What it returns is committed.

        A replica set shows nothing else. A single server also shows what is not in its journal yet,
        which a crash would take back and give the same number to other events.
        """
        number, place = divmod(position, BATCH_EVENTS)
        events: list[StoredEvent] = []
        found = self._db.events.find({"_id": {"$gte": number}}, batch_size=READ_AHEAD)
        async with found.sort("_id", ASCENDING).limit(limit + 1) as batches:
            async for doc in batches:
                begin = place + 1 if doc["_id"] == number else 0
                for index, event in enumerate(doc["events"][begin:], start=begin):
                    events.append(event_from(event, _position(doc["_id"], index)))
                if len(events) >= limit:
                    break
        if events and not self._db.is_replicated:
            await confirm(self._db.events)
        if events:
            self._db.mover.saw(events[-1].position // BATCH_EVENTS)
        return events[:limit]

    @operation
    async def forget(self, before: float, limit: int) -> int:
        """Whole batches; the last one stays, so that no position is given twice."""
        found = self._db.events.find({}, {"at": 1, "count": {"$size": "$events"}})
        oldest = await found.sort("_id", ASCENDING).limit(limit + 1).to_list(None)
        upto, count = 0, 0
        for doc in oldest[:-1]:
            if doc["at"] >= before or count >= limit:
                break
            upto = doc["_id"]
            count += doc["count"]
        if upto:
            await self._db.events.delete_many({"_id": {"$lte": upto}})
        return count


def _position(number: int, index: int) -> int:
    return number * BATCH_EVENTS + index
