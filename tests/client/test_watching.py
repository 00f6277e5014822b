"""Lists, events and hosts from Python."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from fastlane_client import Conflict, JobFailed, Status, Trigger
from tests.api.http_site import PAYLOAD, Site
from tests.client.styles import Style


async def test_executions_are_listed_across_tasks(site: Site, style: Style) -> None:
    site.executor.instant = True
    async with style.client(site.base) as client:
        for task in ("billing-eu", "billing-us", "other"):
            await style.call((await style.call(client.submit, task, **PAYLOAD)).wait)
        since = datetime.now(UTC) - timedelta(hours=1)
        found = await style.list(
            client.executions, task="billing-*", status=["done", "failed"], since=since, per_page=1
        )
        none = await style.list(client.executions, status="failed")
        jobs = await style.list(client.jobs, task="billing-*", state="idle", kind="once")
        stats = await style.call(client.stats, since="24h", step="1h")
    assert {one.task_id for one in jobs} == {"billing-eu", "billing-us"}
    assert jobs[0].last_execution.status is Status.DONE
    assert (stats.step, len(stats.items) > 20) == ("1h", True)
    assert [one.task_id for one in found] == ["billing-us", "billing-eu"]
    assert found[0].status is Status.DONE
    assert found[0].trigger is Trigger.SUBMIT
    assert none == []


async def test_events_are_followed_from_a_cursor(site: Site, style: Style) -> None:
    site.executor.instant = True
    async with style.client(site.base) as client:
        start = await style.call(client.events_cursor)
        run = await style.call(client.submit, "t", **PAYLOAD)
        await style.call(run.wait)
        seen = []
        async for event in style.iterate(client.events, after=start, task="t"):
            seen.append(event)
            if event.type == "execution.done":
                break
        rest = await style.list(client.events, after=seen[-1].cursor, follow=False)
        ends = await style.list(
            client.events,
            after=start,
            type=["execution.*"],
            execution=run.execution_id,
            follow=False,
        )
    assert [one.type for one in seen][:2] == ["job.created", "execution.enqueued"]
    assert seen[-1].execution_id == run.execution_id
    assert seen[-1].exit_code == 0
    assert [one for one in rest if one.task_id == "t"] == []
    assert {one.type for one in ends} >= {"execution.running", "execution.done"}


async def test_hosts_and_metrics(still: Site, style: Style) -> None:
    async with style.client(still.base) as client:
        (farm,) = await style.call(client.hosts)
        assert [host.host for host in farm.hosts] == ["tcp://localhost:1234"]
        assert farm.hosts[0].drained is False
        assert "fastlane_build_info" in await style.call(client.metrics)


async def test_a_plan_stores_nothing(still: Site, style: Style) -> None:
    async with style.client(still.base) as client:
        plan = await style.call(client.plan, "t", {**PAYLOAD, "cron": "0 3 * * *"})
        assert len(plan.next_runs) == 5
        assert plan.next_runs[0].hour == 3
        assert await style.list(client.tasks) == []


async def test_many_executions_are_stopped_at_once(site: Site, style: Style) -> None:
    async with style.client(site.base) as client:
        runs = [await style.call(client.submit, "billing", **PAYLOAD) for _ in range(2)]
        await style.call(client.submit, "other", **PAYLOAD)
        which = {"task": "billing"}
        planned = await style.call(client.stop_all, which, dry_run=True)
        with pytest.raises(Conflict):
            await style.call(client.stop_all, which, dry_run=False, expected=7)
        done = await style.call(client.stop_all, which, dry_run=False, expected=2)
        for run in runs:
            with pytest.raises(JobFailed, match="stopped"):
                await style.call(run.wait, timeout=20)
    assert (planned.matched, done.matched, done.changed) == (2, 2, 2)
    assert len(done.executions) == 2
