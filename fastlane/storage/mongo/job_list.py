"""The list of jobs in MongoDB: see :mod:`fastlane.storage.sqlite.job_list`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pymongo import DESCENDING

from fastlane.model import JobState
from fastlane.storage.base import JobFilter, ListedJob, Listing
from fastlane.storage.codec import words
from fastlane.storage.lists import MOST_COUNTED, MOST_READ, counted, id_prefix_of, number_after
from fastlane.storage.mongo.database import Database
from fastlane.storage.mongo.known import THERE, begins_with, find_matches, has_word
from fastlane.storage.mongo.records import job_from
from fastlane.storage.mongo.writes import Doc

# How many documents are looked at first for each that is wanted.
LOOKED_AT_FIRST = 4
_NOT_THERE: Doc = {"$exists": False}
_STATES: Mapping[JobState, Doc] = {
    JobState.ACTIVE: {},
    JobState.SCHEDULED: {"next_run_at": THERE},
    JobState.PAUSED: {"paused_at": THERE, "next_run_at": _NOT_THERE},
    JobState.STOPPED: {
        "stopped_at": THERE,
        "paused_at": _NOT_THERE,
        "next_run_at": _NOT_THERE,
    },
    JobState.IDLE: {
        "stopped_at": _NOT_THERE,
        "paused_at": _NOT_THERE,
        "next_run_at": _NOT_THERE,
    },
}
"""What holds for the jobs in a state, unless they are active."""
_FEW = {
    JobState.SCHEDULED: ("next_run_at", "scheduled"),
    JobState.PAUSED: ("paused_at", "paused"),
    JobState.STOPPED: ("stopped_at", "stopped"),
    True: ("cron", "cron"),
}
"""A field that all jobs in a state have, or (True) of cron, and the index of those that have it."""


class JobList:
    """What is read for one request."""

    def __init__(self, database: Database, wanted: JobFilter) -> None:
        self._db, self._wanted = database, wanted
        self._is_few = False

    async def page(self, size: int, after: str | None) -> Listing[ListedJob]:
        """See ``Lists.jobs``."""
        before, (source, hint) = number_after(after), await self._source()
        checks = self._checks()
        rows: list[tuple[int, ListedJob]] = []
        for step in steps(size, MOST_READ):
            entries = source if before is None else {**source, "seq": {"$lt": before}}
            docs = await self._look(entries, hint, checks, step, size)
            listed = await self._listed(docs)
            state = self._wanted.state
            rows += [row for row in listed if state in {None, row[1].state}]
            if len(rows) > size:
                break
            if len(docs) > size:
                before = docs[-1]["seq"]
                continue
            end = (
                await self._db.jobs.find(entries, {"seq": 1}, hint=hint)
                .sort("seq", DESCENDING)
                .skip(step - 1)
                .limit(1)
                .to_list(1)
            )
            before = end[0]["seq"] if end else None
            if before is None:
                break
        if len(rows) > size:
            before = rows[size - 1][0]
        items = [one for _, one in rows[:size]]
        cursor = None if before is None else str(before)
        return Listing(items, cursor, *await self._total(source, hint, checks))

    async def _source(self) -> tuple[Doc, str | None]:
        """What is read in its order, and the index."""
        wanted = self._wanted
        if wanted.task_id is not None:
            return {"task_id": wanted.task_id}, "task"
        if wanted.query is not None and (names := await self._tasks(wanted.query)) is not None:
            self._is_few = True
            return {"$or": [{"task_id": {"$in": names}}, *_id_of(wanted.query)]}, None
        if wanted.state is JobState.ACTIVE:
            ids = await self._active_ids()
            if len(ids) < MOST_READ:
                self._is_few = True
                return {"_id": {"$in": list(ids)}}, None
        for name in (wanted.state, wanted.is_cron):
            if name is not None and (few := _FEW.get(name)) is not None:
                field, index = few
                count = await self._db.jobs.count_documents(
                    {field: THERE}, hint=index, limit=MOST_READ
                )
                if count < MOST_READ:
                    self._is_few = True
                    return {field: THERE}, index
        return {}, "made"

    async def _tasks(self, query: str) -> Sequence[str] | None:
        """The tasks that have all words of *query*; None where they have many jobs."""
        names = (await find_matches(self._db, query)).task_ids
        if names is None:
            return None
        tasks = self._db.tasks.find({"_id": {"$in": list(names)}}, {"jobs_count": 1})
        count = sum([task["jobs_count"] async for task in tasks])
        return list(names) if count < MOST_READ else None

    async def _active_ids(self) -> Collection[str]:
        """Of jobs that have an execution which is not final."""
        executions = self._db.executions
        waiting = executions.find({"enqueued_of": THERE}, {"enqueued_of": 1, "_id": 0})
        docs = await waiting.hint("enqueued").to_list(MOST_READ)
        holding = executions.find({"active_owner": THERE}, {"job_id": 1}).hint("active")
        found = {doc["enqueued_of"] for doc in docs}
        return found | {doc["job_id"] for doc in await holding.to_list(MOST_READ)}

    async def _look(
        self, entries: Doc, hint: str | None, checks: Doc, step: int, size: int
    ) -> Sequence[Doc]:
        stages: list[Doc] = [
            {"$match": entries},
            {"$sort": {"seq": DESCENDING}},
            {"$limit": step},
            {"$match": {**checks, "deleted_at": _NOT_THERE}},
            {"$limit": size + 1},
        ]
        return await (await self._db.jobs.aggregate(stages, **_hint(hint))).to_list(None)

    async def _listed(self, docs: Sequence[Doc]) -> Sequence[tuple[int, ListedJob]]:
        ids = [doc["_id"] for doc in docs]
        executions = self._db.executions
        active = set(await executions.distinct("enqueued_of", {"enqueued_of": {"$in": ids}}))
        holding = executions.find(
            {"active_owner": THERE, "job_id": {"$in": ids}}, {"job_id": 1}
        ).hint("active")
        active |= {doc["job_id"] for doc in await holding.to_list(None)}
        jobs = [(doc["seq"], job_from(doc), doc["_id"] in active) for doc in docs]
        return [(seq, ListedJob(job, job.state(is_active=is_on))) for seq, job, is_on in jobs]

    def _checks(self) -> Doc:
        wanted, found = self._wanted, Doc()
        if wanted.state is not None:
            found |= _STATES[wanted.state]
        if wanted.is_cron is not None:
            found["cron"] = THERE if wanted.is_cron else _NOT_THERE
        if wanted.query is not None:
            patterns = [{"task_id": {"$regex": has_word(one)}} for one in words(wanted.query)]
            of_task = [{"$and": patterns}] if patterns else []
            # Nothing has no id.
            found["$or"] = [*of_task, *_id_of(wanted.query), {"_id": None}]
        if wanted.task_prefix is not None:
            found["task_id"] = begins_with(wanted.task_prefix)
        return found

    async def _total(self, source: Doc, hint: str | None, checks: Doc) -> tuple[int | None, bool]:
        jobs, wanted = self._db.jobs, self._wanted
        if wanted == JobFilter():
            hidden = await jobs.count_documents({"deleted_at": THERE}, hint="deleted")
            return counted([await jobs.estimated_document_count() - hidden])
        # Whether one is active is not in its document.
        if wanted.state is JobState.ACTIVE and self._is_few and not checks:
            shown = {**source, "deleted_at": _NOT_THERE}
            return counted([await jobs.count_documents(shown, limit=MOST_COUNTED + 1)])
        if wanted.state is not None or (checks and not self._is_few):
            return None, False
        found = {"$and": [source, checks, {"deleted_at": _NOT_THERE}]}
        return counted([await jobs.count_documents(found, limit=MOST_COUNTED + 1, **_hint(hint))])


def _hint(hint: str | None) -> dict[str, Any]:
    return {} if hint is None else {"hint": hint}


def _id_of(query: str) -> Sequence[Doc]:
    """The condition on the ids of jobs that match, if any can."""
    prefix = id_prefix_of(query)
    return [] if prefix is None else [{"_id": begins_with(prefix)}]


def steps(size: int, most: int) -> Sequence[int]:
    """How many entries are read in each step, *most* together: few first, because the server reads
    all that it may.
    """
    first = min(LOOKED_AT_FIRST * (size + 1), most)
    return (first, most - first) if first < most else (first,)
