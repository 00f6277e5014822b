"""Commands as plain processes of this machine, for where there is no Docker.

There is no isolation whatsoever: a command runs as the server's user and sees its files. A *host*
is a label (``localhost``); all of them are this machine, each with runs of its own.

A run is a directory, ``DATA_DIR/runs/HOST/EXECUTION_ID``; its files, and why its command runs at
most once whatever is killed when, are told in :mod:`fastlane.executors.process_shim`. The crash
points as seen from here:

* Killed inside ``create``: the directory appears by one rename, whole, or not at all.
* Killed inside ``start``, before the supervisor has linked ``state.json``: nothing has run; the
  run is ``created`` and ``start`` starts it. Supervisors of two ``start`` calls at once (an old
  server's and the new one's) are told apart by the lock: one runs the command, one steps aside.
* Killed any later: the supervisor goes on alone, and the restarted server finds the run.
* The supervisor itself killed: what it had started is killed by whoever finds out, and the run
  has vanished (:class:`~fastlane.errors.RunVanished`), for nobody knows its exit code.
* The directory deleted behind our back: the supervisor kills the command within a second.
* ``stop`` of a run that was never started writes its end under the same lock.
* ``remove`` renames the directory away under the lock, then deletes it.
* A file of the run damaged (a disk that lied): nobody can tell any more what became of it, so it
  has vanished, like one without its supervisor; what it may have started is ended, and it is
  never run again. The other runs do not notice.

The command gets the given environment over a minimal ``PATH`` and ``HOME``, a session and a
directory of its own, and ``/dev/null`` for input. When it ends, the rest of its process group is
killed; a process that left the group is not found again. Of the resources, ``memory`` bounds each
single process's data segment (RLIMIT_DATA), not their sum; ``cpus`` and ``pids`` are not enforced
(RLIMIT_NPROC counts all processes of the user). The image, the pull policy and ``dns_entries``
are ignored. The log on disk is not bounded.

Linux only: processes are recognised by what /proc says of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import structlog

from fastlane.errors import HostUnavailable, RunVanished, StartFailed
from fastlane.executors import process_shim as shim
from fastlane.executors.base import (
    Executor,
    ListedRun,
    LogBatch,
    LogPiece,
    Phase,
    RunSpec,
    RunState,
)
from fastlane.model import Stream

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Bounds one batch of log, headers included; it holds at least one whole frame.
BATCH_BYTES = 256 * 1024
# Bounds how far apart frames of one stream may be and still share one record and its time.
MERGE_SECONDS = 0.1
# Bound how late a change is seen where it can only be looked for: first quickly, then calmly.
POLL_MIN_SECONDS = 0.005
POLL_MAX_SECONDS = 0.05
# Bounds how late it is seen that a supervisor died or a run was removed behind our back.
BACKSTOP_SECONDS = 1.0
# Bounds how long a start waits for the supervisor's word.
START_SECONDS = 30.0
# Bounds how long a killed run may take to be seen as ended.
KILL_SECONDS = 10.0
# Bounds the age of a directory that a killed `create` left half made.
LEFTOVER_SECONDS = 3600.0
# Bounds how often a run that appears or goes while it is created is looked at again.
CREATE_TRIES = 10
# What was stopped before it started ends like a command that obeyed SIGTERM.
STOPPED_EXIT_CODE = 128 + signal.SIGTERM

_STREAMS = {shim.STDOUT: Stream.STDOUT, shim.STDERR: Stream.STDERR}
DAMAGED_NOTE = b"\n[fastlane: the rest of this log is damaged on its host]\n"

_NUMBER = (int, float)
# What must be in a run's records, of which types, before anything is made of them.
_SPEC_FIELDS: Mapping[str, tuple[type, ...]] = dict.fromkeys(
    ("run_id", "installation", "execution_id", "task_id", "job_id"), (str,)
)
_STATE_FIELDS: Mapping[str, tuple[type, ...]] = {
    "pid": (int,),
    "pid_ticks": (int, type(None)),
    "shim_pid": (int,),
    "shim_ticks": (int, type(None)),
    "boot": (str,),
    "started_at": _NUMBER,
}
_EXIT_FIELDS: Mapping[str, tuple[type, ...]] = {"exit_code": (int,), "finished_at": _NUMBER}


class _Damaged(Exception):
    """A record of a run cannot be read, though the disk answers."""


class ProcessExecutor(Executor):
    """Runs commands as processes. See the module's docstring.

    :param data_dir: where the runs' directories are made, below ``runs``.
    :param installation: whose runs they are; others' in the same place are left alone.
    """

    name = "process"

    def __init__(self, *, data_dir: Path, installation: str = "fastlane") -> None:
        self._root = Path(data_dir).absolute() / "runs"
        self._installation = installation
        # Own threads, so that neither slow disks nor slow starts hold up the loop's other work.
        self._files: ThreadPoolExecutor | None = None
        self._starts: ThreadPoolExecutor | None = None
        self._reported: set[Path] = set()
        """Damaged runs that the log knows of."""

    async def open(self) -> None:
        if self._files is None:
            self._files = ThreadPoolExecutor(4, "process-files")
            self._starts = ThreadPoolExecutor(8, "process-starts")
        await self._in_thread("process", self._open)

    def _open(self) -> None:
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
            raise OSError(f"{self._root} cannot be written to")

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
                # Refused when another one was quicker: a directory that is not empty stays.
                os.rename(temporary, final)
                shim.sync_directory(str(final.parent))
            except OSError:
                shutil.rmtree(temporary, ignore_errors=True)
                if not final.exists():
                    raise
        else:
            raise OSError(f"{final} is there and is not a run")
        if found["installation"] != self._installation:
            raise StartFailed(f"execution {spec.execution_id} belongs to another installation")
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
            word, complaint = _launch(directory, deadline - time.monotonic())
            if not word and self._inspect(host, run_id).state.phase is Phase.CREATED:
                raise OSError(f"the supervisor did not start: {complaint or 'no word from it'}")
            if word == "busy":
                time.sleep(POLL_MIN_SECONDS)
        raise OSError(f"run {run_id} was not started within {START_SECONDS:g} s")

    async def inspect(self, host: str, run_id: str) -> RunState:
        return (await self._in_thread(host, self._inspect, host, run_id)).state

    def _inspect(self, host: str, run_id: str) -> _View:
        directory = self._directory_of(host, run_id)
        spec = self._spec(directory)
        if spec is None or spec["run_id"] != run_id:
            raise RunVanished(f"run {run_id} was removed")
        try:
            return _view(directory, run_id)
        except _Damaged as damage:
            raise self._abandoned(directory, damage) from damage

    def _spec(self, directory: Path) -> dict[str, Any] | None:
        """What the run in *directory* was to run; None when there is none.

        :raises RunVanished: it cannot be read.
        """
        try:
            return _spec_in(directory)
        except _Damaged as damage:
            raise self._abandoned(directory, damage) from damage

    def _abandoned(self, directory: Path, damage: _Damaged) -> RunVanished:
        """What to raise for a damaged run, of which nothing is left running then."""
        self._report(directory, damage)
        try:
            state = _record(directory / shim.STATE, _STATE_FIELDS)
        except _Damaged:
            # Only its supervisor knows the processes, and ends them when it misses the log.
            with contextlib.suppress(FileNotFoundError):
                lock = shim.take_lock(str(directory))
                if lock is None:
                    (directory / shim.LOG).unlink()
                else:
                    os.close(lock)
        else:
            if state is not None:
                _kill(state, signal.SIGKILL)
        return RunVanished(f"its record is damaged: {damage}")

    def _report(self, directory: Path, why: Exception) -> None:
        if directory not in self._reported:
            self._reported.add(directory)
            log.error("run cannot be read", path=str(directory), why=str(why))

    async def wait(self, host: str, run_id: str) -> RunState:
        """As in the interface. A run whose start failed can never end: its state comes at once."""
        while True:
            view = await self._in_thread(host, self._inspect, host, run_id)
            if view.over:
                return view.state
            if view.state.phase is Phase.RUNNING and view.processes is not None:
                await _exit_of(view.processes["shim_pid"], BACKSTOP_SECONDS)
            else:
                await asyncio.sleep(POLL_MAX_SECONDS)

    async def logs(
        self, host: str, run_id: str, *, bookmark: str, ended: asyncio.Event
    ) -> AsyncGenerator[LogBatch, None]:
        """As in the interface; it sees by itself when the run has ended.

        :raises ValueError: *bookmark* is not one of this executor's.
        """
        reader = _Reader.at(bookmark)
        directory = self._directory_of(host, run_id)
        pause = POLL_MIN_SECONDS
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
            has_ended, data = await self._in_thread(host, _peek, directory, reader.offset)
            batch = reader.take(data)
            if batch is not None:
                pause = POLL_MIN_SECONDS
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
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, POLL_MAX_SECONDS)

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
                    await self._in_thread(host, _kill, view.processes, signal.SIGTERM)
                left = grace_ends - now()
                if left <= 0 and not killed:
                    killed = True
                    await self._in_thread(host, _kill, view.processes, signal.SIGKILL)
                await _exit_of(
                    view.processes["shim_pid"],
                    BACKSTOP_SECONDS if left <= 0 else min(left, BACKSTOP_SECONDS),
                )
            else:
                # Somebody is starting it, or holds its lock for a moment.
                await asyncio.sleep(POLL_MIN_SECONDS)
            if now() > gives_up:
                raise HostUnavailable(host, f"run {run_id} does not end, though it was killed")
            view = await self._ask_to_end(host, run_id)

    async def _ask_to_end(self, host: str, run_id: str) -> _View | None:
        try:
            return await self._in_thread(host, self._end_unstarted, host, run_id)
        except RunVanished:
            return None

    def _end_unstarted(self, host: str, run_id: str) -> _View:
        """The run as it is, after its end was written down if it was never started."""
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
        """As in the interface. A run that is still going is killed first, not left unrecorded."""
        await self.stop(host, run_id, grace_seconds=0)
        await self._in_thread(host, self._remove, host, run_id)

    def _remove(self, host: str, run_id: str) -> None:
        directory = self._directory_of(host, run_id)
        # Whichever run a damaged record was of: there is one directory for an execution.
        with contextlib.suppress(_Damaged):
            spec = _spec_in(directory)
            if spec is None or spec["run_id"] != run_id:
                return
        trash = directory.with_name(f".removed-{secrets.token_hex(8)}")
        try:
            # Nothing will start it: it has ended, or its end was written when it was stopped.
            os.rename(directory, trash)
        except FileNotFoundError:
            return
        shim.sync_directory(str(directory.parent))
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
                # What ails one of them must not hide the others.
                self._report(directory, error)
                continue
            if run is not None:
                found.append(run)
        return found

    def _listed(self, host: str, directory: Path) -> ListedRun | None:
        try:
            spec = _spec_in(directory)
        except _Damaged as damage:
            self._report(directory, damage)
            # Whose it is and whether it runs nobody can say, so it is left to whoever knows its
            # execution; by this name it can be removed.
            execution_id = unquote(directory.name)
            return ListedRun(execution_id, f"{execution_id}.damaged", Phase.RUNNING)
        if spec is None or spec["installation"] != self._installation:
            return None
        try:
            phase = self._inspect(host, spec["run_id"]).state.phase
        except RunVanished:
            # Its supervisor is gone, its directory is not: listed, so that it is cleared away.
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
        """Yield whether the run's lock was to be had; it is held inside the context."""
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


@dataclass(frozen=True, slots=True)
class _View:
    """A run's state, and what of it is the executor's own business."""

    state: RunState
    processes: dict[str, Any] | None
    starting: bool = False
    """A supervisor has it, and has not said yet whether the command executes."""
    refused: str | None = None
    """Why it can never be started (again)."""

    @property
    def over(self) -> bool:
        """Nothing about it will change any more."""
        return self.state.phase is Phase.ENDED or self.refused is not None


def _record(path: Path, fields: Mapping[str, tuple[type, ...]]) -> dict[str, Any] | None:
    """The record in *path*; None when there is none.

    :raises _Damaged: there is one that has not these *fields*.
    """
    try:
        record = shim.read(str(path))
    except (ValueError, RecursionError) as error:
        raise _Damaged(f"{path.name}: {error}") from error
    except IsADirectoryError as error:
        raise _Damaged(f"{path.name} is a directory") from error
    if record is None:
        return None
    if not isinstance(record, dict):
        raise _Damaged(f"{path.name} holds no object")
    for name, types in fields.items():
        if not isinstance(record.get(name), types):
            raise _Damaged(f"{path.name}: {name!r} is missing or malformed")
    return record


def _spec_in(directory: Path) -> dict[str, Any] | None:
    """What the run in *directory* was to run; None when there is none.

    :raises _Damaged: there is one that cannot be read.
    """
    for _ in range(2):
        spec = _record(directory / shim.SPEC, _SPEC_FIELDS)
        # A run comes and goes whole: with the one file there the other one was overlooked, or lost.
        if spec is not None or not (directory / shim.LOCK).exists():
            return spec
    raise _Damaged(f"{shim.SPEC} is missing")


def _view(directory: Path, run_id: str) -> _View:
    """How the run in *directory* is.

    :raises _Damaged: nobody can tell.
    :raises RunVanished: its supervisor is gone.
    """
    # Read in the reverse of the order in which they are written.
    end = _record(directory / shim.EXIT, _EXIT_FIELDS)
    try:
        state = _record(directory / shim.STATE, _STATE_FIELDS)
    except _Damaged:
        if end is None:
            raise
        # Only when it began is not known.
        state = None
    if end is None and state is not None and not _supervised(state):
        end = _record(directory / shim.EXIT, _EXIT_FIELDS)
        if end is None:
            _kill(state, signal.SIGKILL)
            raise RunVanished(f"run {run_id}: its supervisor is gone")
    started_at = state["started_at"] if state else None
    if end is not None:
        error = None if end.get("error") is None else str(end["error"])
        refused = None
        if end.get("start_failed") or end.get("never_started"):
            refused, started_at = error or "it could not be started", None
        return _View(
            RunState(
                run_id,
                Phase.CREATED if end.get("start_failed") else Phase.ENDED,
                exit_code=end["exit_code"],
                started_at=started_at,
                finished_at=end["finished_at"],
                error=error,
            ),
            state,
            refused=refused,
        )
    if state is None:
        return _View(RunState(run_id, Phase.CREATED), None)
    if (directory / shim.STARTING).exists():
        return _View(RunState(run_id, Phase.CREATED), state, starting=True)
    return _View(RunState(run_id, Phase.RUNNING, started_at=started_at), state)


class _Reader:
    """Makes batches of frames, from a bookmark on.

    A bookmark is ``OFFSET:OUT:ERR``: where the next frame begins, and the bytes, in hex, of a
    character in each stream whose first part was in a frame before it.
    """

    def __init__(self, offset: int, held: dict[Stream, bytes]) -> None:
        self.offset = offset
        self.moved = False
        """Whether the last :meth:`take` found a frame."""
        self._held = held
        self._at = 0.0
        self._damaged = False

    @classmethod
    def at(cls, bookmark: str) -> _Reader:
        offset, out, err = (bookmark or "0::").split(":")
        held = {Stream.STDOUT: bytes.fromhex(out), Stream.STDERR: bytes.fromhex(err)}
        return cls(int(offset), held)

    @property
    def bookmark(self) -> str:
        out, err = (self._held[stream].hex() for stream in (Stream.STDOUT, Stream.STDERR))
        return f"{self.offset}:{out}:{err}"

    def take(self, data: bytes) -> LogBatch | None:
        """What the whole frames at the beginning of *data* hold; a torn one is left for later."""
        pieces: list[tuple[float, Stream, bytearray]] = []
        position = 0
        while position + shim.FRAME.size <= len(data):
            number, at, length = shim.FRAME.unpack_from(data, position)
            if number not in _STREAMS or length > shim.READ_BYTES:
                self._damaged = True
                break
            end = position + shim.FRAME.size + length
            if end > len(data):
                break
            stream = _STREAMS[number]
            payload = data[position + shim.FRAME.size : end]
            position = end
            self._at = at
            if pieces and pieces[-1][1] is stream and at - pieces[-1][0] < MERGE_SECONDS:
                pieces[-1][2].extend(payload)
            else:
                pieces.append((at, stream, bytearray(payload)))
        self.moved = position > 0
        self.offset += position
        whole: list[LogPiece] = []
        for at, stream, merged in pieces:
            complete = self._held[stream] + bytes(merged)
            cut = len(complete) - unfinished(complete)
            self._held[stream] = complete[cut:]
            if cut:
                whole.append(LogPiece(at, stream, complete[:cut]))
        return LogBatch(whole, self.bookmark) if whole else None

    def flush(self) -> LogBatch | None:
        """What was held back, when no more will come."""
        pieces = [
            LogPiece(self._at or time.time(), stream, tail)
            for stream, tail in self._held.items()
            if tail
        ]
        self._held = {Stream.STDOUT: b"", Stream.STDERR: b""}
        if self._damaged:
            pieces.append(LogPiece(time.time(), Stream.FASTLANE, DAMAGED_NOTE))
        return LogBatch(pieces, self.bookmark) if pieces else None


def unfinished(data: bytes) -> int:
    """How many bytes at the end of *data* begin a UTF-8 character that is not all there (0 to 3).

    Source: RFC 3629, section 4.
    """
    for count in range(1, min(3, len(data)) + 1):
        byte = data[-count]
        if byte & 0xC0 == 0x80:
            continue
        need = 2 if 0xC2 <= byte <= 0xDF else 3 if 0xE0 <= byte <= 0xEF else 4
        return count if 0xC2 <= byte <= 0xF4 and need > count else 0
    return 0


def _peek(directory: Path, offset: int) -> tuple[bool, bytes]:
    """Whether the run has ended, and what its log has at *offset*."""
    # Asked before the read: what was written before the end is then in what is read.
    ended = (directory / shim.EXIT).exists()
    try:
        descriptor = os.open(directory / shim.LOG, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        # That the run vanished is found by the look at it, which comes around.
        return False, b""
    try:
        return ended, os.pread(descriptor, BATCH_BYTES, offset)
    finally:
        os.close(descriptor)


def _supervised(state: dict[str, Any]) -> bool:
    return shim.alive(state["shim_pid"], state["shim_ticks"], state["boot"])


def _kill(state: dict[str, Any], number: int) -> None:
    """Signal the command's group, if its leader is still the process that was recorded."""
    if shim.alive(state["pid"], state["pid_ticks"], state["boot"]):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(state["pid"], number)


def _launch(directory: Path, timeout_seconds: float) -> tuple[str, str]:
    """Launch a supervisor; its word, and its complaints when it has none."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-X", "utf8", shim.__file__, str(directory)],
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
            # Its first process has long handed over to the supervisor, which is left to go on.
            launcher.kill()
            return "", "no word from it in time"
    return word.decode(), complaint.decode(errors="replace").strip()[-500:]


async def _exit_of(pid: int, timeout_seconds: float) -> None:
    """Return when process *pid* has ended, or after *timeout_seconds*."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        # Gone already, or an old kernel.
        await asyncio.sleep(min(timeout_seconds, POLL_MIN_SECONDS))
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


def _refuse_malformed(spec: RunSpec) -> None:
    if not spec.argv:
        raise StartFailed("the command is empty")
    if not spec.execution_id:
        raise StartFailed("the execution has no id")
    words = [*spec.argv, *spec.envs, *spec.envs.values()]
    try:
        if any(b"\0" in os.fsencode(word) for word in words):
            raise StartFailed("the command or its environment holds a NUL character")
    except UnicodeEncodeError as error:
        raise StartFailed(f"the command or its environment is not text: {error}") from error
    if any(not name or "=" in name for name in spec.envs):
        raise StartFailed("a name in the environment is empty or holds '='")
    memory = spec.resources.memory_bytes
    if memory is not None and not 0 < memory < 2**63:
        raise StartFailed(f"a memory limit of {memory} bytes cannot be set")
