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


class BlacklistedHost(Answer):
    """A host that was black-listed or put back."""

    host: Annotated[str, Field(examples=["localhost:1234"])]
    """As in the request."""
    blacklisted: Annotated[bool, Field(examples=[True])]


class Blacklist(Answer):
    """The hosts that get no new executions."""

    hosts: Annotated[list[str], Field(examples=[["localhost:1234"]])]
    """As in DOCKER_HOSTS, by name."""
