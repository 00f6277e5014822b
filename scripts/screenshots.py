"""``make screenshots``: each page as a picture, wide and narrow, light and dark, in ``.run/``.

Three of them are in the documentation; ``--docs`` renews these.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from fastlane.model import Definition, LogRecord, Outcome, Reason, Schedule, Status, Stream
from scripts.floors import ROOT
from scripts.machine import say
from tests.api.log_owner import FARM
from tests.api.log_site import Site, serve_in_thread
from tests.services import open_browser

OUTPUT = ROOT / ".run" / "screenshots"
DOCUMENTED = {"overview-1440-light", "execution-1440-dark", "task-1440-light"}
HOUR = 3600.0
# Task, image, command, typical seconds, and which part of its runs fails.
TASKS = (
    ("nightly-report", "registry.local/reports:5", "python report.py --yesterday", 340.0, 0.1),
    ("import-orders", "registry.local/etl:12", "python -m etl orders", 48.0, 0.05),
    ("thumbnails", "imaginary:1.2", "resize --all /media", 9.0, 0.02),
    ("build-web", "node:22", "npm run build", 75.0, 0.2),
    ("train-model", "pytorch:2.4", "python train.py --epochs 3", 900.0, 0.15),
)
TRACE = b"""\
Traceback (most recent call last):
  File "report.py", line 88, in main
    rows = connection.execute(QUERY, day)
psycopg.OperationalError: connection to "db-3.internal" refused
"""
LOG = b"""\
\x1b[1mReport for 2026-11-23\x1b[0m
reading orders ... \x1b[32m18,204 rows\x1b[0m
reading refunds ... \x1b[32m311 rows\x1b[0m
reading stock ... \x1b[33mretrying in 2 s\x1b[0m
"""


class History:
    """Lets executions happen at times of the past."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.lifecycle: Any = site.services.lifecycle
        self.random = random.Random(7)

    async def submit(self, at: float, row: tuple[Any, ...], **schedule: Any) -> Any:
        self.lifecycle._clock = lambda: at
        task, image, command, *_ = row
        return await self.lifecycle.submit(
            task_id=task,
            job_id=None,
            definition=Definition.parse(image, command, envs={"REGION": "eu", "DB_PASSWORD": "x"}),
            schedule=Schedule(**schedule),
            request_ip="10.0.4.17",
        )

    async def run(self, at: float, row: tuple[Any, ...], *, fails: bool, ends: bool = True) -> Any:
        await self.submit(at, row)
        self.lifecycle._clock = lambda: at + 1.5
        one = await self.lifecycle.started(await self.lifecycle.claim(FARM, "localhost"), "run")
        records = [LogRecord(1, at + 2, Stream.STDOUT, LOG)]
        if fails:
            records.append(LogRecord(2, at + 3, Stream.STDERR, TRACE))
        await self.lifecycle.append_log(one, records, bookmark="1", cap=None)
        if not ends:
            return one
        took = row[3] * self.random.lognormvariate(0, 0.25)
        self.lifecycle._clock = lambda: at + 1.5 + took
        status = Status.FAILED if fails else Status.DONE
        outcome = Outcome(status, Reason.EXIT_CODE, 1 if fails else 0)
        return await self.lifecycle.finish(one, outcome)

    async def day(self) -> Any:
        """What happened today, until now; the execution that is shown."""
        now = time.time()
        for hour in range(23, -1, -1):
            for row in TASKS[:1] * (hour % 2) + TASKS[1:3] * 2 + TASKS[3:4]:
                at = now - hour * HOUR - self.random.uniform(600, HOUR)
                await self.run(at, row, fails=self.random.random() < row[4])
        for back in range(30):
            await self.run(now - (back + 1) * 700, TASKS[0], fails=back in (4, 17, 23))
        failed = await self.run(now - 660, TASKS[0], fails=True)
        for number, row in enumerate((TASKS[4], TASKS[3], TASKS[1])):
            await self.run(now - 20 - 30 * number, row, fails=False, ends=False)
        await self.submit(now - 5, ("thumbnails", *TASKS[2][1:]))
        for cron, row in (
            ("0 3 * * *", TASKS[0]),
            ("*/15 * * * *", TASKS[2]),
            ("0 * * * *", TASKS[1]),
        ):
            await self.submit(now, row, cron=cron, timezone="Europe/Berlin")
        self.lifecycle._clock = time.time
        stats, events = self.site.storage.stats, self.site.storage.events
        while found := await events.after(position := await stats.position(), 500):
            await stats.add(position, found)
        return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", action="store_true", help="renew docs/images, too")
    wanted = parser.parse_args()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, serve_in_thread(Path(scratch) / "data") as site:
        failed = site.call(History(site.site).day())
        job = f"/tasks/{failed.task_id}/jobs/{failed.job_id}/"
        pages = {
            "overview": "/",
            "executions": "/executions/",
            "tasks": "/tasks/",
            "task": f"/tasks/{failed.task_id}/",
            "job": job,
            "execution": f"{job}executions/{failed.id}/",
            "schedules": "/jobs/?kind=cron",
            "hosts": "/hosts/",
            "new": f"/new/?task={failed.task_id}&from={failed.job_id}",
            "notifications": "/notifications/",
            "about": "/status/",
            "docs": "/docs/",
            "404": "/nowhere/",
        }
        with open_browser(Path(scratch) / "profile") as window:
            for name, path in pages.items():
                for width, theme in (
                    (1440, "light"),
                    (1440, "dark"),
                    (390, "light"),
                    (390, "dark"),
                ):
                    picture = f"{name}-{width}-{theme}"
                    _take(
                        window, site.site.url(path, "http"), width, theme, OUTPUT / f"{picture}.png"
                    )
                    if wanted.docs and picture in DOCUMENTED:
                        target = ROOT / "docs" / "images" / f"{name}.png"
                        target.write_bytes((OUTPUT / f"{picture}.png").read_bytes())
            window.get("about:blank")
    say("screenshots", f"{len(pages)} pages, four times each, are in {OUTPUT}")


def _take(window: Any, url: str, width: int, theme: str, file: Path) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = [
        {"name": "prefers-color-scheme", "value": theme},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    window.get(url)
    # What is fetched after the page is there, too.
    time.sleep(0.7)
    window.get_screenshot_as_file(str(file))


if __name__ == "__main__":
    main()
