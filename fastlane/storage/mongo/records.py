"""Documents to frozen records and back. A value of None is a field that is not there."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pymongo import ASCENDING

from fastlane.model import (
    Attempt,
    Delivery,
    DeliveryState,
    Event,
    Execution,
    Job,
    Reason,
    Schedule,
    Status,
    Task,
)
from fastlane.storage.base import Page, PageRequest
from fastlane.storage.codec import clean, cursor_numbers, definition_from, definition_text
from fastlane.storage.mongo.database import Collection, Doc

T = TypeVar("T")

# Bounds an offset to what MongoDB can count; no collection is that long.
MAX_OFFSET = 2**62


def task_from(doc: Doc) -> Task:
    return Task(doc["_id"], doc["created_at"], doc["modified_at"], doc["jobs_count"])


_JOB_FIELDS = (
    "created_at",
    "modified_at",
    "queue_job_id",
    "generation",
    "next_run_at",
    "stopped_at",
    "execution_count",
    "request_ip",
)


def job_from(doc: Doc) -> Job:
    get = doc.get
    values: list[Any] = [get(name) for name in _JOB_FIELDS]
    return Job(
        doc["task_id"],
        doc["_id"],
        definition_from(doc["definition"]),
        Schedule(get("start_at"), get("cron"), doc["timezone"]),
        *values,
    )


def job_doc(job: Job, base: Doc) -> Doc:
    """The document of *job*; *base* is the one it replaces, or has its ``seq``."""
    doc = {
        "_id": job.id,
        "task_id": job.task_id,
        "definition": definition_text(job.definition),
        "start_at": job.schedule.start_at,
        "cron": job.schedule.cron,
        "timezone": job.schedule.timezone,
        "seq": base["seq"],
        "rev": base.get("rev", 0),
        "applied": base.get("applied"),
        "removed": base.get("removed"),
        **{name: getattr(job, name) for name in _JOB_FIELDS},
    }
    doc["request_ip"] = clean(job.request_ip)
    if job.next_run_at is None and job.execution_count == base.get("removed", 0):
        # What the index for forgetting is on.
        doc["idle"] = job.modified_at
    return _present(doc)


_EXECUTION_FIELDS = (
    "farm",
    "created_at",
    "queue_job_id",
    "generation",
    "number",
    "attempt",
    "tick",
    "late_seconds",
    "request_ip",
    "status",
    "reason",
    "error",
    "exit_code",
    "started_at",
    "finished_at",
    "due_at",
    "waits_for",
    "position",
    "owner",
    "epoch",
    "host",
    "run_id",
    "stop_reason",
    "stop_requested_at",
    "lost_reruns",
)
_STATUS = 9
_REASON = 10
_STOP_REASON = 22
_LOST_RERUNS = 24


def execution_from(doc: Doc) -> Execution:
    get = doc.get
    values: list[Any] = [get(name) for name in _EXECUTION_FIELDS]
    values[_STATUS] = Status(values[_STATUS])
    if values[_REASON] is not None:
        values[_REASON] = Reason(values[_REASON])
    if values[_STOP_REASON] is not None:
        values[_STOP_REASON] = Reason(values[_STOP_REASON])
    # Written by an older version, which had no such count.
    values[_LOST_RERUNS] = values[_LOST_RERUNS] or 0
    return Execution(
        doc["_id"], doc["task_id"], doc["job_id"], definition_from(doc["definition"]), *values
    )


def execution_doc(execution: Execution, base: Doc) -> Doc:
    """The document of *execution*; *base* is the one it replaces, or has its ``seq``."""
    e = execution
    enqueued = e.status is Status.ENQUEUED
    active = e.status in {Status.PULLING, Status.RUNNING}
    doc = {
        "_id": e.id,
        "task_id": e.task_id,
        "job_id": e.job_id,
        "definition": base.get("definition") or definition_text(e.definition),
        "seq": base["seq"],
        "rev": base.get("rev", 0),
        **{name: getattr(e, name) for name in _EXECUTION_FIELDS},
        # What the indexes are on.
        "first_of_tick": e.tick if e.attempt == 0 else None,
        "queue": e.position if enqueued else None,
        "due": e.due_at if enqueued and e.waits_for is None else None,
        "waits": e.waits_for if enqueued else None,
        "delayed": True if enqueued and e.position is None else None,
        "expires": e.definition.expires_at if enqueued else None,
        "enqueued_of": e.job_id if enqueued else None,
        "active_owner": e.owner if active else None,
        "over": e.finished_at if e.final else None,
        "slot": base.get("slot") if active else None,
    }
    doc["status"] = str(e.status)
    doc["reason"] = None if e.reason is None else str(e.reason)
    doc["stop_reason"] = None if e.stop_reason is None else str(e.stop_reason)
    doc["error"] = clean(e.error)
    doc["request_ip"] = clean(e.request_ip)
    return _present(doc)


_DELIVERY_FIELDS = (
    "execution_id",
    "task_id",
    "job_id",
    "channel",
    "event",
    "index",
    "target",
    "receiver",
    "created_at",
    "state",
    "attempts",
    "due_at",
    "claim",
    "claimed_at",
)


def delivery_from(doc: Doc) -> Delivery:
    values: list[Any] = [doc.get(name) for name in _DELIVERY_FIELDS]
    values[4] = Event(values[4])
    values[9] = DeliveryState(values[9])
    values.append(tuple(Attempt(*attempt) for attempt in json.loads(doc["history"])))
    return Delivery(doc["_id"], *values)


def delivery_doc(delivery: Delivery, base: Doc) -> Doc:
    d = delivery
    pending = d.state is DeliveryState.PENDING
    doc = {
        "_id": d.id,
        "seq": base["seq"],
        "rev": base.get("rev", 0),
        **{name: getattr(d, name) for name in _DELIVERY_FIELDS},
        "history": json.dumps(
            [[a.at, a.duration_seconds, a.status, clean(a.error)] for a in d.history]
        ),
        # What the indexes are on.
        "pending": clean(d.receiver) if pending else None,
        "due": d.due_at if pending else None,
        "open": None if d.state is DeliveryState.DELIVERED else str(d.state),
        "counted": f"{d.state} {d.channel}" if pending else None,
    }
    for name in ("channel", "event", "state"):
        doc[name] = str(doc[name])
    for name in ("target", "receiver"):
        doc[name] = clean(doc[name])
    return _present(doc)


def _present(doc: Doc) -> Doc:
    return {name: value for name, value in doc.items() if value is not None}


async def page_of(
    collection: Collection,
    wanted: Doc,
    page: PageRequest,
    total: int,
    record_from: Callable[[Doc], T],
    *,
    by: str,
    order: int,
) -> Page[T]:
    """What *wanted* names, in the order of the number *by*; a cursor is the last one's number."""
    cursor = cursor_numbers(page, parts=1)
    skip = 0
    if cursor is not None:
        wanted = wanted | {by: {"$gt" if order == ASCENDING else "$lt": cursor[0]}}
    else:
        skip = (page.number - 1) * page.size
        if skip >= MAX_OFFSET:
            return Page([], total, None)
    found = collection.find(wanted).sort(by, order).skip(skip)
    docs = await found.to_list(page.size + 1)
    return page_from(docs, page, total, record_from, lambda doc: str(doc[by]))


def page_from(
    docs: Sequence[Doc],
    page: PageRequest,
    total: int,
    record_from: Callable[[Doc], T],
    cursor_of: Callable[[Doc], str],
) -> Page[T]:
    """One document more than the page holds was read, to know whether that was the last page."""
    items = [record_from(doc) for doc in docs[: page.size]]
    more = len(docs) > page.size
    return Page(items, total, cursor_of(docs[page.size - 1]) if more else None)
