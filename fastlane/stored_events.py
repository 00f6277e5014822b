"""What happened to tasks, jobs, executions and hosts, as it is stored with each change.

Not to be confused with :mod:`fastlane.events`, which is news inside the server and may be lost. A
stored event is part of the write that it reports; see WATCH.md, "What happened: events".
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from operator import attrgetter
from typing import Any

from fastlane.model import FINAL, Delivery, Event, Execution, HostRecord, Job, Status

_EXECUTIONS = uuid.UUID("9b1d0a1e-6a53-4f0e-8f2c-0c7b8f0c9d37")


class EventType(StrEnum):
    """Every type of a stored event. Those of executions end in a status."""

    JOB_CREATED = "job.created"
    JOB_UPDATED = "job.updated"
    JOB_STOPPED = "job.stopped"
    JOB_PAUSED = "job.paused"
    JOB_RESUMED = "job.resumed"
    JOB_DELETED = "job.deleted"
    TICK_SKIPPED = "job.tick_skipped"
    EXECUTION_ENQUEUED = "execution.enqueued"
    EXECUTION_PULLING = "execution.pulling"
    EXECUTION_RUNNING = "execution.running"
    EXECUTION_DONE = "execution.done"
    EXECUTION_FAILED = "execution.failed"
    EXECUTION_TIMEDOUT = "execution.timedout"
    EXECUTION_EXPIRED = "execution.expired"
    EXECUTION_DELETED = "execution.deleted"
    TASK_DELETED = "task.deleted"
    HOST_DOWN = "host.down"
    HOST_UP = "host.up"
    HOST_DRAINED = "host.drained"
    HOST_UNDRAINED = "host.undrained"
    NOTIFICATION_FAILED = "notification.failed"
    GAP = "gap"
    """Never stored: events before this point may be missing."""


class SkipReason(StrEnum):
    """Why a tick got no execution of its own."""

    OVERLAP = "overlap"
    """The execution before it is not final, and the job says to skip then."""
    WAITING = "waiting"
    """As many executions wait as the job allows; the newest of them took the tick."""
    MISSED = "missed"
    """The server did not run at its time; the last tick that was missed ran instead."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One event. Keys that do not apply are None. ``at`` is in unix seconds."""

    id: str
    type: str
    """An :class:`EventType`, or a later release's."""
    at: float
    task_id: str | None = None
    job_id: str | None = None
    execution_id: str | None = None
    status: str | None = None
    reason: str | None = None
    exit_code: int | None = None
    attempt: int | None = None
    host: str | None = None
    waiting: str | None = None
    """Why the execution does not start yet, in a sentence."""
    ran_seconds: float | None = None
    """Of a final execution that was started. Not shown."""
    waited_seconds: float | None = None
    """In the queue until the start, of a final execution that was started. Not shown."""
    again: bool = False
    """The execution was enqueued before. Not shown."""
    position: int = 0
    """Its place in the order of all events, given by the storage when it can be read."""


_STORED = {
    "id": "id",
    "type": "type",
    "at": "at",
    "task": "task_id",
    "job": "job_id",
    "execution": "execution_id",
    "status": "status",
    "reason": "reason",
    "exit": "exit_code",
    "attempt": "attempt",
    "host": "host",
    "waiting": "waiting",
    "ran": "ran_seconds",
    "waited": "waited_seconds",
    "again": "again",
}
_values = attrgetter(*_STORED.values())


def event_doc(event: StoredEvent) -> dict[str, Any]:
    """*event* without its position, as both storages keep it; None is left out."""
    found = zip(_STORED, _values(event), strict=True)
    return {key: value for key, value in found if value is not None and value is not False}


def event_from(doc: dict[str, Any], position: int) -> StoredEvent:
    """The reverse of :func:`event_doc`; keys that are not known are left out."""
    known = {_STORED[key]: value for key, value in doc.items() if key in _STORED}
    return StoredEvent(**known, position=position)


def execution_event_id(execution_id: str, status: Status, epoch: int = 0) -> str:
    """The id of the event that reports *status*.

    It follows from the change, so that a change which is repeated has no second event. Only what
    can happen again, because an execution was handed back, has a number of its own.
    """
    number = f"/{epoch}" if status in {Status.ENQUEUED, Status.PULLING} and epoch else ""
    return str(uuid.uuid5(_EXECUTIONS, f"{execution_id}/{status}{number}"))


def notified_event_id(execution: Execution, event: Event) -> str:
    """The id of the stored event that a notification of *event* is about."""
    started = event is Event.STARTS
    return execution_event_id(execution.id, Status.RUNNING if started else execution.status)


def execution_event(execution: Execution, at: float) -> StoredEvent:
    """What reports that *execution* has got the status that it has."""
    e = execution
    ran = waited = None
    if e.status in FINAL and e.started_at is not None and e.finished_at is not None:
        ran = max(e.finished_at - e.started_at, 0.0)
        waited = max(e.started_at - (e.queued_at or e.created_at), 0.0)
    return StoredEvent(
        id=execution_event_id(e.id, e.status, e.epoch),
        type=f"execution.{e.status}",
        at=at,
        task_id=e.task_id,
        job_id=e.job_id,
        execution_id=e.id,
        status=e.status.value,
        reason=None if e.reason is None else e.reason.value,
        exit_code=e.exit_code,
        attempt=e.attempt,
        host=e.host,
        waiting=waiting_text(e) if e.status is Status.ENQUEUED else None,
        ran_seconds=ran,
        waited_seconds=waited,
        again=e.status is Status.ENQUEUED and e.epoch > 0,
    )


def deleted_execution_event(execution: Execution, at: float) -> StoredEvent:
    """What reports that *execution* was deleted."""
    event = replace(execution_event(execution, at), type=EventType.EXECUTION_DELETED.value)
    new_id = str(uuid.uuid5(_EXECUTIONS, f"{execution.id}/deleted"))
    return replace(event, id=new_id, waiting=None, ran_seconds=None, waited_seconds=None)


def job_event(
    job: Job, event_type: EventType, at: float, *, reason: str | None = None
) -> StoredEvent:
    """What reports a change of *job*."""
    return _new(event_type, at, task_id=job.task_id, job_id=job.id, reason=reason)


def task_event(task_id: str, event_type: EventType, at: float) -> StoredEvent:
    """What reports a change of a task."""
    return _new(event_type, at, task_id=task_id)


def delivery_event(delivery: Delivery, at: float) -> StoredEvent:
    """What reports that *delivery* has no retries left."""
    return _new(
        EventType.NOTIFICATION_FAILED,
        at,
        task_id=delivery.task_id,
        job_id=delivery.job_id,
        execution_id=delivery.execution_id,
    )


def breaker_event(before: HostRecord, after: HostRecord, at: float) -> StoredEvent | None:
    """What reports that a circuit has opened or closed; None where neither is so."""
    if (before.open_until is None) == (after.open_until is None):
        return None
    down = after.open_until is not None
    return _new(EventType.HOST_DOWN if down else EventType.HOST_UP, at, host=after.host)


def drain_event(host: str, before: bool, after: bool, at: float) -> StoredEvent | None:
    """What reports that a host was drained or undrained; None where it was so before."""
    if before == after:
        return None
    return _new(EventType.HOST_DRAINED if after else EventType.HOST_UNDRAINED, at, host=host)


def gap_event(at: float, position: int) -> StoredEvent:
    """What says that events before *position* are missing."""
    return replace(_new(EventType.GAP, at), position=position)


def _new(event_type: EventType, at: float, **known: Any) -> StoredEvent:
    return StoredEvent(str(uuid.uuid4()), event_type.value, at, **known)


def tick_events(
    job: Job, execution: Execution | None, at: float, skipped: float | None, *, merges: bool
) -> list[StoredEvent]:
    """What reports the ticks that got no execution, as *job* moves on to its next tick.

    The parameters are those of :func:`skip_reasons`.
    """
    reasons = skip_reasons(job, execution, skipped, merges=merges)
    return [job_event(job, EventType.TICK_SKIPPED, at, reason=one.value) for one in reasons]


def skip_reasons(
    job: Job, execution: Execution | None, skipped: float | None, *, merges: bool
) -> list[SkipReason]:
    """Why ticks got no execution of their own, as *job* moves on to its next tick.

    :param job: as it was before.
    :param execution: what stands for the tick, or None.
    :param skipped: the tick that got no execution of its own, or None.
    :param merges: a waiting execution has taken the tick of *execution*.
    """
    reasons: list[SkipReason] = []
    tick = skipped if execution is None else execution.tick
    if tick is not None and job.next_run_at is not None and tick > job.next_run_at:
        reasons.append(SkipReason.MISSED)
    if skipped is not None:
        reasons.append(SkipReason.WAITING if merges else SkipReason.OVERLAP)
    return reasons


def waiting_text(execution: Execution) -> str | None:
    """Why an enqueued execution is in no queue yet, in a sentence; None where it is in one."""
    if execution.waits_for is not None:
        return f"It waits for execution {execution.waits_for} to end."
    if execution.due_at is not None:
        return "It is a retry whose delay has not passed."
    return None


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events somebody wants. What is empty or None holds for all."""

    tasks: tuple[str, ...] = ()
    """Globs of task ids, one of which must match."""
    job_id: str | None = None
    execution_id: str | None = None
    types: tuple[str, ...] = ()
    """Types, or the beginning of one followed by ``*``."""

    def wants(self, event: StoredEvent) -> bool:
        """Whether *event* is among them; a gap always is."""
        if event.type == EventType.GAP:
            return True
        if self.job_id is not None and event.job_id != self.job_id:
            return False
        if self.execution_id is not None and event.execution_id != self.execution_id:
            return False
        if self.types and not any(_fits(event.type, one) for one in self.types):
            return False
        if not self.tasks:
            return True
        task_id = event.task_id
        return task_id is not None and any(fnmatchcase(task_id, one) for one in self.tasks)


def _fits(event_type: str, wanted: str) -> bool:
    return event_type == wanted or (
        wanted.endswith("*") and event_type.startswith(wanted.removesuffix("*"))
    )
