"""The keys that notification channels add to answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from fastlane.api.feed import time_text
from fastlane.api.schemas.common import Answer, Count, Time, Uuid
from fastlane.config import Config
from fastlane.model import ATTEMPTS_KEPT, Definition, Delivery, Event
from fastlane.notifications.registry import channels
from fastlane.storage.base import Overview


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


class Queue(Answer):
    """A queue."""

    length: Count


Dispatches = Annotated[
    list[Dispatch],
    Field(max_length=ATTEMPTS_KEPT, description="The last three attempts, oldest first."),
]


NotSent = Annotated[str | None, Field(description="Why nothing is sent, if so.", examples=[None])]


def keys_of_job(definition: Definition, config: Config) -> dict[str, Any]:
    """What each channel shows of a job."""
    wanted = {one.channel: one for one in definition.subscriptions}
    words = config.env_blacklisted_words
    found: dict[str, Any] = {}
    for channel in channels():
        found[channel.key] = wanted.get(channel.name, channel.payload()).shown(words)
        if channel.error_key is not None:
            found[channel.error_key] = channel.error(config) if channel.name in wanted else None
    return found


def keys_of_execution(deliveries: Sequence[Delivery]) -> dict[str, list[Dispatch]]:
    """The last attempts of each channel that shows them."""
    return {
        channel.dispatch_key: last_attempts(
            [one for one in deliveries if one.channel == channel.name]
        )
        for channel in channels()
        if channel.dispatch_key is not None
    }


def keys_of_queues(overview: Overview) -> dict[str, Queue]:
    """How many notifications wait in each channel."""
    return {
        channel.key: {"length": overview.pending.get(channel.name, 0)} for channel in channels()
    }


def added_keys() -> Mapping[str, Mapping[str, Any]]:
    """The types of the keys above, by the name of the answer to which they are added."""
    payloads = {channel.key: channel.payload for channel in channels()}
    errors = dict.fromkeys((one.error_key for one in channels() if one.error_key), NotSent)
    return {
        "JobMetadata": {**payloads, **errors},
        "ExecutionMetadata": dict.fromkeys(keys_of_execution(()), Dispatches),
        "Queues": {channel.key: Queue for channel in channels()},
    }


def last_attempts(deliveries: Sequence[Delivery]) -> list[Dispatch]:
    """The last few attempts of all *deliveries* together, oldest first."""
    tried = [(attempt, one) for one in deliveries for attempt in one.history]
    tried.sort(key=lambda pair: pair[0].at)
    return [
        {
            "time": time_text(attempt.at),
            "event": one.event,
            "status": attempt.status,
            "error": attempt.error,
            "duration": round(attempt.duration_seconds, 6),
            "notificationId": one.id,
        }
        for attempt, one in tried[-ATTEMPTS_KEPT:]
    ]
