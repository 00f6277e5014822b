"""Stored events as answers show them."""

from __future__ import annotations

from fastlane.api.schemas import responses
from fastlane.api.schemas.listed import instant
from fastlane.api.urls import Urls
from fastlane.stored_events import EventType, StoredEvent

# What a cursor begins with, so that nobody takes it for a number to calculate with.
_CURSOR = "e"
# Bounds a cursor to what a storage can count.
_MAX_POSITION = 2**63 - 1

_GONE = {EventType.JOB_DELETED, EventType.EXECUTION_DELETED, EventType.TASK_DELETED}


def cursor_of(position: int) -> str:
    return f"{_CURSOR}{position:x}"


def position_of(cursor: str) -> int:
    """:raises ValueError: *cursor* is none."""
    digits = cursor.removeprefix(_CURSOR)
    if not digits or digits == cursor or len(digits) > 16 or not digits.isalnum():
        raise ValueError
    position = int(digits, 16)
    if position > _MAX_POSITION or cursor != cursor_of(position):
        raise ValueError
    return position


def event_answer(event: StoredEvent, urls: Urls) -> responses.Event:
    """Only the keys that apply."""
    found: responses.Event = {
        "id": event.id,
        "cursor": cursor_of(event.position),
        "type": event.type,
        "at": instant(event.at),
    }
    if event.task_id is not None:
        found["taskId"] = event.task_id
    if event.job_id is not None:
        found["jobId"] = event.job_id
    if event.execution_id is not None:
        found["executionId"] = event.execution_id
    if (url := _url(event, urls)) is not None:
        found["url"] = url
    if event.status is not None:
        found["status"] = event.status
    if event.reason is not None:
        found["reason"] = event.reason
    if event.exit_code is not None:
        found["exitCode"] = event.exit_code
    if event.attempt is not None:
        found["attempt"] = event.attempt
    if event.host is not None:
        found["host"] = event.host
    if event.waiting is not None:
        found["waiting"] = event.waiting
    return found


def _url(event: StoredEvent, urls: Urls) -> str | None:
    """Of what the event is about, as long as there is such a record."""
    if event.task_id is None or event.type in _GONE:
        return None
    if event.job_id is None:
        return urls.task(event.task_id)
    if event.execution_id is None:
        return urls.job(event.task_id, event.job_id)
    return urls.execution_of(event.task_id, event.job_id, event.execution_id)
