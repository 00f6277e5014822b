"""The examples of the guides for Python run, each as a program of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fastlane_server import ROOT, FastlaneServer

PAGES = ("python", "from-celery", "from-cron", "from-docker-run")
# Bounds one example, in seconds.
EXAMPLE_SECONDS = 60


def find_examples() -> Iterator[tuple[str, str]]:
    """Each example with the page and the line that it is on; what begins with # is not ours."""
    for page in PAGES:
        text = (ROOT / "docs" / f"{page}.md").read_text()
        for found in re.finditer(r"^```python\n(?!# celery)(.*?)^```", text, re.M | re.S):
            yield f"{page}:{text.count(chr(10), 0, found.start()) + 1}", found[1]
    text = (ROOT / "client" / "README.md").read_text()
    for found in re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S):
        yield "README", found[1]


EXAMPLES = list(find_examples())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastlaneServer]:
    with FastlaneServer(tmp_path_factory.mktemp("server"), EXECUTOR="process") as server:
        yield server


@pytest.mark.parametrize(("where", "code"), EXAMPLES, ids=[where for where, _ in EXAMPLES])
def test_the_example(server: FastlaneServer, tmp_path: Path, where: str, code: str) -> None:
    code = code.replace("http://localhost:10000", server.url)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "FASTLANE_URL": server.url},
        capture_output=True,
        text=True,
        timeout=EXAMPLE_SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_there_are_examples_on_every_page() -> None:
    assert {where.partition(":")[0] for where, _ in EXAMPLES} == {*PAGES, "README"}
