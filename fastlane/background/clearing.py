"""Removes ended runs from their hosts, in tasks that nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from fastlane.background.context import Context
from fastlane.errors import ExecutorError

log = structlog.get_logger(__name__)

# Bounds how long removals may delay the shutdown.
SHUTDOWN_SECONDS = 10.0


class Clearing:
    """The removals under way. What fails or is cut off here is left to the sweep."""

    def __init__(self, context: Context) -> None:
        self._executors = context.executors
        self._options = context.options
        self._tasks: set[asyncio.Task[None]] = set()

    def ended(self, host: str, run_id: str) -> None:
        """Remove a run that has ended, or archive it for people to look at."""
        keep = self._options.container_retention_seconds > 0
        executor = self._executors.of(host)
        away = executor.archive if keep else executor.remove
        self._begin(away(host, run_id), run_id)

    def abandoned(self, host: str, run_id: str) -> None:
        """Stop and remove a run that nobody waits for any more."""
        self._begin(self._stop_and_remove(host, run_id), run_id)

    async def close(self) -> None:
        """Wait for a moment, then give up."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=SHUTDOWN_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _stop_and_remove(self, host: str, run_id: str) -> None:
        grace_seconds = self._options.stop_grace_seconds
        executor = self._executors.of(host)
        await executor.stop(host, run_id, grace_seconds=grace_seconds)
        await executor.remove(host, run_id)

    def _begin(self, work: Coroutine[Any, Any, None], run_id: str) -> None:
        task = asyncio.create_task(self._attempt(work), name=f"clear {run_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _attempt(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except ExecutorError as error:
            log.warning("A run could not be removed; the sweep will try again", error=str(error))
