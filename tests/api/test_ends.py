"""``?wait=`` and ``Prefer: wait=``: answers that come with the end of an execution."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from fastlane.errors import StorageUnavailable
from fastlane.storage.sqlite import SqliteStorage
from tests.api.conftest import MakeSite
from tests.api.http_site import PAYLOAD, Answer, Site
from tests.eventually import eventually
from tests.fakes import MemoryExecutor
from tests.storage_calls import Call, wrap

STATUS = ("Fastlane-Status", "Fastlane-Reason", "Fastlane-Exit-Code")


def told(answer: Answer) -> list[str | None]:
    return [answer.headers.get(name) for name in STATUS]


async def waiting(site: Site, count: int = 1) -> None:
    """Return once so many requests wait."""
    await eventually(lambda: len(site.server.services.ends) == count, f"{count} to wait")


async def one_run(site: Site) -> Any:
    async def probe() -> Any:
        return next(iter(site.executor.runs_by_id.values()), None)

    return await eventually(probe, "a run")


@pytest.mark.parametrize("asked", [("?wait=60", {}), ("", {"Prefer": "respond-async, wait=60"})])
async def test_post_answers_with_the_end(site: Site, asked: tuple[str, dict[str, str]]) -> None:
    query, headers = asked
    post = asyncio.create_task(site.post(f"/tasks/tests/{query}", PAYLOAD, **headers))
    await waiting(site)
    (await one_run(site)).end(3)
    answer = await post
    assert answer.status == 200
    assert told(answer) == ["failed", "exit-code", "3"]
    assert answer.headers.get("Preference-Applied") == (None if query else "wait=60")
    details = (await site.get(answer.json["executionUrl"])).json["execution"]
    assert answer.json["execution"] == details
    assert details["executionId"] == answer.json["executionId"]
    assert set(answer.json) - {"execution"} == set(await site.submit())


async def test_retries_are_waited_for(site: Site) -> None:
    keys = {**PAYLOAD, "retries": 1, "backoff": {"minMs": 0}}
    post = asyncio.create_task(site.post("/tasks/tests/?wait=60", keys))
    first = await one_run(site)
    execution = asyncio.create_task(
        site.get(
            f"/tasks/tests/jobs/{first.spec.job_id}/executions/{first.spec.execution_id}?wait=9"
        )
    )
    await waiting(site, 2)
    first.end(1)
    ended = await execution
    # An execution is itself only; its job's end includes the retries.
    assert told(ended) == ["failed", "exit-code", "1"]
    assert ended.json["execution"]["metadata"]["attempt"] == 0

    async def second() -> Any:
        runs = site.executor.runs_by_id.values()
        return next((one for one in runs if one.spec.execution_id != first.spec.execution_id), None)

    run = await eventually(second, "the retry")
    assert not post.done()
    job = asyncio.create_task(site.get(f"/tasks/tests/jobs/{first.spec.job_id}/?wait=60"))
    await waiting(site, 2)
    run.end(0)
    answer = await post
    assert told(answer) == told(await job) == ["done", "exit-code", "0"]
    assert answer.json["execution"]["metadata"]["attempt"] == 1
    assert answer.json["executionId"] == first.spec.execution_id
    assert (await job).json["job"]["executions"][0] == answer.json["execution"]


async def test_what_does_not_end_in_time_is_202(still: Site) -> None:
    answer = await still.post("/tasks/tests/?wait=0", PAYLOAD)
    assert answer.status == 202
    created = answer.any_json
    assert "execution" not in created
    assert told(answer) == ["enqueued", None, None]
    for url, key in ((created["executionUrl"], "execution"), (created["jobUrl"], "job")):
        answer = await still.get(f"{url}?wait=0")
        assert answer.status == 202
        assert answer.any_json[key] == (await still.get(url)).json[key]
    started = time.monotonic()
    assert (await still.get(f"{created['executionUrl']}?wait=1")).status == 202
    assert time.monotonic() - started >= 1
    await still.post(f"{created['jobUrl']}stop")
    for url in (created["executionUrl"], created["jobUrl"]):
        assert told(await still.get(f"{url}?wait=9")) == ["failed", "stopped", None]


@pytest.mark.parametrize("wait", ["301", "-1", "1.5", "x", ""])
async def test_a_wrong_wait_changes_nothing(still: Site, wait: str) -> None:
    created = await still.submit()
    before = await still.counts()
    for path in ("/tasks/tests/", created["jobUrl"], created["executionUrl"]):
        method = "POST" if path.startswith("/") else "GET"
        answer = await still.request(
            method, f"{path}?wait={wait}", None if method == "GET" else PAYLOAD
        )
        assert "300" in answer.problem(400)["detail"]
    assert await still.counts() == before


async def test_a_preference_is_cut_or_ignored(still: Site) -> None:
    created = await still.submit()
    await still.post(f"{created['jobUrl']}stop")
    for preference, applied in (
        ("wait=3600", "wait=300"),
        ('WAIT = "20"; of=it', "wait=20"),
        ("wait=soon", None),
        ("wait", None),
        ("handling=lenient", None),
    ):
        answer = await still.get(created["executionUrl"], Prefer=preference)
        assert answer.status == 200
        assert answer.headers.get("Preference-Applied") == applied


async def test_there_is_no_end_of_a_scheduled_job(still: Site) -> None:
    before = await still.counts()
    for keys in ({"cron": "* * * * *"}, {"startIn": "1h"}):
        problem = (await still.post("/tasks/tests/?wait=9", {**PAYLOAD, **keys})).problem(400)
        assert "scheduled" in problem["detail"]
    assert await still.counts() == before
    # RFC 7240, section 2: what cannot be met is ignored.
    answer = await still.post("/tasks/tests/", {**PAYLOAD, "cron": "* * * * *"}, Prefer="wait=9")
    assert answer.json["executionId"] is None
    assert "Preference-Applied" not in answer.headers
    assert (
        "scheduled" in (await still.get(f"{answer.json['jobUrl']}?wait=9")).problem(400)["detail"]
    )
    assert (await still.get(answer.json["jobUrl"], Prefer="wait=9")).status == 200
    past = await still.post("/tasks/tests/?wait=0", {**PAYLOAD, "startAt": 1})
    assert past.status == 202


async def test_a_repeat_waits_again(site: Site) -> None:
    key = {"Idempotency_Key": "one"}
    first = await site.post("/tasks/tests/?wait=0", PAYLOAD, **key)
    assert first.status == 202
    again = asyncio.create_task(site.post("/tasks/tests/?wait=60", PAYLOAD, **key))
    await waiting(site)
    (await one_run(site)).end(0)
    answer = await again
    assert answer.headers["Idempotent-Replayed"] == "true"
    assert answer.json["executionId"] == first.any_json["executionId"]
    assert answer.json["execution"]["status"] == "done"
    assert len(site.executor.runs_by_id) <= 1


async def test_a_client_that_hangs_up_cancels_nothing(site: Site) -> None:
    post = asyncio.create_task(site.post("/tasks/tests/?wait=60", PAYLOAD))
    await waiting(site)
    run = await one_run(site)
    post.cancel()
    await waiting(site, 0)
    run.end(0)
    url = f"/tasks/tests/jobs/{run.spec.job_id}/executions/{run.spec.execution_id}/"
    assert told(await site.get(f"{url}?wait=60")) == ["done", "exit-code", "0"]


async def test_a_shutdown_answers_202(make_site: MakeSite) -> None:
    site = await make_site()
    created = await site.submit()
    requests = [
        asyncio.create_task(site.post("/tasks/tests/?wait=60", PAYLOAD)),
        asyncio.create_task(site.get(f"{created['executionUrl']}?wait=60")),
        asyncio.create_task(site.get(f"{created['jobUrl']}?wait=60")),
    ]
    await waiting(site, 3)
    await site.server.stop()
    assert [(await one).status for one in requests] == [202, 202, 202]


class Outage(SqliteStorage):
    """Unreachable for those who read executions, while ``away``."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.away = False
        wrap(self, "executions.get", self._fail)

    def _fail(self, get: Call) -> Call:
        async def fail(*args: Any, **kwargs: Any) -> Any:
            if self.away:
                raise StorageUnavailable("away")
            return await get(*args, **kwargs)

        return fail


async def test_an_outage_does_not_take_back_what_was_accepted(make_site: MakeSite) -> None:
    site = await make_site(storage=Outage, still=True)
    storage = site.storage
    assert isinstance(storage, Outage)
    storage.away = True
    answer = await site.post("/tasks/tests/?wait=1", PAYLOAD)
    assert answer.status == 202
    storage.away = False
    assert (await site.get(answer.any_json["executionUrl"])).status == 200


async def test_what_ended_already_is_answered_at_once(make_site: MakeSite) -> None:
    site = await make_site(executor=MemoryExecutor(instant=True))
    answer = await site.post("/tasks/tests/?wait=60", PAYLOAD)
    assert told(answer) == ["done", "exit-code", "0"]
    assert answer.json["execution"]["log"] == "out\n"
    for url in (answer.json["executionUrl"], answer.json["jobUrl"]):
        assert told(await site.get(f"{url}?wait=60")) == ["done", "exit-code", "0"]
