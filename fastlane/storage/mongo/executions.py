"""The life of an execution: claim, start, finish, stop."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace as copy_with

from pymongo import ASCENDING, DESCENDING
from pymongo.errors import PyMongoError

from fastlane.errors import CompareFailed, HostDrained, NotFound
from fastlane.model import ACTIVE, FINAL, Execution, Outcome, Reason, Status
from fastlane.policy import deliveries_of, not_before
from fastlane.storage.base import Executions, Page, PageRequest
from fastlane.storage.codec import STOPPED, UNREADABLE, UNREADABLE_RUN
from fastlane.storage.mongo.database import new_follow_up
from fastlane.storage.mongo.facet import Connection, Facet, operation
from fastlane.storage.mongo.follow_ups import FollowUps
from fastlane.storage.mongo.logs import MongoLogs
from fastlane.storage.mongo.records import (
    active_run_from,
    execution_doc,
    execution_from,
    page_of,
)
from fastlane.storage.mongo.turns import Slot, Turns, slot_token
from fastlane.storage.mongo.writes import Doc, confirm
from fastlane.storage.values import ACTIVE_RUN_FIELDS, ActiveRun, FarmQueue
from fastlane.stored_events import execution_event

# Bounds how far after an execution a retry without ``retry_of`` is looked for.
RETRY_WITHIN = 1000
# Bounds the writes of one batch that are under way together.
TOGETHER = 32
# Bounds the ends that are remembered because their answer was lost.
UNSURE_ENDS_KEPT = 10_000


class MongoExecutions(Facet, Executions):
    """:class:`fastlane.storage.base.Executions` in MongoDB."""

    def __init__(self, connection: Connection, follow_ups: FollowUps, logs: MongoLogs) -> None:
        super().__init__(connection)
        self._follow_ups = follow_ups
        self._logs = logs
        self._turns = Turns(connection.database)
        self._claiming: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        # Ends whose answer was lost; whether they took place is found out when they are repeated.
        self._unsure_ends: dict[str, int] = {}

    # -- claiming -----------------------------------------------------------------------------

    @operation
    async def claim(
        self,
        farm: str,
        *,
        host: str,
        owner: str,
        max_running: int,
        now: float,
        max_per_task: int | None = None,
        fifo: bool = False,
    ) -> Execution | None:
        """Two writes: the slot with the turn, then the execution, which decides.

        Killed between them, it leaves a token without an execution; the sweep takes that back after
        it has made the claim impossible. When the answer of the second write is lost, the owner
        finds the execution among its own.
        """
        async with self._claiming[farm]:
            taken_by_others: list[str] = []
            while True:
                found = await self._turns.next(
                    farm, now, max_per_task=max_per_task, fifo=fifo, without=taken_by_others
                )
                if found is None:
                    return None
                doc = found.doc
                if "todo" in doc:
                    await self._follow_ups.settle_execution(doc)
                    continue
                execution = execution_from(doc)
                if execution.definition == UNREADABLE:
                    await self._follow_ups.end(doc, UNREADABLE_RUN, now)
                    continue
                slot = await self._turns.take_slot(found, max_running)
                if slot is Slot.FULL:
                    return None
                if slot is Slot.OTHERS:
                    taken_by_others.append(doc["_id"])
                if slot is not Slot.TAKEN:
                    continue
                token = slot_token(doc)
                # Read while the token is there: a host that is black-listed from now on spoils it.
                if await self._db.hosts.find_one({"_id": host, "blacklisted": True}, {"_id": 1}):
                    await self._follow_ups.free_slot(farm, token)
                    raise HostDrained(host)
                claimed = copy_with(
                    execution,
                    status=Status.PULLING,
                    owner=owner,
                    host=host,
                    epoch=execution.epoch + 1,
                )
                changed = execution_doc(claimed, doc | {"slot": token})
                event = execution_event(claimed, now)
                if await self._db.swap(self._db.executions, doc, changed, event):
                    return claimed
                await self._follow_ups.free_slot(farm, token)

    @operation
    async def next_queued(
        self, farm: str, *, now: float, max_per_task: int | None = None, fifo: bool = False
    ) -> Execution | None:
        found = await self._turns.next(farm, now, max_per_task=max_per_task, fifo=fifo)
        return None if found is None else execution_from(found.doc)

    @operation
    async def ahead_of(self, execution: Execution, *, fifo: bool, limit: int) -> int:
        wanted: Doc = {"farm": execution.farm, "queue": {"$lt": execution.position}}
        if not fifo:
            wanted["task_id"] = execution.task_id
        hint = "queue" if fifo else "turns"
        return await self._db.executions.count_documents(wanted, hint=hint, limit=limit)

    @operation
    async def release(self, execution_id: str, epoch: int, *, now: float) -> None:
        """One write decides; its follow-up gives the slot back."""
        while True:
            doc = await self._owned(execution_id, epoch)
            if doc["status"] != Status.PULLING:
                raise CompareFailed(
                    f"execution {execution_id} is not pulling any more", execution_from(doc)
                )
            execution = execution_from(doc)
            if execution.stop_reason is not None:
                assert execution.stop_requested_at is not None
                if (
                    await self._follow_ups.end(doc, STOPPED, execution.stop_requested_at)
                    is not None
                ):
                    return
                continue
            released = copy_with(execution, status=Status.ENQUEUED, owner=None, host=None)
            changed = execution_doc(released, doc)
            changed["todo"] = new_follow_up(at=0.0, slot=doc.get("slot"))
            event = execution_event(released, now)
            if await self._db.swap(self._db.executions, doc, changed, event):
                await self._follow_ups.complete_execution(changed)
                return

    @operation
    async def started(
        self, execution_id: str, epoch: int, *, run_id: str, started_at: float
    ) -> Execution:
        """One write decides; its follow-up fills the outbox."""
        while True:
            doc = await self._owned(execution_id, epoch)
            execution = execution_from(doc)
            if execution.status is Status.RUNNING:
                return execution
            started_at = not_before(started_at, execution)
            running = copy_with(
                execution, status=Status.RUNNING, run_id=run_id, started_at=started_at
            )
            changed = execution_doc(running, doc)
            tells = bool(deliveries_of(running, now=started_at))
            if tells:
                changed["todo"] = new_follow_up(at=started_at, started=True)
            event = execution_event(running, started_at)
            if await self._db.swap(self._db.executions, doc, changed, event):
                if tells:
                    await self._follow_ups.complete_execution(changed)
                return running

    @operation
    async def finish(
        self,
        execution_id: str,
        epoch: int,
        outcome: Outcome,
        *,
        expected_stop: Reason | None,
        retry: Execution | None,
        finished_at: float,
    ) -> tuple[Execution, Execution | None]:
        """The deciding write makes the execution final and has the retry in its follow-up.

        The rest (the retry on its job, the outbox, the slot, those that wait) is completed here, or
        after a crash by the sweep. When the answer of the deciding write is lost, a repeat finds it
        done.
        """
        retry_doc: Doc | None = None
        if retry is not None:
            retry_doc = execution_doc(retry, {"seq": await self._db.sequence.take()})
        while True:
            doc = await self._db.executions.find_one({"_id": execution_id})
            if (
                doc is not None
                and self._unsure_ends.get(execution_id) == epoch
                and doc["status"] in FINAL
                and doc["epoch"] == epoch
            ):
                return await self._ended_unawares(doc)
            try:
                doc = await self._owned(execution_id, epoch, doc)
            except CompareFailed:
                # Another instance owns it, so that nobody here asks about that end again.
                self._unsure_ends.pop(execution_id, None)
                raise
            execution = execution_from(doc)
            if execution.stop_reason != expected_stop:
                raise CompareFailed(f"execution {execution_id} has another stop intent", execution)
            self._logs.forget(execution_id)
            final = self._follow_ups.ended(doc, outcome, finished_at, retry=retry_doc)
            stored: Doc | None = None
            try:
                if not await self._follow_ups.make_final(doc, final):
                    continue
                stored = await self._follow_ups.complete_execution(final)
            except PyMongoError:
                self._unsure_ends[execution_id] = epoch
                if len(self._unsure_ends) > UNSURE_ENDS_KEPT:
                    del self._unsure_ends[next(iter(self._unsure_ends))]
                raise
            self._unsure_ends.pop(execution_id, None)
            return execution_from(final), None if stored is None else execution_from(stored)

    async def _ended_unawares(self, doc: Doc) -> tuple[Execution, Execution | None]:
        # A single server shows what is not in its journal yet.
        await confirm(self._db.executions)
        stored: Doc | None = None
        if "todo" in doc:
            stored = await self._follow_ups.complete_execution(doc)
        self._unsure_ends.pop(doc["_id"], None)
        return execution_from(doc), None if stored is None else execution_from(stored)

    @operation
    async def stop(self, execution_id: str, *, reason: Reason, now: float) -> Execution:
        """One write decides."""
        while True:
            ended = await self._follow_ups.end_enqueued(execution_id, STOPPED, now)
            if ended is not None:
                return ended
            doc = await self._follow_ups.intend_stop(execution_id, reason, now)
            if doc is None:
                raise NotFound(f'There is no execution "{execution_id}".')
            if doc["status"] != Status.ENQUEUED:
                return execution_from(doc)

    async def _owned(self, execution_id: str, epoch: int, doc: Doc | None = None) -> Doc:
        """The active execution with nothing left to do, as long as *epoch* is its owner's."""
        if doc is None or "todo" in doc:
            doc = await self._follow_ups.settled_execution(execution_id)
        if doc is None:
            raise CompareFailed(f'There is no execution "{execution_id}".')
        if doc["status"] not in ACTIVE or doc["epoch"] != epoch:
            raise CompareFailed(
                f"execution {execution_id} is {doc['status']} under epoch {doc['epoch']}, "
                f"not active under epoch {epoch}",
                execution_from(doc),
            )
        return doc

    # -- what is due --------------------------------------------------------------------------

    @operation
    async def queue_due(self, now: float, limit: int) -> int:
        """One write for each.

        What waits for a final execution is freed when that ends; after a crash, by the sweep.
        """
        found = self._db.executions.find({"due": {"$lte": now}})
        docs = await found.sort([("due", ASCENDING), ("seq", ASCENDING)]).limit(limit).to_list(None)
        if not docs:
            return 0
        first = await self._db.sequence.take(len(docs))
        queued = 0
        for at in range(0, len(docs), TOGETHER):
            part = [
                self._queue(doc, first + at + offset, now)
                for offset, doc in enumerate(docs[at : at + TOGETHER])
            ]
            queued += sum(await asyncio.gather(*part))
        return queued

    async def _queue(self, doc: Doc, position: int, now: float) -> bool:
        if "todo" in doc:
            await self._follow_ups.settle_execution(doc)
            del doc["todo"]
        queued = copy_with(execution_from(doc), due_at=None, position=position, queued_at=now)
        return await self._db.swap(self._db.executions, doc, execution_doc(queued, doc))

    @operation
    async def expire(self, now: float, limit: int) -> Sequence[Execution]:
        """One write for each decides."""
        found = self._db.executions.find({"expires": {"$lte": now}}, {"_id": 1})
        expired = Outcome(Status.EXPIRED, Reason.EXPIRED)
        ended = []
        for doc in await found.sort("expires", ASCENDING).limit(limit).to_list(None):
            execution = await self._follow_ups.end_enqueued(doc["_id"], expired, now)
            if execution is not None:
                ended.append(execution)
        return ended

    @operation
    async def orphaned(
        self, farms: Collection[str], *, after: int, limit: int
    ) -> Sequence[Execution]:
        """The farms are found by one seek each in the index of the queue."""
        queued = await self._db.executions.aggregate(
            [
                {"$match": {"farm": {"$gt": ""}, "queue": {"$gte": 0}}},
                {"$sort": {"farm": 1, "queue": 1}},
                {"$group": {"_id": "$farm", "first": {"$first": "$queue"}}},
            ],
            hint="queue",
        )
        found_farms = [doc["_id"] for doc in await queued.to_list(None)]
        orphaned = [farm for farm in found_farms if farm not in farms]
        if not orphaned:
            return []
        found = self._db.executions.find({"farm": {"$in": orphaned}, "queue": {"$gt": after}})
        docs = await found.sort("queue", ASCENDING).limit(limit).to_list(None)
        return [execution_from(doc) for doc in docs]

    @operation
    async def assign_farm(self, execution_id: str, *, expected: str, farm: str) -> None:
        """One write."""
        while True:
            doc = await self._follow_ups.settled_execution(execution_id)
            if doc is None or doc["status"] != Status.ENQUEUED or doc["farm"] != expected:
                raise CompareFailed(
                    f"execution {execution_id} is not enqueued for farm {expected} any more",
                    None if doc is None else execution_from(doc),
                )
            moved = copy_with(execution_from(doc), farm=farm)
            if await self._db.swap(self._db.executions, doc, execution_doc(moved, doc)):
                return

    @operation
    async def get(self, execution_id: str) -> Execution:
        doc = await self._db.executions.find_one({"_id": execution_id})
        if doc is None:
            raise NotFound(f'There is no execution "{execution_id}".')
        return execution_from(doc)

    @operation
    async def last_of_job(self, job_id: str, *, deleted: bool = False) -> Execution | None:
        wanted: Doc = {"job_id": job_id} | ({} if deleted else {"deleted_at": {"$exists": False}})
        doc = await self._db.executions.find_one(wanted, sort=[("number", DESCENDING)])
        return None if doc is None else execution_from(doc)

    @operation
    async def of_job(self, job_id: str, page: PageRequest) -> Page[Execution]:
        job = await self._db.jobs.find_one({"_id": job_id}, {"execution_count": 1, "removed": 1})
        return await page_of(
            self._db.executions,
            {"job_id": job_id, "deleted_at": {"$exists": False}},
            page,
            0 if job is None else job["execution_count"] - job.get("removed", 0),
            execution_from,
            by="number",
            order=DESCENDING,
        )

    @operation
    async def retry_of(self, execution_id: str) -> Execution | None:
        """Completes the follow-up of the execution first, which may have yet to store the retry.

        A retry that the release before this one has written is recognised by its time.
        """
        failed = await self._follow_ups.settled_execution(execution_id)
        doc = await self._db.executions.find_one({"retry_of": execution_id})
        if doc is not None:
            return execution_from(doc)
        if failed is None or "finished_at" not in failed:
            return None
        number = failed["number"]
        doc = await self._db.executions.find_one(
            {
                "job_id": failed["job_id"],
                "number": {"$gt": number, "$lte": number + RETRY_WITHIN},
                "attempt": failed["attempt"] + 1,
                "generation": failed["generation"],
                "created_at": failed["finished_at"],
                "retry_of": {"$exists": False},
            },
            sort=[("number", ASCENDING)],
            hint="job",
        )
        return None if doc is None else execution_from(doc)

    @operation
    async def active_counts(self) -> Mapping[tuple[str, str, str], int]:
        """Counts the keys of an index, which holds all that is wanted."""
        found = await self._db.executions.aggregate(
            [
                {"$match": {"active_owner": {"$gt": ""}}},
                {
                    "$group": {
                        "_id": {"farm": "$farm", "task": "$task_id", "host": "$host"},
                        "count": {"$sum": 1},
                    }
                },
            ],
            hint="load_of_tasks",
        )
        return {
            (doc["_id"]["farm"], doc["_id"]["task"], doc["_id"]["host"]): doc["count"]
            for doc in await found.to_list(None)
        }

    @operation
    async def queues(self, farms: Sequence[str]) -> Mapping[str, FarmQueue]:
        return dict(zip(farms, await asyncio.gather(*map(self._queue_of, farms)), strict=True))

    async def _queue_of(self, farm: str) -> FarmQueue:
        queued = {"farm": farm, "queue": {"$gt": 0}}
        length = await self._db.executions.count_documents(queued, hint="queue")
        times = ["queued_at", "created_at"]
        first = await self._db.executions.find_one(queued, times, sort=[("queue", ASCENDING)])
        if first is None:
            return FarmQueue()
        return FarmQueue(length, first.get("queued_at", first["created_at"]))

    @operation
    async def active_runs(self) -> Sequence[ActiveRun]:
        found = self._db.executions.find({"active_owner": {"$exists": True}}, ACTIVE_RUN_FIELDS)
        docs = await found.sort("seq", ASCENDING).to_list(None)
        return [active_run_from(doc) for doc in docs]

    @operation
    async def active(self, *, owner: str) -> Sequence[Execution]:
        found = self._db.executions.find({"active_owner": owner}).sort("seq", ASCENDING)
        return [execution_from(doc) for doc in await found.to_list(None)]
