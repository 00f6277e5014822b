"""Stored events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from fastlane.api.schemas.responses.base import Answer, ExecutionId, Instant, JobId, TaskId, Uuid

Cursor = Annotated[str, Field(pattern=r"^e[0-9a-f]+$", examples=["e1c2"])]


@with_config(ConfigDict(extra="forbid", use_attribute_docstrings=True))
class Event(TypedDict):
    """Something that happened; it has the keys that apply."""

    id: Uuid
    """Made with the change: an event that is repeated has the same."""
    cursor: Cursor
    """For `after`: continue after this event."""
    type: Annotated[str, Field(examples=["execution.done"])]
    """Such as `execution.done`; `gap` says that events before this point are missing."""
    at: Instant
    taskId: NotRequired[TaskId]
    jobId: NotRequired[JobId]
    executionId: NotRequired[ExecutionId]
    url: NotRequired[
        Annotated[
            str, Field(pattern=r"^https?://", examples=["http://localhost:10000/tasks/test-wrkng/"])
        ]
    ]
    """Of the execution, the job or the task, unless it was deleted."""
    status: NotRequired[Annotated[str, Field(examples=["done"])]]
    reason: NotRequired[Annotated[str, Field(examples=["exit-code"])]]
    exitCode: NotRequired[Annotated[int, Field(examples=[0])]]
    attempt: NotRequired[Annotated[int, Field(ge=0, examples=[0])]]
    """0 for the first run, n for the n-th retry."""
    host: NotRequired[Annotated[str, Field(examples=["localhost:1234"])]]
    waiting: NotRequired[str]
    """Why the execution does not start yet."""


class EventPage(Answer):
    """Events in their order."""

    items: Sequence[Event]
    cursor: Cursor
    """For `after` of the next request."""
    hasMore: bool
    """Whether there are more events than were looked at."""
