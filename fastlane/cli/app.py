"""What all commands share: the application, options that several have, and calls to a server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from fastlane import __version__
from fastlane.cli.old_client import Client, connected
from fastlane.config import Config, load, misspellings, warnings

T = TypeVar("T")

LOCAL = "http://localhost:10000"
"""Where a server without any configuration listens."""

app = typer.Typer(
    name="fastlane",
    no_args_is_help=True,
    # Typer's tracebacks show local variables, and those hold secrets.
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Read options from NAME=value lines; the environment takes precedence.",
    ),
]

ServerUrl = Annotated[
    str,
    typer.Option(
        "--server",
        envvar="FASTLANE_URL",
        metavar="URL",
        help="The server to call; http://user:password@host:port if it requires credentials.",
    ),
]


def show_version(wanted: bool) -> None:
    """What ``--version`` does."""
    if wanted:
        typer.echo(f"fastlane {__version__}")
        raise typer.Exit


@app.callback()
def fastlane(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Run container jobs for anyone who can send an HTTP request."""


def say(sentence: str) -> None:
    """Tell the user something that is not the command's output."""
    typer.echo(f"fastlane: {sentence}", err=True)


def call(server: str, talk: Callable[[Client], Awaitable[T]]) -> T:
    """What *talk* returns, given a client of *server*."""

    async def run() -> T:
        async with connected(server) as client:
            return await talk(client)

    return asyncio.run(run())


def load_config(file: Path | None, **overrides: str | None) -> Config:
    """The configuration; what it probably does not mean is a warning."""
    for sentence in misspellings():
        say(f"Warning: {sentence}")
    config = load(file, overrides=overrides)
    for sentence in warnings(config):
        say(f"Warning: {sentence}")
    return config
