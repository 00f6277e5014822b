"""What all answers are made of: types of keys, references to records, page keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

TIME_PATTERN = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}$"
UUID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_JOB = "5a023792-1445-44e9-8a8b-cfe5ad05d1c6"
_EXECUTION = "36e1b166-7c7a-4a41-a69e-8f78a9ec8128"
_TASK_URL = "http://localhost:10000/tasks/test-wrkng/"
_JOB_URL = f"{_TASK_URL}jobs/{_JOB}/"


class IsTime:
    """Marks the type of a string that is a point in time, for :mod:`fastlane.api.schemas.times`."""


Time = Annotated[
    str, Field(pattern=TIME_PATTERN, examples=["2019-01-17T15:13:02.754000"]), IsTime()
]
INSTANT_PATTERN = f"{TIME_PATTERN[:-1]}Z$"
Instant = Annotated[
    str, Field(pattern=INSTANT_PATTERN, examples=["2026-01-17T15:13:02.754000Z"]), IsTime()
]
"""RFC 3339, on the routes that the reference does not have."""
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
