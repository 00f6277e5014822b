"""DELETE of executions, jobs and tasks: hidden at once, removed in the background."""

from __future__ import annotations

from typing import Any

import pytest

from fastlane.errors import HostUnavailable, NotFound
from fastlane.executors.base import ListedRun
from tests.api.conftest import MakeSite
from tests.api.http_site import PAYLOAD, Site
from tests.eventually import eventually
from tests.fakes import MemoryExecutor


async def ended(site: Site, task_id: str = "tests", **keys: Any) -> dict[str, Any]:
    created = await site.submit(task_id, **keys)
    (await site.run_of(created)).end(0)
    await site.status(created, "done")
    return created


async def removed(site: Site, execution_id: str) -> None:
    async def probe() -> bool:
        try:
            await site.storage.executions.get(execution_id)
        except NotFound:
            return True
        return False

    await eventually(probe, "the removal")


def url_of(created: dict[str, Any], kind: str) -> str:
    url: str = created[f"{kind}Url"]
    return url


@pytest.mark.parametrize("kind", ["execution", "job", "task"])
async def test_what_has_ended_is_deleted(site: Site, kind: str) -> None:
    created = await ended(site)
    other = await ended(site, "other")
    url = url_of(created, kind)
    answer = await site.request("DELETE", url)
    assert (answer.status, answer.body) == (204, b"")
    for path in (url, f"{created['executionUrl']}logs/", created["executionUrl"]):
        (await site.get(path)).problem(404)
    (await site.request("DELETE", url)).problem(404)
    (await site.post(f"{created['executionUrl']}stop/")).problem(404)
    (await site.post(f"{created['executionUrl']}rerun/")).problem(404)
    listed = [one["executionId"] for one in (await site.get("/executions/")).json["items"]]
    assert listed == [other["executionId"]]
    tasks = [one["taskId"] for one in (await site.get("/tasks/")).json["items"]]
    assert tasks == (["tests", "other"] if kind == "execution" else ["other"])
    found = (await site.get("/search/?query=tests")).json["total"]
    assert found == (1 if kind == "execution" else 0)
    if kind == "execution":
        job = (await site.get(created["jobUrl"])).json
        assert (job["total"], job["job"]["executions"]) == (0, [])
    await removed(site, created["executionId"])
    assert await site.storage.logs.read(created["executionId"]) == []
    assert (await site.get(other["executionUrl"])).status == 200
    # The name can be used again.
    again = await site.submit()
    assert (await site.get(again["taskUrl"])).json["total"] == (2 if kind == "execution" else 1)


@pytest.mark.parametrize("kind", ["execution", "job", "task"])
async def test_what_runs_is_deleted_with_force_only(site: Site, kind: str) -> None:
    created = await site.submit(retries=3)
    await site.status(created, "running")
    url = url_of(created, kind)
    assert "force" in (await site.request("DELETE", url)).problem(409)["detail"]
    (await site.request("DELETE", f"{url}?force=yes")).problem(400)
    assert (await site.execution(created))["status"] == "running"
    assert (await site.request("DELETE", f"{url}?force=true")).status == 204
    (await site.get(created["executionUrl"])).problem(404)
    await removed(site, created["executionId"])
    # Its owner stops it; the removal may find it before it is cleared away.
    assert site.executor.calls["stop"] >= 1
    assert site.executor.runs_by_id == {}
    counts = await site.counts()
    assert (counts.queued, counts.delayed, counts.active) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["execution", "job", "task"])
async def test_what_still_runs_holds_its_slot_unseen(still: Site, kind: str) -> None:
    created, other = await still.submit(), await still.submit("other")
    for _ in range(2):
        await still.storage.executions.claim(
            "default", host="one:1", owner="me", max_running=9, now=1.0
        )
    await still.request("DELETE", f"{url_of(created, kind)}?force=true")
    status = (await still.get("/status/")).json
    running = [one["executionId"] for one in status["containers"]["running"]]
    (host,) = (await still.get("/hosts/")).json["farms"][0]["hosts"][-1:]
    assert running == [one["executionId"] for one in host["executions"]] == [other["executionId"]]
    assert (status["farms"][0]["running"], host["running"]) == (2, 2)


async def test_a_deleted_job_has_no_ticks(still: Site) -> None:
    created = await still.submit(cron="* * * * *")
    assert (await still.request("DELETE", created["jobUrl"])).status == 204
    assert await still.storage.jobs.due(1e12, 10) == []
    assert (await still.get("/status/")).json["jobs"]["count"] == 0


async def test_put_makes_a_deleted_job_anew(site: Site) -> None:
    created = await ended(site)
    await site.request("DELETE", created["jobUrl"])
    answer = (await site.put(created["jobUrl"].removeprefix(site.base), PAYLOAD)).json
    assert answer["jobId"] == created["jobId"]
    (await site.run_of(answer)).end(0)
    await site.status(answer, "done")
    assert (await site.get(created["jobUrl"])).json["total"] == 1
    (await site.get(created["executionUrl"])).problem(404)


async def test_an_idempotency_key_is_forgotten_with_its_job(still: Site) -> None:
    key = {"Idempotency_Key": "one"}
    first = (await still.post("/tasks/tests/", PAYLOAD, **key)).json
    await still.request("DELETE", f"{first['jobUrl']}?force=true")
    again = await still.post("/tasks/tests/", PAYLOAD, **key)
    assert "Idempotent-Replayed" not in again.headers
    assert again.json["jobId"] != first["jobId"]


async def test_notifications_are_delivered_all_the_same(site: Site) -> None:
    created = await site.submit(notify={"finishes": ["ann@example.org"]})
    (await site.run_of(created)).end(0)
    await site.request("DELETE", f"{created['taskUrl']}?force=true")
    # There is no mail server, so the attempt fails; then nothing is pending.
    await removed(site, created["executionId"])


class Keeping(MemoryExecutor):
    """Its runs stay when they have ended, and its host may be silent."""

    silent = False

    async def archive(self, host: str, run_id: str) -> None:
        self.calls["archive"] += 1

    async def runs(self, host: str) -> list[ListedRun]:
        if self.silent:
            raise HostUnavailable(host, "silent")
        return list(await super().runs(host))


async def test_a_kept_container_is_removed_before_its_record(make_site: MakeSite) -> None:
    executor = Keeping()
    site = await make_site(executor=executor, container_retention=3600)
    created = await ended(site)
    assert len(executor.runs_by_id) == 1
    executor.silent = True
    await site.request("DELETE", created["jobUrl"])
    (await site.get(created["jobUrl"])).problem(404)
    # It can still be found by its record, whoever restarts.
    await site.storage.executions.get(created["executionId"])
    executor.silent = False
    other = await ended(site)
    await site.request("DELETE", other["jobUrl"])
    for one in (created, other):
        await removed(site, one["executionId"])
    assert executor.runs_by_id == {}


async def test_a_restart_continues_a_deletion(make_site: MakeSite) -> None:
    site = await make_site(still=True)
    created = await site.submit()
    await site.request("DELETE", f"{created['taskUrl']}?force=true")
    await site.storage.executions.get(created["executionId"])
    data_dir = site.server.config.data_dir
    await site.server.stop()
    from fastlane.config import Config
    from fastlane.server import Server

    config = Config(port=0, data_dir=data_dir, docker_host="tcp://localhost:1234")
    again = Server(config, executor=MemoryExecutor())
    await again.start()
    try:

        async def gone() -> bool:
            try:
                await again.storage.executions.get(created["executionId"])
            except NotFound:
                return True
            return False

        await eventually(gone, "the removal after the restart")
    finally:
        await again.stop()
