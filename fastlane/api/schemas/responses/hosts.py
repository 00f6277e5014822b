"""Answers about farms and hosts."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fastlane.api.schemas.responses.base import (
    Answer,
    Count,
    ExecutionId,
    ExecutionUrl,
    FarmName,
    HostName,
    Instant,
    JobId,
    Port,
    Slots,
    TaskId,
    Time,
)
from fastlane.hosts import Circuit
from fastlane.model import Status


class RunningContainer(Answer):
    """An execution that holds a slot."""

    host: HostName
    port: Port
    id: Annotated[str | None, Field(examples=["cbab7fd2"])]
    """The container's id, once there is one."""
    task: TaskId
    status: Status
    startedAt: Time | None
    executionId: ExecutionId
    executionUrl: ExecutionUrl


class Containers(Answer):
    """The containers that run now."""

    running: list[RunningContainer]


class Host(Answer):
    """A host and its state."""

    host: HostName
    port: Port
    farm: FarmName
    available: Annotated[bool, Field(examples=[True])]
    blacklisted: bool
    circuit: Circuit
    error: str | None
    running: Count
    maxRunning: Slots


class FarmStatus(Answer):
    """A farm, and whether its executions must wait."""

    name: FarmName
    match: Annotated[str, Field(examples=["^build-"])]
    """A regular expression that is searched in task ids."""
    running: Count
    maxRunning: Slots
    blocked: str | None
    """Why none of its hosts gets new executions."""


class EngineVersion(Answer):
    """What serves a host."""

    name: Annotated[str, Field(examples=["Engine"])]
    version: Annotated[str, Field(examples=["28.5.1"])]


class RunOnHost(Answer):
    """An execution that holds a slot."""

    executionId: ExecutionId
    url: ExecutionUrl
    taskId: TaskId
    jobId: JobId
    status: Status
    startedAt: Instant | None


class HostItem(Answer):
    """A host of a farm, and what runs on it."""

    host: Annotated[str, Field(examples=["localhost:1234"])]
    """As in DOCKER_HOSTS, and as in the filter `host` of `/executions/`."""
    configured: bool
    """False where executions run although the farm has the host no longer."""
    available: bool
    """Whether it gets new executions now."""
    drained: bool
    circuit: Circuit
    failures: Count
    """Consecutive failures."""
    error: str | None
    """The last one."""
    triedAgainAt: Instant | None
    """When a host whose circuit is open is tried again."""
    engine: EngineVersion | None
    """As it said when this instance connected to it last. Null before that."""
    running: Count
    executions: list[RunOnHost]
    """Newest first; at most 1,000 over all hosts."""


class FarmItem(Answer):
    """A farm, its slots and its hosts."""

    name: FarmName
    match: Annotated[str, Field(examples=["^build-"])]
    """A regular expression that is searched in task ids."""
    executor: Annotated[str, Field(examples=["process"])]
    running: Count
    """Slots in use."""
    maxRunning: Slots
    maxRunningPerTask: Slots | None
    blocked: str | None
    """Why none of its hosts gets new executions."""
    hosts: list[HostItem]


class HostList(Answer):
    """All farms."""

    farms: list[FarmItem]


class BlacklistedHost(Answer):
    """A host that was black-listed or put back."""

    host: Annotated[str, Field(examples=["localhost:1234"])]
    """As in the request."""
    blacklisted: Annotated[bool, Field(examples=[True])]


class Blacklist(Answer):
    """The hosts that get no new executions."""

    hosts: Annotated[list[str], Field(examples=[["localhost:1234"]])]
    """As in DOCKER_HOSTS, by name."""
