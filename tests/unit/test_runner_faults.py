"""What the owner of an execution does when an answer is lost or something inside it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastlane.background.context import Options
from fastlane.background.run import CREATIONS
from fastlane.errors import HostUnavailable, RemovedUnstarted, RunVanished, StorageUnavailable
from fastlane.executors.base import LogBatch, Phase, RunState
from fastlane.model import Execution, Reason, Status
from fastlane.storage.sqlite import SqliteStorage
from tests.eventually import eventually
from tests.fakes import MemoryExecutor
from tests.storage_calls import Call, wrap
from tests.unit.test_runner import Instance


class BreakingWait(MemoryExecutor):
    """The wait for a run breaks when it is told to, as when the engine is restarted."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = asyncio.Semaphore(0)
        """Released with every wait that begins."""
        self.breaks = asyncio.Semaphore(0)

    async def wait(self, host: str, run_id: str) -> RunState:
        self.waits.release()
        run = self._run(run_id)
        ended = asyncio.create_task(run.ended.wait())
        broken = asyncio.create_task(self.breaks.acquire())
        try:
            await asyncio.wait({ended, broken}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                raise HostUnavailable(host, "connection reset")
        finally:
            ended.cancel()
            broken.cancel()
        return self._run(run_id).state


class UnreadableLog(MemoryExecutor):
    """The host runs what it is given, but never gives the log."""

    async def logs(
        self, host: str, run_id: str, *, bookmark: str, ended: asyncio.Event
    ) -> AsyncGenerator[LogBatch, None]:
        raise HostUnavailable(host, "error grabbing logs")
        yield


class FaultyLogs(MemoryExecutor):
    """Has a bug of our own where it reads logs."""

    async def logs(
        self, host: str, run_id: str, *, bookmark: str, ended: asyncio.Event
    ) -> AsyncGenerator[LogBatch, None]:
        raise ZeroDivisionError("a bug")
        yield


class FaultyStop(MemoryExecutor):
    """Has a bug of our own where it stops."""

    async def stop(self, host: str, run_id: str, *, grace_seconds: float) -> None:
        raise ZeroDivisionError("a bug")


class LostAppendAnswer(SqliteStorage):
    """The first append takes effect, but its answer never arrives."""

    lost = False

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        wrap(self, "logs.append", self._lose)

    def _lose(self, append: Call) -> Call:
        async def lose(*args: Any, **kwargs: Any) -> None:
            await append(*args, **kwargs)
            if not self.lost:
                self.lost = True
                raise StorageUnavailable("connection reset")

        return lose


class LostClaimAnswer(SqliteStorage):
    """The first claim takes effect, but its answer never arrives."""

    lost: Execution | None = None

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        wrap(self, "executions.claim", self._lose)

    def _lose(self, claim: Call) -> Call:
        async def lose(*args: Any, **kwargs: Any) -> Any:
            claimed = await claim(*args, **kwargs)
            if claimed is not None and self.lost is None:
                self.lost = claimed
                raise StorageUnavailable("connection reset")
            return claimed

        return lose


class LostStartedAnswer(SqliteStorage):
    """Fails inside whenever it is told that a run was started, until it is mended."""

    mended = False
    failed = 0

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        wrap(self, "executions.started", self._fail_after)
        wrap(self, "executions.finish", self._fail_before)

    def _fail_after(self, started: Call) -> Call:
        async def fail(*args: Any, **kwargs: Any) -> Any:
            execution = await started(*args, **kwargs)
            if not self.mended:
                raise ZeroDivisionError("a bug")
            return execution

        return fail

    def _fail_before(self, finish: Call) -> Call:
        async def fail(*args: Any, **kwargs: Any) -> Any:
            if not self.mended:
                self.failed += 1
                raise ZeroDivisionError("a bug")
            return await finish(*args, **kwargs)

        return fail


async def test_a_wait_that_breaks_now_and_then_is_no_lost_host(tmp_path: Path) -> None:
    """However far apart the breaks are: the host was there in between."""
    executor = BreakingWait()
    options = Options(host_lost_after_seconds=0)
    async with Instance(tmp_path, executor, options=options) as one:
        made = await one.submit()
        run = await executor.started(made.id)
        for _ in range(2):
            await asyncio.wait_for(executor.waits.acquire(), 10)
            executor.breaks.release()
        await asyncio.wait_for(executor.waits.acquire(), 10)
        run.end(0)
        assert (await one.ended(made.id)).status is Status.DONE


async def test_a_log_that_stays_out_of_reach_does_not_keep_an_ended_run(tmp_path: Path) -> None:
    """REGRESSIONS 22, 23: the host went away, or its log is broken, just behind the end."""
    options = Options(host_lost_after_seconds=0.3)
    async with Instance(tmp_path, UnreadableLog(instant=True), options=options) as one:
        ended = await one.ended((await one.submit()).id)
        assert (ended.status, ended.exit_code) == (Status.DONE, 0)
        (note,) = await one.storage.logs.read(ended.id)
        assert b"could not be read: host a: error grabbing logs" in note.data


async def test_a_bug_in_reading_a_log_ends_the_execution(tmp_path: Path) -> None:
    async with Instance(tmp_path, FaultyLogs(instant=True)) as one:
        ended = await one.ended((await one.submit()).id)
        assert (ended.status, ended.reason) == (Status.FAILED, Reason.LOST)


async def test_a_bug_in_stopping_ends_the_execution(tmp_path: Path) -> None:
    async with Instance(tmp_path, FaultyStop()) as one:
        made = await one.submit(timeout_seconds=0.1)
        ended = await one.ended(made.id)
        assert (ended.status, ended.reason) == (Status.TIMEDOUT, Reason.TIMEOUT)


async def test_an_append_whose_answer_was_lost_is_not_repeated(tmp_path: Path) -> None:
    """REGRESSIONS 4."""
    executor = MemoryExecutor(instant=True)
    async with Instance(tmp_path, executor, storage=LostAppendAnswer) as one:
        ended = await one.ended((await one.submit()).id)
        assert ended.status is Status.DONE
        text = b"".join(record.data for record in await one.storage.logs.read(ended.id))
        assert text == b"out\n"


async def test_a_claim_whose_answer_was_lost_is_found(tmp_path: Path) -> None:
    """REGRESSIONS 1, 4: it takes a slot, so it must not be forgotten while its owner lives."""
    executor = MemoryExecutor(instant=True)
    async with Instance(tmp_path, executor, storage=LostClaimAnswer) as one:
        made = await one.submit()
        await one.in_status(made.id, Status.PULLING)
        for _ in range(2):
            await one.keeper.beat()
        assert (await one.ended(made.id)).status is Status.DONE
        assert executor.calls["start"] == 1


async def test_a_task_that_died_is_followed_by_another(tmp_path: Path) -> None:
    executor = MemoryExecutor()
    async with Instance(tmp_path, executor, storage=LostStartedAnswer) as one:
        made = await one.submit()
        (await executor.started(made.id)).output.append(b"more\n")
        await one.in_status(made.id, Status.RUNNING)
        # Nobody tells of a task that died.
        await eventually(lambda: not one.runner.holds(made.id), "the death of the task")
        one.storage.mended = True  # type: ignore[attr-defined]
        for _ in range(2):
            await one.keeper.beat()
        (await executor.started(made.id)).end(0)
        assert (await one.ended(made.id)).status is Status.DONE
        assert executor.calls["start"] == 1
        text = b"".join(record.data for record in await one.storage.logs.read(made.id))
        assert text == b"out\nmore\n"


class PrunedLog(MemoryExecutor):
    """The run is removed right after its end, before its log was read."""

    async def logs(
        self, host: str, run_id: str, *, bookmark: str, ended: asyncio.Event
    ) -> AsyncGenerator[LogBatch, None]:
        raise RunVanished("somebody removed it")
        yield


async def test_a_run_that_is_removed_right_after_its_end_keeps_its_outcome(tmp_path: Path) -> None:
    async with Instance(tmp_path, PrunedLog(instant=True)) as one:
        ended = await one.ended((await one.submit()).id)
        assert (ended.status, ended.reason, ended.exit_code) == (Status.DONE, Reason.EXIT_CODE, 0)
        (note,) = await one.storage.logs.read(ended.id)
        assert b"could not be read: somebody removed it" in note.data


class RemovedUnstartedRun(MemoryExecutor):
    """Somebody removes created runs as often as *removals* says; with *unsure* an earlier answer
    to the start was lost.
    """

    def __init__(self, removals: int, *, unsure: bool = False) -> None:
        super().__init__(instant=True)
        self._removals = removals
        self._unsure = unsure

    async def start(self, host: str, run_id: str) -> None:
        if self._unsure:
            self._unsure = False
            raise HostUnavailable(host, "connection reset")
        if self._removals:
            self._removals -= 1
            del self.runs_by_id[run_id]
            raise RemovedUnstarted("somebody removed it")
        await super().start(host, run_id)


@pytest.mark.parametrize("removals", [1, 3, CREATIONS + 1])
async def test_a_run_that_is_removed_before_its_start_is_made_again(
    tmp_path: Path, removals: int
) -> None:
    executor = RemovedUnstartedRun(removals)
    async with Instance(tmp_path, executor) as one:
        ended = await one.ended((await one.submit()).id)
        assert ended.status is Status.DONE
        assert ended.epoch == (1 if removals < CREATIONS else 2)
        assert executor.calls["start"] == 1


async def test_a_run_that_may_have_been_started_is_not_made_again(tmp_path: Path) -> None:
    executor = RemovedUnstartedRun(1, unsure=True)
    async with Instance(tmp_path, executor) as one:
        ended = await one.ended((await one.submit()).id)
        assert (ended.status, ended.reason) == (Status.FAILED, Reason.LOST)
        assert executor.calls["start"] == 0


class Restarting(MemoryExecutor):
    """Somebody restarts the run once: its first end does not last."""

    restarted = False

    async def is_last(self, host: str, end: RunState) -> bool:
        if self.restarted:
            return True
        self.restarted = True
        run = self._run(end.run_id)
        run.ended.clear()
        run.state = replace(run.state, phase=Phase.RUNNING, exit_code=None)
        run.output.append(b"second\n")
        return False


async def test_a_run_that_someone_restarts_is_followed_to_the_end_that_lasts(
    tmp_path: Path,
) -> None:
    executor = Restarting()
    async with Instance(tmp_path, executor) as one:
        made = await one.submit()
        run = await executor.started(made.id)
        run.end(143)
        await eventually(lambda: executor.restarted)
        run.end(3)
        ended = await one.ended(made.id)
        assert (ended.status, ended.exit_code) == (Status.FAILED, 3)
        text = b"".join(record.data for record in await one.storage.logs.read(made.id))
        assert text == b"out\nsecond\n"
