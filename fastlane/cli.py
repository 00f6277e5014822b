"""The command line: arguments → configuration → server.

Exit codes: 0 for success, 1 when something failed, 2 when the arguments or the configuration are
at fault; then nothing was started. What went wrong is one sentence a line on standard error.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from fastlane import __version__, logs
from fastlane.config import Config, Option, load, misspellings, options
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
    config: ConfigFile = None,
) -> None:
    """Serve the API and run jobs until SIGTERM or Ctrl-C."""
    # Arguments are given as texts, so that their faults read as those of all other options.
    loaded = _load(config, host=host, port=port)
    logs.configure(loaded)
    # The server's imports take longer than any other command needs.
    from fastlane.server import run

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


def _load(file: Path | None, **overrides: str | None) -> Config:
    for sentence in misspellings():
        _say(f"warning: {sentence}")
    return load(file, overrides=overrides)


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
        _say(str(error))
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _say(f"{where}{error.strerror or error}")
        sys.exit(1)
