"""Adds to the log of an execution, once, whatever becomes of the answers."""

from __future__ import annotations

from collections.abc import Sequence

from fastlane.background.patience import keep_trying
from fastlane.errors import CompareFailed
from fastlane.lifecycle import Lifecycle
from fastlane.model import Execution, LogCap, LogRecord
from fastlane.storage.base import Storage


async def append_log(
    lifecycle: Lifecycle,
    storage: Storage,
    execution: Execution,
    records: Sequence[LogRecord],
    *,
    bookmark: str,
    cap: LogCap | None,
) -> None:
    """Add *records* to the log, however long the storage is away.

    :raises CompareFailed: the execution is no longer ours.
    """
    try:
        await keep_trying(
            lambda: lifecycle.append_log(execution, records, bookmark=bookmark, cap=cap)
        )
    except CompareFailed:
        if not records:
            raise
        # A try whose answer was lost may have been the one that stored it.
        stored = await keep_trying(lambda: storage.log_state(execution.id))
        if (stored.last_seq, stored.bookmark) != (records[-1].seq, bookmark):
            raise
