"""Launches the supervisors of runs, and signals their commands."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fastlane
from fastlane.executors.process import shim
from fastlane.processes import with_environment

# Imports the standard library and two modules of ours that need no other, so it starts at once.
_COMMAND = """
import sys
sys.path.append(sys.argv.pop(1))
from fastlane.executors.process.shim import main
main()
"""
_PACKAGES = str(Path(fastlane.__file__).parent.parent)
# Bounds the wait where the end of a process can only be polled.
POLL_SECONDS = 0.005
# Bounds how long it is tried to end what a run has left behind.
END_SECONDS = 1.0


def is_supervised(state: dict[str, Any]) -> bool:
    return shim.alive(state["shim_pid"], state["shim_ticks"], state["boot"])


def kill(state: dict[str, Any], number: int) -> None:
    """Signal the command's group, if its leader is still the process that was recorded."""
    if shim.alive(state["pid"], state["pid_ticks"], state["boot"]):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(state["pid"], number)


def end_unsupervised(directory: Path, state: dict[str, Any]) -> None:
    """Kill all that is left of the run in *directory*, of which *state* says that nobody watches.

    Its processes are in any group and session by now, and nobody's children. They are known by
    their environment: its ``HOME`` is the run's alone, and so is the execution's id.
    """
    kill(state, signal.SIGKILL)
    if state["boot"] != shim.boot_id():
        return
    home = os.fsencode(f"HOME={directory / shim.WORK}")
    marks = {home, os.fsencode(f"FASTLANE_EXECUTION_ID={unquote(directory.name)}")}
    deadline = time.monotonic() + END_SECONDS
    # Again while there are some: what is killed may have started more.
    while (left := with_environment(marks)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def launch(directory: Path, timeout_seconds: float) -> tuple[str, str]:
    """Launch a supervisor; its word, and its complaints when it has none."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-X", "utf8", "-c", _COMMAND, _PACKAGES, str(directory)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        env={},
        start_new_session=True,
    ) as launcher:
        try:
            word, complaint = launcher.communicate(timeout=max(0.1, timeout_seconds))
        except subprocess.TimeoutExpired:
            # The launched process has already handed over to the supervisor, which continues.
            launcher.kill()
            return "", "no word from it in time"
    return word.decode(), complaint.decode(errors="replace").strip()[-500:]


async def exit_of(pid: int, timeout_seconds: float) -> None:
    """Return when process *pid* has ended, or after *timeout_seconds*."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        # Gone already, or an old kernel.
        await asyncio.sleep(min(timeout_seconds, POLL_SECONDS))
        return
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(descriptor, over.set)
    try:
        async with asyncio.timeout(timeout_seconds):
            await over.wait()
    except TimeoutError:
        pass
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
