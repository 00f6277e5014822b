"""Answers about jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NotRequired

from pydantic import Field

from fastlane.api.schemas.responses.base import (
    Address,
    Answer,
    Command,
    Count,
    Envs,
    ExecutionId,
    ExecutionUrl,
    Image,
    JobId,
    JobUrl,
    PageKeys,
    TaskId,
    TaskReference,
    TaskUrl,
    Time,
    Uuid,
)
from fastlane.api.schemas.responses.executions import Execution
from fastlane.model import Overlap, PullPolicy


class StoppedJob(Answer):
    """The job that was stopped."""

    taskId: TaskId
    taskUrl: TaskUrl
    jobId: JobId
    jobUrl: JobUrl


class PausedJob(StoppedJob):
    """The job that was paused or resumed."""

    paused: bool
    nextScheduledAt: Time | None


class RetriedJob(StoppedJob):
    """The job and its new execution."""

    executionId: ExecutionId
    executionUrl: ExecutionUrl


class Submitted(StoppedJob):
    """What was stored. The execution's id and URL are null when the job is scheduled."""

    queueJobId: Uuid
    executionId: ExecutionId | None
    executionUrl: ExecutionUrl | None
    execution: NotRequired[Execution]
    """With `wait`, once it has ended: the execution or, if it was retried, its last retry."""


class Backoff(Answer):
    """The delay before retry n is minMs · factorⁿ⁻¹, at most maxMs."""

    minMs: Annotated[float, Field(ge=0, examples=[1000])]
    factor: Annotated[float, Field(ge=1, examples=[2])]
    maxMs: Annotated[float, Field(ge=0, examples=[300000])]


class Resources(Answer):
    """Limits of the container. Null means the farm's limit."""

    cpus: float | None
    memory: int | None
    """Bytes."""
    pids: int | None
    disk: int | None
    """Bytes."""


class JobMetadata(Answer):
    """The job's definition. Channels add keys."""

    enqueued_id: Uuid
    envs: Envs
    retries: Count
    retry_count: Count
    timeout: Annotated[float, Field(gt=0, examples=[1800])]
    """Seconds."""
    custom: Annotated[Mapping[str, Any], Field(examples=[{"username": "heynemann"}])]
    """The payload's metadata."""
    cron: str | None
    timezone: Annotated[str, Field(examples=["UTC"])]
    startAt: Time | None
    expiration: Time | None
    overlap: Overlap
    maxWaiting: Annotated[int, Field(ge=1, examples=[1])]
    backoff: Backoff
    resources: Resources
    pullPolicy: PullPolicy | None
    rerunWhenLost: bool
    additionalDNSEntries: Annotated[dict[str, str], Field(examples=[{"db": "10.0.0.7"}])]


class Job(Answer):
    """What to run and when, with a page of its executions, newest first."""

    id: JobId
    name: Annotated[str | None, Field(examples=["nightly-report"])]
    """What it was called in PUT, unique in its task."""
    url: JobUrl
    taskId: TaskId
    createdAt: Time
    lastModifiedAt: Time
    image: Image
    command: Command
    scheduled: bool
    nextScheduledAt: Time | None
    stoppedAt: Time | None
    paused: bool
    """Its ticks are held back, until it is resumed."""
    executionCount: Count
    skippedTicks: Count
    """Ticks that the overlap rule skipped or merged into a later one."""
    lastSkippedTick: Time | None
    executions: list[Execution]
    requestIPAddress: Address
    metadata: JobMetadata


class JobDetails(PageKeys):
    """A job. The page keys are those of its executions."""

    task: TaskReference
    job: Job
