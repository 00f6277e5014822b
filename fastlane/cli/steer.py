"""``fastlane stop``, ``retry``, ``rerun``, ``pause``, ``resume``, ``rm`` and ``wait``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastlane.cli import filters
from fastlane.cli.app import client, command, say, shared
from fastlane.cli.output import print_json
from fastlane.cli.payload import envs_of, number_or_text
from fastlane.cli.run import Detach
from fastlane.cli.targets import What, Whats, Yes, chosen, confirm, find

if TYPE_CHECKING:
    from fastlane_client import Client
    from fastlane_client.runs import Run

# Bounds what one command changes: what one request of the API does.
_MANY = 1000

Env = Annotated[
    list[str] | None,
    typer.Option("--env", "-e", metavar="NAME=VALUE", help="Set an environment variable."),
]
Image = Annotated[str | None, typer.Option("--image", metavar="IMAGE", help="Use this image.")]
CommandText = Annotated[
    str | None, typer.Option("--command", metavar="COMMAND", help="Run this command.")
]
Timeout = Annotated[
    str | None, typer.Option("--timeout", metavar="DURATION", help="End the run after this time.")
]


@command(output=True, flags=filters.EXECUTIONS)
def stop(whats: Whats = None, yes: Yes = False, given: Any = None) -> None:
    """Stop executions and their retries, or whole jobs.

    For a job, this also ends its schedule."""
    _each(whats, given, "Stop", "Stopped", lambda run: run.stop(), yes, bulk="stop_all")


@command(output=True)
def retry(
    what: What,
    env: Env = None,
    image: Image = None,
    command_text: CommandText = None,
    timeout: Timeout = None,
    detach: Detach = False,
) -> None:
    """Run a job again, and follow it.

    Its last execution is stopped first if it still runs."""
    _again(what, "retry", detach, _overrides(env, image, command_text, timeout))


@command(output=True, flags=filters.EXECUTIONS)
def rerun(
    whats: Whats = None,
    env: Env = None,
    image: Image = None,
    command_text: CommandText = None,
    timeout: Timeout = None,
    detach: Detach = False,
    yes: Yes = False,
    given: Any = None,
) -> None:
    """Run executions once more, as they were or changed.

    A single one is followed."""
    overrides = _overrides(env, image, command_text, timeout)
    if whats and len(whats) == 1 and not filters.wanted(given):
        _again(whats[0], "rerun", detach, overrides)
        return
    _each(
        whats,
        given,
        "Rerun",
        "Started",
        lambda run: run.rerun(overrides or None),
        yes,
        bulk=None if overrides else "rerun_all",
    )


@command(output=True, flags=filters.JOBS)
def pause(whats: Whats = None, yes: Yes = False, given: Any = None) -> None:
    """Pause scheduled jobs.

    They do not run until they are resumed. What is queued still runs."""
    _each(whats, given, "Pause", "Paused", lambda run: run.pause(), yes, jobs=True)


@command(output=True, flags=filters.JOBS)
def resume(whats: Whats = None, yes: Yes = False, given: Any = None) -> None:
    """Resume paused jobs.

    Ticks that they missed are not made up for."""
    _each(whats, given, "Resume", "Resumed", lambda run: run.resume(), yes, jobs=True)


@command(output=True, flags=filters.EXECUTIONS)
def rm(
    whats: Whats = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Stop what still runs, and delete it.")
    ] = False,
    yes: Yes = False,
    given: Any = None,
) -> None:
    """Delete executions, or jobs with all of theirs."""
    _each(whats, given, "Delete", "Deleted", lambda run: run.delete(force=force), yes)


def _each(
    whats: Sequence[str] | None,
    given: dict[str, str | None],
    verb: str,
    done: str,
    act: Callable[[Run], Any],
    yes: bool,
    *,
    jobs: bool = False,
    bulk: str | None = None,
) -> None:
    """Do something with each of several; the first that is refused does not keep the others.

    :param bulk: the client's method that does it with all that filters match.
    """
    from fastlane_client import Refused

    wanted = filters.wanted(given)
    kind = "jobs" if jobs else "executions"
    failed = False
    with client() as server:
        if wanted and bulk is not None:
            _bulk(server, bulk, wanted, verb, done, yes)
            return
        runs = list(chosen(server, whats, wanted, kind))
        if wanted:
            confirm(f"{verb} {_count(len(runs), kind)}?", yes=yes)
        for run in runs:
            try:
                result = act(run)
            except Refused as refused:
                say(refused.detail or str(refused))
                failed = True
            else:
                _report(done, getattr(result, "id", None) or run.id)
    if failed:
        raise typer.Exit(1)


def _report(done: str, run_id: Any) -> None:
    style, one = shared().style, run_id.execution_id or run_id.job_id
    if style.as_json:
        print_json(
            {"taskId": run_id.task_id, "jobId": run_id.job_id, "executionId": run_id.execution_id}
        )
    else:
        print(one if style.quiet else f"{done} {one}.")


def _bulk(
    server: Client, bulk: str, wanted: dict[str, Any], verb: str, done: str, yes: bool
) -> None:
    act = getattr(server, bulk)
    lists = ("status", "reason", "trigger")
    which = {key: value.split(",") if key in lists else value for key, value in wanted.items()}
    matched = act(which, dry_run=True).matched
    if not matched:
        say("No execution matches.")
        return
    many = _count(matched, "executions")
    confirm(f"{verb} {many}?", yes=yes)
    result = act(which, dry_run=False, expected=matched)
    print(f"{done} {_count(result.changed, 'executions')}.")


def _count(number: int, kind: str) -> str:
    return f"{number} {kind if number != 1 else kind[:-1]}"


def _overrides(
    env: list[str] | None, image: str | None, text: str | None, timeout: str | None
) -> dict[str, Any]:
    given = {
        "envs": envs_of(env or ()),
        "image": image,
        "command": None if text is None else text,
        "timeout": None if timeout is None else number_or_text(timeout),
    }
    return {key: value for key, value in given.items() if value}


def _again(what: str, how: str, detach: bool, overrides: dict[str, Any]) -> None:
    from fastlane.cli.follow import follow

    with client() as server:
        run = getattr(find(server, what), how)(overrides or None)
        if detach or shared().style.quiet:
            _report("Started", run.id)
            return
        say(f"Started {run.execution_id}.")
        follow(run)
