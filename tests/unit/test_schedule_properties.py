"""Properties of schedules and retries over a whole life: what many decisions add up to."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from fastlane import policy
from fastlane.api.problems import Problem
from fastlane.api.schemas.payload import MAX_DURATION_SECONDS, JobPayload, read_payload
from fastlane.cron import next_tick
from fastlane.model import (
    Backoff,
    Definition,
    Execution,
    Outcome,
    Reason,
    Schedule,
    Status,
)

CRONS = (
    "* * * * *",
    "*/7 * * * *",
    "30 2 * * *",
    "0 0-3,12 * * *",
    "15 1 * * sun",
    "0 0 1,31 * *",
    "59 23 28-31 2 *",
)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe")
UNITS = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}

schedules = st.builds(Schedule, cron=st.sampled_from(CRONS), timezone=st.sampled_from(ZONES))
# From 2025 to 2027, which holds changes of the clocks both ways.
starts = st.floats(1_735_689_600, 1_830_000_000)
# How long the server is away between two looks at the clock: on time, a little late, and for long.
absences = st.lists(
    st.one_of(st.just(0.0), st.floats(0, 5), st.floats(60, 4 * 86_400)), min_size=1, max_size=25
)


@given(schedules, starts, absences)
def test_every_tick_runs_once_or_is_made_up_for_by_the_one_that_is_last(
    schedule: Schedule, now: float, absences: list[float]
) -> None:
    assert schedule.cron is not None
    due = policy.first_run_at(schedule, now)
    ticks: list[float] = []
    for absence in absences:
        assert due is not None
        assert due > now, "what is planned lies ahead"
        asked_from = now
        now = due + absence
        tick = policy.tick_to_run(schedule, due, now)
        # It is a tick, not in the future, and none between it and now was left out.
        assert due <= tick <= now
        assert next_tick(schedule.cron, schedule.timezone, math.nextafter(tick, 0)) == tick
        following = policy.run_after(schedule, now)
        assert following == next_tick(schedule.cron, schedule.timezone, tick)
        if absence == 0:
            assert tick == due == next_tick(schedule.cron, schedule.timezone, asked_from)
        late = policy.late_seconds(tick, now)
        assert late is None or late == now - tick > policy.LATE_AFTER_SECONDS
        ticks.append(tick)
        due = following
    assert all(earlier < later for earlier, later in pairwise(ticks)), "no tick runs twice"


@given(schedules, starts, st.floats(0, 7200))
def test_a_clock_that_goes_back_repeats_nothing(
    schedule: Schedule, now: float, back: float
) -> None:
    """REGRESSIONS.md 17: what is due next was written down before, and is not asked for anew."""
    due = policy.first_run_at(schedule, now)
    assert due is not None
    following = policy.run_after(schedule, due)
    assert following is not None
    assert following > due
    # The clock says less than when the tick ran, and the job is still not due before its next.
    assert due - back < following
    assert policy.tick_to_run(schedule, following, following) == following


@given(st.floats(0, 4e9), st.floats(0, 4e9))
def test_a_start_is_kept_or_is_now(start_at: float, now: float) -> None:
    schedule = Schedule(start_at=start_at)
    first = policy.first_run_at(schedule, now)
    assert first == (start_at if start_at > now else None)
    if first is not None:
        assert policy.tick_to_run(schedule, first, first + 1e6) == first
    assert policy.run_after(schedule, now) is None


def payload(**keys: object) -> JobPayload:
    return read_payload(json.dumps({"image": "a", "command": "b", **keys}).encode())


@given(st.dictionaries(st.sampled_from(sorted(UNITS)), st.integers(0, 500), min_size=1))
def test_durations_are_the_sum_of_their_parts(parts: dict[str, int]) -> None:
    text = "".join(f"{parts[unit]}{unit}" for unit in UNITS if unit in parts)
    seconds = sum(parts[unit] * UNITS[unit] for unit in parts)
    assume(seconds <= MAX_DURATION_SECONDS)
    schedule = payload(startIn=text).schedule(1000.0)
    assert schedule == Schedule(start_at=1000.0 + seconds)
    assert policy.first_run_at(schedule, 1000.0) == (1000.0 + seconds if seconds else None)


@given(st.one_of(st.text(max_size=20), st.text(alphabet="0123456789wdhms .-+", max_size=12)))
@example("300")
@example("")
@example("5m5m")
@example("5s5m")
@example("\u0661s")
def test_what_is_no_duration_is_refused(text: str) -> None:
    """REGRESSIONS.md 24: a text is read in one way or refused, never guessed at."""
    schedule = None
    with contextlib.suppress(Problem):
        schedule = payload(startIn=text).schedule(0.0)
    if schedule is None:
        with pytest.raises(Problem) as refused:
            payload(startIn=text)
        assert refused.value.status == 400
        assert [fault.pointer for fault in refused.value.faults] == ["/startIn"]
        return
    rest, total = text, 0
    for unit, seconds in UNITS.items():
        number, found, behind = rest.partition(unit)
        if found and number.isdigit():
            total += int(number) * seconds
            rest = behind
    assert rest == ""
    assert schedule.start_at == total


backoffs = st.builds(Backoff, st.floats(0, 1e6), st.floats(1, 100), st.floats(0, 1e9))


@given(backoffs, st.integers(1, 60))
def test_the_delay_is_the_formula(backoff: Backoff, retry: int) -> None:
    exact = min(
        Fraction(backoff.min_ms) * Fraction(backoff.factor) ** (retry - 1), Fraction(backoff.max_ms)
    )
    assert policy.retry_delay_seconds(backoff, retry) == pytest.approx(float(exact / 1000))


failures = st.sampled_from(
    [
        Outcome(Status.FAILED, Reason.EXIT_CODE, 1),
        Outcome(Status.FAILED, Reason.OOM, 137),
        Outcome(Status.FAILED, Reason.PULL_FAILED),
        Outcome(Status.FAILED, Reason.START_FAILED),
        Outcome(Status.TIMEDOUT, Reason.TIMEOUT, 143),
    ]
)
ends = st.sampled_from(
    [
        Outcome(Status.DONE, Reason.EXIT_CODE, 0),
        Outcome(Status.FAILED, Reason.STOPPED, 143),
        Outcome(Status.EXPIRED, Reason.EXPIRED),
        Outcome(Status.FAILED, Reason.LOST),
    ]
)


@settings(max_examples=200)
@given(st.integers(0, 30), backoffs, st.lists(failures, min_size=40, max_size=40), ends)
def test_a_job_that_fails_runs_once_more_than_it_has_retries(
    retries: int, backoff: Backoff, failed: list[Outcome], end: Outcome
) -> None:
    """However it fails; and whatever is final in another way ends the row at once."""
    definition = Definition.parse(image="a", command="b", retries=retries, backoff=backoff)
    execution = Execution("e", "t", "j", definition, "default", 0.0, "q")
    runs, waited = 1, [0.0]
    while True:
        delay = policy.follow_up_delay_seconds(execution, failed[runs])
        assert policy.follow_up_delay_seconds(execution, end) is None
        if delay is None:
            break
        waited.append(delay)
        execution = replace(execution, attempt=execution.attempt + 1)
        runs += 1
    assert runs == retries + 1
    assert waited == sorted(waited)
    assert all(delay <= backoff.max_ms / 1000 for delay in waited)
