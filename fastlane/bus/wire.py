"""Events as JSON between instances, also of other releases.

A message is ``{"from": sender, "events": [[kind, fields], ...], "topics": [...]}``. Kinds and
fields that this release does not know are left out. ``topics`` is what releases before typed events
read and write: a word, or a word and the id of an execution. It can go when none of them runs
beside this one any more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from typing import Any

from fastlane import events as kinds
from fastlane.events import Event, JobChange
from fastlane.model import Reason, Status, Trigger

Hint = tuple[type[Event], str | None]
"""A kind and a key: something of the kind happened."""

_KINDS = {kind.__name__: kind for kind in (*kinds.KINDS, kinds.Missed)}
_FIELDS = {name: frozenset(f.name for f in fields(kind)) for name, kind in _KINDS.items()}
_ENUMS = {
    "status": Status,
    "reason": Reason,
    "stop_reason": Reason,
    "trigger": Trigger,
    "change": JobChange,
}

_EVERYTHING = "*"
_TOPICS: dict[type[Event], tuple[str, ...]] = {
    kinds.QueueChanged: ("queue",),
    kinds.OutboxChanged: ("outbox",),
    kinds.EventsMoved: (),
    kinds.HostChanged: ("hosts", "queue"),
    kinds.JobChanged: ("schedule", "queue"),
    kinds.LogGrown: ("log:{}",),
    kinds.ExecutionChanged: ("log:{}", "end:{}", "stop:{}", "queue", "schedule"),
    kinds.Missed: (_EVERYTHING,),
    kinds.Deleted: (),
}
_KIND_OF_TOPIC: dict[str, type[Event]] = {}
for _kind, _topics in _TOPICS.items():
    for _topic in _topics:
        _KIND_OF_TOPIC.setdefault(_topic.partition(":")[0], _kind)


def encode(sender: str, events: Sequence[Event]) -> str:
    """One message with *events*, in their order."""
    message = {
        "from": sender,
        "topics": list({t.format(e.key): None for e in events for t in _TOPICS[type(e)]}),
        "events": [
            [type(event).__name__, {k: v for k, v in asdict(event).items() if v is not None}]
            for event in events
        ],
    }
    return json.dumps(message, separators=(",", ":"))


def decode(data: bytes | str) -> tuple[str, Iterable[Event | Hint]]:
    """The sender of a message, and its events, or the hints of a release before typed events.

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


def _hints_of(topics: Sequence[str]) -> Iterator[Event | Hint]:
    for topic in topics:
        word, _, key = topic.partition(":")
        if word == _EVERYTHING:
            yield kinds.Missed()
        elif word in _KIND_OF_TOPIC:
            yield _KIND_OF_TOPIC[word], key or None
