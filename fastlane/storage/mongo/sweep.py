"""What makes good for crashes and fail-overs: run by every instance, every few seconds.

Each part looks only at what an index names as unfinished, and does nothing that may not be done
twice. What is under way in a living instance looks the same as what a dead one left, so only what
was seen in the round before, too, is touched.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog
from pymongo import ASCENDING
from pymongo.errors import PyMongoError

from fastlane.model import ACTIVE, Status
from fastlane.storage.mongo.database import Database, remove_follow_up
from fastlane.storage.mongo.facet import short
from fastlane.storage.mongo.follow_ups import FollowUps
from fastlane.storage.mongo.jobs import MongoJobs
from fastlane.storage.mongo.turns import named_by
from fastlane.storage.mongo.writes import HINT, Doc

log = structlog.get_logger(__name__)

# The time between two rounds. With what was seen twice it bounds what a crash leaves undone.
SWEEP_SECONDS = 4.0
# Bounds what one round does of each kind.
BATCH = 500
# Bounds the numbers whose giving a fail-over may have undone.
NUMBERS_SKIPPED = 1_000_000


class Sweep:
    """One round after the other; remembers what it saw in the one before."""

    def __init__(self, database: Database, follow_ups: FollowUps, jobs: MongoJobs) -> None:
        self._db = database
        self._follow_ups = follow_ups
        self._jobs = jobs
        self._seen: dict[str, set[str]] = {}
        self._primary: tuple[str, int] | None = None

    async def round(self) -> int:
        """Do what is to be done; how much that was."""
        done = 0
        for part in (
            self._numbers,
            self._finish_follow_ups,
            self._move_events,
            self._waiting,
            self._recount,
            self._slots,
        ):
            try:
                done += await part()
            except PyMongoError as error:
                # The others must run all the same.
                level = "warning" if error.timeout else "debug"
                getattr(log, level)("sweep put off", part=part.__name__, error=short(error))
        if done:
            log.info("Sweep completed what was left undone", count=done)
        return done

    def _again(self, kind: str, found: Iterable[str]) -> set[str]:
        """Those of *found* that the round before has seen, too."""
        now = set(found)
        before = self._seen.get(kind, set())
        self._seen[kind] = now
        return now & before

    async def _numbers(self) -> int:
        """Behind a fail-over the new primary may not know the last numbers that were given."""
        primary = await self._db.primary()
        if primary == self._primary:
            return 0
        await self._db.sequence.skip(NUMBERS_SKIPPED)
        self._primary = primary
        return 0

    async def _finish_follow_ups(self) -> int:
        there = {"todo.id": {"$exists": True}}
        done = 0
        for name, collection in (
            ("keys", self._db.keys),
            ("jobs", self._db.jobs),
            ("executions", self._db.executions),
        ):
            docs = await collection.find(there).limit(BATCH).to_list(None)
            again = self._again(name, (doc["todo"]["id"] for doc in docs))
            for doc in docs:
                if doc["todo"]["id"] in again:
                    await self._complete(name, doc)
                    done += 1
        return done

    async def _complete(self, name: str, doc: Doc) -> None:
        if name == "keys":
            await self._jobs.complete_key(doc)
            await remove_follow_up(self._db.keys, doc["_id"], doc["todo"])
        elif name == "jobs":
            await self._follow_ups.settled_job(doc["_id"])
        else:
            await self._follow_ups.settled_execution(doc["_id"])

    async def _move_events(self) -> int:
        """Move what is still on its document, the oldest first."""
        done = 0
        for name, collection in self._db.event_sources().items():
            found = collection.find({"events.at": {"$gt": 0}}, {"events": 1, "rev": 1})
            docs = await found.sort("events.at", ASCENDING).limit(BATCH).to_list(None)
            again = self._again(f"events {name}", (doc["events"][-1]["id"] for doc in docs))
            for doc in docs:
                if doc["events"][-1]["id"] in again:
                    done += len(self._db.mover.left(doc))
                    self._db.mover.written(collection, doc)
        return done

    async def _waiting(self) -> int:
        """Executions that wait for one which is final: it ended while they were stored."""
        found = self._db.executions.find({"waits": {"$exists": True}}, {"waits": 1})
        docs = await found.sort("waits", ASCENDING).limit(BATCH).to_list(None)
        awaited = {doc["waits"] for doc in docs}
        unfinished = self._db.executions.find(
            {"_id": {"$in": list(awaited)}, "status": {"$in": [Status.ENQUEUED, *ACTIVE]}},
            {"_id": 1},
        )
        open_ = {doc["_id"] for doc in await unfinished.to_list(None)}
        again = self._again("waiting", awaited - open_)
        for execution_id in again:
            await self._follow_ups.free(execution_id, None)
        return len(again)

    async def _recount(self) -> int:
        """Count the jobs of tasks where a crash may have come between job and count.

        Until two counts in a row agree: jobs may be made meanwhile.
        """
        docs = await self._db.tasks.find({"recount": True}).limit(BATCH).to_list(None)
        tasks = self._db.tasks.with_options(write_concern=HINT)
        for doc in docs:
            count = await self._db.jobs.count_documents(
                {"task_id": doc["_id"], "deleted_at": {"$exists": False}}
            )
            if count == 0 and doc["jobs_count"] == 0:
                # A crash came between the last of its jobs and itself.
                await tasks.delete_one({"_id": doc["_id"], "jobs_count": 0})
                continue
            agreed = doc["jobs_count"] == count
            update: Doc = {"$unset": {"recount": ""}} if agreed else {"$set": {"jobs_count": count}}
            await tasks.update_one({"_id": doc["_id"], "jobs_count": doc["jobs_count"]}, update)
        return len(docs)

    async def _slots(self) -> int:
        """Take back slots without an execution, and give one to executions without a slot."""
        done = 0
        farms = await self._db.farms.find({}).to_list(None)
        found = self._db.executions.find(
            {"active_owner": {"$exists": True}}, {"farm": 1, "slot": 1}
        )
        active = {doc["slot"]: doc["farm"] for doc in await found.to_list(None) if "slot" in doc}
        unused = [
            (farm["_id"], token) for farm in farms for token in farm["held"] if token not in active
        ]
        again = self._again("slots", (token for _, token in unused))
        for farm, token in unused:
            if token in again and await self._take_back(farm, token):
                done += 1
        held = {token for farm in farms for token in farm["held"]}
        lost = {token: farm for token, farm in active.items() if token not in held}
        for token in self._again("lost slots", lost):
            await self._db.farms.update_one(
                {"_id": lost[token]}, {"$addToSet": {"held": token}}, upsert=True
            )
            done += 1
        return done

    async def _take_back(self, farm: str, token: str) -> bool:
        """Free a slot whose claim was not carried out, and see to it that it never is."""
        execution_id, rev = named_by(token)
        # A claim in progress needs this rev.
        await self._db.executions.update_one(
            {"_id": execution_id, "rev": rev}, {"$inc": {"rev": 1}}
        )
        doc = await self._db.executions.find_one({"_id": execution_id}, {"slot": 1, "status": 1})
        if doc is not None and doc.get("slot") == token and doc["status"] in ACTIVE:
            return False
        await self._follow_ups.free_slot(farm, token)
        return True
