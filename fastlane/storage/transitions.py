"""Which fields of a record an operation changes, and to what: the same in every storage."""

from __future__ import annotations

from typing import Any

from fastlane.model import ATTEMPTS_KEPT, Attempt, Delivery, DeliveryState, Execution, Job, Outcome
from fastlane.storage.codec import clean
from fastlane.stored_events import EventType, StoredEvent, job_event

Changes = dict[str, Any]


def ended(outcome: Outcome, finished_at: float) -> Changes:
    """Of an execution that becomes final."""
    return {
        "status": outcome.status,
        "reason": outcome.reason,
        "exit_code": outcome.exit_code,
        "error": clean(outcome.error),
        "finished_at": finished_at,
        "waits_for": None,
        "due_at": None,
    }


def replaced(there: Job, job: Job, execution: Execution | None) -> Changes:
    """Of the job *there*, which gets the definition and the schedule of *job*."""
    names = ("definition", "schedule", "queue_job_id", "modified_at", "request_ip")
    # What is to run at once is no longer scheduled, so nothing is left to pause.
    paused = there.paused and job.next_run_at is not None
    return {
        **{name: getattr(job, name) for name in names},
        "next_run_at": None if paused else job.next_run_at,
        "paused_at": there.paused_at if paused else None,
        "generation": there.generation + 1,
        "stopped_at": None,
        "execution_count": there.execution_count + (execution is not None),
    }


def made_anew(job: Job) -> Changes:
    """What changes further of a deleted job whose id *job* has."""
    return {
        "task_id": job.task_id,
        "name": job.name,
        "created_at": job.created_at,
        "deleted_at": None,
        "paused_at": None,
        "next_run_at": job.next_run_at,
        "skipped_ticks": 0,
        "last_skipped_tick": None,
    }


def schedule_state(job: Job) -> tuple[int, float | None, float | None]:
    """What a pause and its end are compared on."""
    return job.generation, job.next_run_at, job.paused_at


def pause_event(job: Job, paused_at: float | None, now: float) -> StoredEvent:
    """What reports that *job* is paused, or resumed."""
    change = EventType.JOB_RESUMED if paused_at is None else EventType.JOB_PAUSED
    return job_event(job, change, now)


def attempted(delivery: Delivery, attempt: Attempt, retry_at: float | None) -> Changes:
    """Of a delivery whose *attempt* has ended."""
    delivered = attempt.error is None
    state = DeliveryState.FAILED if retry_at is None else DeliveryState.PENDING
    return {
        "state": DeliveryState.DELIVERED if delivered else state,
        "attempts": delivery.attempts + 1,
        "due_at": None if delivered else retry_at,
        "claimed_at": None,
        "history": (*delivery.history, attempt)[-ATTEMPTS_KEPT:],
    }
