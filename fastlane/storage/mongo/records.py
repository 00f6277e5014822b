"""Documents to frozen records and back. A value of None is a field that is not there.

A release runs beside the one before it on one database. So a field that a document lacks reads as
its default, and a field that this release does not know stays on the document.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from pymongo import ASCENDING

from fastlane.model import ACTIVE, Delivery, DeliveryState, Execution, Job, Status, Task
from fastlane.storage.base import Page, PageRequest
from fastlane.storage.codec import (
    DELIVERY_FIELDS,
    EXECUTION_FIELDS,
    JOB_FIELDS,
    active_run_of,
    cursor_numbers,
    delivery_of,
    delivery_values,
    execution_of,
    execution_values,
    job_of,
    job_values,
)
from fastlane.storage.mongo.writes import Collection, Doc
from fastlane.storage.values import ACTIVE_RUN_FIELDS, ActiveRun

T = TypeVar("T")

# Bounds an offset to what MongoDB can count; no collection is that long.
MAX_OFFSET = 2**62

_JOB_NAMES = tuple("_id" if name == "id" else name for name in JOB_FIELDS)
_EXECUTION_NAMES = ("_id", *EXECUTION_FIELDS[1:])
_DELIVERY_NAMES = ("_id", *DELIVERY_FIELDS[1:])


def task_from(doc: Doc) -> Task:
    return Task(doc["_id"], doc["created_at"], doc["modified_at"], doc["jobs_count"])


def job_from(doc: Doc) -> Job:
    return job_of([doc.get(name) for name in _JOB_NAMES])


def job_doc(job: Job, base: Doc) -> Doc:
    """The document of *job*; *base* is the one it replaces, or has its ``seq``."""
    doc = _merged(base, _JOB_NAMES, job_values(job))
    waits = job.next_run_at is not None or job.paused or job.deleted_at is not None
    idle = not waits and job.execution_count == base.get("removed", 0)
    # What the index for forgetting is on.
    doc["idle"] = job.modified_at if idle else None
    return _present(doc)


def execution_from(doc: Doc) -> Execution:
    return execution_of([doc.get(name) for name in _EXECUTION_NAMES])


def active_run_from(doc: Doc) -> ActiveRun:
    return active_run_of([doc["_id"], *(doc.get(name) for name in ACTIVE_RUN_FIELDS[1:])])


def execution_doc(execution: Execution, base: Doc) -> Doc:
    """The document of *execution*; *base* is the one it replaces, or has its ``seq``."""
    e = execution
    enqueued = e.status is Status.ENQUEUED
    active = e.status in ACTIVE
    doc = _merged(base, _EXECUTION_NAMES, execution_values(e, base.get("definition")))
    # What the indexes are on.
    doc["first_of_tick"] = e.tick if e.attempt == 0 else None
    doc["queue"] = e.position if enqueued else None
    doc["due"] = e.due_at if enqueued and e.waits_for is None else None
    doc["waits"] = e.waits_for if enqueued else None
    doc["delayed"] = True if enqueued and e.position is None else None
    doc["expires"] = e.definition.expires_at if enqueued else None
    doc["enqueued_of"] = e.job_id if enqueued else None
    doc["active_owner"] = e.owner if active else None
    doc["over"] = e.finished_at if e.final and e.deleted_at is None else None
    doc["slot"] = base.get("slot") if active else None
    return _present(doc)


def delivery_from(doc: Doc) -> Delivery:
    return delivery_of([doc.get(name) for name in _DELIVERY_NAMES])


def delivery_doc(delivery: Delivery, base: Doc) -> Doc:
    doc = _merged(base, _DELIVERY_NAMES, delivery_values(delivery))
    pending = delivery.state is DeliveryState.PENDING
    # What the indexes are on.
    doc["pending"] = doc["receiver"] if pending else None
    doc["due"] = delivery.due_at if pending else None
    doc["open"] = None if delivery.state is DeliveryState.DELIVERED else doc["state"]
    doc["counted"] = f"{delivery.state} {delivery.channel}" if pending else None
    return _present(doc)


def _merged(base: Doc, names: Sequence[str], values: Sequence[object]) -> Doc:
    """*base* with *values* under *names*, and without a follow-up.

    The caller sets every field that is derived from a record, to None where it is not to be there.
    """
    doc = {"rev": 0} | base | dict(zip(names, values, strict=True))
    doc.pop("todo", None)
    return doc


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
    found = collection.find(wanted).sort(by, order).skip(skip).limit(page.size + 1)
    docs = await found.to_list(None)
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
