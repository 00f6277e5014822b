"""Runs executions: one task for each that this instance owns, from pull to outcome.

The task may be killed at any line. What is on the record and on the host then tells the next owner
where to go on: the host is on the record before the run is created, the run bears the execution's
id, and the log's bookmark is stored with the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from fastlane import policy
from fastlane.background.follower import LogFollower
from fastlane.background.patience import FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS, keep_trying
from fastlane.background.progress import PullProgress
from fastlane.errors import (
    CompareFailed,
    ExecutorError,
    HostUnavailable,
    NotStarted,
    PullFailed,
    RunOutOfReach,
    RunVanished,
    StartFailed,
    StorageUnavailable,
)
from fastlane.events import Bus, Signal, stop_topic
from fastlane.executors.base import Executor, Phase, RunSpec, RunState
from fastlane.hosts import Circuit, Hosts
from fastlane.lifecycle import Lifecycle
from fastlane.model import (
    Clock,
    Execution,
    Farm,
    LogCap,
    Outcome,
    Reason,
    Resources,
    Status,
)
from fastlane.storage.base import Storage

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Bounds how long a lost wake-up delays a stop.
STOP_POLL_SECONDS = 5.0
# Bounds how long runs that are over may keep the shutdown waiting for their removal.
SHUTDOWN_SECONDS = 10.0

OWN_FAULT = Outcome(
    Status.FAILED,
    Reason.LOST,
    error="fastlane failed while it ran this; the log of the server has the details.",
)


@dataclass(frozen=True, slots=True)
class RunnerOptions:
    """What the configuration says about runs."""

    stop_grace_seconds: float = 10.0
    host_lost_after_seconds: float = 300.0
    """How long a host may be out of reach before its executions are lost."""
    log_cap: LogCap | None = None
    resource_caps: Resources = Resources()
    """For farms that have none of their own."""
    container_retention_seconds: float = 0.0
    """How long an ended run is kept on its host for people to look at."""


class _HostLost(Exception):
    """The host was out of reach for too long."""


class _Stopped(Exception):
    """Somebody asked for the end before the run was started."""


class _Leave(Exception):
    """The host failed before anything could have been started: any host may take the execution."""


class Runner:
    """The executions that this instance owns, each in a task of its own."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        storage: Storage,
        executor: Executor,
        bus: Bus,
        hosts: Hosts,
        *,
        farms: Sequence[Farm] = (),
        clock: Clock,
        options: RunnerOptions,
    ) -> None:
        self._lifecycle = lifecycle
        self._storage = storage
        self._executor = executor
        self._bus = bus
        self._hosts = hosts
        self._farms = {farm.name: farm for farm in farms}
        self._clock = clock
        self._options = options
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._clearing: set[asyncio.Task[None]] = set()
        self._closing = False

    def holds(self, execution_id: str) -> bool:
        """Whether this instance is at work on the execution."""
        return execution_id in self._runs

    def take(self, execution: Execution, *, resumed: bool = False) -> None:
        """Go on with an execution that was claimed or adopted, from wherever it stands.

        :param resumed: somebody may have been at work on it since it was claimed. Otherwise no run
            was ever asked to start, whatever hosts it was claimed for before.
        """
        earlier = self._runs.get(execution.id)
        if earlier is not None:
            # Adopted back after our own lease ran out: the old epoch's task must not go on.
            earlier.cancel()
        task = asyncio.create_task(self._run(execution, resumed), name=f"run {execution.id}")
        self._runs[execution.id] = task
        task.add_done_callback(lambda ended: self._forget(execution.id, ended))

    async def close(self) -> None:
        """Hand back what has not started and let go of the rest; runs go on without us."""
        self._closing = True
        for task in self._runs.values():
            task.cancel()
        await asyncio.gather(*self._runs.values(), return_exceptions=True)
        if self._clearing:
            _, late = await asyncio.wait(self._clearing, timeout=SHUTDOWN_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _forget(self, execution_id: str, task: asyncio.Task[None]) -> None:
        if self._runs.get(execution_id) is task:
            del self._runs[execution_id]

    async def _run(self, execution: Execution, resumed: bool) -> None:
        with structlog.contextvars.bound_contextvars(
            task=execution.task_id, execution=execution.id, host=execution.host
        ):
            run = _Run(self, execution, resumed)
            try:
                try:
                    await run.drive()
                except (CompareFailed, asyncio.CancelledError):
                    raise
                except Exception:
                    # Our own fault: the execution must not be looked at for ever.
                    log.exception("execution failed inside fastlane")
                    await run.end(OWN_FAULT)
            except CompareFailed as error:
                log.warning("execution is no longer ours", why=str(error))


class _Run:
    """One execution under one epoch."""

    def __init__(self, runner: Runner, execution: Execution, resumed: bool) -> None:
        self._runner = runner
        self._lifecycle = runner._lifecycle
        self._storage = runner._storage
        self._executor = runner._executor
        self._options = runner._options
        self._execution = execution
        assert execution.host is not None
        self._host: str = execution.host
        self._may_exist = execution.status is Status.RUNNING
        """Whether the host may have a run, so that nobody else may be given the execution."""
        self._run_id: str | None = None
        self._has_log = False
        """Whether something was written into its log before it was started."""
        self._resumed = resumed

    async def drive(self) -> None:
        """From wherever the execution stands to its outcome."""
        try:
            with self._runner._bus.subscribe(stop_topic(self._execution.id)) as news:
                if self._runner._hosts.is_configured(self._host):
                    outcome = await self._outcome(news)
                else:
                    outcome = await self._outcome_on_dropped_host(news)
        except asyncio.CancelledError:
            if self._runner._closing and not self._may_exist:
                await self._hand_back()
            raise
        except _Leave as error:
            log.warning(
                "host failed before the start; the execution is queued again", why=str(error)
            )
            await keep_trying(lambda: self._lifecycle.release(self._execution))
            return
        await self.end(outcome)
        if self._run_id is not None:
            self._clear_away(self._run_id)

    async def end(self, outcome: Outcome) -> None:
        """Make *outcome* final, however long the storage is away.

        :raises CompareFailed: the execution is no longer ours.
        """
        final = await keep_trying(lambda: self._lifecycle.finish(self._execution, outcome))
        log.info(
            "execution ended",
            status=str(final.status),
            reason=str(final.reason),
            exit_code=final.exit_code,
        )

    async def _outcome(self, news: Signal) -> Outcome:
        try:
            if not await self._find_running():
                await self._bring_up(news)
            return await self._see_through(news)
        except _Stopped:
            return Outcome(Status.FAILED, Reason.STOPPED)
        except PullFailed as error:
            return Outcome(Status.FAILED, Reason.PULL_FAILED, error=str(error))
        except StartFailed as error:
            return Outcome(Status.FAILED, Reason.START_FAILED, error.exit_code, str(error))
        except RunVanished as error:
            return Outcome(Status.FAILED, Reason.LOST, error=f"The run is lost: {error}")
        except _HostLost as error:
            return Outcome(Status.FAILED, Reason.LOST, error=str(error))

    async def _outcome_on_dropped_host(self, news: Signal) -> Outcome:
        """As :meth:`_outcome`, but not for ever: no farm has the host any more."""
        seconds = self._options.host_lost_after_seconds
        try:
            async with asyncio.timeout(seconds):
                return await self._outcome(news)
        except TimeoutError:
            if self._run_id is not None:
                self._stop_soon(self._run_id)
                self._run_id = None
            return Outcome(
                Status.FAILED,
                Reason.LOST,
                error=f"Host {self._host} is in no farm any more, and {seconds:g} s are over.",
            )

    async def _find_running(self) -> bool:
        """Whether an earlier owner's run was started; a merely created one is started again.

        :raises RunVanished: it was running and is gone.
        """
        if not self._resumed:
            return False
        was_running = self._may_exist
        self._may_exist = True
        state = await self._insist(lambda: self._executor.find(self._host, self._execution.id))
        if state is None:
            if was_running:
                raise RunVanished("its container is no longer there")
            self._may_exist = False
            return False
        self._run_id = state.run_id
        return state.phase is not Phase.CREATED

    async def _bring_up(self, news: Signal) -> None:
        """Pull, create and start."""
        farm = self._runner._farms.get(self._execution.farm)
        spec = _spec_of(self._execution, farm, self._options.resource_caps)
        if self._execution.stop_reason is not None:
            raise _Stopped
        # Nobody has started it yet, and we start nothing before its creation was answered.
        may_leave = not self._may_exist
        if not self._may_exist:
            if farm is not None and not policy.image_is_allowed(
                self._execution.definition.image, farm
            ):
                raise PullFailed(policy.image_is_refused(self._execution.definition.image, farm))
            await self._unless_stopped(self._pull(spec), news)
            self._may_exist = True
        run_id = await self._insist(
            lambda: self._executor.create(self._host, spec), may_leave=may_leave
        )
        self._run_id = run_id
        # Asked here even without news: an owner that was frozen may have made anew what its
        # successor had started, finished and removed. What is made but not started does no harm.
        if await self._stop_requested():
            raise _Stopped
        await self._start(run_id)

    async def _start(self, run_id: str) -> None:
        """Start what was created.

        :raises _Leave: the host refused so often that its circuit is open, and has the run no more.
        """
        if self._execution.status is Status.PULLING:
            try:
                await self._insist(
                    lambda: self._executor.start(self._host, run_id), unless_refused=True
                )
            except NotStarted as refused:
                try:
                    # First, so that nobody who was frozen on his way to the start does it later.
                    await self._executor.remove(self._host, run_id)
                except HostUnavailable as error:
                    log.warning("run that does not start stays on its host", error=str(error))
                else:
                    self._run_id, self._may_exist = None, False
                    raise _Leave(str(refused)) from refused
            else:
                return
        await self._insist(lambda: self._executor.start(self._host, run_id))

    async def _pull(self, spec: RunSpec) -> None:
        hosts = self._runner._hosts
        progress = PullProgress(
            self._lifecycle, self._storage, self._execution, cap=self._options.log_cap
        )
        try:
            if hosts.is_doubtful(self._host):
                # A frozen host is known by this within seconds, by a call only within its bound.
                await self._executor.check(self._host)
            try:
                async with progress.told():
                    await self._executor.pull(self._host, spec, progress.tell)
            finally:
                self._has_log = progress.written
        except HostUnavailable as error:
            hosts.failed(self._host, str(error))
            raise _Leave(str(error)) from error
        hosts.answered(self._host)
        hosts.has_now(self._host, str(self._execution.definition.image))

    async def _see_through(self, news: Signal) -> Outcome:
        """A run that was started: say so, follow its log, keep its time, await its end."""
        run_id = self._run_id
        assert run_id is not None
        ended = asyncio.Event()
        follower = LogFollower(
            self._lifecycle,
            self._storage,
            self._executor,
            self._execution,
            run_id,
            cap=self._options.log_cap,
            give_up_after_seconds=self._options.host_lost_after_seconds,
            resume=self._resumed or self._has_log,
        )
        wait = asyncio.create_task(self._await_end(run_id))
        wait.add_done_callback(lambda _: ended.set())
        follow = asyncio.create_task(follower.follow(ended))
        keep_time = asyncio.create_task(self._keep_time(run_id, news))
        try:
            self._execution = await keep_trying(
                lambda: self._lifecycle.started(self._execution, run_id)
            )
            tasks = (follow, wait, keep_time)
            while True:
                # None of them may end in an error that nobody hears of.
                for task in tasks:
                    if task.done():
                        await task
                if wait.done() and follow.done():
                    break
                await asyncio.wait(
                    [task for task in tasks if not task.done()],
                    return_when=asyncio.FIRST_COMPLETED,
                )
            state = await wait
        finally:
            for task in (wait, follow, keep_time):
                task.cancel()
            await asyncio.gather(wait, follow, keep_time, return_exceptions=True)
        return policy.outcome_of_exit(state.exit_code, oom=state.oom, error=state.error)

    async def _await_end(self, run_id: str) -> RunState:
        """Wait for as long as the run lasts.

        A wait that breaks after hours tells nothing of those hours, so how long the host is out of
        reach is counted from each break anew.

        :raises _HostLost: it was for too long.
        """
        pause_seconds = FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._executor.wait(self._host, run_id)
            except HostUnavailable as error:
                log.info("the wait for a run broke", error=str(error))
            state = await self._insist(
                lambda: self._executor.inspect(self._host, run_id), doubtful=True
            )
            if state.phase is Phase.ENDED:
                return await self._insist(lambda: self._executor.wait(self._host, run_id))
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, MAX_PAUSE_SECONDS)

    async def _keep_time(self, run_id: str, news: Signal) -> None:
        """Stop the run when its time is over or somebody asks for it."""
        loop = asyncio.get_running_loop()
        left_seconds = self._execution.definition.timeout_seconds
        if self._execution.started_at is not None:
            left_seconds -= self._runner._clock() - self._execution.started_at
        # Monotonic from here on: a step of the wall clock neither cuts nor stretches a run.
        deadline = loop.time() + left_seconds
        while not await self._stop_requested():
            if loop.time() >= deadline:
                await keep_trying(lambda: self._lifecycle.timed_out(self._execution))
            else:
                await news.wait(min(deadline - loop.time(), STOP_POLL_SECONDS))
        await self._insist(
            lambda: self._executor.stop(
                self._host, run_id, grace_seconds=self._options.stop_grace_seconds
            )
        )

    async def _stop_requested(self) -> bool:
        """:raises CompareFailed: the execution is no longer ours."""
        execution = await keep_trying(lambda: self._storage.execution(self._execution.id))
        if execution.final or execution.epoch != self._execution.epoch:
            raise CompareFailed(f"execution {execution.id} has another owner", execution)
        return execution.stop_reason is not None

    async def _unless_stopped(self, work: Coroutine[Any, Any, None], news: Signal) -> None:
        """Do *work*, or leave it where it is and raise _Stopped when somebody asks for the end."""
        task = asyncio.create_task(work)
        try:
            while not task.done():
                heard = asyncio.create_task(news.wait(STOP_POLL_SECONDS))
                await asyncio.wait({task, heard}, return_when=asyncio.FIRST_COMPLETED)
                heard.cancel()
                if not task.done() and await self._stop_requested():
                    raise _Stopped
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _insist(
        self,
        call: Callable[[], Awaitable[T]],
        *,
        may_leave: bool = False,
        unless_refused: bool = False,
        doubtful: bool = False,
    ) -> T:
        """Call until the host answers.

        :param may_leave: the execution need not stay with a host that is out.
        :param unless_refused: nor with one that refuses to start it.
        :param doubtful: the host may be away already.
        :raises _Leave: the host's circuit is open (*may_leave*).
        :raises NotStarted: the host's circuit is open (*unless_refused*).
        :raises _HostLost: it did not answer for too long.
        """
        hosts = self._runner._hosts
        loop = asyncio.get_running_loop()
        lost_at: float | None = None
        pause_seconds = FIRST_PAUSE_SECONDS
        while True:
            try:
                if doubtful:
                    # As before a pull: a call to a frozen host lasts until its bound.
                    await self._executor.check(self._host)
                result = await call()
            except HostUnavailable as error:
                doubtful = True
                if not isinstance(error, RunOutOfReach):
                    hosts.failed(self._host, str(error))
                if lost_at is None:
                    log.warning("host is out of reach", error=str(error))
                    lost_at = loop.time() + self._options.host_lost_after_seconds
                over = loop.time() >= lost_at
                if over or hosts.circuit(self._host) is Circuit.OPEN:
                    if may_leave:
                        raise _Leave(str(error)) from error
                    if unless_refused and isinstance(error, NotStarted):
                        raise
                if over:
                    seconds = f"for more than {self._options.host_lost_after_seconds:g} s"
                    if isinstance(error, RunOutOfReach):
                        raise _HostLost(f"Out of reach {seconds}: {error}.") from error
                    raise _HostLost(f"Host {self._host} was out of reach {seconds}.") from error
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(pause_seconds * 2, MAX_PAUSE_SECONDS)
            else:
                if lost_at is not None:
                    hosts.answered(self._host)
                return result

    async def _hand_back(self) -> None:
        try:
            await self._lifecycle.release(self._execution)
        except (CompareFailed, StorageUnavailable) as error:
            # The sweep of the next instance finds it all the same.
            log.warning("execution could not be handed back", why=str(error))

    def _clear_away(self, run_id: str) -> None:
        """Remove the run or set it aside; the sweep comes behind."""
        if self._options.container_retention_seconds:
            self._in_background(self._executor.set_aside(self._host, run_id))
        else:
            self._in_background(self._executor.remove(self._host, run_id))

    def _stop_soon(self, run_id: str) -> None:
        self._in_background(self._stop_and_remove(run_id))

    async def _stop_and_remove(self, run_id: str) -> None:
        grace_seconds = self._options.stop_grace_seconds
        await self._executor.stop(self._host, run_id, grace_seconds=grace_seconds)
        await self._executor.remove(self._host, run_id)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what nobody waits for."""
        task = asyncio.create_task(self._unless_away(work), name=f"clear {self._execution.id}")
        self._runner._clearing.add(task)
        task.add_done_callback(self._runner._clearing.discard)

    async def _unless_away(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except ExecutorError as error:
            log.warning("run could not be cleared away; the sweep will", error=str(error))


def _spec_of(execution: Execution, farm: Farm | None, caps: Resources) -> RunSpec:
    definition = execution.definition
    return RunSpec(
        execution_id=execution.id,
        task_id=execution.task_id,
        job_id=execution.job_id,
        image=definition.image,
        argv=definition.command.argv,
        envs=definition.envs,
        pull_policy=definition.effective_pull_policy,
        resources=policy.capped(
            definition.resources, caps if farm is None else policy.farm_caps(farm, caps)
        ),
        dns_entries=definition.dns_entries,
        credentials=None if farm is None else farm.registry_auth.get(definition.image.registry),
    )
