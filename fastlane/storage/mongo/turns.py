"""Whose turn it is in a farm, and its slots.

A farm's document holds one token for each slot in use, so ``maxRunning`` holds for any number of
instances. A token names the execution and the ``rev`` at which it is to be claimed: two
who claim the same one want the same token, and one of them gets it.

The document also has the farm's last turn (:class:`fastlane.storage.turns.Turn`), and ``turns``
counts them. The write that takes the slot compares the count, so between the look and the slot
nobody else has had a turn. The release before this one takes slots without a turn, which is
harmless.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from enum import Enum, auto

from pymongo import ASCENDING, DESCENDING

from fastlane.storage.mongo.database import Database
from fastlane.storage.mongo.writes import FOLLOW, Doc, insert
from fastlane.storage.turns import Part, Turn


class Slot(Enum):
    """What came of the try to take a slot."""

    TAKEN = auto()
    OTHERS = auto()
    """Somebody else has the token: he claims this execution, or died with it."""
    MOVED = auto()
    """Somebody else has had a turn: look again."""
    FULL = auto()


@dataclass(frozen=True, slots=True)
class Next:
    """What is to be claimed next."""

    doc: Doc
    turn: Turn | None = None
    """The turn that this is; None where nobody takes turns."""
    count: int | None = None
    """How many turns there were before it; None for none yet."""


class Turns:
    """The turns of all farms."""

    def __init__(self, database: Database) -> None:
        self._db = database
        # The last turns that were given here. Another instance may have given one since: then
        # :meth:`take_slot` finds that the count has changed.
        self._last: dict[str, tuple[int, Turn]] = {}
        # The tasks of the executions that have a slot.
        self._tasks: dict[str, dict[str, str]] = {}

    async def next(
        self,
        farm: str,
        now: float,
        *,
        max_per_task: int | None,
        fifo: bool,
        without: Sequence[str] = (),
    ) -> Next | None:
        """The execution that is to be claimed next."""
        wanted: Doc = {
            "farm": farm,
            "queue": {"$exists": True},
            "$or": [{"expires": {"$exists": False}}, {"expires": {"$gt": now}}],
        }
        if without:
            wanted["_id"] = {"$nin": list(without)}
        if fifo:
            doc = await self._db.executions.find_one(
                wanted, sort=[("queue", ASCENDING)], hint="queue"
            )
            return None if doc is None else Next(doc)
        count, turn, full = await self._look(farm, max_per_task)
        found = await self._rest_of_round(wanted, turn, full)
        if found is None:
            found = await self._new_round(wanted, turn, full)
        if found is None:
            return None
        doc, turn = found
        self._tasks.setdefault(farm, {})[doc["_id"]] = doc["task_id"]
        return Next(doc, turn, count)

    async def _rest_of_round(
        self, wanted: Doc, turn: Turn, full: Sequence[str]
    ) -> tuple[Doc, Turn] | None:
        parts = list(turn.rest())
        wanted = wanted | {"queue": {"$lte": turn.upto}}
        docs = await self._each([_first_in(part, wanted, full) for part in parts])
        for index, doc in docs.items():
            return doc, parts[index].turn.of(doc["task_id"])
        return None

    async def _new_round(
        self, wanted: Doc, turn: Turn, full: Sequence[str]
    ) -> tuple[Doc, Turn] | None:
        """In the same query, because it comes with each claim where a single task waits."""
        parts = list(turn.next_round(0).rest())
        last: list[Doc] = [
            {"$match": {"farm": wanted["farm"], "queue": {"$exists": True}}},
            {"$sort": {"queue": DESCENDING}},
            {"$limit": 1},
            {"$project": {"queue": 1}},
        ]
        docs = await self._each([*(_first_in(part, wanted, full) for part in parts), last])
        for index, doc in docs.items():
            if index < len(parts):
                upto = docs[len(parts)]["queue"] if len(parts) in docs else doc["queue"]
                return doc, replace(parts[index].turn, upto=upto).of(doc["task_id"])
        return None

    async def _each(self, pipelines: Sequence[list[Doc]]) -> dict[int, Doc]:
        """What each pipeline finds, by its index, in one query."""
        if not pipelines:
            return {}
        tagged = [[*stages, {"$set": {"part": n}}] for n, stages in enumerate(pipelines)]
        unions = [{"$unionWith": {"coll": "executions", "pipeline": each}} for each in tagged[1:]]
        found = await self._db.executions.aggregate([*tagged[0], *unions], hint="turns")
        return {doc.pop("part"): doc for doc in await found.to_list(None)}

    async def _look(
        self, farm: str, max_per_task: int | None
    ) -> tuple[int | None, Turn, Sequence[str]]:
        """How many turns there were, the last one, and the tasks that have their share."""
        if max_per_task is None and farm in self._last:
            return *self._last[farm], ()
        fields = {"turn": 1, "turns": 1} | ({} if max_per_task is None else {"held": 1})
        found = await self._db.farms.find_one({"_id": farm}, fields) or {}
        count, turn = found.get("turns"), Turn(*found.get("turn", ()))
        if max_per_task is None:
            return count, turn, ()
        ids = [named_by(token)[0] for token in found.get("held", ())]
        known = self._tasks.get(farm, {})
        unknown = [execution_id for execution_id in ids if execution_id not in known]
        if unknown:
            docs = self._db.executions.find({"_id": {"$in": unknown}}, {"task_id": 1})
            known |= {doc["_id"]: doc["task_id"] for doc in await docs.to_list(None)}
        self._tasks[farm] = {one: known[one] for one in ids if one in known}
        running = Counter(known[one] for one in ids if one in known)
        return count, turn, [task_id for task_id, count in running.items() if count >= max_per_task]

    async def take_slot(self, claimed: Next, max_running: int) -> Slot:
        """Take a slot and, where there are turns, the turn."""
        farm, token, turn = claimed.doc["farm"], slot_token(claimed.doc), claimed.turn
        farms = self._db.farms.with_options(write_concern=FOLLOW)
        free: Doc = {
            "_id": farm,
            "held": {"$ne": token},
            f"held.{max_running - 1}": {"$exists": False},
        }
        taken: Doc = {"$push": {"held": token}}
        if turn is not None:
            # None is a field that is not there.
            free["turns"] = claimed.count
            taken["$set"] = {"turn": astuple(turn), "turns": (claimed.count or 0) + 1}
        if (await farms.update_one(free, taken)).matched_count:
            if turn is not None:
                self._last[farm] = (claimed.count or 0) + 1, turn
            return Slot.TAKEN
        self._last.pop(farm, None)
        found = await farms.find_one({"_id": farm})
        if found is None:
            await insert(farms, {"_id": farm, "held": []})
            return Slot.MOVED
        if token in found["held"]:
            return Slot.OTHERS
        return Slot.FULL if len(found["held"]) >= max_running else Slot.MOVED


def _first_in(part: Part, wanted: Doc, full: Sequence[str]) -> list[Doc]:
    names: Doc = {"$gt": part.after, "$nin": full}
    if part.to is not None:
        names["$lte"] = part.to
    return [
        {"$match": wanted | {"task_id": names}},
        {"$sort": {"task_id": ASCENDING, "queue": ASCENDING}},
        {"$limit": 1},
    ]


def slot_token(doc: Doc) -> str:
    """The token in a farm's document for the claim of *doc* as it is now."""
    return f"{doc['_id']}|{doc['rev']}"


def named_by(token: str) -> tuple[str, int]:
    """The execution and the ``rev`` of a token."""
    execution_id, _, rev = token.rpartition("|")
    return execution_id, int(rev)
