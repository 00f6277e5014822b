"""GET /metrics: what it counts, who may read it, and how few labels it has."""

from __future__ import annotations

import re
import time
import uuid
from functools import partial
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from fastlane.api.routes import ROUTES
from fastlane.metrics import OTHER, TaskLabels
from fastlane.storage.sqlite import SqliteStorage
from tests.api.conftest import MakeSite
from tests.api.http_site import Site
from tests.eventually import eventually
from tests.fakes import MemoryExecutor
from tests.prometheus import promtool

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
# WATCH.md, "Metrics and traces".
NAMES = {
    "fastlane_executions_total",
    "fastlane_execution_duration_seconds_count",
    "fastlane_execution_wait_seconds_count",
    "fastlane_schedule_lateness_seconds_count",
    "fastlane_executions_current",
    "fastlane_queue_length",
    "fastlane_oldest_waiting_seconds",
    "fastlane_slots",
    "fastlane_host_up",
    "fastlane_task_last_success_timestamp_seconds",
    "fastlane_notifications",
    "fastlane_log_bytes_total",
    "fastlane_log_viewers",
    "fastlane_http_requests_total",
    "fastlane_http_request_duration_seconds_count",
    "fastlane_event_loop_lag_seconds_count",
    "fastlane_storage_operation_duration_seconds_count",
    "fastlane_storage_errors_total",
    "fastlane_build_info",
    "process_cpu_seconds_total",
}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def samples(site: Site) -> Samples:
    answer = await site.get("/metrics")
    assert answer.status == 200, answer.body
    return {
        (one.name, frozenset(one.labels.items())): one.value
        for family in text_string_to_metric_families(answer.body.decode())
        for one in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((f"fastlane_{name}", frozenset(labels.items())))


async def test_a_run_is_counted(make_site: MakeSite) -> None:
    """Once, however often its end is published, and with all that a gauge shows of it."""
    site = await make_site(executor=MemoryExecutor(instant=True))
    job = await site.submit("count")
    await site.status(job, "done")
    for _ in range(2):
        await site.post(f"{job['executionUrl'].removeprefix(site.base)}stop/")
    found = await samples(site)
    assert value(found, "executions_total", task="count", status="done", reason="exit-code") == 1
    assert value(found, "execution_duration_seconds_count") == 1
    assert value(found, "execution_wait_seconds_count") == 1
    assert value(found, "log_bytes_total") == len("out\n")
    done_at = value(found, "task_last_success_timestamp_seconds", task="count")
    assert done_at is not None
    assert abs(done_at - time.time()) < 60
    assert value(found, "http_requests_total", route="/tasks/<task>", method="POST", code="200")
    assert value(found, "storage_operation_duration_seconds_count", operation="executions.claim")
    assert {name for name, _ in found} >= NAMES


async def test_gauges_are_read_when_they_are_asked_for(still: Site) -> None:
    farm = still.server.config.docker_hosts[0]
    for _ in range(3):
        await still.submit("waiting")
    assert await still.server.lifecycle.claim(farm, farm.hosts[0]) is not None
    found = await samples(still)
    assert value(found, "executions_current", status="enqueued") == 2
    assert value(found, "executions_current", status="pulling") == 1
    assert value(found, "executions_current", status="running") == 0
    assert value(found, "queue_length", farm=farm.name) == 2
    oldest = value(found, "oldest_waiting_seconds", farm=farm.name)
    assert oldest is not None
    assert 0 < oldest < 60
    assert value(found, "slots", farm=farm.name, state="used") == 1
    assert value(found, "slots", farm=farm.name, state="free") == farm.max_running - 1
    assert value(found, "host_up", host=farm.hosts[0]) == 1
    for _ in range(5):
        still.server.services.hosts.failed(farm.hosts[0], "refused")
    found = await samples(still)
    assert value(found, "host_up", host=farm.hosts[0]) == 0


async def test_ticks_that_are_late_or_skipped(still: Site) -> None:
    lifecycle, storage = still.server.lifecycle, still.storage
    job = await still.submit("ticks", cron="* * * * *", overlap="skip")
    for _ in range(2):
        stored = await storage.jobs.get("ticks", job["jobId"])
        assert stored.next_run_at is not None
        # As if the scheduler were two minutes late.
        lifecycle._clock = partial(sum, (stored.next_run_at, 130))
        await lifecycle.run_tick(stored)
    found = await samples(still)
    assert value(found, "ticks_skipped_total", task="ticks", reason="missed") == 2
    assert value(found, "ticks_skipped_total", task="ticks", reason="overlap") == 1
    assert value(found, "schedule_lateness_seconds_count") == 1
    assert 0 < (value(found, "schedule_lateness_seconds_sum") or 0) <= 60


async def test_labels_are_bounded(make_site: MakeSite) -> None:
    """No ids, no paths of clients, and only so many tasks."""
    site = await make_site(
        executor=MemoryExecutor(instant=True), metrics_max_tasks=3, metrics_tasks=("named-*",)
    )
    tasks = [f"first-{number}" for number in range(6)] + [f"named-{n}" for n in range(6)]
    jobs = [await site.submit(task) for task in tasks]
    for job in jobs:
        await site.status(job, "done")
    for number in range(20):
        await site.get(f"/tasks/{uuid.uuid4()}/")
        await site.get(f"/nothing/{number}")
        await site.request(f"METHOD{number}", "/tasks/")
    answer = await site.get("/metrics")
    text = answer.body.decode()
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-", text), "an id is in a label"
    found = await samples(site)
    ended = [dict(labels)["task"] for name, labels in found if name == "fastlane_executions_total"]
    assert sum(task.startswith("first-") for task in ended) == 3
    assert sum(task.startswith("named-") for task in ended) == 3
    done = value(found, "executions_total", task=OTHER, status="done", reason="exit-code")
    assert done == len(tasks) - 6
    methods = {dict(labels).get("method") for _, labels in found} - {None}
    assert methods <= {"GET", "POST", OTHER}
    routes = {dict(labels).get("route") for _, labels in found} - {None}
    assert routes <= {"none", "/", *(route.path for route in ROUTES)}


def test_named_tasks_do_not_wait_behind_the_first() -> None:
    tasks = TaskLabels(["billing-*"], 2)
    assert [tasks.of(task) for task in "abc"] == ["a", "b", OTHER]
    assert tasks.of("billing-eu") == "billing-eu"
    assert [tasks.of(task) for task in "cab"] == [OTHER, "a", "b"]


async def test_named_tasks_keep_their_last_success(make_site: MakeSite, tmp_path: Path) -> None:
    """A new process knows it from the storage."""
    site = await make_site(executor=MemoryExecutor(instant=True))
    await site.status(await site.submit("nightly"), "done")
    await site.server.stop()
    again = await make_site(
        storage=lambda _: SqliteStorage(tmp_path / "site-0"), metrics_tasks=("night*",)
    )

    async def known() -> float | None:
        found = await samples(again)
        return value(found, "task_last_success_timestamp_seconds", task="nightly")

    assert abs(await eventually(known) - time.time()) < 60


async def test_openmetrics_on_request(site: Site) -> None:
    answer = await site.get("/metrics", Accept=OPENMETRICS)
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.body.endswith(b"# EOF\n")
    plain = await site.get("/metrics/")
    assert plain.headers["Content-Type"].startswith("text/plain; version=")


async def test_who_may_read_metrics(make_site: MakeSite) -> None:
    credentials = {"basic_auth_user": "ann", "basic_auth_password": "secret"}
    closed = await make_site(**credentials)
    assert (await closed.get("/metrics")).status == 401
    opened = await make_site(metrics="open", **credentials)
    assert (await opened.get("/metrics")).status == 200
    assert (await opened.get("/status/")).status == 401


async def test_promtool_accepts_them(make_site: MakeSite) -> None:
    site = await make_site(executor=MemoryExecutor(instant=True))
    await site.status(await site.submit("count"), "done")
    answer = await site.get("/metrics")
    promtool("check", "metrics", text=answer.body)
