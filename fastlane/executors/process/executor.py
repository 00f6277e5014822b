"""Commands as plain processes of this machine, for machines without Docker.

There is no isolation at all: a command runs as the server's user and sees its files. A *host*
is a label (``localhost``); all of them are this machine, each with runs of its own.

A run is a directory, ``DATA_DIR/runs/HOST/EXECUTION_ID``; its files, and why its command runs at
most once, are described in :mod:`fastlane.executors.process.shim`. The crash points as seen from
here:

* Killed inside ``create``: the directory appears by one rename, whole, or not at all.
* Killed inside ``start``, before the supervisor has linked ``state.json``: nothing has run; the
  run is ``created`` and ``start`` starts it. Supervisors of two ``start`` calls at once (an old
  server's and the new one's) compete for the lock: one runs the command, the other ends.
* Killed any later: the supervisor continues alone, and the restarted server finds the run.
* The supervisor itself killed: the next caller kills what it had started, and the run has vanished
  (:class:`~fastlane.errors.RunVanished`), because its exit code is unknown.
* The directory deleted by someone else: the supervisor kills the command within a second.
* ``stop`` of a run that was never started writes its end under the same lock.
* ``remove`` renames the directory away under the lock, then deletes it.
* A file of the run damaged: its outcome is unknown, so it has vanished, like one without its
  supervisor. What it may have started is killed, and it is never run again. Other runs are not
  affected.

The command gets the given environment over a minimal ``PATH`` and ``HOME``, a session and a
directory of its own, and ``/dev/null`` for input. When it ends, all that it has started is killed,
in whichever session it is; after the supervisor was killed, a process that left the command's group
is found by its environment, unless it has replaced that. Of the resources, ``memory`` bounds each
single process's data segment (RLIMIT_DATA), not their sum; ``cpus`` and ``pids`` are not enforced
(RLIMIT_NPROC counts all processes of the user). The image, the pull policy and ``dns_entries`` are
ignored. The log on disk is not bounded.

Linux only: processes are identified by /proc.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import structlog

from fastlane.errors import HostUnavailable, RunVanished, StartFailed
from fastlane.executors.base import Executor, ListedRun, LogBatch, Phase, RunSpec, RunState
from fastlane.executors.process import shim
from fastlane.executors.process.output import LogReader, peek
from fastlane.executors.process.records import (
    STATE_FIELDS,
    Damaged,
    View,
    record_in,
    spec_in,
    view_of,
)
from fastlane.executors.process.supervisor import exit_of, kill, launch
from fastlane.files import sync_directory
from fastlane.pause import Pause

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Bound the interval between polls, which grows while nothing changes.
POLL_MIN_SECONDS = 0.005
POLL_MAX_SECONDS = 0.05
# Bounds how late it is noticed that a supervisor died or that somebody removed a run.
BACKSTOP_SECONDS = 1.0
# Bounds how long a start waits for the supervisor to report.
START_SECONDS = 30.0
# Bounds how long a killed run may take to be seen as ended.
KILL_SECONDS = 10.0
# Bounds the age of a directory that a killed `create` left incomplete.
LEFTOVER_SECONDS = 3600.0
# Bounds the attempts to create a run that somebody else creates or removes at the same time.
CREATE_TRIES = 10
# A run that was stopped before it started ends like a command that obeyed SIGTERM.
STOPPED_EXIT_CODE = 128 + signal.SIGTERM


class ProcessExecutor(Executor):
    """Runs commands as processes. See the module's docstring.

    :param data_dir: where the runs' directories are made, below ``runs``.
    :param in_use: whether a farm has it; otherwise nothing is made in *data_dir* before a run is.
    """

    name = "process"

    def __init__(self, *, data_dir: Path, in_use: bool = True) -> None:
        self._root = Path(data_dir).absolute() / "runs"
        self._in_use = in_use
        self._installation = ""
        # Own threads, so that neither slow disks nor slow starts delay other work.
        self._files: ThreadPoolExecutor | None = None
        self._starts: ThreadPoolExecutor | None = None
        self._reported: set[Path] = set()
        """Damaged runs that were logged."""

    async def open(self, installation: str) -> None:
        self._installation = installation
        if self._files is None:
            self._files = ThreadPoolExecutor(4, "process-files")
            self._starts = ThreadPoolExecutor(8, "process-starts")
        await self._in_thread("process", self._open)

    def _open(self) -> None:
        if self._in_use:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in self._root.glob("*/.*"):
            with contextlib.suppress(OSError):
                new = leftover.name.startswith(".new-")
                if not new or time.time() - leftover.stat().st_mtime > LEFTOVER_SECONDS:
                    shutil.rmtree(leftover, ignore_errors=True)

    async def close(self) -> None:
        for pool in (self._files, self._starts):
            if pool is not None:
                pool.shutdown(wait=False)
        self._files = self._starts = None

    async def check(self, host: str) -> None:
        await self._in_thread(host, self._check)

    def _check(self) -> None:
        if not os.access(self._root, os.W_OK | os.X_OK):
            raise OSError(f'DATA_DIR is not writable: "{self._root}"')

    async def pull(self, host: str, spec: RunSpec, progress: Callable[[str], None]) -> None:
        """Nothing to do: a process needs no image."""

    async def create(self, host: str, spec: RunSpec) -> str:
        return await self._in_thread(host, self._create, host, spec)

    def _create(self, host: str, spec: RunSpec) -> str:
        _refuse_malformed(spec)
        final = self._directory(host, spec.execution_id)
        for _ in range(CREATE_TRIES):
            found = self._spec(final)
            if found is not None:
                break
            temporary = final.with_name(f".new-{secrets.token_hex(8)}")
            temporary.mkdir(mode=0o700, parents=True)
            try:
                (temporary / shim.WORK).mkdir(mode=0o700)
                for name in (shim.LOCK, shim.LOG):
                    (temporary / name).touch(mode=0o600)
                record = {
                    "run_id": f"{spec.execution_id}.{secrets.token_hex(4)}",
                    "installation": self._installation,
                    "host": host,
                    "execution_id": spec.execution_id,
                    "task_id": spec.task_id,
                    "job_id": spec.job_id,
                    "argv": list(spec.argv),
                    "envs": dict(spec.envs),
                    "memory_bytes": spec.resources.memory_bytes,
                }
                shim.write_once(str(temporary / shim.SPEC), record)
                # Refused when another one was faster: a directory that is not empty stays.
                os.rename(temporary, final)
                sync_directory(str(final.parent))
            except OSError:
                shutil.rmtree(temporary, ignore_errors=True)
                if not final.exists():
                    raise
        else:
            raise OSError(f"{final} exists and is not a run")
        if found["installation"] != self._installation:
            raise StartFailed(f"Execution {spec.execution_id} belongs to another installation.")
        return str(found["run_id"])

    async def find(self, host: str, execution_id: str) -> RunState | None:
        return await self._in_thread(host, self._find, host, execution_id)

    def _find(self, host: str, execution_id: str) -> RunState | None:
        directory = self._directory(host, execution_id)
        spec = self._spec(directory)
        if spec is None or spec["installation"] != self._installation:
            return None
        try:
            return self._inspect(host, spec["run_id"]).state
        except RunVanished:
            if self._spec(directory) is None:
                return None
            raise

    async def start(self, host: str, run_id: str) -> None:
        await self._in_thread(host, self._start, host, run_id, starting=True)

    def _start(self, host: str, run_id: str) -> None:
        directory = self._directory_of(host, run_id)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            view = self._inspect(host, run_id)
            if view.refused is not None:
                raise StartFailed(view.refused, view.state.exit_code)
            if view.state.phase is not Phase.CREATED:
                return
            if view.starting:
                time.sleep(POLL_MIN_SECONDS)
                continue
            word, complaint = launch(directory, deadline - time.monotonic())
            if not word and self._inspect(host, run_id).state.phase is Phase.CREATED:
                raise OSError(f"the supervisor did not start: {complaint or 'it reported nothing'}")
            if word == "busy":
                time.sleep(POLL_MIN_SECONDS)
        raise OSError(f"run {run_id} was not started within {START_SECONDS:g} s")

    async def inspect(self, host: str, run_id: str) -> RunState:
        return (await self._in_thread(host, self._inspect, host, run_id)).state

    def _inspect(self, host: str, run_id: str) -> View:
        directory = self._directory_of(host, run_id)
        spec = self._spec(directory)
        if spec is None or spec["run_id"] != run_id:
            raise RunVanished(f"run {run_id} was removed")
        try:
            return view_of(directory, run_id)
        except Damaged as damage:
            raise self._abandoned(directory, damage) from damage

    def _spec(self, directory: Path) -> dict[str, Any] | None:
        """What the run in *directory* was to run; None when there is none.

        :raises RunVanished: it cannot be read.
        """
        try:
            return spec_in(directory)
        except Damaged as damage:
            raise self._abandoned(directory, damage) from damage

    def _abandoned(self, directory: Path, damage: Damaged) -> RunVanished:
        """The error for a damaged run, of which nothing is left running."""
        self._report(directory, damage)
        try:
            state = record_in(directory / shim.STATE, STATE_FIELDS)
        except Damaged:
            # Only its supervisor knows the processes, and ends them when the log is gone.
            with contextlib.suppress(FileNotFoundError):
                lock = shim.take_lock(str(directory))
                if lock is None:
                    (directory / shim.LOG).unlink()
                else:
                    os.close(lock)
        else:
            if state is not None:
                kill(state, signal.SIGKILL)
        return RunVanished(f"its record is damaged: {damage}")

    def _report(self, directory: Path, why: Exception) -> None:
        if directory not in self._reported:
            self._reported.add(directory)
            log.error("Run cannot be read", path=str(directory), why=str(why))

    async def wait(self, host: str, run_id: str) -> RunState:
        """See ``Executor.wait``; the state of a run whose start failed is returned at once."""
        while True:
            view = await self._in_thread(host, self._inspect, host, run_id)
            if view.over:
                return view.state
            if view.state.phase is Phase.RUNNING and view.processes is not None:
                await exit_of(view.processes["shim_pid"], BACKSTOP_SECONDS)
            else:
                await asyncio.sleep(POLL_MAX_SECONDS)

    async def ran_seconds(self, host: str, run_id: str) -> float:
        """See ``Executor.ran_seconds``: since the boot's clock said so."""
        view = await self._in_thread(host, self._inspect, host, run_id)
        return 0.0 if view.processes is None else shim.age_seconds(view.processes)

    async def logs(
        self, host: str, run_id: str, *, bookmark: str, ended: asyncio.Event
    ) -> AsyncGenerator[LogBatch, None]:
        """See ``Executor.logs``; it notices itself when the run has ended.

        :raises ValueError: *bookmark* is not one of this executor's.
        """
        reader = LogReader.at(bookmark)
        directory = self._directory_of(host, run_id)
        pause = Pause(POLL_MIN_SECONDS, POLL_MAX_SECONDS, factor=1.5)
        looked = float("-inf")
        while True:
            over, vanished = ended.is_set(), None
            if over or time.monotonic() - looked > BACKSTOP_SECONDS:
                looked = time.monotonic()
                try:
                    view = await self._in_thread(host, self._inspect, host, run_id)
                    over = over or view.over
                except RunVanished as error:
                    over, vanished = True, error
            has_ended, data = await self._in_thread(host, peek, directory, reader.offset)
            batch = reader.take(data)
            if batch is not None:
                pause.reset()
                yield batch
            elif reader.moved:
                continue
            elif over or has_ended:
                last = reader.flush()
                if last is not None:
                    yield last
                if vanished is not None:
                    raise vanished
                return
            else:
                await pause.wait()

    async def stop(self, host: str, run_id: str, *, grace_seconds: float) -> None:
        now = asyncio.get_running_loop().time
        view = await self._ask_to_end(host, run_id)
        grace_ends = now() + grace_seconds
        gives_up = grace_ends + KILL_SECONDS
        killed = asked = False
        while view is not None and not view.over:
            if view.state.phase is Phase.RUNNING and view.processes is not None:
                if not asked:
                    asked = True
                    await self._in_thread(host, kill, view.processes, signal.SIGTERM)
                left = grace_ends - now()
                if left <= 0 and not killed:
                    killed = True
                    await self._in_thread(host, kill, view.processes, signal.SIGKILL)
                await exit_of(
                    view.processes["shim_pid"],
                    BACKSTOP_SECONDS if left <= 0 else min(left, BACKSTOP_SECONDS),
                )
            else:
                # It is being started, or somebody holds its lock for a moment.
                await asyncio.sleep(POLL_MIN_SECONDS)
            if now() > gives_up:
                raise HostUnavailable(host, f"run {run_id} did not end although it was killed")
            view = await self._ask_to_end(host, run_id)

    async def _ask_to_end(self, host: str, run_id: str) -> View | None:
        try:
            return await self._in_thread(host, self._end_unstarted, host, run_id)
        except RunVanished:
            return None

    def _end_unstarted(self, host: str, run_id: str) -> View:
        """The run as it is; if it was never started, its end is recorded first."""
        view = self._inspect(host, run_id)
        if view.state.phase is not Phase.CREATED or view.over or view.starting:
            return view
        with self._lock(host, run_id) as locked:
            if locked and (view := self._inspect(host, run_id)).processes is None:
                end = {
                    "exit_code": STOPPED_EXIT_CODE,
                    "finished_at": time.time(),
                    "error": "stopped before it was started",
                    "never_started": True,
                }
                with contextlib.suppress(FileExistsError):
                    shim.write_once(str(self._directory_of(host, run_id) / shim.EXIT), end)
                view = self._inspect(host, run_id)
        return view

    async def remove(self, host: str, run_id: str) -> None:
        """See ``Executor.remove``. A run that still runs is killed first."""
        await self.stop(host, run_id, grace_seconds=0)
        await self._in_thread(host, self._remove, host, run_id)

    def _remove(self, host: str, run_id: str) -> None:
        directory = self._directory_of(host, run_id)
        # A damaged record does not matter: there is one directory for an execution.
        with contextlib.suppress(Damaged):
            spec = spec_in(directory)
            if spec is None or spec["run_id"] != run_id:
                return
        trash = directory.with_name(f".removed-{secrets.token_hex(8)}")
        try:
            # Nothing will start it: it has ended, or its end was written when it was stopped.
            os.rename(directory, trash)
        except FileNotFoundError:
            return
        sync_directory(str(directory.parent))
        shutil.rmtree(trash, ignore_errors=True)

    async def runs(self, host: str) -> Sequence[ListedRun]:
        return await self._in_thread(host, self._runs, host)

    def _runs(self, host: str) -> Sequence[ListedRun]:
        place = self._host_directory(host)
        try:
            names = sorted(os.listdir(place))
        except FileNotFoundError:
            names = []
        directories = [place / name for name in names if not name.startswith(".")]
        self._reported.difference_update(
            {each for each in self._reported if each.parent == place} - set(directories)
        )
        found: list[ListedRun] = []
        for directory in directories:
            try:
                run = self._listed(host, directory)
            except OSError as error:
                # One faulty run must not hide the others.
                self._report(directory, error)
                continue
            if run is not None:
                found.append(run)
        return found

    def _listed(self, host: str, directory: Path) -> ListedRun | None:
        try:
            spec = spec_in(directory)
        except Damaged as damage:
            self._report(directory, damage)
            # Its owner and its state are unknown. The caller knows the execution, and can remove it
            # by this name.
            execution_id = unquote(directory.name)
            return ListedRun(execution_id, f"{execution_id}.damaged", Phase.RUNNING)
        if spec is None or spec["installation"] != self._installation:
            return None
        try:
            phase = self._inspect(host, spec["run_id"]).state.phase
        except RunVanished:
            # Its supervisor is gone, its directory is not: listed, so that it is removed.
            phase = Phase.ENDED
        return ListedRun(
            spec["execution_id"], spec["run_id"], phase, spec["task_id"], spec["job_id"]
        )

    # -- places and threads -------------------------------------------------------------------

    def _host_directory(self, host: str) -> Path:
        return self._root / quote(host, safe="").replace(".", "%2E")

    def _directory(self, host: str, execution_id: str) -> Path:
        return self._host_directory(host) / quote(execution_id, safe="").replace(".", "%2E")

    def _directory_of(self, host: str, run_id: str) -> Path:
        return self._directory(host, run_id.rpartition(".")[0])

    @contextlib.contextmanager
    def _lock(self, host: str, run_id: str) -> Iterator[bool]:
        """Yield whether the run's lock was free; it is held inside the context."""
        try:
            descriptor = shim.take_lock(str(self._directory_of(host, run_id)))
        except FileNotFoundError:
            raise RunVanished(f"run {run_id} was removed") from None
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None:
                os.close(descriptor)

    async def _in_thread(
        self, host: str, function: Callable[..., T], *arguments: Any, starting: bool = False
    ) -> T:
        pool = self._starts if starting else self._files
        if pool is None:
            raise HostUnavailable(host, "the process executor is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)
        except OSError as error:
            raise HostUnavailable(host, str(error)) from error


def _refuse_malformed(spec: RunSpec) -> None:
    if not spec.argv:
        raise StartFailed("The command is empty.")
    if not spec.execution_id:
        raise StartFailed("The execution has no id.")
    words = [*spec.argv, *spec.envs, *spec.envs.values()]
    try:
        if any(b"\0" in os.fsencode(word) for word in words):
            raise StartFailed("the command or its environment contains a NUL character")
    except UnicodeEncodeError as error:
        raise StartFailed(f"The command or its environment is not text ({error}).") from error
    if any(not name or "=" in name for name in spec.envs):
        raise StartFailed('A name in the environment is empty or contains "=".')
    memory = spec.resources.memory_bytes
    if memory is not None and not 0 < memory < 2**63:
        raise StartFailed(f"A memory limit of {memory} bytes cannot be set.")
