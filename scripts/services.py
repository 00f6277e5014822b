"""Sets up what the tests need: the engine, Redis, MongoDB, a browser, a registry, Prometheus.

::

    python -m scripts.services                  all of it
    python -m scripts.services engine           the engine alone
    python -m scripts.services engine stores    with Redis and MongoDB, as benchmarks need it

Installs what is missing where that is allowed (root on Debian or Ubuntu); elsewhere it says what is
missing and goes on, and the tests that need it are skipped. With ``CI=true`` it fails instead.
The servers themselves are started by the tests (``tests/services.py``), each on a free port.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Collection
from pathlib import Path

from scripts import engine
from scripts.machine import SetupError, can_install, fail, in_ci, install, say

# Program → the Debian package that has it.
PROGRAMS = {
    "redis-server": "redis-server",
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
    "docker-registry": "docker-registry",
    "busybox": "busybox-static",
    "docker-compose": "docker-compose",
    "nginx": "nginx-light",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "zsh": "zsh",
    "fish": "fish",
}

# Those of them that a store needs, beside mongod.
STORES = ("redis-server",)

# Bounds how long a program may take to tell its version, in seconds.
VERSION_TIMEOUT = 60


def mongod() -> Path:
    """Where the mongod of the PyPI wheel is, or would be."""
    return Path(sysconfig.get_path("purelib")) / "fiftyone" / "db" / "bin" / "mongod"


def prepare_mongod() -> str | None:
    """Make mongod runnable; the reason where it is not, else None."""
    path = mongod()
    if not path.exists():
        return "the wheel that ships mongod is for Linux on x86-64 only"
    path.chmod(path.stat().st_mode | 0o755)
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT
        )
    except OSError as error:
        return str(error)
    return None if done.returncode == 0 else done.stderr.strip()


def missing_programs(wanted: Collection[str] = PROGRAMS) -> dict[str, str]:
    """Programs of *wanted* that are not on the path, and the package of each."""
    return {
        program: name
        for program, name in PROGRAMS.items()
        if program in wanted and shutil.which(program) is None
    }


def prepare(wanted: Collection[str] = PROGRAMS) -> list[str]:
    """Install mongod and what is missing of *wanted*; what could not be had, with its reason."""
    lacking = []
    try:
        if can_install():
            packages = list(missing_programs(wanted).values())
            # mongod links against it and the wheel does not ship it.
            if prepare_mongod() is not None:
                packages.append("libcurl4")
            if packages:
                install(packages)
    except SetupError as error:
        lacking.append(str(error))
    lacking += [f"{program} (apt: {name})" for program, name in missing_programs(wanted).items()]
    why = prepare_mongod()
    if why is not None:
        lacking.append(f"mongod ({why})")
    return lacking


def main(arguments: list[str]) -> int:
    """Set up, say what is lacking, and fail for it in CI only."""
    lacking = []
    if not arguments:
        lacking = prepare()
    elif "stores" in arguments:
        lacking = prepare(STORES)
    try:
        engine.ensure()
    except SetupError as error:
        lacking.append(f"engine: {error}")
    for what in lacking:
        say("missing", what)
    if lacking and in_ci():
        return fail("CI=true: everything is expected to be there")
    if lacking:
        say("setup", "what needs these is skipped")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
