"""The filters of ``GET /executions/`` and ``GET /jobs/``, as options of the commands that list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from fastlane.cli import complete


def _filter(name: str, metavar: str, help: str, **more: Any) -> Any:
    return Annotated[str | None, typer.Option(f"--{name}", metavar=metavar, help=help, **more)]


TASK = _filter(
    "task",
    "TASK",
    "Only this task, or tasks with this beginning: 'billing-*'.",
    autocompletion=complete.tasks,
)
EXECUTIONS: Mapping[str, Any] = {
    "task": TASK,
    "job": _filter("job", "ID", "Only this job; with --task, its name is accepted, too."),
    "status": _filter("status", "STATUS,…", "Only these statuses, or waiting, active and final."),
    "reason": _filter("reason", "REASON,…", "Only executions that ended for one of these reasons."),
    "trigger": _filter(
        "trigger", "WHY,…", "Only those created by submit, schedule, cron, retry, manual or lost."
    ),
    "farm": _filter("farm", "FARM", "Only this farm."),
    "host": _filter("host", "HOST", "Only this host."),
    "since": _filter(
        "since", "TIME", "Only those created since this time, or within this duration: 24h."
    ),
    "until": _filter("until", "TIME", "Only those created until this time."),
    "q": _filter("query", "TEXT", "Only tasks with these words, or ids with this beginning."),
}
JOBS: Mapping[str, Any] = {
    "task": TASK,
    "state": _filter(
        "state", "STATE,…", "Only jobs that are active, paused, scheduled, stopped or idle."
    ),
    "kind": _filter("kind", "KIND", "Only this kind: once or cron."),
    "q": EXECUTIONS["q"],
}


def wanted(given: Mapping[str, str | None]) -> dict[str, Any]:
    """The filters that are given."""
    return {name: value for name, value in given.items() if value is not None}
