"""``python -m scripts.cli_docs``: writes ``docs/cli.md`` from the help of the command line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from fastlane.cli import app

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"

# What stands below it is made from the tool.
MARK = "<!-- From here on: made by python -m scripts.cli_docs. -->\n"


def page(written: str) -> str:
    """The page as the tool is now.

    :param written: the page; what people wrote above the mark stays.
    """
    # The width of the help.
    os.environ["COLUMNS"] = "80"
    command: Any = typer.main.get_command(app)
    return "\n".join([written.partition(MARK)[0] + MARK, *_sections(command, "fastlane", 2)])


def _sections(command: Any, name: str, level: int) -> Iterator[str]:
    context = command.make_context(name, [], resilient_parsing=True)
    yield f"{'#' * level} {name}\n\n```text\n{command.get_help(context)}\n```\n"
    for sub in command.list_commands(context) if hasattr(command, "commands") else ():
        if not command.commands[sub].hidden:
            yield from _sections(command.commands[sub], f"{name} {sub}", 3)


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
