"""Follows a container's log to its true end.

``follow`` is a hint and not a proof of the end: engines have ended it at a rotation, have kept it
open after the exit, and Docker 20.10 loses its place when files are rotated faster than it reads.
So the end is proven by the container's state and by the log's last frame, and a silence is checked
against that frame, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from enum import Enum, auto
from typing import Any

import aiohttp

from fastlane.errors import HostUnavailable, RunVanished
from fastlane.executors.base import LogBatch, Phase
from fastlane.executors.docker.container import phase_of
from fastlane.executors.docker.engine import Engine, Refused
from fastlane.executors.docker.frames import HEADER_BYTES, STAMP_BYTES, FrameError
from fastlane.executors.docker.reader import LogReader
from fastlane.pause import Pause

# As daemon/delete.go, start.go and logs.go of moby say it.
_BEING_REMOVED = ("is already in progress", "marked for removal")

Inspect = Callable[[], Awaitable[Mapping[str, Any]]]

# Bounds the silence of a follow whose log is known to hold more, before it is read again.
STUCK_SECONDS = 2.0
# Bound the silence after which it is looked whether the log holds more.
FIRST_CHECK_SECONDS = 2.0
MAX_CHECK_SECONDS = 60.0
# Bounds how long someone's restart of a run may take until it runs again.
RESTART_SECONDS = 0.5
# Bounds the silence of a read that does not follow: the engine has all it needs.
READ_SILENCE_SECONDS = 60.0
# Bound the pause before a running container's log is followed again.
FIRST_PAUSE_SECONDS = 0.05
MAX_PAUSE_SECONDS = 2.0


async def follow_logs(
    engine: Engine,
    run_id: str,
    *,
    bookmark: str,
    ended: asyncio.Event,
    inspect: Inspect,
    kind: str = "containers",
) -> AsyncGenerator[LogBatch, None]:
    """See ``Executor.logs``. *inspect* gives the engine's details of the run.

    :param kind: what it is to the engine, ``containers`` or ``services``.
    :raises RunVanished: the run was removed.
    :raises HostUnavailable: the host went away, or its log cannot be decoded.
    """
    details = await inspect()
    tty = bool(details["Config"]["Tty"])
    reader = LogReader(bookmark, tty=tty, loses_newlines=engine.loses_newlines)
    over = ended.is_set() or await _is_over(details, inspect, ended)
    pause = Pause(FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
    while True:
        reader.restart(trusted=over)
        progress = complete = all_read = False
        batches = _read(engine, kind, run_id, reader, None if over else ended, tty)
        # A caller that stops listening must not leave the connection to the garbage collector.
        async with aclosing(batches):
            async for batch in batches:
                if isinstance(batch, _End):
                    complete, all_read = batch is _End.PROVEN, batch is _End.IN_ORDER
                else:
                    progress = True
                    yield batch
        if not complete:
            if over:
                # Read to its end, without following, after the run's: that is all there is.
                complete = True
            else:
                try:
                    over = ended.is_set() or await _is_over(await inspect(), inspect, ended)
                    complete = (
                        over
                        and not reader.suspect
                        and reader.reached(await tail(engine, run_id, kind=kind))
                    )
                except RunVanished:
                    # Removed right after its end; there is nothing left to compare it with.
                    if not all_read or reader.suspect:
                        raise
                    complete = True
        if complete:
            if (rest := reader.finish()) is not None:
                yield rest
            return
        if not over:
            # Still running: the follow was cut, by a rotation or on the wire.
            if progress:
                pause.reset()
            await pause.wait()


async def tail(engine: Engine, run_id: str, *, kind: str = "containers", **more: str) -> bytes:
    """The log's last frame as it comes from the engine (b"" when there is none).

    :raises RunVanished: the run was removed.
    """
    params = {"stdout": "1", "stderr": "1", "timestamps": "1", "tail": "1"} | more
    try:
        async with engine.stream(
            "GET",
            f"{kind}/{run_id}/logs",
            params=params,
            silence_seconds=READ_SILENCE_SECONDS,
        ) as response:
            return await response.read()
    except Refused as refused:
        raise vanished_or(refused, run_id) from refused


async def init_failure(engine: Engine, run_id: str, *, kind: str = "containers") -> str | None:
    """Why a container's init could not execute the command; None when it did.

    With ``Init`` an engine starts its init and knows no more; the init writes
    ``[FATAL tini (7)] exec no-such-command failed: No such file or directory`` and exits with 126
    or 127, as a command may itself.
    """
    last = (await tail(engine, run_id, kind=kind, stdout="0"))[HEADER_BYTES + STAMP_BYTES :]
    who, _, message = last.decode("utf-8", "replace").strip().partition("] ")
    return message if who.startswith("[FATAL tini (") and message.startswith("exec ") else None


def vanished_or(refused: Refused, run_id: str) -> Exception:
    """What a refusal means to a caller who asked for a container that he knows was there."""
    # Not any "removal": a refusal to remove a running container speaks of one, too.
    going = refused.status == 409 and any(words in refused.reason for words in _BEING_REMOVED)
    if refused.status == 404 or going:
        return RunVanished(f"container {run_id[:12]} is not on host {refused.host} any more")
    return refused


class _End(Enum):
    """How a read ended that did not break off."""

    IN_ORDER = auto()
    """The engine ended it."""
    PROVEN = auto()
    """The log is known to be complete."""


async def _is_over(details: Mapping[str, Any], inspect: Inspect, ended: asyncio.Event) -> bool:
    """Whether the run with these *details* has ended for good: a restart passes through an end."""
    if phase_of(details["State"]["Status"]) is not Phase.ENDED:
        return False
    with suppress(TimeoutError):
        async with asyncio.timeout(RESTART_SECONDS):
            await ended.wait()
            return True
    now, before = (await inspect())["State"], details["State"]
    same = now.get("StartedAt") == before.get("StartedAt")
    return same and phase_of(now["Status"]) is Phase.ENDED


async def _read(
    engine: Engine,
    kind: str,
    run_id: str,
    reader: LogReader,
    ended: asyncio.Event | None,
    tty: bool,
) -> AsyncGenerator[LogBatch | _End, None]:
    """What one connection gives, and how it ended unless it broke off; it follows until *ended*."""
    params = {"stdout": "1", "stderr": "1", "timestamps": "0" if tty else "1"}
    params["follow"], silence = ("0", READ_SILENCE_SECONDS) if ended is None else ("1", None)
    checks, doubted = Pause(FIRST_CHECK_SECONDS, MAX_CHECK_SECONDS), False
    check_seconds = checks.take()
    try:
        async with engine.stream(
            "GET", f"{kind}/{run_id}/logs", params=params, silence_seconds=silence
        ) as response:
            while True:
                within = STUCK_SECONDS if doubted else check_seconds
                try:
                    chunk = await _next(response.content, ended, within, doubted)
                except (aiohttp.ClientError, OSError):
                    if ended is None:
                        raise
                    return
                if chunk is None:
                    assert ended is not None
                    over = ended.is_set()
                    try:
                        last = await tail(engine, run_id, kind=kind)
                    except RunVanished:
                        if doubted:
                            raise
                        # What is on its way is all that is left.
                        doubted = True
                        continue
                    if reader.reached(last):
                        if over:
                            yield _End.PROVEN
                            return
                        doubted, check_seconds = False, checks.take()
                    elif doubted:
                        return
                    else:
                        doubted = True
                elif not chunk:
                    yield _End.IN_ORDER
                    return
                else:
                    checks.reset()
                    check_seconds, doubted = checks.take(), False
                    if (batch := reader.feed(chunk)) is not None:
                        yield batch
                    if reader.suspect:
                        return
    except Refused as refused:
        raise vanished_or(refused, run_id) from refused
    except FrameError as error:
        raise HostUnavailable(engine.host, f"log of {run_id[:12]}: {error}") from error


async def _next(
    content: aiohttp.StreamReader, ended: asyncio.Event | None, seconds: float, doubted: bool
) -> bytes | None:
    """The next bytes, b"" at the end, or None after *seconds* without any.

    As soon as *ended* is set, nothing is waited for any more unless it is *doubted* that nothing
    comes. Where *ended* is None, the stream's own bound holds.
    """
    if ended is None:
        return await content.readany()
    if chunk := content.read_nowait():
        return chunk
    if ended.is_set():
        seconds = seconds if doubted else 0
    # Reading is a task only here, where there is time: what is waited for is not there yet.
    read = asyncio.create_task(content.readany())
    waiting: set[asyncio.Task[Any]] = {read}
    if not ended.is_set():
        waiting.add(asyncio.create_task(ended.wait()))
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        if not read.cancelled():
            # Read here, because a caller that cancels does not reach the line below.
            read.exception()
    return None if read.cancelled() else read.result()
