"""How long operations of a storage take, for what measures that."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastlane.errors import StorageUnavailable

R = TypeVar("R")

Observe = Callable[[str, float, bool], None]
"""Called after each operation with its name, its seconds, and whether the storage failed."""


class Observed:
    """What the facets of a storage share, and where they report."""

    def __init__(self) -> None:
        self.observe: Observe = lambda operation, seconds, failed: None

    async def measured(self, operation: str, work: Awaitable[R]) -> R:
        """Do *work* and report it."""
        began, failed = time.perf_counter(), False
        try:
            return await work
        except StorageUnavailable:
            failed = True
            raise
        finally:
            self.observe(operation, time.perf_counter() - began, failed)


def operation_name(method: Callable[..., object]) -> str:
    """``executions.claim`` for ``SqliteExecutions.claim``."""
    facet, _, name = method.__qualname__.rpartition(".")
    for store in ("Sqlite", "Mongo", "Cluster"):
        facet = facet.removeprefix(store)
    return f"{facet.lower()}.{name.strip('_')}"
