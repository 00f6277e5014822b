"""The Docker engine for tests: the one that is there, and others of a test's own.

Fixtures: ``docker_host`` and ``docker_image`` (session: an engine's address, and a busybox on it),
``registry`` (session). A test that stops and starts an engine makes an :class:`EngineServer`.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import pytest

from scripts import engine as setup
from scripts.machine import SetupError
from tests.services import Server, missing, need

# Bounds the silence between two events of an engine, in seconds.
EVENTS_SECONDS = 600.0


def find_engine() -> tuple[str, str]:
    """Address and image of the engine of ``DOCKER_HOST`` or the default socket; skips without."""
    need("engine")
    engine = setup.Engine.from_environment()
    try:
        engine.version()
        return engine.host, setup.small_image(engine)
    except (setup.EngineError, SetupError) as error:
        missing("a Docker engine", str(error))


@pytest.fixture(scope="session")
def docker_host() -> str:
    return find_engine()[0]


@pytest.fixture(scope="session")
def docker_image() -> str:
    return find_engine()[1]


class EngineServer(Server):
    """A dockerd of a test's own, without network, on a socket in a short directory."""

    name = "dockerd"

    def __init__(self, directory: Path, *options: str) -> None:
        need("engine")
        if shutil.which("dockerd") is None or os.geteuid() != 0:
            missing("dockerd", "not on the path, or not root")
        super().__init__(directory)
        self._options = options
        # A socket's path has room for a hundred characters, pytest's directories are longer.
        self._short = Path(tempfile.mkdtemp(prefix="dockerd-"))

    @property
    def url(self) -> str:
        """In the form of ``DOCKER_HOST``."""
        return f"unix://{self._short}/docker.sock"

    def command(self) -> list[str]:
        """See :meth:`Server.command`."""
        return [
            # `--bridge=none` removes docker0 when it starts: without a network namespace of its
            # own it would take the bridge away from the engine that is there.
            *("unshare", "--net", "dockerd"),
            *("--data-root", str(self.directory / "data"), "--exec-root", str(self._short / "run")),
            *("--pidfile", str(self._short / "docker.pid"), "-H", self.url),
            *("--bridge=none", "--iptables=false", "--ip-masq=false"),
            *self._options,
        ]

    def ping(self) -> bool:
        """See :meth:`Server.ping`."""
        try:
            setup.Engine(self.url).version()
        except setup.EngineError:
            return False
        return True

    def image(self) -> str:
        """A busybox on this engine."""
        return setup.small_image(setup.Engine(self.url))

    def kill(self) -> None:
        """See :meth:`Server.kill`. Containers outlive it; the next engine ends them."""
        super().kill()
        # Its containerd dies with it, but where nobody reaps that, the next engine takes the dead
        # process of this file for one that still runs, and waits for it in vain.
        (self._short / "run" / "containerd" / "containerd.pid").unlink(missing_ok=True)

    def lose_power(self) -> None:
        """End the engine and all that runs on it at once, as a machine does."""
        # Containers are children of their shims, which name the engine's directory.
        below = {int(entry) for entry in os.listdir("/proc") if entry.isdecimal()}
        ours = {pid for pid in below if str(self._short).encode() in _proc(pid, "cmdline")}
        while more := {pid for pid in below - ours if _parent(pid) in ours}:
            ours |= more
        for pid in sorted(ours):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.kill()

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            for each in setup.Engine(self.url).get("/containers/json?all=1"):
                setup.Engine(self.url).call("DELETE", f"/containers/{each['Id']}?force=1")
        self.stop()
        # An engine that was killed has left mounts behind, which nobody could remove later.
        for point in reversed(_mounts_below(self.directory, self._short)):
            subprocess.run(["umount", "--lazy", point], check=True)
        shutil.rmtree(self._short, ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)


def _proc(pid: int, name: str) -> bytes:
    try:
        return Path("/proc", str(pid), name).read_bytes()
    except OSError:
        return b""


def _parent(pid: int) -> int:
    # Field 4 of proc(5), /proc/pid/stat; field 2 may hold blanks.
    fields = _proc(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields else 0


def _mounts_below(*directories: Path) -> list[Path]:
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    points = [Path(line.split()[4]) for line in lines]
    return [point for point in points if any(point.is_relative_to(each) for each in directories)]


class StartsHeard:
    """Hears from the engine itself which containers were started, and how they ended.

    Streamed, because an engine keeps no more than its last 256 events for those who ask later.
    """

    def __init__(self, host: str, label: str) -> None:
        """:param label: what the containers bear, as ``name`` or ``name=value``."""
        self._connection = setup.Engine(host)._connection(EVENTS_SECONDS)
        self._label = label
        self._lock = threading.Lock()
        self._starts: list[dict[str, str]] = []
        self._ends: list[dict[str, str]] = []

    def labels(self, name: str) -> list[str]:
        """The value of the label *name* of each start."""
        with self._lock:
            return [labels[name] for labels in self._starts]

    def exit_codes(self, name: str) -> dict[str, int]:
        """The exit code of each container that ended, by the value of its label *name*."""
        with self._lock:
            return {labels[name]: int(labels["exitCode"]) for labels in self._ends}

    def __enter__(self) -> Self:
        filters = {"type": ["container"], "event": ["start", "die"], "label": [self._label]}
        self._connection.request("GET", f"/events?filters={quote(json.dumps(filters))}")
        answer = self._connection.getresponse()
        assert answer.status == 200
        self._thread = threading.Thread(target=self._hear, args=(answer,), daemon=True)
        self._thread.start()
        return self

    def _hear(self, answer: http.client.HTTPResponse) -> None:
        # The connection is shut down at the end, perhaps within an event.
        with suppress(OSError, ValueError):
            while line := answer.readline():
                event = json.loads(line)
                labels = event["Actor"]["Attributes"]
                with self._lock:
                    (self._starts if event["Action"] == "start" else self._ends).append(labels)

    def __exit__(self, *_: object) -> None:
        # The engine may have ended it.
        with suppress(OSError, AttributeError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()


class RegistryServer(Server):
    """Debian's docker-registry; an engine takes 127.0.0.1 without TLS."""

    name = "docker-registry"

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """See :meth:`Server.command`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": str(self.directory / "images")}},
            "http": {"addr": self.url},
        }
        path = self.directory / "config.yml"
        # JSON is YAML.
        path.write_text(json.dumps(config), encoding="utf-8")
        return ["docker-registry", "serve", str(path)]

    def ping(self) -> bool:
        """See :meth:`Server.ping`."""
        request = b"GET /v2/ HTTP/1.0\r\n\r\n"
        return self.ask(request, lambda answer: b" 200 " in answer)

    def push(self, host: str, image: str, name: str) -> str:
        """Push the engine's *image* as *name* and take the name off the engine again.

        :return: the reference to pull.
        """
        engine = setup.Engine(host)
        repo, _, tag = name.rpartition(":")
        target = f"{self.url}/{repo}"
        engine.call("POST", f"/images/{image}/tag?repo={target}&tag={tag}")
        # The engine wants the header, whatever it says.
        answer = _push(engine, f"/images/{target}/push?tag={tag}")
        assert b'"error"' not in answer, answer
        engine.call("DELETE", f"/images/{target}:{tag}")
        return f"{target}:{tag}"


def _push(engine: setup.Engine, path: str) -> bytes:
    connection = engine._connection(setup.CALL_TIMEOUT)
    try:
        connection.request("POST", path, headers={"X-Registry-Auth": "e30="})
        return connection.getresponse().read()
    finally:
        connection.close()


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """A registry for the whole session."""
    if shutil.which("docker-registry") is None:
        missing("docker-registry", "not on the path")
    with RegistryServer(tmp_path_factory.mktemp("registry")) as server:
        yield server
