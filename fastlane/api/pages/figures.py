"""Numbers and shapes of charts, made of items of lists. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from fastlane.api import texts
from fastlane.api.schemas.responses import CronSchedule, ExecutionItem, JobListItem
from fastlane.cron import next_tick
from fastlane.stats import Bucket

# The height of a bar chart, and the least of a bar, in SVG units.
HEIGHT, LEAST = 64.0, 3.0
# How many runs a chart has room for; fewer are at its right end.
BARS = 50


@dataclass(frozen=True, slots=True)
class Bar:
    """One run in a chart."""

    url: str
    label: str
    tone: str
    """Of its outcome: good, bad, late, busy or wait."""
    x: float
    y: float
    height: float


def tone(status: str) -> str:
    """The colour of a status."""
    return {"done": "good", "failed": "bad", "timedout": "late", "expired": "late"}.get(
        status, "wait" if status == "enqueued" else "busy"
    )


def bars(newest_first: Sequence[ExecutionItem]) -> list[Bar]:
    """A bar for each run, the oldest first; the longest has the full height."""
    longest = max((one["durationSeconds"] or 0.0 for one in newest_first), default=0.0) or 1.0
    found, first = [], max(0, BARS - len(newest_first))
    for place, one in enumerate(reversed(newest_first)):
        lasted = one["durationSeconds"]
        height = max(LEAST, HEIGHT * (lasted or 0.0) / longest)
        words = texts.outcome(one["status"], one["reason"], one["exitCode"])
        took = f", took {texts.span(lasted)}" if lasted is not None else ""
        label = f"Run {one['number']}: {words}{took}, {texts.ago(one['createdAt'])}"
        x = (first + place) * 10.0
        found.append(Bar(one["url"], label, tone(one["status"]), x, HEIGHT - height, height))
    return found


@dataclass(frozen=True, slots=True)
class Summary:
    """What a list of runs says together."""

    count: int
    """Of those that ended."""
    succeeded: int
    median_seconds: float | None
    p95_seconds: float | None

    @property
    def rate(self) -> str:
        """The part that succeeded, in percent."""
        if not self.count:
            return "none"
        return f"{math.floor(100 * self.succeeded / self.count)} %"


def summary(items: Sequence[ExecutionItem]) -> Summary:
    """Of *items*, those that ended."""
    ended = [one for one in items if one["finishedAt"] is not None]
    lasted = sorted(
        one["durationSeconds"]
        for one in ended
        if one["durationSeconds"] is not None and one["status"] == "done"
    )
    return Summary(
        len(ended),
        sum(one["status"] == "done" for one in ended),
        quantile(lasted, 0.5),
        quantile(lasted, 0.95),
    )


def quantile(ordered: Sequence[float], part: float) -> float | None:
    """The value below which *part* of *ordered* lies (nearest rank); None of nothing."""
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, max(0, math.ceil(part * len(ordered)) - 1))]


@dataclass(frozen=True, slots=True)
class Group:
    """Failures that are alike."""

    newest: ExecutionItem
    count: int


def groups(newest_first: Sequence[ExecutionItem], most: int) -> list[Group]:
    """*newest_first*, those of one task that ended alike together; at most *most* groups."""
    found: dict[tuple[object, ...], list[ExecutionItem]] = {}
    for one in newest_first:
        alike = (one["taskId"], one["status"], one["reason"], one["exitCode"])
        found.setdefault(alike, []).append(one)
    return [Group(members[0], len(members)) for members in list(found.values())[:most]]


@dataclass(frozen=True, slots=True)
class Hour:
    """What ended in one hour, as a stack."""

    start: int
    x: float
    label: str
    parts: Sequence[tuple[str, float, float]]
    """Of each outcome its tone, y and height."""


@dataclass(frozen=True, slots=True)
class Hours:
    """A day of them."""

    hours: Sequence[Hour]
    most: int
    total: int
    failed: int


def hours(buckets: Sequence[Bucket], first: int) -> Hours:
    """The 24 hours from *first* (unix seconds) on, of buckets that leave out empty ones."""
    by_start = {one.start: one for one in buckets}
    starts = [first + texts.HOUR * number for number in range(24)]
    shown = [by_start.get(start, Bucket(start)) for start in starts]
    counts = [(one.done, one.timedout + one.expired, one.failed) for one in shown]
    most = max(map(sum, counts))
    found = []
    for number, (start, count) in enumerate(zip(starts, counts, strict=True)):
        parts, y = [], HEIGHT
        for name, value in zip(("good", "late", "bad"), count, strict=True):
            height = max(1.5, HEIGHT * value / most) if value else 0.0
            y -= height
            if value:
                parts.append((name, round(y, 1), round(height, 1)))
        at = texts.iso(start)[11:16]
        label = f"{at} UTC: {count[0]} done, {count[2]} failed, {count[1]} timed out or expired"
        found.append(Hour(start, number * 10.0, label, parts))
    failed = sum(late + bad for _, late, bad in counts)
    return Hours(found, most, sum(map(sum, counts)), failed)


# The width of a bar of the line of a day, in seconds, and how many there are.
SLICE, SLICES = 900, 96
# Bounds the ticks that are worked out for it.
MAX_TICKS = 3000


@dataclass(frozen=True, slots=True)
class Slice:
    """What starts within a quarter of an hour."""

    label: str
    x: int
    y: float
    height: float
    count: int


@dataclass(frozen=True, slots=True)
class Day:
    """The ticks of the next 24 hours."""

    slices: Sequence[Slice]
    most: int
    is_whole: bool
    """Whether no tick was left out."""


def day(jobs: Sequence[JobListItem], now: float) -> Day:
    """Of those of *jobs* that have ticks, what starts when."""
    begin = now - now % SLICE
    tasks: list[list[str]] = [[] for _ in range(SLICES)]
    left = MAX_TICKS
    for job in jobs:
        schedule, following = job["schedule"], job["nextScheduledAt"]
        at = None if following is None or job["paused"] else texts.seconds_of(following)
        while at is not None and at < begin + SLICE * SLICES and left > 0:
            left -= 1
            tasks[max(0, int((at - begin) // SLICE))].append(job["taskId"])
            if schedule is None or "cron" not in schedule:
                break
            cron = cast("CronSchedule", schedule)
            at = next_tick(cron["cron"], cron["timezone"], at)
    most = max(map(len, tasks))
    slices = []
    for number, names in enumerate(tasks):
        height = HEIGHT * len(names) / most if names else 0.0
        start = texts.iso(begin + number * SLICE)[11:16]
        label = f"{start} UTC: {texts.count(len(names), 'start')}: {', '.join(names[:8])}"
        slices.append(Slice(label, number * 5, HEIGHT - height, height, len(names)))
    return Day(slices, most, left > 0)
