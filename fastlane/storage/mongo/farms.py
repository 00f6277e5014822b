"""Hosts, queues that no farm takes any more, and forgetting what is old."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace as copy_with

from pymongo import ASCENDING

from fastlane.errors import CompareFailed
from fastlane.model import Execution, HostRecord, Status
from fastlane.storage.mongo.database import FOLLOW, Database, Doc, new_todo, swap
from fastlane.storage.mongo.records import execution_doc, execution_from, job_doc, job_from
from fastlane.storage.mongo.todo import Todo
from fastlane.storage.shared import clean


class Farms:
    """The operations on farms, hosts and what is over."""

    def __init__(self, database: Database, todo: Todo) -> None:
        self._db = database
        self._todo = todo

    async def stray_executions(
        self, farms: Collection[str], after: int, limit: int
    ) -> Sequence[Execution]:
        """:meth:`fastlane.storage.base.Storage.stray_executions`."""
        queued = await self._db.executions.distinct("farm", {"queue": {"$exists": True}})
        strays = [farm for farm in queued if farm not in farms]
        if not strays:
            return []
        found = self._db.executions.find({"farm": {"$in": strays}, "queue": {"$gt": after}})
        return [execution_from(doc) for doc in await found.sort("queue", ASCENDING).to_list(limit)]

    async def assign_farm(self, execution_id: str, expected: str, farm: str) -> None:
        """:meth:`fastlane.storage.base.Storage.assign_farm`: one write."""
        while True:
            doc = await self._todo.settled_execution(execution_id)
            if doc is None or doc["status"] != Status.ENQUEUED or doc["farm"] != expected:
                raise CompareFailed(
                    f"execution {execution_id} is not enqueued for farm {expected} any more",
                    None if doc is None else execution_from(doc),
                )
            moved = copy_with(execution_from(doc), farm=farm)
            if await swap(self._db.executions, doc, execution_doc(moved, doc)):
                return

    async def hosts(self) -> Sequence[HostRecord]:
        """:meth:`fastlane.storage.base.Storage.hosts`."""
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

    async def store_breaker(self, record: HostRecord) -> None:
        """:meth:`fastlane.storage.base.Storage.store_breaker`: one write."""
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

    async def blacklist_host(self, host: str, blacklisted: bool) -> None:
        """:meth:`fastlane.storage.base.Storage.blacklist_host`: one write."""
        await self._db.hosts.update_one(
            {"_id": host}, {"$set": {"blacklisted": blacklisted}}, upsert=True
        )

    # -- retention ----------------------------------------------------------------------------

    async def clean_up(self, before: float, limit: int) -> int:
        """:meth:`fastlane.storage.base.Storage.clean_up`.

        For executions the deciding write is their job's, which no longer counts them and names them
        in its ``todo``; for a job it is its deletion, before which its task is marked to be counted
        again.
        """
        removed = 0
        by_job: defaultdict[str, list[str]] = defaultdict(list)
        for execution_id, job_id in await self._old_executions(before, limit):
            by_job[job_id].append(execution_id)
        for job_id, execution_ids in by_job.items():
            removed += await self._forget_executions(job_id, execution_ids)
        idle = self._db.jobs.find({"idle": {"$lt": before}}).sort("idle", ASCENDING)
        for doc in await idle.to_list(limit):
            removed += await self._forget_job(doc)
        return removed

    async def _old_executions(self, before: float, limit: int) -> Sequence[tuple[str, str]]:
        found = self._db.executions.find({"over": {"$lt": before}}, {"job_id": 1, "todo": 1}).sort(
            "over", ASCENDING
        )
        old: list[tuple[str, str]] = []
        async with found:
            async for doc in found:
                if "todo" in doc:
                    await self._todo.settled_execution(doc["_id"])
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
            doc = await self._todo.settled_job(job_id)
            there = self._db.executions.find({"_id": {"$in": list(execution_ids)}}, {"_id": 1})
            ids = [one["_id"] for one in await there.to_list(None)]
            if not ids:
                return 0
            if doc is None:
                await self._todo.forget(ids)
                return len(ids)
            changed = job_doc(job_from(doc), doc | {"removed": doc.get("removed", 0) + len(ids)})
            changed["todo"] = new_todo(forget=ids)
            if await swap(self._db.jobs, doc, changed):
                await self._todo.complete_job(changed)
                return len(ids)

    async def _forget_job(self, doc: Doc) -> int:
        tasks = self._db.tasks.with_options(write_concern=FOLLOW)
        if "todo" in doc:
            settled = await self._todo.settled_job(doc["_id"])
            if settled is None or settled["rev"] != doc["rev"]:
                return 0
        await tasks.update_one({"_id": doc["task_id"]}, {"$set": {"recount": True}})
        gone = await self._db.jobs.delete_one({"_id": doc["_id"], "rev": doc["rev"]})
        if not gone.deleted_count:
            return 0
        await self._db.keys.delete_many({"job_id": doc["_id"]})
        await tasks.update_one({"_id": doc["task_id"]}, {"$inc": {"jobs_count": -1}})
        await tasks.delete_one({"_id": doc["task_id"], "jobs_count": {"$lte": 0}})
        return 1
