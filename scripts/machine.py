"""What this machine is and what may be installed on it. Standard library only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Logs and process ids of what the scripts leave running.
RUN_DIR = ROOT / ".run"

# Bounds one apt command, in seconds: a browser is some hundred megabytes.
APT_TIMEOUT = 900

# Debian's switch that keeps a package from starting its service while it is installed.
_POLICY = Path("/usr/sbin/policy-rc.d")


class SetupError(Exception):
    """Something that is needed cannot be had here; the message says why and what to do."""


def say(topic: str, message: str) -> None:
    """One line of progress for people, in two columns."""
    print(f"{topic:<9} {message}", flush=True)


def in_ci() -> bool:
    """Whether everything is expected to be there (``CI=true``)."""
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def can_install() -> bool:
    """Whether packages can be installed without asking: root on Debian, Ubuntu or their kin."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    try:
        release = Path("/etc/os-release").read_text(encoding="utf-8")
    except OSError:
        return False
    kin = {
        word
        for line in release.splitlines()
        if line.startswith(("ID=", "ID_LIKE="))
        for word in line.partition("=")[2].strip('"').split()
    }
    return bool(kin & {"debian", "ubuntu"})


def install(packages: Sequence[str]) -> None:
    """Install Debian packages without starting their services.

    :raises SetupError: apt failed, with the end of what it said.
    """
    say("setup", f"installing {' '.join(packages)} (apt)")
    with _services_held_back():
        _apt("update", "-qq")
        _apt("install", "-y", "-qq", "--no-install-recommends", *packages)


def _apt(*arguments: str) -> None:
    command = ["apt-get", "-o", "DPkg::Lock::Timeout=120", *arguments]
    try:
        done = subprocess.run(
            command,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=APT_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SetupError(f"{' '.join(command)} took longer than {APT_TIMEOUT} s") from None
    if done.returncode != 0:
        end = "\n".join(done.stdout.strip().splitlines()[-15:])
        raise SetupError(f"{' '.join(command)} failed:\n{end}")


@contextmanager
def _services_held_back() -> Iterator[None]:
    # Tests start servers of their own on free ports; one on the default port would be in the way
    # of somebody else's and nobody would end it.
    if _POLICY.exists():
        yield
        return
    try:
        _POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
        _POLICY.chmod(0o755)
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


def fail(message: str) -> int:
    """Say *message* on stderr and give the exit code for it."""
    print(message, file=sys.stderr, flush=True)
    return 1
