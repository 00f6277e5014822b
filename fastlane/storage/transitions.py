"""Which fields of a record an operation changes, and to what: the same in every storage."""

from __future__ import annotations

from typing import Any

from fastlane.model import ATTEMPTS_KEPT, Attempt, Delivery, DeliveryState, Execution, Job, Outcome
from fastlane.storage.codec import clean

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
    names = ("definition", "schedule", "queue_job_id", "next_run_at", "modified_at", "request_ip")
    return {
        **{name: getattr(job, name) for name in names},
        "generation": there.generation + 1,
        "stopped_at": None,
        "execution_count": there.execution_count + (execution is not None),
    }


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
