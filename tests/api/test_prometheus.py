"""The dashboard and the alert rules of deploy/, and a real Prometheus that scrapes a real run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.api.conftest import MakeSite
from tests.api.http_site import Site
from tests.eventually import eventually
from tests.fakes import MemoryExecutor
from tests.prometheus import promtool, scraping

ROOT = Path(__file__).parent.parent.parent
ALERTS = ROOT / "deploy" / "prometheus-alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana-dashboard.json"
# What Grafana puts in.
VARIABLES = {"$__rate_interval": "1m", "$job": "fastlane", "$instance": ".*", "$task": ".*"}


class Failing(MemoryExecutor):
    """Every run ends at once; those of the task ``bad`` fail."""

    async def start(self, host: str, run_id: str) -> None:
        await super().start(host, run_id)
        run = self.runs_by_id[run_id]
        run.end(1 if run.spec.task_id == "bad" else 0)


def queries() -> Iterator[tuple[str, str]]:
    """The title of each panel, and what it asks."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            text = target["expr"]
            for name, value in VARIABLES.items():
                text = text.replace(name, value)
            yield panel["title"], text
    for rule in yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]:
        yield rule["alert"], rule["expr"]


def test_the_alert_rules() -> None:
    promtool("check", "rules", str(ALERTS))
    promtool("test", "rules", str(ROOT / "tests" / "alerts.yml"))


@pytest.mark.slow
async def test_the_dashboard_shows_numbers(make_site: MakeSite, tmp_path: Path) -> None:
    """Each of its queries, after runs that succeed, fail, are late, skip ticks and notify."""
    site = await make_site(executor=Failing(), metrics_tasks=("nightly-*",))
    asked = dict(queries())
    empty: dict[str, object] = {}

    async def all_numbers(prometheus: Any) -> bool:
        await work(site)
        empty.clear()
        for title, query in asked.items():
            found = await prometheus.query(query)
            if not title.startswith("Fastlane") and not any(map(math.isfinite, found)):
                empty[title] = found
        return not empty

    async with scraping(site.server.port, tmp_path) as prometheus:
        try:
            await eventually(partial(all_numbers, prometheus), "numbers", 60, every=0.5)
        finally:
            assert empty == {}
        # The installation is healthy but for the failures and the notification that it was given.
        assert await prometheus.query(asked["FastlaneOldestWaiting"]) == []
        assert await prometheus.query(asked["FastlaneHostDown"]) == []
        assert await prometheus.query(asked["FastlaneUndelivered"]) != []


async def work(site: Site) -> None:
    unreachable = {"finishes": [{"url": "http://127.0.0.1:9/", "retries": 0}]}
    await site.submit("good", webhooks=unreachable)
    await site.submit("late", startIn="1s")
    for task in ("bad", "nightly-backup"):
        await site.submit(task)
    job = await site.submit("ticks", cron="* * * * *", overlap="skip")
    lifecycle = site.server.lifecycle
    clock = lifecycle._clock
    stored = await site.storage.jobs.get("ticks", job["jobId"])
    assert stored.next_run_at is not None
    lifecycle._clock = partial(sum, (stored.next_run_at, 130))
    try:
        await lifecycle.run_tick(stored)
    finally:
        lifecycle._clock = clock
