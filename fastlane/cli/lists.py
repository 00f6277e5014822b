"""``fastlane ps`` and ``fastlane ls``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastlane.cli import filters
from fastlane.cli.app import client, command, say, shared
from fastlane.cli.output import ago, duration, print_json, print_table, short

if TYPE_CHECKING:
    from fastlane_client.records import ExecutionItem, JobItem

Limit = Annotated[
    int, typer.Option("--limit", "-n", metavar="N", min=1, help="List at most this many.")
]


@command(output=True, flags=filters.EXECUTIONS)
def ps(
    every: Annotated[
        bool, typer.Option("--all", "-a", help="Include executions that have ended.")
    ] = False,
    limit: Limit = 50,
    given: Any = None,
) -> None:
    """List executions, newest first.

    Shows those that wait or run; all of them with -a or a filter."""
    wanted = filters.wanted(given)
    if not wanted and not every:
        wanted["status"] = "waiting,active"
    with client() as server:
        _print(
            server.executions(**wanted),
            limit,
            ("EXECUTION", "TASK", "STATUS", "CREATED", "DURATION", "IMAGE", "COMMAND", "NOTE"),
            execution_row,
            "execution_id",
        )


@command(output=True, flags=filters.JOBS)
def ls(limit: Limit = 50, given: Any = None) -> None:
    """List jobs, newest first."""
    with client() as server:
        _print(
            server.jobs(**filters.wanted(given)),
            limit,
            ("JOB", "NAME", "TASK", "STATE", "SCHEDULE", "NEXT RUN", "LAST RUN", "IMAGE"),
            job_row,
            "job_id",
        )


def execution_row(item: ExecutionItem) -> Sequence[object]:
    """A line of ``fastlane ps``."""
    status = item.status.value
    if item.exit_code:
        status = f"{status} ({item.exit_code})"
    elif item.status.final and item.reason is not None and item.reason.value != "exit-code":
        status = f"{status} ({item.reason.value})"
    note = item.waiting or item.error or ""
    if item.next_attempt_at is not None:
        note = f"next attempt {ago(item.next_attempt_at)}"
    return (
        short(item.execution_id),
        item.task_id,
        status,
        ago(item.created_at),
        duration(item.duration_seconds),
        item.image,
        words(item.command),
        note.partition("\n")[0],
    )


def job_row(item: JobItem) -> Sequence[object]:
    """A line of ``fastlane ls``."""
    schedule, last = item.schedule, item.last_execution
    when = ""
    if schedule is not None:
        when = schedule.cron or (f"once {ago(schedule.start_at)}" if schedule.start_at else "")
    ran = "" if last is None else f"{last.status.value} {ago(last.finished_at or last.created_at)}"
    return (
        short(item.job_id),
        item.name or "",
        item.task_id,
        item.state.value,
        when,
        ago(item.next_scheduled_at),
        ran,
        item.image,
    )


def words(command: str | Sequence[str] | None) -> str:
    """A command as one would type it."""
    if command is None or isinstance(command, str):
        return command or ""
    import shlex

    return shlex.join(command)


def _print(items: Iterable[Any], limit: int, headings: Sequence[str], row: Any, key: str) -> None:
    style = shared().style
    found = list(islice(items, limit + 1))
    if style.as_json or style.quiet:
        for item in found[:limit]:
            print_json(dict(item.raw)) if style.as_json else print(getattr(item, key))
    else:
        print_table(headings, [row(item) for item in found[:limit]], style)
    if len(found) > limit:
        say(f"There are more than {limit}: list more with --limit, or fewer with a filter.")
