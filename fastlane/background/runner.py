"""Which executions this instance runs: one task for each."""

from __future__ import annotations

import asyncio

import structlog

from fastlane.background.clearing import Clearing
from fastlane.background.context import Context
from fastlane.background.run import Run
from fastlane.errors import CompareFailed
from fastlane.model import Execution, Farm, Outcome, Reason, Status

log = structlog.get_logger(__name__)

OWN_FAULT = Outcome(
    Status.FAILED,
    Reason.LOST,
    error="fastlane failed while it ran this; the server's log has the details.",
)


class Runner:
    """The executions that this instance owns, each in a task of its own."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._clearing = Clearing(context)
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._hosts: dict[str, str] = {}
        self._claims = 0
        self._closing = False

    @property
    def claiming(self) -> bool:
        """Whether a claim is under way: between it and its task there is a moment."""
        return self._claims > 0

    def holds(self, execution_id: str) -> bool:
        """Whether this instance is working on the execution."""
        return execution_id in self._runs

    def uses(self, host: str) -> bool:
        """Whether this instance is working on an execution on *host*."""
        return host in self._hosts.values()

    async def claim(self, farm: Farm, host: str) -> bool:
        """Claim the next execution of *farm* and run it on *host*; False when there is none."""
        self._claims += 1
        try:
            execution = await self._context.lifecycle.claim(farm, host)
            if execution is not None:
                self.take(execution)
        finally:
            self._claims -= 1
        return execution is not None

    def take(self, execution: Execution, *, resumed: bool = False) -> None:
        """Continue with an execution that was claimed or adopted, from wherever it is.

        :param resumed: somebody may have worked on it since it was claimed. Otherwise no run was
            ever requested, whatever hosts it was claimed for before.
        """
        assert execution.host is not None
        earlier = self._runs.get(execution.id)
        if earlier is not None:
            # Adopted back after our own lease expired: the old epoch's task must not continue.
            earlier.cancel()
        task = asyncio.create_task(self._run(execution, resumed), name=f"run {execution.id}")
        self._runs[execution.id] = task
        self._hosts[execution.id] = execution.host
        task.add_done_callback(lambda ended: self._forget(execution.id, ended))

    async def close(self) -> None:
        """Hand back what has not started and let go of the rest; runs continue without us."""
        self._closing = True
        for task in self._runs.values():
            task.cancel()
        await asyncio.gather(*self._runs.values(), return_exceptions=True)
        await self._clearing.close()

    def _forget(self, execution_id: str, task: asyncio.Task[None]) -> None:
        if self._runs.get(execution_id) is task:
            del self._runs[execution_id], self._hosts[execution_id]

    async def _run(self, execution: Execution, resumed: bool) -> None:
        with structlog.contextvars.bound_contextvars(
            task=execution.task_id, execution=execution.id, host=execution.host
        ):
            run = Run(self._context, self._clearing, execution, resumed=resumed)
            try:
                try:
                    await run.drive()
                except asyncio.CancelledError:
                    if self._closing and not run.may_exist:
                        await run.hand_back()
                    raise
                except CompareFailed:
                    raise
                except Exception:
                    # A fault of fastlane itself: the execution must not be tried for ever.
                    log.exception("Fastlane failed to run an execution")
                    await run.end(OWN_FAULT)
            except CompareFailed as error:
                log.warning("Another instance owns the execution now", error=str(error))
