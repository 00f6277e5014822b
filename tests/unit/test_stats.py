"""Histograms and steps of statistics."""

from __future__ import annotations

import statistics

from hypothesis import given
from hypothesis import strategies as st

from fastlane.stats import Bucket, bucket_of, by_step, merged, quantile

DURATIONS = st.floats(0.001, 30 * 86400)


@given(DURATIONS)
def test_a_bucket_is_no_more_than_a_tenth_off(seconds: float) -> None:
    found = quantile({bucket_of(seconds): 1}, 0.5)
    assert found is not None
    assert abs(found - seconds) <= 0.1001 * seconds


@given(st.lists(DURATIONS, min_size=1, max_size=50), st.sampled_from([0.5, 0.95, 1.0]))
def test_a_quantile_is_that_of_the_durations(durations: list[float], share: float) -> None:
    histogram = merged(0, [Bucket(0, durations={bucket_of(one): 1}) for one in durations]).durations
    durations.sort()
    exact = durations[max(-(-len(durations) * share // 1), 1).__int__() - 1]
    found = quantile(histogram, share)
    assert found is not None
    assert abs(found - exact) <= 0.1001 * exact


def test_without_durations_there_is_no_quantile() -> None:
    assert quantile({}, 0.5) is None
    assert statistics.median([1]) == 1


def test_steps_leave_none_out() -> None:
    buckets = [Bucket(120, done=1), Bucket(180, done=2, waits={3: 1}), Bucket(600, failed=1)]
    steps = by_step(buckets, 130, 700, 300)
    assert [(one.start, one.done, one.failed) for one in steps] == [
        (0, 3, 0),
        (300, 0, 0),
        (600, 0, 1),
    ]
    assert steps[0].waits == {3: 1}
