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
    "Of this task, or of those that begin so: 'billing-*'.",
    autocompletion=complete.tasks,
)
EXECUTIONS: Mapping[str, Any] = {
    "task": TASK,
    "job": _filter("job", "ID", "Of this job; with --task, also by name."),
    "status": _filter(
        "status", "STATUS,…", "With one of these statuses; also waiting, active and final."
    ),
    "reason": _filter("reason", "REASON,…", "That ended for one of these reasons."),
    "trigger": _filter(
        "trigger", "WHY,…", "Created by submit, schedule, cron, retry, manual or lost."
    ),
    "farm": _filter("farm", "FARM", "On this farm."),
    "host": _filter("host", "HOST", "On this host."),
    "since": _filter("since", "TIME", "Created since a time, or so long ago: 24h."),
    "until": _filter("until", "TIME", "Created until then."),
    "q": _filter("query", "TEXT", "With these words in the task, or whose id begins so."),
}
JOBS: Mapping[str, Any] = {
    "task": TASK,
    "state": _filter("state", "STATE,…", "That are active, paused, scheduled, stopped or idle."),
    "kind": _filter("kind", "KIND", "Of this kind: once or cron."),
    "q": EXECUTIONS["q"],
}


def wanted(given: Mapping[str, str | None]) -> dict[str, Any]:
    """The filters that are given."""
    return {name: value for name, value in given.items() if value is not None}
