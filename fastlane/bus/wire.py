"""Events as JSON between instances, also of other releases.

A message is ``{"from": sender, "events": [[kind, fields], ...], "topics": [...]}``. Kinds and
fields that this release does not know are left out. ``topics`` is what releases before typed events
read and write; it can go when none of them runs beside this one any more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from typing import Any

from fastlane.events import (
    KINDS,
    Event,
    ExecutionChanged,
    HostChanged,
    JobChange,
    JobChanged,
    LogGrown,
    Missed,
    OutboxChanged,
    QueueChanged,
)
from fastlane.model import Reason, Status

EVERYTHING = "*"
_KINDS = {kind.__name__: kind for kind in (*KINDS, Missed)}
_FIELDS = {name: frozenset(f.name for f in fields(kind)) for name, kind in _KINDS.items()}
_ENUMS = {"status": Status, "reason": Reason, "stop_reason": Reason, "change": JobChange}
_KIND_OF_TOPIC: dict[str, type[Event]] = {
    "queue": QueueChanged,
    "schedule": JobChanged,
    "hosts": HostChanged,
    "outbox": OutboxChanged,
    "log": LogGrown,
    "end": ExecutionChanged,
    "stop": ExecutionChanged,
}


def encode(sender: str, events: Sequence[Event]) -> str:
    """One message with *events*, in their order."""
    written = [
        [type(event).__name__, {k: v for k, v in asdict(event).items() if v is not None}]
        for event in events
    ]
    topics = dict.fromkeys(topic for event in events for topic in _topics_of(event))
    return json.dumps(
        {"from": sender, "topics": list(topics), "events": written}, separators=(",", ":")
    )


def decode(data: bytes | str) -> tuple[str, Iterable[Event | tuple[type[Event], str | None]]]:
    """The sender of a message and what it says: events, and from releases before kinds and keys.

    :raises ValueError: it cannot be read at all.
    """
    message = json.loads(data)
    try:
        sender = str(message["from"])
        if "events" in message:
            return sender, list(_events_of(message["events"]))
        return sender, list(_hints_of(message["topics"]))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a message of events: {error!r}") from error


def _events_of(written: Sequence[Any]) -> Iterator[Event]:
    for name, values in written:
        if name not in _KINDS:
            continue
        known = {key: value for key, value in values.items() if key in _FIELDS[name]}
        try:
            for key in known.keys() & _ENUMS.keys():
                known[key] = _ENUMS[key](known[key])
            yield _KINDS[name](**known)
        except (TypeError, ValueError):
            # A later release has a status or a shape that is not known here.
            continue


def _hints_of(topics: Sequence[str]) -> Iterator[Event | tuple[type[Event], str | None]]:
    for topic in topics:
        name, _, key = topic.partition(":")
        if topic == EVERYTHING:
            yield Missed()
        elif name in _KIND_OF_TOPIC:
            yield _KIND_OF_TOPIC[name], key or None


def _topics_of(event: Event) -> Iterator[str]:
    match event:
        case Missed():
            yield EVERYTHING
        case QueueChanged():
            yield "queue"
        case OutboxChanged():
            yield "outbox"
        case HostChanged():
            yield from ("hosts", "queue")
        case JobChanged():
            yield from ("schedule", "queue")
        case LogGrown():
            yield f"log:{event.execution_id}"
        case ExecutionChanged():
            yield f"log:{event.execution_id}"
            if event.stop_reason is not None:
                yield f"stop:{event.execution_id}"
            if event.final:
                yield f"end:{event.execution_id}"
            if event.final or event.status is Status.ENQUEUED:
                yield from ("queue", "schedule")
