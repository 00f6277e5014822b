"""What a command is about: a URL, an id, the beginning of an id, or a task name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastlane.cli import complete
from fastlane.cli.app import say, shared
from fastlane.errors import ConfigError, FastlaneError

if TYPE_CHECKING:
    from fastlane_client import Client
    from fastlane_client.runs import Run

_ID = re.compile(r"[0-9a-f]{4,8}|[0-9a-f]{8}-[0-9a-f-]{0,27}")
# Bounds the candidates that a message about an ambiguous beginning shows.
_SHOWN = 5

What = Annotated[
    str,
    typer.Argument(
        metavar="WHAT",
        help="A URL, an id or its beginning, TASK/JOB_NAME, or a task: its newest execution.",
        autocompletion=complete.targets,
    ),
]
Whats = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="WHAT...",
        help="URLs, ids or their beginnings, TASK/JOB_NAME, or tasks: their newest executions.",
        autocompletion=complete.targets,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


def find(server: Client, what: str) -> Run:
    """The job or the execution that *what* names.

    :raises FastlaneError: there is none, or more than one.
    """
    if "://" in what:
        return _at(server, what)
    if _ID.fullmatch(what) and (found := _by_id(server, what)) is not None:
        return found
    task, slash, job = what.rpartition("/")
    if slash:
        return server.run(task, job)
    newest = next(iter(server.executions(task=_literal(what))), None)
    if newest is None:
        raise FastlaneError(
            f'There is no execution, job or task "{what}": list them with `fastlane ps -a`.'
        )
    return server.run(newest.task_id, newest.job_id, newest.execution_id)


def _at(server: Client, url: str) -> Run:
    from fastlane_client import Client, Place

    place = Place.parse(url)
    if place.base != server.server and shared().server is None:
        # Its own server, without the credentials of another.
        server = Client(place.base, token="")
    return server.run(url)


def _by_id(server: Client, beginning: str) -> Run | None:
    """The one execution or job whose id begins so; of an id, also where lists do not have it."""
    found: dict[str, Run] = {}
    for item in islice(server.executions(q=beginning), 1000):
        if item.execution_id.startswith(beginning):
            found[item.execution_id] = server.run(item.task_id, item.job_id, item.execution_id)
        elif item.job_id.startswith(beginning):
            found[item.job_id] = server.run(item.task_id, item.job_id)
        if len(found) > _SHOWN:
            break
    for job in islice(server.jobs(q=beginning), _SHOWN + 1):
        if job.job_id.startswith(beginning):
            found[job.job_id] = server.run(job.task_id, job.job_id)
    if len(found) > 1:
        shown = ", ".join(list(found)[:_SHOWN])
        raise FastlaneError(f'"{beginning}" is not unique ({shown}, …): give more of it.')
    return next(iter(found.values()), None)


def _literal(task: str) -> str:
    """*task* as a filter that a star in it does not make a pattern."""
    return task.replace("*", r"\*")


def chosen(
    server: Client, whats: Sequence[str] | None, wanted: dict[str, Any], kind: str
) -> Iterator[Run]:
    """What is named, or what the filters match.

    :param kind: ``executions`` or ``jobs``, which the filters are of.
    :raises ConfigError: neither is given, or both are.
    """
    if bool(whats) == bool(wanted):
        raise ConfigError(f"Name {kind}, or choose them with filters such as --task.")
    for what in whats or ():
        yield find(server, what)
    if wanted:
        items: Any = getattr(server, kind)(**wanted)
        for item in items:
            yield server.run(item.task_id, item.job_id, getattr(item, "execution_id", None))


def confirm(question: str, *, yes: bool) -> None:
    """Ask, unless *yes*; without a terminal, refuse.

    :raises typer.Exit: the answer is no.
    """
    import sys

    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"{question} There is no terminal to ask at: repeat it with --yes.")
    if not typer.confirm(question, err=True):
        say("Nothing was done.")
        raise typer.Exit(1)
