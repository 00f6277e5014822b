"""Which hosts are given something new."""

from __future__ import annotations

import pytest

from fastlane.hosts import (
    ERROR_CHARS,
    IMAGES_REMEMBERED,
    MAX_PAUSE_SECONDS,
    BreakerOptions,
    Circuit,
    Hosts,
)
from fastlane.model import HostRecord


class SteppedClock:
    """Time goes on by :meth:`go`, of the wall clock and of the monotonic one alike; a step of the
    wall clock is a change of ``now``.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self._ticks = -5.0

    def __call__(self) -> float:
        return self.now

    def go(self, seconds: float) -> None:
        self.now += seconds
        self._ticks += seconds

    def ticks(self) -> float:
        return self._ticks


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def hosts(clock: SteppedClock) -> Hosts:
    return hosts_of(clock, BreakerOptions(max_fails=3, reset_timeout_seconds=60))


def hosts_of(clock: SteppedClock, breaker: BreakerOptions) -> Hosts:
    return Hosts(["a", "b"], clock, breaker, ticks=clock.ticks)


def fail(hosts: Hosts, times: int = 3) -> None:
    for _ in range(times):
        hosts.failed("a", "no route")


def test_a_failure_is_a_short_pause_and_forgiven_at_once(hosts: Hosts, clock: SteppedClock) -> None:
    fail(hosts, 1)
    assert hosts.circuit("a") is Circuit.CLOSED
    assert hosts.available(["a", "b"]) == ["b"]
    assert hosts.resumes_in(["a", "b"]) == 1
    assert hosts.blocked(["a"]) == (
        "No host is available: a is tried again after a failure (no route)."
    )
    clock.go(1)
    assert hosts.available(["a"]) == ["a"]
    assert hosts.is_doubtful("a")
    fail(hosts, 1)
    hosts.answered("a")
    assert hosts.available(["a"]) == ["a"]
    assert hosts.record("a") == HostRecord("a")
    assert not hosts.is_doubtful("a")


def test_pauses_are_bounded(clock: SteppedClock) -> None:
    hosts = hosts_of(clock, BreakerOptions(max_fails=1000, reset_timeout_seconds=60))
    fail(hosts, 100)
    assert hosts.resumes_in(["a"]) == MAX_PAUSE_SECONDS


def test_the_circuit_opens_is_tried_once_and_closes(hosts: Hosts, clock: SteppedClock) -> None:
    fail(hosts)
    assert hosts.circuit("a") is Circuit.OPEN
    assert hosts.record("a") == HostRecord("a", 3, "no route", clock.now + 60)
    assert hosts.blocked(["a"]) == "No host is available: a is out after 3 failures (no route)."
    assert hosts.blocked(["a", "b"]) is None
    clock.go(59)
    assert hosts.available(["a"]) == []
    clock.go(1)
    assert hosts.circuit("a") is Circuit.HALF_OPEN
    assert hosts.available(["a"]) == ["a"]
    hosts.given("a")
    assert hosts.available(["a"]) == [], "one execution tries it"
    hosts.answered("a")
    assert hosts.circuit("a") is Circuit.CLOSED
    assert hosts.available(["a"]) == ["a"]


def test_one_failure_opens_a_half_open_circuit_again(hosts: Hosts, clock: SteppedClock) -> None:
    fail(hosts)
    clock.go(60)
    hosts.given("a")
    fail(hosts, 1)
    assert hosts.circuit("a") is Circuit.OPEN
    assert hosts.record("a").open_until == clock.now + 60


def test_a_trial_that_nobody_ended_does_not_last_for_ever(
    hosts: Hosts, clock: SteppedClock
) -> None:
    fail(hosts)
    clock.go(60)
    hosts.given("a")
    assert hosts.resumes_in(["a"]) == 60
    clock.go(60)
    assert hosts.available(["a"]) == ["a"]


def test_failures_while_it_is_open_neither_prolong_it_nor_are_news(
    hosts: Hosts, clock: SteppedClock
) -> None:
    fail(hosts)
    for record in hosts.unsaved():
        hosts.saved(record)
    until = hosts.record("a").open_until
    clock.go(30)
    fail(hosts, 10)
    assert hosts.record("a").open_until == until
    assert hosts.unsaved() == []


def test_news_are_told_until_they_are_stored(clock: SteppedClock) -> None:
    told: list[None] = []
    hosts = Hosts(
        ["a"],
        clock,
        BreakerOptions(1, 60),
        changed=lambda: told.append(None),
        ticks=clock.ticks,
    )
    hosts.answered("a")
    assert told == [], "a host that is well makes no news"
    fail(hosts, 1)
    (record,) = hosts.unsaved()
    hosts.answered("a")
    hosts.saved(record)
    assert hosts.unsaved() == [HostRecord("a")], "what came in between is news, too"
    assert len(told) == 2


def test_what_others_have_stored_is_obeyed(hosts: Hosts, clock: SteppedClock) -> None:
    assert hosts.take(
        [HostRecord("a", 5, "reset", clock.now + 9), HostRecord("b", blacklisted=True)]
    )
    assert hosts.available(["a", "b"]) == []
    assert hosts.blocked(["a", "b"]) == (
        "No host is available: a is out after 5 failures (reset); b is black-listed."
    )
    assert hosts.resumes_in(["a", "b"]) == 9, "what is black-listed resumes by hand only"
    assert not hosts.take([HostRecord("a", 5, "reset", clock.now + 9)])
    assert hosts.take([HostRecord("a"), HostRecord("b")])
    assert hosts.available(["a", "b"]) == ["a", "b"]


def test_our_own_news_are_not_overwritten_but_the_black_list_is_taken(hosts: Hosts) -> None:
    fail(hosts)
    hosts.take([HostRecord("a", blacklisted=True)])
    assert hosts.circuit("a") is Circuit.OPEN
    assert hosts.record("a").blacklisted
    hosts.answered("a")
    assert hosts.record("a") == HostRecord("a", blacklisted=True)


def test_a_host_that_only_an_execution_knows_is_watched_too(hosts: Hosts) -> None:
    assert hosts.record("gone").failures == 0
    assert not hosts.is_configured("gone")
    hosts.failed("gone", "no such host")
    assert hosts.all() == ["a", "b", "gone"]
    hosts.forget("gone")
    assert hosts.unsaved() == []
    hosts.take([HostRecord("gone", 1, "no such host")])
    assert hosts.all() == ["a", "b"], "what others have stored does not bring it back"


def test_images_and_errors_are_remembered_within_bounds(hosts: Hosts) -> None:
    for number in range(IMAGES_REMEMBERED + 1):
        hosts.has_now("a", f"image:{number}")
    assert not hosts.has_image("a", "image:0")
    assert hosts.has_image("a", "image:1")
    assert not hosts.has_image("b", "image:1")
    hosts.failed("a", "x" * 10_000)
    assert hosts.record("a").error == "x" * ERROR_CHARS


@pytest.mark.parametrize("step_seconds", [-86_400, 86_400])
def test_a_step_of_the_clock_neither_cuts_nor_stretches_a_pause(
    hosts: Hosts, clock: SteppedClock, step_seconds: float
) -> None:
    fail(hosts, 1)
    clock.now += step_seconds
    assert hosts.resumes_in(["a"]) == 1
    clock.go(1)
    assert hosts.available(["a"]) == ["a"]

    fail(hosts, 2)
    clock.now += step_seconds
    clock.go(59)
    assert hosts.circuit("a") is Circuit.OPEN
    clock.go(1)
    assert hosts.circuit("a") is Circuit.HALF_OPEN

    hosts.given("a")
    clock.now += step_seconds
    assert hosts.resumes_in(["a"]) == 60
    clock.go(60)
    assert hosts.available(["a"]) == ["a"]


def test_what_another_s_clock_says_keeps_a_host_out_for_the_time_out_at_most(
    hosts: Hosts, clock: SteppedClock
) -> None:
    ahead = [HostRecord("a", 5, "reset", clock.now + 86_400)]
    hosts.take(ahead)
    clock.go(59)
    # Heard again, it is no news.
    hosts.take(ahead)
    assert hosts.circuit("a") is Circuit.OPEN
    clock.go(1)
    assert hosts.circuit("a") is Circuit.HALF_OPEN
    hosts.take([HostRecord("a", 6, "reset", clock.now - 86_400)])
    assert hosts.available(["a"]) == ["a"]
