"""Answers about notifications."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fastlane.api.schemas.responses.base import (
    Answer,
    Count,
    ExecutionReference,
    JobReference,
    PageKeys,
    TaskReference,
    Time,
    Url,
    Uuid,
)
from fastlane.model import ATTEMPTS_KEPT, DeliveryState, Event


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
