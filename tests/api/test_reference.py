"""Every example of the reference and of the how-to, compared key by key."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any

import pytest

from fastlane.api.streaming.encoded import time_text
from fastlane.model import Stream
from tests.api import reference
from tests.api.conftest import MakeSite
from tests.api.http_site import Site

HOST = "localhost:10000"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}")
# When the how-to was written, as far as its examples tell: before the time of its startAt.
THEN = 1_640_000_000.0
# Their values say what happened in the example.
VALUES = {"taskId", "command", "image", "status", "page", "perPage", "docker_host", "docker_port"}
VALUES |= {"hasNext", "hasPrev", "timeout", "retries", "retry_count", "scheduled", "exitCode"}
VALUES |= {"executionCount", "total", "pages", "circuit", "available", "blacklisted"}


def compare(example: Any, answer: Any, name: str = "") -> None:
    """*answer* has every key of *example*, with values of the same types and forms."""
    if isinstance(example, dict):
        assert isinstance(answer, Mapping), name
        assert set(example) <= set(answer), f"{name} lacks {set(example) - set(answer)}"
        for key, value in example.items():
            compare(value, answer[key], key)
        return
    assert type(answer) is type(example), f"{name} is {answer!r}"
    if isinstance(example, list):
        assert len(answer) >= len(example), name
        for value, found in zip(example, answer, strict=False):
            compare(value, found, name)
    elif name in VALUES:
        assert answer == example, name
    elif isinstance(example, str) and example.startswith("http"):
        # The documents end URLs with and without a slash; both lead to the same place.
        assert UUID.sub("ID", answer).rstrip("/") == UUID.sub("ID", example).rstrip("/")
    elif isinstance(example, str):
        for form in (UUID, TIME):
            assert bool(form.fullmatch(answer)) == bool(form.fullmatch(example)), name


async def test_enqueue_and_its_job(site: Site) -> None:
    """API - Enqueue Job, Get all tasks, Search tasks, Task Details."""
    answer = await site.post("/tasks/test-wrkng/", reference.BODY, Host=HOST)
    compare(reference.ENQUEUED, answer.json)
    assert set(answer.json) == set(reference.ENQUEUED)
    await site.post("/tasks/test-wrkng/", reference.BODY, Host=HOST)
    listed = {**reference.TASKS["items"][0], "jobsCount": 2}
    for path in ("/tasks/", "/search/?query=wrkng"):
        tasks = (await site.get(path, Host=HOST)).json
        compare(reference.TASKS, tasks)
        assert set(tasks) == set(reference.TASKS)
        assert set(tasks["items"][0]) == set(listed) | {"lastExecution"}
        assert tasks["items"][0]["jobsCount"] == 2
    compare(reference.TASK, (await site.get("/tasks/test-wrkng/", Host=HOST)).json)
    job = (await site.get(answer.json["jobUrl"].replace(f"http://{HOST}", ""), Host=HOST)).json
    metadata = job["job"]["metadata"]
    assert metadata["envs"] == {"SMTP_SERVER": "my-smtp-server"}
    assert metadata["custom"] == {"username": "heynemann"}
    assert metadata["retries"] == 3
    assert metadata["enqueued_id"] == answer.json["queueJobId"]


async def test_put(site: Site) -> None:
    """API - Enqueue/Update Job."""
    path = "/tasks/test-wrkng/jobs/5a023792-1445-44e9-8a8b-cfe5ad05d1c6/"
    answer = (await site.put(path, reference.BODY, Host=HOST)).json
    compare(reference.PUT, answer)
    assert answer["jobId"] == reference.PUT["jobId"]
    # "All the other details from the enqueue route also apply."
    compare(reference.ENQUEUED, answer)


async def test_job_details(still: Site) -> None:
    """API - Job Details, Job logs, Job stdout, Job stderr, and those of the execution."""
    created = (
        await still.post(
            "/tasks/test-wrkng/", '{"image": "task1", "command": "ls -lah"}', Host=HOST
        )
    ).json
    owner = still.owner("test-wrkng")
    owner.job_id = created["jobId"]
    execution = await owner.lifecycle.claim(still.server.services.farms[0], "localhost:1234")
    assert execution is not None
    owner.execution = await owner.lifecycle.started(execution, "cbab7fd2125a30ac")
    await owner.write(b"total 72K\n", (Stream.STDERR, b"some error message\n"))
    await owner.finish(0)
    job = (await still.get(owner.job_path, Host=HOST)).json
    compare(reference.JOB, job)
    shown = (await still.get(owner.path, Host=HOST)).json
    example = {**reference.EXECUTION["execution"], "exitCode": 0, "status": "done"}
    compare({**reference.EXECUTION, "execution": {**example, "command": "ls -lah"}}, shown)
    # The same object in both places.
    assert shown["execution"] == job["job"]["executions"][0]
    assert shown["execution"]["log"] == "total 72K\n"
    assert shown["execution"]["error"] == "some error message\n"
    for base in (owner.job_path, owner.path):
        for name, text in (
            ("logs", b"total 72K\n\n-=-\nsome error message\n"),
            ("stdout", b"total 72K\n"),
            ("stderr", b"some error message\n"),
        ):
            answer = await still.get(f"{base}/{name}/")
            assert (answer.status, answer.body) == (200, text)
            assert answer.headers["Content-Type"].startswith("text/plain")
            assert answer.headers["Fastlane-Exit-Code"] == "0"
            assert answer.headers["Fastlane-Status"] == "done"


async def test_stops(site: Site) -> None:
    """API - Stop Job, Stop Job Execution, Job Execution Details (of one that was stopped)."""
    body = '{"image": "task1", "command": "sleep 100"}'
    created = (await site.post("/tasks/test-wrkng/", body, Host=HOST)).json
    run = await site.run_of(created)
    path = created["executionUrl"].replace(f"http://{HOST}", "")
    stopped = (await site.post(f"{path}stop/", Host=HOST)).json
    example = {
        key: {**value, "url": value["url"].replace("task1", "test-wrkng")}
        for key, value in reference.STOPPED_EXECUTION.items()
    }
    compare(example, stopped)
    assert {key: set(value) for key, value in stopped.items()} == {
        key: set(value) for key, value in reference.STOPPED_EXECUTION.items()
    }
    await site.status_at(path, "failed")
    assert run.ended.is_set()
    shown = (await site.get(path, Host=HOST)).json
    # The command obeyed; in the example it had to be killed.
    compare({**reference.EXECUTION["execution"], "exitCode": 143}, shown["execution"])
    stopped = (await site.post(f"/tasks/test-wrkng/jobs/{created['jobId']}/stop/", Host=HOST)).json
    compare(reference.STOPPED_JOB, stopped)
    assert set(stopped) == set(reference.STOPPED_JOB)


async def test_healthcheck_and_status(site: Site) -> None:
    """API - Healthcheck, API - Farm Status."""
    health = (await site.get("/healthcheck/")).json
    compare(reference.HEALTHCHECK, health)
    assert health == {**reference.HEALTHCHECK, "backend": "sqlite"}
    status = (await site.get("/status/")).json
    compare(reference.STATUS, status)


@pytest.mark.parametrize(("path", "body", "example"), reference.HOW_TO)
async def test_how_to_submit(
    make_site: MakeSite, path: str, body: str, example: dict[str, Any]
) -> None:
    """``curl -XPOST -d'…'``: a form type, no slash at the end."""
    site = await make_site(still=True, clock=lambda: THEN, allowed_hosts="fastlane.local")
    answer = (
        await site.post(
            path,
            body,
            Host="fastlane.local:10000",
            Accept="*/*",
            User_Agent="curl/7.88.1",
            Content_Type="application/x-www-form-urlencoded",
        )
    ).json
    compare(example, answer)
    assert set(answer) == set(example)
    # "In order to find more … just follow the jobUrl parameter of the returned JSON."
    followed = answer["jobUrl"].replace("http://fastlane.local:10000", "")
    job = (await site.get(followed)).json["job"]
    assert job["scheduled"] == (answer["executionId"] is None)
    assert job["executionCount"] == (answer["executionId"] is not None)


async def test_how_to_schedule(make_site: MakeSite) -> None:
    """``startAt`` in the past means now; every format of ``startIn``."""
    site = await make_site(still=True)
    submitted = await site.submit(startAt=1645113692)
    assert submitted["executionId"] is not None
    site = await make_site(still=True, clock=lambda: THEN)
    for duration, seconds in reference.DURATIONS.items():
        submitted = await site.submit(startIn=duration)
        job = (await site.get(submitted["jobUrl"])).json["job"]
        assert job["nextScheduledAt"] == time_text(THEN + seconds)
    submitted = await site.submit(startAt=1645113692)
    job = (await site.get(submitted["jobUrl"])).json["job"]
    assert job["nextScheduledAt"] == job["metadata"]["startAt"] == "2022-02-17T16:01:32.000000"


async def test_how_to_stop_a_periodical_job(still: Site) -> None:
    """``curl -XPOST http://…/tasks/test-scheduled-task/jobs/J/stop``"""
    created = await still.submit("test-scheduled-task", cron="* * * * *")
    path = f"/tasks/test-scheduled-task/jobs/{created['jobId']}"
    assert (await still.get(path)).json["job"]["scheduled"]
    assert (await still.post(f"{path}/stop")).status == 200
    job = (await still.get(path)).json["job"]
    assert (job["scheduled"], job["nextScheduledAt"]) == (False, None)


async def test_how_to_find_all_jobs(still: Site) -> None:
    """Its ``curl`` line says POST and its text says GET: a POST without a body says so."""
    created = await still.submit("test-my-task")
    found = (await still.get("/tasks/test-my-task")).json
    assert [job["id"] for job in found["jobs"]] == [created["jobId"]]
    problem = (await still.post("/tasks/test-my-task")).problem(400)
    assert "send GET" in problem["detail"]


async def test_how_to_read_the_output(site: Site) -> None:
    """``curl http://…/jobs/J/stdout``: "The exit code comes as a header"."""
    created = await site.submit("test-my-task")
    (await site.run_of(created)).end(3)
    await site.status(created, "failed")
    for name in ("stdout", "stderr"):
        answer = await site.get(f"/tasks/test-my-task/jobs/{created['jobId']}/{name}")
        assert answer.headers["Fastlane-Exit-Code"] == "3"


async def test_unknown_ids_are_not_made_up(still: Site) -> None:
    for _ in range(2):
        (await still.get(f"/tasks/test-wrkng/jobs/{uuid.uuid4()}/")).problem(404)
