"""REGRESSIONS 42: a run that ended before its limit is never ``timedout``, and not retried."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from fastlane.executors.base import LogBatch
from fastlane.model import Execution, Reason, Status
from fastlane.storage.sqlite import SqliteStorage
from tests.eventually import eventually
from tests.fakes import MemoryExecutor
from tests.storage_calls import OPERATIONS, Call, wrap
from tests.unit.test_runner import Instance

LIMIT_SECONDS = 0.4


async def until_after_the_limit(began: float) -> None:
    """Return well after a limit that counts from *began*."""
    await eventually(lambda: time.monotonic() > began + 2 * LIMIT_SECONDS)


class SlowLog(MemoryExecutor):
    """The log of a run is given only when the test lets it be."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()

    async def logs(
        self, host: str, run_id: str, *, bookmark: str, ended: asyncio.Event
    ) -> AsyncGenerator[LogBatch, None]:
        await self.go_on.wait()
        async for batch in super().logs(host, run_id, bookmark=bookmark, ended=ended):
            yield batch


class Frozen(SqliteStorage):
    """Answers nothing while it is frozen, as a database that was stopped."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.thawed = asyncio.Event()
        self.thawed.set()
        for operation in OPERATIONS:
            if operation.partition(".")[0] in {"executions", "logs", "instances"}:
                wrap(self, operation, self._freeze)

    def _freeze(self, call: Call) -> Call:
        async def frozen(*args: Any, **kwargs: Any) -> Any:
            await self.thawed.wait()
            return await call(*args, **kwargs)

        return frozen


async def assert_done_once(one: Instance, made: Execution) -> None:
    ended = await one.ended(made.id)
    assert (ended.status, ended.reason, ended.exit_code) == (Status.DONE, Reason.EXIT_CODE, 0)
    job = await one.storage.jobs.get(made.task_id, made.job_id)
    assert job.execution_count == 1, "a success was retried"


async def test_a_log_that_is_read_for_longer_than_the_limit(tmp_path: Path) -> None:
    executor = SlowLog()
    async with Instance(tmp_path, executor) as one:
        made = await one.submit(timeout_seconds=LIMIT_SECONDS, retries=2)
        (await executor.started(made.id)).end(0)
        await until_after_the_limit(time.monotonic())
        assert (await one.storage.executions.get(made.id)).stop_reason is None
        executor.go_on.set()
        await assert_done_once(one, made)


async def test_a_storage_that_is_frozen_around_the_end(tmp_path: Path) -> None:
    executor = MemoryExecutor()
    async with Instance(tmp_path, executor, storage=Frozen) as one:
        assert isinstance(one.storage, Frozen)
        made = await one.submit(timeout_seconds=LIMIT_SECONDS, retries=2)
        run = await executor.started(made.id)
        await one.in_status(made.id, Status.RUNNING)
        one.storage.thawed.clear()
        run.end(0)
        await until_after_the_limit(time.monotonic())
        one.storage.thawed.set()
        await assert_done_once(one, made)


@pytest.mark.parametrize("step_seconds", [0.0, 3600.0, -3600.0])
async def test_a_server_that_is_down_around_the_end(tmp_path: Path, step_seconds: float) -> None:
    """Also where its clock was set in the meantime."""
    executor = MemoryExecutor()
    async with Instance(tmp_path, executor) as one:
        made = await one.submit(timeout_seconds=LIMIT_SECONDS, retries=2)
        run = await executor.started(made.id)
        await one.in_status(made.id, Status.RUNNING)
    run.end(0)
    await until_after_the_limit(time.monotonic())

    def clock() -> float:
        return time.time() + step_seconds

    async with Instance(tmp_path, executor, clock=clock, name="two") as one:
        await assert_done_once(one, made)


@pytest.mark.parametrize("step_seconds", [3600.0, -3600.0])
async def test_a_clock_that_is_set_while_the_server_is_down(
    tmp_path: Path, step_seconds: float
) -> None:
    """It neither ends a run that has time left, nor gives one more time."""
    executor = MemoryExecutor()
    async with Instance(tmp_path, executor) as one:
        patient = await one.submit(timeout_seconds=60, retries=2)
        late = await one.submit(timeout_seconds=LIMIT_SECONDS)
        for made in (patient, late):
            await executor.started(made.id)
            await one.in_status(made.id, Status.RUNNING)

    def clock() -> float:
        return time.time() + step_seconds

    async with Instance(tmp_path, executor, clock=clock, name="two") as one:
        assert (await one.ended(late.id)).status is Status.TIMEDOUT
        run = executor.runs_by_id[f"run-{patient.id}"]
        assert not run.ended.is_set(), "it was stopped long before its limit"
        run.end(0)
        await assert_done_once(one, patient)


async def test_an_intent_that_came_too_late_does_not_count(tmp_path: Path) -> None:
    """Stored by an owner that took its own clock for the host's."""
    executor = SlowLog()
    async with Instance(tmp_path, executor) as one:
        made = await one.submit(timeout_seconds=60, retries=2)
        (await executor.started(made.id)).end(0)
        await one.in_status(made.id, Status.RUNNING)
        await one.lifecycle.timed_out(made)
        executor.go_on.set()
        await assert_done_once(one, made)
