"""What the owner of an execution does when hosts and storages misbehave in a named way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastlane.background.context import Context, Options
from fastlane.background.dispatcher import Dispatcher
from fastlane.background.hostwatch import HostWatch
from fastlane.background.keeper import Keeper
from fastlane.background.loop import Loop
from fastlane.background.runner import Runner
from fastlane.background.scheduler import Scheduler
from fastlane.bus.local import Bus
from fastlane.errors import Rejected, StorageUnavailable
from fastlane.events import ExecutionChanged, HostChanged, LogGrown
from fastlane.executors.base import Executor
from fastlane.executors.registry import Executors
from fastlane.hosts import BreakerOptions, Hosts
from fastlane.lifecycle import Lifecycle
from fastlane.model import (
    Backoff,
    Clock,
    Definition,
    Execution,
    Farm,
    Outcome,
    Reason,
    Schedule,
    Status,
)
from fastlane.policy import LOST_RERUNS_MAX
from fastlane.storage.base import PageRequest
from fastlane.storage.sqlite import SqliteStorage
from tests.eventually import eventually
from tests.fakes import (
    DeadHost,
    FaultyInside,
    FrozenBeforeCreate,
    LostAnswer,
    LostCreateAnswer,
    MemoryExecutor,
    SlowPull,
    VanishingRun,
)
from tests.storage_calls import wrap

NOW = Schedule()


class Instance:
    """The background work of one server over a storage of its own, without any HTTP."""

    def __init__(
        self,
        directory: Path,
        executor: Executor,
        *,
        farms: Sequence[Farm] = (Farm("default", ("a",), 8),),
        options: Options | None = None,
        breaker: BreakerOptions | None = None,
        name: str = "one",
        storage: type[SqliteStorage] = SqliteStorage,
        clock: Clock = time.time,
    ) -> None:
        self.storage = storage(directory)
        self.executor: Any = executor
        self.bus = Bus()
        self.lifecycle = Lifecycle(self.storage, self.bus, clock=clock, farms=farms, instance=name)
        self.hosts = Hosts(
            [host for farm in farms for host in farm.hosts],
            clock,
            breaker,
            changed=lambda: self.bus.wake(HostChanged),
        )
        context = Context(
            lifecycle=self.lifecycle,
            storage=self.storage,
            executors=Executors.single(executor, farms),
            bus=self.bus,
            hosts=self.hosts,
            farms={farm.name: farm for farm in farms},
            clock=clock,
            options=options or Options(),
        )
        self.runner = Runner(context)
        self.keeper = Keeper(context, self.runner)
        dispatcher = Dispatcher(context, self.runner)
        scheduler = Scheduler(self.lifecycle, self.storage, clock)
        watch = HostWatch(self.lifecycle, self.storage, self.bus, self.hosts)
        self._work = (
            Loop("heartbeat", self.keeper.beat),
            Loop("scheduler", scheduler.step, scheduler.wakes_on, scheduler.wants),
            Loop("dispatcher", dispatcher.step, dispatcher.wakes_on, dispatcher.wants),
            Loop("hosts", watch.step, watch.wakes_on),
        )
        self._loops: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Instance:
        await self.storage.open()
        self._loops = [asyncio.create_task(work.run(self.bus)) for work in self._work]
        return self

    async def __aexit__(self, *_: object) -> None:
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self.runner.close()
        await self.lifecycle.leave()
        await self.storage.close()

    async def submit(
        self, schedule: Schedule = NOW, *, command: str = "true", **definition: object
    ) -> Execution:
        """A job whose first execution is in the queue."""
        made = Definition.parse(image="image:1", command=command, **definition)
        submitted = await self.lifecycle.submit(
            task_id="task", job_id=None, definition=made, schedule=schedule
        )
        assert submitted.execution is not None
        return submitted.execution

    async def ended(self, execution_id: str) -> Execution:
        """The execution, once it is final."""
        return await self._when(execution_id, lambda execution: execution.final)

    async def in_status(self, execution_id: str, status: Status) -> Execution:
        return await self._when(execution_id, lambda execution: execution.status is status)

    async def _when(self, execution_id: str, reached: object) -> Execution:
        assert callable(reached)
        with self.bus.subscribe(ExecutionChanged, LogGrown, key=execution_id) as news:
            async with asyncio.timeout(20):
                while True:
                    execution = await self.storage.executions.get(execution_id)
                    if reached(execution):
                        return execution
                    await news.wait(0.5)


async def test_a_job_ends_with_its_log(tmp_path: Path) -> None:
    async with Instance(tmp_path, MemoryExecutor()) as one:
        made = await one.submit()
        run = await one.executor.started(made.id)
        assert (await one.in_status(made.id, Status.RUNNING)).run_id == f"run-{made.id}"
        run.output.append(b"more\n")
        run.end(3)
        ended = await one.ended(made.id)
        assert (ended.status, ended.reason, ended.exit_code) == (
            Status.FAILED,
            Reason.EXIT_CODE,
            3,
        )
        text = b"".join(record.data for record in await one.storage.logs.read(made.id))
        assert text == b"out\nmore\n"


@pytest.mark.parametrize("executor", [LostAnswer, LostCreateAnswer])
async def test_a_lost_answer_starts_nothing_twice(
    tmp_path: Path, executor: type[MemoryExecutor]
) -> None:
    """REGRESSIONS 12."""
    async with Instance(tmp_path, executor(instant=True)) as one:
        ended = await one.ended((await one.submit()).id)
        assert ended.status is Status.DONE
        assert one.executor.calls["start"] == 1


async def test_a_host_that_does_not_answer_leaves_its_work_to_another(tmp_path: Path) -> None:
    """REGRESSIONS 8: nothing is failed for a host that is out."""
    farms = (Farm("default", ("dead", "well"), 8),)
    async with Instance(tmp_path, DeadHost("dead", instant=True), farms=farms) as one:
        made = [await one.submit() for _ in range(4)]
        ended = [await one.ended(execution.id) for execution in made]
        assert {(e.status, e.host) for e in ended} == {(Status.DONE, "well")}
        assert one.hosts.record("dead").error is not None


async def test_with_all_hosts_out_executions_wait(tmp_path: Path) -> None:
    """REGRESSIONS 8: also one that was claimed and handed back before."""
    executor = DeadHost("a", instant=True)
    options = Options(host_lost_after_seconds=0)
    async with Instance(tmp_path, executor, options=options) as one:
        made = await one.submit()
        for _ in range(2):
            await asyncio.wait_for(executor.refusals.acquire(), 10)
        assert (await one.storage.executions.get(made.id)).status in {
            Status.ENQUEUED,
            Status.PULLING,
        }
        executor.dead.clear()
        assert (await one.ended(made.id)).status is Status.DONE


async def test_a_host_that_stays_away_with_a_run_makes_it_lost(tmp_path: Path) -> None:
    executor = DeadHost()
    options = Options(host_lost_after_seconds=0.5)
    async with Instance(tmp_path, executor) as one:
        made = await one.submit()
        await executor.started(made.id)
        await one.in_status(made.id, Status.RUNNING)
    executor.dead.add("a")
    async with Instance(tmp_path, executor, options=options, name="two") as two:
        ended = await two.ended(made.id)
        assert (ended.status, ended.reason) == (Status.FAILED, Reason.LOST)
        assert "unreachable" in str(ended.error)


async def test_a_run_removed_behind_our_back_is_lost_and_its_host_is_well(tmp_path: Path) -> None:
    """REGRESSIONS 21."""
    async with Instance(tmp_path, VanishingRun()) as one:
        ended = await one.ended((await one.submit(retries=3)).id)
        assert (ended.status, ended.reason) == (Status.FAILED, Reason.LOST)
        assert one.hosts.record("a").failures == 0
        last = await one.storage.executions.last_of_job(ended.job_id)
        assert last is not None
        assert last.id == ended.id, "retries do not repeat what may have run"


async def test_a_lost_run_is_repeated_when_the_job_says_so(tmp_path: Path) -> None:
    async with Instance(tmp_path, VanishingRun()) as one:
        first = await one.ended(
            (await one.submit(rerun_when_lost=True, backoff=Backoff(10, 1, 10))).id
        )
        last = await one.storage.executions.last_of_job(first.job_id)
        assert last is not None
        assert last.number == 2


async def test_what_is_always_lost_ends_after_its_reruns(tmp_path: Path) -> None:
    async with Instance(tmp_path, FaultyInside()) as one:
        first = await one.submit(rerun_when_lost=True, retries=3, backoff=Backoff(1, 1, 1))

        async def last_rerun() -> Execution | None:
            last = await one.storage.executions.last_of_job(first.job_id)
            assert last is not None
            return last if last.final and last.lost_reruns == LOST_RERUNS_MAX else None

        last = await eventually(last_rerun)
        assert (last.number, last.attempt, last.reason) == (LOST_RERUNS_MAX + 1, 0, Reason.LOST)
        assert await one.lifecycle.retry_after(last) is None


async def test_a_bug_of_ours_ends_the_execution_and_leaves_the_others_alone(
    tmp_path: Path,
) -> None:
    async with Instance(tmp_path, FaultyInside()) as one:
        ended = await one.ended((await one.submit()).id)
        assert (ended.status, ended.reason) == (Status.FAILED, Reason.LOST)
        assert "fastlane failed" in str(ended.error)


async def test_stopping_during_a_pull(tmp_path: Path) -> None:
    """REGRESSIONS 26: nobody waits for the pull, and nothing is created."""
    executor = SlowPull()
    async with Instance(tmp_path, executor) as one:
        made = await one.submit(retries=3)
        await asyncio.wait_for(executor.pulling.wait(), 10)
        await one.lifecycle.stop_execution(made.task_id, made.job_id, made.id)
        ended = await one.ended(made.id)
        assert (ended.status, ended.reason) == (Status.FAILED, Reason.STOPPED)
        assert executor.calls["create"] == 0


async def test_stopping_a_run_ends_its_retries(tmp_path: Path) -> None:
    async with Instance(tmp_path, MemoryExecutor()) as one:
        made = await one.submit(retries=3)
        await one.executor.started(made.id)
        await one.lifecycle.stop_job(made.task_id, made.job_id)
        ended = await one.ended(made.id)
        assert (ended.status, ended.reason, ended.exit_code) == (
            Status.FAILED,
            Reason.STOPPED,
            143,
        )
        assert (await one.storage.jobs.get(made.task_id, made.job_id)).execution_count == 1


async def test_a_run_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    async with Instance(tmp_path, MemoryExecutor()) as one:
        made = await one.submit(timeout_seconds=0.2)
        ended = await one.ended(made.id)
        assert (ended.status, ended.reason) == (Status.TIMEDOUT, Reason.TIMEOUT)
        assert ended.exit_code == 143


async def test_a_limit_that_was_lowered_caps_what_was_stored_before(tmp_path: Path) -> None:
    options = Options(hard_timeout_seconds=0.2)
    async with Instance(tmp_path, MemoryExecutor(), options=options) as one:
        ended = await one.ended((await one.submit(timeout_seconds=600)).id)
        assert ended.status is Status.TIMEDOUT
        assert ended.error == "The execution ran longer than 0.2 s."


async def test_the_time_limit_of_an_adopted_run_goes_on_where_it_stood(tmp_path: Path) -> None:
    executor = MemoryExecutor()
    async with Instance(tmp_path, executor) as one:
        made = await one.submit(timeout_seconds=0.3)
        await executor.started(made.id)
        await one.in_status(made.id, Status.RUNNING)
    async with Instance(tmp_path, executor, name="two") as two:
        ended = await two.ended(made.id)
        assert ended.status is Status.TIMEDOUT
        assert executor.calls["start"] == 1


async def test_a_shutdown_during_a_pull_hands_the_execution_back(tmp_path: Path) -> None:
    executor = SlowPull()
    async with Instance(tmp_path, executor) as one:
        made = await one.submit()
        await asyncio.wait_for(executor.pulling.wait(), 10)
    executor.go_on.set()
    storage = SqliteStorage(tmp_path)
    await storage.open()
    left = await storage.executions.get(made.id)
    await storage.close()
    assert (left.status, left.host, left.owner) == (Status.ENQUEUED, None, None)
    async with Instance(tmp_path, executor, name="two") as two:
        assert (await two.ended(made.id)).status is Status.DONE


async def test_an_owner_that_was_frozen_starts_nothing_again(tmp_path: Path) -> None:
    """REGRESSIONS 14: its successor has run and removed what it is about to make."""
    executor = FrozenBeforeCreate()
    async with Instance(tmp_path, executor) as one:
        made = await one.submit()
        await asyncio.wait_for(executor.frozen.wait(), 10)
        other = Lifecycle(
            one.storage,
            Bus(),
            clock=lambda: time.time() + 3600,
            farms=(Farm("default", ("a",), 8),),
            instance="two",
        )
        (adopted,) = await other.adopt(10)
        assert adopted.id == made.id
        await other.finish(adopted, Outcome(Status.DONE, Reason.EXIT_CODE, 0))
        executor.go_on.set()
        runs = asyncio.gather(*one.runner._runs.values(), return_exceptions=True)
        await asyncio.wait_for(runs, 10)
    assert executor.calls["start"] == 0


async def test_a_new_owner_adopts_a_running_run(tmp_path: Path) -> None:
    executor = MemoryExecutor()
    async with Instance(tmp_path, executor) as one:
        made = await one.submit()
        await executor.started(made.id)
        await one.in_status(made.id, Status.RUNNING)
    run = executor.runs_by_id[f"run-{made.id}"]
    run.output.append(b"while nobody looked\n")
    async with Instance(tmp_path, executor, name="two") as two:
        run.end(0)
        ended = await two.ended(made.id)
        assert (ended.status, ended.owner) == (Status.DONE, "two")
        text = b"".join(record.data for record in await two.storage.logs.read(made.id))
        assert text == b"out\nwhile nobody looked\n"
        assert executor.calls["start"] == 1


async def test_retries_back_off_and_end(tmp_path: Path) -> None:
    async with Instance(tmp_path, MemoryExecutor()) as one:
        made = await one.submit(retries=2, backoff=Backoff(20, 2, 1000))
        for attempt in range(3):
            last = await one.storage.executions.last_of_job(made.job_id)
            assert last is not None
            assert last.attempt == attempt
            (await one.executor.started(last.id)).end(1)
            await one.ended(last.id)
        page = await one.storage.executions.of_job(made.job_id, PageRequest())
        assert [execution.attempt for execution in page.items] == [2, 1, 0]


async def test_retry_waits_for_the_run_that_it_stops(tmp_path: Path) -> None:
    async with Instance(tmp_path, MemoryExecutor()) as one:
        made = await one.submit()
        await one.executor.started(made.id)
        again = await one.lifecycle.retry_job(made.task_id, made.job_id)
        assert (await one.ended(made.id)).reason is Reason.STOPPED
        (await one.executor.started(again.id)).end(0)
        assert (await one.ended(again.id)).status is Status.DONE


async def test_a_job_that_never_ran_cannot_be_retried(tmp_path: Path) -> None:
    async with Instance(tmp_path, MemoryExecutor()) as one:
        later = await one.lifecycle.submit(
            task_id="task",
            job_id=None,
            definition=Definition.parse(image="image:1", command="true"),
            schedule=Schedule(start_at=time.time() + 3600),
        )
        with pytest.raises(Rejected):
            await one.lifecycle.retry_job("task", later.job.id)


async def test_no_more_than_max_running_at_once_and_first_in_first_out(tmp_path: Path) -> None:
    """REGRESSIONS 19 and 27."""
    farms = (Farm("default", ("a",), 1),)
    async with Instance(tmp_path, MemoryExecutor(), farms=farms) as one:
        made = [await one.submit() for _ in range(4)]
        for execution in made:
            run = await one.executor.started(execution.id)
            assert one.executor.calls["start"] == made.index(execution) + 1
            run.end(0)
        for execution in made:
            assert (await one.ended(execution.id)).status is Status.DONE


async def test_the_sweep_removes_what_a_crash_left_and_nothing_else(tmp_path: Path) -> None:
    executor = MemoryExecutor()
    async with Instance(tmp_path, executor) as one:
        made = await one.submit()
        run = await executor.started(made.id)
        run.end(0)
        await one.ended(made.id)
        left = replace(run, state=replace(run.state))
        executor.runs_by_id[f"run-{made.id}"] = left
        stranger = replace(run, spec=replace(run.spec, execution_id="unknown"))
        executor.runs_by_id["run-unknown"] = stranger

        async def too_slow(*_: object, **__: object) -> Sequence[Execution]:
            raise StorageUnavailable("operation exceeded time limit")

        # Another look-up that fails keeps no host from being swept.
        wrap(one.storage, "executions.orphaned", lambda _: too_slow)
        with pytest.raises(StorageUnavailable):
            await one.keeper.sweep()
        assert list(executor.runs_by_id) == ["run-unknown"]
