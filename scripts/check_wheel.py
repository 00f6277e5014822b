"""Builds the wheel, installs it in an empty environment and looks at what a user would get.

::

    python -m scripts.check_wheel

An editable install finds files that a wheel may have left out; this does not.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

from scripts.machine import ROOT, SetupError, fail, say

# Bounds each step (a build, an install), in seconds.
STEP_TIMEOUT = 600

# Run in the environment that holds nothing but the wheel.
_PROBE = """
import importlib, pkgutil, fastlane
assert "site-packages" in fastlane.__file__, fastlane.__file__
for module in pkgutil.walk_packages(fastlane.__path__, "fastlane."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


def main() -> int:
    """Carry it out; the exit code."""
    try:
        with tempfile.TemporaryDirectory(prefix="fastlane-wheel-") as folder:
            _check(Path(folder))
    except SetupError as error:
        return fail(f"wheel     {error}")
    return 0


def _check(folder: Path) -> None:
    # A copy of what is tracked: setuptools would also ship what an earlier build left in build/.
    tracked = _run("git", "ls-files").splitlines()
    source = folder / "source"
    for name in tracked:
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    pip_wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    _run(*pip_wheel, "-w", str(folder), str(source))
    wheel = next(folder.glob("fastlane-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        shipped = set(archive.namelist())
    wanted = {name for name in tracked if name.startswith("fastlane/")}
    lacking = sorted(wanted - shipped)
    if lacking:
        raise SetupError(f"{wheel.name} lacks {', '.join(lacking)}")
    say("wheel", f"{wheel.name}: {len(shipped)} files, nothing of the package left out")

    venv.create(folder / "venv", with_pip=True)
    programs = folder / "venv" / "bin"
    _run(str(programs / "python"), "-m", "pip", "install", "--quiet", str(wheel))
    _run(str(programs / "python"), "-W", "error::SyntaxWarning", "-c", _PROBE, cwd=folder)
    _run(str(programs / "fastlane"), "--help", cwd=folder)
    say("wheel", "installed elsewhere: every module imports, fastlane --help answers")


def _run(*command: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=STEP_TIMEOUT,
        check=False,
    )
    if done.returncode != 0:
        raise SetupError(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
