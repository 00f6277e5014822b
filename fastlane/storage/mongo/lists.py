"""Lists over all tasks in MongoDB.

A scan is one query on one index. The server merges the ranges of it (``SORT_MERGE``), which it does
for at most 200 of them; otherwise it would sort all that is found.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Any

from pymongo import DESCENDING
from pymongo.errors import OperationFailure

from fastlane.errors import StorageUnavailable
from fastlane.model import Execution
from fastlane.storage.base import ExecutionFilter, JobFilter, ListedJob, Listing, Lists
from fastlane.storage.lists import (
    MOST_COUNTED,
    MOST_READ,
    SORTED,
    Index,
    Key,
    Part,
    RunTimes,
    Scan,
    can_count,
    counted,
    key_after,
    merged,
    plan,
)
from fastlane.storage.mongo.facet import Facet, operation
from fastlane.storage.mongo.job_list import JobList, steps
from fastlane.storage.mongo.known import THERE, begins_with, has_word, known
from fastlane.storage.mongo.records import execution_from
from fastlane.storage.mongo.writes import Doc

INDEXES: Mapping[Index, tuple[str, Doc]] = {
    Index.CREATED: ("created", {}),
    Index.ENDED: ("ended", {"over": THERE}),
    Index.ENDED_OF_TASK: ("ended_of_task", {"over": THERE}),
    Index.WAITING: ("enqueued_at", {"enqueued_of": THERE}),
    Index.WAITING_OF_TASK: ("enqueued_of_task", {"enqueued_of": THERE}),
    Index.ACTIVE: ("active", {"active_owner": THERE}),
    Index.ORIGIN: ("origin", {}),
    Index.HOST: ("host", {"host": THERE}),
    Index.JOB: ("job", {}),
    Index.RUNS: ("job", {}),
    Index.ID: ("_id_", {}),
    Index.ENDED_OF_TASKS: ("ended_of_task", {"over": THERE}),
    Index.WAITING_OF_TASKS: ("enqueued_of_task", {"enqueued_of": THERE}),
}
"""The name of each, and what holds for all that are in it."""
# The server's answer to a hint at an index that is not there (yet).
BAD_VALUE = 2
# Bounds the deleted jobs whose ids a query names; see MongoLists._shown for the others.
MOST_HIDDEN_JOBS = 1_000


@asynccontextmanager
async def _indexed() -> AsyncIterator[None]:
    """:raises StorageUnavailable: an index is not there yet."""
    try:
        yield
    except OperationFailure as error:
        if error.code == BAD_VALUE and "hint" in str(error):
            raise StorageUnavailable("the indexes of lists are being made") from error
        raise


class MongoLists(Facet, Lists):
    """:class:`fastlane.storage.base.Lists` in MongoDB."""

    @operation
    async def executions(
        self, wanted: ExecutionFilter, *, size: int, after: str | None = None
    ) -> Listing[Execution]:
        async with _indexed():
            return await self._executions(wanted, size, after)

    @operation
    async def jobs(
        self, wanted: JobFilter, *, size: int, after: str | None = None
    ) -> Listing[ListedJob]:
        async with _indexed():
            return await JobList(self._db, wanted).page(size, after)

    async def _executions(
        self, wanted: ExecutionFilter, size: int, after: str | None
    ) -> Listing[Execution]:
        facts, (hidden, shown) = await asyncio.gather(known(self._db, wanted), self._hidden())
        scans = plan(wanted, facts)
        parts = [(one, rest_of(one, wanted, shown)) for one in scans]
        items, cursor = await self._page(wanted, parts, size, key_after(after, scans))
        if not can_count(wanted, scans, hidden):
            return Listing(items, cursor)
        counts = await asyncio.gather(*(self._count(one, wanted, rest) for one, rest in parts))
        return Listing(items, cursor, *counted(counts))

    async def _hidden(self) -> tuple[int, Doc]:
        """How many executions are hidden at most, and what holds for those that are not.

        Where many jobs were deleted, it holds for some that are hidden, too.
        """
        there: Doc = {"deleted_at": THERE}
        names = {"execution_count": 1, "removed": 1}
        jobs, count = await asyncio.gather(
            self._db.jobs.find(there, names, hint="deleted").to_list(MOST_HIDDEN_JOBS),
            self._db.executions.count_documents(there, hint="deleted", limit=MOST_COUNTED + 1),
        )
        if not jobs and not count:
            return 0, {}
        if len(jobs) == MOST_HIDDEN_JOBS:
            count = MOST_COUNTED + 1
        count += sum(job["execution_count"] - job.get("removed", 0) for job in jobs)
        ids = [job["_id"] for job in jobs]
        return count, {"deleted_at": {"$exists": False}, "job_id": {"$nin": ids}}

    async def _page(
        self,
        wanted: ExecutionFilter,
        scans: Sequence[tuple[Scan, Doc]],
        size: int,
        key: Key | None,
    ) -> tuple[Sequence[Execution], str | None]:
        """:param scans: each with what is checked on its documents."""
        most = MOST_READ // max(len(scans), 1)
        parts = await asyncio.gather(
            *(self._part(one, wanted, rest, key, size, most) for one, rest in scans)
        )
        docs, cursor = merged(parts, size)
        return await self._shown(list(map(execution_from, docs))), cursor

    async def _shown(self, found: Sequence[Execution]) -> Sequence[Execution]:
        """Those of *found* that were not deleted, nor their jobs, meanwhile either."""
        jobs = {"_id": {"$in": list({one.job_id for one in found})}, "deleted_at": THERE}
        hidden = {doc["_id"] for doc in await self._db.jobs.find(jobs, {"_id": 1}).to_list(None)}
        return [one for one in found if one.deleted_at is None and one.job_id not in hidden]

    @operation
    async def times_of_task(self, task_id: str, limit: int) -> Sequence[RunTimes]:
        wanted = ExecutionFilter(task_id)
        names = [one.name for one in fields(RunTimes)]
        shown = dict.fromkeys((*names, "seq"), 1)
        async with _indexed():
            _, not_hidden = await self._hidden()
            scans = [(one, rest_of(one, wanted, not_hidden)) for one in plan(wanted)]
            parts = await asyncio.gather(
                *(
                    self._part(one, wanted, rest, None, limit, MOST_READ, shown)
                    for one, rest in scans
                )
            )
        docs, _ = merged(parts, limit)
        values: list[dict[str, Any]] = [{name: doc.get(name) for name in names} for doc in docs]
        return [RunTimes(**one) for one in values]

    @operation
    async def last_of_tasks(self, task_ids: Sequence[str]) -> Mapping[str, Execution]:
        _, not_hidden = await self._hidden()

        async def last(task_id: str) -> Sequence[Execution]:
            wanted = ExecutionFilter(task_id)
            scans = [(one, rest_of(one, wanted, not_hidden)) for one in plan(wanted)]
            return (await self._page(wanted, scans, 1, None))[0]

        found = await asyncio.gather(*map(last, task_ids))
        return {one.task_id: one for ones in found for one in ones}

    @operation
    async def last_of_jobs(self, job_ids: Sequence[str]) -> Mapping[str, Execution]:
        """One seek for each in the index."""
        found = await self._db.executions.aggregate(
            [
                {
                    "$match": {
                        "job_id": {"$in": list(job_ids)},
                        "deleted_at": {"$exists": False},
                    }
                },
                {"$sort": {"job_id": 1, "number": -1}},
                {"$group": {"_id": "$job_id", "last": {"$first": "$$ROOT"}}},
            ],
            hint="job",
        )
        return {doc["_id"]: execution_from(doc["last"]) for doc in await found.to_list(None)}

    @operation
    async def names_of_jobs(self, job_ids: Sequence[str]) -> Mapping[str, str]:
        wanted = {"_id": {"$in": list(job_ids)}, "name": THERE}
        docs = await self._db.jobs.find(wanted, {"name": 1}).to_list(None)
        return {doc["_id"]: doc["name"] for doc in docs}

    async def _part(
        self,
        scan: Scan,
        wanted: ExecutionFilter,
        rest: Doc,
        key: Key | None,
        size: int,
        most: int,
        shown: Doc | None = None,
    ) -> Part[Doc]:
        """Looks at few documents first, because the server reads all that it may look at."""
        executions, hint = self._db.executions, INDEXES[scan.index][0]
        order = dict.fromkeys(scan.by, DESCENDING)
        project: list[Doc] = [] if shown is None else [{"$project": shown}]
        rows: list[tuple[Key, Doc]] = []
        for step in steps(size, most):
            entries = entries_of(scan, wanted, key)
            if scan.index in SORTED or not rest:
                found = executions.find(_both(entries, rest), shown, hint=hint).sort(order)
                docs = await found.limit(size + 1).to_list(None)
                rows = [(_key(doc, scan), doc) for doc in docs]
                return Part(rows, rows[-1][0] if len(rows) > size else None)
            stages: list[Doc] = [{"$match": entries}, {"$sort": order}, {"$limit": step}]
            looked = await executions.aggregate(
                [*stages, {"$match": rest}, {"$limit": size + 1}, *project], hint=hint
            )
            rows += [(_key(doc, scan), doc) for doc in await looked.to_list(None)]
            if len(rows) > size:
                break
            names = dict.fromkeys(scan.by, 1) | {"_id": 0}
            last = executions.find(entries, names, hint=hint).sort(order).skip(step - 1).limit(1)
            if not (end := await last.to_list(1)):
                return Part(rows, None)
            key = _key(end[0], scan)
        return Part(rows, rows[-1][0] if len(rows) > size else key)

    async def _count(self, scan: Scan, wanted: ExecutionFilter, rest: Doc) -> int:
        found = _both(entries_of(scan, wanted, None), rest)
        return await self._db.executions.count_documents(
            found, hint=INDEXES[scan.index][0], limit=MOST_COUNTED + 1
        )


def entries_of(scan: Scan, wanted: ExecutionFilter, key: Key | None) -> Doc:
    """What *scan* reads of its index after *key*."""
    _, always = INDEXES[scan.index]
    found: Doc = {**always, **{name: _one_of(values) for name, values in scan.equal.items()}}
    if scan.index is not Index.JOB:
        found |= _times(wanted)
    if key is not None:
        first, *tied = scan.by
        before: Doc = {"$lt" if not tied else "$lte": key[0]}
        found[first] = found.get(first, {}) | before
        if tied:
            found["$nor"] = [{first: key[0], tied[0]: {"$gte": key[1]}}]
    return found


def _times(wanted: ExecutionFilter) -> Doc:
    bounds = {"$gte": wanted.since, "$lt": wanted.until}
    given = {sign: at for sign, at in bounds.items() if at is not None}
    return {"created_at": given} if given else {}


def rest_of(scan: Scan, wanted: ExecutionFilter, shown: Doc) -> Doc:
    """What is checked on the documents.

    :param shown: what holds for those that are not hidden.
    """
    found: Doc = {name: _one_of(values) for name, values in scan.rest.items()}
    more: list[Doc] = [shown] if shown else []
    if scan.prefix is not None:
        more.append({"task_id": begins_with(scan.prefix)})
    if scan.id_prefix is not None:
        more.append({"_id": begins_with(scan.id_prefix)})
    more += [{"task_id": {"$regex": has_word(word)}} for word in sorted(scan.words)]
    if scan.index is Index.JOB:
        found |= _times(wanted)
    return found | {"$and": more} if more else found


def _both(one: Doc, other: Doc) -> Doc:
    return {"$and": [one, other]} if other else one


def _key(doc: Doc, scan: Scan) -> Key:
    return tuple(doc[name] for name in scan.by)


def _one_of(values: Sequence[Any]) -> Any:
    plain = [None if value is None else str(value) for value in values]
    return plain[0] if len(plain) == 1 else {"$in": plain}
