"""Installs fastlane and its client in empty environments in each way that users do; tries each.

::

    python -m scripts.check_wheel

The ways are wheels, source distributions and editable installs. From each one, every module is
imported, and a server is started that must send a page and what the page refers to. The client is
also installed alone, where it must stay small and call that server.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import statistics
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

# Bounds what the client brings into an empty environment, itself included.
CLIENT_MAX_PACKAGES = 8
# Bounds what importing the client, with its HTTP library, costs over bare Python, in ms.
CLIENT_MAX_IMPORT_MS = 200
# How often the import is timed; the median counts.
IMPORTS = 20

# Run in the environment that holds nothing but one of them and what it requires.
_PROBE = """
import importlib, pkgutil, {package} as package
for module in pkgutil.walk_packages(package.__path__, "{package}."):
    # Traces need the extra "otel".
    if not module.name.endswith(("__main__", "fastlane.tracing")):
        importlib.import_module(module.name)
print(package.__file__)
"""
_CLIENT_CALL = """
import sys, fastlane_client
with fastlane_client.Client(sys.argv[1]) as client:
    run = client.submit("wheel", image="none:1", command=["echo", "hello"])
    print("".join(record.text for record in run.logs(follow=True)), run.wait().exit_code)
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
    wheels = _build_wheels(source, folder, tracked)
    venv.create(folder / "venv", with_pip=True)
    client = _install_client(wheels[0], folder)
    sdists = _build_sdists(source, folder)
    # The first one brings what fastlane requires; the others replace only fastlane.
    for way, arguments, home in (
        ("wheel", wheels, folder / "venv"),
        ("sdist", ["--no-deps", "--force-reinstall", *sdists], folder / "venv"),
        (
            "editable",
            ["--no-deps", "--editable", str(source / "client"), "--editable", str(source)],
            source,
        ),
    ):
        _run(str(folder / "venv/bin/python"), "-m", "pip", "install", "--quiet", *arguments)
        _try(way, folder, home, client)


def _install_client(wheel: str, folder: Path) -> str:
    """Install the client alone; its Python."""
    venv.create(folder / "client", with_pip=True)
    python = str(folder / "client/bin/python")
    # Older Pythons come with setuptools.
    _run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools")
    _run(python, "-m", "pip", "install", "--quiet", wheel)
    listed = json.loads(_run(python, "-m", "pip", "list", "--format", "json"))
    packages = sorted(one["name"] for one in listed if one["name"] != "pip")
    if len(packages) > CLIENT_MAX_PACKAGES:
        raise SetupError(f"the client brings {len(packages)} packages: {', '.join(packages)}")
    _run(python, "-W", "error", "-c", _PROBE.format(package="fastlane_client"), cwd=folder)
    cost = _median_ms(python, "import fastlane_client, httpx2") - _median_ms(python, "pass")
    if cost > CLIENT_MAX_IMPORT_MS:
        raise SetupError(f"importing the client takes {cost:.0f} ms over bare Python")
    _check_types(python, folder)
    count = f"{len(packages)} packages ({', '.join(packages)})"
    say("client", f"{count}; its import takes {cost:.0f} ms over bare Python")
    say("client", "a program that uses it passes mypy --strict")
    return python


def _check_types(python: str, folder: Path) -> None:
    """A program that uses the installed client passes mypy, as strict as it can be."""
    program = shutil.copy2(ROOT / "tests/client/sample_project.py", folder / "program.py")
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "mypy")]
    _run(*mypy, "--python-executable", python, str(program), cwd=folder)


def _median_ms(python: str, code: str) -> float:
    """Of processor time, so that it is the same on a busy machine."""
    times = []
    for _ in range(IMPORTS):
        before = os.times()
        _run(python, "-c", code)
        after = os.times()
        used = after.children_user + after.children_system
        times.append((used - before.children_user - before.children_system) * 1000)
    return statistics.median(times)


def _copy_tracked(source: Path) -> list[str]:
    # setuptools would also ship what an earlier build left in build/.
    tracked = [name for name in _run("git", "ls-files").splitlines() if (ROOT / name).exists()]
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    return tracked


def _build_sdists(source: Path, folder: Path) -> list[str]:
    # Newer Pythons come without setuptools.
    python = str(folder / "venv/bin/python")
    _run(python, "-m", "pip", "install", "--quiet", "setuptools >= 70")
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    for place in (source / "client", source):
        _run(python, "-c", build, str(folder), cwd=place)
    return sorted(str(file) for file in folder.glob("fastlane*.tar.gz"))


def _build_wheels(source: Path, folder: Path, tracked: list[str]) -> list[str]:
    """The wheels of the client and of the server."""
    pip_wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    _run(*pip_wheel, "-w", str(folder), str(source / "client"), str(source))
    server = {name for name in tracked if name.startswith("fastlane/")}
    server |= {f"fastlane/{name}" for name in tracked if name.startswith(("static/", "templates/"))}
    client = {
        name.removeprefix("client/")
        for name in tracked
        if name.startswith("client/fastlane_client/")
    }
    return [
        _checked(next(folder.glob("fastlane_client-*.whl")), client),
        _checked(next(folder.glob("fastlane-*.whl")), server),
    ]


def _checked(wheel: Path, wanted: set[str]) -> str:
    """The path of *wheel*, once it is known that it holds all that is *wanted*."""
    with zipfile.ZipFile(wheel) as archive:
        shipped = set(archive.namelist())
    missing = sorted(wanted - shipped)
    if missing:
        raise SetupError(f"{wheel.name} lacks {', '.join(missing)}")
    say("wheel", f"{wheel.name}: {len(shipped)} files, nothing of the package left out")
    return str(wheel)


def _try(way: str, folder: Path, home: Path, client: str) -> None:
    programs = folder / "venv/bin"
    # Elsewhere, so that nothing is found because it is in the current directory.
    elsewhere = folder / way
    elsewhere.mkdir()
    python = [str(programs / "python"), "-W", "error::SyntaxWarning"]
    found = _run(*python, "-c", _PROBE.format(package="fastlane"), cwd=elsewhere).strip()
    if not Path(found).is_relative_to(home):
        raise SetupError(f"{way}: fastlane was imported from {found}, not from {home}")
    _run(str(programs / "fastlane"), "--help", cwd=elsewhere)
    page, assets = _serve(programs / "fastlane", elsewhere, client)
    say(way, f"every module imports; a server runs a job, and sends {page}, {', '.join(assets)}")


def _serve(program: Path, folder: Path, client: str) -> tuple[str, list[str]]:
    """Start a server; the path of the page that it sends, and those of what belongs to the page.

    :param client: a Python that has the client, which must run a job on that server.
    """
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
        said = _run(client, "-c", _CLIENT_CALL, f"http://127.0.0.1:{port}", cwd=folder)
        if said != "hello\n 0\n":
            raise SetupError(f"the client saw {said!r} of a job that says hello")
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
        said = f"{done.stdout}\n{done.stderr}".strip()
        raise SetupError(f"{' '.join(command)} failed:\n{said}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
