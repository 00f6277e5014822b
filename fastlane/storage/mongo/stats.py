"""Statistics in MongoDB: each bucket says up to which position it has counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pymongo import ASCENDING, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError

from fastlane.errors import CompareFailed
from fastlane.stats import COUNTED, Bucket, Key, Step, bucket, merged, tallies
from fastlane.storage.mongo.facet import Facet, operation
from fastlane.storage.mongo.writes import FOLLOW, HINT, Doc
from fastlane.storage.stats import Stats
from fastlane.stored_events import StoredEvent

# Bound one step of forgetting.
BUCKETS_FORGOTTEN = 10_000
TASKS_FORGOTTEN = 100

DUPLICATE_KEY = 11000


class MongoStats(Facet, Stats):
    """:class:`fastlane.storage.stats.Stats` in MongoDB.

    The position of all comes last. Killed before that, the next one counts the same events again,
    and each bucket leaves out those up to its own position.
    """

    @operation
    async def lead(self, instance: str, *, now: float, seconds: float) -> bool:
        settings = self._db.settings.with_options(write_concern=HINT)
        free = {"$or": [{"owner": instance}, {"until": {"$not": {"$gt": now}}}]}
        try:
            # A clock that was far ahead must not keep all others out.
            await settings.update_one(
                {"_id": "stats lead", **free},
                {"$set": {"owner": instance, "until": now + seconds}},
                upsert=True,
            )
        except DuplicateKeyError:
            return False
        return True

    @operation
    async def position(self) -> int:
        return await self._position()

    async def _position(self) -> int:
        doc = await self._db.settings.find_one({"_id": "stats"})
        return 0 if doc is None else int(doc["position"])

    @operation
    async def add(self, after: int, events: Sequence[StoredEvent]) -> None:
        if await self._position() != after:
            raise CompareFailed(f"events after {after} are counted already")
        adds = tallies(events)
        left = {_name(key): key for key in adds}
        while left:
            found = self._db.stats.find({"_id": {"$in": list(left)}}, {"upto": 1})
            upto = {doc["_id"]: doc["upto"] for doc in await found.to_list(None)}
            updates = []
            for name, key in left.items():
                new = [one for at, one in adds[key] if at > upto.get(name, 0)]
                if new:
                    updates.append(_update(name, key, upto.get(name), new, adds[key][-1][0]))
            if not updates:
                break
            # Once more, because another instance may have come first: then nothing is new.
            await self._write(updates)
        await self._touch_tasks(adds)
        await self._move_on(events[-1].position)

    async def _write(self, updates: list[UpdateOne]) -> None:
        stats = self._db.stats.with_options(write_concern=FOLLOW)
        try:
            await stats.bulk_write(updates, ordered=False)
        except BulkWriteError as error:
            details = error.details or {}
            faults = details.get("writeErrors", [])
            if details.get("writeConcernErrors") or any(
                fault["code"] != DUPLICATE_KEY for fault in faults
            ):
                raise

    async def _touch_tasks(self, keys: Sequence[Key] | dict[Key, Any]) -> None:
        active: dict[str, int] = {}
        for _, task_id, start in keys:
            if task_id:
                active[task_id] = max(active.get(task_id, 0), start)
        updates = [
            UpdateOne({"_id": task_id}, {"$max": {"active_at": at}}, upsert=True)
            for task_id, at in active.items()
        ]
        if updates:
            tasks = self._db.counted_tasks.with_options(write_concern=HINT)
            await tasks.bulk_write(updates, ordered=False)

    async def _move_on(self, position: int) -> None:
        try:
            await self._db.settings.update_one(
                {"_id": "stats", "position": {"$lt": position}},
                {"$set": {"position": position}},
                upsert=True,
            )
        except DuplicateKeyError:
            # Another instance is further already.
            return

    @operation
    async def read(
        self, task_id: str | None, step: Step, *, since: float, until: float
    ) -> Sequence[Bucket] | None:
        if task_id is not None:
            is_counted = await self._db.counted_tasks.find_one({"_id": task_id}, {"_id": 1})
            if is_counted is None:
                return None
        wanted = {"step": int(step), "task": task_id or "", "start": {"$gte": since, "$lt": until}}
        found = self._db.stats.find(wanted).sort("start", ASCENDING)
        return [_bucket(doc) for doc in await found.to_list(None)]

    @operation
    async def forget(self, minutes_before: float, hours_before: float, *, tasks: int) -> int:
        went = 0
        stats = self._db.stats.with_options(write_concern=HINT)
        for step, before in ((Step.MINUTE, minutes_before), (Step.HOUR, hours_before)):
            old = stats.find({"step": int(step), "start": {"$lt": before}}, {"_id": 1})
            ids = [doc["_id"] for doc in await old.to_list(BUCKETS_FORGOTTEN)]
            if ids:
                await stats.delete_many({"_id": {"$in": ids}})
            went += len(ids)
        many = await self._db.counted_tasks.estimated_document_count() - tasks
        if many <= 0:
            return went
        idle = self._db.counted_tasks.find({}, {"_id": 1}).sort("active_at", ASCENDING)
        names = [doc["_id"] for doc in await idle.to_list(min(many, TASKS_FORGOTTEN))]
        for step in Step:
            await stats.delete_many({"step": int(step), "task": {"$in": names}})
        await self._db.counted_tasks.delete_many({"_id": {"$in": names}})
        return went + len(names)


def _name(key: Key) -> str:
    step, task_id, start = key
    return f"{int(step)}:{start}:{task_id}"


def _update(name: str, key: Key, upto: int | None, new: list[Bucket], last: int) -> UpdateOne:
    """Add *new* to the bucket *name*, as long as its position is *upto*."""
    step, task_id, start = key
    whole = merged(start, new)
    more = {counter: getattr(whole, counter) for counter in COUNTED}
    more |= {f"durations.{index}": count for index, count in whole.durations.items()}
    more |= {f"waits.{index}": count for index, count in whole.waits.items()}
    values: Doc = {"$inc": {what: n for what, n in more.items() if n}, "$set": {"upto": last}}
    if upto is not None:
        return UpdateOne({"_id": name, "upto": upto}, values)
    values["$setOnInsert"] = {"step": int(step), "task": task_id, "start": start}
    return UpdateOne({"_id": name, "upto": {"$exists": False}}, values, upsert=True)


def _bucket(doc: Doc) -> Bucket:
    durations, waits = (
        {int(index): count for index, count in doc.get(name, {}).items()}
        for name in ("durations", "waits")
    )
    return bucket(doc["start"], [doc.get(name, 0) for name in COUNTED], durations, waits)
