"""Which hosts are given something new."""

from __future__ import annotations

from fastlane.hosts import MAX_PAUSE_SECONDS, Hosts


class SteppedClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_failing_host_is_paused_ever_longer_and_forgiven_at_once() -> None:
    clock = SteppedClock()
    hosts = Hosts(["a", "b"], clock)
    hosts.failed("a", "no route")
    assert hosts.available(["a", "b"]) == ["b"]
    assert hosts.resumes_at(["a", "b"]) == clock.now + 1
    clock.now += 1
    assert hosts.available(["a"]) == ["a"]
    for _ in range(100):
        hosts.failed("a", "no route")
    assert hosts.health("a").paused_until == clock.now + MAX_PAUSE_SECONDS
    assert (hosts.health("a").failures, hosts.health("a").error) == (101, "no route")
    hosts.answered("a")
    assert hosts.available(["a"]) == ["a"]
    assert hosts.health("a").error is None


def test_a_host_that_only_an_execution_knows_is_watched_too() -> None:
    hosts = Hosts(["a"], SteppedClock())
    assert hosts.health("gone").failures == 0
    hosts.failed("gone", "no such host")
    assert {health.host for health in hosts.all()} == {"a", "gone"}
