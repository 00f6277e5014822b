"""Counts and histograms of what has ended, by minute and by hour: pure functions.

A histogram has logarithmic buckets: bucket *i* holds the durations up to ``GROWTH ** i``
milliseconds. Its middle differs from each of them by 10 % at most, see DDSketch
(https://www.vldb.org/pvldb/vol12/p2195-masson.pdf).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import groupby

from fastlane.stored_events import EventType, StoredEvent

ERROR = 0.1
GROWTH = (1 + ERROR) / (1 - ERROR)
# Bounds the buckets of a histogram; the last one begins at 3 years.
MAX_BUCKET = 126

COUNTED = ("enqueued", "done", "failed", "timedout", "expired")
"""What is counted, as fields of :class:`Bucket`."""

Histogram = Mapping[int, int]
"""How many durations there are in each bucket."""


class Step(IntEnum):
    """How long a bucket is, in seconds."""

    MINUTE = 60
    HOUR = 3600


@dataclass(frozen=True, slots=True)
class Bucket:
    """What happened in one minute, one hour, or longer."""

    start: int
    """Unix seconds."""
    enqueued: int = 0
    done: int = 0
    failed: int = 0
    timedout: int = 0
    expired: int = 0
    durations: Histogram = field(default_factory=dict)
    """Of executions that have ended, from their start to their end."""
    waits: Histogram = field(default_factory=dict)
    """Of the same, from when they could have started to their start."""


def bucket_of(seconds: float) -> int:
    """The bucket of a duration."""
    milliseconds = seconds * 1000
    if milliseconds <= 1:
        return 0
    return min(math.ceil(math.log(milliseconds) / math.log(GROWTH)), MAX_BUCKET)


def quantile(histogram: Histogram, share: float) -> float | None:
    """The duration, in seconds, that *share* of all do not exceed; None without any."""
    total = sum(histogram.values())
    if not total:
        return None
    left = max(math.ceil(share * total), 1)
    for bucket in sorted(histogram):
        left -= histogram[bucket]
        if left <= 0:
            return 2 * GROWTH**bucket / (GROWTH + 1) / 1000
    return None


def bucket(start: int, counts: Sequence[int], durations: Histogram, waits: Histogram) -> Bucket:
    """:param counts: of :data:`COUNTED`, in that order."""
    enqueued, done, failed, timedout, expired = counts
    return Bucket(start, enqueued, done, failed, timedout, expired, durations, waits)


def merged(start: int, buckets: Sequence[Bucket]) -> Bucket:
    """One bucket that holds what all of *buckets* hold."""
    durations: dict[int, int] = {}
    waits: dict[int, int] = {}
    for one in buckets:
        for whole, part in ((durations, one.durations), (waits, one.waits)):
            for index, count in part.items():
                whole[index] = whole.get(index, 0) + count
    counts = [sum(getattr(one, name) for one in buckets) for name in COUNTED]
    return bucket(start, counts, durations, waits)


def by_step(buckets: Sequence[Bucket], since: float, until: float, seconds: int) -> list[Bucket]:
    """*buckets*, sorted by their start, as all steps of *seconds* from *since* to *until*.

    A step begins at a multiple of *seconds*.
    """
    first = int(since // seconds) * seconds
    grouped = groupby(buckets, lambda one: one.start // seconds * seconds)
    found = {start: list(some) for start, some in grouped}
    steps = range(first, math.ceil(until), seconds)
    return [merged(start, found.get(start, ())) for start in steps]


def counted(event: StoredEvent) -> Bucket | None:
    """What *event* adds to its buckets; None for nothing."""
    if event.type == EventType.EXECUTION_ENQUEUED:
        return None if event.again else Bucket(0, enqueued=1)
    if event.type not in _FINAL:
        return None
    found = _FINAL[event.type]
    if event.ran_seconds is None or event.waited_seconds is None:
        return found
    ran, waited = bucket_of(event.ran_seconds), bucket_of(event.waited_seconds)
    return replace(found, durations={ran: 1}, waits={waited: 1})


_FINAL: Mapping[str, Bucket] = {
    EventType.EXECUTION_DONE: Bucket(0, done=1),
    EventType.EXECUTION_FAILED: Bucket(0, failed=1),
    EventType.EXECUTION_TIMEDOUT: Bucket(0, timedout=1),
    EventType.EXECUTION_EXPIRED: Bucket(0, expired=1),
}

Key = tuple[Step, str, int]
"""A step, a task (empty: all tasks), and the start of a bucket."""


def keys_of(event: StoredEvent) -> Iterable[Key]:
    """The buckets to which *event* is added."""
    for step in Step:
        start = int(event.at // step) * step
        yield step, "", start
        if event.task_id:
            yield step, event.task_id, start


def tallies(events: Iterable[StoredEvent]) -> dict[Key, list[tuple[int, Bucket]]]:
    """What *events* add to each bucket, with their positions, in order."""
    found: dict[Key, list[tuple[int, Bucket]]] = {}
    for event in events:
        adds = counted(event)
        if adds is not None:
            for key in keys_of(event):
                found.setdefault(key, []).append((event.position, adds))
    return found


def of_run(
    status: str,
    created_at: float,
    queued_at: float | None,
    started_at: float | None,
    finished_at: float | None,
) -> Iterable[Bucket]:
    """What one execution adds: where it was made, and where it ended."""
    yield Bucket(int(created_at), enqueued=1)
    ended = _FINAL.get(f"execution.{status}")
    if ended is None or finished_at is None:
        return
    if started_at is not None:
        ran = bucket_of(finished_at - started_at)
        waited = bucket_of(started_at - (queued_at or created_at))
        ended = replace(ended, durations={ran: 1}, waits={waited: 1})
    yield replace(ended, start=int(finished_at))
