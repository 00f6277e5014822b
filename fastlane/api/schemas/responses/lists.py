"""Answers about lists over all tasks. Their times are RFC 3339 in UTC."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fastlane.api.schemas.responses.base import (
    Answer,
    Command,
    Count,
    ExecutionId,
    ExecutionUrl,
    FarmName,
    Image,
    Instant,
    JobId,
    JobUrl,
    TaskId,
    TaskUrl,
    Url,
)
from fastlane.model import JobState, Reason, Status, Trigger


class ListKeys(Answer):
    """How to continue."""

    nextUrl: Url | None
    """Null on the last page. What follows may be empty."""
    total: Count | None
    """Exact up to 10,000. Null when it would have to be searched for."""
    totalIsLowerBound: bool
    """Whether there are more than `total`."""
    perPage: Annotated[int, Field(ge=1, le=100, examples=[20])]


class ExecutionItem(Answer):
    """An execution in a list."""

    executionId: ExecutionId
    url: ExecutionUrl
    taskId: TaskId
    taskUrl: TaskUrl
    jobId: JobId
    jobUrl: JobUrl
    jobName: str | None
    number: Annotated[int, Field(ge=1, examples=[1])]
    """1 for the job's first execution."""
    attempt: Annotated[Count, Field(examples=[0])]
    """0 for the first run, n for the n-th retry."""
    trigger: Annotated[Trigger, Field(examples=["submit"])]
    """Why it was created."""
    status: Annotated[Status, Field(examples=["done"])]
    reason: Annotated[Reason | None, Field(examples=["exit-code"])]
    error: Annotated[str | None, Field(max_length=300)]
    """The first 300 characters of what fastlane reports about its end."""
    exitCode: Annotated[int | None, Field(examples=[0])]
    image: Image
    command: Command
    farm: FarmName
    host: Annotated[str | None, Field(examples=["localhost:1234"])]
    createdAt: Instant
    queuedAt: Instant | None
    """When it joined the queue. Null while it waits for its time or for another execution."""
    startedAt: Instant | None
    finishedAt: Instant | None
    durationSeconds: Annotated[float | None, Field(ge=0, examples=[12.5])]
    waiting: str | None
    """Why it has not started."""
    nextAttemptAt: Instant | None
    """When a retry joins the queue."""


class CronSchedule(Answer):
    """When a cron job runs."""

    cron: Annotated[str, Field(examples=["*/5 * * * *"])]
    timezone: Annotated[str, Field(examples=["UTC"])]


class OnceSchedule(Answer):
    """When a job runs once."""

    startAt: Instant


class LastRun(Answer):
    """The newest execution."""

    executionId: ExecutionId
    url: ExecutionUrl
    status: Annotated[Status, Field(examples=["done"])]
    reason: Annotated[Reason | None, Field(examples=["exit-code"])]
    exitCode: Annotated[int | None, Field(examples=[0])]
    createdAt: Instant
    finishedAt: Instant | None


class JobListItem(Answer):
    """A job in a list."""

    jobId: JobId
    name: str | None
    url: JobUrl
    taskId: TaskId
    taskUrl: TaskUrl
    image: Image
    command: Command
    schedule: CronSchedule | OnceSchedule | None
    """Null when it runs at once."""
    scheduleText: Annotated[str | None, Field(examples=["Every 5 minutes"])]
    """The cron expression in words."""
    nextScheduledAt: Instant | None
    state: Annotated[JobState, Field(examples=["idle"])]
    """The first that holds."""
    paused: bool
    executionCount: Count
    lastExecution: LastRun | None


class JobPage(ListKeys):
    """A page of jobs, newest first."""

    items: list[JobListItem]


class ExecutionPage(ListKeys):
    """A page of executions, newest first."""

    items: list[ExecutionItem]
