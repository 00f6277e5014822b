"""One execution under one epoch, from pull to outcome.

The task may be killed at any line. What is in the record and on the host then tells the next owner
where to continue: the host is recorded before the run is created, the run bears the execution's id,
and the log's bookmark is stored with the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import structlog

from fastlane import policy
from fastlane.background.clearing import Clearing
from fastlane.background.context import Context, Options
from fastlane.background.diskwatch import watch_disk
from fastlane.background.follower import LogFollower
from fastlane.background.hostcalls import HostCalls, HostLost, Requeue
from fastlane.background.logwriter import LogWriter
from fastlane.background.pullnotes import PullNotes
from fastlane.background.retrying import new_pause, retry_until_available
from fastlane.bus.local import Subscription
from fastlane.errors import (
    CompareFailed,
    HostUnavailable,
    NotStarted,
    PullFailed,
    RemovedUnstarted,
    RunVanished,
    StartFailed,
    StorageUnavailable,
)
from fastlane.events import Event, ExecutionChanged
from fastlane.executors.base import Phase, RunSpec, RunState
from fastlane.model import (
    Execution,
    Farm,
    Network,
    Outcome,
    Reason,
    Resources,
    Status,
)
from fastlane.trace_context import traceparent_of_run

log = structlog.get_logger(__name__)

# Bounds how often a run is made that someone removes before it is started.
CREATIONS = 10
# Bounds how long a lost event delays a stop.
STOP_POLL_SECONDS = 5.0


class StopRequested(Exception):
    """Somebody requested the end before the run was started."""


class Run:
    """One execution under one epoch."""

    def __init__(
        self, context: Context, clearing: Clearing, execution: Execution, *, resumed: bool
    ) -> None:
        """:param resumed: an earlier task may have worked on it since it was claimed."""
        assert execution.host is not None
        self._context = context
        self._lifecycle = context.lifecycle
        self._clearing = clearing
        self._options = context.options
        self._execution = _capped(execution, context.options.hard_timeout_seconds)
        self._host: str = execution.host
        self._executor = context.executors.of(self._host)
        self._calls = HostCalls(context, self._host)
        self._log = LogWriter(context, execution, empty=not resumed and execution.epoch <= 1)
        self._run_id: str | None = None
        self._resumed = resumed
        # When the run was started, by the event loop's clock; None when an earlier task started it.
        self._began_at: float | None = None
        # How long the run lasted at least: it was still running then.
        self._ran_seconds = 0.0
        self._start_is_unsure = False
        self._is_stopping = False
        self.may_exist = execution.status is Status.RUNNING
        """Whether the host may have a run, so that nobody else may be given the execution."""

    async def drive(self) -> None:
        """From wherever the execution is now to its outcome.

        :raises CompareFailed: another instance owns it.
        """
        with self._context.bus.subscribe(
            ExecutionChanged, key=self._execution.id, wanted=_requests_stop
        ) as news:
            try:
                if self._context.hosts.is_configured(self._host):
                    outcome = await self._outcome(news)
                else:
                    outcome = await self._outcome_on_dropped_host(news)
            except Requeue as error:
                log.warning(
                    "The host failed before the start; the execution is queued again",
                    error=str(error),
                )
                await retry_until_available(lambda: self._lifecycle.release(self._execution))
                return
        await self.end(outcome)
        if self._run_id is not None:
            self._clearing.ended(self._host, self._run_id)

    async def end(self, outcome: Outcome) -> None:
        """Make *outcome* final, however long the storage is unreachable.

        :raises CompareFailed: another instance owns the execution.
        """
        final = await retry_until_available(
            lambda: self._lifecycle.finish(self._execution, outcome)
        )
        log.info(
            "Execution ended",
            status=str(final.status),
            reason=str(final.reason),
            exit_code=final.exit_code,
            **({"error": final.error} if final.error else {}),
        )

    async def hand_back(self) -> None:
        """Queue the execution again at the shutdown; only while no run may exist."""
        try:
            await self._lifecycle.release(self._execution)
        except (CompareFailed, StorageUnavailable) as error:
            # Another instance adopts it when the lease has expired.
            log.warning("The execution could not be handed back", error=str(error))

    async def _outcome(self, news: Subscription) -> Outcome:
        try:
            if not await self._find_running():
                await self._bring_up(news)
            return await self._see_through(news)
        except StopRequested:
            return Outcome(Status.FAILED, Reason.STOPPED)
        except PullFailed as error:
            return Outcome(Status.FAILED, Reason.PULL_FAILED, error=str(error))
        except StartFailed as error:
            return Outcome(Status.FAILED, Reason.START_FAILED, error.exit_code, str(error))
        except RunVanished as error:
            return Outcome(Status.FAILED, Reason.LOST, error=f"The run is lost: {error}")
        except HostLost as error:
            return Outcome(Status.FAILED, Reason.LOST, error=str(error))

    async def _outcome_on_dropped_host(self, news: Subscription) -> Outcome:
        """As :meth:`_outcome`, but within a limit: the host is no longer configured."""
        seconds = self._options.host_lost_after_seconds
        try:
            async with asyncio.timeout(seconds):
                return await self._outcome(news)
        except TimeoutError:
            if self._run_id is not None:
                self._clearing.abandoned(self._host, self._run_id)
                self._run_id = None
            return Outcome(
                Status.FAILED,
                Reason.LOST,
                error=f"Host {self._host} is no longer in any farm, "
                f"and the run did not end within {seconds:g} s.",
            )

    async def _find_running(self) -> bool:
        """Whether an earlier owner's run was started; a merely created one is started again.

        :raises RunVanished: it was running and is gone.
        """
        if not self._resumed:
            return False
        was_running = self.may_exist
        self.may_exist = True
        state = await self._calls.until_answered(
            lambda: self._executor.find(self._host, self._execution.id)
        )
        if state is None:
            if was_running:
                raise RunVanished("its container is no longer there")
            self.may_exist = False
            return False
        self._run_id = state.run_id
        return state.phase is not Phase.CREATED

    async def _bring_up(self, news: Subscription) -> None:
        """Pull, create and start."""
        farm = self._context.farms.get(self._execution.farm)
        spec = _spec_of(self._execution, farm, self._options)
        if self._execution.stop_reason is not None:
            raise StopRequested
        # Nobody has started it yet, and we start nothing before its creation was answered.
        may_requeue = not self.may_exist
        if not self.may_exist:
            image = self._execution.definition.image
            if farm is not None and (refusal := policy.image_refusal(image, farm)):
                raise PullFailed(refusal)
            await self._unless_stopped(self._pull(spec), news)
            self.may_exist = True
        for _ in range(CREATIONS):
            run_id = await self._calls.until_answered(
                lambda: self._executor.create(self._host, spec), may_requeue=may_requeue
            )
            self._run_id = run_id
            # Asked here even without news: an owner that was frozen may have created again what its
            # successor had started, finished and removed. Created but not started, it does no harm.
            if await self._stop_requested():
                raise StopRequested
            try:
                return await self._start(run_id)
            except RemovedUnstarted as error:
                if self._start_is_unsure or self._resumed:
                    # Then it may have run before it was removed.
                    raise
                log.warning(
                    "A run was removed before its start; it is made again", error=str(error)
                )
        self._run_id, self.may_exist = None, False
        raise Requeue("its runs are removed before they can be started")

    async def _start(self, run_id: str) -> None:
        """Start what was created.

        :raises Requeue: the host refused until its circuit opened, and no longer has the run.
        """
        first = self._execution.status is Status.PULLING

        async def start() -> None:
            try:
                await self._executor.start(self._host, run_id)
            except HostUnavailable as error:
                self._start_is_unsure |= not isinstance(error, NotStarted)
                raise

        try:
            await self._calls.until_answered(start, unless_refused=first)
        except NotStarted as refused:
            try:
                # First, so that nobody who was frozen on the way to the start does it later.
                await self._executor.remove(self._host, run_id)
            except HostUnavailable as error:
                log.warning("A run that does not start stays on its host", error=str(error))
            else:
                self._run_id, self.may_exist = None, False
                raise Requeue(str(refused)) from refused
            await self._calls.until_answered(start)
        self._began_at = asyncio.get_running_loop().time()

    async def _pull(self, spec: RunSpec) -> None:
        hosts = self._context.hosts
        notes = PullNotes(self._log)
        try:
            if hosts.is_doubtful(self._host):
                # A frozen host fails this within seconds, a pull only at its limit.
                await self._executor.check(self._host)
            async with notes.written():
                await self._executor.pull(self._host, spec, notes.add)
        except HostUnavailable as error:
            hosts.failed(self._host, str(error))
            raise Requeue(str(error)) from error
        hosts.answered(self._host)
        hosts.has_now(self._host, str(self._execution.definition.image))

    async def _see_through(self, news: Subscription) -> Outcome:
        """See a run to the end that lasts."""
        while True:
            state = await self._until_end(news)
            if self._is_stopping or await self._executor.is_last(self._host, state):
                break
            log.info("Someone restarted the run; it is followed on")
        ran_seconds = state.ran_seconds
        if ran_seconds is not None:
            # A clock that was set back says less than we have seen.
            ran_seconds = max(ran_seconds, self._ran_seconds)
        return policy.outcome_of_exit(
            state.exit_code, oom=state.oom, error=state.error, ran_seconds=ran_seconds
        )

    async def _until_end(self, news: Subscription) -> RunState:
        """Record the start of a run, follow its log, keep its time, await its end."""
        run_id = self._run_id
        assert run_id is not None
        ended = asyncio.Event()
        follower = LogFollower(
            self._executor,
            self._host,
            run_id,
            self._log,
            give_up_after_seconds=self._options.host_lost_after_seconds,
        )
        wait = asyncio.create_task(self._await_end(run_id))
        follow = asyncio.create_task(follower.follow(ended))
        keepers = (
            asyncio.create_task(self._keep_time(run_id, news)),
            asyncio.create_task(self._keep_disk(run_id)),
        )

        def end(_: asyncio.Task[RunState]) -> None:
            # Its log may be read for a long time yet, but the run has no limits any more.
            ended.set()
            for keeper in keepers:
                keeper.cancel()

        wait.add_done_callback(end)
        tasks = (follow, wait, *keepers)
        try:
            started = await retry_until_available(
                lambda: self._lifecycle.started(self._execution, run_id)
            )
            self._execution = _capped(started, self._options.hard_timeout_seconds)
            while True:
                # An error in any of them must not be lost.
                for task in tasks:
                    if task.done() and not task.cancelled():
                        await task
                if wait.done() and follow.done():
                    break
                await asyncio.wait(
                    [task for task in tasks if not task.done()],
                    return_when=asyncio.FIRST_COMPLETED,
                )
            return await wait
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _await_end(self, run_id: str) -> RunState:
        """Wait for as long as the run lasts.

        A wait that breaks after hours says nothing about those hours, so how long the host is
        unreachable is counted again from each break.

        :raises HostLost: it was for too long.
        """
        pause = new_pause()
        while True:
            try:
                return await self._executor.wait(self._host, run_id)
            except HostUnavailable as error:
                log.info("The connection that waits for a run broke", error=str(error))
            state = await self._calls.until_answered(
                lambda: self._executor.inspect(self._host, run_id), doubtful=True
            )
            if state.phase is Phase.ENDED:
                return await self._calls.until_answered(
                    lambda: self._executor.wait(self._host, run_id)
                )
            await pause.wait()

    async def _keep_time(self, run_id: str, news: Subscription) -> None:
        """Stop the run when its time limit has passed or somebody requests it.

        The limit counts in monotonic time from the answer to the start. Who did not start the run
        asks its host how long it has been running: clocks of two machines are never compared.
        """
        now = asyncio.get_running_loop().time
        limit_seconds = self._execution.definition.timeout_seconds
        try:
            if self._began_at is None:
                ran_seconds = await self._calls.until_answered(
                    lambda: self._executor.ran_seconds(self._host, run_id)
                )
                self._began_at = now() - ran_seconds
            while not (stop_reason := await self._stop_requested()):
                ran_seconds = now() - self._began_at
                if ran_seconds < limit_seconds:
                    await news.wait(min(limit_seconds - ran_seconds, STOP_POLL_SECONDS))
                    continue
                # It may have ended in time while nobody here noticed.
                state = await self._calls.until_answered(
                    lambda: self._executor.inspect(self._host, run_id)
                )
                if state.phase is Phase.ENDED:
                    return
                self._ran_seconds = ran_seconds
                await retry_until_available(lambda: self._lifecycle.timed_out(self._execution))
        except RunVanished:
            # Who waits for the run knows what that means.
            return
        self._is_stopping = True
        # What fills a disk would continue to do so.
        grace_seconds = 0 if stop_reason is Reason.DISK else self._options.stop_grace_seconds
        await self._calls.until_answered(
            lambda: self._executor.stop(self._host, run_id, grace_seconds=grace_seconds)
        )

    async def _keep_disk(self, run_id: str) -> None:
        """Request the end of the run when it has written more than it may."""
        farm = self._context.farms.get(self._execution.farm)
        limit_bytes = _resources_of(self._execution, farm, self._options).disk_bytes
        if limit_bytes is None:
            return

        async def exceeded() -> None:
            await retry_until_available(lambda: self._lifecycle.out_of_disk(self._execution))

        await watch_disk(self._executor, self._host, run_id, limit_bytes, exceeded)

    async def _stop_requested(self) -> Reason | None:
        """:raises CompareFailed: another instance owns the execution."""
        execution = await retry_until_available(
            lambda: self._context.storage.executions.get(self._execution.id)
        )
        if execution.final or execution.epoch != self._execution.epoch:
            raise CompareFailed(f"execution {execution.id} has another owner", execution)
        return execution.stop_reason

    async def _unless_stopped(self, work: Coroutine[Any, Any, None], news: Subscription) -> None:
        """Do *work*, or abandon it and raise StopRequested when somebody requests the end."""
        task = asyncio.create_task(work)
        try:
            while not task.done():
                heard = asyncio.create_task(news.wait(STOP_POLL_SECONDS))
                await asyncio.wait({task, heard}, return_when=asyncio.FIRST_COMPLETED)
                heard.cancel()
                if not task.done() and await self._stop_requested():
                    raise StopRequested
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _requests_stop(event: Event) -> bool:
    return isinstance(event, ExecutionChanged) and event.stop_reason is not None


def _capped(execution: Execution, hard_timeout_seconds: float) -> Execution:
    seconds = min(execution.definition.timeout_seconds, hard_timeout_seconds)
    return replace(execution, definition=replace(execution.definition, timeout_seconds=seconds))


def _resources_of(execution: Execution, farm: Farm | None, options: Options) -> Resources:
    caps = options.resource_caps
    return policy.capped(
        execution.definition.resources, caps if farm is None else policy.farm_caps(farm, caps)
    )


def _own_envs(execution: Execution, *, traced: bool) -> dict[str, str]:
    """Variables that name the execution; one of the job with the same name wins."""
    envs = {
        "FASTLANE_TASK_ID": execution.task_id,
        "FASTLANE_JOB_ID": execution.job_id,
        "FASTLANE_EXECUTION_ID": execution.id,
        "FASTLANE_ATTEMPT": str(execution.attempt),
    }
    if execution.tick is not None:
        tick = datetime.fromtimestamp(execution.tick, UTC)
        envs["FASTLANE_SCHEDULED_AT"] = tick.isoformat().replace("+00:00", "Z")
    if traced:
        envs["TRACEPARENT"] = traceparent_of_run(execution.id, execution.definition.traceparent)
    return envs


def _spec_of(execution: Execution, farm: Farm | None, options: Options) -> RunSpec:
    definition = execution.definition
    return RunSpec(
        execution_id=execution.id,
        task_id=execution.task_id,
        job_id=execution.job_id,
        image=definition.image,
        argv=definition.command.argv,
        envs={**_own_envs(execution, traced=options.traced), **definition.envs},
        pull_policy=definition.effective_pull_policy,
        resources=_resources_of(execution, farm, options),
        spare_host=options.spare_host
        and (farm is None or farm.limits.memory_bytes is None)
        and options.resource_caps.memory_bytes is None,
        dns_entries=definition.dns_entries,
        network=Network.BRIDGE if farm is None else farm.network,
        options=None if farm is None else farm.options,
    )
