"""What hosts and farms mean for executions, when hosts misbehave in a named way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fastlane.background import pullnotes
from fastlane.background.context import Options
from fastlane.background.hostwatch import HostWatch
from fastlane.bus.local import Bus
from fastlane.errors import HostUnavailable, NotStarted
from fastlane.events import HostChanged
from fastlane.executors.base import ListedRun, Phase, RunSpec
from fastlane.hosts import BreakerOptions, Circuit, Hosts
from fastlane.lifecycle import Lifecycle
from fastlane.model import Farm, HostRecord, Reason, Resources, Schedule, Status, Stream
from fastlane.storage.sqlite import SqliteStorage
from tests.eventually import eventually
from tests.fakes import DeadHost, MemoryExecutor
from tests.unit.test_runner import Instance
from tests.unit.test_runner_faults import LostAppendAnswer


class NoCreate(MemoryExecutor):
    """Pulls on every host, but one of them never answers a create."""

    def __init__(self, dead: str) -> None:
        super().__init__(instant=True)
        self.dead = dead

    async def create(self, host: str, spec: RunSpec) -> str:
        if host == self.dead:
            raise HostUnavailable(host, "no answer in time")
        return await super().create(host, spec)


class NoStart(MemoryExecutor):
    """The host *full* creates runs and starts none of them."""

    def __init__(self, full: str, *, removes: bool = True) -> None:
        super().__init__(instant=True)
        self.full: str | None = full
        self.removes = removes
        self.refused = asyncio.Semaphore(0)
        """Released with every refusal to start, and to remove."""

    async def start(self, host: str, run_id: str) -> None:
        if host == self.full:
            self.refused.release()
            raise NotStarted(host, "no space left on device")
        await super().start(host, run_id)

    async def remove(self, host: str, run_id: str) -> None:
        if not self.removes:
            self.refused.release()
            raise HostUnavailable(host, "no answer in time")
        await super().remove(host, run_id)


class Chatty(MemoryExecutor):
    """A pull says *lines* lines."""

    def __init__(self, lines: int) -> None:
        super().__init__(instant=True)
        self.lines = lines

    async def pull(self, host: str, spec: RunSpec, progress: Callable[[str], None]) -> None:
        for number in range(self.lines):
            progress(f"layer {number}: Pulling")
        await super().pull(host, spec, progress)


class Aside(MemoryExecutor):
    """Remembers what was set aside."""

    def __init__(self) -> None:
        super().__init__()
        self.aside = asyncio.Event()

    async def archive(self, host: str, run_id: str) -> None:
        self.calls["archive"] += 1
        self.aside.set()


async def test_what_was_never_started_leaves_a_host_that_fails_at_creation(tmp_path: Path) -> None:
    """REGRESSIONS 8."""
    farms = (Farm("default", ("bad", "well"), 8),)
    breaker = BreakerOptions(max_fails=2, reset_timeout_seconds=60)
    async with Instance(tmp_path, NoCreate("bad"), farms=farms, breaker=breaker) as one:
        made = [await one.submit() for _ in range(3)]
        ended = [await one.ended(execution.id) for execution in made]
        assert {(each.status, each.host) for each in ended} == {(Status.DONE, "well")}
        assert one.hosts.circuit("bad") is Circuit.OPEN
        assert one.executor.calls["start"] == 3


async def test_what_a_host_refuses_to_start_is_given_to_another(tmp_path: Path) -> None:
    """REGRESSIONS 8: and the host that refused has nothing of it any more."""
    executor = NoStart("full")
    farms = (Farm("default", ("full", "well"), 8),)
    breaker = BreakerOptions(max_fails=2, reset_timeout_seconds=60)
    async with Instance(tmp_path, executor, farms=farms, breaker=breaker) as one:
        made = await one.submit()
        ended = await one.ended(made.id)
        assert (ended.status, ended.host) == (Status.DONE, "well")
        assert one.hosts.circuit("full") is Circuit.OPEN
        assert executor.calls["create"] == 2
        assert executor.calls["remove"] >= 1
        assert executor.calls["start"] == 1


async def test_what_a_host_may_have_stays_with_it(tmp_path: Path) -> None:
    """Whether it was removed is not known, so nobody else may start it."""
    executor = NoStart("full", removes=False)
    farms = (Farm("default", ("full", "well"), 8),)
    breaker = BreakerOptions(max_fails=1, reset_timeout_seconds=60)
    async with Instance(tmp_path, executor, farms=farms, breaker=breaker) as one:
        made = await one.submit()
        # Refused, not removed, refused again.
        for _ in range(3):
            await asyncio.wait_for(executor.refused.acquire(), 10)
        executor.full = None
        ended = await one.ended(made.id)
        assert (ended.status, ended.host) == (Status.DONE, "full")
        assert executor.calls["create"] == executor.calls["start"] == 1


async def test_a_circuit_closes_when_its_trial_goes_well(tmp_path: Path) -> None:
    executor = DeadHost("a", instant=True)
    breaker = BreakerOptions(max_fails=1, reset_timeout_seconds=0.2)
    async with Instance(tmp_path, executor, breaker=breaker) as one:
        made = await one.submit()
        await asyncio.wait_for(executor.refusals.acquire(), 10)
        executor.dead.clear()
        assert (await one.ended(made.id)).status is Status.DONE
        assert one.hosts.record("a") == HostRecord("a")


async def test_of_hosts_that_are_loaded_alike_the_one_with_the_image_is_taken(
    tmp_path: Path,
) -> None:
    farms = (Farm("default", ("a", "b"), 8),)
    async with Instance(tmp_path, MemoryExecutor(), farms=farms) as one:
        one.hosts.has_now("b", "image:1")
        first = await one.submit()
        await one.executor.started(first.id)
        second = await one.submit()
        await one.executor.started(second.id)
        assert (await one.storage.executions.get(first.id)).host == "b"
        assert (await one.storage.executions.get(second.id)).host == "a", "load comes first"


async def test_a_host_without_a_farm_is_not_looked_at_for_ever(tmp_path: Path) -> None:
    """REGRESSIONS 22."""
    executor = MemoryExecutor()
    async with Instance(tmp_path, executor) as one:
        made = await one.submit()
        await executor.started(made.id)
        await one.in_status(made.id, Status.RUNNING)
    farms = (Farm("default", ("b",), 8),)
    options = Options(host_lost_after_seconds=0.2)
    async with Instance(tmp_path, executor, farms=farms, options=options, name="two") as two:
        ended = await two.ended(made.id)
        assert (ended.status, ended.reason) == (Status.FAILED, Reason.LOST)
        assert "no longer in any farm" in str(ended.error)
    assert executor.calls["stop"] == 1


class Swept(DeadHost):
    """Remembers which hosts were swept."""

    def __init__(self, *dead: str) -> None:
        super().__init__(*dead)
        self.swept: list[str] = []

    async def runs(self, host: str) -> Sequence[ListedRun]:
        self.swept.append(host)
        return await super().runs(host)


@pytest.mark.parametrize("dead", [True, False])
async def test_a_host_without_a_farm_is_not_swept_for_ever(tmp_path: Path, dead: bool) -> None:
    executor = Swept(*(["gone"] if dead else []))
    async with Instance(tmp_path, executor) as one:
        one.hosts.failed("gone", "no route to host")
        await eventually(one.storage.hosts.all, "the record of the host")
        await one.keeper.sweep()
        assert sorted(executor.swept) == ["a", "gone"]
        executor.swept.clear()
        # What it stored is read again with every round.
        one.hosts.take(await one.storage.hosts.all())
        await one.keeper.sweep()
        assert executor.swept == ["a"]


async def test_an_execution_without_a_farm_goes_to_the_one_that_takes_its_task(
    tmp_path: Path,
) -> None:
    nowhere = (Farm("default", (), 8),)
    async with Instance(tmp_path, MemoryExecutor(), farms=nowhere) as one:
        made = await one.submit()
    farms = (Farm("other", ("a",), 8, "^other"), Farm("new", ("a",), 8, "^task"))
    async with Instance(tmp_path, MemoryExecutor(instant=True), farms=farms, name="two") as two:
        await two.keeper.sweep()
        ended = await two.ended(made.id)
        assert (ended.status, ended.farm) == (Status.DONE, "new")


async def test_a_tick_that_no_farm_takes_waits_for_one(tmp_path: Path) -> None:
    async with Instance(tmp_path, MemoryExecutor(), farms=(Farm("x", (), 1),)) as one:
        later = Schedule(start_at=time.time() + 3600)
        job = (
            await one.lifecycle.submit(
                task_id="task",
                job_id=None,
                definition=(await one.submit()).definition,
                schedule=later,
            )
        ).job
    async with Instance(tmp_path, MemoryExecutor(), farms=(Farm("y", ("a",), 1, "^no"),)) as two:
        ticked = await two.lifecycle.run_tick(job)
        assert ticked is not None
        assert ticked.farm == ""
    farms = (Farm("z", ("a",), 1),)
    async with Instance(tmp_path, MemoryExecutor(instant=True), farms=farms) as three:
        await three.keeper.sweep()
        assert (await three.ended(ticked.id)).farm == "z"


async def test_an_image_that_the_new_farm_does_not_run_is_refused_at_the_end(
    tmp_path: Path,
) -> None:
    async with Instance(tmp_path, MemoryExecutor(), farms=(Farm("old", (), 1),)) as one:
        made = await one.submit()
    farms = (Farm("new", ("a",), 1, images=("other:.*",)),)
    async with Instance(tmp_path, MemoryExecutor(), farms=farms) as two:
        await two.keeper.sweep()
        ended = await two.ended(made.id)
        assert ended.reason is Reason.PULL_FAILED
        assert "does not run image" in str(ended.error)
        assert two.executor.calls["pull"] == 0


async def test_limits_of_the_farm_come_before_the_servers_own(tmp_path: Path) -> None:
    farms = (Farm("f", ("a",), 1, limits=Resources(cpus=2, pids=5)),)
    options = Options(resource_caps=Resources(1, 1000, 100))
    async with Instance(tmp_path, MemoryExecutor(), farms=farms, options=options) as one:
        run = await one.executor.started((await one.submit(resources=Resources(4))).id)
        assert run.spec.resources == Resources(2, 1000, 5)


async def test_the_progress_of_a_pull_comes_before_the_first_line(tmp_path: Path) -> None:
    async with Instance(tmp_path, Chatty(3)) as one:
        ended = await one.ended((await one.submit()).id)
        records = await one.storage.logs.read(ended.id)
        assert [record.seq for record in records] == [1, 2, 3, 4]
        assert [record.stream for record in records] == [Stream.FASTLANE] * 3 + [Stream.STDOUT]
        assert records[0].data == b"[fastlane: layer 0: Pulling]\n"


async def test_a_lost_answer_to_the_progress_of_a_pull_changes_nothing(tmp_path: Path) -> None:
    async with Instance(tmp_path, Chatty(2), storage=LostAppendAnswer) as one:
        ended = await one.ended((await one.submit()).id)
        assert isinstance(one.storage, LostAppendAnswer)
        assert one.storage.lost
        assert (ended.status, ended.epoch) == (Status.DONE, 1)
        records = await one.storage.logs.read(ended.id)
        assert [record.data for record in records] == [
            b"[fastlane: layer 0: Pulling]\n",
            b"[fastlane: layer 1: Pulling]\n",
            b"out\n",
        ]


async def test_the_progress_of_a_pull_is_bounded(tmp_path: Path) -> None:
    async with Instance(tmp_path, Chatty(10 * pullnotes.MAX_LINES)) as one:
        ended = await one.ended((await one.submit()).id)
        records = await one.storage.logs.read(ended.id)
        assert len(records) == pullnotes.MAX_LINES + 1
        assert records[-2].data == b"[fastlane: the pull continues without further notes]\n"


async def test_what_is_kept_is_archive_and_swept_when_its_time_is_over(tmp_path: Path) -> None:
    executor = Aside()
    options = Options(container_retention_seconds=3600)
    async with Instance(tmp_path, executor, options=options) as one:
        made = await one.submit()
        (await executor.started(made.id)).end(0)
        await one.ended(made.id)
        await asyncio.wait_for(executor.aside.wait(), 10)
        await one.keeper.sweep()
        assert [run.phase for run in await executor.runs("a")] == [Phase.ENDED]
    async with Instance(tmp_path, executor) as two:
        await two.keeper.sweep()
        assert await executor.runs("a") == []


async def test_old_records_are_forgotten_step_by_step(tmp_path: Path) -> None:
    options = Options(execution_retention_seconds=0.001)
    async with Instance(tmp_path, MemoryExecutor(instant=True), options=options) as one:
        await one.ended((await one.submit()).id)
        await asyncio.sleep(0.01)
        assert await one.keeper.forget() < 1
        assert await one.keeper.forget() > 1
        assert (await one.storage.overview()).jobs == 0
    async with Instance(tmp_path, MemoryExecutor(instant=True)) as two:
        await two.ended((await two.submit()).id)
        await two.keeper.forget()
        assert (await two.storage.overview()).jobs == 1


async def test_what_one_instance_knows_of_a_host_all_know(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path)
    await storage.open()
    clock, options = time.time, BreakerOptions(max_fails=1)
    one, two = Hosts(["a"], clock, options), Hosts(["a"], clock, options)
    first, second = Bus(), Bus()
    first.relay_to(second.deliver)
    here, there = (
        Lifecycle(storage, bus, clock=clock, farms=[], instance="test") for bus in (first, second)
    )
    with second.subscribe(HostChanged) as news:
        one.failed("a", "no route")
        await HostWatch(here, storage, first, one).step()
        assert await news.wait(1)
    await HostWatch(there, storage, second, two).step()
    assert two.circuit("a") is Circuit.OPEN
    assert two.record("a") == one.record("a")
    two.answered("a")
    await HostWatch(there, storage, second, two).step()
    await HostWatch(here, storage, first, one).step()
    assert one.circuit("a") is Circuit.CLOSED
    await storage.close()
