"""What every storage does the same way: texts of definitions, words of a search, cursors."""

from __future__ import annotations

import json
import re
from typing import Any

from fastlane.errors import Rejected
from fastlane.model import (
    Backoff,
    Command,
    Definition,
    ImageReference,
    Outcome,
    Overlap,
    PullPolicy,
    Reason,
    Resources,
    Status,
)
from fastlane.notifications.registry import stored_subscriptions, subscriptions_of
from fastlane.storage.base import PageRequest

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
        raise Rejected(f"{page.after[:100]!r} is not a cursor of this listing")
    return tuple(map(int, numbers))


def clean(text: str | None) -> str | None:
    """*text* without lone surrogates, which an engine's error may hold and UTF-8 cannot."""
    return text if text is None else text.encode("utf-8", "replace").decode("utf-8")


def definition_text(definition: Definition) -> str:
    d = definition
    value: dict[str, Any] = {
        "image": d.image.submitted,
        "command": d.command.submitted,
        "retries": d.retries,
        "backoff": [d.backoff.min_ms, d.backoff.factor, d.backoff.max_ms],
        "timeout_seconds": d.timeout_seconds,
        "overlap": d.overlap,
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
    if d.pull_policy is not None:
        value["pull_policy"] = d.pull_policy
    if d.resources != Resources():
        value["resources"] = [d.resources.cpus, d.resources.memory_bytes, d.resources.pids]
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
            subscriptions=subscriptions_of(value),
            resources=Resources(*get("resources", ())),
            pull_policy=None if policy is None else PullPolicy(policy),
            rerun_when_lost=value["rerun_when_lost"],
            dns_entries=get("dns_entries", {}),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return UNREADABLE
