"""Notifications that are pending or could not be delivered."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fastlane.api.feed import time_text
from fastlane.api.schemas.channels import Dispatches, last_attempts
from fastlane.api.schemas.common import (
    Answer,
    Count,
    ExecutionReference,
    JobReference,
    PageKeys,
    TaskReference,
    Time,
    Url,
    Urls,
    Uuid,
    job_reference,
    task_reference,
    time_or_none,
)
from fastlane.model import Delivery, DeliveryState, Event


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


def notification(delivery: Delivery, urls: Urls) -> Notification:
    execution_url = urls.execution_of(delivery.task_id, delivery.job_id, delivery.execution_id)
    return {
        "id": delivery.id,
        "channel": delivery.channel,
        "event": delivery.event,
        "target": delivery.target,
        "state": delivery.state,
        "createdAt": time_text(delivery.created_at),
        "dueAt": time_or_none(delivery.due_at),
        "attempts": delivery.attempts,
        "dispatch": last_attempts([delivery]),
        "requeueUrl": f"{urls.notifications()}{delivery.id}/requeue/",
        "execution": {"id": delivery.execution_id, "url": execution_url},
        "job": job_reference(delivery.task_id, delivery.job_id, urls),
        "task": task_reference(delivery.task_id, urls),
    }
