"""Numbers and shapes of charts, made of items of lists. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fastlane.api import texts
from fastlane.api.schemas.responses import ExecutionItem

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
