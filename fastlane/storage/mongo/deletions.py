"""Deletions: marks, and the removal of what is marked."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace as copy_with
from typing import Any

from pymongo import ASCENDING

from fastlane.errors import NotFinal, NotFound
from fastlane.model import FINAL, Execution
from fastlane.storage.base import ActiveRun, Deletions
from fastlane.storage.mongo.database import new_follow_up
from fastlane.storage.mongo.facet import Connection, Facet, operation
from fastlane.storage.mongo.follow_ups import FollowUps
from fastlane.storage.mongo.records import execution_from, job_doc, job_from
from fastlane.storage.mongo.writes import FOLLOW, Doc
from fastlane.stored_events import EventType, StoredEvent, job_event, task_event

# Bounds the jobs of a task that are marked together.
TOGETHER = 32

THERE: Doc = {"$exists": True}
NOT_THERE: Doc = {"$exists": False}
FINAL_STATUS: Doc = {"$in": [str(status) for status in FINAL]}


class MongoDeletions(Facet, Deletions):
    """:class:`fastlane.storage.base.Deletions` in MongoDB.

    A task has no mark of its own: its jobs are marked one by one, each by a write that is compared
    with what it had then. So a job that is submitted meanwhile is never lost.
    """

    def __init__(self, connection: Connection, follow_ups: FollowUps) -> None:
        super().__init__(connection)
        self._follow_ups = follow_ups

    @operation
    async def execution(
        self, task_id: str, job_id: str, execution_id: str, *, force: bool, now: float
    ) -> Execution:
        """The deciding write is the job's, which no longer counts the execution.

        Its follow-up marks and stops it.
        """
        while True:
            job = await self._visible_job(task_id, job_id)
            doc = await self._follow_ups.settled_execution(execution_id)
            if doc is None or doc["job_id"] != job_id or "deleted_at" in doc:
                raise NotFound(f'Job "{job_id}" has no execution "{execution_id}".')
            execution = execution_from(doc)
            if not execution.final and not force:
                raise NotFinal(f'Execution "{execution_id}"')
            changed = job_doc(job_from(job), job | {"removed": job.get("removed", 0) + 1})
            changed["todo"] = new_follow_up(hide=execution_id, at=now)
            if await self._db.swap(self._db.jobs, job, changed):
                await self._follow_ups.complete_job(changed)
                marked = await self._db.executions.find_one({"_id": execution_id})
                return execution if marked is None else execution_from(marked)

    @operation
    async def job(
        self, task_id: str, job_id: str, *, force: bool, now: float
    ) -> Sequence[Execution]:
        """The deciding write is the job's.

        Its follow-up stops the executions, and takes the job off its task's count.
        """
        await self._visible_job(task_id, job_id)
        tasks = self._db.tasks.with_options(write_concern=FOLLOW)
        await tasks.update_one({"_id": task_id}, {"$set": {"recount": True}})
        stopped = await self._mark(task_id, job_id, force=force, now=now, is_deleted_alone=True)
        await self._uncount(task_id, 1)
        return stopped

    @operation
    async def task(self, task_id: str, *, force: bool, now: float) -> Sequence[Execution]:
        """Each job has its own deciding write. A crash leaves some, and a repeat continues."""
        tasks = self._db.tasks.with_options(write_concern=FOLLOW)
        shown = {"task_id": task_id, "deleted_at": NOT_THERE}
        if await self._db.jobs.find_one(shown, {"_id": 1}) is None:
            raise NotFound(f'There is no task "{task_id}".')
        if not force and await self._has_unfinished(task_id):
            raise NotFinal(f'Task "{task_id}"')
        await tasks.update_one({"_id": task_id}, {"$set": {"recount": True}})
        found = self._db.jobs.find(shown, {"_id": 1})
        ids = [doc["_id"] for doc in await found.to_list(None)]
        marked = 0
        stopped: list[Execution] = []
        for start in range(0, len(ids), TOGETHER):
            marks = []
            for job_id in ids[start : start + TOGETHER]:
                event = task_event(task_id, EventType.TASK_DELETED, now)
                is_last = job_id == ids[-1]
                marks.append(
                    self._mark(
                        task_id, job_id, force=force, now=now, event=event if is_last else None
                    )
                )
            for ended in await asyncio.gather(*marks, return_exceptions=True):
                if isinstance(ended, BaseException):
                    # Somebody else was faster, or has had it run.
                    if not isinstance(ended, NotFinal | NotFound):
                        raise ended
                    continue
                marked += 1
                stopped += ended
        await self._uncount(task_id, marked)
        return stopped

    async def _uncount(self, task_id: str, marked: int) -> None:
        """Take marked jobs off a task's count; without jobs, it is gone.

        The count may be wrong for a moment, after a crash; what there is counts.
        """
        tasks = self._db.tasks.with_options(write_concern=FOLLOW)
        await tasks.update_one({"_id": task_id}, {"$inc": {"jobs_count": -marked}})
        if await self._db.jobs.find_one({"task_id": task_id, "deleted_at": NOT_THERE}) is None:
            await tasks.delete_one({"_id": task_id, "jobs_count": {"$lte": 0}})

    async def _mark(
        self,
        task_id: str,
        job_id: str,
        *,
        force: bool,
        now: float,
        is_deleted_alone: bool = False,
        event: StoredEvent | None = None,
    ) -> Sequence[Execution]:
        while True:
            doc = await self._visible_job(task_id, job_id)
            unfinished = await self._unfinished({"job_id": job_id}, enqueued_of=job_id)
            if unfinished and not force:
                raise NotFinal(f'Job "{job_id}"')
            job = job_from(doc)
            marked = copy_with(
                job,
                deleted_at=now,
                modified_at=now,
                generation=job.generation + 1,
                next_run_at=None,
                paused_at=None,
                name=None,
            )
            changed = job_doc(marked, doc)
            changed["todo"] = new_follow_up(
                end="enqueued", upto=job.execution_count, stop_all=True, forget_keys=True, at=now
            )
            if is_deleted_alone:
                event = job_event(job, EventType.JOB_DELETED, now)
            events = () if event is None else (event,)
            if await self._db.swap(self._db.jobs, doc, changed, *events):
                await self._follow_ups.complete_job(changed)
                ids = [one["_id"] for one in unfinished]
                found = self._db.executions.find({"_id": {"$in": ids}})
                return [execution_from(one) for one in await found.to_list(None)]

    async def _visible_job(self, task_id: str, job_id: str) -> Doc:
        doc = await self._follow_ups.settled_job(job_id)
        if doc is None or doc["task_id"] != task_id or "deleted_at" in doc:
            raise NotFound(f'There is no job "{job_id}" in task "{task_id}".')
        return doc

    async def _unfinished(self, wanted: Doc, *, enqueued_of: Any = THERE) -> Sequence[Doc]:
        """What is enqueued, and what is active, of those that *wanted* names."""
        shown = {**wanted, "deleted_at": NOT_THERE}
        enqueued = self._db.executions.find({**shown, "enqueued_of": enqueued_of}, {"job_id": 1})
        active = self._db.executions.find(
            {**shown, "active_owner": {"$gt": ""}},
            {"job_id": 1},
            hint="active_of_job" if "job_id" in wanted else "load_of_tasks",
        )
        return [*await enqueued.to_list(None), *await active.to_list(None)]

    async def _has_unfinished(self, task_id: str) -> bool:
        docs = await self._unfinished({"task_id": task_id})
        jobs = {"_id": {"$in": [doc["job_id"] for doc in docs]}, "deleted_at": NOT_THERE}
        return await self._db.jobs.find_one(jobs, {"_id": 1}) is not None

    @operation
    async def hidden(self, executions: Sequence[Execution | ActiveRun]) -> Collection[str]:
        wanted = {"_id": {"$in": list({one.job_id for one in executions})}, "deleted_at": THERE}
        jobs = {doc["_id"] for doc in await self._db.jobs.find(wanted, {"_id": 1}).to_list(None)}
        return {one.id for one in executions if one.deleted_at is not None or one.job_id in jobs}

    @operation
    async def removable(self, limit: int, *, without: Collection[str]) -> Sequence[Execution]:
        over = {"status": FINAL_STATUS, "host": {"$nin": list(without)}}
        found = await self._removable({"deleted_at": THERE, **over}, limit)
        jobs = self._db.jobs.find({"deleted_at": THERE}, {"_id": 1})
        async with jobs.sort("deleted_at", ASCENDING):
            async for job in jobs:
                if len(found) >= limit:
                    break
                wanted = {"job_id": job["_id"], "deleted_at": NOT_THERE, **over}
                found += await self._removable(wanted, limit - len(found))
        return found

    async def _removable(self, wanted: Doc, limit: int) -> list[Execution]:
        removable: list[Execution] = []
        async with self._db.executions.find(wanted) as found:
            async for doc in found:
                if "todo" in doc:
                    await self._follow_ups.settled_execution(doc["_id"])
                pending = await self._db.deliveries.find_one(
                    {"execution_id": doc["_id"], "pending": THERE}, {"_id": 1}
                )
                if pending is None:
                    removable.append(execution_from(doc))
                if len(removable) >= limit:
                    break
        return removable

    @operation
    async def remove(self, execution_ids: Sequence[str]) -> int:
        docs = self._db.executions.find({"_id": {"$in": list(execution_ids)}})
        for doc in await docs.to_list(None):
            await self._db.mover.settle(doc)
        await self._follow_ups.forget(execution_ids)
        return len(execution_ids)

    @operation
    async def remove_jobs(self, limit: int) -> int:
        removed = 0
        docs = self._db.jobs.find({"deleted_at": THERE}).sort("deleted_at", ASCENDING)
        async with docs:
            async for doc in docs:
                if removed >= limit:
                    break
                if "todo" in doc:
                    # Its stop may have yet to be carried out.
                    settled = await self._follow_ups.settled_job(doc["_id"])
                    if settled is None:
                        continue
                    doc = settled
                left = await self._db.executions.find_one({"job_id": doc["_id"]}, {"_id": 1})
                if left is None:
                    await self._db.mover.settle(doc)
                    wanted = {"_id": doc["_id"], "rev": doc["rev"]}
                    removed += (await self._db.jobs.delete_one(wanted)).deleted_count
        return removed
