"""``fastlane submit`` and ``fastlane logs``."""

from __future__ import annotations

import asyncio
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from fastlane.cli.app import LOCAL, ServerUrl, app, call, say
from fastlane.cli.old_client import Client, State, shown_url
from fastlane.errors import ConfigError

# What a shell gives a program that SIGINT has ended: 128 + 2.
_INTERRUPTED = 130
_NOT_STARTED = {"scheduled", "enqueued", "pulling"}


FollowJob = Annotated[
    bool,
    typer.Option(
        "--follow", "-f", help="Show the log until the job ends, retries included; exit as it does."
    ),
]
FollowUrl = Annotated[
    bool,
    typer.Option(
        "--follow",
        "-f",
        help="Show the log until the execution, or the job with its retries, ends; exit as it "
        "does.",
    ),
]


@app.command()
def submit(
    task: Annotated[str, typer.Argument(help="A name that groups jobs.")],
    image: Annotated[str, typer.Option(help="The image to run.")],
    command: Annotated[
        str,
        typer.Option(help="The command. No shell runs it: for && or pipes, use sh -c '...'."),
    ],
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Set an environment variable; may be repeated."),
    ] = None,
    retries: Annotated[int, typer.Option(help="How often to try again after a failure.")] = 0,
    start_in: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Start later, as in 10s, 2m30s or 4h.")
    ] = None,
    cron: Annotated[
        str | None, typer.Option(metavar="CRON", help="Run on a schedule, as in '*/5 * * * *'.")
    ] = None,
    follow: FollowJob = False,
    server: ServerUrl = LOCAL,
) -> None:
    """Submit a job to a running server and print its URL."""
    given: dict[str, Any] = {
        "image": image,
        "command": command,
        "envs": dict(_pair(text) for text in env or ()),
        "retries": retries,
        "startIn": start_in,
        "cron": cron,
    }
    payload = {key: value for key, value in given.items() if value not in (None, 0, {})}

    async def post(client: Client) -> tuple[str, str]:
        return await client.submit(task, payload)

    job_url, url = call(server, post)
    typer.echo(url, err=follow)
    if follow:
        _follow(server, job_url)


@app.command("logs")
def show_logs(
    url: Annotated[str, typer.Argument(help="The URL of a job or an execution.")],
    follow: FollowUrl = False,
    server: ServerUrl = LOCAL,
) -> None:
    """Show the log of an execution, or of a job's last execution."""
    if follow:
        _follow(server, url)
        return

    async def read(client: Client) -> State:
        return await client.logs(url, sys.stdout.buffer.write)

    state = call(server, read)
    sys.stdout.buffer.flush()
    if state.status in _NOT_STARTED:
        say(f"No output yet: the status is {state.status}.")
    elif state.error:
        say(state.sentence)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ConfigError(f'--env is "{name}": give NAME=VALUE.')
    return name, value


def _follow(server: str, url: str) -> None:
    """Show a log until it ends, then exit as what wrote it did; without an exit code, with 1."""

    async def follow(client: Client) -> State:
        with _ending_with_its_reader():
            return await client.follow(url, _write)

    try:
        end = call(server, follow)
    except KeyboardInterrupt:
        stop = f"curl -X POST {shown_url(url).rstrip('/')}/stop/"
        say(f"Interrupted. The job continues; to stop it: {stop}")
        raise typer.Exit(_INTERRUPTED) from None
    if end.exit_code != 0:
        say(end.sentence)
        raise typer.Exit(1 if end.exit_code is None else end.exit_code)


def _write(stream: str, text: str) -> None:
    file = sys.stdout if stream == "stdout" else sys.stderr
    # JSON can hold half a character of UTF-16; no output can.
    file.write(text.encode(errors="replace").decode())
    file.flush()


@contextmanager
def _ending_with_its_reader() -> Iterator[None]:
    """Die of SIGPIPE once nobody reads our output, as with ``| head``, also between writes."""
    with select.epoll() as watched:
        try:
            # An error is reported without being asked for: the pipe's reader is gone.
            watched.register(sys.stdout.fileno(), 0)
        except OSError:
            # A file has no reader.
            yield
            return
        loop = asyncio.get_running_loop()
        loop.add_reader(watched.fileno(), _die_of_sigpipe)
        try:
            yield
        finally:
            loop.remove_reader(watched.fileno())


def _die_of_sigpipe() -> None:
    # Python ignores the signal, so that each write raises an error instead.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.raise_signal(signal.SIGPIPE)
