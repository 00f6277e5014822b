"""Real servers for tests, each on a free port in a directory of its own, ended by process id.

Fixtures: ``redis_server`` and ``mongo_server`` (session; empty them yourself, or use a database of
your own), ``chromium`` (a headless browser, blank and without cookies for each test). A test that
needs a server of its own to stop and start makes a :class:`RedisServer` or :class:`MongoServer`.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self

import pytest

from scripts.machine import in_ci
from scripts.services import mongod, prepare_mongod

if TYPE_CHECKING:
    # Imported where it is used: nobody who tests a function wants to wait for a browser's client.
    from selenium.webdriver import Chrome

# Bounds how long a server may take to answer after its start, or to end, in seconds.
SERVER_TIMEOUT = 90.0

# Bounds how long the browser may take over one page, in seconds.
PAGE_TIMEOUT = 20.0

markers: frozenset[str] | None = None
"""Of the test that runs now, by ``tests/conftest.py``; None outside pytest, as in benchmarks."""


def need(marker: str) -> None:
    """Fail the test when it starts what *marker* stands for and does not bear it.

    Without the marker, ``make check`` would start an engine, a store or a browser.
    """
    if markers is not None and marker not in markers:
        pytest.fail(f"This test must be marked {marker!r} (see tests/conftest.py).", pytrace=False)


def missing(service: str, why: str) -> NoReturn:
    """Skip the test because *service* is not there; with ``CI=true`` fail it."""
    message = f"{service} is not there: {why} (make test installs it as root on Debian or Ubuntu)"
    if in_ci():
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def free_port() -> int:
    """A TCP port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """The process stands still during the block: its connections stay, and nothing comes back.

    A signal is only queued when ``kill`` returns. On a loaded machine, threads of a process ran for
    another 90 ms, and answered requests that were sent later. So this waits for the last of them.
    """
    os.kill(pid, signal.SIGSTOP)
    try:
        deadline = time.monotonic() + SERVER_TIMEOUT
        while not all(map(_is_stopped, Path(f"/proc/{pid}/task").iterdir())):
            assert time.monotonic() < deadline, f"process {pid} does not stop"
            time.sleep(0.001)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _is_stopped(thread: Path) -> bool:
    try:
        state = (thread / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        # It has ended.
        return True
    return state in "TZX"


class Server(ABC):
    """A server process with its data in *directory*; keeps its port over restarts."""

    name: str

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients reach it."""

    @abstractmethod
    def command(self) -> list[str]:
        """How it is started."""

    @abstractmethod
    def ping(self) -> bool:
        """Whether it answers a client."""

    @property
    def pid(self) -> int:
        """Its process id while it runs, for :func:`frozen` and the like."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    def start(self) -> None:
        """Start it and return once it answers. Safe to repeat."""
        if self._process is not None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        log = self.directory / f"{self.name}.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + SERVER_TIMEOUT
        while not self.ping():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
                pytest.fail(f"{self.name} did not start:\n{tail}", pytrace=False)
            time.sleep(0.02)

    def stop(self) -> None:
        """Ask it to end, kill it when it does not. Safe to repeat."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(SERVER_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End it without warning (``SIGKILL``). Safe to repeat."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def ask(self, request: bytes, answer: Callable[[bytes], bool]) -> bool:
        """Whether it takes a connection and its answer to *request* is as *answer* wants it."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(request)
                return answer(connection.recv(256) if request else b"")
        except OSError:
            return False


class RedisServer(Server):
    """redis-server with an append-only file, flushed at each write."""

    name = "redis-server"

    def __init__(self, directory: Path) -> None:
        need("cluster")
        super().__init__(directory)

    @property
    def url(self) -> str:
        """In the form of ``REDIS_URL``."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        """See :meth:`Server.command`."""
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.directory),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
        }
        return [
            "redis-server",
            *(word for key, value in options.items() for word in (f"--{key}", value)),
        ]

    def ping(self) -> bool:
        """See :meth:`Server.ping`."""
        # It takes connections while it still loads its file, and then answers -LOADING.
        return self.ask(b"PING\r\n", lambda answer: answer.startswith(b"+PONG"))


class MongoServer(Server):
    """A single mongod; ``w: majority, j: true`` is honoured."""

    name = "mongod"

    def __init__(self, directory: Path) -> None:
        need("cluster")
        super().__init__(directory)

    @property
    def url(self) -> str:
        """In the form of ``MONGODB_URL``."""
        return f"mongodb://127.0.0.1:{self.port}/fastlane"

    def command(self) -> list[str]:
        """See :meth:`Server.command`."""
        return [
            str(mongod()),
            *("--dbpath", str(self.directory), "--port", str(self.port)),
            *("--bind_ip", "127.0.0.1", "--wiredTigerCacheSizeGB", "0.25", "--nounixsocket"),
        ]

    def ping(self) -> bool:
        """See :meth:`Server.ping`."""
        return self.ask(b"", lambda _: True)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for the whole session."""
    if shutil.which("redis-server") is None:
        missing("redis-server", "not on the path")
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def mongo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoServer]:
    """A MongoDB for the whole session."""
    why = prepare_mongod()
    if why is not None:
        missing("mongod", why)
    with MongoServer(tmp_path_factory.mktemp("mongo")) as server:
        yield server


@contextmanager
def open_browser(profile: Path) -> Iterator[Chrome]:
    """A headless Chromium that keeps what it has to keep in *profile*."""
    from selenium.webdriver import Chrome
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    need("browser")
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        missing("chromium", "chromium or chromedriver is not on the path")
    options = Options()
    options.binary_location = browser
    for argument in (
        "--headless=new",
        # Debian's sandbox does not start as root.
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        # Off the network but for the pages under test.
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-quic",
        "--no-first-run",
        "--window-size=1280,900",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    # What the page logs, for tests that want an empty console.
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = Chrome(options=options, service=Service(executable_path=driver))
    try:
        window.set_page_load_timeout(PAGE_TIMEOUT)
        yield window
    finally:
        window.quit()


@pytest.fixture(scope="session")
def browser_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """The window that :func:`chromium` hands out."""
    with open_browser(tmp_path_factory.mktemp("chromium")) as window:
        yield window


@pytest.fixture
def chromium(browser_session: Chrome) -> Chrome:
    """A headless Chromium on a blank page, without cookies of earlier tests."""
    browser_session.get("about:blank")
    browser_session.execute_cdp_cmd("Network.clearBrowserCookies", {})
    return browser_session
