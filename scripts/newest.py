"""Runs the tests of ``make check`` on the newest Python that Debian has, in a Debian sid.

::

    python -m scripts.newest [arguments of pytest]

The first time it makes the system in ``.run/newest`` (two minutes, 500 MB), which needs root on
Debian; after that it is there. Nothing outside of it changes, and nothing keeps running.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.machine import ROOT, RUN_DIR, SetupError, can_install, fail, install, say

SYSTEM = RUN_DIR / "newest"
# Where the system sees this checkout.
SOURCE = "/source"
PACKAGES = ("ca-certificates", "python3", "python3-venv", "tzdata")
# The machine may reach package indexes through a certificate authority of its own.
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
# Names of hosts are looked up as on the machine.
COPIED = (CERTIFICATES, Path("/etc/hosts"), Path("/etc/resolv.conf"))
# Its pip has no use for paths on the machine.
LEFT_BEHIND = {"PIP_CONFIG_FILE", "PIP_CONSTRAINT", "PIP_FIND_LINKS", "VIRTUAL_ENV"}

# Bounds the making of the system, in seconds.
SYSTEM_TIMEOUT = 900

_RUN = f"""
set -eu
mount --rbind /dev "$1/dev"
mount -t proc proc "$1/proc"
mount --bind "$2" "$1{SOURCE}"
system=$1
shift 2
exec chroot "$system" sh -c 'cd {SOURCE} && exec "$@"' sh "$@"
"""


def main(arguments: Sequence[str]) -> int:
    """Carry it out; the exit code."""
    try:
        _make_system()
        say("setup", f"Python {_output('python3', '-c', 'import sys; print(sys.version)')}")
        if _run("env", "VENV=/venv", "PYTHON=python3", "sh", "scripts/venv.sh", "dev") != 0:
            raise SetupError("the packages could not be installed on that Python; see above")
        return _run("/venv/bin/python", "-m", "pytest", "-p", "no:cacheprovider", *arguments)
    except SetupError as error:
        return fail(f"newest    {error}")


def _make_system() -> None:
    """Make it, unless it was made.

    :raises SetupError: this is not a machine on which that can be done, or it failed.
    """
    done = SYSTEM / "made"
    if not can_install():
        raise SetupError("a Debian sid can only be set up and entered as root on Debian")
    if not done.exists():
        if shutil.which("debootstrap") is None:
            install(["debootstrap"])
        shutil.rmtree(SYSTEM, ignore_errors=True)
        SYSTEM.mkdir(parents=True)
        say("setup", f"making a Debian sid in {SYSTEM}")
        command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", "sid"]
        made = subprocess.run(
            [*command, str(SYSTEM)],
            capture_output=True,
            text=True,
            timeout=SYSTEM_TIMEOUT,
            check=False,
        )
        if made.returncode != 0:
            end = "\n".join(made.stdout.strip().splitlines()[-15:])
            raise SetupError(f"debootstrap failed:\n{end}\n{made.stderr}")
        (SYSTEM / SOURCE.lstrip("/")).mkdir()
        done.touch()
    for path in COPIED:
        if path.exists():
            shutil.copyfile(path, SYSTEM / str(path).lstrip("/"))


def _inside(*command: str) -> list[str]:
    # The mounts are seen by this command only, and end with it.
    private = ["unshare", "--mount", "--propagation", "private"]
    return [*private, "sh", "-c", _RUN, "sh", str(SYSTEM), str(ROOT), *command]


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in LEFT_BEHIND}
    # No bytecode and no cache of this Python among those of the checkout's own.
    return kept | {"HOME": "/root", "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"}


def _run(*command: str) -> int:
    return subprocess.run(_inside(*command), env=_environment(), check=False).returncode


def _output(*command: str) -> str:
    done = subprocess.run(
        _inside(*command), env=_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SetupError(f"{' '.join(command)} failed in {SYSTEM}: {done.stderr.strip()}")
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
