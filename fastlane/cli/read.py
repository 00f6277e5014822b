"""``fastlane logs``, ``wait``, ``show`` and ``open``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastlane.cli import filters
from fastlane.cli.app import client, command, say, shared
from fastlane.cli.follow import Screen, code_of, ending, follow
from fastlane.cli.lists import words
from fastlane.cli.output import ago, duration, plain, print_json
from fastlane.cli.targets import What, Whats, chosen, find
from fastlane.errors import ConfigError

if TYPE_CHECKING:
    from fastlane_client.records import Execution, Job
    from fastlane_client.runs import Run

# Bounds the last lines that `show` prints of each stream.
_SHOWN_LINES = 10


@command()
def logs(
    what: What,
    follow_it: Annotated[
        bool,
        typer.Option(
            "--follow",
            "-f",
            help="Show it until the execution, or the job with its retries, ends; exit as it does.",
        ),
    ] = False,
    tail: Annotated[
        int | None, typer.Option("--tail", "-n", metavar="N", min=0, help="The last N lines only.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only what was written since this time, or within this duration: 10m.",
        ),
    ] = None,
    timestamps: Annotated[
        bool, typer.Option("--timestamps", "-T", help="Begin each line with its time.")
    ] = False,
    stdout: Annotated[bool, typer.Option("--stdout", help="Only stdout.")] = False,
    stderr: Annotated[bool, typer.Option("--stderr", help="Only stderr.")] = False,
    no_exit_code: Annotated[
        bool, typer.Option("--no-exit-code", help="Exit with 0 however it ends.")
    ] = False,
) -> None:
    """Show a log: its stdout on stdout, its stderr on stderr."""
    if stdout and stderr:
        raise ConfigError("Give --stdout or --stderr; without them, both are shown.")
    only = {name for name, wanted in (("stdout", stdout), ("stderr", stderr)) if wanted}
    screen = Screen(
        timestamps=timestamps,
        streams=frozenset(only or {"stdout", "stderr", "fastlane"}),
        tail=tail,
        since=since,
    )
    with client() as server:
        run = find(server, what)
        if follow_it:
            follow(run, exit_code=not no_exit_code, screen=screen)
            return
        empty = True
        if only and not timestamps:
            for piece in run.output("stdout" if stdout else "stderr", tail=tail, since=since):
                # What a stream wrote is the output, whichever it is.
                sys.stdout.buffer.write(piece)
                empty = False
            sys.stdout.flush()
        else:
            for record in run.logs(tail=tail, since=since):
                screen.show(record)
                empty = False
        _explain(run, empty=empty)


def _explain(run: Run, *, empty: bool) -> None:
    """Say what the log does not: why there is none, or why it ended so."""
    execution = run.execution()
    if not execution.status.final:
        if empty:
            say(f"No output yet. {execution.sentence}")
    elif execution.metadata.message or (empty and execution.status.value != "done"):
        say(ending(execution))


@command(output=True, flags=filters.EXECUTIONS)
def wait(
    whats: Whats = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Give up after so long, with 124.")
    ] = None,
    no_exit_code: Annotated[
        bool, typer.Option("--no-exit-code", help="Exit with 0 however they end.")
    ] = False,
    given: Any = None,
) -> None:
    """Wait until executions have ended.

    Retries are included. The exit code is the highest of theirs."""
    from fastlane_client import NotFinished

    code = 0
    with client() as server:
        for run in list(chosen(server, whats, filters.wanted(given), "executions")):
            try:
                execution = run.wait(timeout, check=False)
            except NotFinished as error:
                say(str(error))
                code = max(code, 124)
                continue
            code = max(code, code_of(execution))
            style = shared().style
            if style.as_json:
                print_json(dict(execution.raw))
            else:
                print(execution.execution_id if style.quiet else _ended(execution))
    if code and not no_exit_code:
        raise typer.Exit(code)


def _ended(execution: Execution) -> str:
    return f"{execution.execution_id}  {execution.sentence}"


@command(output=True)
def show(what: What) -> None:
    """Show all about an execution or a job in one screen."""
    with client() as server:
        run = find(server, what)
        job = run.job()
        execution = run.execution() if run.execution_id or job.executions else None
        style = shared().style
        if style.as_json:
            shown = execution if run.execution_id and execution is not None else job
            print_json(dict(shown.raw))
        elif style.quiet:
            print(run.execution_id or run.job_id)
        else:
            for heading, facts in _screen(job, execution):
                _print_block(heading, facts)
            if execution is not None:
                for name, text in (("STDOUT", execution.log), ("STDERR", execution.error)):
                    _print_tail(name, text)


def _screen(job: Job, execution: Execution | None) -> Iterator[tuple[str, Mapping[str, object]]]:
    if execution is not None:
        ran = None
        if execution.started_at and execution.finished_at:
            ran = (execution.finished_at - execution.started_at).total_seconds()
        more = execution.metadata
        yield (
            "EXECUTION",
            {
                "id": execution.execution_id,
                "status": execution.sentence,
                "exit code": execution.exit_code,
                "attempt": f"{more.attempt + 1} of {more.retries + 1}" if more.retries else None,
                "host": more.docker_host,
                "created": ago(execution.created_at),
                "started": ago(execution.started_at),
                "finished": ago(execution.finished_at),
                "duration": duration(ran),
                "image": execution.image,
                "command": words(execution.command),
                "environment": ", ".join(f"{k}={v}" for k, v in more.envs.items()),
                "url": execution.url,
            },
        )
    yield (
        "JOB",
        {
            "id": job.id,
            "name": job.name,
            "task": job.task_id,
            "schedule": job.metadata.get("cron") if job.scheduled else None,
            "next run": ago(job.next_scheduled_at),
            "paused": "yes" if job.paused else None,
            "executions": job.execution_count,
            "url": job.url,
        },
    )


def _print_block(heading: str, facts: Mapping[str, object]) -> None:
    print(heading)
    for name, value in facts.items():
        if value not in (None, ""):
            print(f"  {name.ljust(12)} {plain(value)}")
    print()


def _print_tail(heading: str, text: str) -> None:
    lines = text.splitlines()
    if not lines:
        return
    more = f" (the last {_SHOWN_LINES} of {len(lines)} lines)" if len(lines) > _SHOWN_LINES else ""
    print(f"{heading}{more}")
    for line in lines[-_SHOWN_LINES:]:
        print(f"  {plain(line)}")
    print()


@command("open")
def open_page(what: What) -> None:
    """Open the page of an execution or a job."""
    with client() as server:
        url = find(server, what).url
    if not sys.stdout.isatty() or typer.launch(url):
        print(url)
