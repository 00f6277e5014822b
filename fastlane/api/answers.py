"""What answers look like, as models: the OpenAPI document is made from them.

They describe what :mod:`fastlane.api.shapes` builds and are not run on each answer; the tests hold
every answer of a live server against them, so that the two cannot drift apart.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, create_model
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from fastlane.model import DeliveryState, Event, Overlap, PullPolicy, Reason, Status
from fastlane.notifications.registry import channels

TIME_PATTERN = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}$"
UUID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"

Time = Annotated[
    str,
    Field(
        pattern=TIME_PATTERN,
        description="UTC, without a suffix.",
        examples=["2019-01-17T15:13:02.754000"],
    ),
]
_BASE = "http://localhost:10000"
_JOB_ID = "5a023792-1445-44e9-8a8b-cfe5ad05d1c6"
_EXECUTION_ID = "36e1b166-7c7a-4a41-a69e-8f78a9ec8128"
TaskId = Annotated[str, Field(min_length=1, max_length=255, examples=["test-wrkng"])]
JobId = Annotated[str, Field(pattern=UUID_PATTERN, examples=[_JOB_ID])]
ExecutionId = Annotated[str, Field(pattern=UUID_PATTERN, examples=[_EXECUTION_ID])]
_NOTIFICATION_ID = "ba4ff7d1-57a0-5a6d-8b0f-2a4f0bd4ba3c"
NotificationId = Annotated[
    str,
    Field(
        pattern=UUID_PATTERN,
        description="The same for every attempt; receivers get it, too.",
        examples=[_NOTIFICATION_ID],
    ),
]
TaskUrl = Annotated[str, Field(pattern=r"^https?://", examples=[f"{_BASE}/tasks/test-wrkng/"])]
JobUrl = Annotated[
    str, Field(pattern=r"^https?://", examples=[f"{_BASE}/tasks/test-wrkng/jobs/{_JOB_ID}/"])
]
ExecutionUrl = Annotated[
    str,
    Field(
        pattern=r"^https?://",
        examples=[f"{_BASE}/tasks/test-wrkng/jobs/{_JOB_ID}/executions/{_EXECUTION_ID}/"],
    ),
]
PageUrl = Annotated[
    str,
    Field(
        pattern=r"^https?://",
        description="Follow it as it is; following nextUrl costs the same on every page.",
        examples=[f"{_BASE}/tasks/?page=2&after=10"],
    ),
]
Count = Annotated[int, Field(ge=0, examples=[2])]
Command = Annotated[str | list[str], Field(description="As submitted.", examples=["ls -lah"])]
Address = Annotated[
    str | None,
    Field(alias="requestIPAddress", description="Who asked for it.", examples=["127.0.0.1"]),
]
Envs = Annotated[
    dict[str, str],
    Field(
        description="Values of secret names are shown as ***.",
        examples=[{"SMTP_SERVER": "my-smtp-server", "SMTP_PASSWORD": "***"}],
    ),
]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, validate_by_alias=True)


class _WithChannels(_Answer):
    """An answer to which notification channels add keys."""

    @classmethod
    def channel_fields(cls) -> dict[str, Any]:
        """Types and fields by the names of the keys."""
        raise NotImplementedError

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        added = create_model(f"{cls.__name__}OfChannels", __base__=_Answer, **cls.channel_fields())
        found = handler.resolve_ref_schema(handler(core_schema))
        extra = handler.resolve_ref_schema(handler(added.__pydantic_core_schema__))
        found["properties"] |= extra["properties"]
        found["required"] += extra["required"]
        return found


# -- tasks, jobs, executions ----------------------------------------------------------------------


class TaskReference(_Answer):
    """A task, and where it is."""

    id: TaskId
    url: TaskUrl


class JobReference(_Answer):
    """A job, and where it is."""

    id: JobId
    url: JobUrl


class ExecutionReference(_Answer):
    """An execution, and where it is."""

    id: ExecutionId
    url: ExecutionUrl


class _PageKeys(_Answer):
    has_next: bool = Field(examples=[True])
    has_prev: bool = Field(examples=[False])
    next_url: PageUrl | None
    prev_url: PageUrl | None = Field(examples=[None])
    page: Annotated[int, Field(ge=1, examples=[1])]
    pages: Count
    per_page: Annotated[int, Field(ge=1, le=100, examples=[10])]
    total: Count


class TaskItem(_Answer):
    """A task in a list."""

    task_id: TaskId
    url: TaskUrl
    created_at: Time
    last_modified_at: Time
    jobs_count: Count


class TaskPage(_PageKeys):
    """A page of tasks."""

    items: list[TaskItem]


class JobItem(JobReference):
    """A job in a list."""

    created_at: Time


class TaskDetails(TaskItem, _PageKeys):
    """A task with a page of its jobs, newest first."""

    jobs: list[JobItem]


class Submitted(_Answer):
    """What was stored; execution id and URL are null when the job is scheduled."""

    task_id: TaskId
    task_url: TaskUrl
    job_id: JobId
    job_url: JobUrl
    queue_job_id: Annotated[
        str, Field(pattern=UUID_PATTERN, examples=["f1b526fa-acbf-4bb0-bd39-67621dee540a"])
    ]
    execution_id: ExecutionId | None
    execution_url: ExecutionUrl | None


class StoppedJob(_Answer):
    """The job that was stopped."""

    task_id: TaskId
    task_url: TaskUrl
    job_id: JobId
    job_url: JobUrl


class RetriedJob(StoppedJob):
    """The job, and its new execution."""

    execution_id: ExecutionId
    execution_url: ExecutionUrl


class StoppedExecution(_Answer):
    """The execution that was stopped."""

    execution: ExecutionReference
    job: JobReference
    task: TaskReference


class ExecutionMetadata(_WithChannels):
    """Where an execution ran, and which of the job's it was."""

    container_id: str | None = Field(
        alias="container_id",
        examples=["cbab7fd2125a30acd91813dd5b91476ab2c8c1e93d84c1b791231097f16fc87c"],
    )
    docker_host: str | None = Field(alias="docker_host", examples=["localhost"])
    docker_port: int | None = Field(alias="docker_port", examples=[1234])
    envs: Envs
    attempt: Count = Field(description="0 for the first, n for the n-th retry.", examples=[0])
    retries: Count
    farm: str = Field(examples=["default"])
    scheduled_for: Time | None = Field(description="The tick that it stands for.")
    late_seconds: float | None = Field(
        description="How late a missed tick was made up for.", examples=[None]
    )
    due_at: Time | None = Field(description="When its back-off ends.", examples=[None])
    message: str | None = Field(
        description="What fastlane has to say about its end.", examples=[None]
    )
    waiting: str | None = Field(
        description="Why it does not run yet: what it waits for, or how far its image is pulled.",
        examples=[None],
    )

    @classmethod
    def channel_fields(cls) -> dict[str, Any]:
        field = Field(description="The last three attempts to notify, oldest first.", max_length=3)
        keys = (channel.dispatch_key for channel in channels())
        return {key: (list[Dispatch], field) for key in keys if key is not None}


class Dispatch(_Answer):
    """One attempt at a delivery, and its result."""

    time: Time
    event: Event = Field(examples=["finishes"])
    status: int | None = Field(
        description="The receiver's status code; null where it gave none.", examples=[500]
    )
    error: str | None = Field(
        description="Null when it was delivered.", examples=["The receiver answered 500."]
    )
    duration: float = Field(ge=0, description="Seconds.", examples=[0.012])
    notification_id: NotificationId


class Execution(_Answer):
    """One run of a job."""

    execution_id: ExecutionId
    url: ExecutionUrl
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    status: Status = Field(examples=["done"])
    reason: Reason | None = Field(examples=["exit-code"])
    exit_code: int | None = Field(examples=[0])
    image: str = Field(examples=["ubuntu:latest"])
    command: Command
    log: str = Field(description="The last 64 KiB of stdout.", examples=["total 72K\n"])
    log_truncated: bool = Field(examples=[False])
    error: str = Field(
        description="The last 64 KiB of stderr, or a sentence of fastlane's.", examples=[""]
    )
    error_truncated: bool = Field(examples=[False])
    request_ip: Address
    metadata: ExecutionMetadata


class ExecutionDetails(_Answer):
    """One execution, and where it belongs."""

    execution: Execution
    job: JobReference
    task: TaskReference


class Backoff(_Answer):
    """The delay before retry n is minMs · factorⁿ⁻¹, capped at maxMs."""

    min_ms: float = Field(ge=0, examples=[1000])
    factor: float = Field(ge=1, examples=[2])
    max_ms: float = Field(ge=0, examples=[300000])


class Resources(_Answer):
    """Limits of the container; null means the farm's own."""

    cpus: float | None = Field(examples=[0.5])
    memory: int | None = Field(description="Bytes.", examples=[536870912])
    pids: int | None = Field(examples=[None])


class JobMetadata(_WithChannels):
    """The job's definition."""

    enqueued_id: str = Field(
        alias="enqueued_id",
        pattern=UUID_PATTERN,
        examples=["ba17fb94-9d5b-463b-9e1e-0a572c8f8380"],
    )
    envs: Envs
    retries: Count
    retry_count: Count = Field(alias="retry_count", examples=[0])
    timeout: float = Field(description="Seconds.", gt=0, examples=[1800])
    custom: dict[str, Any] = Field(
        description="The submitter's metadata.", examples=[{"username": "heynemann"}]
    )
    cron: str | None = Field(examples=["*/5 * * * *"])
    timezone: str = Field(examples=["UTC"])
    start_at: Time | None = Field(examples=[None])
    expiration: Time | None = Field(examples=[None])
    overlap: Overlap = Field(examples=["allow"])
    backoff: Backoff
    resources: Resources
    pull_policy: PullPolicy | None = Field(examples=["always"])
    rerun_when_lost: bool = Field(examples=[False])
    dns_entries: dict[str, str] = Field(alias="additionalDNSEntries", examples=[{"db": "10.0.0.7"}])

    @classmethod
    def channel_fields(cls) -> dict[str, Any]:
        return {key: one for channel in channels() for key, one in channel.details.items()}


class Job(_Answer):
    """What to run and when, with a page of its executions, newest first."""

    id: JobId
    url: JobUrl
    task_id: TaskId
    created_at: Time
    last_modified_at: Time
    image: str = Field(examples=["ubuntu:latest"])
    command: Command
    scheduled: bool = Field(examples=[True])
    next_scheduled_at: Time | None
    stopped_at: Time | None = Field(examples=[None])
    execution_count: Count
    executions: list[Execution]
    request_ip: Address
    metadata: JobMetadata


class JobDetails(_PageKeys):
    """A job; the page keys are those of its executions."""

    task: TaskReference
    job: Job


# -- the server -----------------------------------------------------------------------------------


class PartError(_Answer):
    """A part of the storage that is not well."""

    source: Literal["mongo", "redis"]
    message: str = Field(examples=["connection refused"])


class Health(_Answer):
    """Whether the storage is well."""

    errors: list[PartError] = Field(examples=[[]])
    mongo: bool = Field(description="The records.", examples=[True])
    redis: bool = Field(description="The queue.", examples=[True])
    backend: str = Field(examples=["sqlite"])


class RunningContainer(_Answer):
    """An execution that holds a slot."""

    host: str = Field(examples=["localhost"])
    port: int | None = Field(examples=[1234])
    id: str | None = Field(description="The container's, once there is one.", examples=["cbab7fd2"])
    task: TaskId
    status: Status = Field(examples=["running"])
    started_at: Time | None
    execution_id: ExecutionId
    execution_url: ExecutionUrl


class Containers(_Answer):
    """What runs."""

    running: list[RunningContainer]


class Host(_Answer):
    """A host, and how it is."""

    host: str = Field(examples=["localhost"])
    port: int | None = Field(examples=[1234])
    farm: str = Field(examples=["default"])
    available: bool = Field(examples=[True])
    blacklisted: bool = Field(examples=[False])
    circuit: Literal["closed", "open", "half-open"] = Field(examples=["closed"])
    error: str | None = Field(examples=[None])
    running: Count
    max_running: Annotated[int, Field(ge=1, examples=[8])]


class FarmStatus(_Answer):
    """A farm, and whether its executions have to wait."""

    name: str = Field(examples=["default"])
    match: str = Field(description="A pattern that is searched in task ids.", examples=["^build-"])
    running: Count
    max_running: Annotated[int, Field(ge=1, examples=[8])]
    blocked: str | None = Field(
        description="Why none of its hosts is given anything.", examples=[None]
    )


class BlacklistedHost(_Answer):
    """A host that was black-listed or put back."""

    host: str = Field(description="As it was asked for.", examples=["localhost:1234"])
    blacklisted: bool = Field(examples=[True])


class Blacklist(_Answer):
    """The hosts that are out for new executions."""

    hosts: list[str] = Field(
        description="As in DOCKER_HOSTS, by name.", examples=[["localhost:1234"]]
    )


class ScheduledJob(_Answer):
    """A job that has a next run."""

    id: JobId
    next_scheduled_at: Time | None
    url: JobUrl
    stop_url: JobUrl
    task: TaskReference


class Notification(_Answer):
    """What one receiver is told about an execution."""

    id: NotificationId
    channel: str = Field(description="The name of the channel.", examples=[channels()[0].name])
    event: Event = Field(examples=["finishes"])
    target: str = Field(description="URL or address.", examples=["https://example.org/hook"])
    state: DeliveryState = Field(examples=["failed"])
    created_at: Time
    due_at: Time | None = Field(description="When it is tried next.", examples=[None])
    attempts: Count = Field(description="Since it was stored or requeued.")
    dispatch: list[Dispatch] = Field(description="The last three attempts.", max_length=3)
    requeue_url: str = Field(
        pattern=r"^https?://", examples=[f"{_BASE}/notifications/{_NOTIFICATION_ID}/requeue/"]
    )
    execution: ExecutionReference
    job: JobReference
    task: TaskReference


class NotificationPage(_PageKeys):
    """A page of notifications, newest first."""

    items: list[Notification]


class JobCounts(_Answer):
    """How many jobs there are, and the first hundred that have a next run."""

    count: Count
    scheduled: list[ScheduledJob]
    scheduled_count: Count


class Queue(_Answer):
    """How much waits."""

    length: Count


class Queues(_WithChannels):
    """How much waits, and what for."""

    jobs: Queue
    monitor: Queue
    scheduled: Queue
    error: Queue

    @classmethod
    def channel_fields(cls) -> dict[str, Any]:
        field = Field(description="Pending notifications.")
        return {channel.key: (Queue, field) for channel in channels()}


class TaskCount(_Answer):
    """How many tasks there are."""

    count: Count


class ServerStatus(_Answer):
    """What the server does, and what it knows of its hosts."""

    version: str = Field(examples=["1.0.0"])
    executor: str = Field(examples=["docker"])
    backend: str = Field(examples=["sqlite"])
    containers: Containers
    hosts: list[Host]
    farms: list[FarmStatus]
    jobs: JobCounts
    queues: Queues
    tasks: TaskCount


# -- errors ---------------------------------------------------------------------------------------


class PayloadFault(_Answer):
    """One thing that is wrong with a payload."""

    pointer: str = Field(
        description='RFC 6901 JSON pointer; "" is the whole payload.', examples=["/cron"]
    )
    message: str = Field(
        description="What is wrong, with what value, and what would be right.",
        examples=["retries is -1; it must be at least 0."],
    )


class ProblemDetails(_Answer):
    """An error, as RFC 9457 has it."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Bad Request"])
    status: Annotated[int, Field(ge=400, le=599, examples=[400])]
    detail: str = Field(examples=["The payload has 1 error."])
    request_id: str = Field(
        description="Stands in the server's log, too.",
        examples=["0d7c9a43-5cbb-4f28-9d0e-6e2f2b8dbb1c"],
    )


class PayloadProblem(ProblemDetails):
    """An error that may name all that is wrong with a payload."""

    errors: list[PayloadFault] = Field(
        default_factory=list, description="Only where a payload is at fault."
    )


MODELS: tuple[type[BaseModel], ...] = (
    TaskPage,
    TaskDetails,
    Submitted,
    StoppedJob,
    RetriedJob,
    StoppedExecution,
    Blacklist,
    BlacklistedHost,
    ExecutionDetails,
    JobDetails,
    Notification,
    NotificationPage,
    Health,
    ServerStatus,
    ProblemDetails,
    PayloadProblem,
)
"""The answers that routes give as a whole; what they are made of comes with them."""
