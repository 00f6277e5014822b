"""Answers about executions."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fastlane.api.schemas.responses.base import (
    Address,
    Answer,
    Command,
    Count,
    Envs,
    ExecutionId,
    ExecutionReference,
    ExecutionUrl,
    Image,
    JobReference,
    TaskReference,
    Time,
)
from fastlane.model import Reason, Status


class ExecutionMetadata(Answer):
    """Where an execution ran, and which of the job's executions it is. Channels add keys."""

    container_id: Annotated[str | None, Field(examples=["cbab7fd2125a30acd91813dd5b91476a"])]
    docker_host: Annotated[str | None, Field(examples=["localhost"])]
    docker_port: Annotated[int | None, Field(examples=[1234])]
    envs: Envs
    attempt: Annotated[Count, Field(examples=[0])]
    """0 for the first run, n for the n-th retry."""
    retries: Count
    farm: Annotated[str, Field(examples=["default"])]
    scheduledFor: Time | None
    """The tick that started it."""
    lateSeconds: float | None
    """How late a missed tick was made up for."""
    dueAt: Time | None
    """When its back-off ends."""
    message: str | None
    """What fastlane reports about its end."""
    waiting: str | None
    """Why it does not run yet: what it waits for, or how far its image is pulled."""


class Execution(Answer):
    """One run of a job."""

    executionId: ExecutionId
    url: ExecutionUrl
    createdAt: Time
    startedAt: Time | None
    finishedAt: Time | None
    status: Annotated[Status, Field(examples=["done"])]
    reason: Annotated[Reason | None, Field(examples=["exit-code"])]
    exitCode: Annotated[int | None, Field(examples=[0])]
    image: Image
    command: Command
    log: Annotated[str, Field(examples=["total 72K\n"])]
    """The last 64 KiB of stdout."""
    logTruncated: bool
    error: str
    """The last 64 KiB of stderr, or a sentence of fastlane's."""
    errorTruncated: bool
    requestIPAddress: Address
    metadata: ExecutionMetadata


class FollowingRetry(Answer):
    """The retry that follows an execution."""

    executionId: ExecutionId
    url: ExecutionUrl
    attempt: Annotated[Count, Field(examples=[1])]
    """n for the n-th retry."""
    dueAt: Time | None
    """When its back-off ends."""


class ExecutionDetails(Answer):
    """One execution, with its job and task."""

    execution: Execution
    retry: FollowingRetry | None
    """The retry that follows it, if one does."""
    job: JobReference
    task: TaskReference


class StoppedExecution(Answer):
    """The execution that was stopped."""

    execution: ExecutionReference
    job: JobReference
    task: TaskReference
