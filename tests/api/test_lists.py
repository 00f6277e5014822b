"""Lists over all tasks: WATCH.md, "Lists across tasks"."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest

from fastlane.api.schemas.listed import in_words
from fastlane.model import Outcome, Reason, Status
from tests.api.conftest import MakeSite
from tests.api.http_site import Site
from tests.eventually import eventually

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
ITEM_KEYS = """
executionId url taskId taskUrl jobId jobUrl jobName number attempt trigger status reason error
exitCode image command farm host createdAt queuedAt startedAt finishedAt durationSeconds waiting
nextAttemptAt
"""


async def finish(site: Site, outcome: Outcome, host: str = "one") -> None:
    """End the first execution in the queue."""
    storage, now = site.storage, site.server.parts.services.clock()
    taken = await storage.executions.claim(
        "default", host=host, owner="me", max_running=100, now=now
    )
    assert taken is not None
    await storage.executions.started(taken.id, taken.epoch, run_id="c", started_at=now)
    await storage.executions.finish(
        taken.id, taken.epoch, outcome, expected_stop=None, retry=None, finished_at=now + 2.5
    )


async def items(site: Site, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await site.get(f"/executions/?{query}")).json["items"]
    return found


async def test_an_execution_that_failed(still: Site) -> None:
    await still.submit("night%20ly", command="work --password=geheim now")
    failed = Outcome(Status.FAILED, Reason.EXIT_CODE, exit_code=3, error="token=abc " + "x" * 400)
    await finish(still, failed)
    (item,) = await items(still, "status=failed&since=1h")
    assert set(item) == set(ITEM_KEYS.split())
    assert item["url"] == (
        f"{still.base}/tasks/night%20ly/jobs/{item['jobId']}/executions/{item['executionId']}/"
    )
    assert (item["taskId"], item["number"], item["attempt"]) == ("night ly", 1, 0)
    assert (item["trigger"], item["status"], item["reason"]) == ("submit", "failed", "exit-code")
    assert (item["exitCode"], item["farm"], item["host"]) == (3, "default", "one")
    assert item["command"] == "work --password=*** now"
    assert item["error"].startswith("token=*** xxx")
    assert len(item["error"]) == 300
    assert (item["waiting"], item["nextAttemptAt"]) == (None, None)
    for name in ("createdAt", "queuedAt", "startedAt", "finishedAt"):
        assert INSTANT.fullmatch(item[name]), name
    assert item["durationSeconds"] == 2.5
    assert (await still.get(item["url"])).status == (await still.get(item["jobUrl"])).status == 200


async def test_pages_follow_nextUrl_and_keep_the_filter(still: Site) -> None:  # noqa: N802
    for number in range(5):
        await still.submit(f"billing-{number}")
    await still.submit("other")
    seen: list[str] = []
    following: str | None = "/executions/?task=billing-*&perPage=2&status=waiting"
    while following is not None:
        page = (await still.get(following)).json
        assert set(page) == {"items", "nextUrl", "perPage", "total", "totalIsLowerBound"}
        assert page["perPage"] == 2
        seen += [item["taskId"] for item in page["items"]]
        following = page["nextUrl"]
    assert seen == [f"billing-{number}" for number in (4, 3, 2, 1, 0)]
    page = (await still.get("/executions/")).json
    assert (page["total"], page["totalIsLowerBound"], page["nextUrl"]) == (6, False, None)


async def test_filters(still: Site) -> None:
    await still.submit("a")
    await finish(still, Outcome(Status.DONE, Reason.EXIT_CODE, exit_code=0))
    await still.submit("a*b")
    await finish(still, Outcome(Status.FAILED, Reason.OOM, exit_code=137), "two")
    await still.submit("c", command="wait")
    (newest, *_) = await items(still)
    created = newest["createdAt"]
    for query, expected in {
        "": "c a*b a",
        "task=a": "a",
        "task=a*": "a*b a",
        r"task=a\*b": "a*b",
        r"task=a\**": "a*b",
        "task=*": "c a*b a",
        "status=waiting": "c",
        "status=final": "a*b a",
        "status=active": "",
        "status=waiting,%20done": "c a",
        "reason=oom": "a*b",
        "trigger=submit": "c a*b a",
        "trigger=cron,manual": "",
        "farm=default": "c a*b a",
        "farm=none": "",
        "host=two": "a*b",
        f"job={newest['jobId'].upper()}": "c",
        f"q={newest['executionId'][:8]}": "c",
        f"q={newest['jobId'][:8]}&status=waiting": "c",
        "q=B": "a*b",
        "q=nothing": "",
        "q=": "c a*b a",
        f"since={created}": "c",
        f"until={created}": "a*b a",
        "since=1d": "c a*b a",
        "until=1d": "",
        f"since={datetime.fromisoformat(created).timestamp() - 3600}&task=a": "a",
        f"since={quote(datetime.now(UTC).astimezone().isoformat())}": "",
        "since=1h&status=failed,done&_=17": "a*b a",
    }.items():
        assert " ".join(item["taskId"] for item in await items(still, query)) == expected, query
    assert "runs 0" not in (newest["waiting"] or "")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("status=faild", 'status has "faild"; it must be one or more of enqueued, pulling'),
        ("status=faild", 'Did you mean "failed"?'),
        ("reason=exitcode", 'Did you mean "exit-code"?'),
        ("trigger=crom", 'Did you mean "cron"?'),
        ("stauts=failed", 'Unknown query parameter "stauts". Did you mean "status"?'),
        ("since=yesterday", 'since is "yesterday"; it must be unix seconds, a time such as'),
        ("since=2026-01-01T00:00:00", "a time such as"),
        ("task=a*b*", "a star may only end it"),
        ("job=nightly", 'job is "nightly"; it must be the id of a job, a UUID4 such as'),
        ("task=a*&job=nightly", "or the name of a job of the one task that task names."),
        ("task=a&job=Nightly", 'job is "Nightly"; it must be the id of a job'),
        ("task=a&job=nightly", 'There is no job "nightly" in task "a".'),
        ("perPage=101", "it must be a whole number from 1 to 100"),
        ("q=" + "x" * 1001, "q has 1001 characters; the maximum is 1000."),
        ("cursor=1", '"1" is not a cursor of this list.'),
    ],
)
async def test_what_is_wrong_is_said(still: Site, query: str, said: str) -> None:
    assert said in (await still.get(f"/executions/?{query}")).problem(400)["detail"]


async def test_tasks_and_jobs_show_their_last_execution(still: Site) -> None:
    """In the times of the reference, whose routes these are."""
    scheduled = await still.submit("a", startIn="5m")
    ran = await still.submit("a")
    await finish(still, Outcome(Status.DONE, Reason.EXIT_CODE, exit_code=0))
    (task,) = (await still.get("/tasks/")).json["items"]
    last = task["lastExecution"]
    assert last == {
        "executionId": ran["executionId"],
        "url": ran["executionUrl"],
        "status": "done",
        "reason": "exit-code",
        "exitCode": 0,
        "createdAt": last["createdAt"],
        "finishedAt": last["finishedAt"],
    }
    assert not INSTANT.fullmatch(last["finishedAt"])
    assert INSTANT.fullmatch(f"{last['finishedAt']}Z")
    found = (await still.get("/tasks/a/")).json
    assert found["lastExecution"] == last
    assert {job["id"]: job["lastExecution"] for job in found["jobs"]} == {
        ran["jobId"]: last,
        scheduled["jobId"]: None,
    }


FARMS = [
    {"name": "builds", "match": "^build-", "hosts": ["b:1", "b:2"], "maxRunning": 3},
    {"name": "rest", "match": "", "hosts": ["r:1"], "maxRunning": 5},
]


async def test_hosts(make_site: MakeSite) -> None:
    site = await make_site(still=True, docker_hosts=json.dumps(FARMS))
    storage, now = site.storage, site.server.parts.services.clock()
    run = await site.submit("build-it")
    taken = await storage.executions.claim("builds", host="b:1", owner="me", max_running=9, now=now)
    assert taken is not None
    await site.submit("build-more")
    await storage.executions.claim("builds", host="gone:1", owner="me", max_running=9, now=now)
    await site.post("/docker-executor/blacklist/", {"host": "b:2"})
    site.server.parts.services.hosts.failed("b:1", "no answer")
    builds, rest = (await site.get("/hosts/")).json["farms"]
    hosts = {host["host"]: host for host in builds["hosts"]}
    assert list(hosts) == ["b:1", "b:2", "gone:1"]
    assert (builds["name"], builds["running"], builds["maxRunning"]) == ("builds", 2, 3)
    assert hosts["b:1"]["executions"] == [
        {
            "executionId": run["executionId"],
            "url": run["executionUrl"],
            "taskId": "build-it",
            "jobId": run["jobId"],
            "status": "pulling",
            "startedAt": None,
        }
    ]
    one, two, gone = hosts.values()
    assert (one["failures"], one["error"], one["drained"]) == (1, "no answer", False)
    assert (two["drained"], two["available"], two["executions"]) == (True, False, [])
    assert (gone["configured"], gone["running"]) == (False, 1)
    assert (rest["running"], rest["hosts"][0]["engine"]) == (0, None)


async def test_jobs(still: Site) -> None:
    cron = await still.submit("nightly", cron="0 3 * * mon-fri", timezone="Europe/Berlin")
    later = await still.submit("later", startAt=2_000_000_000)
    ran = await still.submit("nightly-2", command="go --token=abc")
    await finish(still, Outcome(Status.DONE, Reason.EXIT_CODE, exit_code=0))
    page = (await still.get("/jobs/")).json
    assert set(page) == {"items", "nextUrl", "perPage", "total", "totalIsLowerBound"}
    newest, middle, oldest = page["items"]
    assert newest["jobId"] == ran["jobId"]
    assert (newest["state"], newest["schedule"], newest["scheduleText"]) == ("idle", None, None)
    assert newest["command"] == "go --token=***"
    assert newest["lastExecution"]["executionId"] == ran["executionId"]
    assert INSTANT.fullmatch(newest["lastExecution"]["finishedAt"])
    assert middle["jobId"] == later["jobId"]
    assert middle["schedule"] == {"startAt": "2033-05-18T03:33:20.000000Z"}
    assert middle["nextScheduledAt"] == "2033-05-18T03:33:20.000000Z"
    assert oldest == {
        "jobId": cron["jobId"],
        "name": None,
        "url": cron["jobUrl"],
        "taskId": "nightly",
        "taskUrl": cron["taskUrl"],
        "image": "busy:latest",
        "command": "true",
        "schedule": {"cron": "0 3 * * mon-fri", "timezone": "Europe/Berlin"},
        "scheduleText": "At 03:00, Monday through Friday",
        "nextScheduledAt": oldest["nextScheduledAt"],
        "state": "scheduled",
        "paused": False,
        "executionCount": 0,
        "lastExecution": None,
    }
    for query, expected in {
        "kind=cron": "nightly",
        "kind=once": "nightly-2 later",
        "state=scheduled": "later nightly",
        "state=active": "",
        "task=nightly*&state=idle": "nightly-2",
    }.items():
        found = (await still.get(f"/jobs/?{query}")).json["items"]
        assert " ".join(item["taskId"] for item in found) == expected, query
    page = (await still.get("/jobs/?perPage=2&state=scheduled&kind=cron")).json
    assert page["nextUrl"] is None
    page = (await still.get("/jobs/?perPage=1&task=night*")).json
    assert (await still.get(page["nextUrl"])).json["items"][0]["taskId"] == "nightly"
    said = (await still.get("/jobs/?state=schedule")).problem(400)["detail"]
    assert 'Did you mean "scheduled"?' in said


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("@hourly", "Every hour"),
        ("@daily", "At 00:00"),
        (" @Weekly ", "At 00:00, only on Sunday"),
        ("@monthly", "At 00:00, on day 1 of the month"),
        ("@yearly", "At 00:00, on day 1 of the month, only in January"),
    ],
)
def test_nicknames_in_words(cron: str, words: str) -> None:
    assert in_words(cron) == words


async def test_stats(site: Site) -> None:
    """The counters follow what happens; a step has what ended in it."""
    for name in ("a", "a", "b"):
        run = await site.run_of(await site.submit(name))
        run.end(1 if name == "b" else 0)

    async def last_step() -> Any:
        item = (await site.get("/stats/?since=1h&step=1h")).json["items"][-1]
        return item if item["done"] + item["failed"] == 3 else None

    item = await eventually(last_step, "three ends")
    assert (item["enqueued"], item["done"], item["failed"], item["expired"]) == (3, 2, 1, 0)


async def test_stats_of_a_task_without_counters(still: Site) -> None:
    for _ in range(3):
        await still.submit("a")
    await finish(still, Outcome(Status.DONE, Reason.EXIT_CODE, exit_code=0))
    await finish(still, Outcome(Status.FAILED, Reason.OOM, exit_code=137))
    found = (await still.get("/stats/?task=a&since=2h&step=5m")).json
    assert (found["task"], found["step"], found["source"]) == ("a", "5m", "executions")
    assert 24 <= len(found["items"]) <= 25
    assert {len(item) for item in found["items"]} == {8}
    names = ("enqueued", "done", "failed", "timedout", "expired")
    assert [sum(item[name] for item in found["items"]) for name in names] == [3, 1, 1, 0, 0]
    (item, *_) = [item for item in found["items"] if item["done"]]
    assert item["durationSeconds"]["median"] == pytest.approx(2.5, rel=0.1)
    assert item["durationSeconds"]["p95"] == pytest.approx(2.5, rel=0.1)
    assert item["waitingSeconds"]["median"] is not None
    empty = (await still.get("/stats/")).json
    assert (empty["task"], empty["source"], len(empty["items"])) == (None, "counters", 25)
    assert empty["items"][0]["durationSeconds"] == {"median": None, "p95": None}
    (await still.get("/stats/?task=nobody")).problem(404)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("step=2h", 'step is "2h"; it must be "1m" or "5m"'),
        ("since=2d&step=1m", "there are 2881 steps of 1m; at most 1500"),
        ("since=2d&step=5m", "Steps of 5m reach back 24 hours"),
        ("since=90d&step=1h", "at most 1500"),
        ("since=soon", "a duration back from now"),
    ],
)
async def test_too_many_steps(still: Site, query: str, said: str) -> None:
    assert said in (await still.get(f"/stats/?{query}")).problem(400)["detail"]
