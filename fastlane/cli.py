"""The command line: arguments → configuration → server, or a call to a running one.

Exit codes: 0 for success, 1 when something failed, 2 when the arguments or the configuration are
at fault; then nothing was started. What went wrong is one sentence a line on standard error.
"""

from __future__ import annotations

import asyncio
import json
import sys
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from fastlane import __version__, logs
from fastlane.client import Client, End, connected
from fastlane.config import Config, Option, load, misspellings, options, warnings
from fastlane.errors import ConfigError, FastlaneError

# Lines of help are no longer than this, on however wide a terminal.
_WIDTH = 80

app = typer.Typer(
    name="fastlane",
    help="fastlane runs container jobs for whoever can send an HTTP request.",
    no_args_is_help=True,
    # Its tracebacks show local variables, and those hold secrets.
    pretty_exceptions_enable=False,
    add_completion=False,
)

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Read options from lines NAME=value; the environment wins over the file.",
    ),
]


ServerUrl = Annotated[
    str,
    typer.Option(
        "--server",
        envvar="FASTLANE_URL",
        metavar="URL",
        help="The server to call; http://user:password@host:port where it asks for them.",
    ),
]

T = TypeVar("T")

# The address that a server listens on without any configuration.
_LOCAL = "http://localhost:10000"


class Format(StrEnum):
    """What ``fastlane config`` prints."""

    TEXT = "text"
    ENV = "env"


@app.command()
def server(
    host: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Address to listen on (default: $HOST or 127.0.0.1)."),
    ] = None,
    port: Annotated[
        str | None,
        typer.Option(
            metavar="PORT", help="Port to listen on; 0: any free one (default: $PORT or 10000)."
        ),
    ] = None,
    roles: Annotated[
        str | None,
        typer.Option(
            metavar="ROLES",
            help="What it does: some of api,scheduler,dispatcher,monitor,notifier "
            "(default: $ROLES or all).",
        ),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Serve the API and run jobs until SIGTERM or Ctrl-C."""
    # Arguments are given as texts, so that their faults read as those of all other options.
    loaded = _load(config, host=host, port=port, roles=roles)
    logs.configure(loaded)
    # The server's imports take longer than any other command needs.
    from fastlane import sentry
    from fastlane.server import run

    sentry.configure(loaded)
    run(loaded)


@app.command("config")
def show_config(
    config: ConfigFile = None,
    format: Annotated[
        Format, typer.Option(help="text: for reading; env: a sample for --config.")
    ] = Format.TEXT,
) -> None:
    """Show every option with its value, what it may be, its default and what it does."""
    listed = options(_load(config))
    if format is Format.ENV:
        typer.echo("\n".join(_sample(listed)))
        return
    console = Console(soft_wrap=True, highlight=False, emoji=False, markup=False)
    for option in listed:
        for line in _block(option):
            console.print(line)


@app.command()
def version() -> None:
    """Show the version."""
    typer.echo(f"fastlane {__version__}")


@app.command()
def submit(
    task: Annotated[str, typer.Argument(help="The name that groups jobs.")],
    image: Annotated[str, typer.Option(help="The image to run.")],
    command: Annotated[str, typer.Option(help="The command, split as a shell splits words.")],
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="For its environment.")
    ] = None,
    retries: Annotated[int, typer.Option(help="How often to try again after a failure.")] = 0,
    start_in: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Run later: 10s, 2m30s, 4h.")
    ] = None,
    cron: Annotated[str | None, typer.Option(help="Run again and again: '*/5 * * * *'.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show the log and exit as the job does.")
    ] = False,
    server: ServerUrl = _LOCAL,
) -> None:
    """Submit a job to a running server and print its URL."""
    payload: dict[str, Any] = {"image": image, "command": command}
    if env:
        pairs = [pair.partition("=") for pair in env]
        for name, equals, _ in pairs:
            if not name or not equals:
                raise ConfigError(f"--env {name} has no value: give NAME=VALUE.")
        payload["envs"] = {name: value for name, _, value in pairs}
    if retries:
        payload["retries"] = retries
    if start_in is not None:
        payload["startIn"] = start_in
    if cron is not None:
        payload["cron"] = cron

    async def post(client: Client) -> End | None:
        answer = await client.submit(task, payload)
        url = answer.get("executionUrl") or answer.get("jobUrl")
        if not isinstance(url, str):
            raise FastlaneError(f"{server} does not answer as fastlane does: is it a server?")
        typer.echo(url, err=follow)
        return await client.follow(url, _write) if follow else None

    _end(_call(server, post))


@app.command("logs")
def show_logs(
    url: Annotated[str, typer.Argument(help="The URL of a job or an execution.")],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until it ends, and exit as it does.")
    ] = False,
    server: ServerUrl = _LOCAL,
) -> None:
    """Show the log of an execution, or of a job's last one."""

    async def read(client: Client) -> End | None:
        if follow:
            return await client.follow(url, _write)
        async for chunk in client.logs(url):
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        return None

    _end(_call(server, read))


@app.command()
def status(server: ServerUrl = _LOCAL) -> None:
    """Show what a running server says of its hosts, jobs and queues."""

    async def ask(client: Client) -> dict[str, Any]:
        return await client.status()

    typer.echo(json.dumps(_call(server, ask), indent=2, ensure_ascii=False))


@app.command("prune")
def prune_runs(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be removed.")
    ] = False,
    config: ConfigFile = None,
    server: ServerUrl = _LOCAL,
) -> None:
    """Remove the containers of this installation that no execution needs any more.

    The executions are looked up in the storage of this configuration, or asked of --server while
    that server has it.
    """
    loaded = _load(config)
    from fastlane.prune import prune

    async def run() -> bool:
        well = True
        async for each in prune(loaded, server, dry_run=dry_run):
            if each.error is not None:
                _say(each.error)
                well = False
            else:
                typer.echo(f"{each.host} {each.run_id} execution {each.execution_id}")
        return well

    if not asyncio.run(run()):
        raise typer.Exit(1)


notifications = typer.Typer(
    help="Look at notifications that were not delivered, and have them tried again.",
    no_args_is_help=True,
)
app.add_typer(notifications, name="notifications")


class Listed(StrEnum):
    """Which notifications are listed."""

    FAILED = "failed"
    PENDING = "pending"


@notifications.command("list")
def list_notifications(
    state: Annotated[
        Listed, typer.Option(help="failed: used up, to be requeued; pending: on their way.")
    ] = Listed.FAILED,
    as_json: Annotated[bool, typer.Option("--json", help="An object a line, as the API.")] = False,
    server: ServerUrl = _LOCAL,
) -> None:
    """List notifications, newest first: id, event, channel, receiver, what went wrong."""

    async def show(client: Client) -> None:
        async for item in client.notifications(state):
            typer.echo(json.dumps(item, ensure_ascii=False) if as_json else _notification(item))

    _call(server, show)


@notifications.command("requeue")
def requeue_notifications(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID...", help="Ids, as they are listed.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All that have failed.")] = False,
    server: ServerUrl = _LOCAL,
) -> None:
    """Have failed notifications tried again, from their first attempt on."""
    if bool(ids) == every:
        raise ConfigError("requeue takes either ids or --all: give one of them.")

    async def requeue(client: Client) -> int:
        # The whole list first: requeueing would move its pages.
        chosen = ids or [item["id"] async for item in client.notifications(Listed.FAILED)]
        for notification_id in chosen:
            await client.requeue(notification_id)
        return len(chosen)

    typer.echo(f"{_call(server, requeue)} requeued")


def _notification(item: dict[str, Any]) -> str:
    """One line of the list; what a receiver or a submitter chose cannot move the cursor."""
    last = item["dispatch"][-1] if item["dispatch"] else {}
    words = [item["id"], item["event"], item["channel"], item["target"], last.get("error") or ""]
    line = "  ".join(words).rstrip()
    return line if line.isprintable() else repr(line)[1:-1]


def _call(server: str, talk: Callable[[Client], Awaitable[T]]) -> T:
    async def run() -> T:
        async with connected(server) as client:
            return await talk(client)

    return asyncio.run(run())


def _write(stream: str, text: str) -> None:
    file = sys.stdout if stream == "stdout" else sys.stderr
    # Half a character of UTF-16 can stand in JSON, but in no output.
    file.write(text.encode(errors="replace").decode())
    file.flush()


def _end(end: End | None) -> None:
    """Exit as the job did; without an exit code of its own, with 1."""
    if end is None or end.exit_code == 0:
        return
    _say(f"the execution is {end.status} ({end.reason}).")
    raise typer.Exit(1 if end.exit_code is None else end.exit_code)


def _load(file: Path | None, **overrides: str | None) -> Config:
    for sentence in misspellings():
        _say(f"warning: {sentence}")
    config = load(file, overrides=overrides)
    for sentence in warnings(config):
        _say(f"warning: {sentence}")
    return config


def _block(option: Option) -> Iterator[Text]:
    """An option in a few lines: its value, marked when it is set, then its help, form, default."""
    head = Text()
    head.append(option.name, style="bold")
    head.append(f"={option.value}", style="green" if option.changed else "")
    if option.changed:
        head.append("  (set)", style="dim")
    yield head
    default = option.default or "none"
    for paragraph, style in (
        (option.help, ""),
        (f"Takes {option.type}. Default: {default}", "dim"),
    ):
        for line in _wrapped(paragraph, "    "):
            yield Text(line, style=style)
    yield Text("")


def _sample(listed: list[Option]) -> Iterator[str]:
    """A file for ``--config`` that changes nothing until a line loses its ``#``."""
    yield "# Options of fastlane: take the # away to set one."
    for option in listed:
        yield ""
        yield from _wrapped(option.help, "# ")
        yield from _wrapped(f"Takes {option.type}.", "# ")
        yield f"#{option.name}={option.default}"


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH - 1,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _say(sentence: str) -> None:
    typer.echo(f"fastlane: {sentence}", err=True)


def main() -> None:
    """Run the command line; ends the process with the exit codes of the module's docstring."""
    try:
        app()
    except ConfigError as error:
        for sentence in str(error).splitlines():
            _say(sentence)
        sys.exit(2)
    except FastlaneError as error:
        for sentence in str(error).splitlines():
            _say(sentence)
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _say(f"{where}{error.strerror or error}")
        sys.exit(1)
