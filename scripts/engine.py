"""Finds the Docker engine, and starts one where there is none and this machine allows it.

::

    python -m scripts.engine          say which engine answers; exit 1 where none does
    python -m scripts.engine ensure   install and start one where there is none
    python -m scripts.engine stop     end the engine that ``ensure`` started

Standard library only, so that it works before anything is installed.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import platform
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from scripts.machine import RUN_DIR, SetupError, can_install, fail, install, say

DEFAULT_HOST = "unix:///var/run/docker.sock"

# The small image of the demo: made here, so its name belongs to no registry.
IMAGE = "fastlane-busybox:1"

# What is pulled where the small image cannot be made.
HUB_IMAGE = "busybox:1.36"

# Bounds one ordinary call to the engine, in seconds.
CALL_TIMEOUT = 20.0

# Bounds the silence while the hub is asked for an image, in seconds.
HUB_TIMEOUT = 20.0

# Bounds how long a started engine may take to answer, in seconds.
START_TIMEOUT = 60.0

# Bounds how long an engine may take to end, in seconds.
STOP_TIMEOUT = 20.0

_PID_FILE = RUN_DIR / "dockerd.pid"
_LOG_FILE = RUN_DIR / "dockerd.log"
_CGROUPS = Path("/sys/fs/cgroup")


class EngineError(Exception):
    """The engine is away or refused a call; the message says which and why."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass(frozen=True, slots=True)
class Engine:
    """A Docker engine by its address, in the form of ``DOCKER_HOST``."""

    host: str

    @classmethod
    def from_environment(cls) -> Engine:
        """The engine of ``DOCKER_HOST``, else the one on the default socket."""
        return cls(os.environ.get("DOCKER_HOST") or DEFAULT_HOST)

    def call(
        self, method: str, path: str, body: bytes | None = None, *, timeout: float = CALL_TIMEOUT
    ) -> bytes:
        """One request; the answer's body.

        :raises EngineError: no answer within *timeout* seconds, or a status of 400 and above.
        """
        kind = "application/x-tar" if path.startswith("/images/create") else "application/json"
        try:
            connection = self._connection(timeout)
            try:
                connection.request(method, path, body, {"Content-Type": kind})
                response = connection.getresponse()
                content = response.read()
            finally:
                connection.close()
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise EngineError(f"{self.host}: {error or type(error).__name__}") from error
        if response.status >= 400:
            text = content.decode("utf-8", "replace").strip()
            raise EngineError(f"{method} {path}: {response.status} {text}")
        return content

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        parts = urlsplit(self.host)
        if parts.scheme == "unix":
            return _UnixConnection(parts.path, timeout)
        if parts.scheme not in {"tcp", "http", "https"} or parts.hostname is None:
            raise ValueError("DOCKER_HOST is neither unix:// nor tcp://")
        if parts.scheme == "https" or os.environ.get("DOCKER_TLS_VERIFY"):
            home = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
            context = ssl.create_default_context(cafile=str(home / "ca.pem"))
            context.load_cert_chain(home / "cert.pem", home / "key.pem")
            return http.client.HTTPSConnection(
                parts.hostname, parts.port or 2376, timeout=timeout, context=context
            )
        return http.client.HTTPConnection(parts.hostname, parts.port or 2375, timeout=timeout)

    def get(self, path: str) -> Any:
        """The JSON answer to a GET."""
        return json.loads(self.call("GET", path))

    def version(self) -> str:
        """The engine's version, which shows that it answers.

        :raises EngineError: it does not.
        """
        return str(self.get("/version")["Version"])

    def has_image(self, name: str) -> bool:
        """Whether the engine holds the image *name*."""
        try:
            self.get(f"/images/{quote(name)}/json")
        except EngineError as error:
            if " 404 " in str(error):
                return False
            raise
        return True

    def import_image(self, name: str, tar: bytes) -> None:
        """Make the image *name* from the root file system in *tar*."""
        repo, _, tag = name.rpartition(":")
        answer = self.call("POST", f"/images/create?fromSrc=-&repo={repo}&tag={tag}", tar)
        _raise_streamed_error(answer)

    def pull(self, name: str) -> None:
        """Pull *name*, giving up after :data:`HUB_TIMEOUT` seconds of silence."""
        repo, _, tag = name.rpartition(":")
        path = f"/images/create?fromImage={quote(repo)}&tag={quote(tag)}"
        _raise_streamed_error(self.call("POST", path, timeout=HUB_TIMEOUT))

    def try_container(self, image: str) -> None:
        """Run ``true`` in a container, as an engine may answer and still be unable to.

        :raises EngineError: it did not end with exit code 0.
        """
        spec = {"Image": image, "Cmd": ["true"], "HostConfig": {"PidsLimit": 16}}
        made = self.call("POST", "/containers/create", json.dumps(spec).encode())
        path = f"/containers/{json.loads(made)['Id']}"
        try:
            self.call("POST", f"{path}/start")
            code = json.loads(self.call("POST", f"{path}/wait"))["StatusCode"]
        finally:
            self.call("DELETE", f"{path}?force=1")
        if code != 0:
            raise EngineError(f"a container that runs `true` ended with {code}")


def _raise_streamed_error(answer: bytes) -> None:
    # Both imports and pulls answer 200 first and say in the stream what went wrong.
    for line in answer.splitlines():
        error = json.loads(line).get("error")
        if error:
            raise EngineError(str(error))


def small_image(engine: Engine) -> str:
    """The name of a small image with a shell that *engine* holds; made or pulled where needed.

    :raises SetupError: neither was possible.
    """
    for name in (IMAGE, HUB_IMAGE):
        if engine.has_image(name):
            return name
    busybox = _static_busybox() if _same_machine_kind(engine) else None
    if busybox is not None:
        say("image", f"making {IMAGE} from {busybox}")
        engine.import_image(IMAGE, _busybox_tar(busybox))
        return IMAGE
    try:
        say("image", f"pulling {HUB_IMAGE}")
        engine.pull(HUB_IMAGE)
    except EngineError as error:
        raise SetupError(
            f"no small image: {error}\n"
            "Install busybox-static (apt) to make one without a hub, and try again."
        ) from error
    return HUB_IMAGE


def _same_machine_kind(engine: Engine) -> bool:
    # A busybox of this machine runs on that engine only where system and processor agree.
    names = {"x86_64": "amd64", "aarch64": "arm64"}
    version = engine.get("/version")
    here = names.get(platform.machine(), platform.machine())
    return platform.system() == "Linux" and (version["Os"], version["Arch"]) == ("linux", here)


def _static_busybox() -> Path | None:
    found = _find_static_busybox()
    if found is None and can_install():
        install(["busybox-static"])
        found = _find_static_busybox()
    return found


def _find_static_busybox() -> Path | None:
    path = shutil.which("busybox")
    # A dynamic executable names its loader; in an image of one file there would be none.
    if path is None or b"/ld-linux" in Path(path).read_bytes():
        return None
    return Path(path)


def _busybox_tar(busybox: Path) -> bytes:
    applets = subprocess.run(
        [busybox, "--list"], stdout=subprocess.PIPE, text=True, timeout=CALL_TIMEOUT, check=True
    ).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, mode in (("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            tar.addfile(folder)
        for name, mode, data in (
            ("bin/busybox", 0o755, busybox.read_bytes()),
            ("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n"),
            ("etc/group", 0o644, b"root:x:0:\n"),
        ):
            file = tarfile.TarInfo(name)
            file.mode, file.size = mode, len(data)
            tar.addfile(file, io.BytesIO(data))
        for applet in applets:
            if applet != "busybox":
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
    return buffer.getvalue()


def ensure() -> Engine:
    """An engine that answers and runs containers: the one that is there, else a new one.

    :raises SetupError: there is none and none can be started; says what to do.
    """
    engine = Engine.from_environment()
    try:
        say("engine", f"Docker {engine.version()} at {engine.host}")
    except EngineError as error:
        engine = _start_where_allowed(engine, error)
    try:
        engine.try_container(small_image(engine))
    except EngineError as error:
        raise SetupError(f"the engine runs no container: {error}") from error
    return engine


def _start_where_allowed(engine: Engine, why: EngineError) -> Engine:
    if os.environ.get("DOCKER_HOST") not in (None, "", DEFAULT_HOST):
        raise SetupError(f"DOCKER_HOST names an engine that does not answer: {why}")
    if isinstance(why.__cause__, PermissionError):
        raise SetupError(
            f"{DEFAULT_HOST} is there but not for you. Do: sudo usermod -aG docker $USER, "
            "then log in again"
        )
    if not can_install():
        raise SetupError(
            f"no Docker engine at {DEFAULT_HOST} ({why.__cause__}).\n"
            "Get one: sudo apt install docker.io (Debian, Ubuntu), or Docker Desktop "
            "(https://docs.docker.com/get-docker/); or set DOCKER_HOST."
        )
    say("engine", f"none at {DEFAULT_HOST}: starting one, as this is root on Debian or Ubuntu")
    if shutil.which("dockerd") is None:
        install(["docker.io", "ca-certificates"])
    if Path("/run/systemd/system").is_dir():
        _start_by_systemd(engine)
    else:
        _mount_cgroups()
        _start_by_hand(engine)
    say("engine", f"Docker {engine.version()} at {engine.host}")
    return engine


def _start_by_systemd(engine: Engine) -> None:
    subprocess.run(["systemctl", "start", "docker"], timeout=START_TIMEOUT, check=False)
    if not _answers(engine, START_TIMEOUT):
        raise SetupError("systemctl start docker brought no engine; see: journalctl -u docker")
    say("engine", "started by systemd; it keeps running (end it: systemctl stop docker)")


def _mount_cgroups() -> None:
    """Mount the control groups where a minimal machine has left that out."""
    if _CGROUPS.is_dir() and any(_CGROUPS.iterdir()):
        return
    say("engine", f"mounting control groups on {_CGROUPS}")
    if _mount("cgroup2", _CGROUPS):
        offered = (_CGROUPS / "cgroup.controllers").read_text(encoding="ascii").split()
        if {"memory", "pids"} <= set(offered):
            return
        # Version 1 hierarchies hold the controllers here: the unified one would limit nothing.
        subprocess.run(["umount", _CGROUPS], timeout=CALL_TIMEOUT, check=False)
    _mount("tmpfs", _CGROUPS, "mode=755")
    for line in Path("/proc/cgroups").read_text(encoding="ascii").splitlines():
        name, *_, enabled = line.split()
        if enabled == "1":
            folder = _CGROUPS / name
            folder.mkdir(exist_ok=True)
            if not _mount("cgroup", folder, name):
                folder.rmdir()


def _mount(kind: str, target: Path, options: str = "defaults") -> bool:
    command = ["mount", "-t", kind, "-o", options, kind, str(target)]
    done = subprocess.run(command, stderr=subprocess.DEVNULL, timeout=CALL_TIMEOUT, check=False)
    return done.returncode == 0


def _start_by_hand(engine: Engine) -> None:
    tail = ""
    # Without the right to change the machine's network, containers still run, only without one.
    for network in ([], ["--bridge=none", "--iptables=false", "--ip-masq=false"]):
        tail = _start_dockerd(engine, network)
        if not tail:
            end = "make engine-stop"
            say("engine", f"started; it keeps running (log: {_LOG_FILE}; end it: {end})")
            return
    raise SetupError(f"dockerd did not start:\n{tail}")


def _start_dockerd(engine: Engine, options: list[str]) -> str:
    """Start dockerd; the end of its log where it does not answer, else nothing."""
    RUN_DIR.mkdir(exist_ok=True)
    with _LOG_FILE.open("wb") as log:
        process = subprocess.Popen(
            ["dockerd", "--pidfile", str(_PID_FILE), *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
        )
    if _answers(engine, START_TIMEOUT, process):
        return ""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _PID_FILE.unlink(missing_ok=True)
    lines = _LOG_FILE.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-8:]) or f"no answer within {START_TIMEOUT:.0f} s"


def _answers(
    engine: Engine, seconds: float, process: subprocess.Popen[bytes] | None = None
) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            engine.version()
        except EngineError:
            if process is not None and process.poll() is not None:
                return False
            time.sleep(0.2)
        else:
            return True
    return False


def stop() -> int:
    """End the engine that :func:`ensure` started, by its recorded process id."""
    try:
        pid = int(_PID_FILE.read_text(encoding="ascii"))
        name = Path(f"/proc/{pid}/comm").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return fail("no engine was started from here")
    if name != "dockerd":
        return fail(f"process {pid} is {name}, not the engine: left alone")
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            return fail(f"dockerd ({pid}) is still there after {STOP_TIMEOUT:.0f} s")
        time.sleep(0.1)
    _PID_FILE.unlink(missing_ok=True)
    say("engine", "ended")
    return 0


def main(arguments: list[str]) -> int:
    """Carry out one of the commands in the module's docstring."""
    try:
        match arguments:
            case []:
                engine = Engine.from_environment()
                say("engine", f"Docker {engine.version()} at {engine.host}")
            case ["ensure"]:
                ensure()
            case ["stop"]:
                return stop()
            case _:
                return fail(str(__doc__))
    except (EngineError, SetupError) as error:
        return fail(f"engine    {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
