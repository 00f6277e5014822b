"""What is decided, as pure functions: no I/O, no clock, no state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from fastlane.cron import next_tick, previous_tick
from fastlane.model import (
    Backoff,
    Execution,
    Farm,
    LogCap,
    Outcome,
    Reason,
    Resources,
    Schedule,
    Status,
)
from fastlane.patterns import pattern

Limit = TypeVar("Limit", int, float)

# Bounds what is called on time: a tick found later than this is recorded as late.
LATE_AFTER_SECONDS = 10.0


def farm_for(task_id: str, farms: Sequence[Farm]) -> Farm | None:
    """The first farm whose pattern is found in *task_id*; None when no farm takes it."""
    return next((farm for farm in farms if pattern(farm.match).is_in(task_id)), None)


def least_loaded(hosts: Sequence[str], load: Mapping[str, int]) -> str | None:
    """The host with the fewest active executions, the first of them when several are equal."""
    return min(hosts, key=lambda host: load.get(host, 0), default=None)


def retry_delay_seconds(backoff: Backoff, retry: int) -> float:
    """The delay before the *retry*-th retry (from 1), never more than the backoff's maximum."""
    try:
        delay_ms = backoff.min_ms * backoff.factor ** (retry - 1)
    except OverflowError:
        delay_ms = backoff.max_ms
    return min(delay_ms, backoff.max_ms) / 1000


def follow_up_delay_seconds(execution: Execution, outcome: Outcome) -> float | None:
    """How long after its end a retry of *execution* is due; None when no retry follows.

    Failed and timed-out executions are retried while retries are left. What was stopped stays
    stopped. A lost execution may have done its work, so only the job's ``rerunWhenLost`` repeats
    it, whatever its retries.
    """
    definition = execution.definition
    if outcome.reason is Reason.LOST:
        wanted = definition.rerun_when_lost
    else:
        wanted = (
            outcome.status in {Status.FAILED, Status.TIMEDOUT}
            and outcome.reason is not Reason.STOPPED
            and execution.attempt < definition.retries
        )
    if not wanted:
        return None
    return retry_delay_seconds(definition.backoff, execution.attempt + 1)


def outcome_of_exit(exit_code: int | None, *, oom: bool, error: str | None) -> Outcome:
    """How a run that ended by itself ended; *error* is what the host says of it."""
    if exit_code == 0:
        return Outcome(Status.DONE, Reason.EXIT_CODE, 0)
    if oom:
        return Outcome(Status.FAILED, Reason.OOM, exit_code, "The container ran out of memory.")
    return Outcome(Status.FAILED, Reason.EXIT_CODE, exit_code, error)


def with_stop_intent(outcome: Outcome, intent: Reason | None, execution: Execution) -> Outcome:
    """*outcome* as it reads when somebody had asked for an early end.

    The intent wins over the exit code: 137 and 143 do not tell who sent the signal, and a command
    may well exit with 0 when it is told to stop.
    """
    if intent is Reason.TIMEOUT:
        return replace(
            outcome,
            status=Status.TIMEDOUT,
            reason=Reason.TIMEOUT,
            error=f"The execution ran longer than {execution.definition.timeout_seconds:g} s.",
        )
    if intent is not None:
        return replace(
            outcome,
            status=Status.FAILED,
            reason=Reason.STOPPED,
            error="The execution was stopped on request.",
        )
    return outcome


def first_run_at(schedule: Schedule, now: float) -> float | None:
    """When a job submitted at *now* is to run first; None means at once."""
    if schedule.cron is not None:
        return next_tick(schedule.cron, schedule.timezone, now)
    if schedule.start_at is not None and schedule.start_at > now:
        return schedule.start_at
    return None


def tick_to_run(schedule: Schedule, next_run_at: float, now: float) -> float:
    """The tick that stands for all that are due: of several missed ones the latest."""
    if schedule.cron is None:
        return next_run_at
    latest = previous_tick(schedule.cron, schedule.timezone, now)
    return next_run_at if latest is None else max(next_run_at, latest)


def run_after(schedule: Schedule, now: float) -> float | None:
    """The tick behind *now*, or None when the job has had its last."""
    if schedule.cron is None:
        return None
    return next_tick(schedule.cron, schedule.timezone, now)


def late_seconds(tick: float, now: float) -> float | None:
    """How late a run is that stands for *tick*, or None when it counts as on time."""
    late = now - tick
    return late if late > LATE_AFTER_SECONDS else None


def capped(wanted: Resources, caps: Resources) -> Resources:
    """*wanted*, with each limit no higher than *caps* and set to it where none was asked for."""
    return Resources(
        cpus=_lower(wanted.cpus, caps.cpus),
        memory_bytes=_lower(wanted.memory_bytes, caps.memory_bytes),
        pids=_lower(wanted.pids, caps.pids),
    )


def _lower(wanted: Limit | None, cap: Limit | None) -> Limit | None:
    if wanted is None or cap is None:
        return cap if wanted is None else wanted
    return min(wanted, cap)


def log_cap(max_bytes: int) -> LogCap | None:
    """Half of *max_bytes* for each end of the log; 0 is no cap."""
    if max_bytes == 0:
        return None
    return LogCap(head_bytes=max_bytes // 2, tail_bytes=max_bytes - max_bytes // 2)
