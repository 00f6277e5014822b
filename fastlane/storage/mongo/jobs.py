"""Submitting, ticking, stopping and retrying: what changes a job's document.

All of them settle the job first, decide, and write once with compare-and-set on its ``rev``: that
write is the operation. A crash before it leaves nothing, one behind it a ``todo``.
"""

from __future__ import annotations

from dataclasses import replace as copy_with

from pymongo import ASCENDING, DESCENDING
from pymongo.errors import DuplicateKeyError

from fastlane.errors import CompareFailed, KeyReused, NotFound, Rejected
from fastlane.model import ACTIVE, Execution, Job, Status
from fastlane.storage.base import IdempotencyKey, Submitted
from fastlane.storage.mongo.database import FOLLOW, Database, Doc, new_todo, strike_off, swap
from fastlane.storage.mongo.records import execution_doc, execution_from, job_doc, job_from
from fastlane.storage.mongo.todo import Todo

# Bounds the submissions with a key that a job remembers, so that a late helper does not repeat one.
APPLIED_KEPT = 20


class Jobs:
    """The operations on jobs."""

    def __init__(self, database: Database, todo: Todo) -> None:
        self._db = database
        self._todo = todo

    async def submit(
        self,
        job: Job,
        execution: Execution | None,
        replace: bool,
        idempotency: IdempotencyKey | None,
    ) -> Submitted:
        """:meth:`fastlane.storage.base.Storage.submit`.

        The deciding write is the job's document, with the execution in its ``todo``; with a key it
        is the key's document, with the whole request in its ``todo``. Killed before: nothing.
        Killed behind it: the next with the key, the next operation on the job, or the sweep
        completes it, so the job runs although nobody was answered.
        """
        if idempotency is None:
            return await self._apply(job, execution, replace, keyed=False)
        key_id = {"task": job.task_id, "key": idempotency.key}
        first = await self._first_answer(key_id, idempotency)
        if first is not None:
            return first
        todo = new_todo(replace=replace)
        todo["job"] = job_doc(job, {"seq": 0})
        if execution is not None:
            todo["execution"] = execution_doc(execution, {"seq": 0})
        doc: Doc = {
            "_id": key_id,
            "fingerprint": idempotency.fingerprint,
            "job_id": job.id,
            "queue_job_id": job.queue_job_id,
            "execution_id": None if execution is None else execution.id,
            "todo": todo,
        }
        try:
            await self._db.keys.insert_one(doc)
        except DuplicateKeyError:
            first = await self._first_answer(key_id, idempotency)
            if first is None:
                raise CompareFailed("the idempotency key was given back meanwhile") from None
            return first
        return await self._apply_key(doc)

    async def _apply_key(self, doc: Doc) -> Submitted:
        todo = doc["todo"]
        job = job_from(todo["job"])
        execution = execution_from(todo["execution"]) if "execution" in todo else None
        try:
            submitted = await self._apply(job, execution, todo["replace"], keyed=True)
        except (Rejected, CompareFailed):
            await self._db.keys.delete_one({"_id": doc["_id"], "todo.id": todo["id"]})
            raise
        self._db.completed.later(self._db.keys, doc["_id"], todo)
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
            if not self._db.completed.knows(doc["todo"]):
                await self._apply_key(doc)
            await strike_off(self._db.keys, key_id, doc["todo"])
        job = await self._db.jobs.find_one({"_id": doc["job_id"]})
        if job is None:
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
            if not replace or await self._db.jobs.find_one({"_id": job.id}, {"_id": 1}) is None:
                stored = await self._create(job, execution, keyed=keyed)
                if stored is not None:
                    return stored
            doc = await self._todo.settled_job(job.id)
            if doc is None:
                continue
            if keyed and job.queue_job_id in doc.get("applied", ()):
                return await self._as_applied(doc, execution)
            if not replace:
                raise CompareFailed(f"there is a job {job.id} already")
            if doc["task_id"] != job.task_id:
                raise Rejected(f"job {job.id} belongs to another task")
            replaced = await self._replace(doc, job, execution, keyed=keyed)
            if replaced is not None:
                return replaced

    async def _as_applied(self, doc: Doc, execution: Execution | None) -> Submitted:
        found: Doc | None = None
        if execution is not None:
            found = await self._db.executions.find_one({"_id": execution.id})
        return Submitted(job_from(doc), None if found is None else execution_from(found))

    async def _create(
        self, job: Job, execution: Execution | None, *, keyed: bool
    ) -> Submitted | None:
        """Store a job that is not there; None when it is."""
        seq = await self._db.numbers.take()
        stored = copy_with(job, execution_count=0 if execution is None else 1)
        base: Doc = {"seq": seq}
        if keyed:
            base["applied"] = [job.queue_job_id]
        doc = job_doc(stored, base)
        todo = new_todo(list=True)
        if execution is not None:
            first = copy_with(execution, generation=stored.generation, number=1)
            todo["add"] = execution_doc(first, {"seq": seq})
        doc["todo"] = todo
        try:
            await self._db.jobs.insert_one(doc)
        except DuplicateKeyError:
            return None
        added = await self._todo.complete_job(doc, made_here=True)
        return Submitted(stored, None if added is None else execution_from(added))

    async def _replace(
        self, doc: Doc, job: Job, execution: Execution | None, *, keyed: bool
    ) -> Submitted | None:
        """Give the job of *doc* its new definition; None when it changed meanwhile."""
        there = job_from(doc)
        stored = copy_with(
            there,
            definition=job.definition,
            schedule=job.schedule,
            queue_job_id=job.queue_job_id,
            next_run_at=job.next_run_at,
            modified_at=job.modified_at,
            request_ip=job.request_ip,
            generation=there.generation + 1,
            stopped_at=None,
            execution_count=there.execution_count + (execution is not None),
        )
        base = doc
        if keyed:
            base = doc | {"applied": [*doc.get("applied", ()), job.queue_job_id][-APPLIED_KEPT:]}
        changed = job_doc(stored, base)
        add: Doc | None = None
        if execution is not None:
            seq = await self._db.numbers.take()
            add = execution_doc(
                copy_with(execution, generation=stored.generation, number=stored.execution_count),
                {"seq": seq},
            )
        changed["todo"] = new_todo(
            end="retries", upto=there.execution_count, at=job.modified_at, add=add
        )
        if not await swap(self._db.jobs, doc, changed):
            return None
        added = await self._todo.complete_job(changed)
        await self._db.tasks.with_options(write_concern=FOLLOW).update_one(
            {"_id": job.task_id}, {"$set": {"modified_at": job.modified_at}}
        )
        return Submitted(stored, None if added is None else execution_from(added))

    async def tick(
        self, job: Job, execution: Execution | None, next_run_at: float | None, now: float
    ) -> Execution | None:
        """:meth:`fastlane.storage.base.Storage.tick`.

        The deciding write is the job's, which moves it to the next tick and has the execution in
        its ``todo``.
        """
        while True:
            doc = await self._todo.settled_job(job.id)
            if (
                doc is None
                or doc["generation"] != job.generation
                or doc.get("next_run_at") is None
                or doc["next_run_at"] != job.next_run_at
            ):
                raise CompareFailed(f"job {job.id} does not stand at this tick any more")
            if execution is not None and await self._tick_is_taken(execution):
                # A clock that was put back, say: the job moves on, or it would be due for ever.
                execution = None
            there = job_from(doc)
            count = there.execution_count + (execution is not None)
            changed = job_doc(
                copy_with(there, next_run_at=next_run_at, execution_count=count, modified_at=now),
                doc,
            )
            if execution is not None:
                seq = await self._db.numbers.take()
                numbered = copy_with(execution, number=count)
                changed["todo"] = new_todo(add=execution_doc(numbered, {"seq": seq}))
            if not await swap(self._db.jobs, doc, changed):
                continue
            if execution is None:
                return None
            added = await self._todo.complete_job(changed)
            return None if added is None else execution_from(added)

    async def _tick_is_taken(self, execution: Execution) -> bool:
        if execution.tick is None:
            return False
        taken = await self._db.executions.find_one(
            {"job_id": execution.job_id, "first_of_tick": execution.tick}, {"_id": 1}
        )
        return taken is not None

    async def stop_job(self, task_id: str, job_id: str, now: float) -> Job:
        """:meth:`fastlane.storage.base.Storage.stop_job`.

        The deciding write is the job's: from it on no tick and no retry of the old generation is
        stored, and its ``todo`` ends what is enqueued.
        """
        while True:
            doc = await self._todo.settled_job(job_id)
            if doc is None or doc["task_id"] != task_id:
                raise NotFound(f"there is no job {job_id} in task {task_id}")
            job = job_from(doc)
            if job.stopped_at is not None:
                return job
            stopped = copy_with(
                job,
                generation=job.generation + 1,
                next_run_at=None,
                stopped_at=now,
                modified_at=now,
            )
            changed = job_doc(stopped, doc)
            changed["todo"] = new_todo(
                end="enqueued", stop_last=True, upto=job.execution_count, at=now
            )
            if await swap(self._db.jobs, doc, changed):
                await self._todo.complete_job(changed)
                return stopped

    async def retry_job(self, job: Job, execution: Execution, now: float) -> Execution:
        """:meth:`fastlane.storage.base.Storage.retry_job`.

        The deciding write is the job's, with the new execution and the one that it replaces in its
        ``todo``.
        """
        while True:
            doc = await self._todo.settled_job(job.id)
            if doc is None or doc["generation"] != job.generation:
                raise CompareFailed(f"job {job.id} was changed or stopped meanwhile")
            claimed = await self._db.executions.find_one(
                {"job_id": job.id, "epoch": {"$gt": 0}}, {"_id": 1}, sort=[("number", ASCENDING)]
            )
            if claimed is None and not doc.get("removed"):
                raise Rejected(f"job {job.id} has not run yet")
            last = await self._db.executions.find_one(
                {"job_id": job.id}, sort=[("number", DESCENDING)]
            )
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
            seq = await self._db.numbers.take()
            add = execution_doc(
                copy_with(execution, number=count, waits_for=waits_for), {"seq": seq}
            )
            changed["todo"] = new_todo(replaces=replaces, at=now, add=add)
            if await swap(self._db.jobs, doc, changed):
                added = await self._todo.complete_job(changed)
                assert added is not None
                return execution_from(added)
