"""Completing what the ``todo`` of a job or an execution says is left to do.

Every step may be repeated, and by several at once: what each of them writes is decided
by the ``todo``, or by compare-and-set on the document that it writes to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import replace as copy_with

import structlog
from pymongo import ASCENDING, DESCENDING
from pymongo.errors import BulkWriteError, DuplicateKeyError

from fastlane.model import ACTIVE, FINAL, Execution, Outcome, Reason, Status
from fastlane.policy import deliveries_of, not_before
from fastlane.storage.codec import STOPPED, words
from fastlane.storage.mongo.database import Database, new_follow_up, remove_follow_up
from fastlane.storage.mongo.records import delivery_doc, execution_doc, execution_from, job_from
from fastlane.storage.mongo.records import job_doc as make_job_doc
from fastlane.storage.mongo.writes import FOLLOW, HINT, Doc
from fastlane.storage.transitions import ended
from fastlane.stored_events import deleted_execution_event, event_doc, execution_event

log = structlog.get_logger(__name__)

# Bounds what one look takes of those that wait for one execution.
WAITING_BATCH = 1000
# Bounds the tries of an upsert that races with another.
UPSERT_TRIES = 5
# Bounds the tries to insert where something is in the way that a fail-over takes away.
INSERT_TRIES = 3


class FollowUps:
    """What the operations on jobs and executions have in common."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # -- jobs ---------------------------------------------------------------------------------

    async def settled_job(self, job_id: str) -> Doc | None:
        """The job's document with nothing left to do."""
        while True:
            doc = await self._db.jobs.find_one({"_id": job_id})
            if doc is None or "todo" not in doc:
                return doc
            if self._db.follow_up_runner.knows(doc["todo"]):
                await remove_follow_up(self._db.jobs, job_id, doc["todo"])
            else:
                await self.complete_job(doc)

    async def complete_job(self, doc: Doc, *, made_here: bool = False) -> Doc | None:
        """Do what is left: end executions, store the new one, count the job in its task.

        :param made_here: this call is the one of who wrote the ``todo``.
        :return: the document of the execution that was added, or that has taken the tick.
        """
        follow_up = doc["todo"]
        added: Doc | None = follow_up.get("add")
        if "end" in follow_up:
            await self._end_enqueued(doc)
        if "stop_last" in follow_up:
            last = await self._db.executions.find_one(
                {"job_id": doc["_id"], "number": {"$lte": follow_up["upto"]}},
                sort=[("number", DESCENDING)],
            )
            if last is not None:
                await self.intend_stop(last["_id"], Reason.STOPPED, follow_up["at"])
        if "stop_all" in follow_up:
            await self._stop_active(doc["_id"], follow_up["at"])
        if "hide" in follow_up:
            await self._hide(follow_up["hide"], follow_up["at"])
        if "forget_keys" in follow_up:
            await self._db.keys.delete_many({"job_id": doc["_id"], "todo": {"$exists": False}})
        if "replaces" in follow_up:
            still_active = await self._stop(follow_up["replaces"], follow_up["at"])
            if still_active and added is not None:
                added = execution_doc(
                    copy_with(execution_from(added), waits_for=follow_up["replaces"]), added
                )
        if "forget" in follow_up:
            await self.forget(follow_up["forget"])
        if "merge" in follow_up:
            merged = await self._take_tick(follow_up)
            self._db.follow_up_runner.later(self._db.jobs, doc["_id"], follow_up)
            return merged
        steps: list[Awaitable[Doc | None]] = []
        if added is not None:
            steps.append(self.insert(added))
        if "list" in follow_up:
            steps.append(self._list(doc, count=made_here))
        results = await asyncio.gather(*steps)
        stored = results[0] if added is not None else None
        self._db.follow_up_runner.later(self._db.jobs, doc["_id"], follow_up)
        return stored

    async def _take_tick(self, follow_up: Doc) -> Doc | None:
        """Give an enqueued execution a newer tick; one that is no longer enqueued keeps its own."""
        while True:
            doc = await self.settled_execution(follow_up["merge"])
            if doc is None or doc["status"] != Status.ENQUEUED or doc["tick"] >= follow_up["tick"]:
                return doc
            taken = copy_with(
                execution_from(doc), tick=follow_up["tick"], late_seconds=follow_up.get("late")
            )
            changed = execution_doc(taken, doc)
            if await self._db.swap(self._db.executions, doc, changed):
                return changed

    async def _end_enqueued(self, doc: Doc) -> None:
        follow_up = doc["todo"]
        wanted: Doc = {"enqueued_of": doc["_id"], "number": {"$lte": follow_up["upto"]}}
        if follow_up["end"] == "retries":
            wanted["$or"] = [{"attempt": {"$gt": 0}}, {"lost_reruns": {"$gt": 0}}]
        while True:
            found = self._db.executions.find(wanted, {"_id": 1}).sort("seq", ASCENDING)
            ids = [one["_id"] for one in await found.limit(WAITING_BATCH).to_list(None)]
            for execution_id in ids:
                await self.end_enqueued(execution_id, STOPPED, follow_up["at"])
            if len(ids) < WAITING_BATCH:
                return

    async def _stop_active(self, job_id: str, now: float) -> None:
        found = self._db.executions.find(
            {"active_owner": {"$gt": ""}, "job_id": job_id}, {"_id": 1}, hint="active_of_job"
        )
        for doc in await found.to_list(None):
            await self.intend_stop(doc["_id"], Reason.STOPPED, now)

    async def _hide(self, execution_id: str, now: float) -> None:
        """Mark an execution as deleted, and stop it."""
        while True:
            doc = await self.settled_execution(execution_id)
            if doc is None:
                return
            if "deleted_at" in doc:
                break
            execution = execution_from(doc)
            changed = execution_doc(copy_with(execution, deleted_at=now), doc)
            event = deleted_execution_event(execution, now)
            if await self._db.swap(self._db.executions, doc, changed, event):
                break
        await self._stop(execution_id, now)

    async def _stop(self, execution_id: str, now: float) -> bool:
        """End an enqueued execution, or ask an active one to end; whether it is still active."""
        if await self.end_enqueued(execution_id, STOPPED, now) is not None:
            return False
        doc = await self.intend_stop(execution_id, Reason.STOPPED, now)
        return doc is not None and doc["status"] in ACTIVE

    async def forget(self, execution_ids: Sequence[str]) -> None:
        """Delete executions with all that is theirs, themselves last."""
        ids = {"$in": list(execution_ids)}
        await self._db.log_chunks.delete_many({"execution": ids})
        await self._db.logs.delete_many({"_id": ids})
        told = self._db.deliveries.find({"execution_id": ids, "events.at": {"$gt": 0}})
        for doc in await told.to_list(None):
            await self._db.mover.settle(doc)
        await self._db.deliveries.delete_many({"execution_id": ids})
        await self._db.executions.delete_many({"_id": ids})

    async def _list(self, job: Doc, *, count: bool) -> None:
        """Put a new job's task into the listing, or count the job in it.

        Who did not make the job cannot know whether it was counted: the sweep counts again then.
        """
        tasks = self._db.tasks.with_options(write_concern=FOLLOW)
        update: Doc = {
            "$set": {"modified_at": job["modified_at"]},
            "$setOnInsert": {
                "created_at": job["created_at"],
                "seq": job["seq"],
                "words": sorted(words(job["task_id"])),
            },
        }
        if count:
            update["$inc"] = {"jobs_count": 1}
        else:
            update["$setOnInsert"]["jobs_count"] = 1
            update["$set"]["recount"] = True
        for _ in range(UPSERT_TRIES):
            try:
                await tasks.update_one({"_id": job["task_id"]}, update, upsert=True)
            except DuplicateKeyError:
                continue
            return

    # -- executions ---------------------------------------------------------------------------

    async def is_unfinished(self, execution_id: str) -> bool:
        doc = await self._db.executions.find_one({"_id": execution_id}, {"status": 1})
        return doc is not None and doc["status"] not in FINAL

    async def insert(self, doc: Doc) -> Doc | None:
        """Store a new execution, at its place in the queue unless it is delayed.

        :return: what is stored under this id now, by whomever.
        """
        execution = execution_from(doc)
        waits_for = execution.waits_for
        if waits_for is not None and not await self.is_unfinished(waits_for):
            execution = copy_with(execution, waits_for=None)
        if execution.waits_for is None and execution.due_at is None:
            execution = copy_with(execution, position=doc["seq"], queued_at=execution.created_at)
        stored = execution_doc(execution, doc)
        stored["events"] = [event_doc(execution_event(execution, execution.created_at))]
        executions = self._db.executions.with_options(write_concern=FOLLOW)
        for _ in range(INSERT_TRIES):
            if await self._db.insert(executions, stored):
                break
            there = await executions.find_one({"_id": execution.id})
            if there is not None:
                return there
        else:
            # Its number or its tick exists, which its job's rev should prevent.
            log.error("Execution could not be stored", execution=execution.id)
            return None
        if execution.waits_for is not None and not await self.is_unfinished(execution.waits_for):
            await self.free(execution.waits_for, None)
            return await self._db.executions.find_one({"_id": execution.id})
        return stored

    async def settled_execution(self, execution_id: str) -> Doc | None:
        """The execution's document with nothing left to do."""
        while True:
            doc = await self._db.executions.find_one({"_id": execution_id})
            if doc is None or "todo" not in doc:
                return doc
            await self.settle_execution(doc)

    async def settle_execution(self, doc: Doc) -> None:
        """Complete what is left to do for *doc*, and strike it off."""
        if not self._db.follow_up_runner.knows(doc["todo"]):
            await self.complete_execution(doc)
        await remove_follow_up(self._db.executions, doc["_id"], doc["todo"])

    async def end(
        self, doc: Doc, outcome: Outcome, finished_at: float, *, retry: Doc | None = None
    ) -> tuple[Doc, Doc | None] | None:
        """Make the unfinished *doc* final, and do what follows from it.

        Where it waited itself, what waited for it waits for that one now: the chain stays a chain.

        :return: the final document and that of the stored retry; None when *doc* had changed.
        """
        final = self.ended(doc, outcome, finished_at, retry=retry)
        if not await self.make_final(doc, final):
            return None
        return final, await self.complete_execution(final)

    async def make_final(self, doc: Doc, final: Doc) -> bool:
        """Put *final*, made by :meth:`ended`, in the place of *doc*; False when that changed."""
        event = execution_event(execution_from(final), final["finished_at"])
        return await self._db.swap(self._db.executions, doc, final, event)

    def ended(
        self, doc: Doc, outcome: Outcome, finished_at: float, *, retry: Doc | None = None
    ) -> Doc:
        """What *doc* is to be replaced with to make it final."""
        execution = execution_from(doc)
        finished_at = not_before(finished_at, execution)
        final = execution_doc(copy_with(execution, **ended(outcome, finished_at)), doc)
        final["todo"] = new_follow_up(
            at=finished_at, slot=doc.get("slot"), chain=execution.waits_for, retry=retry
        )
        return final

    async def complete_execution(self, doc: Doc) -> Doc | None:
        """Do what is left: the retry, the outbox, the slot, and those that wait.

        :return: the document of the retry, where there is one.
        """
        follow_up = doc["todo"]
        execution = execution_from(doc)
        retry: Doc | None = None
        if "retry" in follow_up:
            retry = await self._store_retry(execution, follow_up["retry"], follow_up["at"])
        steps: list[Awaitable[None]] = []
        if "slot" in follow_up:
            steps.append(self.free_slot(execution.farm, follow_up["slot"]))
        if execution.final:
            steps.append(self.free(execution.id, follow_up.get("chain")))
            steps.append(self._notify(execution, follow_up["at"], retry_follows=retry is not None))
        elif "started" in follow_up:
            started = copy_with(execution, status=Status.RUNNING)
            steps.append(self._notify(started, follow_up["at"], retry_follows=False))
        await asyncio.gather(*steps)
        self._db.follow_up_runner.later(self._db.executions, execution.id, follow_up)
        return retry

    async def _store_retry(self, execution: Execution, retry: Doc, now: float) -> Doc | None:
        """Add *retry* to its job as long as that is of the execution's generation.

        The generation never goes back and the job's ``rev`` lets one addition pass, so all who try
        come to the same end.
        """
        while True:
            doc = await self.settled_job(execution.job_id)
            there = await self._db.executions.find_one({"_id": retry["_id"]})
            if there is not None:
                return there
            if doc is None or doc["generation"] != execution.generation:
                return None
            job = job_from(doc)
            count = job.execution_count + 1
            changed = make_job_doc(copy_with(job, execution_count=count, modified_at=now), doc)
            changed["todo"] = new_follow_up(add=retry | {"number": count})
            if await self._db.swap(self._db.jobs, doc, changed):
                return await self.complete_job(changed)

    async def free_slot(self, farm: str, slot: str) -> None:
        """Give a slot of ``maxRunning`` back. One that is not given back the sweep finds."""
        await self._db.farms.with_options(write_concern=HINT).update_one(
            {"_id": farm}, {"$pull": {"held": slot}}
        )

    async def _notify(self, execution: Execution, now: float, *, retry_follows: bool) -> None:
        """Store the deliveries that report the status of *execution*."""
        deliveries = deliveries_of(execution, now=now, retry_follows=retry_follows)
        if not deliveries:
            return
        first = await self._db.sequence.take(len(deliveries))
        docs = [delivery_doc(one, {"seq": first + n}) for n, one in enumerate(deliveries)]
        try:
            await self._db.deliveries.with_options(write_concern=FOLLOW).insert_many(
                docs, ordered=False
            )
        except BulkWriteError as error:
            # What is there already stays as it is.
            details = error.details or {}
            faults = details.get("writeErrors", [])
            if (
                not faults
                or any(fault["code"] != 11000 for fault in faults)
                or details.get("writeConcernErrors")
            ):
                raise

    async def free(self, execution_id: str, chain: str | None) -> None:
        """Let those that wait for a final execution wait for *chain* now, or queue them.

        One that has a time of its own becomes merely delayed.
        """
        while waiting := await self._waiting_for(execution_id):
            ended = await self._db.executions.find_one({"_id": execution_id}, {"over": 1})
            at = None if ended is None else ended.get("over")
            places = await self._db.sequence.take(len(waiting))
            for offset, doc in enumerate(waiting):
                execution = execution_from(doc)
                if chain is not None or execution.due_at is not None:
                    freed = copy_with(execution, waits_for=chain)
                else:
                    freed = copy_with(
                        execution, waits_for=None, position=places + offset, queued_at=at
                    )
                if "todo" in doc:
                    await self.settle_execution(doc)
                    continue
                await self._db.swap(self._db.executions, doc, execution_doc(freed, doc))
            if chain is not None and not await self.is_unfinished(chain):
                await self.free(chain, None)

    async def _waiting_for(self, execution_id: str) -> Sequence[Doc]:
        found = self._db.executions.find({"waits": execution_id}).sort("seq", ASCENDING)
        return await found.limit(WAITING_BATCH).to_list(None)

    async def end_enqueued(
        self, execution_id: str, outcome: Outcome, now: float
    ) -> Execution | None:
        """End an execution that is enqueued; None when it is not."""
        while True:
            doc = await self.settled_execution(execution_id)
            if doc is None or doc["status"] != Status.ENQUEUED:
                return None
            ended = await self.end(doc, outcome, now)
            if ended is not None:
                return execution_from(ended[0])

    async def intend_stop(self, execution_id: str, reason: Reason, now: float) -> Doc | None:
        """Give an active execution a stop intent; the first one stays.

        :return: the document afterwards, changed or not.
        """
        while True:
            doc = await self._db.executions.find_one({"_id": execution_id})
            if doc is None or doc["status"] not in ACTIVE or "stop_reason" in doc:
                return doc
            if "todo" in doc:
                await self.settle_execution(doc)
                continue
            intended = copy_with(execution_from(doc), stop_reason=reason, stop_requested_at=now)
            changed = execution_doc(intended, doc)
            if await self._db.swap(self._db.executions, doc, changed):
                return changed
