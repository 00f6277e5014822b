"""``POST /executions/stop/`` and ``rerun/``: by ids or by the filters of the list."""

from __future__ import annotations

from typing import Any

import pytest

from fastlane.api.handlers import bulk
from fastlane.api.schemas.bulk import MOST_EXECUTIONS
from tests.api.http_site import Site

STOP, RERUN = "/executions/stop/", "/executions/rerun/"


def ids(answer: dict[str, Any]) -> set[str]:
    return {one["executionId"] for one in answer["executions"]}


async def ask(site: Site, path: str, **body: Any) -> dict[str, Any]:
    found: dict[str, Any] = (await site.post(path, {"dryRun": False, **body})).json
    assert len(found["executions"]) == found["matched"]
    assert sum(one["changed"] for one in found["executions"]) == found["changed"]
    return found


async def test_stop_by_filter(site: Site) -> None:
    ended = await site.submit("billing-1")
    (await site.run_of(ended)).end(1)
    await site.status(ended, "failed")
    runs = [await site.submit("billing-1"), await site.submit("billing-2", retries=3)]
    other = await site.submit("other")
    for one in (*runs, other):
        await site.status(one, "running")
    expected = {one["executionId"] for one in runs}
    dry = await ask(site, STOP, task="billing-*", dryRun=True)
    assert (dry["matched"], dry["changed"], ids(dry)) == (2, 2, expected)
    assert {(await site.execution(one))["status"] for one in runs} == {"running"}
    problem = await site.post(STOP, {"task": "billing-*", "dryRun": False, "expected": 3})
    assert "2 executions match" in problem.problem(409)["detail"]
    done = await ask(site, STOP, task="billing-*", expected=2)
    assert (done["matched"], done["changed"], ids(done)) == (2, 2, expected)
    for one in runs:
        assert (await site.status(one, "failed"))["reason"] == "stopped"
    again = await ask(site, STOP, task="billing-*")
    assert (again["matched"], again["changed"]) == (0, 0)
    # What is named by its status matches, and is left alone.
    final = await ask(site, STOP, task="billing-*", status=["final"])
    assert (final["matched"], final["changed"]) == (3, 0)
    assert (await site.execution(other))["status"] == "running"


async def test_stop_ends_the_retry_that_followed(site: Site) -> None:
    failed = await site.submit(retries=3, backoff={"minMs": 600_000, "maxMs": 600_000})
    (await site.run_of(failed)).end(1)
    await site.status(failed, "failed")
    assert (await site.counts()).delayed == 1
    named = [failed["executionId"]]
    for dry_run in (True, False):
        found = await ask(site, STOP, ids=named, dryRun=dry_run)
        assert (found["matched"], found["changed"], ids(found)) == (1, 1, {*named})
    assert (await site.counts()).delayed == 0
    assert (await ask(site, STOP, ids=named))["changed"] == 0


async def test_rerun_by_filter_and_by_ids(site: Site) -> None:
    failed = [await site.submit("jobs", command=f"c{n}") for n in range(3)]
    for one in failed:
        (await site.run_of(one)).end(1)
        await site.status(one, "failed")
    fine = await site.submit("jobs")
    (await site.run_of(fine)).end(0)
    await site.status(fine, "done")
    body = {"task": "jobs", "status": ["failed", "timedout"], "reason": ["exit-code"]}
    before = await site.counts()
    dry = await ask(site, RERUN, **body, since="1h", dryRun=True)
    assert (dry["matched"], dry["changed"]) == (3, 3)
    assert {one["newExecutionId"] for one in dry["executions"]} == {None}
    assert await site.counts() == before
    done = await ask(site, RERUN, **body, since="1h", until=4e9)
    assert (done["matched"], done["changed"]) == (3, 3)
    for one in done["executions"]:
        new = await site.storage.executions.get(one["newExecutionId"])
        old = await site.storage.executions.get(one["executionId"])
        assert new.definition == old.definition
        assert one["newExecutionUrl"].endswith(f"{new.id}/")
    missing = "36e1b166-7c7a-4a41-a69e-8f78a9ec8128"
    named = await ask(site, RERUN, ids=[fine["executionId"], fine["executionId"], missing])
    assert (named["matched"], named["changed"]) == (1, 1)
    await site.request("DELETE", fine["executionUrl"])
    assert (await ask(site, RERUN, ids=[fine["executionId"]]))["matched"] == 0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "dryRun"),
        ({"ids": ["x"]}, "dryRun"),
        ({"dryRun": True}, "filter"),
        ({"dryRun": True, "ids": ["x"], "task": "t"}, "either"),
        ({"dryRun": True, "ids": []}, "ids"),
        ({"dryRun": True, "ids": ["x"] * 1001}, "1000"),
        ({"dryRun": "yes", "ids": ["x"]}, "dryRun"),
        ({"dryRun": True, "tasks": "t"}, "task"),
        ({"dryRun": True, "status": "failed"}, "list"),
        ({"dryRun": True, "status": ["fail"]}, "failed"),
        ({"dryRun": True, "since": "yesterday"}, "since"),
        ({"dryRun": True, "since": True}, "since"),
        ({"dryRun": True, "ids": ["x"], "expected": -1}, "expected"),
    ],
)
async def test_a_wrong_body_changes_nothing(still: Site, body: dict[str, Any], words: str) -> None:
    await still.submit()
    before = await still.counts()
    for path in (STOP, RERUN):
        problem = (await still.post(path, body)).problem(400)
        assert words in f"{problem}"
    assert await still.counts() == before


async def test_more_than_it_may_be(still: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_EXECUTIONS == 1000
    monkeypatch.setattr(bulk, "MOST_EXECUTIONS", 3)
    for _ in range(4):
        await still.submit("many")
    for path in (STOP, RERUN):
        problem = (await still.post(path, {"task": "many", "dryRun": False})).problem(400)
        assert "More than 3" in problem["detail"]
    assert (await still.counts()).queued == 4
