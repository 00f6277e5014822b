"""Decisions, as pure functions: no I/O, no clock, no state."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

from fastlane.cron import next_tick, previous_tick
from fastlane.image import DEFAULT_REGISTRY, ImageReference
from fastlane.model import (
    FINAL,
    Attempt,
    Backoff,
    Delivery,
    Event,
    Execution,
    Farm,
    Job,
    LogCap,
    Outcome,
    Reason,
    Resources,
    Schedule,
    Status,
    Trigger,
)
from fastlane.patterns import admits, pattern

Limit = TypeVar("Limit", int, float)

_DELIVERIES = uuid.UUID("6ad56c54-8d0d-4a53-9b6c-33ce6ac0ae8b")
"""The namespace of delivery ids (RFC 9562, section 5.5)."""

# Bounds, unless configured otherwise, how often in a row a lost execution is run again.
LOST_RERUNS_MAX = 5
# Bounds what is called on time: a tick found later than this is recorded as late.
LATE_AFTER_SECONDS = 10.0
# Bounds from below how far two ticks of a cron expression are apart.
TICKS_APART_SECONDS = 60.0


def farm_for(task_id: str, farms: Sequence[Farm]) -> Farm | None:
    """The first farm whose pattern is found in *task_id*; None if no farm matches."""
    return next((farm for farm in farms if _matches(farm.match, task_id)), None)


# Bounds what is remembered; a thousand ticks in one minute ask about the same tasks again.
@lru_cache(maxsize=4096)
def _matches(match: str, task_id: str) -> bool:
    return pattern(match).is_in(task_id)


def least_loaded(hosts: Sequence[str], load: Mapping[str, int]) -> Sequence[str]:
    """The hosts with the fewest active executions, in their order."""
    fewest = min((load.get(host, 0) for host in hosts), default=0)
    return [host for host in hosts if load.get(host, 0) == fewest]


def retry_delay_seconds(backoff: Backoff, retry: int) -> float:
    """The delay before the *retry*-th retry (from 1), never more than the backoff's maximum."""
    try:
        delay_ms = backoff.min_ms * backoff.factor ** (retry - 1)
    except OverflowError:
        delay_ms = backoff.max_ms
    return min(delay_ms, backoff.max_ms) / 1000


def follow_up_delay_seconds(
    execution: Execution, outcome: Outcome, *, lost_reruns_max: int = LOST_RERUNS_MAX
) -> float | None:
    """How long after its end *execution* is followed by another; None when it is not.

    Failed and timed-out executions are retried while retries are left. What was stopped stays
    stopped. A lost execution may have done its work, so only the job's ``rerunWhenLost`` repeats
    it, whatever its retries, and at most *lost_reruns_max* times in a row.
    """
    definition = execution.definition
    if outcome.reason is Reason.LOST:
        before = execution.lost_reruns
        wanted = definition.rerun_when_lost and before < lost_reruns_max
    else:
        before = execution.attempt
        wanted = (
            outcome.status in {Status.FAILED, Status.TIMEDOUT}
            and outcome.reason is not Reason.STOPPED
            and before < definition.retries
        )
    return retry_delay_seconds(definition.backoff, before + 1) if wanted else None


def follow_up(
    execution: Execution,
    outcome: Outcome,
    *,
    id: str,
    now: float,
    lost_reruns_max: int = LOST_RERUNS_MAX,
) -> Execution | None:
    """The execution that follows *execution* after *outcome*, or None."""
    delay_seconds = follow_up_delay_seconds(execution, outcome, lost_reruns_max=lost_reruns_max)
    if delay_seconds is None:
        return None
    lost = outcome.reason is Reason.LOST
    return Execution(
        id=id,
        task_id=execution.task_id,
        job_id=execution.job_id,
        definition=execution.definition,
        farm=execution.farm,
        created_at=now,
        queue_job_id=execution.queue_job_id,
        generation=execution.generation,
        attempt=execution.attempt if lost else execution.attempt + 1,
        lost_reruns=execution.lost_reruns + 1 if lost else 0,
        trigger=Trigger.LOST if lost else Trigger.RETRY,
        retry_of=execution.id,
        request_ip=execution.request_ip,
        due_at=now + delay_seconds,
    )


def execution_of(job: Job, farm: Farm | None, *, id: str, now: float) -> Execution:
    """A first attempt of *job* on *farm*, or on none until there is one that accepts its task."""
    return Execution(
        id=id,
        task_id=job.task_id,
        job_id=job.id,
        definition=job.definition,
        # No farm has an empty name.
        farm="" if farm is None else farm.name,
        created_at=now,
        queue_job_id=job.queue_job_id,
        generation=job.generation,
        request_ip=job.request_ip,
    )


def outcome_of_exit(
    exit_code: int | None, *, oom: bool, error: str | None, ran_seconds: float | None = None
) -> Outcome:
    """How a run that ended by itself ended; *error* is what the host says of it."""
    status, reason = Status.FAILED, Reason.EXIT_CODE
    if exit_code == 0:
        status, error = Status.DONE, None
    elif oom:
        reason, error = Reason.OOM, "The container ran out of memory."
    return Outcome(status, reason, exit_code, error, ran_seconds)


def with_stop_intent(outcome: Outcome, intent: Reason | None, execution: Execution) -> Outcome:
    """*outcome*, changed where an early end had been requested.

    The intent wins over the exit code: 137 and 143 do not tell who sent the signal, and a command
    may well exit with 0 when it is stopped. But a run that lasted no longer than its limit has not
    timed out, even if a stop was on its way.
    """
    if intent is Reason.TIMEOUT:
        limit_seconds = execution.definition.timeout_seconds
        if outcome.ran_seconds is not None and outcome.ran_seconds <= limit_seconds:
            return outcome
        return replace(
            outcome,
            status=Status.TIMEDOUT,
            reason=Reason.TIMEOUT,
            error=f"The execution ran longer than {limit_seconds:g} s.",
        )
    if intent is Reason.DISK:
        return replace(
            outcome,
            status=Status.FAILED,
            reason=Reason.DISK,
            error="The run wrote more to its disk than it may: see resources.disk of the job and "
            "the limits of its farm.",
        )
    if intent is not None:
        return replace(
            outcome,
            status=Status.FAILED,
            reason=Reason.STOPPED,
            error="The execution was stopped on request.",
        )
    return outcome


def not_before(now: float, execution: Execution) -> float:
    """*now* for a new time of *execution*: its times never run backwards, even where instances
    whose clocks differ have written them, or a clock was set back.
    """
    return max(now, execution.created_at, execution.started_at or execution.created_at)


def first_run_at(schedule: Schedule, now: float) -> float | None:
    """When a job submitted at *now* is to run first; None means at once."""
    if schedule.cron is not None:
        return next_tick(schedule.cron, schedule.timezone, now)
    if schedule.start_at is not None and schedule.start_at > now:
        return schedule.start_at
    return None


def next_runs(schedule: Schedule, now: float, count: int) -> Sequence[float]:
    """When a job submitted at *now* runs: at most the first *count* times."""
    first = first_run_at(schedule, now)
    runs = [now if first is None else first]
    while schedule.cron is not None and len(runs) < count:
        tick = next_tick(schedule.cron, schedule.timezone, runs[-1])
        if tick is None:
            break
        runs.append(tick)
    return runs


def resumed_run_at(schedule: Schedule, now: float) -> float | None:
    """When a paused job that is resumed at *now* runs next; ticks it has missed are not made up
    for, but a single time that has passed is."""
    return schedule.start_at if schedule.cron is None else first_run_at(schedule, now)


def tick_to_run(schedule: Schedule, next_run_at: float, now: float) -> float:
    """The tick to run for all that are due: the latest of several missed ones."""
    if schedule.cron is None or now < next_run_at + TICKS_APART_SECONDS:
        return next_run_at
    latest = previous_tick(schedule.cron, schedule.timezone, now)
    return next_run_at if latest is None else max(next_run_at, latest)


def run_after(schedule: Schedule, now: float) -> float | None:
    """The tick after *now*, or None when the job has had its last."""
    if schedule.cron is None:
        return None
    return next_tick(schedule.cron, schedule.timezone, now)


def late_seconds(tick: float, now: float) -> float | None:
    """How late the run for *tick* is, or None when it counts as on time."""
    late = now - tick
    return late if late > LATE_AFTER_SECONDS else None


def capped(wanted: Resources, caps: Resources) -> Resources:
    """*wanted*, with each limit no higher than *caps* and set to it where none was asked for."""
    return Resources(
        cpus=_lower(wanted.cpus, caps.cpus),
        memory_bytes=_lower(wanted.memory_bytes, caps.memory_bytes),
        pids=_lower(wanted.pids, caps.pids),
        disk_bytes=_lower(wanted.disk_bytes, caps.disk_bytes),
    )


def image_refusal(image: ImageReference, farm: Farm) -> str | None:
    """A sentence on why *farm* does not run *image*; None if it does.

    One of the farm's patterns must match the whole reference, with the tag spelled out, and the
    registry as well where the pattern has one.
    """
    if image.is_id and not farm.image_ids:
        return (
            f'Farm "{farm.name}" does not run image ids like "{image.submitted}", which say '
            "nothing about where an image is from; give its name."
        )
    if not farm.images or any(_admits(one, image) for one in farm.images):
        return None
    return (
        f'Farm "{farm.name}" does not run image "{image.submitted}"; '
        f"its images are: {', '.join(farm.images)}."
    )


def _admits(text: str, image: ImageReference) -> bool:
    paths = {image.path}
    if image.registry == DEFAULT_REGISTRY:
        paths.add(image.familiar_name)
        whole = pattern(rf"\A(?:{text})\z")
        if any(whole.is_in(f"{path}{image.version}") for path in paths):
            return True
    return any(admits(text, image.registry, f"{path}{image.version}") for path in paths)


def farm_caps(farm: Farm, caps: Resources) -> Resources:
    """What one run on *farm* may have at most: its own limits, and *caps* where it has none."""
    limits = farm.limits
    return Resources(
        cpus=limits.cpus if limits.cpus is not None else caps.cpus,
        memory_bytes=limits.memory_bytes if limits.memory_bytes is not None else caps.memory_bytes,
        pids=limits.pids if limits.pids is not None else caps.pids,
        disk_bytes=limits.disk_bytes if limits.disk_bytes is not None else caps.disk_bytes,
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


def deliveries_of(
    execution: Execution, *, now: float, retry_follows: bool = False
) -> tuple[Delivery, ...]:
    """The outbox entries for the status that *execution* has just reached.

    A storage writes them in the step that makes the status. Running is ``starts``; every final
    status is ``finishes``, and ``succeeds`` or ``fails``. With *retry_follows*, ``fails`` goes
    only to those who want every attempt.
    """
    if execution.status is Status.RUNNING:
        events = [Event.STARTS]
    elif execution.status in FINAL:
        ending = Event.SUCCEEDS if execution.status is Status.DONE else Event.FAILS
        events = [ending, Event.FINISHES]
    else:
        events = []
    return tuple(
        Delivery(
            id=str(uuid.uuid5(_DELIVERIES, f"{execution.id} {wanted.channel} {event} {index}")),
            execution_id=execution.id,
            task_id=execution.task_id,
            job_id=execution.job_id,
            channel=wanted.channel,
            event=event,
            index=index,
            target=target.address,
            receiver=target.receiver,
            created_at=now,
            due_at=now,
        )
        for event in events
        for wanted in execution.definition.subscriptions
        for index, target in enumerate(wanted.targets(event))
        if target.every_attempt or not (retry_follows and event is Event.FAILS)
    )


def next_attempt_at(
    delivery: Delivery, attempt: Attempt, *, retries: int, backoff: Backoff, now: float
) -> float | None:
    """When *delivery* is tried again after *attempt*; None: it was delivered or has no retries
    left."""
    if attempt.error is None or delivery.attempts >= retries:
        return None
    return now + retry_delay_seconds(backoff, delivery.attempts + 1)
