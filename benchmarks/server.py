"""fastlane in a process of its own, and what it takes of the machine."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil

from benchmarks.client import Client
from benchmarks.engine import INSTALLATION

# Bounds how long a server may take to answer after its start, or to end, in seconds.
SERVER_TIMEOUT = 30.0
# How often its memory is looked at, in seconds.
SAMPLE_SECONDS = 0.05

# What a server takes over from the environment; options come from the row and its setup alone.
_INHERITED = ("PATH", "HOME", "LANG", "DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")


class ServerError(Exception):
    """The server did not start; the message has the end of its log."""


class FastlaneProcess:
    """A running server. Made by :func:`running`."""

    def __init__(self, process: subprocess.Popen[bytes], client: Client) -> None:
        self.client = client
        self.pid = process.pid
        self._process = psutil.Process(process.pid)

    @property
    def port(self) -> int:
        return self.client.port

    def cpu_seconds(self) -> float:
        """Processor time that it has taken so far, user and system."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def rss_mb(self) -> float:
        """Memory that it holds now, in MB (of 1,000,000 bytes)."""
        return float(self._process.memory_info().rss) / 1e6

    @asynccontextmanager
    async def peak_memory(self) -> AsyncIterator[PeakMemory]:
        """Its most memory while the context lasts."""
        peak = PeakMemory(self.rss_mb())

        async def sample() -> None:
            while True:
                peak.mb = max(peak.mb, self.rss_mb())
                await asyncio.sleep(SAMPLE_SECONDS)

        # The kernel's own mark, where there is one, misses nothing between two samples.
        reset = _reset_high_water(self.pid)
        sampler = asyncio.create_task(sample())
        try:
            yield peak
        finally:
            sampler.cancel()
            await asyncio.gather(sampler, return_exceptions=True)
            if reset:
                peak.mb = max(peak.mb, _high_water_mb(self.pid))


class PeakMemory:
    """Filled in while it is measured; final behind the context."""

    def __init__(self, mb: float) -> None:
        self.mb = mb


def _reset_high_water(pid: int) -> bool:
    # proc(5): writing 5 to clear_refs resets VmHWM to the current size.
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _high_water_mb(pid: int) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


@asynccontextmanager
async def running(options: Mapping[str, str]) -> AsyncIterator[FastlaneProcess]:
    """A server on a free port with a data directory of its own; both end with the context.

    :raises ServerError: it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="fastlane-bench-") as directory:
        port = free_port()
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        environment |= {
            "DATA_DIR": f"{directory}/data",
            "EXECUTOR": "docker",
            "INSTALLATION": INSTALLATION,
            "LOG_FORMAT": "json",
            "LOG_LEVEL": "warning",
            **options,
        }
        log = Path(directory) / "fastlane.log"
        with (
            started(
                [sys.executable, "-m", "fastlane", "server", "--port", str(port)],
                log=log,
                environment=environment,
            ) as process,
            _shown_on_error(log),
        ):
            async with Client(port) as client:
                await _await_answer(client, process)
                yield FastlaneProcess(process, client)


@asynccontextmanager
async def parse_only() -> AsyncIterator[int]:
    """The floor for a POST, in a process of its own; gives its port."""
    with tempfile.TemporaryDirectory(prefix="fastlane-bench-") as directory:
        port = free_port()
        command = [sys.executable, "-m", "benchmarks.parse_only", str(port)]
        with started(command, log=Path(directory) / "log", environment=None) as process:
            async with Client(port) as client:
                await _await_answer(client, process)
            yield port


def free_port() -> int:
    """A TCP port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class started:  # noqa: N801 (a context manager, used like a function)
    """A process for as long as the context lasts, ended by SIGTERM."""

    def __init__(
        self, command: list[str], *, log: Path, environment: Mapping[str, str] | None
    ) -> None:
        self._command = command
        self._log = log
        self._environment = environment

    def __enter__(self) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
            )
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(SERVER_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class _shown_on_error:  # noqa: N801 (as above)
    def __init__(self, log: Path) -> None:
        self._log = log

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and not isinstance(error, asyncio.CancelledError):
            lines = self._log.read_text(errors="replace").splitlines()
            for line in _tail(lines):
                error.add_note(f"server: {line}")


def _tail(lines: list[str]) -> Iterator[str]:
    return (line[:500] for line in lines[-15:])


async def _await_answer(client: Client, process: subprocess.Popen[bytes]) -> None:
    async def answers() -> None:
        while not await client.healthy():
            if process.poll() is not None:
                raise ServerError(f"the server ended with exit code {process.returncode}")
            await asyncio.sleep(0.02)

    try:
        await asyncio.wait_for(answers(), SERVER_TIMEOUT)
    except TimeoutError:
        raise ServerError(f"the server did not answer within {SERVER_TIMEOUT:g} s") from None
