"""What POST takes beside the reference: times, durations, nicknames of cron, from= and dryRun."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import MakeSite
from tests.api.http_site import PAYLOAD, Site

NOW = 1_800_000_000.0


@pytest.fixture
async def fixed(make_site: MakeSite) -> Site:
    """A server without background work, whose clock stands."""
    return await make_site(still=True, clock=lambda: NOW)


async def job_of(site: Site, **keys: Any) -> Any:
    created = await site.submit(**keys)
    return await site.storage.jobs.get("tests", created["jobId"])


@pytest.mark.parametrize(
    "text", ["2027-01-15T08:00:01Z", "2027-01-15T09:00:01.000+01:00", "2027-01-15t08:00:01z"]
)
async def test_start_at_as_rfc_3339(fixed: Site, text: str) -> None:
    assert (await job_of(fixed, startAt=text)).schedule.start_at == NOW + 1
    assert (await job_of(fixed, startAt="2001-01-01T00:00:00Z")).next_run_at is None


@pytest.mark.parametrize(
    "text",
    ["2027-01-15T08:00:01", "2027-01-15", "tomorrow", "2027-13-15T08:00:01Z", "1800000000", ""],
)
async def test_start_at_without_its_offset_is_refused(fixed: Site, text: str) -> None:
    (fault,) = (await fixed.post("/tasks/t/", {**PAYLOAD, "startAt": text})).problem(400)["errors"]
    assert fault["pointer"] == "/startAt"
    assert "RFC" in fault["message"] or "offset" in fault["message"]


async def test_durations(fixed: Site) -> None:
    definition = (await job_of(fixed, timeout="5m", expiration="2h")).definition
    assert (definition.timeout_seconds, definition.expires_at) == (300, NOW + 7200)
    definition = (await job_of(fixed, timeout=7, expiration=NOW + 5)).definition
    assert (definition.timeout_seconds, definition.expires_at) == (7, NOW + 5)
    for key, value in (
        ("timeout", "5"),
        ("timeout", "0s"),
        ("timeout", "100h"),
        ("expiration", "soon"),
        ("expiration", True),
        ("expiration", [1]),
        ("expiration", -1),
    ):
        (fault,) = (await fixed.post("/tasks/t/", {**PAYLOAD, key: value})).problem(400)["errors"]
        assert fault["pointer"] == f"/{key}"


@pytest.mark.parametrize(
    ("nickname", "cron"),
    [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
    ],
)
async def test_nicknames(fixed: Site, nickname: str, cron: str) -> None:
    named, plain = await job_of(fixed, cron=nickname), await job_of(fixed, cron=cron)
    assert named.next_run_at == plain.next_run_at
    assert named.schedule.cron == nickname
    (fault,) = (await fixed.post("/tasks/t/", {**PAYLOAD, "cron": "@often"})).problem(400)["errors"]
    assert nickname in fault["message"]


async def test_from_keeps_the_secrets_of_another_job(fixed: Site) -> None:
    stored = await fixed.submit(envs={"API_KEY": "secret"}, command=["a", "--token", "t"])
    shown = (await fixed.get(stored["jobUrl"])).json["job"]
    payload = {**PAYLOAD, "command": shown["command"], "envs": shown["metadata"]["envs"]}
    assert payload["envs"] == {"API_KEY": "***"}
    url = f"/tasks/tests/?from={stored['jobId']}"
    copy = (await fixed.post(url, payload)).json
    definition = (await fixed.storage.jobs.get("tests", copy["jobId"])).definition
    assert definition.envs == {"API_KEY": "secret"}
    assert definition.command.argv == ("a", "--token", "t")
    (fault,) = (await fixed.post(url, {**PAYLOAD, "envs": {"TOKEN": "***"}})).problem(400)["errors"]
    assert fault["pointer"] == "/envs/TOKEN"
    before = await fixed.counts()
    # Of this task only.
    (await fixed.post(f"/tasks/other/?from={stored['jobId']}", payload)).problem(404)
    (await fixed.post("/tasks/tests/?from=x", payload)).problem(404)
    assert await fixed.counts() == before
    # Another source is another request.
    key = {"Idempotency_Key": "k"}
    assert (await fixed.post(url, payload, **key)).status == 200
    (await fixed.post(f"/tasks/tests/?from={copy['jobId']}", payload, **key)).problem(422)


async def test_a_dry_run_stores_nothing(fixed: Site) -> None:
    before = await fixed.counts()
    keys = {**PAYLOAD, "cron": "@hourly", "envs": {"TOKEN": "t", "A": "1"}, "retries": 2}
    answer = (await fixed.post("/tasks/new/?dryRun=true", keys)).json
    assert answer["dryRun"] is True
    assert answer["nextRuns"] == [f"2027-01-15T{hour:02}:00:00.000000" for hour in range(9, 14)]
    assert answer["job"]["nextScheduledAt"] == answer["nextRuns"][0]
    assert answer["job"]["metadata"]["envs"] == {"TOKEN": "***", "A": "1"}
    assert answer["job"]["metadata"]["retries"] == 2
    assert (await fixed.post("/tasks/new/?dryRun=true", PAYLOAD)).json["nextRuns"] == [
        "2027-01-15T08:00:00.000000"
    ]
    (await fixed.post("/tasks/new/?dryRun=true", {**PAYLOAD, "cron": "x"})).problem(400)
    (await fixed.post("/tasks/new/?dryRun=yes", PAYLOAD)).problem(400)
    assert await fixed.counts() == before
    (await fixed.get("/tasks/new/")).problem(404)


async def test_a_run_is_told_what_it_is(site: Site) -> None:
    created = await site.submit("a%20task", envs={"FASTLANE_ATTEMPT": "mine", "A": "1"})
    envs = (await site.run_of(created)).spec.envs
    assert envs == {
        "FASTLANE_TASK_ID": "a task",
        "FASTLANE_JOB_ID": created["jobId"],
        "FASTLANE_EXECUTION_ID": created["executionId"],
        "FASTLANE_ATTEMPT": "mine",
        "A": "1",
    }
    shown = await site.execution(created)
    assert shown["metadata"]["envs"] == {"FASTLANE_ATTEMPT": "mine", "A": "1"}


async def test_a_retry_and_a_tick_are_told_so(site: Site) -> None:
    created = await site.submit(retries=1, backoff={"minMs": 0})
    (await site.run_of(created)).end(1)
    await site.status(created, "failed")
    retry = await site.storage.executions.retry_of(created["executionId"])
    assert retry is not None
    assert (await site.executor.started(retry.id)).spec.envs["FASTLANE_ATTEMPT"] == "1"
    scheduled = await site.submit(cron="0 0 1 1 *")
    job = await site.storage.jobs.get("tests", scheduled["jobId"])
    execution = await site.server.lifecycle.run_tick(job)
    assert execution is not None
    envs = (await site.executor.started(execution.id)).spec.envs
    assert envs["FASTLANE_SCHEDULED_AT"].endswith("-01-01T00:00:00Z")
