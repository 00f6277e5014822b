"""What must not be seen is replaced before it leaves: in answers, pages, log lines and messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

HIDDEN = "***"
"""Stands where a secret was."""


def is_secret(name: str, words: Iterable[str]) -> bool:
    """Whether *name* holds one of *words*, case aside (``ENV_BLACKLISTED_WORDS`` of ``API.md``)."""
    lowered = name.casefold()
    return any(word and word.casefold() in lowered for word in words)


def redact(mapping: Mapping[str, Any], words: Iterable[str]) -> dict[str, Any]:
    """A copy of *mapping* in which the value of every name that :func:`is_secret` is hidden.

    Values of other names are handed on as they are.
    """
    listed = tuple(words)
    return {name: HIDDEN if is_secret(name, listed) else value for name, value in mapping.items()}
