"""Moves stored events from the documents that changed into the collection ``events``.

An event is written with the change, into the list ``events`` of the document. From there it is
moved into the one order of all events:

* A document of the collection ``events`` holds one batch, and its ``_id`` is the number of the one
  before plus 1. An instance that comes second gets a duplicate key, reads the last number and
  tries again.
* That number is only used once the batch before is committed. So whatever fail-over comes, a
  reader that has seen batch *n* can find no batch before *n* that it has not seen.
* An index makes the id of an event unique, so that the same event has one place, however many
  instances and sweeps move it.
* An event is removed from its document only once its batch is committed. A document that is written
  again keeps those that this process does not know to be moved, before its new ones: so the events
  of one document are moved in their order, no matter which instance writes it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Sequence

import structlog
from pymongo import DESCENDING, UpdateOne
from pymongo.errors import DuplicateKeyError, PyMongoError

from fastlane.pause import Pause
from fastlane.storage.mongo.writes import COMMIT, HINT, Collection, Doc, confirm

log = structlog.get_logger(__name__)

# Bounds one batch; a position is the number of a batch times this, plus the place in it.
BATCH_EVENTS = 1024
# How long events are gathered for one batch.
GATHER_SECONDS = 0.05
# How long a document keeps events that are moved, so that its next write takes them off with it.
KEPT_SECONDS = 2.0
# Bounds the events that wait to be moved; the sweep finds the others on their documents.
WAITING_EVENTS = 20_000
# Bounds the moved events that are remembered, so that they are not moved again.
MOVED_REMEMBERED = 50_000
# Bounds the documents of one write that takes moved events off.
TAKE_OFF_BATCH = 1000
# Bound the pause while the database refuses.
FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 2.0

# A collection, and the id of a document; the id of a document with events is a string.
_Source = tuple[str, str]


class Mover:
    """Moves the events of the documents that this process has written or found."""

    def __init__(self, events: Collection, moved: Callable[[], None]) -> None:
        """:param moved: called when there are new events to read."""
        self._events = events.with_options(write_concern=COMMIT)
        self._announce = moved
        self._last = 0
        self._waiting: OrderedDict[str, Doc] = OrderedDict()
        self._moved: OrderedDict[str, None] = OrderedDict()
        self._kept: OrderedDict[_Source, tuple[Collection, int, str, float]] = OrderedDict()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def left(self, doc: Doc) -> list[Doc]:
        """The events on *doc* that may not be moved yet."""
        return [event for event in doc.get("events", ()) if event["id"] not in self._moved]

    def written(self, collection: Collection, doc: Doc) -> None:
        """Move the events of *doc*, which is stored as it is here, some time soon."""
        source = (collection.name, str(doc["_id"]))
        self._kept.pop(source, None)
        if "events" not in doc or len(self._waiting) >= WAITING_EVENTS:
            return
        for event in self.left(doc):
            self._waiting.setdefault(event["id"], event)
        at = asyncio.get_running_loop().time()
        last_id = doc["events"][-1]["id"]
        self._kept[source] = (collection, doc.get("rev", 0), last_id, at)
        if self._task is None:
            self._task = asyncio.create_task(self._work(), name="move events")

    def takes_off(self, collection: Collection, document_id: object) -> int | None:
        """The ``rev`` at which all events of the document are moved; the caller takes them off.

        Of no other: a write whose answer was lost may have added events that are not known here.
        """
        source = (collection.name, str(document_id))
        kept = self._kept.get(source)
        if kept is None or kept[2] not in self._moved:
            return None
        del self._kept[source]
        return kept[1]

    async def _work(self) -> None:
        pause = Pause(FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        try:
            while self._waiting or self._kept:
                await self._nap(GATHER_SECONDS if self._waiting else KEPT_SECONDS / 4)
                try:
                    await self.flush()
                except PyMongoError as error:
                    if self._closing.is_set():
                        # The sweep of another instance, or of the next start, moves them.
                        return
                    log.debug("Events cannot be moved yet", error=str(error))
                    await self._nap(pause.take())
                    continue
                pause.reset()
                if self._closing.is_set() and not self._waiting:
                    return
        finally:
            self._task = None

    async def settle(self, doc: Doc) -> None:
        """Move the events of *doc* now, because it is to be deleted.

        :raises PyMongoError: some may not be moved.
        """
        if self.left(doc):
            await self._insert(self.left(doc))

    async def _nap(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    async def flush(self) -> None:
        """Move what waits, and take off what has been moved for a while.

        :raises PyMongoError: it is tried again.
        """
        while self._waiting:
            batch = list(self._waiting.values())[:BATCH_EVENTS]
            await self._insert(batch)
            for event in batch:
                self._waiting.pop(event["id"], None)
                self._moved[event["id"]] = None
            while len(self._moved) > MOVED_REMEMBERED:
                self._moved.popitem(last=False)
            self._announce()
        await self._take_off()

    async def _insert(self, batch: Sequence[Doc]) -> None:
        """Store *batch* after the last one, without the events that are there already."""
        while batch:
            number = self._last + 1
            doc = {"_id": number, "at": batch[-1]["at"], "events": batch}
            try:
                await self._events.insert_one(doc)
            except DuplicateKeyError as error:
                # What is in the way may not be committed, and the answer does not say.
                await confirm(self._events)
                if "_id" in ((error.details or {}).get("keyPattern") or {}):
                    await self._read_last()
                else:
                    there = await self._there([event["id"] for event in batch])
                    batch = [event for event in batch if event["id"] not in there]
                continue
            self._last = number
            return

    async def _read_last(self) -> None:
        last = await self._events.find_one({}, {"_id": 1}, sort=[("_id", DESCENDING)])
        self._last = 0 if last is None else int(last["_id"])

    async def _there(self, ids: Sequence[str]) -> set[str]:
        found = self._events.find({"events.id": {"$in": list(ids)}}, {"events.id": 1})
        return {event["id"] for doc in await found.to_list(None) for event in doc["events"]}

    async def _take_off(self) -> None:
        before = asyncio.get_running_loop().time() - KEPT_SECONDS
        by_collection: dict[str, tuple[Collection, list[UpdateOne]]] = {}
        for source, (collection, rev, last_id, at) in list(self._kept.items())[:TAKE_OFF_BATCH]:
            if at > before and not self._closing.is_set():
                break
            del self._kept[source]
            if last_id in self._moved:
                _, updates = by_collection.setdefault(collection.name, (collection, []))
                updates.append(
                    UpdateOne({"_id": source[1], "rev": rev}, {"$unset": {"events": ""}})
                )
        for collection, updates in by_collection.values():
            await collection.with_options(write_concern=HINT).bulk_write(updates, ordered=False)

    def saw(self, number: int) -> None:
        """Note that batch *number* is there and committed."""
        self._last = max(self._last, number)

    async def close(self) -> None:
        """Move what waits; safe to repeat."""
        self._closing.set()
        if self._task is not None:
            await asyncio.wait({self._task})
