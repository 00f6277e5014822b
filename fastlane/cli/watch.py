"""``fastlane events`` and ``fastlane top``."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastlane.cli import filters
from fastlane.cli.app import client, command, shared
from fastlane.cli.follow import INTERRUPTED, die_of_sigpipe
from fastlane.cli.lists import execution_row
from fastlane.cli.operate import host_rows
from fastlane.cli.output import lines_of, print_json

if TYPE_CHECKING:
    from fastlane_client import Client
    from fastlane_client.records import Event

# How often `top` looks again, in seconds.
_REFRESH_SECONDS = 1.0
# Bounds the executions that `top` asks for.
_TOP_ROWS = 100

_FILTERS = {
    "task": filters.TASK,
    "job": Annotated[str | None, typer.Option(metavar="ID", help="Of this job.")],
    "execution": Annotated[str | None, typer.Option(metavar="ID", help="Of this execution.")],
    "type": Annotated[
        str | None,
        typer.Option(metavar="TYPE,…", help="Of these types, as in execution.failed or job.*."),
    ],
}


@command(output=True, flags=_FILTERS)
def events(
    follow_it: Annotated[
        bool, typer.Option("--follow", "-f", help="Show events as they happen, until Ctrl-C.")
    ] = False,
    after: Annotated[
        str | None,
        typer.Option(metavar="CURSOR", help="Show those after the event with this cursor."),
    ] = None,
    given: Any = None,
) -> None:
    """Show what happens.

    --follow shows events as they happen; --after shows those stored since a cursor."""
    style = shared().style
    with client() as server:
        try:
            for event in server.events(after=after, follow=follow_it, **filters.wanted(given)):
                if style.as_json:
                    print_json(dict(event.raw))
                else:
                    print(event.id if style.quiet else _line(event), flush=True)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            die_of_sigpipe()


def _line(event: Event) -> str:
    at = "" if event.at is None else event.at.isoformat(timespec="milliseconds")
    about = event.execution_id or event.job_id or event.host or ""
    what = event.reason or event.waiting or ""
    if event.exit_code:
        what = f"exit code {event.exit_code}"
    return "  ".join(filter(None, (at, event.type.ljust(20), event.task_id or "", about, what)))


@command()
def top() -> None:
    """Show what waits and runs, live, until Ctrl-C."""
    with client() as server, _screen():
        try:
            while True:
                rows = _lines(server)
                height = shutil.get_terminal_size().lines
                # One write, so that nothing flickers.
                text = "\r\n".join(f"{line}\033[K" for line in rows[: height - 1])
                sys.stdout.write(f"\033[H{text}\033[J")
                sys.stdout.flush()
                if not sys.stdout.isatty():
                    return
                time.sleep(_REFRESH_SECONDS)
        except KeyboardInterrupt:
            return


def _lines(server: Client) -> list[str]:
    style = shared().style
    items = list(islice(server.executions(status="waiting,active"), _TOP_ROWS))
    running = sum(item.status.value in ("pulling", "running") for item in items)
    head = f"fastlane {server.server}  running {running}  waiting {len(items) - running}"
    executions: Sequence[Sequence[object]] = [execution_row(item) for item in items]
    return [
        head,
        "",
        *lines_of(("HOST", "FARM", "STATE", "RUNNING", "ENGINE", "NOTE"), host_rows(server), style),
        "",
        *lines_of(
            ("EXECUTION", "TASK", "STATUS", "CREATED", "DURATION", "IMAGE", "COMMAND", "NOTE"),
            executions,
            style,
        ),
    ]


@contextmanager
def _screen() -> Iterator[None]:
    """The terminal's second screen, without a cursor; the first one comes back."""
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        yield
        return
    sys.stdout.write("\033[?1049h\033[?25l")
    try:
        yield
    finally:
        sys.stdout.write("\033[?25h\033[?1049l")
        sys.stdout.flush()
