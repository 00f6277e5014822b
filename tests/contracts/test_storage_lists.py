"""What every storage promises of lists over all tasks."""

from __future__ import annotations

from dataclasses import fields
from itertools import cycle
from typing import Any

import pytest

from fastlane.errors import Rejected
from fastlane.model import (
    FINAL,
    Execution,
    Job,
    JobState,
    Outcome,
    Reason,
    Schedule,
    Status,
    Trigger,
)
from fastlane.storage import lists
from fastlane.storage.base import (
    ExecutionFilter,
    JobFilter,
    ListedJob,
    PageRequest,
    RunTimes,
    Storage,
)
from fastlane.storage.codec import words
from fastlane.storage.lists import id_prefix_of
from fastlane.storage.mongo import known as mongo_known
from fastlane.storage.sqlite import known as sqlite_known
from tests.contracts.test_storage import (
    NOW,
    claim,
    claimed,
    finish,
    make_execution,
    make_job,
    new_id,
    place,
    storage,
    submit,
)

__all__ = ["place", "storage"]


async def walk(storage: Storage, wanted: ExecutionFilter, size: int = 3) -> list[Execution]:
    """All that *wanted* names, page by page."""
    found: list[Execution] = []
    after = None
    for _ in range(10_000):
        page = await storage.lists.executions(wanted, size=size, after=after)
        assert len(page.items) <= size
        found += page.items
        after = page.next_cursor
        if after is None:
            return found
    raise AssertionError("the list does not end")


def matches(one: Execution, wanted: ExecutionFilter) -> bool:
    """The plain meaning of a filter."""
    return (
        wanted.task_id in {None, one.task_id}
        and one.task_id.startswith(wanted.task_prefix or "")
        and wanted.job_id in {None, one.job_id}
        and (not wanted.statuses or one.status in wanted.statuses)
        and (not wanted.reasons or one.reason in wanted.reasons)
        and (not wanted.triggers or one.trigger in wanted.triggers)
        and wanted.farm in {None, one.farm}
        and wanted.host in {None, one.host}
        and (wanted.since is None or one.created_at >= wanted.since)
        and (wanted.until is None or one.created_at < wanted.until)
        and (wanted.query is None or found_by(wanted.query, one))
    )


def found_by(query: str, one: Execution) -> bool:
    wanted, prefix = words(query), id_prefix_of(query)
    ids = one.id, one.job_id
    return (bool(wanted) and wanted <= words(one.task_id)) or (
        prefix is not None and any(each.startswith(prefix) for each in ids)
    )


ENDS = (
    Outcome(Status.DONE, Reason.EXIT_CODE, exit_code=0),
    Outcome(Status.FAILED, Reason.EXIT_CODE, exit_code=1),
    Outcome(Status.FAILED, Reason.OOM, exit_code=137),
    Outcome(Status.TIMEDOUT, Reason.TIMEOUT),
    None,
)


async def fill(storage: Storage, number: int = 60) -> list[Execution]:
    """Executions of several tasks, farms, hosts and triggers, in all statuses but expired."""
    outcomes, triggers, hosts = cycle(ENDS), cycle(Trigger), cycle(["one", "two", "three"])
    made = []
    for at in range(number):
        job = make_job(task_id=("alpha", "alpha-1", "beta", "gamma*")[at % 4])
        made.append(job)
        execution = make_execution(
            job,
            farm=("main", "other")[at % 7 == 0],
            trigger=next(triggers),
            # Several of one moment, and some of a clock that was set back.
            created_at=NOW + at // 3 - (20 if at % 11 == 0 else 0),
        )
        await storage.jobs.submit(job, execution)
    for farm in ("main", "other"):
        for _ in range(number * 3 // 4):
            taken = await storage.executions.claim(
                farm, host=next(hosts), owner="me", max_running=1000, now=NOW
            )
            outcome = next(outcomes)
            if taken is not None and outcome is not None:
                await finish(storage, taken, outcome)
    found: list[Execution] = []
    for job in made:
        found += (await storage.executions.of_job(job.id, PageRequest(size=100))).items
    return found


FILTERS: list[dict[str, Any]] = [
    {},
    {"task_id": "alpha"},
    {"task_id": "nobody"},
    {"task_prefix": "alpha"},
    {"task_prefix": "gamma*"},
    {"statuses": {Status.ENQUEUED}},
    {"statuses": {Status.PULLING}},
    {"statuses": {Status.ENQUEUED, Status.PULLING, Status.RUNNING}},
    {"statuses": FINAL},
    {"statuses": {Status.FAILED}},
    {"statuses": {Status.FAILED, Status.RUNNING, Status.PULLING}},
    {"reasons": {Reason.OOM}},
    {"reasons": {Reason.EXIT_CODE, Reason.TIMEOUT}},
    {"reasons": {Reason.OOM}, "statuses": {Status.ENQUEUED}},
    {"triggers": {Trigger.MANUAL}},
    {"triggers": {Trigger.CRON, Trigger.RETRY}},
    {"farm": "other"},
    {"farm": "nowhere"},
    {"host": "two"},
    {"host": "two", "farm": "main"},
    {"since": NOW + 7},
    {"until": NOW + 7},
    {"since": NOW + 3, "until": NOW + 9},
    {"task_id": "beta", "statuses": {Status.DONE}},
    {"task_id": "beta", "statuses": {Status.ENQUEUED}},
    {"task_id": "beta", "since": NOW + 5},
    {"statuses": {Status.FAILED}, "since": NOW + 5},
    {"statuses": {Status.FAILED}, "task_prefix": "alp", "triggers": {Trigger.CRON}},
    {"farm": "main", "triggers": {Trigger.CRON}, "until": NOW + 12},
]


async def test_each_filter_is_a_plain_filter(storage: Storage) -> None:
    there = await fill(storage)
    some = there[7]
    queries: list[dict[str, Any]] = [
        {"query": "alpha"},
        {"query": "1 ALPHA"},
        {"query": "alph"},
        {"query": "--"},
        {"query": some.id[:9].upper()},
        {"query": some.job_id},
        {"query": some.job_id[:6], "task_id": some.task_id},
        {"query": some.job_id[:6], "task_id": "nobody"},
        {"query": "alpha", "statuses": {Status.FAILED, Status.ENQUEUED}, "since": NOW + 4},
        {"query": "gamma", "task_id": "gamma*", "farm": "other"},
        {"query": "gamma", "job_id": some.job_id},
    ]
    assert {one.status for one in there} >= {Status.ENQUEUED, Status.PULLING, *FINAL} - {
        Status.EXPIRED
    }
    for given in [*FILTERS, *queries]:
        fields: dict[str, Any] = {
            name: frozenset(value) if isinstance(value, (set, frozenset)) else value
            for name, value in given.items()
        }
        wanted = ExecutionFilter(**fields)
        found = await walk(storage, wanted)
        expected = [one for one in there if matches(one, wanted)]
        assert len(found) == len(expected), wanted
        assert {one.id for one in found} == {one.id for one in expected}, wanted
        times = [one.created_at for one in found]
        assert times == sorted(times, reverse=True), wanted
        page = await storage.lists.executions(wanted, size=3)
        if page.total is not None:
            assert (page.total, page.total_is_lower_bound) == (len(expected), False), wanted


async def test_queries_that_match_much(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than is merged or sorted: then records are looked at."""
    there = await fill(storage)
    some = there[7]
    for known in (sqlite_known, mongo_known):
        monkeypatch.setattr(known, "MOST_MERGED", 0)
        monkeypatch.setattr(known, "MOST_SORTED", 1)
    monkeypatch.setattr(lists, "MOST_SORTED", 0)
    for wanted in (
        ExecutionFilter(query="alpha"),
        ExecutionFilter(query="1 alpha", statuses=frozenset({Status.DONE})),
        ExecutionFilter(query=some.job_id[:8]),
        ExecutionFilter(query=some.id[:8]),
        ExecutionFilter(task_prefix="alpha"),
        ExecutionFilter(task_prefix="alpha", statuses=frozenset({Status.FAILED})),
    ):
        found = await walk(storage, wanted)
        expected = {one.id for one in there if matches(one, wanted)}
        assert len(found) == len(expected), wanted
        assert {one.id for one in found} == expected
    for known in (sqlite_known, mongo_known):
        monkeypatch.setattr(known, "MOST_OF_PREFIX", 0)
    with pytest.raises(Rejected, match="beginning of too many ids"):
        await storage.lists.executions(ExecutionFilter(query=some.id[:8]), size=5)


async def test_tasks_of_a_beginning_are_merged(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they have too many executions to be sorted, and are few: then pages are full."""
    there = await fill(storage)
    for known in (sqlite_known, mongo_known):
        monkeypatch.setattr(known, "MOST_SORTED", 1)
    for given in ({}, {"statuses": frozenset({Status.FAILED})}, {"since": NOW + 5}):
        wanted = ExecutionFilter(task_prefix="alpha", **given)
        expected = {one.id for one in there if matches(one, wanted)}
        page = await storage.lists.executions(wanted, size=3)
        assert (len(page.items), page.total) == (3, len(expected))
        found = await walk(storage, wanted)
        assert {one.id for one in found} == expected
        assert len(found) == len(expected)


async def test_the_executions_of_a_job_are_in_their_order(storage: Storage) -> None:
    job = make_job()
    await storage.jobs.submit(job, make_execution(job))
    for at in range(5):
        await claim(storage)
        last = await storage.executions.last_of_job(job.id)
        assert last is not None
        await finish(storage, last)
        await storage.jobs.retry(job, make_execution(job, created_at=NOW - at), now=NOW)
    found = await walk(storage, ExecutionFilter(job_id=job.id), 2)
    assert [one.number for one in found] == [6, 5, 4, 3, 2, 1]
    done = ExecutionFilter(job_id=job.id, statuses=frozenset({Status.DONE}), since=NOW - 2)
    assert [one.number for one in await walk(storage, done, 2)] == [4, 3, 2, 1]


async def test_a_cursor_of_another_list_is_refused(storage: Storage) -> None:
    for after in ("", "x", "7", "1.5_", "1e5_3", "1.0_2_3"):
        with pytest.raises(Rejected, match="not a cursor"):
            await storage.lists.executions(ExecutionFilter(), size=1, after=after)
    with pytest.raises(Rejected, match="not a cursor"):
        await storage.lists.executions(ExecutionFilter(job_id=new_id()), size=1, after="1.0_2")


async def test_when_an_execution_joined_the_queue(storage: Storage) -> None:
    job = make_job()
    at_once = await submit(storage, job=job, created_at=NOW)
    assert at_once.queued_at == NOW
    delayed = await submit(storage, due_at=NOW + 5)
    waits = await submit(storage, waits_for=at_once.id)
    assert (delayed.queued_at, waits.queued_at) == (None, None)
    await storage.executions.queue_due(NOW + 6, 10)
    assert (await storage.executions.get(delayed.id)).queued_at == NOW + 6
    taken = await claimed(storage)
    await finish(storage, taken, finished_at=NOW + 8)
    assert (await storage.executions.get(waits.id)).queued_at == NOW + 8
    taken = await claimed(storage)
    await storage.executions.release(taken.id, taken.epoch, now=NOW + 9)
    assert (await storage.executions.get(taken.id)).queued_at == NOW + 6


async def test_the_newest_execution_of_tasks_and_jobs(storage: Storage) -> None:
    there = await fill(storage)
    names = ["alpha", "beta", "nobody", "gamma*"]
    found = await storage.lists.last_of_tasks(names)
    assert found.keys() == set(names) - {"nobody"}
    for name, last in found.items():
        assert last.created_at == max(one.created_at for one in there if one.task_id == name)
    job = make_job()
    await storage.jobs.submit(job, make_execution(job))
    await finish(storage, await claimed(storage, max_running=1000))
    other = await storage.executions.last_of_job(job.id)
    again = await storage.jobs.retry(job, make_execution(job), now=NOW)
    known = await storage.lists.last_of_jobs([job.id, there[0].job_id, new_id()])
    assert {one.id for one in known.values()} == {again.id, there[0].id}
    assert other is not None


async def test_the_names_of_jobs(storage: Storage) -> None:
    named, plain = make_job(name="nightly"), make_job()
    for job in (named, plain):
        await storage.jobs.submit(job, make_execution(job))
    ids = [named.id, plain.id, new_id()]
    assert await storage.lists.names_of_jobs(ids) == {named.id: "nightly"}
    assert await storage.lists.names_of_jobs([]) == {}


async def test_what_was_deleted_is_not_in_lists(storage: Storage) -> None:
    """Before it is removed: neither counted, nor in the place of another on a page."""
    there = await fill(storage)
    deleted: set[str] = set()
    for one in there[::3]:
        await storage.deletions.execution(one.task_id, one.job_id, one.id, force=True, now=NOW)
        deleted.add(one.id)
    for one in there[1::3]:
        await storage.deletions.job(one.task_id, one.job_id, force=True, now=NOW)
        deleted.add(one.id)
    left = [await storage.executions.get(one.id) for one in there[2::3]]
    for given in FILTERS:
        fields: dict[str, Any] = {
            name: frozenset(value) if isinstance(value, (set, frozenset)) else value
            for name, value in given.items()
        }
        wanted = ExecutionFilter(**fields)
        expected = [one.id for one in left if matches(one, wanted)]
        page = await storage.lists.executions(wanted, size=4)
        assert len(page.items) == min(4, len(expected)), wanted
        assert page.total in {None, len(expected)}, wanted
        assert sorted(one.id for one in await walk(storage, wanted)) == sorted(expected), wanted
    page = await storage.lists.executions(ExecutionFilter(), size=4)
    assert (page.total, page.total_is_lower_bound) == (len(left), False)
    tasks = {one.task_id for one in left}
    last = await storage.lists.last_of_tasks(sorted(tasks))
    assert last.keys() == tasks
    assert not {one.id for one in last.values()} & deleted
    assert {one.created_at for one in last.values()} == {
        max(one.created_at for one in left if one.task_id == task_id) for task_id in tasks
    }
    times = await storage.lists.times_of_task("beta", 100)
    assert len(times) == sum(one.task_id == "beta" for one in left)
    active = await storage.lists.jobs(JobFilter(state=JobState.ACTIVE), size=100)
    assert active.total == len(active.items)


async def test_no_total_while_many_are_hidden(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would read too much."""
    monkeypatch.setattr(lists, "MOST_COUNTED", 1)
    first, *others = await fill(storage, 6)
    await storage.deletions.job(first.task_id, first.job_id, force=True, now=NOW)
    assert (await storage.lists.executions(ExecutionFilter(), size=1)).total is not None
    for one in others[:2]:
        await storage.deletions.execution(one.task_id, one.job_id, one.id, force=True, now=NOW)
    page = await storage.lists.executions(ExecutionFilter(), size=9)
    assert (page.total, len(page.items)) == (None, 3)


def job_found_by(query: str, job: Job) -> bool:
    wanted, prefix = words(query), id_prefix_of(query)
    return (bool(wanted) and wanted <= words(job.task_id)) or (
        prefix is not None and job.id.startswith(prefix)
    )


async def walk_jobs(storage: Storage, wanted: JobFilter, size: int = 2) -> list[ListedJob]:
    found: list[ListedJob] = []
    after = None
    for _ in range(1000):
        page = await storage.lists.jobs(wanted, size=size, after=after)
        assert len(page.items) <= size
        found += page.items
        after = page.next_cursor
        if after is None:
            return found
    raise AssertionError("the list does not end")


async def test_jobs_by_state_and_kind(storage: Storage) -> None:
    cron, once = Schedule(cron="* * * * *"), Schedule()
    states: dict[str, str] = {}

    async def add(name: str, state: JobState, schedule: Schedule, **fields: Any) -> Job:
        job = make_job(name, schedule=schedule, **fields)
        states[job.id] = state
        await storage.jobs.submit(job, None)
        return job

    ticking = await add("a", JobState.SCHEDULED, cron, next_run_at=NOW + 60)
    await add("a-2", JobState.SCHEDULED, once, next_run_at=NOW + 60)
    paused = await add("a", JobState.PAUSED, cron, next_run_at=NOW + 60)
    await storage.jobs.reschedule(paused, paused_at=NOW, next_run_at=None, now=NOW)
    stopped = await add("b", JobState.STOPPED, cron, next_run_at=NOW + 60)
    await storage.jobs.stop("b", stopped.id, now=NOW)
    await add("b", JobState.IDLE, once)
    for state in (JobState.ACTIVE, JobState.ACTIVE, JobState.IDLE):
        job = make_job("a")
        states[job.id] = state
        await storage.jobs.submit(job, make_execution(job))
    busy = make_execution(ticking, tick=NOW)
    await storage.jobs.tick(ticking, busy, next_run_at=NOW + 120, now=NOW)
    states[ticking.id] = JobState.ACTIVE
    done = [one for one, state in states.items() if state is JobState.IDLE][-1]
    for _ in range(3):
        taken = await claimed(storage)
        if taken.job_id == done:
            await finish(storage, taken)

    everything = await walk_jobs(storage, JobFilter())
    assert [one.job.id for one in everything] == list(states)[::-1]
    assert {one.job.id: one.state for one in everything} == states
    for wanted in (
        *(JobFilter(state=state) for state in JobState),
        *(JobFilter(is_cron=is_cron) for is_cron in (True, False)),
        *(JobFilter(task_id=name) for name in ("a", "b", "nobody")),
        JobFilter(task_prefix="a"),
        JobFilter(task_id="a", state=JobState.ACTIVE),
        JobFilter(task_prefix="a", state=JobState.SCHEDULED, is_cron=False),
        JobFilter(state=JobState.ACTIVE, is_cron=True),
        JobFilter(query="a"),
        JobFilter(query="2 a", state=JobState.SCHEDULED),
        JobFilter(query=paused.id[:8]),
        JobFilter(query="?"),
    ):
        expected = [
            one
            for one in everything
            if wanted.state in {None, one.state}
            and wanted.is_cron in {None, one.job.schedule.cron is not None}
            and wanted.task_id in {None, one.job.task_id}
            and one.job.task_id.startswith(wanted.task_prefix or "")
            and (wanted.query is None or job_found_by(wanted.query, one.job))
        ]
        assert await walk_jobs(storage, wanted) == expected, wanted
        page = await storage.lists.jobs(wanted, size=3)
        assert page.total in {None, len(expected)}, wanted
    with pytest.raises(Rejected, match="not a cursor"):
        await storage.lists.jobs(JobFilter(), size=1, after="1.5_2")


async def test_the_times_of_a_task(storage: Storage) -> None:
    there = [one for one in await fill(storage) if one.task_id == "beta"]
    there.sort(key=lambda one: one.created_at, reverse=True)
    found = await storage.lists.times_of_task("beta", 5)
    names = [one.name for one in fields(RunTimes)]
    assert len(found) == 5
    assert [one.created_at for one in found] == [one.created_at for one in there[:5]]
    everything = await storage.lists.times_of_task("beta", 1000)
    assert sorted(map(repr, everything)) == sorted(
        repr(RunTimes(**{name: getattr(one, name) for name in names} | {"status": str(one.status)}))
        for one in there
    )
