"""Answers about the server: its health and its status."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fastlane.api.schemas.responses.base import Answer, Count, JobId, JobUrl, TaskReference, Time
from fastlane.api.schemas.responses.hosts import Containers, FarmStatus, Host


class PartError(Answer):
    """A part of the storage that is not available."""

    source: Literal["mongo", "redis"]
    message: Annotated[str, Field(examples=["connection refused"])]


class Health(Answer):
    """Whether the storage is available."""

    errors: Annotated[list[PartError], Field(examples=[[]])]
    mongo: Annotated[bool, Field(examples=[True])]
    """The records."""
    redis: Annotated[bool, Field(examples=[True])]
    """The queue."""
    backend: Annotated[str, Field(examples=["sqlite"])]


class ScheduledJob(Answer):
    """A job that has a next run."""

    id: JobId
    nextScheduledAt: Time | None
    url: JobUrl
    stopUrl: JobUrl
    task: TaskReference


class JobCounts(Answer):
    """How many jobs there are, and the first hundred that have a next run."""

    count: Count
    scheduled: list[ScheduledJob]
    scheduledCount: Count


class Queue(Answer):
    """A queue."""

    length: Count


class Queues(Answer):
    """The queues by name. Channels add keys."""

    jobs: Queue
    monitor: Queue
    scheduled: Queue
    error: Queue


class TaskCount(Answer):
    """How many tasks there are."""

    count: Count


class ServerStatus(Answer):
    """What the server does, and the state of its hosts."""

    version: Annotated[str, Field(examples=["1.0.0"])]
    executor: Annotated[str, Field(examples=["docker"])]
    backend: Annotated[str, Field(examples=["sqlite"])]
    containers: Containers
    hosts: list[Host]
    farms: list[FarmStatus]
    jobs: JobCounts
    queues: Queues
    tasks: TaskCount
