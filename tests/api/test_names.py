"""PUT by name: the job has an id of its own, and every route of its task accepts either."""

from __future__ import annotations

import uuid
from typing import Any

import aiohttp
import pytest

from tests.api.http_site import PAYLOAD, Site

PATH = "/tasks/tests/jobs/nightly.report_1-a"


async def put(site: Site, **keys: Any) -> dict[str, Any]:
    found: dict[str, Any] = (await site.put(PATH, {**PAYLOAD, **keys})).json
    return found


async def test_a_name_makes_a_job_and_replaces_it(still: Site) -> None:
    first = await put(still)
    assert uuid.UUID(first["jobId"]).version == 4
    assert first["jobUrl"] == f"{still.base}/tasks/tests/jobs/{first['jobId']}/"
    second = await put(still, command="two")
    assert second["jobId"] == first["jobId"]
    assert second["executionId"] != first["executionId"]
    for path in (PATH, first["jobUrl"]):
        shown = (await still.get(path)).json
        assert shown["total"] == 2
        assert (shown["job"]["id"], shown["job"]["name"]) == (first["jobId"], "nightly.report_1-a")
        assert shown["job"]["command"] == "two"
    # By its id, it keeps its name; another task may use the name, too.
    await still.put(f"/tasks/tests/jobs/{first['jobId']}", {**PAYLOAD, "command": "three"})
    assert (await still.get(PATH)).json["job"]["command"] == "three"
    other = (await still.put(PATH.replace("tests", "other"), PAYLOAD)).json
    assert other["jobId"] != first["jobId"]
    assert (await still.get((await still.submit())["jobUrl"])).json["job"]["name"] is None


async def test_every_route_accepts_either(site: Site) -> None:
    created = await put(site, cron="0 0 1 1 *")
    for route in ("pause", "resume", "run", "stop"):
        answer = (await site.post(f"{PATH}/{route}/")).json
        assert answer["jobUrl"] == created["jobUrl"]
    run = (await site.post(f"{PATH}/run")).json
    (await site.run_of(run)).end(0)
    await site.status(run, "done")
    execution = f"{PATH}/executions/{run['executionId']}"
    assert (await site.get(execution)).json["job"]["id"] == created["jobId"]
    for path in (PATH, execution):
        assert (await site.get(f"{path}/logs")).body == b"out\n\n-=-\n"
        assert (await site.get(f"{path}/stdout/?tail=1")).body == b"out\n"
    assert (await site.post(f"{execution}/stop")).json["job"]["id"] == created["jobId"]
    assert (await site.post(f"{PATH}/retry/")).status == 200
    async with aiohttp.ClientSession() as client, client.ws_connect(f"{site.base}{PATH}/ws/") as ws:
        assert ws._response.status == 101
    assert (await site.request("DELETE", f"{PATH}?force=true")).status == 204
    (await site.get(PATH)).problem(404)
    again = await put(site)
    assert again["jobId"] != created["jobId"]


async def test_lists_show_the_name(still: Site) -> None:
    named, plain = await put(still), await still.submit()
    items = (await still.get("/executions/")).json["items"]
    assert {one["jobId"]: one["jobName"] for one in items} == {
        named["jobId"]: "nightly.report_1-a",
        plain["jobId"]: None,
    }
    for path in ("/executions/", "/tasks/tests/"):
        assert b">nightly.report_1-a<" in (await still.get(f"{path}?as=html")).body, path


async def test_filters_accept_the_name_with_its_task(still: Site) -> None:
    before = (await still.get("/events/?limit=9")).json["cursor"]
    named, _ = await put(still), await still.submit()
    query = "task=tests&job=nightly.report_1-a"
    for path in (f"/executions/?{query}", f"/executions/?{query}&perPage=1&status=waiting"):
        found = (await still.get(path)).json["items"]
        assert [one["executionId"] for one in found] == [named["executionId"]]
    events = (await still.get(f"/events/?{query}&after={before}&limit=9")).json["items"]
    assert [one["type"] for one in events] == ["job.created", "execution.enqueued"]
    assert {one["jobId"] for one in events} == {named["jobId"]}
    # What is written in the URL of a page is found there, too.
    assert named["executionId"].encode() in (await still.get(f"/executions/?{query}&as=html")).body
    body = {"task": "tests", "job": "nightly.report_1-a", "dryRun": False}
    stopped = (await still.post("/executions/stop/", body)).json
    assert [one["executionId"] for one in stopped["executions"]] == [named["executionId"]]
    for path in (
        "/events/?limit=9&job=nightly",
        "/events/?limit=9&job=nightly&task=a,b",
        "/events/?limit=9&job=nightly&task=a*",
    ):
        assert 'job is "nightly"; it must' in (await still.get(path)).problem(400)["detail"]
    said = (await still.get("/events/?limit=9&job=nightly&task=a")).problem(400)["detail"]
    assert said == 'There is no job "nightly" in task "a".'
    problem = await still.post("/executions/stop/", {**body, "task": "test*"})
    assert "the one task that task names" in problem.problem(400)["detail"]


async def test_masks_stand_for_what_the_name_has(still: Site) -> None:
    await put(still, envs={"TOKEN": "secret"})
    created = await put(still, envs={"TOKEN": "***", "A": "1"})
    job = await still.storage.jobs.get("tests", created["jobId"])
    assert job.definition.envs == {"TOKEN": "secret", "A": "1"}
    copy = await still.post(
        "/tasks/tests/?from=nightly.report_1-a", {**PAYLOAD, "envs": {"TOKEN": "***"}}
    )
    job = await still.storage.jobs.get("tests", copy.json["jobId"])
    assert job.definition.envs == {"TOKEN": "secret"}


@pytest.mark.parametrize(
    "name",
    [
        "Nightly",
        "-a",
        ".a",
        "_a",
        "a%20b",
        "a%C3%A9",
        "a" * 101,
        "00000000-0000-1000-8000-000000000000",
        "00000000000040008000000000000000",
        "%7B00000000-0000-4000-8000-000000000000%7D",
    ],
)
async def test_what_is_neither_a_name_nor_a_uuid4(still: Site, name: str) -> None:
    before = await still.counts()
    (await still.put(f"/tasks/tests/jobs/{name}", PAYLOAD)).problem(400)
    assert await still.counts() == before
    (await still.get(f"/tasks/tests/jobs/{name}")).problem(404)


async def test_names_that_are_nobodys(still: Site) -> None:
    await still.submit()
    for path in (PATH, f"{PATH}/stop", f"{PATH}/logs", f"{PATH}/executions/x/"):
        method = "POST" if path.endswith("stop") else "GET"
        assert "nightly" in (await still.request(method, path)).problem(404)["detail"]
    assert (await still.put("/tasks/tests/jobs/" + "a" * 100, PAYLOAD)).status == 200
    assert (await still.put("/tasks/tests/jobs/0", PAYLOAD)).status == 200
