"""The main job from one command: a server, three real jobs, and a table of how they ended.

::

    make demo                   and exit 0 when every job ended as it should
    make demo ARGS=--keep       the same, then go on serving until Ctrl-C

Uses the Docker engine that is reachable, starts one where that is allowed, and goes on with plain
processes where there is none. Everything is in a temporary directory that is removed at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastlane.client import AsyncClient, AsyncRun, ClientError, Execution, Status, Stream
from fastlane.config import Config
from scripts import engine
from scripts.machine import SetupError, say

# Bounds the server's start, in seconds.
START_TIMEOUT = 30.0

# Bounds all jobs together, in seconds; they take about six.
JOBS_TIMEOUT = 90.0

# Bounds how long jobs may take to be stopped, in seconds: ten of grace, and the kill.
STOP_JOBS_TIMEOUT = 20.0

# Bounds the server's end, in seconds: it promises 25.
STOP_TIMEOUT = 30.0

# How often the server is looked at while it starts, in seconds.
LOOK_EVERY = 0.1

# What the server shares with us of the engine's address; all other options are its defaults.
_KEPT_OPTIONS = {"DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"}

console = Console(highlight=False)


class DemoError(Exception):
    """The demonstration did not go as it should; the message says what happened."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job of the demonstration and how it has to end."""

    task: str
    what: str
    payload: Mapping[str, Any]
    status: str = "done"
    exit_code: int = 0
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended, as the API tells it."""

    job: Job
    url: str
    status: str
    exit_code: int | None
    attempts: int
    seconds: float | None

    @property
    def as_it_should(self) -> bool:
        """Whether it ended as the demonstration says."""
        wanted = (self.job.status, self.job.exit_code, self.job.attempts)
        return (self.status, self.exit_code, self.attempts) == wanted


def _shell(script: str) -> str:
    return shlex.join(["sh", "-c", script])


JOBS = (
    Job(
        "demo-hello",
        "both streams, followed live",
        {
            "command": _shell(
                # Apart in time: a reader of two pipes cannot tell which was written first.
                "for n in 1 2 3 4; do"
                " echo hello $n of 4; sleep 0.2; echo note $n >&2; sleep 0.5; done"
            )
        },
    ),
    Job(
        "demo-retry",
        "fails, is tried again",
        {
            "command": _shell("echo this one fails >&2; exit 3"),
            "retries": 1,
            "backoff": {"minMs": 500, "factor": 2, "maxMs": 5000},
        },
        status="failed",
        exit_code=3,
        attempts=2,
    ),
    Job(
        "demo-later",
        "starts in 3 s",
        {"command": _shell("echo here I am"), "startIn": "3s"},
    ),
)


def show(topic: str, message: str, style: str = "") -> None:
    """One line about *topic*, in a column that a pipe keeps too."""
    text = f"{topic:<11} {message}"
    console.print(escape(text), style=style or None, soft_wrap=True)


def choose_executor() -> tuple[str, str]:
    """The executor for this machine and the image for its jobs."""
    try:
        return "docker", engine.small_image(engine.ensure())
    except (engine.EngineError, SetupError) as error:
        say("engine", str(error).replace("\n", f"\n{'':<10}"))
        say("engine", "going on without: EXECUTOR=process runs plain processes, not isolated")
        return "process", engine.IMAGE


def server_environment(executor: str, data: Path) -> dict[str, str]:
    """This environment without the options of some other server, and with the demonstration's."""
    others = {name.upper() for name in Config.model_fields} - _KEPT_OPTIONS
    kept = {name: value for name, value in os.environ.items() if name not in others}
    return kept | {"EXECUTOR": executor, "DATA_DIR": str(data), "LOG_FORMAT": "console"}


@asynccontextmanager
async def serving(executor: str, folder: Path) -> AsyncIterator[str]:
    """A server on a free port; its URL. Ended by SIGTERM."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    log = folder / "server.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fastlane", "server", "--host", "127.0.0.1"),
            *("--port", str(port)),
            env=server_environment(executor, folder / "data"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Ctrl-C is ours: the server is told by SIGTERM when its jobs were stopped.
            start_new_session=True,
        )
    try:
        await _healthy(url, process, log)
        yield url
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT)
            except TimeoutError:
                process.kill()
                await process.wait()
    if process.returncode not in (0, -signal.SIGTERM):
        raise DemoError(f"the server ended with {process.returncode}:\n{_tail(log)}")


async def _healthy(url: str, process: asyncio.subprocess.Process, log: Path) -> None:
    deadline = asyncio.get_running_loop().time() + START_TIMEOUT
    async with AsyncClient(url, patience=0) as client:
        while asyncio.get_running_loop().time() < deadline:
            if process.returncode is not None:
                raise DemoError(f"the server did not start ({process.returncode}):\n{_tail(log)}")
            with suppress(ClientError):
                await client.health()
                return
            await asyncio.sleep(LOOK_EVERY)
    raise DemoError(f"the server is not healthy within {START_TIMEOUT:.0f} s:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])


async def follow(run: AsyncRun, job: Job) -> None:
    """Print the job's log as it is written, until there is no more."""
    async for record in run.logs(follow=True):
        style = "yellow" if record.stream is Stream.STDERR else "green"
        for line in record.text.splitlines():
            show(job.task, f"{record.stream} | {line}", style)


async def watch(run: AsyncRun, job: Job) -> Ended:
    """Print each change of the job's status, and tell how it ended."""
    seen: dict[str, Status] = {}
    async for news in run.watch():
        if isinstance(news, Execution) and seen.get(news.execution_id) is not news.status:
            seen[news.execution_id] = news.status
            show(job.task, _in_words(news, len(seen)), "cyan")
            last = news
    seconds = None
    if last.started_at is not None and last.finished_at is not None:
        seconds = (last.finished_at - last.started_at).total_seconds()
    url = run.id.job_url.rstrip("/")
    return Ended(job, url, last.status, last.exit_code, len(seen), seconds)


def _in_words(execution: Execution, number: int) -> str:
    words: list[str] = [execution.status]
    if execution.exit_code is not None:
        words.append(f"(exit code {execution.exit_code})")
    if number > 1:
        words.append(f"- attempt {number}")
    if execution.status is Status.FAILED and execution.error:
        words.append(f"- {execution.error.strip().splitlines()[-1]}")
    return " ".join(words)


async def run_jobs(url: str, executor: str, image: str) -> list[Ended]:
    """Submit :data:`JOBS`, follow the first, and wait until all have ended."""
    # The image was made here: there is no registry to ask for it.
    common = {"image": image, "pullPolicy": "never"}
    submitted: list[tuple[AsyncRun, Job]] = []
    async with AsyncClient(url) as client:
        try:
            for job in JOBS:
                run = await client.submit_payload(job.task, {**common, **job.payload})
                submitted.append((run, job))
                show(job.task, f"accepted: {job.what}", "cyan")
            async with asyncio.timeout(JOBS_TIMEOUT), asyncio.TaskGroup() as group:
                watches = [group.create_task(watch(*one)) for one in submitted]
                group.create_task(follow(*submitted[0]))
            return [one.result() for one in watches]
        except BaseException as error:
            # Containers outlive their server: none of ours may be left behind.
            with suppress(ClientError, TimeoutError):
                async with asyncio.timeout(STOP_JOBS_TIMEOUT):
                    for run, _ in submitted:
                        await run.stop()
                    for run, _ in submitted:
                        await run.wait(check=False)
            if isinstance(error, TimeoutError):
                raise DemoError(f"jobs have not ended within {JOBS_TIMEOUT:.0f} s") from error
            if isinstance(error, BaseExceptionGroup):
                raise error.exceptions[0] from None
            raise


def print_table(ended: list[Ended], executor: str) -> None:
    """What ran and how it ended."""
    table = Table(title=f"What ran ({executor} executor)", title_justify="left")
    table.add_column("task", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for name in ("exit code", "time", "attempts"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("what it shows")
    for one in ended:
        style = "green" if one.status == "done" else "yellow"
        table.add_row(
            one.job.task,
            f"[{style if one.as_it_should else 'red'}]{one.status}",
            "-" if one.exit_code is None else str(one.exit_code),
            "-" if one.seconds is None else f"{one.seconds:.2f} s",
            str(one.attempts),
            one.job.what,
        )
    console.print()
    console.print(table)
    for one in ended:
        show(one.job.task, f"{one.url}/")


async def demo(executor: str, image: str, *, keep: bool) -> None:
    """All of it.

    :raises DemoError: something did not go as it should.
    """
    loop, whole = asyncio.get_running_loop(), asyncio.current_task()
    assert whole is not None
    for each in (signal.SIGINT, signal.SIGTERM):
        # Whichever way it is ended, its server and its jobs end with it.
        loop.add_signal_handler(each, whole.cancel)
    with tempfile.TemporaryDirectory(prefix="fastlane-demo-") as folder:
        async with serving(executor, Path(folder)) as url:
            show("server", f"serving on {url}")
            ended = await run_jobs(url, executor, image)
            print_table(ended, executor)
            wrong = [one for one in ended if not one.as_it_should]
            if wrong:
                raise DemoError(
                    "\n".join(
                        f"{one.job.task} ended as {one.status} with exit code {one.exit_code} "
                        f"after {one.attempts} attempts; it should have been {one.job.status}, "
                        f"{one.job.exit_code}, {one.job.attempts}"
                        for one in wrong
                    )
                )
            if keep:
                show("server", "still serving; Ctrl-C ends it")
                await asyncio.Event().wait()
    console.print()
    show("demo", "every job ended as it should; the server of these URLs has ended.")
    show("next", "make run          serves on http://localhost:10000 and keeps what it is told")
    show("", "make demo ARGS=--keep   leaves the demo's server up for a look at its URLs")


def main() -> int:
    """Parse the arguments, run the demonstration; its exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description="Run real jobs on a server.")
    parser.add_argument("--keep", action="store_true", help="go on serving until Ctrl-C")
    keep = parser.parse_args().keep
    executor, image = choose_executor()
    try:
        asyncio.run(demo(executor, image, keep=keep))
    except (KeyboardInterrupt, asyncio.CancelledError):
        show("demo", "ended")
        return 0 if keep else 130
    except (DemoError, ClientError) as error:
        print(f"demo        failed: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
