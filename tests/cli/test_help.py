"""The help of all commands: docs/cli.md is made from it, and is what it is compared with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from fastlane.cli import app
from scripts.cli_docs import PAGE, page


def test_the_page_says_what_the_tool_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    written = PAGE.read_text(encoding="utf-8")
    assert page(written) == written, "write it anew: python -m scripts.cli_docs"


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, sub in getattr(command, "commands", {}).items():
        yield from commands(sub, (*path, name))


def test_the_help_reads_like_one_text() -> None:
    for path, command in commands(typer.main.get_command(app)):
        where = " ".join(path)
        assert command.help, where
        first = command.help.splitlines()[0]
        assert first[0].isupper(), where
        assert first.endswith("."), where
        # Longer ones are cut in the list of commands.
        assert len(first) <= 62, where
        for param in command.params:
            text = getattr(param, "help", None)
            if text and param.name != "help":
                assert text[0].isupper(), (where, param.name)
                assert text.endswith("."), (where, param.name)


def test_help_needs_no_server_and_no_heavy_import() -> None:
    code = (
        "import sys; sys.argv = ['fastlane', '--help']\n"
        "from fastlane.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'aiohttp', 'asyncio', 'httpx2', 'pydantic', 'pymongo', 'rich', 'tornado'}\n"
        "sys.exit(', '.join(sorted(heavy & sys.modules.keys())) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b"run " in done.stdout
