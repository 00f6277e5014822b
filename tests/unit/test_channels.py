"""The seam of notification channels: nothing outside a channel's module knows its name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fastlane
from fastlane.notifications import registry

PACKAGE = Path(fastlane.__file__).parent
# Where the names of channels may be, and why.
EXCEPTIONS = {
    "api/rendering.py": "the template of mails is not one of a page",
    "cli/payload.py": "a flag for each of the contract's keys",
    "config": "the names and texts of the options WEBHOOKS_* and SMTP_*",
    "notifications/registry.py": "the list of channels",
    "storage/sqlite/schema.py": "migrations, which are never changed",
}


@pytest.mark.parametrize(
    ("module", "word"),
    [
        ("notifications/webhook.py", r"webhook"),
        ("notifications/email.py", r"\be-?mail|\bmails?\b|[\"']notify[\"']"),
    ],
)
def test_a_channel_is_named_in_its_module_only(module: str, word: str) -> None:
    named = re.compile(word, re.IGNORECASE)
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if named.search(path.read_text())
    }
    assert module in found
    assert {
        path for path in found if path != module and not path.startswith(tuple(EXCEPTIONS))
    } == set()


def test_every_exception_is_needed() -> None:
    for prefix in EXCEPTIONS:
        path = PACKAGE / prefix
        files = path.rglob("*.py") if path.is_dir() else [path]
        assert any(re.search("webhook|mail", file.read_text().lower()) for file in files), prefix


def test_names_and_keys_are_unique() -> None:
    first = registry.channels()[0]
    with pytest.raises(ValueError, match=first.name):
        registry.register(first)
