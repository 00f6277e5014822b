"""A server with something of everything, in which each text tries to become a script."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from fastlane.model import (
    Backoff,
    Definition,
    Execution,
    Job,
    Outcome,
    Reason,
    Schedule,
    Status,
    Stream,
)
from tests.api.log_owner import FARM
from tests.api.log_site import Site

# Without a slash, so that a task can have it as its name.
NASTY = "\"'><img src=x onerror=document.title=`owned`><svg onload=alert(1)>{{7*7}}${7}"
ATTACKS = (
    NASTY,
    "<script>document.title='owned'</script>",
    "javascript:alert(1)",
    "</textarea></title></pre><script>alert(1)</script>",
    "' autofocus onfocus=alert(1) x='",
    "\u202eright to left",
    "<!--",
)
LONG = "a-task-with-a-rather-long-name-" * 6


@dataclass(frozen=True)
class Seeded:
    """What there is to look at."""

    done: Execution
    failed: Execution
    running: Execution
    waiting: Execution
    retried: Execution
    cron: Job
    nasty: Execution

    @staticmethod
    def path(one: Execution | Job) -> str:
        """The path of *one*."""
        task = f"/tasks/{quote(one.task_id, safe='')}/jobs/"
        if isinstance(one, Job):
            return f"{task}{one.id}/"
        return f"{task}{one.job_id}/executions/{one.id}/"

    def pages(self) -> dict[str, str]:
        """The paths of all pages, by name."""
        task = f"/tasks/{quote(self.nasty.task_id, safe='')}/"
        job = self.path(self.nasty).partition("executions/")[0]
        return {
            "overview": "/",
            "executions": "/executions/?task=" + quote(NASTY.replace("*", r"\*")) + "*",
            "executions of all": "/executions/?perPage=50",
            "tasks": "/tasks/",
            "search": f"/search/?query={quote(NASTY)}",
            "task": task,
            "job": job,
            "schedule": self.path(self.cron),
            "failed execution": self.path(self.failed),
            "running execution": self.path(self.running),
            "nasty execution": self.path(self.nasty),
            "schedules": "/jobs/?kind=cron",
            "hosts": "/hosts/",
            "new job": f"/new/?task={quote(NASTY)}",
            "edit": f"/new/?task={quote(self.nasty.task_id, safe='')}&edit={self.nasty.job_id}",
            "notifications": "/notifications/",
            "about": "/status/",
            "docs": "/docs/",
            "404": f"/{quote(NASTY)}/",
        }


async def seed(site: Site) -> Seeded:
    """Fill the storage of *site*."""

    async def submit(task_id: str, definition: Definition | None = None, **schedule: Any) -> Any:
        return await site.services.lifecycle.submit(
            task_id=task_id,
            job_id=None,
            definition=definition or Definition.parse("python:3.12", "python report.py"),
            schedule=Schedule(**schedule),
            request_ip="127.0.0.1",
        )

    async def run(
        task_id: str, status: Status, text: bytes = b"", definition: Definition | None = None
    ) -> Execution:
        """One execution that ended with *status*, or that runs."""
        await submit(task_id, definition)
        lifecycle = site.services.lifecycle
        execution = await lifecycle.claim(FARM, "localhost")
        assert execution is not None
        execution = await lifecycle.started(execution, "run-1")
        if text:
            from fastlane.model import LogRecord

            record = LogRecord(1, execution.created_at, Stream.STDERR, text)
            await lifecycle.append_log(execution, [record], bookmark="1", cap=None)
        if status is Status.RUNNING:
            return execution
        outcome = {
            Status.DONE: Outcome(status, Reason.EXIT_CODE, 0),
            Status.FAILED: Outcome(status, Reason.EXIT_CODE, 3),
            Status.TIMEDOUT: Outcome(status, Reason.TIMEOUT, error=f"Too long: {NASTY}"),
        }[status]
        return await lifecycle.finish(execution, outcome)

    trace = b"reading part 7\npsycopg.OperationalError: connection refused\n  at db-3.internal\n"
    done = await run("nightly-report", Status.DONE)
    for _ in range(5):
        await run("nightly-report", Status.DONE)
    failed = await run("nightly-report", Status.FAILED, trace)
    await run("import", Status.FAILED, trace)
    await run("import", Status.FAILED, trace)
    await run(LONG, Status.TIMEDOUT)
    attack = "\n".join(ATTACKS)
    nasty = await run(
        NASTY,
        Status.FAILED,
        attack.encode(),
        Definition.parse(
            "python:3.12",
            ["python", *ATTACKS],
            envs={one.replace("=", ""): one for one in ATTACKS} | {"DB_PASSWORD": "hunter2"},
            custom={one: list(ATTACKS) for one in ATTACKS},
        ),
    )
    retried = await run(
        "fetch",
        Status.FAILED,
        trace,
        Definition.parse(
            "python:3.12",
            "python fetch.py",
            retries=2,
            backoff=Backoff(min_ms=3_600_000, factor=1.0, max_ms=3_600_000),
        ),
    )
    running = await run("train-model", Status.RUNNING, b"epoch 1\n")
    await run(LONG, Status.RUNNING)
    cron = (await submit("billing", cron="0 3 * * *", timezone="Europe/Berlin")).job
    await submit("cleanup", cron="*/15 * * * *")
    waiting = (await submit("build-web")).execution
    return Seeded(done, failed, running, waiting, retried, cron, nasty)
