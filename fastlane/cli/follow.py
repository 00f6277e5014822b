"""Following a run: its log, what happens while there is none, and the exit code."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import typer

from fastlane.cli.app import say, shared
from fastlane.cli.output import colours, cut, duration, plain

if TYPE_CHECKING:
    from fastlane_client.records import Execution, LogRecord
    from fastlane_client.runs import Run

TIMED_OUT = 124
"""What ``timeout`` of coreutils exits with."""
NO_CODE = 125
"""The run ended without an exit code of its own."""
INTERRUPTED = 130
"""What a shell gives a program that SIGINT has ended: 128 + 2."""

_REMEDIES = {
    "pull-failed": "Check the image's name and the registry's login; `--pull missing` uses an "
    "image that is on the host.",
    "oom": "Give it more with --memory.",
    "timeout": "Give it longer with --timeout.",
    "expired": "Give it a later --expires, or more slots.",
    "disk": "Give it more with --disk.",
    "lost": "Its host failed; --rerun-when-lost runs such jobs again.",
}


def code_of(execution: Execution) -> int:
    """The exit code of a command that reports how *execution* ended."""
    match execution.status.value:
        case "done":
            return 0
        case "timedout":
            # The code that it has is that of the signal that has ended it.
            return TIMED_OUT
    return execution.exit_code or NO_CODE


def follow(
    run: Run,
    *,
    exit_code: bool = True,
    stop_on_interrupt: bool = False,
    screen: Screen | None = None,
) -> None:
    """Show the log of *run* until it has ended, and exit as it did.

    The log's stdout goes to stdout; its stderr, and what is said about it, to stderr.

    :raises typer.Exit: always, unless the run was done or *exit_code* is false.
    """
    from fastlane_client import Execution

    screen = screen or Screen()
    last: Execution | None = None
    try:
        with _ending_with_its_reader():
            for news in run.watch(tail=screen.tail, since=screen.since):
                if isinstance(news, Execution):
                    last = news
                    screen.progress(news)
                else:
                    screen.show(news)
    except KeyboardInterrupt:
        screen.clear()
        _interrupted(run, stop=stop_on_interrupt)
    finally:
        screen.clear()
    assert last is not None
    if last.status.value != "done":
        say(ending(last))
    if exit_code and (code := code_of(last)):
        raise typer.Exit(code)


def ending(execution: Execution) -> str:
    """How it ended, and what to do where that is known."""
    reason = execution.reason.value if execution.reason is not None else ""
    return " ".join(filter(None, (execution.sentence, _REMEDIES.get(reason))))


def _interrupted(run: Run, *, stop: bool) -> None:
    # A second Ctrl-C ends it at once.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if stop:
        run.stop()
        say("Interrupted. The job was stopped.")
    else:
        what = run.execution_id or run.job_id
        say(f"Interrupted. The job continues; to stop it: fastlane stop {what}")
    raise typer.Exit(INTERRUPTED)


class Screen:
    """Where a log is shown, and above it, while there is none, why."""

    def __init__(
        self,
        *,
        timestamps: bool = False,
        streams: frozenset[str] = frozenset({"stdout", "stderr", "fastlane"}),
        tail: int | None = None,
        since: str | None = None,
        silent: bool = False,
    ) -> None:
        """:param silent: do not say what happens while there is no output."""
        self.tail = tail
        self.since = since
        self._timestamps = timestamps
        self._streams = streams
        self._silent = silent
        self._line = ""
        self._said = ""
        self._begins = dict.fromkeys(("stdout", "stderr", "fastlane"), True)
        self._tty = sys.stderr.isatty()

    def show(self, record: LogRecord) -> None:
        """Print a record as it was written."""
        stream = record.stream.value
        if stream not in self._streams:
            return
        self.clear()
        file = sys.stdout if stream == "stdout" else sys.stderr
        text = record.text
        if self._timestamps:
            text = self._stamped(stream, text, record.ts.isoformat(timespec="milliseconds"))
        # JSON can hold half a character of UTF-16; no output can.
        file.buffer.write(text.encode(errors="replace"))
        file.flush()

    def _stamped(self, stream: str, text: str, at: str) -> str:
        lines = text.splitlines(keepends=True)
        stamped = "".join(
            f"{at} {line}" if number or self._begins[stream] else line
            for number, line in enumerate(lines)
        )
        self._begins[stream] = text.endswith("\n")
        return stamped

    def progress(self, execution: Execution) -> None:
        """Say how it is: on a terminal in a line that the log replaces, else once for each news."""
        if self._silent:
            return
        said = _progress(execution)
        if not said or said == self._said:
            return
        self._said = said
        if not self._tty:
            say(said)
            return
        self.clear()
        self._line = cut(plain(said), shutil.get_terminal_size().columns - 1)
        dim = colours(shared().style, sys.stderr)
        sys.stderr.write(f"\033[2m{self._line}\033[0m" if dim else self._line)
        sys.stderr.flush()

    def clear(self) -> None:
        """Take the line of progress away."""
        if self._line:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
            self._line = ""


def _progress(execution: Execution) -> str:
    status = execution.status.value
    if status == "enqueued":
        return f"Waiting: {execution.waiting}" if execution.waiting else "Waiting for a slot."
    if status == "pulling":
        return execution.waiting or f"Pulling {execution.image}."
    retry = execution.retry
    if execution.status.final and retry is not None:
        attempts = execution.metadata.retries + 1
        import time

        left = 0.0 if retry.due_at is None else retry.due_at.timestamp() - time.time()
        when = f" in {duration(left)}" if left > 0 else ""
        return f"{execution.sentence} Attempt {retry.attempt + 1} of {attempts} follows{when}."
    return ""


@contextmanager
def _ending_with_its_reader() -> Iterator[None]:
    """Die of SIGPIPE once nobody reads our output, as with ``| head``, also between writes."""
    import select

    watched = select.poll()
    try:
        descriptor = sys.stdout.fileno()
        os.fstat(descriptor)
    except (OSError, ValueError):
        yield
        return
    # An error is reported without being asked for: the pipe's reader is gone.
    watched.register(descriptor, 0)
    ended = threading.Event()

    def watch() -> None:
        with suppress(OSError):
            while not ended.is_set():
                for _, event in watched.poll(200):
                    if event & select.POLLERR:
                        # As one that SIGPIPE has ended; only the main thread can send it to itself.
                        os._exit(128 + signal.SIGPIPE)
                    return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def die_of_sigpipe() -> None:
    """End as a program does whose reader is gone. Python ignores the signal by default."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)
