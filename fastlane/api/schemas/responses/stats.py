"""Answers about what has happened over time."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fastlane.api.schemas.responses.base import Answer, Count, Instant, TaskId

Seconds = Annotated[float | None, Field(ge=0, examples=[12.5])]


class Quantiles(Answer):
    """Of durations, in seconds, with an error of at most 10 %. Null where nothing ended."""

    median: Seconds
    p95: Seconds


class StatsItem(Answer):
    """What happened in one step."""

    at: Instant
    """Its beginning."""
    enqueued: Count
    done: Count
    failed: Count
    timedout: Count
    expired: Count
    durationSeconds: Quantiles
    waitingSeconds: Quantiles
    """From the queue to the start."""


class Stats(Answer):
    """Counts and durations by step."""

    task: TaskId | None
    """Null: all tasks together."""
    step: Annotated[str, Field(examples=["1h"])]
    source: Literal["counters", "executions"]
    """`executions`: only the last 1,000 of the task, which was not active lately."""
    items: list[StatsItem]
