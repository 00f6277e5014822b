"""What is decided, without anything around it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlane import policy
from fastlane.cron import previous_tick
from fastlane.image import ImageReference
from fastlane.model import (
    Backoff,
    Definition,
    Execution,
    Farm,
    Outcome,
    Reason,
    Resources,
    Schedule,
    Status,
)

FAILED = Outcome(Status.FAILED, Reason.EXIT_CODE, 1)


def execution(**changes: object) -> Execution:
    definition = Definition.parse(image="a", command="b", retries=2, backoff=Backoff(100, 3, 500))
    made = Execution("e", "t", "j", definition, "default", 0.0, "q")
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("retry", "seconds"), [(1, 0.1), (2, 0.3), (3, 0.5), (10_000, 0.5)])
def test_the_delay_grows_by_its_factor_up_to_its_maximum(retry: int, seconds: float) -> None:
    assert policy.retry_delay_seconds(Backoff(100, 3, 500), retry) == pytest.approx(seconds)


@given(st.floats(0, 1e6), st.floats(1, 100), st.floats(0, 1e9), st.integers(1, 10_000))
def test_no_delay_is_over_the_maximum_or_shorter_than_the_one_before(
    min_ms: float, factor: float, max_ms: float, retry: int
) -> None:
    backoff = Backoff(min_ms, factor, max_ms)
    delay = policy.retry_delay_seconds(backoff, retry)
    assert 0 <= delay <= max_ms / 1000
    assert delay <= policy.retry_delay_seconds(backoff, retry + 1)


@pytest.mark.parametrize(
    ("outcome", "attempt", "follows"),
    [
        (FAILED, 0, True),
        (FAILED, 1, True),
        (FAILED, 2, False),
        (Outcome(Status.DONE, Reason.EXIT_CODE, 0), 0, False),
        (Outcome(Status.TIMEDOUT, Reason.TIMEOUT, 137), 0, True),
        (Outcome(Status.FAILED, Reason.PULL_FAILED), 0, True),
        (Outcome(Status.FAILED, Reason.STOPPED, 143), 0, False),
        (Outcome(Status.EXPIRED, Reason.EXPIRED), 0, False),
        (Outcome(Status.FAILED, Reason.LOST), 0, False),
    ],
)
def test_who_is_retried(outcome: Outcome, attempt: int, follows: bool) -> None:
    delay = policy.follow_up_delay_seconds(execution(attempt=attempt), outcome)
    assert (delay is not None) is follows


def test_a_lost_run_is_repeated_only_when_the_job_says_so() -> None:
    definition = replace(execution().definition, retries=0, rerun_when_lost=True)
    lost = Outcome(Status.FAILED, Reason.LOST)
    assert policy.follow_up_delay_seconds(execution(definition=definition), lost) is not None


@pytest.mark.parametrize(("lost", "again"), [(0, True), (4, True), (5, False), (6, False)])
def test_a_lost_run_is_repeated_so_often_in_a_row(lost: int, again: bool) -> None:
    definition = replace(execution().definition, retries=0, rerun_when_lost=True)
    rerun = execution(definition=definition, lost_reruns=lost)
    outcome = Outcome(Status.FAILED, Reason.LOST)
    assert (policy.follow_up_delay_seconds(rerun, outcome) is not None) is again
    assert policy.follow_up_delay_seconds(rerun, outcome, lost_reruns_max=0) is None


def test_reruns_do_not_use_up_retries() -> None:
    definition = replace(execution().definition, rerun_when_lost=True)
    definition = replace(definition, retries=5)
    rerun = execution(definition=definition, attempt=1, lost_reruns=3)
    for outcome, counts in ((Outcome(Status.FAILED, Reason.LOST), (1, 4)), (FAILED, (2, 0))):
        followed = policy.follow_up(rerun, outcome, id="next", now=0.0)
        assert followed is not None
        assert (followed.attempt, followed.lost_reruns) == counts
    # The delay grows with the reruns, not with the retries before them.
    assert policy.follow_up_delay_seconds(
        execution(definition=definition, attempt=1), Outcome(Status.FAILED, Reason.LOST)
    ) == pytest.approx(0.1)


def test_exit_codes_and_memory() -> None:
    done = policy.outcome_of_exit(0, oom=True, error=None)
    assert (done.status, done.reason) == (Status.DONE, Reason.EXIT_CODE)
    oom = policy.outcome_of_exit(137, oom=True, error=None)
    assert (oom.status, oom.reason, oom.exit_code) == (Status.FAILED, Reason.OOM, 137)
    failed = policy.outcome_of_exit(3, oom=False, error="why")
    assert failed == Outcome(Status.FAILED, Reason.EXIT_CODE, 3, "why")


@pytest.mark.parametrize(
    ("intent", "status", "reason"),
    [
        (Reason.STOPPED, Status.FAILED, Reason.STOPPED),
        (Reason.TIMEOUT, Status.TIMEDOUT, Reason.TIMEOUT),
        (None, Status.DONE, Reason.EXIT_CODE),
    ],
)
def test_an_intent_wins_over_the_exit_code(
    intent: Reason | None, status: Status, reason: Reason
) -> None:
    exited = Outcome(Status.DONE, Reason.EXIT_CODE, 0)
    outcome = policy.with_stop_intent(exited, intent, execution())
    assert (outcome.status, outcome.reason, outcome.exit_code) == (status, reason, 0)


@pytest.mark.parametrize(
    ("ran_seconds", "status"),
    [
        (None, Status.TIMEDOUT),
        (1799.9, Status.DONE),
        (1800.0, Status.DONE),
        (1800.1, Status.TIMEDOUT),
    ],
)
def test_a_run_that_ended_in_time_has_not_timed_out(
    ran_seconds: float | None, status: Status
) -> None:
    """REGRESSIONS 42."""
    exited = Outcome(Status.DONE, Reason.EXIT_CODE, 0, ran_seconds=ran_seconds)
    assert execution().definition.timeout_seconds == 1800
    assert policy.with_stop_intent(exited, Reason.TIMEOUT, execution()).status is status


def test_times_of_an_execution_never_run_backwards() -> None:
    started = execution(created_at=5.0, started_at=7.0)
    assert [policy.not_before(now, started) for now in (6.0, 7.0, 8.0)] == [7.0, 7.0, 8.0]
    assert policy.not_before(4.0, execution(created_at=5.0)) == 5.0


def test_the_first_farm_that_matches_takes_the_task() -> None:
    farms = [Farm("gpu", ("a",), 1, "^gpu-"), Farm("rest", ("b",), 1, "")]
    first, second = farms
    assert policy.farm_for("gpu-train", farms) is first
    assert policy.farm_for("train-gpu-", farms) is second
    assert policy.farm_for("train", farms[:1]) is None


def test_the_least_loaded_hosts_are_chosen_from() -> None:
    assert policy.least_loaded(["a", "b", "c"], {"a": 2, "b": 1, "c": 1}) == ["b", "c"]
    assert policy.least_loaded(["a", "b"], {"a": 2}) == ["b"]
    assert policy.least_loaded([], {}) == []


@pytest.mark.parametrize(
    ("image", "allowed"),
    [
        ("registry.example/team/tool", True),
        ("registry.example/team/tool:v2", True),
        ("busybox:1.36", True),
        ("busybox", False),
        ("busybox:1.36@sha256:" + "0" * 64, False),
        ("evil.example/registry.example/team/tool", False),
        ("registry.example/team/tool/more", True),
    ],
)
def test_an_image_is_allowed_by_the_whole_of_its_reference(image: str, allowed: bool) -> None:
    farm = Farm("f", ("a",), 1, images=("registry.example/team/.*", r"busybox:1\.36"))
    assert (policy.image_refusal(ImageReference.parse(image), farm) is None) is allowed
    assert policy.image_refusal(ImageReference.parse(image), Farm("f", ("a",), 1)) is None


@pytest.mark.parametrize(
    ("pattern", "image", "allowed"),
    [
        # One image by all of its names, whichever of them the pattern has.
        ("busybox:.*", "busybox:1", True),
        ("busybox:.*", "library/busybox:1", True),
        ("busybox:.*", "docker.io/busybox:1", True),
        ("busybox:.*", "docker.io/library/busybox:1", True),
        ("busybox:.*", "index.docker.io/library/busybox:1", True),
        ("library/busybox:1", "busybox:1", True),
        (r"docker\.io/library/.*", "busybox", True),
        (r"docker\.io/.*", "team/tool:1", True),
        (r"docker\.io/busybox:1", "busybox:1", True),
        # A tag holds no slash, so what follows a host and a port is no tag.
        ("busybox:.*", "busybox:1/x:2", False),
        ("busybox:[^@]*", "busybox:1/x:2", False),
        (r"busybox:\S*", "busybox:1/x:2", False),
        ("(busybox|alpine):.*", "alpine:1/x:2", False),
        (r"(docker\.io/)?busybox:.*", "busybox:1/x:2", False),
        ("(busybox:.*|team/tool:.*)", "busybox:1/x:2", False),
        ("[^/]+:.*", "evil:80/x:2", False),
        ("[a-z]+:.*", "evil:80/x:2", False),
        ("busybox.*", "busybox.evil.example/x:2", False),
        ("docker.*", "busybox:1", False),
        # What the operator left open stays open.
        (".*", "evil:80/x:2", True),
        (".*:2", "evil:80/x:2", True),
        (".*/team/.*", "r.example:5000/team/x:1", True),
        ("[^/]+/x:2", "evil:80/x:2", True),
        ("r.example:5000/.*", "r.example:5000/a/b:1", True),
        (r"r\.example(:\d+)?/.*", "r.example:5000/a/b:1", True),
        (r"\Qr.example:5000/\E.*", "r.example:5000/a/b:1", True),
        ("[a-z./]+:1", "r.example/a/b:1", True),
        (r"registry\.example\/[\w\]/]+:1", "registry.example/a/b:1", True),
        # A host with capitals is one to newer engines.
        ("INTRANET/.*", "INTRANET/x:1", True),
        (r"docker\.io/.*", "INTRANET/x:1", False),
    ],
)
def test_no_pattern_reaches_into_another_registry(pattern: str, image: str, allowed: bool) -> None:
    farm = Farm("f", ("a",), 1, images=(pattern,))
    assert (policy.image_refusal(ImageReference.parse(image), farm) is None) is allowed


@pytest.mark.parametrize("image", ["sha256:" + "a" * 64, "sha256:abc", "docker.io/sha256:abc"])
def test_an_id_of_an_image_says_nothing_about_its_registry(image: str) -> None:
    farm = Farm("f", ("a",), 1, images=(".*",), image_ids=False)
    assert "image ids" in str(policy.image_refusal(ImageReference.parse(image), farm))
    assert policy.image_refusal(ImageReference.parse(image), replace(farm, image_ids=True)) is None
    named = ImageReference.parse(f"x@sha256:{'a' * 64}")
    assert policy.image_refusal(named, farm) is None


@pytest.mark.parametrize("late", [-5.0, 0.0, 0.25, 59.999, 60.0, 61.0, 3599.0, 3600.0, 7200.5])
def test_the_tick_to_run_is_the_latest_one_however_late_it_is_noticed(late: float) -> None:
    for schedule in (Schedule(cron="* * * * *"), Schedule(cron="0 * * * *")):
        assert schedule.cron is not None
        due = 7200.0
        latest = previous_tick(schedule.cron, "UTC", due + late)
        assert policy.tick_to_run(schedule, due, due + late) == max(due, latest or 0)


def test_missed_ticks_are_one_run_for_the_latest() -> None:
    hourly = Schedule(cron="0 * * * *")
    assert policy.tick_to_run(hourly, 3600.0, 3 * 3600 + 1800) == 3 * 3600
    assert policy.run_after(hourly, 3 * 3600 + 1800) == 4 * 3600
    assert policy.late_seconds(3 * 3600, 3 * 3600 + 1800) == 1800
    assert policy.late_seconds(100.0, 100.5) is None


def test_a_start_in_the_past_means_now() -> None:
    assert policy.first_run_at(Schedule(start_at=50.0), 100.0) is None
    assert policy.first_run_at(Schedule(start_at=150.0), 100.0) == 150.0
    assert policy.run_after(Schedule(start_at=150.0), 200.0) is None


def test_limits_are_capped_and_default_to_the_cap() -> None:
    caps = Resources(cpus=2, memory_bytes=100)
    assert policy.capped(Resources(cpus=4, pids=7), caps) == Resources(2, 100, 7)
