"""Renews this instance's lease, adopts what others left, removes what is over."""

from __future__ import annotations

import asyncio

import structlog

from fastlane.background.context import Context
from fastlane.background.runner import Runner
from fastlane.errors import ExecutorError, HostUnavailable, NotFound
from fastlane.executors.base import ListedRun, Phase
from fastlane.hosts import Circuit

log = structlog.get_logger(__name__)

# Bounds how many executions one round adopts.
ADOPT_BATCH = 100
# How often the hosts are asked for runs that nobody needs any more.
SWEEP_SECONDS = 60.0
# How often there is a look for records that are old, and the pause between two steps of forgetting,
# in which others write.
FORGET_SECONDS = 60.0
BETWEEN_STEPS_SECONDS = 0.1


class Keeper:
    """The heartbeat of this instance, and the sweep after crashes."""

    def __init__(self, context: Context, runner: Runner) -> None:
        self._lifecycle = context.lifecycle
        self._storage = context.storage
        self._executors = context.executors
        self._hosts = context.hosts
        self._clock = context.clock
        self._options = context.options
        self._runner = runner
        self._idle: frozenset[tuple[str, int]] = frozenset()

    async def beat(self) -> float:
        """Renew the lease and adopt what dead instances left; three times in a lease."""
        await self._lifecycle.beat(self._options.lease_seconds)
        for execution in await self._lifecycle.adopt(ADOPT_BATCH):
            log.info("Execution adopted", execution=execution.id, status=str(execution.status))
            self._runner.take(execution, resumed=True)
        await self._resume()
        return self._options.lease_seconds / 3

    async def _resume(self) -> None:
        """Continue with what is ours while nobody here is working on it.

        That happens when the answer to a claim was lost, or when a task has failed. Only what was
        so a round ago as well is resumed, and never while a claim is under way.
        """
        if self._runner.claiming:
            return
        idle = {
            (execution.id, execution.epoch): execution
            for execution in await self._storage.executions.active(owner=self._lifecycle.instance)
            if not self._runner.holds(execution.id)
        }
        for name in idle.keys() & self._idle:
            execution = idle.pop(name)
            log.warning("Execution resumed", execution=execution.id, status=str(execution.status))
            self._runner.take(execution, resumed=True)
        self._idle = frozenset(idle)

    async def forget(self) -> float:
        """Delete some of the records that are old enough."""
        if not self._options.execution_retention_seconds:
            return FORGET_SECONDS
        went = await self._lifecycle.clean_up(self._options.execution_retention_seconds)
        return BETWEEN_STEPS_SECONDS if went else FORGET_SECONDS

    async def sweep(self) -> float:
        """Assign executions without a farm, and remove runs whose execution is over: those that
        were kept for long enough, and those that a crash left.
        """
        hosts = [
            host for host in self._hosts.all() if self._hosts.circuit(host) is not Circuit.OPEN
        ]
        ended = await asyncio.gather(
            self._lifecycle.reassign_orphaned(),
            *map(self._sweep_host, hosts),
            return_exceptions=True,
        )
        for failure in ended:
            # Raised here, so that none of them keeps the others from running.
            if failure is not None:
                raise failure
        retention_seconds = self._options.container_retention_seconds
        return (
            min(SWEEP_SECONDS, max(retention_seconds, 1.0)) if retention_seconds else SWEEP_SECONDS
        )

    async def _sweep_host(self, host: str) -> None:
        left = False
        try:
            runs = await self._executors.of(host).runs(host)
        except HostUnavailable as error:
            self._hosts.failed(host, str(error))
            log.warning("The host could not be swept", host=host, error=str(error))
        else:
            self._hosts.answered(host)
            for run in runs:
                try:
                    left |= await self._sweep_run(host, run)
                except ExecutorError as error:
                    left = True
                    log.warning("A run could not be removed", host=host, error=str(error))
        if not (left or self._hosts.is_configured(host) or self._runner.uses(host)):
            log.info("A host that is no longer configured is no longer swept", host=host)
            self._hosts.forget(host)

    async def _sweep_run(self, host: str, run: ListedRun) -> bool:
        """Remove a run whose execution is over; whether the next sweep must look again."""
        if self._runner.holds(run.execution_id):
            return True
        try:
            execution = await self._storage.executions.get(run.execution_id)
        except NotFound:
            # Not ours to judge: the records may be in another data directory.
            return False
        if not execution.final:
            return True
        kept_until = (execution.finished_at or 0.0) + self._options.container_retention_seconds
        if run.phase is Phase.ENDED and self._clock() < kept_until:
            await self._executors.of(host).archive(host, run.run_id)
            return True
        log.info("Run removed", execution=execution.id, run=run.run_id, host=host)
        await self._executors.of(host).stop(host, run.run_id, grace_seconds=0)
        await self._executors.of(host).remove(host, run.run_id)
        return False
