"""Installs fastlane in an empty environment in each way that users do, and tries each.

::

    python -m scripts.check_wheel

The ways are a wheel, a source distribution and an editable install. From each one, every module is
imported, and a server is started that must send a page and what the page refers to.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

from scripts.machine import ROOT, SetupError, fail, say

# Bounds each step (a build, an install), in seconds.
STEP_TIMEOUT = 600
# Bounds the start of a server, in seconds.
START_TIMEOUT = 60

# Run in the environment that holds nothing but fastlane and what it requires.
_PROBE = """
import importlib, pkgutil, fastlane
for module in pkgutil.walk_packages(fastlane.__path__, "fastlane."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(fastlane.__file__)
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
    source = folder / "source"
    tracked = _copy_tracked(source)
    wheel = _build_wheel(source, folder, tracked)
    venv.create(folder / "venv", with_pip=True)
    sdist = _build_sdist(source, folder)
    # The first one brings what fastlane requires; the others replace only fastlane.
    for way, arguments, home in (
        ("wheel", [str(wheel)], folder / "venv"),
        ("sdist", ["--no-deps", "--force-reinstall", str(sdist)], folder / "venv"),
        ("editable", ["--no-deps", "--editable", str(source)], source),
    ):
        _run(str(folder / "venv/bin/python"), "-m", "pip", "install", "--quiet", *arguments)
        _try(way, folder, home)


def _copy_tracked(source: Path) -> list[str]:
    # setuptools would also ship what an earlier build left in build/.
    tracked = [name for name in _run("git", "ls-files").splitlines() if (ROOT / name).exists()]
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    return tracked


def _build_sdist(source: Path, folder: Path) -> Path:
    # Newer Pythons come without setuptools.
    python = str(folder / "venv/bin/python")
    _run(python, "-m", "pip", "install", "--quiet", "setuptools >= 70")
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    _run(python, "-c", build, str(folder), cwd=source)
    return next(folder.glob("fastlane-*.tar.gz"))


def _build_wheel(source: Path, folder: Path, tracked: list[str]) -> Path:
    pip_wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    _run(*pip_wheel, "-w", str(folder), str(source))
    wheel = next(folder.glob("fastlane-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        shipped = set(archive.namelist())
    wanted = {name for name in tracked if name.startswith("fastlane/")}
    wanted |= {f"fastlane/{name}" for name in tracked if name.startswith(("static/", "templates/"))}
    missing = sorted(wanted - shipped)
    if missing:
        raise SetupError(f"{wheel.name} lacks {', '.join(missing)}")
    say("wheel", f"{wheel.name}: {len(shipped)} files, nothing of the package left out")
    return wheel


def _try(way: str, folder: Path, home: Path) -> None:
    programs = folder / "venv/bin"
    # Elsewhere, so that nothing is found because it is in the current directory.
    elsewhere = folder / way
    elsewhere.mkdir()
    python = [str(programs / "python"), "-W", "error::SyntaxWarning"]
    found = _run(*python, "-c", _PROBE, cwd=elsewhere).strip()
    if not Path(found).is_relative_to(home):
        raise SetupError(f"{way}: fastlane was imported from {found}, not from {home}")
    _run(str(programs / "fastlane"), "--help", cwd=elsewhere)
    page, assets = _serve(programs / "fastlane", elsewhere)
    say(way, f"every module imports; a server sends {page} and {', '.join(assets)}")


def _serve(program: Path, folder: Path) -> tuple[str, list[str]]:
    """Start a server; the path of the page that it sends, and those of what belongs to the page."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"PATH": os.environ["PATH"], "EXECUTOR": "process", "DATA_DIR": str(folder)}
    log_path = folder / "server.log"
    with log_path.open("wb") as log:
        server = subprocess.Popen(
            [str(program), "server", "--port", str(port)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while (page := _get(port, "/docs/")) is None:
            if server.poll() is not None or time.monotonic() > deadline:
                raise SetupError(f"the server did not start:\n{log_path.read_text()[-4000:]}")
            time.sleep(0.1)
        assets = sorted(set(re.findall(r'(?:href|src)="(/static/[^"?]+)', page)))
        if not assets or not all(_get(port, asset) for asset in assets):
            raise SetupError(f"/docs/ came without what it refers to: {assets}")
        return "/docs/", assets
    finally:
        server.terminate()
        server.wait(STEP_TIMEOUT)


def _get(port: int, path: str) -> str | None:
    """What the server answers with 200; None while it does not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
    except OSError:
        return None
    finally:
        connection.close()
    return body if answer.status == 200 else None


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
