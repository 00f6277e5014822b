"""The server, its farms and its hosts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from fastlane.api.schemas.channels import Queue, keys_of_queues
from fastlane.api.schemas.common import (
    Answer,
    Count,
    ExecutionId,
    ExecutionUrl,
    JobId,
    JobUrl,
    TaskId,
    TaskReference,
    Time,
    Urls,
    extended,
    host_and_port,
    task_reference,
    time_or_none,
)
from fastlane.hosts import Circuit, Hosts
from fastlane.model import Execution, Farm, Job, Status
from fastlane.storage.base import Overview

HostName = Annotated[str, Field(examples=["localhost"])]
Port = Annotated[int | None, Field(examples=[1234])]
FarmName = Annotated[str, Field(examples=["default"])]
Slots = Annotated[int, Field(ge=1, examples=[8])]


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


class BlacklistedHost(Answer):
    """A host that was black-listed or put back."""

    host: Annotated[str, Field(examples=["localhost:1234"])]
    """As in the request."""
    blacklisted: Annotated[bool, Field(examples=[True])]


class Blacklist(Answer):
    """The hosts that get no new executions."""

    hosts: Annotated[list[str], Field(examples=[["localhost:1234"]])]
    """As in DOCKER_HOSTS, by name."""


def running_container(execution: Execution, urls: Urls) -> RunningContainer:
    host, port = host_and_port(execution.host or "")
    return {
        "host": host,
        "port": port,
        "id": execution.run_id,
        "task": execution.task_id,
        "status": execution.status,
        "startedAt": time_or_none(execution.started_at),
        "executionId": execution.id,
        "executionUrl": urls.execution(execution),
    }


def job_counts(overview: Overview, scheduled: Sequence[Job], urls: Urls) -> JobCounts:
    return {
        "count": overview.jobs,
        "scheduled": [_scheduled_job(job, urls) for job in scheduled],
        "scheduledCount": overview.scheduled,
    }


def _scheduled_job(job: Job, urls: Urls) -> ScheduledJob:
    url = urls.job(job.task_id, job.id)
    return {
        "id": job.id,
        "nextScheduledAt": time_or_none(job.next_run_at),
        "url": url,
        "stopUrl": f"{url}stop/",
        "task": task_reference(job.task_id, urls),
    }


def queues(overview: Overview) -> Queues:
    found: Queues = {
        "jobs": {"length": overview.queued},
        "monitor": {"length": overview.active},
        "scheduled": {"length": overview.scheduled + overview.delayed},
        "error": {"length": overview.undelivered},
    }
    return extended(found, keys_of_queues(overview))


def farm_status(farm: Farm, hosts: Hosts, running: int) -> FarmStatus:
    return {
        "name": farm.name,
        "match": farm.match,
        "running": running,
        "maxRunning": farm.max_running,
        "blocked": hosts.blocked(farm.hosts),
    }


def host_status(name: str, hosts: Hosts, running: int, farm: Farm) -> Host:
    host, port = host_and_port(name)
    record = hosts.record(name)
    return {
        "host": host,
        "port": port,
        "farm": farm.name,
        "available": bool(hosts.available([name])),
        "blacklisted": record.blacklisted,
        "circuit": hosts.circuit(name),
        "error": record.error,
        "running": running,
        "maxRunning": farm.max_running,
    }
