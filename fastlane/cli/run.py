"""``fastlane run``, and ``submit`` as it was before."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastlane.cli import complete
from fastlane.cli.app import client, command, say, shared
from fastlane.cli.follow import follow
from fastlane.cli.output import print_json
from fastlane.cli.payload import FLAGS, payload_of
from fastlane.errors import ConfigError

if TYPE_CHECKING:
    from fastlane_client.runs import Run

Detach = Annotated[
    bool, typer.Option("--detach", "-d", help="Print the ids and return; do not follow the log.")
]
NoExitCode = Annotated[
    bool, typer.Option("--no-exit-code", help="Exit with 0 however the job ends.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be created, and create nothing.")
]
StopOnInterrupt = Annotated[
    bool, typer.Option("--stop-on-interrupt", help="Stop the job on Ctrl-C.")
]
Name = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="Create or replace the job with this name."),
]


@command(output=True, flags=FLAGS)
def run(
    image: Annotated[
        str | None, typer.Argument(metavar="[IMAGE]", help="The image to run.")
    ] = None,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- COMMAND...]",
            help="The command. No shell runs it: for && or pipes, use sh -c '...'.",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            "-t",
            metavar="TASK",
            help="A name that groups jobs. Default: run-$USER.",
            autocompletion=complete.tasks,
        ),
    ] = None,
    name: Name = None,
    detach: Detach = False,
    stop_on_interrupt: StopOnInterrupt = False,
    no_exit_code: NoExitCode = False,
    dry_run: DryRun = False,
    given: Any = None,
) -> None:
    """Submit a job, show its log, and exit as it does.

    Retries are followed. A job with --cron, --at or --in is submitted and not followed.
    """
    payload = payload_of(given)
    if image is not None:
        payload["image"] = image
    if words:
        payload["command"] = words
    if "image" not in payload:
        raise ConfigError("Give an image, as in `fastlane run ubuntu:22.04 -- echo hello`.")
    if "command" not in payload:
        raise ConfigError(f"Give a command, as in `fastlane run {payload['image']} -- echo hello`.")
    with client() as server:
        task = task or f"run-{_user()}"
        if dry_run:
            print_json(dict(server.plan(task, payload).raw))
            return
        started = server.submit_payload(task, payload, job=name)
        style = shared().style
        if detach or style.quiet or style.as_json or started.execution_id is None:
            _report(started)
            return
        say(started.url)
        follow(started, exit_code=not no_exit_code, stop_on_interrupt=stop_on_interrupt)


@command(flags=FLAGS, hidden=True)
def submit(
    task: Annotated[str, typer.Argument(help="A name that groups jobs.")],
    image: Annotated[str, typer.Option(help="The image to run.")],
    command: Annotated[str, typer.Option(help="The command, as one text.")],
    start_in: Annotated[
        str | None, typer.Option(metavar="DURATION", help="As --in.", hidden=True)
    ] = None,
    follow_it: Annotated[
        bool, typer.Option("--follow", "-f", help="Show the log, and exit as the job does.")
    ] = False,
    given: Any = None,
) -> None:
    """Submit a job and print its URL; now `fastlane run -d`."""
    given["in_"] = given["in_"] or start_in
    payload = payload_of(given) | {"image": image, "command": command}
    with client() as server:
        started = server.submit_payload(task, payload)
        typer.echo(started.url, err=follow_it)
        if follow_it:
            follow(started)


def _report(started: Run) -> None:
    style, ids = shared().style, started.id
    if style.as_json:
        print_json(
            {
                "taskId": ids.task_id,
                "jobId": ids.job_id,
                "executionId": ids.execution_id,
                "url": started.url,
            }
        )
    elif style.quiet:
        print(ids.execution_id or ids.job_id)
    else:
        print(f"job        {ids.job_id}")
        if ids.execution_id:
            print(f"execution  {ids.execution_id}")
        print(f"url        {started.url}")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "nobody"
