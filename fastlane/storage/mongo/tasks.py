"""Tasks: the listing and the search."""

from __future__ import annotations

import asyncio

from pymongo import ASCENDING

from fastlane.errors import NotFound
from fastlane.model import Task
from fastlane.storage.base import Page, PageRequest, Tasks
from fastlane.storage.codec import MAX_QUERY_WORDS, cursor_numbers, words
from fastlane.storage.mongo.facet import Facet, operation
from fastlane.storage.mongo.records import MAX_OFFSET, page_from, page_of, task_from
from fastlane.storage.mongo.writes import Doc


class MongoTasks(Facet, Tasks):
    """:class:`fastlane.storage.base.Tasks` in MongoDB."""

    @operation
    async def get(self, task_id: str) -> Task:
        doc = await self._db.tasks.find_one({"_id": task_id})
        if doc is None:
            raise NotFound(f'There is no task "{task_id}".')
        return task_from(doc)

    @operation
    async def page(self, page: PageRequest) -> Page[Task]:
        """The total is the collection's own count, which a crash of mongod may put off by some."""
        cursor_numbers(page, parts=1)
        total = await self._db.tasks.estimated_document_count()
        return await page_of(self._db.tasks, {}, page, total, task_from, by="seq", order=ASCENDING)

    @operation
    async def search(self, query: str, page: PageRequest) -> Page[Task]:
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
                        "$or": [{"score": {"$lt": score}}, {"score": score, "seq": {"$gt": after}}]
                    }
                }
            )
        stages.append({"$sort": {"score": -1, "seq": 1}})
        if cursor is None and page.number > 1:
            stages.append({"$skip": min((page.number - 1) * page.size, MAX_OFFSET)})
        stages.append({"$limit": page.size + 1})
        total, found = await asyncio.gather(
            self._db.tasks.count_documents(matching), self._db.tasks.aggregate(stages)
        )
        docs = await found.to_list(None)
        return page_from(docs, page, total, task_from, lambda doc: f"{doc['score']}.{doc['seq']}")
