"""The table "Where to put what" of CONTRIBUTING, walked with a throw-away example each.

An example is made in a copy of the package, in the files that its row names and no others, and is
tried on a server in a process of its own.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fastlane_server import ROOT, FastlaneServer

# Rows that are walked elsewhere: an invented executor, and an invented channel.
ELSEWHERE = {
    "an executor": "tests/api/test_executors.py",
    "a notification channel": "tests/api/test_channels.py",
}


class Example(FastlaneServer):
    """A server of a copy of the package, in which an example is added."""

    def __init__(self, directory: Path, **options: str) -> None:
        super().__init__(directory, EXECUTOR="process", **options)
        self._source = directory / "source"
        shutil.copytree(ROOT / "fastlane", self._source / "fastlane")
        for assets in ("static", "templates"):
            # As setup.py maps them.
            shutil.copytree(ROOT / assets, self._source / "fastlane" / assets)
        self.touched: list[str] = []

    def add(self, path: str, text: str) -> None:
        """A new module."""
        file = self._source / "fastlane" / path
        assert not file.exists()
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
        self.touched.append(path)

    def edit(self, path: str, before: str, text: str) -> None:
        """Insert *text* above the one line that begins with *before*."""
        file = self._source / "fastlane" / path
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        (number,) = [n for n, line in enumerate(lines) if line.lstrip().startswith(before)]
        lines.insert(number, text)
        file.write_text("".join(lines), encoding="utf-8")
        self.touched.append(path)

    def command(self) -> list[str]:
        options = [f"{name}={value}" for name, value in self.options.items()]
        environment = ["env", f"PYTHONPATH={self._source}", *options]
        return [*environment, sys.executable, "-m", "fastlane", "server"]


def rows() -> dict[str, str]:
    """Of the table in CONTRIBUTING: what is added, and what has to be touched for it."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    _, _, table = text.partition("| to add | touch |\n")
    return dict(re.findall(r"^\| (an? [^|]+) \| ([^|]+) \|$", table.partition("\n\n")[0], re.M))


@contextmanager
def walking(row: str, example: Example) -> Iterator[Example]:
    """Serve *example*, which must have touched only what *row* names."""
    named = tuple(re.findall(r"`([^`]+)`", rows()[row]))
    assert [path for path in example.touched if not path.startswith(named)] == []
    with example:
        yield example


ECHO = '''
from fastlane.api.base import BaseHandler
from fastlane.api.schemas.responses import Answer


class Echo(Answer):
    """A word."""

    word: str


class EchoHandler(BaseHandler):
    """``/echo/<name>/``"""

    async def get(self, name: str) -> None:
        """The word of the path."""
        await self.send_json({"word": name})
'''
ECHO_ROUTE = """
        route("/echo/<name>", EchoHandler, get("echo", VIEWER, "The same word", Echo)),
"""


def test_an_endpoint(tmp_path: Path) -> None:
    example = Example(tmp_path)
    example.add("api/handlers/echo.py", ECHO)
    example.edit(
        "api/routes.py",
        "from fastlane.api.handlers.executions import",
        "from fastlane.api.handlers.echo import Echo, EchoHandler\n",
    )
    example.edit("api/routes.py", 'route("/tasks", Tasks', ECHO_ROUTE)
    with walking("an endpoint", example) as server:
        assert server.get("/echo/hello/") == {"word": "hello"}
        assert server.get("/echo/hello") == {"word": "hello"}
        # Documented, and bound to the rules of all: methods and query parameters.
        document = server.get("/openapi.json")["paths"]["/echo/{name}"]
        assert document["get"]["summary"] == "The same word"
        assert server.request("POST", "/echo/hello/", {})[0] == 405
        assert server.request("GET", "/echo/hello/?loud=1")[0] == 400


def test_an_option(tmp_path: Path) -> None:
    example = Example(tmp_path, MOTTO="who dares")
    example.edit(
        "config/options.py",
        "host: types.Address",
        '    motto: str = option("", "a text", "What the server logs when it starts.")\n',
    )
    example.edit("wiring.py", "bus = Bus()", '    print("motto:", config.motto, flush=True)\n')
    with walking("an option", example) as server:
        assert "motto: who dares" in server.log_text()


STORAGE = """
from fastlane.storage.sqlite import SqliteStorage


class InventedStorage(SqliteStorage):
    name = "invented"
"""


def test_a_storage(tmp_path: Path) -> None:
    example = Example(tmp_path)
    example.add("storage/invented/__init__.py", STORAGE)
    example.edit(
        "wiring.py",
        "return SqliteStorage(config.data_dir)",
        "        from fastlane.storage.invented import InventedStorage\n\n"
        "        return InventedStorage(config.data_dir)\n",
    )
    with walking("a storage", example) as server:
        assert server.get("/status/")["backend"] == "invented"
        job = server.submit("stored", image="any", command="true")["jobUrl"]
        assert server.await_end(job)[0]["status"] == "done"


def test_each_promise_is_walked() -> None:
    walked: dict[str, Callable[[Path], None]] = {
        "an endpoint": test_an_endpoint,
        "an option": test_an_option,
        "a storage": test_a_storage,
    }
    assert set(rows()) == walked.keys() | ELSEWHERE.keys()
    for path in ELSEWHERE.values():
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("file", ["CONTRIBUTING.md", "docs/releasing.md", "README.md"])
def test_named_targets_exist(file: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    text = (ROOT / file).read_text(encoding="utf-8")
    named = set(re.findall(r"`make ([a-z-]+)", text)) | set(
        re.findall(r"^\$ make (\S+)", text, re.M)
    )
    assert named
    assert named <= targets
