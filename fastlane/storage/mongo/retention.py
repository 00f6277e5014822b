"""Removing what is old."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pymongo import ASCENDING

from fastlane.storage.mongo.database import Database, new_follow_up
from fastlane.storage.mongo.follow_ups import FollowUps
from fastlane.storage.mongo.records import job_doc, job_from
from fastlane.storage.mongo.writes import FOLLOW, Doc


class Retention:
    """What :meth:`fastlane.storage.base.Storage.clean_up` does."""

    def __init__(self, database: Database, follow_ups: FollowUps) -> None:
        self._db = database
        self._follow_ups = follow_ups

    async def clean_up(self, before: float, limit: int) -> int:
        """For executions the deciding write is their job's.

        It no longer counts them, and its follow-up names them. For a job it is its deletion, before
        which its task is marked to be counted again.
        """
        removed = 0
        by_job: defaultdict[str, list[str]] = defaultdict(list)
        for execution_id, job_id in await self._old_executions(before, limit):
            by_job[job_id].append(execution_id)
        for job_id, execution_ids in by_job.items():
            removed += await self._forget_executions(job_id, execution_ids)
        idle = self._db.jobs.find({"idle": {"$lt": before}}).sort("idle", ASCENDING)
        for doc in await idle.limit(limit).to_list(None):
            removed += await self._forget_job(doc)
        return removed

    async def _old_executions(self, before: float, limit: int) -> Sequence[tuple[str, str]]:
        found = self._db.executions.find(
            {"over": {"$lt": before}}, {"job_id": 1, "todo": 1, "events": 1}
        ).sort("over", ASCENDING)
        old: list[tuple[str, str]] = []
        async with found:
            async for doc in found:
                if "todo" in doc:
                    await self._follow_ups.settled_execution(doc["_id"])
                await self._db.mover.settle(doc)
                pending = await self._db.deliveries.find_one(
                    {"execution_id": doc["_id"], "pending": {"$exists": True}}, {"_id": 1}
                )
                if pending is None:
                    old.append((doc["_id"], doc["job_id"]))
                if len(old) >= limit:
                    break
        return old

    async def _forget_executions(self, job_id: str, execution_ids: Sequence[str]) -> int:
        while True:
            doc = await self._follow_ups.settled_job(job_id)
            there = self._db.executions.find({"_id": {"$in": list(execution_ids)}}, {"_id": 1})
            ids = [one["_id"] for one in await there.to_list(None)]
            if not ids:
                return 0
            if doc is None:
                await self._follow_ups.forget(ids)
                return len(ids)
            changed = job_doc(job_from(doc), doc | {"removed": doc.get("removed", 0) + len(ids)})
            changed["todo"] = new_follow_up(forget=ids)
            if await self._db.swap(self._db.jobs, doc, changed):
                await self._follow_ups.complete_job(changed)
                return len(ids)

    async def _forget_job(self, doc: Doc) -> int:
        tasks = self._db.tasks.with_options(write_concern=FOLLOW)
        if "todo" in doc:
            settled = await self._follow_ups.settled_job(doc["_id"])
            if settled is None or settled["rev"] != doc["rev"]:
                return 0
        await self._db.mover.settle(doc)
        await tasks.update_one({"_id": doc["task_id"]}, {"$set": {"recount": True}})
        gone = await self._db.jobs.delete_one({"_id": doc["_id"], "rev": doc["rev"]})
        if not gone.deleted_count:
            return 0
        await self._db.keys.delete_many({"job_id": doc["_id"]})
        await tasks.update_one({"_id": doc["task_id"]}, {"$inc": {"jobs_count": -1}})
        await tasks.delete_one({"_id": doc["task_id"], "jobs_count": {"$lte": 0}})
        return 1
