"""The connection to MongoDB: collections, indexes, numbers, compare-and-set."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import structlog
from pymongo import ASCENDING, DESCENDING, AsyncMongoClient, IndexModel, ReturnDocument, UpdateOne
from pymongo import timeout as no_timeout
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError, PyMongoError
from pymongo.read_preferences import ReadPreference

from fastlane.model import Clock
from fastlane.storage.mongo.mover import Mover
from fastlane.storage.mongo.writes import (
    COMMIT,
    COMMITTED,
    FOLLOW,
    HINT,
    Collection,
    Doc,
    insert,
    swap,
)
from fastlane.stored_events import StoredEvent, event_doc

log = structlog.get_logger(__name__)

DEFAULT_DATABASE = "fastlane"

# Bounds one operation from its call to its answer, tries and waits for a primary included.
OPERATION_SECONDS = 5.0
# Bounds the wait for a server that can take the operation.
SELECTION_SECONDS = 3.0
# Bounds the connections of one process.
MAX_CONNECTIONS = 64
# How long a start waits for the indexes of lists: in a small collection they are made at once.
INDEXES_AWAITED_SECONDS = 2.0
# Seconds after which the indexes of lists are tried again.
INDEXES_AGAIN_SECONDS = 30.0
# What the clocks of two machines may differ without being put right.
SKEW_TOLERANCE_SECONDS = 0.5
# Bounds the completed todos that wait to be struck off together.
CLOSING_BATCH = 500
# How long completed todos are gathered before they are struck off.
CLOSING_SECONDS = 0.05
# Bounds the completed todos that are remembered, so that they are not completed again.
COMPLETED_KEPT = 4096

INDEXES: Mapping[str, Sequence[IndexModel]] = {
    "tasks": [
        IndexModel([("seq", ASCENDING)], name="seq"),
        IndexModel([("words", ASCENDING)], name="words"),
        IndexModel([("recount", ASCENDING)], name="recount", sparse=True),
    ],
    "jobs": [
        IndexModel([("task_id", ASCENDING), ("seq", DESCENDING)], name="task"),
        IndexModel([("next_run_at", ASCENDING)], name="scheduled", sparse=True),
        IndexModel(
            [("task_id", ASCENDING), ("name", ASCENDING)],
            name="named",
            unique=True,
            partialFilterExpression={"name": {"$exists": True}},
        ),
        IndexModel([("idle", ASCENDING)], name="idle", sparse=True),
        IndexModel([("deleted_at", ASCENDING)], name="deleted", sparse=True),
        IndexModel([("todo.id", ASCENDING)], name="todo", sparse=True),
    ],
    "executions": [
        IndexModel([("job_id", ASCENDING), ("number", DESCENDING)], name="job", unique=True),
        IndexModel(
            [("job_id", ASCENDING), ("first_of_tick", ASCENDING)],
            name="tick",
            unique=True,
            partialFilterExpression={"first_of_tick": {"$exists": True}},
        ),
        IndexModel(
            [("farm", ASCENDING), ("queue", ASCENDING), ("expires", ASCENDING)],
            name="queue",
            partialFilterExpression={"queue": {"$exists": True}},
        ),
        IndexModel(
            [
                ("farm", ASCENDING),
                ("task_id", ASCENDING),
                ("queue", ASCENDING),
                ("expires", ASCENDING),
            ],
            name="turns",
            partialFilterExpression={"queue": {"$exists": True}},
        ),
        IndexModel([("due", ASCENDING)], name="due", sparse=True),
        IndexModel([("waits", ASCENDING)], name="waits", sparse=True),
        IndexModel([("delayed", ASCENDING)], name="delayed", sparse=True),
        IndexModel([("expires", ASCENDING)], name="expires", sparse=True),
        IndexModel([("enqueued_of", ASCENDING)], name="enqueued", sparse=True),
        IndexModel([("active_owner", ASCENDING)], name="active", sparse=True),
        IndexModel(
            [
                ("active_owner", ASCENDING),
                ("farm", ASCENDING),
                ("task_id", ASCENDING),
                ("host", ASCENDING),
            ],
            name="load_of_tasks",
            partialFilterExpression={"active_owner": {"$exists": True}},
        ),
        IndexModel(
            [("active_owner", ASCENDING), ("job_id", ASCENDING)],
            name="active_of_job",
            partialFilterExpression={"active_owner": {"$exists": True}},
        ),
        IndexModel([("retry_of", ASCENDING)], name="retry", sparse=True),
        IndexModel([("over", ASCENDING)], name="over", sparse=True),
        IndexModel([("deleted_at", ASCENDING)], name="deleted", sparse=True),
        IndexModel([("todo.id", ASCENDING)], name="todo", sparse=True),
    ],
    "keys": [
        IndexModel([("job_id", ASCENDING)], name="job"),
        IndexModel([("todo.id", ASCENDING)], name="todo", sparse=True),
    ],
    "farms": [],
    "hosts": [],
    "leases": [],
    "logs": [],
    "log_chunks": [
        IndexModel([("execution", ASCENDING), ("last_seq", ASCENDING)], name="execution")
    ],
    "deliveries": [
        IndexModel([("execution_id", ASCENDING), ("seq", ASCENDING)], name="execution"),
        IndexModel([("pending", ASCENDING), ("due_at", ASCENDING)], name="pending", sparse=True),
        IndexModel([("due", ASCENDING)], name="due", sparse=True),
        IndexModel([("open", ASCENDING), ("seq", DESCENDING)], name="open", sparse=True),
        IndexModel([("counted", ASCENDING)], name="counted", sparse=True),
    ],
    "events": [IndexModel([("events.id", ASCENDING)], name="event", unique=True)],
    "stats": [
        IndexModel([("step", ASCENDING), ("task", ASCENDING), ("start", ASCENDING)], name="task"),
        IndexModel([("step", ASCENDING), ("start", ASCENDING)], name="old"),
    ],
    "counted_tasks": [IndexModel([("active_at", ASCENDING)], name="idle")],
    "counters": [],
    "settings": [],
}
"""Every collection. A field that an index is on is only there while the index is to name it."""

EVENT_SOURCES = ("jobs", "executions", "deliveries", "hosts")
"""The collections whose documents carry events, until these are moved (see :mod:`.mover`)."""
_WITH_EVENTS = IndexModel([("events.at", ASCENDING)], name="events", sparse=True)


def _in_order(name: str, *fields: str, **partial: Any) -> IndexModel:
    keys = [(one, ASCENDING) for one in (*fields, "created_at", "seq")]
    return IndexModel(keys, name=name, **partial)


_FINAL = {"partialFilterExpression": {"over": {"$exists": True}}}
_ENQUEUED = {"partialFilterExpression": {"enqueued_of": {"$exists": True}}}
LIST_INDEXES: Mapping[str, Sequence[IndexModel]] = {
    "executions": [
        _in_order("created"),
        _in_order("ended", "status", "reason", **_FINAL),
        _in_order("ended_of_task", "task_id", "status", **_FINAL),
        _in_order("enqueued_at", **_ENQUEUED),
        _in_order("enqueued_of_task", "task_id", **_ENQUEUED),
        _in_order("origin", "farm", "trigger"),
        _in_order("host", "host", partialFilterExpression={"host": {"$exists": True}}),
    ],
    "jobs": [
        IndexModel([("seq", ASCENDING)], name="made"),
        IndexModel([("cron", ASCENDING)], name="cron", sparse=True),
        IndexModel([("paused_at", ASCENDING)], name="paused", sparse=True),
        IndexModel([("stopped_at", ASCENDING)], name="stopped", sparse=True),
    ],
}
"""For :mod:`.lists`; made in the background, because no other operation needs them and a large
collection takes minutes. See :class:`fastlane.storage.lists.Index`."""


class Database:
    """One connection pool and what all operations share."""

    def __init__(self, *, clock: Clock, moved: Callable[[], None] = lambda: None) -> None:
        """:param clock: what the caller's ``now`` comes from, to compare it with the server's.
        :param moved: called when there are new events to read.
        """
        self._clock = clock
        self._moved = moved
        self._indexing: asyncio.Task[None] | None = None
        self.skew_seconds = 0.0
        """What is to be added to a caller's time to get the server's."""
        self.is_replicated = True
        """Whether what a read shows is committed; a single server also shows what it may lose."""

    def connect(self, url: str) -> None:
        """Make the client for *url*; nothing is sent yet."""
        self._client: AsyncMongoClient[Doc] = AsyncMongoClient(
            url,
            appname="fastlane",
            connect=False,
            connectTimeoutMS=int(SELECTION_SECONDS * 1000),
            serverSelectionTimeoutMS=int(SELECTION_SECONDS * 1000),
            timeoutMS=int(OPERATION_SECONDS * 1000),
            maxPoolSize=MAX_CONNECTIONS,
            retryWrites=True,
        )
        database: AsyncDatabase[Doc] = self._client.get_default_database(
            DEFAULT_DATABASE,
            read_preference=ReadPreference.PRIMARY,
            read_concern=COMMITTED,
            write_concern=COMMIT,
        )
        self._database = database
        self.name: str = database.name
        self.tasks = database["tasks"]
        self.jobs = database["jobs"]
        self.executions = database["executions"]
        self.keys = database["keys"]
        self.farms = database["farms"]
        self.hosts = database["hosts"]
        self.leases = database["leases"]
        self.logs = database["logs"]
        self.log_chunks = database["log_chunks"]
        self.deliveries = database["deliveries"]
        self.events = database["events"]
        self.stats = database["stats"]
        self.counted_tasks = database["counted_tasks"]
        self.counters = database["counters"]
        self.settings = database["settings"]
        self.sequence = SequenceAllocator(self.counters)
        self.mover = Mover(self.events, self._moved)
        self.follow_up_runner = FollowUpRunner(self.mover)

    async def open(self) -> None:
        """Make the indexes that are not there.

        :raises PyMongoError: it cannot be reached, or refuses.
        """
        wanted = {
            name: [*indexes, *([_WITH_EVENTS] if name in EVENT_SOURCES else ())]
            for name, indexes in INDEXES.items()
        }
        await asyncio.gather(
            *(self._database[name].create_indexes(ix) for name, ix in wanted.items() if ix)
        )
        hello = await self._database.command("hello", read_preference=ReadPreference.PRIMARY)
        self.is_replicated = "setName" in hello or hello.get("msg") == "isdbgrid"
        self._indexing = asyncio.create_task(self._make_list_indexes(), name="list indexes")
        await self.sequence.open()
        await self.measure_skew()
        await asyncio.wait({self._indexing}, timeout=INDEXES_AWAITED_SECONDS)

    async def _make_list_indexes(self) -> None:
        """Make those that are not there, however long that takes."""
        while True:
            try:
                with no_timeout(None):
                    for name, wanted in LIST_INDEXES.items():
                        await self._database[name].create_indexes([*wanted])
                return
            except PyMongoError as error:
                log.warning("The indexes of lists could not be made", error=str(error))
                await asyncio.sleep(INDEXES_AGAIN_SECONDS)

    async def close(self) -> None:
        await self.mover.close()
        if self._indexing is not None:
            self._indexing.cancel()
            await asyncio.wait({self._indexing})
        await self.follow_up_runner.close()
        await self._client.close()

    async def insert(self, collection: Collection, doc: Doc) -> bool:
        """As :func:`~fastlane.storage.mongo.writes.insert`; the ``events`` of *doc* are moved."""
        stored = await insert(collection, doc)
        if stored:
            self.mover.written(collection, doc)
        return stored

    async def swap(self, collection: Collection, old: Doc, new: Doc, *events: StoredEvent) -> bool:
        """As :func:`~fastlane.storage.mongo.writes.swap`, with *events* in the same write."""
        there = [*self.mover.left(old), *map(event_doc, events)]
        new.pop("events", None)
        if there:
            new["events"] = there
        swapped = await swap(collection, old, new)
        if swapped:
            self.mover.written(collection, new)
        return swapped

    def event_sources(self) -> Mapping[str, Collection]:
        """The collections whose documents carry events, by name."""
        return {name: self._database[name] for name in EVENT_SOURCES}

    async def ping(self) -> None:
        """:raises PyMongoError: there is no primary that answers."""
        await self._database.command("ping", read_preference=ReadPreference.PRIMARY)

    async def measure_skew(self) -> None:
        """Compare the caller's clock with the server's; a small difference counts as none."""
        before = self._clock()
        hello = await self._database.command("hello", read_preference=ReadPreference.PRIMARY)
        between = (before + self._clock()) / 2
        # MongoDB's times are UTC without saying so.
        server = (hello["localTime"] - _EPOCH).total_seconds()
        skew = server - between
        self.skew_seconds = skew if abs(skew) >= SKEW_TOLERANCE_SECONDS else 0.0

    async def primary(self) -> tuple[str, int] | None:
        """Who takes the writes just now."""
        return await self._client.primary

    async def installation(self) -> str:
        """The id that all instances on this database share."""
        found = await self.settings.find_one({"_id": "installation"})
        if found is None:
            await insert(self.settings, {"_id": "installation", "value": uuid.uuid4().hex})
            found = await self.settings.find_one({"_id": "installation"})
            assert found is not None
        return str(found["value"])


_EPOCH = datetime(1970, 1, 1)


class SequenceAllocator:
    """Rising numbers for everything that has an order; callers of one moment share one write.

    The write is a hint (``w: 1``): on one server the journal has it before whatever uses the
    number, and after a fail-over :meth:`skip` puts it beyond every number that is in use.
    """

    def __init__(self, counters: Collection) -> None:
        self._counters = counters.with_options(write_concern=HINT)
        self._waiting: list[tuple[int, asyncio.Future[int]]] = []
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Make the counter, so that no two first callers do."""
        with contextlib.suppress(DuplicateKeyError):
            await self._counters.insert_one({"_id": "sequence", "value": 0})

    async def skip(self, count: int) -> None:
        """Leave out the next *count* numbers."""
        await self._counters.update_one({"_id": "sequence"}, {"$inc": {"value": count}})

    async def take(self, count: int = 1) -> int:
        """The first of *count* numbers that nobody else gets."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((count, future))
        if self._task is None:
            self._task = asyncio.create_task(self._serve())
        return await future

    async def _serve(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                await self._take_all(batch)
        finally:
            self._task = None

    async def _take_all(self, batch: list[tuple[int, asyncio.Future[int]]]) -> None:
        try:
            after = await self._counters.find_one_and_update(
                {"_id": "sequence"},
                {"$inc": {"value": sum(count for count, _ in batch)}},
                return_document=ReturnDocument.AFTER,
            )
        except BaseException as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            if not isinstance(error, PyMongoError):
                raise
            return
        assert after is not None
        last = int(after["value"])
        for count, future in reversed(batch):
            if not future.done():
                future.set_result(last - count + 1)
            last -= count


class FollowUpRunner:
    """Strikes completed todos off, many in one write; what is lost here the sweep finds."""

    def __init__(self, mover: Mover) -> None:
        self._mover = mover
        self._recent: OrderedDict[str, None] = OrderedDict()
        self._open: dict[str, tuple[Collection, Any]] = {}
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def knows(self, follow_up: Doc) -> bool:
        """Whether this process has completed *todo* already."""
        return follow_up["id"] in self._recent

    def later(self, collection: Collection, document_id: Any, follow_up: Doc) -> None:
        """Strike *todo* off some time soon."""
        self._recent[follow_up["id"]] = None
        if len(self._recent) > COMPLETED_KEPT:
            self._recent.popitem(last=False)
        if len(self._open) >= CLOSING_BATCH * 4:
            return
        self._open[follow_up["id"]] = (collection, document_id)
        if self._task is None:
            self._task = asyncio.create_task(self._strike_off())

    async def _strike_off(self) -> None:
        try:
            while self._open:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CLOSING_SECONDS):
                        await self._closing.wait()
                await self.flush()
        except PyMongoError:
            self._open.clear()
        finally:
            self._task = None

    async def flush(self) -> None:
        taken = [(todo_id, self._open.pop(todo_id)) for todo_id in list(self._open)[:CLOSING_BATCH]]
        by_collection: dict[str, tuple[Collection, list[UpdateOne]]] = {}
        for todo_id, (collection, document_id) in taken:
            _, updates = by_collection.setdefault(collection.name, (collection, []))
            rev = self._mover.takes_off(collection, document_id)
            if rev is not None:
                updates.append(
                    UpdateOne({"_id": document_id, "rev": rev}, {"$unset": {"events": ""}})
                )
            updates.append(
                UpdateOne({"_id": document_id, "todo.id": todo_id}, {"$unset": {"todo": ""}})
            )
        for collection, updates in by_collection.values():
            await collection.with_options(write_concern=HINT).bulk_write(updates, ordered=False)

    async def close(self) -> None:
        self._closing.set()
        if self._task is not None:
            await asyncio.wait({self._task})


def new_follow_up(**content: Any) -> Doc:
    """What is left to do for an operation; None among *content* is left out."""
    return {"id": uuid.uuid4().hex, **{k: v for k, v in content.items() if v is not None}}


async def remove_follow_up(collection: Collection, document_id: Any, follow_up: Doc) -> None:
    """Take a completed *todo* off its document now."""
    await collection.with_options(write_concern=FOLLOW).update_one(
        {"_id": document_id, "todo.id": follow_up["id"]}, {"$unset": {"todo": ""}}
    )
