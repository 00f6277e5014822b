"""``run/``, ``rerun/``, ``retry/`` with overrides; ``pause/`` and ``resume/``."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from fastlane.errors import CompareFailed
from fastlane.model import Trigger
from tests.api.conftest import MakeSite
from tests.api.http_site import PAYLOAD, Site
from tests.fakes import MemoryExecutor

CRON = {"cron": "*/5 * * * *"}


async def stored(site: Site, answer: dict[str, Any]) -> Any:
    return await site.storage.executions.get(answer["executionId"])


async def job_of(site: Site, created: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = (await site.get(created["jobUrl"])).json["job"]
    return found


# -- one more run ---------------------------------------------------------------------------------


async def test_run_beside_what_runs(site: Site) -> None:
    created = await site.submit()
    first = await site.run_of(created)
    answer = (await site.post(f"{created['jobUrl']}run/")).json
    assert set(answer) == {
        "taskId", "taskUrl", "jobId", "jobUrl", "executionId", "executionUrl",
    }  # fmt: skip
    (await site.run_of(answer)).end(0)
    assert (await site.status(answer, "done"))["metadata"]["attempt"] == 0
    assert (await site.execution(created))["status"] == "running"
    assert (await stored(site, answer)).trigger is Trigger.MANUAL
    first.end(0)
    await site.status(created, "done")
    assert (await job_of(site, created))["executionCount"] == 2


@pytest.mark.parametrize("keys", [CRON, {"startIn": "1h"}])
async def test_run_of_a_scheduled_job_leaves_its_schedule(site: Site, keys: dict[str, Any]) -> None:
    created = await site.submit(**keys)
    before = await job_of(site, created)
    answer = (await site.post(f"{created['jobUrl']}run")).json
    (await site.run_of(answer)).end(0)
    await site.status(answer, "done")
    after = await job_of(site, created)
    assert after["nextScheduledAt"] == before["nextScheduledAt"] is not None
    assert (await stored(site, answer)).tick is None


async def test_a_run_of_a_stopped_job_can_be_stopped(site: Site) -> None:
    created = await site.submit(**CRON)
    await site.post(f"{created['jobUrl']}stop/")
    answer = (await site.post(f"{created['jobUrl']}run/")).json
    await site.run_of(answer)
    assert (await job_of(site, created))["scheduled"] is False
    await site.post(f"{created['jobUrl']}stop/")
    assert (await site.status(answer, "failed"))["reason"] == "stopped"


async def test_a_run_is_retried(site: Site) -> None:
    created = await site.submit(retries=1, backoff={"minMs": 0}, **CRON)
    answer = (await site.post(f"{created['jobUrl']}run/", {"command": "false"})).json
    (await site.run_of(answer)).end(1)
    await site.status(answer, "failed")
    retry = await site.storage.executions.retry_of(answer["executionId"])
    assert retry is not None
    assert retry.definition.command.submitted == "false"


async def test_rerun_has_the_definition_of_its_execution(site: Site) -> None:
    created = await site.submit(command="one", envs={"A": "1"})
    (await site.run_of(created)).end(0)
    await site.status(created, "done")
    path = f"/tasks/tests/jobs/{created['jobId']}"
    replaced = (await site.put(path, {**PAYLOAD, "command": "two"})).json
    answer = (await site.post(f"{created['executionUrl']}rerun/", {"envs": {"B": "2"}})).json
    definition = (await stored(site, answer)).definition
    assert (definition.command.submitted, definition.envs) == ("one", {"A": "1", "B": "2"})
    # What runs is left alone, and the job is what it was.
    assert (await site.execution(replaced))["status"] in {"enqueued", "pulling", "running"}
    assert (await job_of(site, created))["command"] == "two"
    other = await site.submit()
    url = f"{other['jobUrl']}executions/{created['executionId']}/rerun/"
    (await site.post(url)).problem(404)


@pytest.mark.parametrize("route", ["run", "retry", "rerun"])
async def test_overrides(site: Site, route: str) -> None:
    created = await site.submit(
        command=["a", "--password", "hunter2"],
        envs={"KEEP": "1", "CHANGE": "2", "API_KEY": "secret"},
        timeout=50,
        resources={"cpus": 1, "memory": "64m"},
        metadata={"m": 1},
    )
    (await site.run_of(created)).end(0)
    await site.status(created, "done")
    url = created["executionUrl"] if route == "rerun" else created["jobUrl"]
    body = {
        "command": ["b", "--password", "***"],
        "envs": {"CHANGE": "3", "NEW": "4", "API_KEY": "***"},
        "image": "busy:2",
        "timeout": "2m",
        "resources": {"memory": "32m"},
    }
    answer = (await site.post(f"{url}{route}/", body)).json
    definition = (await stored(site, answer)).definition
    assert definition.envs == {"KEEP": "1", "CHANGE": "3", "NEW": "4", "API_KEY": "secret"}
    assert definition.command.argv == ("b", "--password", "hunter2")
    assert (definition.image.submitted, definition.timeout_seconds) == ("busy:2", 120)
    assert (definition.resources.cpus, definition.resources.memory_bytes) == (None, 32 << 20)
    assert definition.custom == {"m": 1}
    job = await site.storage.jobs.get("tests", created["jobId"])
    assert job.definition.command.argv[0] == "a"


WRONG: list[tuple[Any, str, str]] = [
    ({"envz": {}}, "/envz", "envs"),
    ({"retries": 1}, "/retries", "retries"),
    ({"envs": {"TOKEN": "***"}}, "/envs/TOKEN", "TOKEN"),
    ({"timeout": 1e9}, "/timeout", "limit"),
    ({"timeout": "5"}, "/timeout", "units"),
    ({"timeout": "0s"}, "/timeout", "more than 0"),
    ({"image": 1}, "/image", "image"),
    ({"command": ""}, "/command", "command"),
    ({"resources": {"memory": 1}}, "/resources/memory", "6m"),
]


@pytest.mark.parametrize("route", ["run", "retry", "rerun"])
async def test_wrong_overrides_change_nothing(site: Site, route: str) -> None:
    created = await site.submit()
    (await site.run_of(created)).end(0)
    await site.status(created, "done")
    before = await site.counts()
    url = f"{created['executionUrl' if route == 'rerun' else 'jobUrl']}{route}/"
    for body, pointer, words in WRONG:
        (fault,) = (await site.post(url, body)).problem(400)["errors"]
        assert fault["pointer"] == pointer
        assert words in fault["message"]
    for text in ("[]", "x", "null"):
        assert "override" in (await site.post(url, text)).problem(400)["detail"] or text == "x"
    assert await site.counts() == before


async def test_an_image_that_the_farm_does_not_run_is_refused(make_site: MakeSite) -> None:
    farm = {"name": "f", "hosts": ["localhost:1234"], "maxRunning": 9, "images": ["busy:.*"]}
    site = await make_site(executor=MemoryExecutor(instant=True), docker_hosts=json.dumps([farm]))
    created = await site.submit()
    await site.status(created, "done")
    problem = (await site.post(f"{created['jobUrl']}run/", {"image": "other"})).problem(400)
    assert '"other"' in problem["detail"]


# -- pause ----------------------------------------------------------------------------------------


async def test_a_paused_job_has_no_ticks(still: Site) -> None:
    created = await still.submit(**CRON)
    job = await still.storage.jobs.get("tests", created["jobId"])
    for _ in range(2):
        answer = (await still.post(f"{created['jobUrl']}pause/")).json
        assert (answer["paused"], answer["nextScheduledAt"]) == (True, None)
        assert answer["jobUrl"] == created["jobUrl"]
    with pytest.raises(CompareFailed):
        await still.server.lifecycle.run_tick(job)
    assert await still.storage.jobs.due(time.time() + 1e6, 10) == []
    details = await job_of(still, created)
    assert (details["paused"], details["scheduled"], details["executionCount"]) == (True, False, 0)
    # Runs on request go ahead.
    assert (await still.post(f"{created['jobUrl']}run/")).status == 200
    for _ in range(2):
        answer = (await still.post(f"{created['jobUrl']}resume/")).json
        assert answer["paused"] is False
        assert answer["nextScheduledAt"] is not None
    resumed = await still.storage.jobs.get("tests", created["jobId"])
    assert resumed.next_run_at is not None
    # No tick is made up for.
    assert resumed.next_run_at > time.time()
    assert resumed.generation == job.generation


async def test_a_start_that_passed_in_a_pause_runs_on_resume(make_site: MakeSite) -> None:
    now = [1_700_000_000.0]
    site = await make_site(still=True, clock=lambda: now[0])
    created = await site.submit(startIn="1h")
    await site.post(f"{created['jobUrl']}pause")
    now[0] += 7200
    assert not await site.server.parts.services.storage.jobs.due(now[0], 10)
    await site.post(f"{created['jobUrl']}resume")
    (due,) = await site.storage.jobs.due(now[0], 10)
    execution = await site.server.lifecycle.run_tick(due)
    assert execution is not None
    assert execution.late_seconds == pytest.approx(3600)
    assert (await job_of(site, created))["scheduled"] is False
    # It has had its only tick.
    (await site.post(f"{created['jobUrl']}resume")).problem(400)
    (await site.post(f"{created['jobUrl']}pause")).problem(400)


async def test_put_keeps_the_pause_and_stop_clears_it(still: Site) -> None:
    created = await still.submit(**CRON)
    path = f"/tasks/tests/jobs/{created['jobId']}"
    await still.post(f"{path}/pause")
    await still.put(path, {**PAYLOAD, "command": "two", "cron": "0 0 * * *"})
    details = await job_of(still, created)
    assert (details["paused"], details["command"], details["executionCount"]) == (True, "two", 0)
    # A job that is to run at once is not scheduled any more.
    await still.put(path, PAYLOAD)
    details = await job_of(still, created)
    assert (details["paused"], details["executionCount"]) == (False, 1)
    await still.put(path, {**PAYLOAD, **CRON})
    assert (await job_of(still, created))["scheduled"]
    await still.post(f"{path}/pause")
    await still.post(f"{path}/stop")
    details = await job_of(still, created)
    assert (details["paused"], details["scheduled"]) == (False, False)
    assert details["stoppedAt"] is not None
    (await still.post(f"{path}/resume")).problem(400)


async def test_only_scheduled_jobs_are_paused(still: Site) -> None:
    created = await still.submit()
    for route in ("pause", "resume"):
        problem = (await still.post(f"{created['jobUrl']}{route}/")).problem(400)
        assert route in problem["detail"]
    missing = "/tasks/tests/jobs/5a023792-1445-44e9-8a8b-cfe5ad05d1c6"
    for route in ("pause", "resume", "run"):
        (await still.post(f"{missing}/{route}")).problem(404)


async def test_retries_go_ahead_in_a_pause(site: Site) -> None:
    created = await site.submit(retries=1, backoff={"minMs": 0}, **CRON)
    answer = (await site.post(f"{created['jobUrl']}run/")).json
    run = await site.run_of(answer)
    await site.post(f"{created['jobUrl']}pause")
    run.end(1)
    await site.status(answer, "failed")
    retry = await site.storage.executions.retry_of(answer["executionId"])
    assert retry is not None
    (await site.executor.started(retry.id)).end(0)
