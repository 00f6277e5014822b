"""Keeps house: says that this instance lives, adopts what others left, removes what is over."""

from __future__ import annotations

import structlog

from fastlane.background.runner import Runner
from fastlane.errors import ExecutorError, NotFound
from fastlane.executors.base import Executor
from fastlane.hosts import Hosts
from fastlane.lifecycle import Lifecycle
from fastlane.storage.base import Storage

log = structlog.get_logger(__name__)

# Bounds how many executions one round adopts.
ADOPT_BATCH = 100
# How often the hosts are asked for runs that nobody needs any more.
SWEEP_SECONDS = 60.0


class Keeper:
    """The heartbeat of this instance, and the sweep behind crashes."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        storage: Storage,
        executor: Executor,
        runner: Runner,
        hosts: Hosts,
        *,
        lease_seconds: float,
    ) -> None:
        self._lifecycle = lifecycle
        self._storage = storage
        self._executor = executor
        self._runner = runner
        self._hosts = hosts
        self._lease_seconds = lease_seconds
        self._idle: frozenset[tuple[str, int]] = frozenset()

    async def beat(self) -> float:
        """Renew the lease and adopt what dead instances left; three times in a lease."""
        await self._lifecycle.beat(self._lease_seconds)
        for execution in await self._lifecycle.adopt(ADOPT_BATCH):
            log.info("execution adopted", execution=execution.id, status=str(execution.status))
            self._runner.take(execution)
        await self._resume()
        return self._lease_seconds / 3

    async def _resume(self) -> None:
        """Go on with what is ours while nobody here is at work on it.

        So it is when the storage has made a claim whose answer was lost, or when a task has failed.
        Only what was so a round ago as well is taken, and never while a claim is under way: between
        a claim and its task there is a moment.
        """
        if self._lifecycle.claims_under_way:
            return
        idle = {
            (execution.id, execution.epoch): execution
            for execution in await self._storage.active_executions(owner=self._lifecycle.instance)
            if not self._runner.holds(execution.id)
        }
        for name in idle.keys() & self._idle:
            execution = idle.pop(name)
            log.warning("execution resumed", execution=execution.id, status=str(execution.status))
            self._runner.take(execution, resumed=True)
        self._idle = frozenset(idle)

    async def sweep(self) -> float:
        """Remove runs whose execution is over: a crash came between its end and its removal."""
        for health in self._hosts.all():
            try:
                await self._sweep_host(health.host)
            except ExecutorError as error:
                log.warning("host could not be swept", host=health.host, error=str(error))
        return SWEEP_SECONDS

    async def _sweep_host(self, host: str) -> None:
        for run in await self._executor.runs(host):
            if self._runner.holds(run.execution_id):
                continue
            try:
                execution = await self._storage.execution(run.execution_id)
            except NotFound:
                # Not ours to judge: the records may be in another data directory.
                continue
            if execution.final:
                log.info("left-over run removed", execution=execution.id, run=run.run_id)
                await self._executor.stop(host, run.run_id, grace_seconds=0)
                await self._executor.remove(host, run.run_id)
