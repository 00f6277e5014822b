"""Definitions that older versions stored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastlane.image import ImageReference
from fastlane.model import Command, Event, PullPolicy
from fastlane.storage.codec import UNREADABLE, definition_from, definition_text

HOOK = {"url": "http://One.example/x", "headers": {"X": "1"}, "retries": 2, "everyAttempt": True}
# As 0.1.0 wrote it before definitions were typed.
OLD: dict[str, Any] = {
    "image": "registry:5000/a/b",
    "command": "sh -c 'echo a b'",
    "retries": 1,
    "backoff": [1000, 2, 300000],
    "timeout_seconds": 1800,
    "overlap": "allow",
    "rerun_when_lost": False,
    "notify": {"succeeds": [], "fails": ["ann@example.org"], "finishes": [], "everyAttempt": True},
    "webhooks": {
        "starts": [],
        "succeeds": [],
        "fails": [],
        "finishes": [
            {
                "url": "http://One.example/x",
                "headers": {"X": "1"},
                "retries": 2,
                "everyAttempt": True,
            }
        ],
    },
}


def test_a_definition_of_an_older_version() -> None:
    found = definition_from(json.dumps(OLD))
    assert found.image == ImageReference("registry:5000/a/b")
    assert found.command == Command("sh -c 'echo a b'", ("sh", "-c", "echo a b"))
    assert found.effective_pull_policy is PullPolicy.ALWAYS
    hooks, mails = found.subscriptions
    (hook,) = hooks.targets(Event.FINISHES)
    assert (hook.address, hook.receiver) == ("http://One.example/x", "http://one.example:80")
    assert (hook.retries, hook.every_attempt) == (2, True)
    assert [one.address for one in mails.targets(Event.FAILS)] == ["ann@example.org"]
    assert definition_from(definition_text(found)) == found


def test_an_older_version_reads_what_is_stored_now() -> None:
    stored = json.loads(definition_text(definition_from(json.dumps(OLD))))
    assert {key: stored[key] for key in OLD} == OLD


@pytest.mark.parametrize(
    "changes",
    [{"command": "a 'b"}, {"image": "BAD NAME"}, {"command": 5}, {"backoff": [1]}, {"image": None}],
)
def test_what_cannot_be_read(changes: dict[str, Any]) -> None:
    assert definition_from(json.dumps(OLD | changes)) == UNREADABLE
