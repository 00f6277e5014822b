"""When jobs run: ticks, overlaps, absences, stops, replacements, under the test's own clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from fastlane import cron as cron_module
from fastlane import policy
from fastlane.background.scheduler import Scheduler
from fastlane.bus.local import Bus
from fastlane.errors import CompareFailed, Rejected
from fastlane.lifecycle import Lifecycle
from fastlane.model import (
    Backoff,
    Definition,
    Execution,
    Farm,
    Job,
    Outcome,
    Overlap,
    Reason,
    Schedule,
    Status,
    Trigger,
)
from fastlane.steering import new_id
from fastlane.storage.base import IdempotencyKey, PageRequest
from fastlane.storage.sqlite import SqliteStorage
from tests import storage_calls

FARM = Farm("default", ("host",), 100)
MINUTE = 60.0
HOUR = 3600.0


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


class Scene:
    """A lifecycle over a real storage, and a clock that moves when the test says so."""

    def __init__(self, directory: Path, now: float) -> None:
        self.now = now
        self.storage = SqliteStorage(directory)
        self.lifecycle = Lifecycle(
            self.storage, Bus(), clock=lambda: self.now, farms=[FARM], instance="test"
        )
        self.scheduler = Scheduler(self.lifecycle, self.storage, lambda: self.now)

    async def submit(
        self,
        schedule: Schedule,
        *,
        job_id: str | None = None,
        key: IdempotencyKey | None = None,
        image: str = "image:1",
        **definition: object,
    ) -> Job:
        made = Definition.parse(image, "true", **definition)
        submitted = await self.lifecycle.submit(
            task_id="task", job_id=job_id, definition=made, schedule=schedule, idempotency=key
        )
        return submitted.job

    async def pass_time(self, seconds: float, step_seconds: float = 20) -> None:
        """Let the clock run, with the scheduler at work."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(self.now + step_seconds, until)
            await self.scheduler.run_due()

    async def jump(self, seconds: float) -> None:
        """Step the clock with nobody at work, as in an absence, or as NTP does."""
        self.now += seconds
        await self.scheduler.run_due()

    async def job(self, job: Job) -> Job:
        return await self.storage.jobs.get(job.task_id, job.id)

    async def executions(self, job: Job) -> list[Execution]:
        """Oldest first."""
        page = await self.storage.executions.of_job(job.id, PageRequest(size=100))
        return list(reversed(page.items))

    async def ticks(self, job: Job) -> list[float | None]:
        return [execution.tick for execution in await self.executions(job)]

    async def run_one(self) -> Execution:
        execution = await self.lifecycle.claim(FARM, "host")
        assert execution is not None
        return await self.lifecycle.started(execution, "run")

    async def end(self, execution: Execution, exit_code: int = 0) -> Execution:
        status = Status.DONE if exit_code == 0 else Status.FAILED
        return await self.lifecycle.finish(execution, Outcome(status, Reason.EXIT_CODE, exit_code))


NOON = utc("2026-03-10T12:00:30")


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    scene = Scene(tmp_path, NOON)
    await scene.storage.open()
    yield scene
    await scene.storage.close()


BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
EVERY_MINUTE = Schedule(cron="* * * * *")


async def test_a_cron_job_runs_once_at_each_tick(scene: Scene) -> None:
    job = await scene.submit(EVERY_MINUTE)
    assert job.next_run_at == utc("2026-03-10T12:01:00")
    await scene.pass_time(3 * MINUTE)
    assert await scene.ticks(job) == [utc(f"2026-03-10T12:0{minute}:00") for minute in (1, 2, 3)]
    # Ten seconds each, which is not late.
    assert [each.late_seconds for each in await scene.executions(job)] == [None] * 3
    assert (await scene.job(job)).next_run_at == utc("2026-03-10T12:04:00")


async def test_what_an_absence_missed_is_one_run_and_says_how_late(scene: Scene) -> None:
    job = await scene.submit(Schedule(cron="0 * * * *"))
    await scene.jump(3 * HOUR)
    (execution,) = await scene.executions(job)
    assert execution.tick == utc("2026-03-10T15:00:00")
    assert execution.late_seconds == pytest.approx(30)
    assert (await scene.job(job)).next_run_at == utc("2026-03-10T16:00:00")


async def test_a_missed_start_runs_once(scene: Scene) -> None:
    job = await scene.submit(Schedule(start_at=scene.now + MINUTE))
    await scene.jump(HOUR)
    await scene.jump(HOUR)
    (execution,) = await scene.executions(job)
    assert execution.late_seconds == pytest.approx(HOUR - MINUTE)
    assert not (await scene.job(job)).scheduled


async def test_the_clock_back_by_an_hour_repeats_no_tick(scene: Scene) -> None:
    """REGRESSIONS 17."""
    job = await scene.submit(EVERY_MINUTE)
    await scene.pass_time(3 * MINUTE)
    before = await scene.ticks(job)
    await scene.jump(-HOUR)
    await scene.pass_time(HOUR, step_seconds=30)
    ticks = await scene.ticks(job)
    assert ticks[: len(before)] == before
    assert len(set(ticks)) == len(ticks)


async def test_two_instances_make_one_execution_of_a_tick(scene: Scene) -> None:
    """REGRESSIONS 17: a tick belongs to whoever comes first."""
    job = await scene.submit(EVERY_MINUTE)
    scene.now += MINUTE
    answers = await asyncio.gather(
        *(scene.lifecycle.run_tick(job) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(answer, Execution) for answer in answers) == 1
    assert sum(isinstance(answer, CompareFailed) for answer in answers) == 4
    assert len(await scene.executions(job)) == 1


@pytest.mark.parametrize(
    ("cron", "timezone", "start", "expected"),
    [
        # Europe/Berlin skips 02:00-03:00 on 2026-03-29 and repeats it on 2026-10-25.
        ("30 2 * * *", BERLIN, "2026-03-28T12:00", ["2026-03-29T01:00", "2026-03-30T00:30"]),
        ("30 2 * * *", BERLIN, "2026-10-24T12:00", ["2026-10-25T00:30", "2026-10-26T01:30"]),
        ("0 9 * * 7", NEW_YORK, "2026-03-06T12:00", ["2026-03-08T13:00", "2026-03-15T13:00"]),
        ("0 0 29 2 *", "UTC", "2026-03-01T00:00", ["2028-02-29T00:00", "2032-02-29T00:00"]),
        ("0 0 31 * *", "UTC", "2026-03-01T00:00", ["2026-03-31T00:00", "2026-05-31T00:00"]),
    ],
)  # fmt: skip
async def test_zones_and_calendars(
    scene: Scene, cron: str, timezone: str, start: str, expected: list[str]
) -> None:
    scene.now = utc(start)
    job = await scene.submit(Schedule(cron=cron, timezone=timezone))
    ticks = []
    for _ in expected:
        job = await scene.job(job)
        assert job.next_run_at is not None
        ticks.append(job.next_run_at)
        scene.now = job.next_run_at
        await scene.scheduler.run_due()
    assert ticks == [utc(tick) for tick in expected]
    assert await scene.ticks(job) == ticks


async def test_overlap_allow_runs_every_tick(scene: Scene) -> None:
    job = await scene.submit(EVERY_MINUTE)
    await scene.pass_time(MINUTE)
    await scene.run_one()
    await scene.pass_time(MINUTE)
    await scene.run_one()
    statuses = [execution.status for execution in await scene.executions(job)]
    assert statuses == [Status.RUNNING, Status.RUNNING]


async def test_overlap_skip_leaves_a_tick_out(scene: Scene) -> None:
    job = await scene.submit(EVERY_MINUTE, overlap=Overlap.SKIP)
    await scene.pass_time(MINUTE)
    running = await scene.run_one()
    await scene.pass_time(2 * MINUTE)
    assert len(await scene.executions(job)) == 1
    await scene.end(running)
    await scene.pass_time(MINUTE)
    assert len(await scene.executions(job)) == 2


async def test_overlap_queue_runs_a_tick_after_the_one_before(scene: Scene) -> None:
    job = await scene.submit(EVERY_MINUTE, overlap=Overlap.QUEUE, max_waiting=2)
    await scene.pass_time(MINUTE)
    running = await scene.run_one()
    await scene.pass_time(2 * MINUTE)
    assert await scene.lifecycle.claim(FARM, "host") is None
    await scene.end(running)
    second = await scene.run_one()
    assert await scene.lifecycle.claim(FARM, "host") is None
    await scene.end(second)
    await scene.end(await scene.run_one())
    assert [e.status for e in await scene.executions(job)] == [Status.DONE] * 3


async def test_ticks_that_wait_beyond_the_bound_are_merged_into_the_newest(scene: Scene) -> None:
    job = await scene.submit(EVERY_MINUTE, overlap=Overlap.QUEUE)
    await scene.pass_time(MINUTE)
    first = await scene.run_one()
    with structlog.testing.capture_logs() as lines:
        await scene.pass_time(200 * MINUTE)
    assert sum("merged" in line["event"] for line in lines) == 199
    running, newest = await scene.executions(job)
    assert (running.id, newest.status) == (first.id, Status.ENQUEUED)
    assert newest.tick is not None
    stored = await scene.storage.jobs.get(job.task_id, job.id)
    assert stored.skipped_ticks == 199
    assert stored.last_skipped_tick == newest.tick - MINUTE
    await scene.end(first)
    assert (await scene.run_one()).id == newest.id


async def test_a_skipped_tick_is_counted(scene: Scene) -> None:
    job = await scene.submit(EVERY_MINUTE, overlap=Overlap.SKIP)
    await scene.pass_time(MINUTE)
    first = await scene.run_one()
    await scene.pass_time(2 * MINUTE)
    stored = await scene.storage.jobs.get(job.task_id, job.id)
    assert first.tick is not None
    assert (stored.skipped_ticks, stored.last_skipped_tick) == (2, first.tick + 2 * MINUTE)


async def test_an_execution_says_why_it_was_created(scene: Scene) -> None:
    job = await scene.submit(Schedule(), retries=1, rerun_when_lost=True)
    first = await scene.run_one()
    await scene.end(first, 1)
    await scene.pass_time(10)
    retry = await scene.run_one()
    await scene.lifecycle.finish(retry, Outcome(Status.FAILED, Reason.LOST))
    await scene.pass_time(10)
    rerun = await scene.run_one()
    await scene.end(rerun)
    await scene.lifecycle.retry_job(job.task_id, job.id)
    found = [(one.trigger, one.retry_of) for one in await scene.executions(job)]
    assert found == [
        (Trigger.SUBMIT, None),
        (Trigger.RETRY, first.id),
        (Trigger.LOST, retry.id),
        (Trigger.MANUAL, None),
    ]
    for cron, trigger in ((EVERY_MINUTE.cron, Trigger.CRON), (None, Trigger.SCHEDULE)):
        start_at = scene.now + 5 if cron is None else None
        ticked = await scene.submit(Schedule(cron=cron, start_at=start_at))
        await scene.pass_time(MINUTE)
        assert {one.trigger for one in await scene.executions(ticked)} == {trigger}
        await scene.lifecycle.stop_job(ticked.task_id, ticked.id)


async def test_a_stopped_cron_job_has_no_next_tick(scene: Scene) -> None:
    """REGRESSIONS 15."""
    job = await scene.submit(EVERY_MINUTE)
    await scene.pass_time(MINUTE)
    stopped = await scene.lifecycle.stop_job(job.task_id, job.id)
    assert not stopped.scheduled
    await scene.pass_time(3 * MINUTE)
    (execution,) = await scene.executions(job)
    assert (execution.status, execution.reason) == (Status.FAILED, Reason.STOPPED)


async def test_a_tick_that_was_read_before_a_stop_is_void(scene: Scene) -> None:
    """REGRESSIONS 2 and 15."""
    job = await scene.submit(EVERY_MINUTE)
    scene.now += MINUTE
    await scene.lifecycle.stop_job(job.task_id, job.id)
    with pytest.raises(CompareFailed):
        await scene.lifecycle.run_tick(job)
    assert await scene.executions(job) == []


async def test_a_replaced_cron_job_has_one_new_chain(scene: Scene) -> None:
    """REGRESSIONS 15."""
    job = await scene.submit(EVERY_MINUTE, job_id=new_id())
    again = await scene.submit(Schedule(cron="*/5 * * * *"), job_id=job.id)
    assert again.id == job.id
    assert again.queue_job_id != job.queue_job_id
    assert again.generation == job.generation + 1
    await scene.pass_time(11 * MINUTE)
    assert await scene.ticks(job) == [utc("2026-03-10T12:05:00"), utc("2026-03-10T12:10:00")]


async def test_retries_of_a_replaced_definition_are_void(scene: Scene) -> None:
    job = await scene.submit(Schedule(), job_id=new_id(), retries=3, backoff=Backoff(1000, 1, 1000))
    await scene.end(await scene.run_one(), exit_code=1)
    await scene.submit(Schedule(start_at=scene.now + HOUR), job_id=job.id)
    await scene.pass_time(MINUTE)
    assert await scene.lifecycle.claim(FARM, "host") is None


async def test_a_run_of_a_replaced_definition_is_not_retried(scene: Scene) -> None:
    job = await scene.submit(Schedule(), job_id=new_id(), retries=3)
    running = await scene.run_one()
    await scene.submit(Schedule(start_at=scene.now + HOUR), job_id=job.id)
    await scene.end(running, exit_code=1)
    assert len(await scene.executions(job)) == 1


async def test_retries_of_a_cron_job_count_per_tick(scene: Scene) -> None:
    job = await scene.submit(EVERY_MINUTE, retries=1, backoff=Backoff(1000, 1, 1000))
    for _ in range(2):
        await scene.pass_time(MINUTE)
        await scene.end(await scene.run_one(), exit_code=1)
        await scene.pass_time(10)
        await scene.end(await scene.run_one(), exit_code=1)
    assert [execution.attempt for execution in await scene.executions(job)] == [0, 1, 0, 1]


async def test_stop_racing_with_finish_stays_stopped(scene: Scene) -> None:
    """REGRESSIONS 16: the decision is made again with the stop in view."""
    await scene.submit(Schedule(), retries=5)
    running = await scene.run_one()
    await scene.lifecycle.stop_execution(running.task_id, running.job_id, running.id)
    ended = await scene.end(running, exit_code=1)
    assert (ended.status, ended.reason) == (Status.FAILED, Reason.STOPPED)
    job = await scene.storage.jobs.get(running.task_id, running.job_id)
    assert job.execution_count == 1


async def test_finish_is_refused_to_a_former_owner(scene: Scene) -> None:
    """REGRESSIONS 14."""
    await scene.submit(Schedule())
    running = await scene.run_one()
    other = Lifecycle(scene.storage, Bus(), clock=lambda: scene.now, farms=[FARM], instance="other")
    (adopted,) = await other.adopt(10)
    with pytest.raises(CompareFailed):
        await scene.end(running)
    assert (await other.finish(adopted, Outcome(Status.DONE, Reason.EXIT_CODE, 0))).final


async def test_an_execution_that_comes_too_late_expires(scene: Scene) -> None:
    job = await scene.submit(Schedule(), expires_at=scene.now + MINUTE)
    await scene.jump(MINUTE)
    assert await scene.lifecycle.claim(FARM, "host") is None
    (execution,) = await scene.executions(job)
    assert (execution.status, execution.reason) == (Status.EXPIRED, Reason.EXPIRED)


async def test_the_same_key_is_the_same_job(scene: Scene) -> None:
    """REGRESSIONS 18."""
    key = IdempotencyKey("key", "print")
    jobs = await asyncio.gather(*(scene.submit(Schedule(), key=key) for _ in range(5)))
    assert len({job.id for job in jobs}) == 1
    assert len(await scene.executions(jobs[0])) == 1
    with pytest.raises(Rejected):
        await scene.submit(Schedule(), key=IdempotencyKey("key", "another"))


async def test_a_task_that_no_farm_takes_is_refused(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path)
    await storage.open()
    picky = Lifecycle(
        storage, Bus(), clock=lambda: 0.0, farms=[Farm("a", ("h",), 1, "^a-")], instance="test"
    )
    with pytest.raises(Rejected, match="No farm matches"):
        await picky.submit(
            task_id="b-1",
            job_id=None,
            definition=Definition.parse(image="a", command="b"),
            schedule=Schedule(),
        )
    assert (await storage.overview()).tasks == 0
    await storage.close()


async def test_a_job_that_cannot_be_ticked_keeps_no_other_from_its_tick(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """REGRESSIONS 2, 11."""
    broken = await scene.submit(Schedule(cron="* * * * *", timezone="Europe/Lisbon"))
    well = await scene.submit(Schedule(cron="* * * * *"))
    read = policy.run_after

    def without_zone(schedule: Schedule, now: float) -> float | None:
        if schedule.timezone == "Europe/Lisbon":
            raise ValueError("no such zone on this machine any more")
        return read(schedule, now)

    monkeypatch.setattr(policy, "run_after", without_zone)
    scene.now += MINUTE
    with structlog.testing.capture_logs() as lines:
        await scene.scheduler.run_due()
    assert [line["job"] for line in lines if line["log_level"] == "warning"] == [broken.id]
    assert len(await scene.executions(well)) == 1


async def test_many_jobs_that_cannot_be_ticked_starve_no_other(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than one round takes, and all due before the one that is well."""
    monkeypatch.setattr("fastlane.background.scheduler.BATCH", 5)
    broken = [await scene.submit(EVERY_MINUTE, image="broken:1") for _ in range(12)]
    tick = scene.lifecycle.run_tick

    async def run_tick(job: Job) -> Execution | None:
        if str(job.definition.image) == "broken:1":
            raise ValueError("no such zone on this machine any more")
        return await tick(job)

    monkeypatch.setattr(scene.lifecycle, "run_tick", run_tick)
    scene.now += MINUTE / 2
    well = await scene.submit(Schedule(start_at=scene.now + MINUTE))
    scene.now += 2 * MINUTE
    while await scene.scheduler.run_due():
        pass
    assert len(await scene.executions(well)) == 1
    assert 0 < await scene.scheduler.step() < 1, "it does not spin on those that fail"
    monkeypatch.setattr(scene.lifecycle, "run_tick", tick)
    for job in broken:
        await scene.lifecycle.stop_job(job.task_id, job.id)
    while await scene.scheduler.run_due():
        pass
    assert not scene.scheduler._held_back, "jobs that are gone are forgotten"


async def test_ticks_that_are_due_together_are_committed_together(scene: Scene) -> None:
    """REGRESSIONS 17: many jobs of one minute do not wait for one fsync each."""
    jobs = await asyncio.gather(*(scene.submit(EVERY_MINUTE) for _ in range(100)))
    scene.now += MINUTE
    before = scene.storage.commits
    while await scene.scheduler.run_due():
        pass
    assert scene.storage.commits - before < 30
    for job in jobs:
        assert len(await scene.executions(job)) == 1


async def test_a_whole_round_of_ticks_is_under_way_before_the_first_is_stored(
    scene: Scene,
) -> None:
    """Otherwise the last ones of a minute are made one commit after another."""
    jobs = await asyncio.gather(*(scene.submit(EVERY_MINUTE) for _ in range(200)))
    scene.now += MINUTE
    asked = 0
    everyone = asyncio.Event()

    def gather_all(call: storage_calls.Call) -> storage_calls.Call:
        async def tick(*args: Any, **kwargs: Any) -> Any:
            nonlocal asked
            asked += 1
            if asked == len(jobs):
                everyone.set()
            async with asyncio.timeout(10):
                await everyone.wait()
            return await call(*args, **kwargs)

        return tick

    storage_calls.wrap(scene.storage, "jobs.tick", gather_all)
    await scene.scheduler.run_due()
    for job in jobs:
        assert len(await scene.executions(job)) == 1


async def test_the_tick_after_a_minute_is_computed_once_for_all_jobs_of_an_expression(
    scene: Scene,
) -> None:
    schedule = Schedule(cron="* 5-23,0-4 * * *")
    jobs = await asyncio.gather(*(scene.submit(schedule) for _ in range(50)))
    scene.now += MINUTE
    before = cron_module._next_tick.cache_info().misses
    await scene.scheduler.run_due()
    assert cron_module._next_tick.cache_info().misses == before + 1
    for job in jobs:
        assert len(await scene.executions(job)) == 1
