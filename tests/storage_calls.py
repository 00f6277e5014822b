"""Puts a test between a storage and its callers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastlane.storage import base
from fastlane.storage.base import Storage

Call = Callable[..., Awaitable[Any]]

_FACETS = {
    "tasks": base.Tasks,
    "jobs": base.Jobs,
    "executions": base.Executions,
    "lists": base.Lists,
    "deletions": base.Deletions,
    "logs": base.Logs,
    "outbox": base.Outbox,
    "hosts": base.Hosts,
    "instances": base.Instances,
}
OPERATIONS: Sequence[str] = (
    *sorted(Storage.__abstractmethods__ - {"open", "close", "observe"}),
    *(
        f"{facet}.{name}"
        for facet, of in _FACETS.items()
        for name in sorted(of.__abstractmethods__)
    ),
)
"""Every operation as callers name it: ``overview``, ``executions.claim``."""


def wrap(storage: Storage, operation: str, around: Callable[[Call], Call]) -> None:
    """Replace *operation* of *storage* with what *around* makes of it."""
    facet, _, name = operation.rpartition(".")
    target = getattr(storage, facet) if facet else storage
    setattr(target, name, around(getattr(target, name)))
