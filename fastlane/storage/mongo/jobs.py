"""Submitting, ticking, stopping and retrying: what changes a job's document.

All of them settle the job first, decide, and write once with compare-and-set on its ``rev``: that
write is the operation. A crash before it leaves nothing, a crash after it leaves a ``todo``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace as copy_with

from pymongo import ASCENDING, DESCENDING

from fastlane.errors import CompareFailed, KeyReused, NotFound, Rejected, StorageUnavailable
from fastlane.model import ACTIVE, Execution, Job, Status
from fastlane.storage.base import IdempotencyKey, Jobs, Page, PageRequest, Submitted
from fastlane.storage.mongo.database import new_follow_up, remove_follow_up
from fastlane.storage.mongo.facet import Connection, Facet, operation
from fastlane.storage.mongo.follow_ups import FollowUps
from fastlane.storage.mongo.records import execution_doc, execution_from, job_doc, job_from, page_of
from fastlane.storage.mongo.writes import FOLLOW, Doc
from fastlane.storage.transitions import made_anew, pause_event, replaced, schedule_state
from fastlane.stored_events import EventType, event_doc, job_event, tick_events

# Bounds the submissions with a key that a job remembers, so that a late helper does not repeat one.
APPLIED_KEPT = 20


class MongoJobs(Facet, Jobs):
    """:class:`fastlane.storage.base.Jobs` in MongoDB."""

    def __init__(
        self, connection: Connection, follow_ups: FollowUps, relay_failure: Callable[[], str | None]
    ) -> None:
        """:param relay_failure: why other instances would not learn of a submission, or None."""
        super().__init__(connection)
        self._follow_ups = follow_ups
        self._relay_failure = relay_failure

    @operation
    async def submit(
        self,
        job: Job,
        execution: Execution | None,
        *,
        replace: bool = False,
        idempotency: IdempotencyKey | None = None,
    ) -> Submitted:
        """The deciding write is the job's document, with the execution in its follow-up.

        With a key it is the key's document, with the whole request in its follow-up. Killed before
        it: nothing happened. Killed after it: the next request with the key, the next operation on
        the job, or the sweep completes it, so the job runs although nobody got an answer.
        """
        if (why := self._relay_failure()) is not None:
            raise StorageUnavailable(f"Redis is unreachable: {why}")
        if idempotency is None:
            return await self._apply(job, execution, replace, keyed=False)
        key_id = {"task": job.task_id, "key": idempotency.key}
        follow_up = new_follow_up(replace=replace)
        follow_up["job"] = job_doc(job, {"seq": 0})
        if execution is not None:
            follow_up["execution"] = execution_doc(execution, {"seq": 0})
        doc: Doc = {
            "_id": key_id,
            "fingerprint": idempotency.fingerprint,
            "job_id": job.id,
            "queue_job_id": job.queue_job_id,
            "execution_id": None if execution is None else execution.id,
            "todo": follow_up,
        }
        while True:
            first = await self._first_answer(key_id, idempotency)
            if first is not None:
                return first
            if await self._db.insert(self._db.keys, doc):
                return await self._apply_key(doc)

    async def _apply_key(self, doc: Doc) -> Submitted:
        follow_up = doc["todo"]
        job = job_from(follow_up["job"])
        execution = execution_from(follow_up["execution"]) if "execution" in follow_up else None
        try:
            submitted = await self._apply(job, execution, follow_up["replace"], keyed=True)
        except (Rejected, CompareFailed):
            await self._db.keys.delete_one({"_id": doc["_id"], "todo.id": follow_up["id"]})
            raise
        self._db.follow_up_runner.later(self._db.keys, doc["_id"], follow_up)
        return submitted

    async def complete_key(self, doc: Doc) -> None:
        """What the sweep does with a key whose request may not have been carried out."""
        try:
            await self._apply_key(doc)
        except (Rejected, CompareFailed):
            return

    async def _first_answer(self, key_id: Doc, idempotency: IdempotencyKey) -> Submitted | None:
        doc = await self._db.keys.find_one({"_id": key_id})
        if doc is None:
            return None
        if doc["fingerprint"] != idempotency.fingerprint:
            raise KeyReused(idempotency.key)
        if "todo" in doc:
            if not self._db.follow_up_runner.knows(doc["todo"]):
                await self._apply_key(doc)
            await remove_follow_up(self._db.keys, key_id, doc["todo"])
        job = await self._db.jobs.find_one({"_id": doc["job_id"]})
        if job is None or "deleted_at" in job:
            # Forgotten: so is the key.
            await self._db.keys.delete_one(
                {"_id": key_id, "queue_job_id": doc["queue_job_id"], "todo": {"$exists": False}}
            )
            return None
        execution: Doc | None = None
        if doc["execution_id"] is not None:
            execution = await self._db.executions.find_one({"_id": doc["execution_id"]})
        # The job's own may have changed since, by a retry or a PUT.
        return Submitted(
            copy_with(job_from(job), queue_job_id=doc["queue_job_id"]),
            None if execution is None else execution_from(execution),
            repeated=True,
        )

    async def _apply(
        self, job: Job, execution: Execution | None, replace: bool, *, keyed: bool
    ) -> Submitted:
        while True:
            if job.name is not None:
                job, execution = await self._named(job, execution)
            if not replace or await self._db.jobs.find_one({"_id": job.id}, {"_id": 1}) is None:
                stored = await self._create(job, execution, keyed=keyed)
                if stored is not None:
                    return stored
            doc = await self._follow_ups.settled_job(job.id)
            if doc is None or (job.name is not None and doc.get("name") != job.name):
                continue
            if keyed and job.queue_job_id in doc.get("applied", ()):
                return await self._as_applied(doc, execution)
            if not replace:
                raise CompareFailed(f"there is a job {job.id} already")
            if doc["task_id"] != job.task_id and "deleted_at" not in doc:
                raise Rejected(f'Job "{job.id}" belongs to another task.')
            replaced = await self._replace(doc, job, execution, keyed=keyed)
            if replaced is not None:
                return replaced

    async def _named(self, job: Job, execution: Execution | None) -> tuple[Job, Execution | None]:
        """Both with the id of the job that has the name already, if there is one."""
        wanted = {"task_id": job.task_id, "name": job.name}
        found = await self._db.jobs.find_one(wanted, {"_id": 1})
        job_id = job.id if found is None else found["_id"]
        if execution is not None:
            execution = copy_with(execution, job_id=job_id)
        return copy_with(job, id=job_id), execution

    async def _as_applied(self, doc: Doc, execution: Execution | None) -> Submitted:
        found: Doc | None = None
        if execution is not None:
            found = await self._db.executions.find_one({"_id": execution.id})
        return Submitted(job_from(doc), None if found is None else execution_from(found))

    async def _create(
        self, job: Job, execution: Execution | None, *, keyed: bool
    ) -> Submitted | None:
        """Store a job that is not there; None when it is."""
        seq = await self._db.sequence.take()
        stored = copy_with(job, execution_count=0 if execution is None else 1)
        base: Doc = {"seq": seq}
        if keyed:
            base["applied"] = [job.queue_job_id]
        doc = job_doc(stored, base)
        follow_up = new_follow_up(list=True)
        if execution is not None:
            first = copy_with(execution, generation=stored.generation, number=1)
            follow_up["add"] = execution_doc(first, {"seq": seq})
        doc["todo"] = follow_up
        doc["events"] = [event_doc(job_event(stored, EventType.JOB_CREATED, job.modified_at))]
        if not await self._db.insert(self._db.jobs, doc):
            return None
        added = await self._follow_ups.complete_job(doc, made_here=True)
        return Submitted(stored, None if added is None else execution_from(added))

    async def _replace(
        self, doc: Doc, job: Job, execution: Execution | None, *, keyed: bool
    ) -> Submitted | None:
        """Give the job of *doc* its new definition; None when it changed meanwhile."""
        there = job_from(doc)
        is_new = there.deleted_at is not None
        changes = replaced(there, job, execution)
        base = doc
        if is_new:
            await self._hide_executions(there)
            changes |= made_anew(job)
            base = doc | {"removed": there.execution_count}
        stored = copy_with(there, **changes)
        if keyed:
            base = base | {"applied": [*doc.get("applied", ()), job.queue_job_id][-APPLIED_KEPT:]}
        changed = job_doc(stored, base)
        add: Doc | None = None
        if execution is not None:
            seq = await self._db.sequence.take()
            add = execution_doc(
                copy_with(execution, generation=stored.generation, number=stored.execution_count),
                {"seq": seq},
            )
        changed["todo"] = new_follow_up(
            end="retries",
            upto=there.execution_count,
            at=job.modified_at,
            add=add,
            list=True if is_new else None,
        )
        change = EventType.JOB_CREATED if is_new else EventType.JOB_UPDATED
        event = job_event(stored, change, job.modified_at)
        if not await self._db.swap(self._db.jobs, doc, changed, event):
            return None
        added = await self._follow_ups.complete_job(changed, made_here=is_new)
        await self._db.tasks.with_options(write_concern=FOLLOW).update_one(
            {"_id": job.task_id}, {"$set": {"modified_at": job.modified_at}}
        )
        return Submitted(stored, None if added is None else execution_from(added))

    async def _hide_executions(self, job: Job) -> None:
        """Mark those of a deleted job themselves, because its id is used again."""
        await self._db.executions.update_many(
            {"job_id": job.id, "deleted_at": {"$exists": False}},
            {"$set": {"deleted_at": job.deleted_at}, "$unset": {"over": ""}, "$inc": {"rev": 1}},
        )

    @operation
    async def tick(
        self,
        job: Job,
        execution: Execution | None,
        *,
        next_run_at: float | None,
        now: float,
        skipped_tick: float | None = None,
        max_waiting: int | None = None,
    ) -> Execution | None:
        """The deciding write is the job's, which moves it to the next tick.

        Its follow-up has the execution, or names the one that takes the tick. Should that be
        claimed meanwhile, it keeps its tick: a run that began after the new tick stands for both.
        """
        while True:
            doc = await self._follow_ups.settled_job(job.id)
            if (
                doc is None
                or doc["generation"] != job.generation
                or doc.get("next_run_at") is None
                or doc["next_run_at"] != job.next_run_at
            ):
                raise CompareFailed(f"job {job.id} is no longer at this tick")
            if execution is not None and await self._tick_is_taken(execution):
                # After a clock was set back, say: otherwise the job would be due forever.
                execution = None
            newest = None if execution is None else await self._full_line(job.id, max_waiting)
            skipped = skipped_tick if newest is None else newest["tick"]
            there = job_from(doc)
            moved = copy_with(there, next_run_at=next_run_at, modified_at=now)
            if skipped is not None:
                moved = copy_with(
                    moved, skipped_ticks=there.skipped_ticks + 1, last_skipped_tick=skipped
                )
            follow_up: Doc | None = None
            if execution is not None and newest is not None:
                follow_up = new_follow_up(
                    merge=newest["_id"], tick=execution.tick, late=execution.late_seconds
                )
            elif execution is not None:
                moved = copy_with(moved, execution_count=there.execution_count + 1)
                numbered = copy_with(execution, number=moved.execution_count)
                seq = await self._db.sequence.take()
                follow_up = new_follow_up(add=execution_doc(numbered, {"seq": seq}))
            changed = job_doc(moved, doc)
            if follow_up is not None:
                changed["todo"] = follow_up
            events = tick_events(there, execution, now, skipped, merges=newest is not None)
            if not await self._db.swap(self._db.jobs, doc, changed, *events):
                continue
            if follow_up is None:
                return None
            stored = await self._follow_ups.complete_job(changed)
            return None if stored is None else execution_from(stored)

    async def _full_line(self, job_id: str, max_waiting: int | None) -> Doc | None:
        """The newest waiting tick of the job when *max_waiting* of them wait; else None."""
        if max_waiting is None:
            return None
        found = self._db.executions.find(
            {"enqueued_of": job_id, "tick": {"$exists": True}}, {"tick": 1}
        )
        waiting = await found.sort("number", DESCENDING).limit(max_waiting).to_list(None)
        return waiting[0] if len(waiting) >= max_waiting else None

    async def _tick_is_taken(self, execution: Execution) -> bool:
        if execution.tick is None:
            return False
        taken = await self._db.executions.find_one(
            {"job_id": execution.job_id, "first_of_tick": execution.tick}, {"_id": 1}
        )
        return taken is not None

    @operation
    async def stop(self, task_id: str, job_id: str, *, now: float) -> Job:
        """The deciding write is the job's.

        From then on no tick and no retry of the old generation is stored. Its follow-up ends what
        is enqueued.
        """
        while True:
            doc = await self._follow_ups.settled_job(job_id)
            if doc is None or doc["task_id"] != task_id or "deleted_at" in doc:
                raise NotFound(f'There is no job "{job_id}" in task "{task_id}".')
            job = job_from(doc)
            if job.stopped_at is not None:
                return job
            stopped = copy_with(
                job,
                generation=job.generation + 1,
                next_run_at=None,
                paused_at=None,
                stopped_at=now,
                modified_at=now,
            )
            changed = job_doc(stopped, doc)
            changed["todo"] = new_follow_up(
                end="enqueued", stop_last=True, upto=job.execution_count, at=now
            )
            event = job_event(stopped, EventType.JOB_STOPPED, now)
            if await self._db.swap(self._db.jobs, doc, changed, event):
                await self._follow_ups.complete_job(changed)
                return stopped

    @operation
    async def reschedule(
        self, job: Job, *, paused_at: float | None, next_run_at: float | None, now: float
    ) -> Job:
        """One write."""
        while True:
            doc = await self._follow_ups.settled_job(job.id)
            there = None if doc is None else job_from(doc)
            if doc is None or there is None or schedule_state(there) != schedule_state(job):
                raise CompareFailed(f"job {job.id} was changed or ticked meanwhile")
            changed = copy_with(
                there, paused_at=paused_at, next_run_at=next_run_at, modified_at=now
            )
            event = pause_event(there, paused_at, now)
            if await self._db.swap(self._db.jobs, doc, job_doc(changed, doc), event):
                return changed

    @operation
    async def retry(
        self, job: Job, execution: Execution, *, now: float, beside: bool = False
    ) -> Execution:
        """The deciding write is the job's.

        Its follow-up has the new execution and the one that it replaces.
        """
        while True:
            doc = await self._follow_ups.settled_job(job.id)
            if doc is None or doc["generation"] != job.generation:
                raise CompareFailed(f"job {job.id} was changed or stopped meanwhile")
            last = None if beside else await self._last_to_replace(doc)
            waits_for = execution.waits_for
            replaces: str | None = None
            if last is not None and last["status"] == Status.ENQUEUED:
                replaces = last["_id"]
                waits_for = waits_for or last.get("waits_for")
            elif last is not None and last["status"] in ACTIVE:
                replaces = waits_for = last["_id"]
            there = job_from(doc)
            count = there.execution_count + 1
            changed = job_doc(
                copy_with(
                    there,
                    queue_job_id=execution.queue_job_id,
                    stopped_at=None,
                    execution_count=count,
                    modified_at=now,
                ),
                doc,
            )
            seq = await self._db.sequence.take()
            add = execution_doc(
                copy_with(execution, number=count, waits_for=waits_for), {"seq": seq}
            )
            changed["todo"] = new_follow_up(replaces=replaces, at=now, add=add)
            if await self._db.swap(self._db.jobs, doc, changed):
                added = await self._follow_ups.complete_job(changed)
                assert added is not None
                return execution_from(added)

    async def _last_to_replace(self, job: Doc) -> Doc | None:
        """:raises Rejected: the job has not run yet."""
        wanted = {"job_id": job["_id"]}
        claimed = await self._db.executions.find_one(
            {**wanted, "epoch": {"$gt": 0}}, {"_id": 1}, sort=[("number", ASCENDING)]
        )
        if claimed is None and not job.get("removed"):
            raise Rejected(f'Job "{job["_id"]}" has not run yet.')
        return await self._db.executions.find_one(wanted, sort=[("number", DESCENDING)])

    @operation
    async def get(self, task_id: str, job_id: str) -> Job:
        doc = await self._db.jobs.find_one({"_id": job_id})
        if doc is None or doc["task_id"] != task_id or "deleted_at" in doc:
            raise NotFound(f'There is no job "{job_id}" in task "{task_id}".')
        return job_from(doc)

    @operation
    async def named(self, task_id: str, name: str) -> Job:
        doc = await self._db.jobs.find_one({"task_id": task_id, "name": name})
        if doc is None:
            raise NotFound(f'There is no job "{name}" in task "{task_id}".')
        return job_from(doc)

    @operation
    async def of_task(self, task_id: str, page: PageRequest) -> Page[Job]:
        task = await self._db.tasks.find_one({"_id": task_id}, {"jobs_count": 1})
        if task is None:
            raise NotFound(f'There is no task "{task_id}".')
        return await page_of(
            self._db.jobs,
            {"task_id": task_id, "deleted_at": {"$exists": False}},
            page,
            task["jobs_count"],
            job_from,
            by="seq",
            order=DESCENDING,
        )

    @operation
    async def due(self, now: float, limit: int) -> Sequence[Job]:
        return await self._first({"$lte": now}, limit)

    @operation
    async def scheduled(self, limit: int) -> Sequence[Job]:
        return await self._first({"$exists": True}, limit)

    async def _first(self, next_run_at: Doc, limit: int) -> Sequence[Job]:
        found = self._db.jobs.find({"next_run_at": next_run_at}).sort("next_run_at", ASCENDING)
        return [job_from(doc) for doc in await found.limit(limit).to_list(None)]
