"""A run that writes more than it may is ended, whoever else has something to say about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastlane.background import diskwatch
from fastlane.background.context import Options
from fastlane.errors import HostUnavailable
from fastlane.model import Backoff, Farm, Reason, Resources, Status
from tests.eventually import eventually
from tests.fakes import MemoryExecutor
from tests.unit.test_runner import Instance


class Writing(MemoryExecutor):
    """Its runs have written *written* bytes; None: that is not to be watched."""

    def __init__(self, written: int | None) -> None:
        super().__init__()
        self.written = written
        self.failures = 0
        self.graces: list[float] = []

    async def disk_bytes(self, host: str, run_id: str) -> int | None:
        self.calls["disk_bytes"] += 1
        if self.failures:
            self.failures -= 1
            raise HostUnavailable(host, "no answer in time")
        return self.written

    async def stop(self, host: str, run_id: str, *, grace_seconds: float) -> None:
        self.graces.append(grace_seconds)
        await super().stop(host, run_id, grace_seconds=grace_seconds)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diskwatch, "MIN_PAUSE_SECONDS", 0.01)


@pytest.mark.parametrize("where", ["job", "farm", "default"])
async def test_a_run_that_writes_too_much_is_killed(tmp_path: Path, where: str) -> None:
    executor = Writing(1000)
    limit = Resources(disk_bytes=1000)
    farms = (Farm("default", ("a",), 8, limits=limit if where == "farm" else Resources()),)
    options = Options(resource_caps=limit if where == "default" else Resources())
    resources = limit if where == "job" else Resources(disk_bytes=10**9)
    async with Instance(tmp_path, executor, farms=farms, options=options) as one:
        made = await one.submit(resources=resources)
        await executor.started(made.id)
        executor.failures = 3
        await eventually(lambda: executor.calls["disk_bytes"] > 5)
        assert (await one.in_status(made.id, Status.RUNNING)).stop_reason is None
        executor.written = 1001
        ended = await one.ended(made.id)
        assert (ended.status, ended.reason) == (Status.FAILED, Reason.DISK)
        assert "resources.disk" in str(ended.error)
        assert executor.graces == [0], "what fills a disk has no time to continue"


async def test_it_is_retried_as_other_failures_are(tmp_path: Path) -> None:
    executor = Writing(1001)
    async with Instance(tmp_path, executor) as one:
        made = await one.submit(
            resources=Resources(disk_bytes=1000), retries=1, backoff=Backoff(1, 1, 1)
        )
        first = await one.ended(made.id)

        async def retried() -> bool:
            last = await one.storage.executions.last_of_job(first.job_id)
            return last is not None and last.number == 2 and last.reason is Reason.DISK

        await eventually(retried)


@pytest.mark.parametrize("disk_bytes", [None, 1000])
async def test_nothing_is_watched_in_vain(tmp_path: Path, disk_bytes: int | None) -> None:
    executor = Writing(None)
    async with Instance(tmp_path, executor) as one:
        made = await one.submit(resources=Resources(disk_bytes=disk_bytes))
        run = await executor.started(made.id)
        await one.in_status(made.id, Status.RUNNING)
        if disk_bytes is not None:
            await eventually(lambda: executor.calls["disk_bytes"] == 1)
        run.end(0)
        assert (await one.ended(made.id)).status is Status.DONE
        assert executor.calls["disk_bytes"] == (disk_bytes is not None)
