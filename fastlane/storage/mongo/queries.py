"""Every read that is not part of a change; each looks at the primary."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pymongo import ASCENDING, DESCENDING

from fastlane.errors import NotFound
from fastlane.model import DeliveryState, Execution, Job, Task
from fastlane.notifications.registry import channels
from fastlane.storage.base import Overview, Page, PageRequest
from fastlane.storage.mongo.database import Collection, Database, Doc
from fastlane.storage.mongo.records import execution_from, job_from, task_from
from fastlane.storage.shared import MAX_QUERY_WORDS, cursor_numbers, words

T = TypeVar("T")

# Bounds an offset to what MongoDB can count; no collection is that long.
_MAX_OFFSET = 2**62


class Queries:
    """The reads."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def task(self, task_id: str) -> Task:
        """:meth:`fastlane.storage.base.Storage.task`."""
        doc = await self._db.tasks.find_one({"_id": task_id})
        if doc is None:
            raise NotFound(f"there is no task {task_id}")
        return task_from(doc)

    async def tasks(self, page: PageRequest) -> Page[Task]:
        """:meth:`fastlane.storage.base.Storage.tasks`.

        The total is the collection's own count, which may be off by some after a crash of mongod.
        """
        cursor_numbers(page, parts=1)
        total = await self._db.tasks.estimated_document_count()
        return await page_of(self._db.tasks, {}, page, total, task_from, by="seq", order=ASCENDING)

    async def search_tasks(self, query: str, page: PageRequest) -> Page[Task]:
        """:meth:`fastlane.storage.base.Storage.search_tasks`."""
        cursor = cursor_numbers(page, parts=2)
        wanted = sorted(words(query))[:MAX_QUERY_WORDS]
        if not wanted:
            return Page([], 0, None)
        matching: Doc = {"words": {"$in": wanted}}
        stages: list[Doc] = [
            {"$match": matching},
            {"$set": {"score": {"$size": {"$setIntersection": ["$words", wanted]}}}},
        ]
        if cursor is not None:
            score, after = cursor
            stages.append(
                {
                    "$match": {
                        "$or": [
                            {"score": {"$lt": score}},
                            {"score": score, "seq": {"$gt": after}},
                        ]
                    }
                }
            )
        stages.append({"$sort": {"score": -1, "seq": 1}})
        if cursor is None and page.number > 1:
            stages.append({"$skip": min((page.number - 1) * page.size, _MAX_OFFSET)})
        stages.append({"$limit": page.size + 1})
        total, found = await asyncio.gather(
            self._db.tasks.count_documents(matching), self._db.tasks.aggregate(stages)
        )
        docs = await found.to_list(None)
        return _page(docs, page, total, task_from, lambda doc: f"{doc['score']}.{doc['seq']}")

    async def job(self, task_id: str, job_id: str) -> Job:
        """:meth:`fastlane.storage.base.Storage.job`."""
        doc = await self._db.jobs.find_one({"_id": job_id})
        if doc is None or doc["task_id"] != task_id:
            raise NotFound(f"there is no job {job_id} in task {task_id}")
        return job_from(doc)

    async def jobs(self, task_id: str, page: PageRequest) -> Page[Job]:
        """:meth:`fastlane.storage.base.Storage.jobs`."""
        task = await self._db.tasks.find_one({"_id": task_id}, {"jobs_count": 1})
        if task is None:
            raise NotFound(f"there is no task {task_id}")
        return await page_of(
            self._db.jobs,
            {"task_id": task_id},
            page,
            task["jobs_count"],
            job_from,
            by="seq",
            order=DESCENDING,
        )

    async def execution(self, execution_id: str) -> Execution:
        """:meth:`fastlane.storage.base.Storage.execution`."""
        doc = await self._db.executions.find_one({"_id": execution_id})
        if doc is None:
            raise NotFound(f"there is no execution {execution_id}")
        return execution_from(doc)

    async def last_execution(self, job_id: str) -> Execution | None:
        """:meth:`fastlane.storage.base.Storage.last_execution`."""
        doc = await self._db.executions.find_one({"job_id": job_id}, sort=[("number", DESCENDING)])
        return None if doc is None else execution_from(doc)

    async def executions(self, job_id: str, page: PageRequest) -> Page[Execution]:
        """:meth:`fastlane.storage.base.Storage.executions`."""
        job = await self._db.jobs.find_one({"_id": job_id}, {"execution_count": 1, "removed": 1})
        return await page_of(
            self._db.executions,
            {"job_id": job_id},
            page,
            0 if job is None else job["execution_count"] - job.get("removed", 0),
            execution_from,
            by="number",
            order=DESCENDING,
        )

    async def active_executions(self, owner: str | None) -> Sequence[Execution]:
        """:meth:`fastlane.storage.base.Storage.active_executions`."""
        wanted: Any = {"$exists": True} if owner is None else owner
        found = self._db.executions.find({"active_owner": wanted}).sort("seq", ASCENDING)
        return [execution_from(doc) for doc in await found.to_list(None)]

    async def due_jobs(self, now: float, limit: int) -> Sequence[Job]:
        """:meth:`fastlane.storage.base.Storage.due_jobs`."""
        found = self._db.jobs.find({"next_run_at": {"$lte": now}}).sort("next_run_at", ASCENDING)
        return [job_from(doc) for doc in await found.to_list(limit)]

    async def scheduled_jobs(self, limit: int) -> Sequence[Job]:
        """:meth:`fastlane.storage.base.Storage.scheduled_jobs`."""
        found = self._db.jobs.find({"next_run_at": {"$exists": True}}).sort(
            "next_run_at", ASCENDING
        )
        return [job_from(doc) for doc in await found.to_list(limit)]

    async def next_due_at(self) -> float | None:
        """:meth:`fastlane.storage.base.Storage.next_due_at`."""
        earliest = await asyncio.gather(
            _first(self._db.jobs, "next_run_at"),
            _first(self._db.executions, "due"),
            _first(self._db.executions, "expires"),
        )
        return min((at for at in earliest if at is not None), default=None)

    async def overview(self) -> Overview:
        """:meth:`fastlane.storage.base.Storage.overview`.

        Tasks and jobs are the collections' own counts; all others count the keys of an index that
        has only those, so nothing that is over is looked at.
        """
        executions, deliveries = self._db.executions, self._db.deliveries
        there = {"$exists": True}
        pending, names = DeliveryState.PENDING, [channel.name for channel in channels()]
        counts = await asyncio.gather(
            self._db.tasks.estimated_document_count(),
            self._db.jobs.estimated_document_count(),
            executions.count_documents({"enqueued_of": there}),
            executions.count_documents({"delayed": True}),
            executions.count_documents({"active_owner": there}),
            self._db.jobs.count_documents({"next_run_at": there}, hint="scheduled"),
            deliveries.count_documents({"open": str(DeliveryState.FAILED)}),
            *(deliveries.count_documents({"counted": f"{pending} {name}"}) for name in names),
        )
        tasks, jobs, enqueued, delayed, active, scheduled, undelivered, *by_channel = counts
        return Overview(
            tasks,
            jobs,
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


async def page_of(
    collection: Collection,
    wanted: Doc,
    page: PageRequest,
    total: int,
    record_from: Callable[[Doc], T],
    *,
    by: str,
    order: int,
) -> Page[T]:
    """What *wanted* names, in the order of the number *by*; a cursor is the last one's number."""
    cursor = cursor_numbers(page, parts=1)
    skip = 0
    if cursor is not None:
        wanted = wanted | {by: {"$gt" if order == ASCENDING else "$lt": cursor[0]}}
    else:
        skip = (page.number - 1) * page.size
        if skip >= _MAX_OFFSET:
            return Page([], total, None)
    found = collection.find(wanted).sort(by, order).skip(skip)
    docs = await found.to_list(page.size + 1)
    return _page(docs, page, total, record_from, lambda doc: str(doc[by]))


def _page(
    docs: Sequence[Doc],
    page: PageRequest,
    total: int,
    record_from: Callable[[Doc], T],
    cursor_of: Callable[[Doc], str],
) -> Page[T]:
    """One document more than the page holds was read, to know whether that was the last page."""
    items = [record_from(doc) for doc in docs[: page.size]]
    more = len(docs) > page.size
    return Page(items, total, cursor_of(docs[page.size - 1]) if more else None)
