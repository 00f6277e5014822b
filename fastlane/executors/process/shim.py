"""The supervisor of one run of the process executor; :mod:`.supervisor` launches it.

It outlives the server that launched it (own session, no longer its child), starts the command,
writes its output and its end into the run's directory, and ends. It needs only the standard
library and two modules of fastlane that need nothing else, so it starts in some 20 ms and an
upgrade in progress does not break it. The launcher reads one word from its stdout: ``started``,
``failed``, ``busy`` (another supervisor has this run) or ``gone`` (the run was removed).

The files of a run, all below ``RUN_DIR``:

=============  ====================================================================================
``spec.json``  what to run; there from the first moment, never changed
``lock``       held (flock) by the supervisor as long as it lives, or by a caller that stops
               or removes a run that was never started
``state.json`` the processes' identities; **once it exists the command may have run**
``starting``   there until the command is known to execute; gone (or not) it costs no disk space
``log``        framed output, see :data:`FRAME`
``exit.json``  how it ended; once it is there nothing else changes
``work``       the command's directory, and its ``HOME``
=============  ====================================================================================

Exactly once, whatever is killed at any time: the command's process is forked under the lock and
waits on a pipe for permission. ``state.json`` is linked into place (which fails if there is one)
and synced before permission is given.

* Killed before ``state.json``: the forked process sees the pipe close and ends without running
  anything. The lock is free again, a new ``start`` runs the command for the first time.
* Killed after ``state.json``: whether the command has run is unknown. No supervisor goes beyond an
  existing ``state.json``. If the supervisor is dead and there is no ``exit.json``, the run counts
  as vanished.
* Killed after ``exit.json``: the run has ended, and everyone reads that.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import select
import signal
import struct
import sys
import time
from typing import Any, NoReturn

from fastlane.files import open_private, write_new
from fastlane.processes import become_subreaper, children

SPEC = "spec.json"
LOCK = "lock"
STATE = "state.json"
STARTING = "starting"
LOG = "log"
EXIT = "exit.json"
WORK = "work"

FRAME = struct.Struct(">BdI")
"""A frame's header: stream (1 stdout, 2 stderr), unix seconds, length of the data after it."""
STDOUT, STDERR = 1, 2

# Bounds one frame: what is read from a pipe at once.
READ_BYTES = 64 * 1024
# Bounds how long the pipes are read after the command's end if something still holds them open, and
# how long what the command has left behind is looked for.
DRAIN_SECONDS = 1.0
# Bounds how long a command continues after someone deleted its run's directory.
WATCH_SECONDS = 1.0
# Bounds the attempts to write the result (one per second) to a full disk.
EXIT_WRITES = 600

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def write_once(path: str, record: dict[str, Any]) -> None:
    """Make *path* with its whole content, durably.

    :raises FileExistsError: it is there already, and was not touched.
    """
    write_new(path, json.dumps(record))


def read(path: str) -> dict[str, Any] | None:
    """The record in *path*, or None when there is none."""
    try:
        with open(path) as file:
            record: dict[str, Any] = json.load(file)
            return record
    except (FileNotFoundError, NotADirectoryError):
        return None


def take_lock(directory: str) -> int | None:
    """The run's lock as a descriptor that holds it until it is closed; None when it is held.

    :raises FileNotFoundError: the run was removed.
    """
    path = os.path.join(directory, LOCK)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A run is removed under the lock, so we may hold the lock of a removed one.
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
        raise FileNotFoundError(errno.ENOENT, "the run was removed", path)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def start_ticks(pid: int) -> int | None:
    """When *pid* was started, in clock ticks since the boot; None when it is dead (or a zombie).

    With the boot id it tells a process from a later one of the same pid. Source: proc(5),
    /proc/pid/stat, fields 3 and 22; field 2 may hold blanks and parentheses.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def alive(pid: int, ticks: int | None, boot: str) -> bool:
    """Whether the process that was recorded with these three is alive."""
    return ticks is not None and start_ticks(pid) == ticks and boot_id() == boot


def boot_seconds() -> float:
    """Seconds since the boot, by a clock that is never set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def age_seconds(state: dict[str, Any]) -> float:
    """How long ago the command was started, of which ``state.json`` says *state*."""
    # Supervisors of earlier versions did not note the moment.
    if state["boot"] != boot_id() or "boot_seconds" not in state:
        return 0.0
    return boot_seconds() - float(state["boot_seconds"])


def exec_failure(error: OSError) -> int:
    """The exit code that a shell gives for it: 127 when there is no such command, else 126."""
    return 127 if error.errno in (errno.ENOENT, errno.ENOTDIR) else 126


class Log:
    """Appends frames. A disk that refuses a frame loses that frame, and never stops the command."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._end = os.lseek(self._descriptor, 0, os.SEEK_END)
        self.lost_bytes = 0

    def append(self, stream: int, data: bytes) -> None:
        frame = FRAME.pack(stream, time.time(), len(data)) + data
        view = memoryview(frame)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError:
            # Half a frame would make everything after it unreadable.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._end)
            os.lseek(self._descriptor, self._end, os.SEEK_SET)
            self.lost_bytes += len(data)
        else:
            self._end += len(frame)

    @property
    def removed(self) -> bool:
        """Whether the file was deleted."""
        return os.fstat(self._descriptor).st_nlink == 0

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.fsync(self._descriptor)
        os.close(self._descriptor)


def run(directory: str) -> None:
    """Run what ``spec.json`` in *directory* says, once, to its end."""
    try:
        lock = take_lock(directory)
    except FileNotFoundError:
        return say("gone")
    if lock is None:
        return say("busy")
    spec = read(os.path.join(directory, SPEC))
    if spec is None:
        return say("gone")
    for name in (STATE, EXIT):
        if os.path.exists(os.path.join(directory, name)):
            return say("busy")

    woken = ignore_signals()
    become_subreaper()
    log = Log(os.path.join(directory, LOG))
    out, out_writer = os.pipe2(os.O_CLOEXEC)
    err, err_writer = os.pipe2(os.O_CLOEXEC)
    go_reader, go = os.pipe2(os.O_CLOEXEC)
    failure, failure_writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(go)
        become(directory, spec, go_reader, failure_writer, out_writer, err_writer)
    for descriptor in (out_writer, err_writer, go_reader, failure_writer):
        os.close(descriptor)
    starting = os.path.join(directory, STARTING)
    with open(starting, "w", opener=open_private):
        pass
    state = identities(child)
    write_once(os.path.join(directory, STATE), state)
    os.write(go, b"g")
    os.close(go)

    # Ends with the exec, which closes the other end, or with the reason why there was none.
    failed = b""
    while piece := os.read(failure, 4096):
        failed += piece
    os.close(failure)
    if failed:
        os.waitpid(child, 0)
        finish(directory, {**json.loads(failed), "start_failed": True, "finished_at": time.time()})
        return say("failed")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(starting)
        say("started")
        status = follow(child, {out: STDOUT, err: STDERR}, log, woken)
    except BaseException:
        # Nothing may run unwatched.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        raise
    log.close()
    # Not by the wall clock, which may have been set while the command ran.
    finish(directory, result(status, log.lost_bytes, state["started_at"] + age_seconds(state)))
    return None


def ignore_signals() -> int:
    """A pipe that becomes readable when a child ends; other signals are ignored.

    A signal that ends the server and all around it (a service manager's, say) must not cost the
    result.
    """
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(ignored, signal.SIG_IGN)
    woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    return woken


def identities(child: int) -> dict[str, Any]:
    """What ``state.json`` says of the command and of this process."""
    return {
        "pid": child,
        "pid_ticks": start_ticks(child),
        "shim_pid": os.getpid(),
        "shim_ticks": start_ticks(os.getpid()),
        "boot": boot_id(),
        "started_at": time.time(),
        "boot_seconds": boot_seconds(),
    }


def result(status: int, lost_bytes: int, finished_at: float) -> dict[str, Any]:
    """What ``exit.json`` says of a command that was executed."""
    code = os.waitstatus_to_exitcode(status)
    return {
        "exit_code": code if code >= 0 else 128 - code,
        "finished_at": finished_at,
        "error": f"{lost_bytes} bytes of output could not be written to disk"
        if lost_bytes
        else None,
    }


def become(
    directory: str, spec: dict[str, Any], go: int, failure: int, out: int, err: int
) -> NoReturn:
    """In the forked process: wait for permission, then become the command; never return."""
    try:
        if not os.read(go, 1):
            os._exit(1)
        os.setsid()
        work = os.path.join(directory, WORK)
        os.makedirs(work, mode=0o700, exist_ok=True)
        os.chdir(work)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (out, 1), (err, 2)):
            os.dup2(source, target)
        limit(resource.RLIMIT_CORE, 0)
        if spec.get("memory_bytes") is not None:
            limit(resource.RLIMIT_DATA, spec["memory_bytes"])
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        environment = {"PATH": DEFAULT_PATH, "HOME": work, **spec["envs"]}
        try:
            os.execvpe(spec["argv"][0], spec["argv"], environment)  # noqa: S606
        except OSError as error:
            tell(failure, exec_failure(error), f"{spec['argv'][0]}: {error.strerror}")
    except BaseException as error:
        tell(failure, 126, f"{type(error).__name__}: {error}")
    os._exit(127)


def tell(failure: int, code: int, message: str) -> None:
    # Less than PIPE_BUF, so that it is one write.
    text = json.dumps({"exit_code": code, "error": message[:500]})
    os.write(failure, text.encode())


def limit(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def follow(child: int, streams: dict[int, int], log: Log, woken: int) -> int:
    """Write down what comes from *streams* until *child* has ended; its wait status.

    All that it has started is killed with it, as a container ends with its first process.
    """
    poll = select.poll()
    for descriptor in streams:
        poll.register(descriptor, select.POLLIN)
    poll.register(woken, select.POLLIN)
    is_open = set(streams)
    deadline: float | None = None
    status = 0
    while deadline is None or (is_open and time.monotonic() < deadline):
        timeout = WATCH_SECONDS if deadline is None else max(0.0, deadline - time.monotonic())
        for descriptor, _ in poll.poll(timeout * 1000):
            if descriptor == woken:
                with contextlib.suppress(BlockingIOError):
                    os.read(woken, 4096)
                continue
            data = os.read(descriptor, READ_BYTES)
            if data:
                log.append(streams[descriptor], data)
            else:
                poll.unregister(descriptor)
                os.close(descriptor)
                is_open.discard(descriptor)
        if deadline is None and log.removed:
            # It is reported as lost, so it must not run.
            os.killpg(child, signal.SIGKILL)
        # Its pid, and so its group's, is ours to name for as long as it is not reaped.
        if deadline is None and ended_but(child):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            deadline = time.monotonic() + DRAIN_SECONDS
            end_orphans(deadline)
    for descriptor in is_open:
        os.close(descriptor)
    return status


def ended_but(child: int) -> bool:
    """Reap the children that have ended, but for *child*; whether that one has."""
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while (ended := os.waitid(os.P_ALL, 0, options)) is not None and ended.si_pid != child:
        os.waitpid(ended.si_pid, 0)
    return os.waitid(os.P_PID, child, options) is not None


def end_orphans(deadline: float) -> None:
    """Kill every process that the command has left behind, whichever group or session it is in.

    We are their subreaper: each becomes our child when its parent ends, at the latest when we kill
    that one.
    """
    while time.monotonic() < deadline:
        for orphan in children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(orphan, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def finish(directory: str, record: dict[str, Any]) -> None:
    for _ in range(EXIT_WRITES):
        try:
            return write_once(os.path.join(directory, EXIT), record)
        except (FileNotFoundError, FileExistsError):
            return None
        except OSError:
            time.sleep(1)
    return None


def say(word: str) -> None:
    """Tell the launcher, who may be gone, and let go of its pipes."""
    with contextlib.suppress(OSError):
        os.write(1, word.encode())
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def main() -> None:
    # The launcher reaps this first process at once; the second is nobody's child that matters.
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    run(sys.argv[1])
