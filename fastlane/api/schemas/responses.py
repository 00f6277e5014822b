"""What answers look like.

An answer is a :class:`TypedDict`: a plain dictionary when it is sent, and the schema of it in the
OpenAPI document. :mod:`.build` makes answers from records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from fastlane.hosts import Circuit
from fastlane.model import ATTEMPTS_KEPT, DeliveryState, Event, Overlap, PullPolicy, Reason, Status

TIME_PATTERN = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}$"
UUID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_JOB = "5a023792-1445-44e9-8a8b-cfe5ad05d1c6"
_EXECUTION = "36e1b166-7c7a-4a41-a69e-8f78a9ec8128"
_TASK_URL = "http://localhost:10000/tasks/test-wrkng/"
_JOB_URL = f"{_TASK_URL}jobs/{_JOB}/"
Time = Annotated[str, Field(pattern=TIME_PATTERN, examples=["2019-01-17T15:13:02.754000"])]
Uuid = Annotated[
    str, Field(pattern=UUID_PATTERN, examples=["f1b526fa-acbf-4bb0-bd39-67621dee540a"])
]
Url = Annotated[str, Field(pattern=r"^https?://", examples=["http://localhost:10000/"])]
TaskId = Annotated[str, Field(min_length=1, max_length=255, examples=["test-wrkng"])]
JobId = Annotated[str, Field(pattern=UUID_PATTERN, examples=[_JOB])]
ExecutionId = Annotated[str, Field(pattern=UUID_PATTERN, examples=[_EXECUTION])]
TaskUrl = Annotated[str, Field(pattern=r"^https?://", examples=[_TASK_URL])]
JobUrl = Annotated[str, Field(pattern=r"^https?://", examples=[_JOB_URL])]
ExecutionUrl = Annotated[
    str, Field(pattern=r"^https?://", examples=[f"{_JOB_URL}executions/{_EXECUTION}/"])
]
Count = Annotated[int, Field(ge=0, examples=[2])]
Image = Annotated[str, Field(examples=["ubuntu:latest"])]
Command = Annotated[str | Sequence[str], Field(description="As submitted.", examples=["ls -lah"])]
Envs = Annotated[
    dict[str, str],
    Field(
        description="Values of secret names are shown as ***.",
        examples=[{"SMTP_SERVER": "my-smtp-server", "SMTP_PASSWORD": "***"}],
    ),
]
Address = Annotated[
    str | None, Field(description="Where the request came from.", examples=["127.0.0.1"])
]
HostName = Annotated[str, Field(examples=["localhost"])]
Port = Annotated[int | None, Field(examples=[1234])]
FarmName = Annotated[str, Field(examples=["default"])]
Slots = Annotated[int, Field(ge=1, examples=[8])]


@with_config(ConfigDict(extra="forbid", use_attribute_docstrings=True))
class Answer(TypedDict):
    """The base of all answers."""


class TaskReference(Answer):
    """A task and its URL."""

    id: TaskId
    url: TaskUrl


class JobReference(Answer):
    """A job and its URL."""

    id: JobId
    url: JobUrl


class ExecutionReference(Answer):
    """An execution and its URL."""

    id: ExecutionId
    url: ExecutionUrl


class PageKeys(Answer):
    """Which page this is. Following ``nextUrl`` costs the same on every page."""

    hasNext: bool
    hasPrev: bool
    nextUrl: Url | None
    prevUrl: Url | None
    page: Annotated[int, Field(ge=1, examples=[1])]
    pages: Count
    perPage: Annotated[int, Field(ge=1, le=100, examples=[10])]
    total: Count


class Dispatch(Answer):
    """One attempt at a delivery and its result."""

    time: Time
    event: Event
    status: int | None
    """The receiver's status code. Null when it gave none."""
    error: str | None
    """Null when the notification was delivered."""
    duration: Annotated[float, Field(ge=0, examples=[0.012])]
    """Seconds."""
    notificationId: Uuid
    """The same for every attempt; receivers get it, too."""


NotSent = Annotated[str | None, Field(description="Why nothing is sent, if so.", examples=[None])]
Dispatches = Annotated[
    list[Dispatch],
    Field(max_length=ATTEMPTS_KEPT, description="The last three attempts, oldest first."),
]


class Queue(Answer):
    """A queue."""

    length: Count


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


class ExecutionDetails(Answer):
    """One execution, with its job and task."""

    execution: Execution
    job: JobReference
    task: TaskReference


class StoppedExecution(Answer):
    """The execution that was stopped."""

    execution: ExecutionReference
    job: JobReference
    task: TaskReference


class TaskItem(Answer):
    """A task in a list."""

    taskId: TaskId
    url: TaskUrl
    createdAt: Time
    lastModifiedAt: Time
    jobsCount: Count


class TaskPage(PageKeys):
    """A page of tasks."""

    items: list[TaskItem]


class JobItem(JobReference):
    """A job in a list."""

    createdAt: Time


class TaskDetails(TaskItem, PageKeys):
    """A task with a page of its jobs, newest first."""

    jobs: list[JobItem]


class StoppedJob(Answer):
    """The job that was stopped."""

    taskId: TaskId
    taskUrl: TaskUrl
    jobId: JobId
    jobUrl: JobUrl


class RetriedJob(StoppedJob):
    """The job and its new execution."""

    executionId: ExecutionId
    executionUrl: ExecutionUrl


class Submitted(StoppedJob):
    """What was stored. The execution's id and URL are null when the job is scheduled."""

    queueJobId: Uuid
    executionId: ExecutionId | None
    executionUrl: ExecutionUrl | None


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
    url: JobUrl
    taskId: TaskId
    createdAt: Time
    lastModifiedAt: Time
    image: Image
    command: Command
    scheduled: bool
    nextScheduledAt: Time | None
    stoppedAt: Time | None
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


class Notification(Answer):
    """A notification about an execution to one receiver."""

    id: Uuid
    """The same for every attempt; the receiver gets it, too."""
    channel: str
    """The name of the channel."""
    event: Event
    target: Annotated[str, Field(examples=["https://example.org/hook"])]
    """URL or address."""
    state: DeliveryState
    createdAt: Time
    dueAt: Time | None
    """When it is tried next."""
    attempts: Count
    """Since it was stored or requeued."""
    dispatch: Dispatches
    requeueUrl: Url
    execution: ExecutionReference
    job: JobReference
    task: TaskReference


class NotificationPage(PageKeys):
    """A page of notifications, newest first."""

    items: list[Notification]


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


class PayloadFault(Answer):
    """One thing that is wrong with a payload."""

    pointer: Annotated[str, Field(examples=["/cron"])]
    """RFC 6901 JSON pointer. "" is the whole payload."""
    message: Annotated[str, Field(examples=["retries is -1; it must be at least 0."])]
    """What is wrong, with which value, and what to do."""


class ProblemDetails(Answer):
    """An error in the form of RFC 9457."""

    type: Annotated[str, Field(examples=["about:blank"])]
    title: Annotated[str, Field(examples=["Bad Request"])]
    status: Annotated[int, Field(ge=400, le=599, examples=[400])]
    detail: Annotated[str, Field(examples=["The payload has 1 error."])]
    requestId: Annotated[str, Field(examples=["0d7c9a43-5cbb-4f28-9d0e-6e2f2b8dbb1c"])]
    """Also in every log line of the request."""


class PayloadProblem(ProblemDetails):
    """An error that may list everything that is wrong with a payload."""

    errors: NotRequired[list[PayloadFault]]
    """Only for payloads."""
