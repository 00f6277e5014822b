"""Jobs from Python: submitted, read, waited for, stopped, retried."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from fastlane import __version__
from fastlane_client import (
    AsyncClient,
    BadRequest,
    Conflict,
    Execution,
    JobFailed,
    NotFinished,
    NotFound,
    NothingToFollow,
    Reason,
    Status,
)
from fastlane_client.payload import payload_of
from tests.api.conftest import MakeSite
from tests.api.http_site import PAYLOAD, Site
from tests.client.styles import Style


async def test_a_job_is_submitted_waited_for_and_read(site: Site, style: Style) -> None:
    site.executor.instant = True
    async with style.client(site.base) as client:
        run = await style.call(client.submit, "my task", envs={"A": "b"}, **PAYLOAD)
        ended = await style.call(run.wait)
        job = await style.call(client.job, "my task", run.job_id)
    assert ended.execution_id == run.execution_id
    assert (ended.status, ended.exit_code, ended.reason) == (Status.DONE, 0, Reason.EXIT_CODE)
    assert ended.started_at is not None
    assert ended.started_at.tzinfo is UTC
    assert ended.metadata.envs == {"A": "b"}
    assert ended.raw["exitCode"] == 0
    assert [one.execution_id for one in job.executions] == [run.execution_id]


async def test_a_failure_is_an_exception_with_the_end_of_the_log(site: Site, style: Style) -> None:
    async with style.client(site.base) as client:
        run = await style.call(client.submit, "t", **PAYLOAD)
        fake = await site.executor.started(run.execution_id)
        fake.output.append(b"broken\n")
        fake.end(3)
        with pytest.raises(JobFailed, match=r"^Failed with exit code 3\.$") as failure:
            await style.call(run.wait, timeout=20)
        unchecked = await style.call(run.wait, check=False)
    assert failure.value.exit_code == 3
    assert failure.value.reason is Reason.EXIT_CODE
    assert failure.value.log_tail == "out\nbroken\n\n-=-\n"
    assert failure.value.execution == unchecked


async def test_waiting_goes_through_the_retries(site: Site, style: Style) -> None:
    async with style.client(site.base) as client:
        backoff = {"minMs": 0, "factor": 1, "maxMs": 0}
        run = await style.call(client.submit, "t", retries=1, backoff=backoff, **PAYLOAD)
        (await site.executor.started(run.execution_id)).end(1)
        only = client.run("t", run.job_id, run.execution_id)
        first: Execution = await style.call(only.wait, timeout=20, check=False)
        assert first.retry is not None
        assert first.retry.attempt == 1
        (await site.executor.started(first.retry.execution_id)).end(0)
        ended = await style.call(run.wait, timeout=20)
    assert (first.status, ended.status, ended.attempt) == (Status.FAILED, Status.DONE, 1)
    assert ended.execution_id == first.retry.execution_id


async def test_waiting_has_a_bound(site: Site, style: Style) -> None:
    async with style.client(site.base) as client:
        run = await style.call(client.submit, "t", **PAYLOAD)
        with pytest.raises(NotFinished):
            await style.call(run.wait, timeout=0)
        await style.call(run.stop)
        with pytest.raises(JobFailed, match="stopped"):
            await style.call(run.wait, timeout=20)
        again = await style.call(run.retry)
        assert again.execution_id != run.execution_id


async def test_a_scheduled_job_has_no_execution_yet(still: Site, style: Style) -> None:
    async with style.client(still.base) as client:
        run = await style.call(client.submit, "t", start_in=timedelta(hours=1), **PAYLOAD)
        assert run.execution_id is None
        assert (await style.call(run.job)).next_scheduled_at > datetime.now(UTC)
        with pytest.raises(NotFinished):
            await style.call(run.wait, timeout=0)
        await style.call(run.stop)
        with pytest.raises(NothingToFollow):
            await style.call(run.wait)


async def test_lists_are_iterated_over_page_by_page(still: Site, style: Style) -> None:
    async with style.client(still.base) as client:
        for number in range(5):
            run = await style.call(client.submit, f"t{number}", **PAYLOAD)
        for _ in range(4):
            await style.call(client.submit, "t4", **PAYLOAD)
        tasks = await style.list(client.tasks, per_page=2)
        jobs = await style.list(client.task_jobs, "t4", per_page=2)
        found = await style.list(client.search_tasks, "t3")
        executions = await style.list(client.job_executions, "t4", run.job_id)
    assert {one.task_id for one in tasks} == {f"t{number}" for number in range(5)}
    assert len(jobs) == 5
    assert [one.task_id for one in found] == ["t3"]
    assert [one.execution_id for one in executions] == [run.execution_id]


async def test_put_replaces_a_job(still: Site, style: Style) -> None:
    async with style.client(still.base) as client:
        run = await style.call(client.submit, "t", **PAYLOAD)
        other = {"image": "busy:2", "command": ["a b"]}
        again = await style.call(client.submit_payload, "t", other, job=run.job_id)
        job = await style.call(again.job)
    assert again.job_id == run.job_id
    assert (job.image, job.command) == ("busy:2", ("a b",))


async def test_refusals_tell_every_fault(still: Site, style: Style) -> None:
    async with style.client(still.base) as client:
        with pytest.raises(BadRequest) as refused:
            await style.call(client.submit, "t", image="!", command="x", retries=-1)
        with pytest.raises(NotFound, match='There is no task "none"'):
            await style.call(client.task, "none")
    assert [fault.pointer for fault in refused.value.faults] == ["/image", "/retries"]
    assert refused.value.request_id
    assert str(refused.value).splitlines()[0].endswith("answers 400: The payload has 2 errors.")


async def test_the_server_is_asked(still: Site, style: Style) -> None:
    async with style.client(still.base) as client:
        assert (await style.call(client.health)).mongo
        status = await style.call(client.status)
        assert [host.host for host in status.hosts] == ["localhost"]
        await style.call(client.drain, "localhost:1234")
        assert await style.call(client.drained) == ("tcp://localhost:1234",)
        await style.call(client.undrain, "localhost:1234")
        assert await style.call(client.drained) == ()
        assert await style.list(client.notifications, "failed") == []
        assert "paths" in await style.call(client.openapi)
        reply = await style.call(client.api, "GET", "/tasks/?perPage=1")
        assert reply.status == 200


async def test_what_has_run_is_deleted(site: Site, style: Style) -> None:
    async with style.client(site.base) as client:
        run = await style.call(client.submit, "t", **PAYLOAD)
        await site.executor.started(run.execution_id)
        with pytest.raises(Conflict):
            await style.call(run.delete)
        await style.call(run.delete, force=True)
        with pytest.raises(NotFound):
            await style.call(run.delete)
        await style.call(client.run("t", run.job_id).delete, force=True)
        await style.call(client.submit, "t", **PAYLOAD)
        await style.call(client.delete_task, "t", force=True)
        assert await style.list(client.tasks) == []


async def test_a_job_is_paused_and_run_with_a_difference(site: Site, style: Style) -> None:
    site.executor.instant = True
    async with style.client(site.base) as client:
        cron = await style.call(client.submit, "t", cron="0 3 * * *", **PAYLOAD)
        await style.call(cron.pause)
        assert (await style.call(cron.job)).next_scheduled_at is None
        once = await style.call(cron.run_now, {"command": ["echo", "other"]})
        ended = await style.call(once.wait)
        again = await style.call((await style.call(once.rerun)).wait)
        await style.call(cron.resume)
        assert (await style.call(cron.job)).next_scheduled_at is not None
    assert ended.command == again.command == ("echo", "other")


def test_times_and_durations_of_a_payload() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    found = payload_of(
        "x", ("a", "b"), start_at=at, start_in=1.2, timeout=timedelta(minutes=5), extra={"new": 1}
    )
    assert found == {
        "image": "x",
        "command": ["a", "b"],
        "startAt": 1767225600.0,
        "startIn": "2s",
        "timeout": 300.0,
        "new": 1,
    }
    with pytest.raises(ValueError, match="ambiguous"):
        payload_of("x", "a", start_at=at.replace(tzinfo=None))


async def test_the_server_tells_its_version_to_those_who_may_read(make_site: MakeSite) -> None:
    site = await make_site(
        still=True, basic_auth_user="me", basic_auth_password="hunter2hunter2hunter2"
    )
    assert "Fastlane-Version" not in (await site.get("/healthcheck/")).headers
    assert "Fastlane-Version" not in (await site.get("/tasks/")).headers
    url = site.base.replace("//", "//me:hunter2hunter2hunter2@")
    async with AsyncClient(url) as client:
        reply = await client.api("GET", "/tasks/")
    assert reply.headers["fastlane-version"] == __version__
