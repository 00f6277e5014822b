"""``fastlane config``: every option, for reading or as a file."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from fastlane.cli.app import ConfigFile, app, load_config

if TYPE_CHECKING:
    from fastlane.config import Option

# Bounds a line of help, however wide the terminal is.
_WIDTH = 80


class Format(StrEnum):
    """What ``fastlane config`` prints."""

    TEXT = "text"
    ENV = "env"


@app.command("config")
def show_config(
    config: ConfigFile = None,
    format: Annotated[
        Format, typer.Option(help="For reading (text), or as a file for --config (env).")
    ] = Format.TEXT,
) -> None:
    """Show every option of the server.

    Its value, what it does, what it accepts and its default."""
    from fastlane.config import options

    listed = options(load_config(config))
    if format is Format.ENV:
        typer.echo("\n".join(_sample(listed)))
        return
    for option in listed:
        typer.echo(_block(option))


def _block(option: Option) -> str:
    """An option: its name and value, marked when it is set, then its help, form and default."""
    value = typer.style(f"={option.value}", fg="green" if option.changed else None)
    mark = typer.style("  (set)", dim=True) if option.changed else ""
    form = f"Accepts {option.type}. Default: {option.default or 'empty'}"
    lines = [
        typer.style(option.name, bold=True) + value + mark,
        *_wrapped(option.help, "    "),
        *(typer.style(line, dim=True) for line in _wrapped(form, "    ")),
    ]
    return "\n".join([*lines, ""])


def _sample(listed: list[Option]) -> Iterator[str]:
    """A file for ``--config`` that changes nothing until a line loses its ``#``."""
    yield "# Options of fastlane. Remove the # before a name to set that option."
    for option in listed:
        yield ""
        yield from _wrapped(option.help, "# ")
        yield from _wrapped(f"Accepts {option.type}.", "# ")
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
