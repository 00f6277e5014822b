"""What every storage does the same way: fields of records, definitions, search words, cursors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from operator import attrgetter
from typing import Any

from fastlane.checks import shown
from fastlane.errors import Rejected
from fastlane.image import ImageReference
from fastlane.model import (
    Attempt,
    Backoff,
    Command,
    Definition,
    Delivery,
    DeliveryState,
    Event,
    Execution,
    Job,
    Outcome,
    Overlap,
    PullPolicy,
    Reason,
    Resources,
    Schedule,
    Status,
    Trigger,
)
from fastlane.notifications.registry import stored_subscriptions, subscriptions_of
from fastlane.storage.base import PageRequest
from fastlane.storage.values import ACTIVE_RUN_FIELDS, ActiveRun

UNREADABLE = Definition(ImageReference(""), Command((), ()))
"""In place of a stored definition that cannot be read, so that one bad record stops nothing else.

No submitted definition has an empty image. Stored again, it stays unreadable.
"""

STOPPED = Outcome(Status.FAILED, Reason.STOPPED)
UNREADABLE_RUN = Outcome(
    Status.FAILED, Reason.LOST, error="The stored definition of this run cannot be read."
)

# Bounds the distinct words of one search; a task id of 255 characters has no more than 128.
MAX_QUERY_WORDS = 128
_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> frozenset[str]:
    """The words of *text*: runs of letters and digits, without case."""
    return frozenset(word.casefold() for word in _WORD.findall(text))


def cursor_numbers(page: PageRequest, *, parts: int) -> tuple[int, ...] | None:
    """The numbers in the page's cursor; None where it has none."""
    if page.after is None:
        return None
    numbers = page.after.split(".")
    if len(numbers) != parts or not all(
        number.isascii() and number.isdigit() and len(number) < 19 for number in numbers
    ):
        raise Rejected(f"{shown(page.after)} is not a cursor of this listing.")
    return tuple(map(int, numbers))


def clean(text: str | None) -> str | None:
    """*text* without lone surrogates, which an engine's error may hold and UTF-8 cannot."""
    if text is None or text.isascii():
        return text
    return text.encode("utf-8", "replace").decode("utf-8")


def definition_text(definition: Definition) -> str:
    d = definition
    value: dict[str, Any] = {
        "image": d.image.submitted,
        "command": d.command.submitted,
        "retries": d.retries,
        "backoff": [d.backoff.min_ms, d.backoff.factor, d.backoff.max_ms],
        "timeout_seconds": d.timeout_seconds,
        "overlap": d.overlap,
        "max_waiting": d.max_waiting,
        "rerun_when_lost": d.rerun_when_lost,
    }
    for name in ("envs", "custom", "dns_entries"):
        if mapping := getattr(d, name):
            value[name] = dict(mapping)
    if isinstance(d.command.submitted, str):
        # Splitting a long text takes its time, and readers are many.
        value["argv"] = d.command.argv
    value |= stored_subscriptions(d.subscriptions)
    if d.expires_at is not None:
        value["expires_at"] = d.expires_at
    if d.traceparent is not None:
        value["traceparent"] = d.traceparent
    if d.pull_policy is not None:
        value["pull_policy"] = d.pull_policy
    if d.resources != Resources():
        value["resources"] = [d.resources.cpus, d.resources.memory_bytes, d.resources.pids]
    if d.resources.disk_bytes is not None:
        # Not in the list, which earlier releases accept only with three.
        value["disk_bytes"] = d.resources.disk_bytes
    return json.dumps(value, separators=(",", ":"))


def definition_from(text: str) -> Definition:
    """The definition in *text*, or :data:`UNREADABLE`."""
    try:
        value = json.loads(text)
        get = value.get
        command, argv = value["command"], get("argv")
        policy = get("pull_policy")
        return Definition(
            image=ImageReference.parse(value["image"]),
            # Before the words were stored, too, they were only in the text.
            command=Command.parse(command) if argv is None else Command(command, tuple(argv)),
            envs=get("envs", {}),
            custom=get("custom", {}),
            retries=value["retries"],
            backoff=Backoff(*value["backoff"]),
            timeout_seconds=value["timeout_seconds"],
            expires_at=get("expires_at"),
            overlap=Overlap(value["overlap"]),
            max_waiting=get("max_waiting", 1),
            subscriptions=subscriptions_of(value),
            resources=replace(Resources(*get("resources", ())), disk_bytes=get("disk_bytes")),
            pull_policy=None if policy is None else PullPolicy(policy),
            rerun_when_lost=value["rerun_when_lost"],
            dns_entries=get("dns_entries", {}),
            traceparent=get("traceparent"),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return UNREADABLE


# -- records as lists of plain values, in the order of their fields -------------------------------

EXECUTION_FIELDS = tuple(field.name for field in fields(Execution))
DELIVERY_FIELDS = tuple(field.name for field in fields(Delivery))
_OF_JOB = tuple(field.name for field in fields(Job))
JOB_FIELDS = (*_OF_JOB[:3], "start_at", "cron", "timezone", *_OF_JOB[4:])

_job_values = attrgetter(*_OF_JOB)
_execution_values = attrgetter(*EXECUTION_FIELDS)
_delivery_values = attrgetter(*DELIVERY_FIELDS)

_SKIPPED_TICKS = JOB_FIELDS.index("skipped_ticks")
_DEFINITION, _ATTEMPT, _TICK, _LOST_RERUNS, _TRIGGER = map(
    EXECUTION_FIELDS.index, ("definition", "attempt", "tick", "lost_reruns", "trigger")
)


def history_from(text: str) -> tuple[Attempt, ...]:
    return tuple(Attempt(*attempt) for attempt in json.loads(text))


_READERS: Mapping[str, Callable[[str], Any]] = {
    "status": Status,
    "reason": Reason,
    "stop_reason": Reason,
    "trigger": Trigger,
    "event": Event,
    "state": DeliveryState,
    "history": history_from,
}
"""What makes a value of the text that is stored, by field; None stays None."""


def _readers(names: Sequence[str]) -> Sequence[tuple[int, Callable[[str], Any]]]:
    return [(names.index(name), reader) for name, reader in _READERS.items() if name in names]


_EXECUTION_READERS = _readers(EXECUTION_FIELDS)
_ACTIVE_RUN_READERS = _readers(ACTIVE_RUN_FIELDS)
_DELIVERY_READERS = _readers(DELIVERY_FIELDS)


def _read(values: list[Any], readers: Sequence[tuple[int, Callable[[str], Any]]]) -> list[Any]:
    for index, reader in readers:
        if values[index] is not None:
            values[index] = reader(values[index])
    return values


def plain(value: Any) -> Any:
    """The *value* of a field as it is stored."""
    if isinstance(value, str):
        # Also of an enumeration, whose member is no plain text.
        return clean(str(value))
    if isinstance(value, Definition):
        return definition_text(value)
    if isinstance(value, tuple):
        # The history of a delivery.
        return json.dumps([[a.at, a.duration_seconds, a.status, clean(a.error)] for a in value])
    return value


def job_of(values: list[Any]) -> Job:
    """The job whose :data:`JOB_FIELDS` are *values*; None where a release before had no such."""
    values[_SKIPPED_TICKS] = values[_SKIPPED_TICKS] or 0
    task_id, job_id, definition, start_at, cron, timezone, *rest = values
    return Job(
        task_id, job_id, definition_from(definition), Schedule(start_at, cron, timezone), *rest
    )


def job_values(job: Job) -> list[Any]:
    task_id, job_id, definition, schedule, *rest = map(plain, _job_values(job))
    return [task_id, job_id, definition, *attrgetter(*JOB_FIELDS[3:6])(schedule), *rest]


def execution_of(values: list[Any]) -> Execution:
    """The execution whose :data:`EXECUTION_FIELDS` are *values*.

    None where a release before had no such field: then *trigger* is worked out.
    """
    values[_DEFINITION] = definition_from(values[_DEFINITION])
    values[_LOST_RERUNS] = values[_LOST_RERUNS] or 0
    if values[_TRIGGER] is None:
        retried, ticked = values[_ATTEMPT] > 0, values[_TICK] is not None
        values[_TRIGGER] = Trigger.RETRY if retried else Trigger.CRON if ticked else Trigger.SUBMIT
    return Execution(*_read(values, _EXECUTION_READERS))


def active_run_of(values: Sequence[Any]) -> ActiveRun:
    """The run whose :data:`ACTIVE_RUN_FIELDS` are *values*."""
    return ActiveRun(*_read([*values], _ACTIVE_RUN_READERS))


def execution_values(execution: Execution, definition: str | None = None) -> list[Any]:
    """:param definition: its text, when it is known."""
    values = list(_execution_values(execution))
    values[_DEFINITION] = definition or execution.definition
    return list(map(plain, values))


def delivery_of(values: list[Any]) -> Delivery:
    """The delivery whose :data:`DELIVERY_FIELDS` are *values*."""
    return Delivery(*_read(values, _DELIVERY_READERS))


def delivery_values(delivery: Delivery) -> list[Any]:
    return list(map(plain, _delivery_values(delivery)))
