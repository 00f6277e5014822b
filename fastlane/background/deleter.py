"""Removes what was deleted: containers first, then records and logs."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from fastlane.background.context import Context
from fastlane.errors import ExecutorError, HostUnavailable
from fastlane.events import Deleted, Event
from fastlane.executors.base import ListedRun
from fastlane.hosts import Circuit
from fastlane.model import Execution
from fastlane.pause import Pause

log = structlog.get_logger(__name__)

# Bounds what one step removes, and the pause between two steps, in which others write.
BATCH = 50
BETWEEN_STEPS_SECONDS = 0.05
# Bound how often is looked for what is still to end, and for what another instance has left.
FIRST_PAUSE_SECONDS = 0.2
MAX_PAUSE_SECONDS = 15.0


class Deleter:
    """One step after the other; every instance may do them, at once."""

    wakes_on = (Deleted,)

    def __init__(self, context: Context) -> None:
        self._lifecycle = context.lifecycle
        self._executors = context.executors
        self._hosts = context.hosts
        self._pause = Pause(FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS)

    def wants(self, event: Event) -> bool:
        """Every deletion; what is deleted has soon ended, so it is looked for more often."""
        self._pause.reset()
        return isinstance(event, Deleted)

    async def step(self) -> float:
        """Remove some executions that are hidden, and jobs of which nothing is left."""
        silent = [host for host in self._hosts.all() if self._hosts.circuit(host) is Circuit.OPEN]
        executions = await self._lifecycle.removable(BATCH, without=silent)
        runs: dict[str, Mapping[str, ListedRun] | None] = {}
        gone = [one.id for one in executions if await self._clear(one, runs)]
        removed = await self._lifecycle.remove(gone) if gone else 0
        removed += await self._lifecycle.remove_jobs(BATCH)
        if removed:
            self._pause.reset()
            return BETWEEN_STEPS_SECONDS
        return self._pause.take()

    async def _clear(
        self, execution: Execution, runs: dict[str, Mapping[str, ListedRun] | None]
    ) -> bool:
        """Remove what is left of a run on its host; whether the execution may be removed.

        :param runs: those of each host that was asked already, by execution; None: it is silent.
        """
        host = execution.host
        if host is None or not self._hosts.is_configured(host):
            return True
        if host not in runs:
            try:
                listed = await self._executors.of(host).runs(host)
            except HostUnavailable as error:
                self._hosts.failed(host, str(error))
                runs[host] = None
            else:
                runs[host] = {run.execution_id: run for run in listed}
        there = runs[host]
        if there is None:
            return False
        run = there.get(execution.id)
        if run is None:
            return True
        try:
            await self._executors.of(host).stop(host, run.run_id, grace_seconds=0)
            await self._executors.of(host).remove(host, run.run_id)
        except ExecutorError as error:
            log.warning(
                "The run of a deleted execution could not be removed",
                execution=execution.id,
                host=host,
                error=str(error),
            )
            return False
        return True
