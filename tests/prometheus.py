"""Prometheus of Debian: its checks, and a server that scrapes one of ours."""

from __future__ import annotations

import shutil
import subprocess

from tests.services import missing


def program(name: str) -> str:
    """The path of *name*; skips the test where it is not there."""
    found = shutil.which(name)
    if found is None:
        missing(name, f"{name} is not on the path")
    return found


def promtool(*arguments: str, text: bytes = b"") -> None:
    """Run a check that must find nothing."""
    done = subprocess.run(
        [program("promtool"), *arguments], input=text, capture_output=True, timeout=60
    )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    assert "error" not in said.lower(), said
