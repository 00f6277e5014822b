"""Stop, retry, PUT and Idempotency-Key: in every status, repeated, and racing with each other."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest

from fastlane.api.streaming.encoded import time_text
from fastlane.model import Execution, Reason
from tests.api.conftest import MakeSite
from tests.api.http_site import PAYLOAD, Answer, Site
from tests.eventually import eventually
from tests.fakes import MemoryExecutor, SlowPull

FINAL = ("done", "failed", "timedout", "expired")
NEVER = {"cron": "0 0 1 1 *"}


async def executions(site: Site, created: dict[str, Any]) -> list[dict[str, Any]]:
    """Of a job, newest first."""
    found: list[dict[str, Any]] = (await site.get(created["jobUrl"])).json["job"]["executions"]
    return found


async def job_of(site: Site, created: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = (await site.get(created["jobUrl"])).json["job"]
    return found


async def settled(site: Site, created: dict[str, Any], unfinished: int) -> list[dict[str, Any]]:
    """The executions, once exactly so many of them are not final, all of which run."""

    async def probe() -> list[dict[str, Any]] | None:
        found = await executions(site, created)
        rest = [each for each in found if each["status"] not in FINAL]
        over = len(rest) == unfinished and all(each["status"] == "running" for each in rest)
        return found if over else None

    return await eventually(probe, f"{unfinished} unfinished executions")


# -- stop -----------------------------------------------------------------------------------------


async def stop_both_ways(site: Site, created: dict[str, Any]) -> tuple[Answer, ...]:
    return (
        await site.post(f"{created['executionUrl']}stop"),
        await site.post(f"{created['executionUrl']}stop/"),
        await site.post(f"{created['jobUrl']}stop"),
        await site.post(f"{created['jobUrl']}stop/"),
    )


@pytest.mark.parametrize("route", ["executionUrl", "jobUrl"])
async def test_stop_enqueued(still: Site, route: str) -> None:
    """Regression 26: ends at once, as failed with reason stopped, and is never run."""
    created = await still.submit(retries=3)
    first = await still.post(f"{created[route]}stop")
    shown = await still.execution(created)
    assert (shown["status"], shown["reason"]) == ("failed", "stopped")
    assert shown["exitCode"] is None
    assert shown["startedAt"] is None
    assert shown["finishedAt"] is not None
    assert shown["error"]
    again = await still.post(f"{created[route]}stop")
    assert first.json == again.json
    assert await still.execution(created) == shown
    assert len(await executions(still, created)) == 1


@pytest.mark.parametrize("route", ["executionUrl", "jobUrl"])
async def test_stop_pulling(make_site: MakeSite, route: str) -> None:
    """Regression 26."""
    executor = SlowPull()
    site = await make_site(executor=executor)
    created = await site.submit(retries=3)
    await executor.pulling.wait()
    assert (await site.execution(created))["status"] == "pulling"
    for _ in range(2):
        assert (await site.post(f"{created[route]}stop")).status == 200
    shown = await site.status(created, *FINAL)
    assert (shown["status"], shown["reason"]) == ("failed", "stopped")
    executor.go_on.set()
    assert executor.calls["create"] == 0
    assert len(await executions(site, created)) == 1


@pytest.mark.parametrize("route", ["executionUrl", "jobUrl"])
async def test_stop_running(site: Site, route: str) -> None:
    """Regression 16: no retry follows; the log that was written stays (regression 28)."""
    created = await site.submit(retries=3)
    await site.run_of(created)
    for _ in range(2):
        assert (await site.post(f"{created[route]}stop")).status == 200
    shown = await site.status(created, *FINAL)
    assert (shown["status"], shown["reason"], shown["exitCode"]) == ("failed", "stopped", 143)
    assert shown["log"] == "out\n"
    assert len(await executions(site, created)) == 1
    for answer in await stop_both_ways(site, created):
        assert answer.status == 200
    assert await site.execution(created) == shown


@pytest.mark.parametrize(("exit_code", "status"), [(0, "done"), (7, "failed")])
async def test_stop_final(site: Site, exit_code: int, status: str) -> None:
    created = await site.submit()
    (await site.run_of(created)).end(exit_code)
    shown = await site.status(created, status)
    for answer in await stop_both_ways(site, created):
        assert answer.status == 200
    assert await site.execution(created) == shown


async def test_stop_expired(still: Site) -> None:
    created = await still.submit(expiration=1)
    await still.server.lifecycle.expire_due(10)
    shown = await still.execution(created)
    assert (shown["status"], shown["reason"], shown["exitCode"]) == ("expired", "expired", None)
    assert shown["error"]
    for answer in await stop_both_ways(still, created):
        assert answer.status == 200
    assert await still.execution(created) == shown
    answer = await still.get(f"{created['executionUrl']}logs")
    assert answer.headers["Fastlane-Status"] == "expired"
    assert "Fastlane-Exit-Code" not in answer.headers


@pytest.mark.parametrize("route", ["waiting", "executionUrl", "jobUrl"])
async def test_stop_while_a_retry_waits(site: Site, route: str) -> None:
    """ "Stop of an execution stops that run and its retries": also the one that is not due yet."""
    created = await site.submit(retries=3, backoff={"minMs": 600_000, "maxMs": 600_000})
    (await site.run_of(created)).end(1)
    await site.status(created, "failed")
    waiting, _ = await executions(site, created)
    assert (waiting["status"], waiting["metadata"]["attempt"]) == ("enqueued", 1)
    url = waiting["url"] if route == "waiting" else created[route]
    assert (await site.post(f"{url}stop")).status == 200
    stopped, first = await executions(site, created)
    assert (stopped["status"], stopped["reason"]) == ("failed", "stopped")
    assert first["reason"] == "exit-code"
    assert (await site.counts()).delayed == 0


async def test_stop_scheduled(still: Site) -> None:
    for when in ({"startIn": "5m"}, NEVER):
        created = await still.submit(**when)
        assert (await job_of(still, created))["scheduled"]
        for _ in range(2):
            assert (await still.post(f"{created['jobUrl']}stop/")).status == 200
        job = await job_of(still, created)
        assert (job["scheduled"], job["nextScheduledAt"]) == (False, None)
        assert job["stoppedAt"] is not None
        assert job["executionCount"] == 0
    assert (await still.get("/status")).json["jobs"]["scheduled"] == []


async def test_stop_of_an_execution_leaves_the_schedule(still: Site) -> None:
    created = await still.submit(**NEVER)
    job = await still.storage.jobs.get("tests", created["jobId"])
    execution = await still.server.lifecycle.run_tick(job)
    assert execution is not None
    before = await job_of(still, created)
    assert (await still.post(f"{created['jobUrl']}executions/{execution.id}/stop")).status == 200
    after = await job_of(still, created)
    assert after["executions"][0]["reason"] == "stopped"
    assert after["scheduled"]
    assert after["nextScheduledAt"] == before["nextScheduledAt"]


async def test_ticks_that_were_skipped_are_in_the_details(still: Site) -> None:
    created = await still.submit(cron="* * * * *", overlap="queue", maxWaiting=2)
    details = await job_of(still, created)
    assert (details["skippedTicks"], details["lastSkippedTick"]) == (0, None)
    assert details["metadata"]["maxWaiting"] == 2
    ticks = []
    for _ in range(5):
        job = await still.storage.jobs.get("tests", created["jobId"])
        tick = job.next_run_at
        assert tick is not None
        ticks.append(tick)
        await still.storage.jobs.tick(
            job,
            Execution(
                id=str(uuid.uuid4()),
                task_id=job.task_id,
                job_id=job.id,
                definition=job.definition,
                farm="default",
                created_at=tick,
                queue_job_id=job.queue_job_id,
                tick=tick,
            ),
            next_run_at=tick + 60,
            now=tick,
            max_waiting=job.definition.max_waiting,
        )
    details = await job_of(still, created)
    assert (details["executionCount"], details["skippedTicks"]) == (2, 3)
    assert details["lastSkippedTick"] == time_text(ticks[-2])


@pytest.mark.parametrize("value", [0, -1, 1.5, "1", True, None, 1001])
async def test_max_waiting_is_a_small_number(still: Site, value: object) -> None:
    payload = {"image": "busy", "command": "true", "cron": "* * * * *", "maxWaiting": value}
    (error,) = (await still.post("/tasks/tests/", payload)).problem(400)["errors"]
    assert error["pointer"] == "/maxWaiting"


# -- retry ----------------------------------------------------------------------------------------


async def test_retry(site: Site) -> None:
    """A new execution of the last definition; the stop answer plus the execution's id and URL."""
    created = await site.submit(envs={"A": "1"})
    (await site.run_of(created)).end(0)
    await site.status(created, "done")
    answer = (await site.post(f"{created['jobUrl']}retry/")).json
    stopped = (await site.post(f"{created['jobUrl']}stop/")).json
    assert {key: answer[key] for key in stopped} == stopped
    assert set(answer) - set(stopped) == {"executionId", "executionUrl"}
    assert answer["executionUrl"] == f"{created['jobUrl']}executions/{answer['executionId']}/"
    assert answer["executionId"] != created["executionId"]
    found = await executions(site, created)
    assert [each["executionId"] for each in found] == [
        answer["executionId"],
        created["executionId"],
    ]
    assert (await job_of(site, created))["executionCount"] == 2


async def test_retry_stops_what_runs(site: Site) -> None:
    created = await site.submit(retries=3)
    await site.run_of(created)
    answer = (await site.post(f"{created['jobUrl']}retry")).json
    old = await site.status(created, *FINAL)
    assert (old["status"], old["reason"]) == ("failed", "stopped")
    (await site.run_of(answer)).end(0)
    new = await site.status(answer, "done")
    assert new["startedAt"] >= old["finishedAt"]
    assert len(await executions(site, created)) == 2


async def test_retry_before_it_has_run(still: Site) -> None:
    for keys in ({}, {"startIn": "5m"}, NEVER):
        created = await still.submit(**keys)
        before = await still.counts()
        problem = (await still.post(f"{created['jobUrl']}retry/")).problem(400)
        assert "not run yet" in problem["detail"]
        assert await still.counts() == before


async def test_retry_of_what_was_stopped_or_replaced(site: Site) -> None:
    created = await site.submit(retries=3)
    await site.run_of(created)
    await site.post(f"{created['jobUrl']}stop")
    await site.status(created, "failed")
    answer = (await site.post(f"{created['jobUrl']}retry")).json
    assert (await job_of(site, created))["stoppedAt"] is None
    (await site.run_of(answer)).end(0)
    await site.status(answer, "done")
    path = f"/tasks/tests/jobs/{created['jobId']}"
    replaced = (await site.put(path, {"image": "busy:2", "command": "false"})).json
    (await site.run_of(replaced)).end(0)
    await site.status(replaced, "done")
    answer = (await site.post(f"{path}/retry")).json
    shown = await site.execution(answer)
    assert (shown["image"], shown["command"]) == ("busy:2", "false")
    job = await job_of(site, created)
    assert job["metadata"]["enqueued_id"] != replaced["queueJobId"]


async def test_retry_counts_its_own_retries(site: Site) -> None:
    created = await site.submit(retries=1, backoff={"minMs": 0})
    (await site.run_of(created)).end(1)

    async def retried() -> list[dict[str, Any]] | None:
        found = await executions(site, created)
        return found if len(found) == 2 else None

    found = await eventually(retried, "the retry")
    (await site.executor.started(found[0]["executionId"])).end(1)
    await site.status_at(found[0]["url"], "failed")
    answer = (await site.post(f"{created['jobUrl']}retry")).json
    (await site.run_of(answer)).end(1)
    await site.status(answer, "failed")
    found = await executions(site, created)
    assert [each["metadata"]["attempt"] for each in found] == [1, 0, 1, 0]


# -- races ----------------------------------------------------------------------------------------


async def test_retries_race(site: Site) -> None:
    """Each stops the one before; one is left, and never two run at a time."""
    created = await site.submit(retries=3)
    await site.run_of(created)
    url = f"{created['jobUrl']}retry"
    answers = await asyncio.gather(*(site.post(url) for _ in range(8)))
    accepted = [answer.json for answer in answers if answer.status == 200]
    assert all(answer.status in (200, 400) for answer in answers)
    assert len({answer["executionId"] for answer in accepted}) == len(accepted)
    found = await settled(site, created, unfinished=1)
    assert len(found) == len(accepted) + 1
    assert found[0]["status"] == "running"
    assert {each["reason"] for each in found[1:]} == {"stopped"}
    (await site.executor.started(found[0]["executionId"])).end(0)
    await settled(site, created, unfinished=0)
    assert len(await executions(site, created)) == len(accepted) + 1


@pytest.mark.parametrize("_round", range(5))
async def test_retry_races_with_stop(site: Site, _round: int) -> None:
    """Regression 16: either order, nothing in between; a stop that was last is the last word."""
    created = await site.submit(retries=3)
    await site.run_of(created)
    retried, stopped = await asyncio.gather(
        site.post(f"{created['jobUrl']}retry"), site.post(f"{created['jobUrl']}stop")
    )
    assert (retried.status, stopped.status) == (200, 200)
    old = await site.status(created, *FINAL)
    assert old["reason"] == "stopped"
    new = await site.status(retried.json, "running", *FINAL)
    if new["status"] == "running":
        assert (await job_of(site, created))["stoppedAt"] is None
        await site.post(f"{created['jobUrl']}stop")
        await site.status(retried.json, "failed")
    else:
        assert new["reason"] == "stopped"
    assert len(await executions(site, created)) == 2


@pytest.mark.parametrize("exit_code", [0, 1])
async def test_retry_races_with_finish(site: Site, exit_code: int) -> None:
    """One outcome, one new execution; the old one's own retry is void."""
    created = await site.submit(retries=3, backoff={"minMs": 60_000})
    run = await site.run_of(created)
    post = asyncio.create_task(site.post(f"{created['jobUrl']}retry"))
    run.end(exit_code)
    answer = (await post).json
    old = await site.status(created, *FINAL)
    assert old["reason"] in ("exit-code", "stopped")
    (await site.run_of(answer)).end(0)
    await site.status(answer, "done")
    await settled(site, created, unfinished=0)


@pytest.mark.parametrize("route", ["executionUrl", "jobUrl"])
async def test_stop_races_with_finish(site: Site, route: str) -> None:
    """Regression 16: what was stopped stays stopped: no retry runs."""
    for _ in range(5):
        created = await site.submit(retries=3, backoff={"minMs": 0})
        run = await site.run_of(created)
        post = asyncio.create_task(site.post(f"{created[route]}stop"))
        run.end(1)
        assert (await post).status == 200
        found = await settled(site, created, unfinished=0)
        assert all(each["status"] == "failed" for each in found)
        assert found[0]["reason"] == "stopped" or len(found) == 1


async def test_retry_races_with_put(site: Site) -> None:
    created = await site.submit()
    await site.run_of(created)
    path = f"/tasks/tests/jobs/{created['jobId']}"
    retried, replaced = await asyncio.gather(
        site.post(f"{path}/retry"), site.put(path, {"image": "busy:2", "command": "false"})
    )
    assert (retried.status, replaced.status) == (200, 200)

    async def ended() -> bool:
        for run in tuple(site.executor.runs_by_id.values()):
            run.end(0)
        return all(each["status"] in FINAL for each in await executions(site, created))

    await eventually(ended, "the end of all executions")
    newest, *_ = await executions(site, created)
    assert newest["status"] == "done"
    assert (await job_of(site, created))["image"] == "busy:2"
    assert len(await executions(site, created)) == 3


# -- PUT ------------------------------------------------------------------------------------------


async def test_put_creates(still: Site) -> None:
    job_id = str(uuid.uuid4())
    answer = (await still.put(f"/tasks/new-task/jobs/{job_id}", PAYLOAD)).json
    assert (answer["taskId"], answer["jobId"]) == ("new-task", job_id)
    assert (await still.execution(answer))["status"] == "enqueued"
    counts = await still.counts()
    assert (counts.tasks, counts.jobs, counts.queued) == (1, 1, 1)


async def test_put_takes_an_id_in_capitals(still: Site) -> None:
    job_id = str(uuid.uuid4())
    first = (await still.put(f"/tasks/a/jobs/{job_id.upper()}", PAYLOAD)).json
    again = (await still.put(f"/tasks/a/jobs/{job_id}", PAYLOAD)).json
    assert first["jobId"] == again["jobId"] == job_id
    assert (await still.counts()).jobs == 1
    for path in (f"/tasks/a/jobs/{job_id.upper()}", f"/tasks/a/jobs/{job_id.upper()}/logs"):
        assert (await still.get(path)).status == 200
    assert (await still.post(f"/tasks/a/jobs/{job_id.upper()}/stop")).json["jobId"] == job_id


async def test_put_replaces(still: Site) -> None:
    """Everything of the definition and the schedule; what has run stays, and so does its time."""
    created = await still.submit(
        envs={"A": "1"}, retries=3, metadata={"x": 1}, timeout=10, cron="0 0 1 1 *"
    )
    before = await job_of(still, created)
    path = f"/tasks/tests/jobs/{created['jobId']}"
    answer = (await still.put(path, {"image": "busy:2", "command": ["false"]})).json
    assert answer["queueJobId"] != created["queueJobId"]
    assert answer["executionId"] is not None
    after = await job_of(still, created)
    assert after["createdAt"] == before["createdAt"]
    assert after["lastModifiedAt"] > before["lastModifiedAt"]
    assert (after["image"], after["command"]) == ("busy:2", ["false"])
    metadata = after["metadata"]
    assert metadata["enqueued_id"] == answer["queueJobId"]
    assert metadata["envs"] == metadata["custom"] == {}
    assert (metadata["retries"], metadata["timeout"], metadata["cron"]) == (0, 1800, None)
    assert (after["scheduled"], after["nextScheduledAt"]) == (False, None)
    assert (await still.counts()).jobs == 1


async def test_put_on_a_cron_job(still: Site) -> None:
    """Regression 15: the old chain is gone, there is one new one."""
    created = await still.submit(**NEVER)
    path = f"/tasks/tests/jobs/{created['jobId']}"
    old = await still.storage.jobs.get("tests", created["jobId"])
    answer = (await still.put(path, {**PAYLOAD, "cron": "0 0 2 1 *"})).json
    assert answer["executionId"] is answer["executionUrl"] is None
    assert (await still.counts()).scheduled == 1
    with pytest.raises(Exception, match=created["jobId"]):
        await still.server.lifecycle.run_tick(old)
    job = await job_of(still, created)
    assert job["nextScheduledAt"][5:10] == "01-02"
    assert job["executionCount"] == 0


async def test_put_after_stop(still: Site) -> None:
    created = await still.submit(**NEVER)
    await still.post(f"{created['jobUrl']}stop")
    path = f"/tasks/tests/jobs/{created['jobId']}"
    await still.put(path, {**PAYLOAD, **NEVER})
    job = await job_of(still, created)
    assert job["scheduled"]
    assert job["stoppedAt"] is None


async def test_puts_race(still: Site) -> None:
    """Regression 6: one job, whose executions are all there."""
    path = f"/tasks/a/jobs/{uuid.uuid4()}"
    answers = await asyncio.gather(*(still.put(path, PAYLOAD) for _ in range(10)))
    assert {answer.status for answer in answers} == {200}
    counts = await still.counts()
    assert (counts.tasks, counts.jobs) == (1, 1)
    assert (await still.get(path)).json["job"]["executionCount"] == 10


async def test_creators_of_one_task_race(still: Site) -> None:
    """Regression 6."""
    await asyncio.gather(*(still.submit("same") for _ in range(10)))
    task = (await still.get("/tasks/same")).json
    assert (task["jobsCount"], task["total"], len(task["jobs"])) == (10, 10, 10)
    assert (await still.counts()).tasks == 1


# -- Idempotency-Key ------------------------------------------------------------------------------


async def test_idempotency(site: Site) -> None:
    """Regression 18: the first answer again, also when the job has ended since."""
    body = json.dumps(PAYLOAD)
    first = await site.post("/tasks/a", body, Idempotency_Key="k1")
    assert "Idempotent-Replayed" not in first.headers
    (await site.run_of(first.json)).end(0)
    await site.status(first.json, "done")
    again = await site.post("/tasks/a/", body, Idempotency_Key="k1")
    assert again.json == first.json
    assert again.headers["Idempotent-Replayed"] == "true"
    other_task = await site.post("/tasks/b", body, Idempotency_Key="k1")
    assert other_task.json["jobId"] != first.json["jobId"]
    other_key = await site.post("/tasks/a", body, Idempotency_Key="k2")
    assert other_key.json["jobId"] != first.json["jobId"]
    before = await site.counts()
    problem = (
        await site.post("/tasks/a", {**PAYLOAD, "retries": 1}, Idempotency_Key="k1")
    ).problem(422)
    assert '"k1"' in problem["detail"]
    assert (await site.counts()).jobs == before.jobs


async def test_idempotency_after_put_and_retry(site: Site) -> None:
    """The answer stays the first one although the job has moved on."""
    first = (await site.post("/tasks/a", PAYLOAD, Idempotency_Key="k1")).json
    (await site.run_of(first)).end(0)
    await site.status(first, "done")
    (await site.post(f"{first['jobUrl']}retry")).json  # noqa: B018
    await site.put(f"/tasks/a/jobs/{first['jobId']}", PAYLOAD)
    assert (await site.post("/tasks/a", PAYLOAD, Idempotency_Key="k1")).json == first


async def test_idempotency_of_a_scheduled_job(still: Site) -> None:
    payload = {**PAYLOAD, **NEVER}
    first = (await still.post("/tasks/a", payload, Idempotency_Key="k1")).json
    assert first["executionId"] is None
    assert (await still.post("/tasks/a", payload, Idempotency_Key="k1")).json == first
    assert (await still.counts()).scheduled == 1


async def test_idempotency_at_the_same_moment(still: Site) -> None:
    """Regression 18."""
    answers = await asyncio.gather(
        *(still.post("/tasks/a", PAYLOAD, Idempotency_Key="k1") for _ in range(20))
    )
    assert len({answer.body for answer in answers}) == 1
    assert [answer.status for answer in answers] == [200] * 20
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    counts = await still.counts()
    assert (counts.jobs, counts.queued) == (1, 1)


async def test_refused_request_does_not_use_up_its_key(still: Site) -> None:
    (await still.post("/tasks/a", {"image": "x"}, Idempotency_Key="k1")).problem(400)
    assert (await still.post("/tasks/a", PAYLOAD, Idempotency_Key="k1")).status == 200


async def test_stop_reason_is_told(site: Site) -> None:
    """A stopped execution is told apart from one that was killed."""
    assert isinstance(site.executor, MemoryExecutor)
    created = await site.submit()
    (await site.run_of(created)).end(137)
    shown = await site.status(created, "failed")
    assert (shown["reason"], shown["exitCode"]) == (Reason.EXIT_CODE, 137)
