"""What is looked up in MongoDB before a list is planned: see :mod:`fastlane.storage.lists`."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Sequence

from fastlane.errors import Rejected
from fastlane.storage.base import ExecutionFilter
from fastlane.storage.codec import words
from fastlane.storage.lists import (
    MOST_MERGED,
    MOST_OF_PREFIX,
    MOST_SORTED,
    TOO_MANY,
    Known,
    Matches,
    id_prefix_of,
    needs_farms,
    split_by_size,
)
from fastlane.storage.mongo.database import Database
from fastlane.storage.mongo.writes import Doc

THERE: Doc = {"$exists": True}
# Bounds the tasks that are looked at to find those with several words.
MOST_WITH_WORD = 10_000


async def known(database: Database, wanted: ExecutionFilter) -> Known:
    """What is known for *wanted*.

    :raises Rejected: the query matches too many ids.
    """
    prefix = wanted.task_prefix
    few = prefix is not None and await _is_few(database, prefix)
    return Known(
        await _farms(database) if needs_farms(wanted) else (),
        few,
        None if prefix is None or few else await _tasks_of_prefix(database, prefix),
        None if wanted.query is None else await find_matches(database, wanted.query),
    )


async def _farms(database: Database) -> Sequence[str]:
    """One seek for each in the index."""
    found = await database.executions.aggregate(
        [
            {"$sort": {"farm": 1, "trigger": 1, "created_at": 1, "seq": 1}},
            {"$group": {"_id": "$farm", "first": {"$first": "$seq"}}},
        ],
        hint="origin",
    )
    return [doc["_id"] for doc in await found.to_list(None)]


async def _is_few(database: Database, prefix: str) -> bool:
    """Whether few executions have a task id that begins with *prefix*."""
    counts = await asyncio.gather(
        *(
            database.executions.count_documents(
                {"task_id": begins_with(prefix), partial: THERE}, hint=hint, limit=MOST_SORTED
            )
            for partial, hint in (("over", "ended_of_task"), ("enqueued_of", "enqueued_of_task"))
        )
    )
    return sum(counts) < MOST_SORTED


async def _tasks_of_prefix(database: Database, prefix: str) -> Sequence[str] | None:
    """None if they are too many to be merged."""
    found = database.tasks.find({"_id": begins_with(prefix)}, {"_id": 1})
    docs = await found.to_list(MOST_MERGED + 1)
    return None if len(docs) > MOST_MERGED else [doc["_id"] for doc in docs]


async def find_matches(database: Database, query: str) -> Matches:
    all_words, prefix = words(query), id_prefix_of(query)
    tasks = await _tasks(database, sorted(all_words)) if all_words else []
    if prefix is None:
        return Matches(all_words, tasks)
    of_prefix = {"_id": begins_with(prefix)}
    shown = {"task_id": 1, "execution_count": 1, "removed": 1}
    docs = await database.jobs.find(of_prefix, shown).to_list(MOST_OF_PREFIX + 1)
    count = await database.executions.count_documents(of_prefix, limit=MOST_OF_PREFIX + 1)
    if max(len(docs), count) > MOST_OF_PREFIX:
        raise Rejected(TOO_MANY)
    jobs = [
        (doc["_id"], doc["task_id"], doc["execution_count"] - doc.get("removed", 0)) for doc in docs
    ]
    return Matches(all_words, tasks, prefix, *split_by_size(jobs))


async def _tasks(database: Database, all_words: list[str]) -> list[str] | None:
    """The tasks that have all of the words; None if they are too many to be named."""
    tasks = database.tasks
    counts = await asyncio.gather(
        *(
            tasks.count_documents({"words": word}, hint="words", limit=MOST_WITH_WORD)
            for word in all_words
        )
    )
    count, rarest = min(zip(counts, all_words, strict=True))
    if count >= MOST_WITH_WORD:
        return None
    wanted = {"$and": [{"words": rarest}, {"words": {"$all": all_words}}]}
    found = await tasks.find(wanted, {"_id": 1}, hint="words").to_list(MOST_MERGED + 1)
    return None if len(found) > MOST_MERGED else [doc["_id"] for doc in found]


def has_word(word: str) -> str:
    """A PCRE pattern of strings that have *word*: see :func:`fastlane.storage.codec.words`."""
    return rf"(*UCP)(?i)(?<![^\W_]){re.escape(word)}(?![^\W_])"


def begins_with(prefix: str) -> Doc:
    """The condition on a string that begins with *prefix*."""
    return {"$gte": prefix, "$lt": f"{prefix}{chr(sys.maxunicode)}"}
