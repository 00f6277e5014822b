"""Follows a container's log to its true end.

``follow`` is a hint and not a proof of the end: engines have ended it at a rotation, and have kept
it open after the exit. So the end is proven by the container's state and by the log's last frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import aiohttp

from fastlane.errors import HostUnavailable, RunVanished
from fastlane.executors.base import LogBatch, Phase
from fastlane.executors.docker.container import GOING, phase_of
from fastlane.executors.docker.engine import Engine, Refused
from fastlane.executors.docker.frames import FrameError
from fastlane.executors.docker.reader import LogReader

# As daemon/delete.go, start.go and logs.go of moby say it.
_BEING_REMOVED = ("is already in progress", "marked for removal")

Inspect = Callable[[], Awaitable[Mapping[str, Any]]]

# Bounds the silence of a follow after the run's end, before the rest is read without following.
ENDED_SILENCE_SECONDS = 2.0
# Bounds the silence of a read that does not follow: the engine has all it needs.
READ_SILENCE_SECONDS = 60.0
# Bound the pause before a running container's log is followed again.
FIRST_PAUSE_SECONDS = 0.05
MAX_PAUSE_SECONDS = 2.0


async def follow_logs(
    engine: Engine, run_id: str, *, bookmark: str, ended: asyncio.Event, inspect: Inspect
) -> AsyncGenerator[LogBatch, None]:
    """See ``Executor.logs``. *inspect* gives the engine's details of the run.

    :raises RunVanished: the run was removed.
    :raises HostUnavailable: the host went away, or its log cannot be decoded.
    """
    details = await inspect()
    reader = LogReader(
        bookmark, tty=bool(details["Config"]["Tty"]), loses_newlines=engine.loses_newlines
    )
    over = ended.is_set() or _phase(details) is Phase.ENDED
    pause = FIRST_PAUSE_SECONDS
    while True:
        reader.restart()
        progress = complete = False
        batches = _read(engine, run_id, reader, None if over else ended, details)
        # Whoever stops listening must not leave the connection to the garbage collector.
        async with aclosing(batches):
            async for batch in batches:
                if batch is None:
                    complete = True
                else:
                    progress = True
                    yield batch
        if not complete:
            if over:
                # Read to its end, without following, after the run's: that is all there is.
                complete = True
            else:
                over = ended.is_set() or _phase(await inspect()) is Phase.ENDED
                complete = over and reader.reached(await tail(engine, run_id))
        if complete:
            if (rest := reader.finish()) is not None:
                yield rest
            return
        if not over:
            # Still running: the follow was cut, by a rotation or on the wire.
            pause = FIRST_PAUSE_SECONDS if progress else min(pause * 2, MAX_PAUSE_SECONDS)
            await asyncio.sleep(pause)


async def tail(engine: Engine, run_id: str, **more: str) -> bytes:
    """The log's last frame as it comes from the engine (b"" when there is none).

    :raises RunVanished: the run was removed.
    """
    params = {"stdout": "1", "stderr": "1", "timestamps": "1", "tail": "1"} | more
    try:
        async with engine.stream(
            "GET",
            f"containers/{run_id}/logs",
            params=params,
            silence_seconds=READ_SILENCE_SECONDS,
        ) as response:
            return await response.read()
    except Refused as refused:
        raise vanished_or(refused, run_id) from refused


def vanished_or(refused: Refused, run_id: str) -> Exception:
    """What a refusal means to a caller who asked for a container that he knows was there."""
    # Not any "removal": a refusal to remove a running container speaks of one, too.
    going = refused.status == 409 and any(words in refused.reason for words in _BEING_REMOVED)
    if refused.status == 404 or going:
        return RunVanished(f"container {run_id[:12]} is not on host {refused.host} any more")
    return refused


def _phase(details: Mapping[str, Any]) -> Phase:
    return phase_of(details["State"]["Status"])


async def _read(
    engine: Engine,
    run_id: str,
    reader: LogReader,
    ended: asyncio.Event | None,
    details: Mapping[str, Any],
) -> AsyncGenerator[LogBatch | None, None]:
    """What one connection gives; a last None says that the log is known to be complete.

    :param ended: None for a read that does not follow.
    """
    params = {
        "stdout": "1",
        "stderr": "1",
        "timestamps": "0" if details["Config"]["Tty"] else "1",
        "follow": "0" if ended is None else "1",
    }
    silence = READ_SILENCE_SECONDS if ended is None else None
    quiet = 0.0
    try:
        async with engine.stream(
            "GET", f"containers/{run_id}/logs", params=params, silence_seconds=silence
        ) as response:
            while True:
                try:
                    chunk = await _next(response.content, ended, quiet)
                except (aiohttp.ClientError, OSError):
                    if ended is None:
                        raise
                    return
                if chunk is None:
                    if quiet or reader.reached(await tail(engine, run_id)):
                        if not quiet:
                            yield None
                        return
                    quiet = ENDED_SILENCE_SECONDS
                elif not chunk:
                    return
                elif (batch := reader.feed(chunk)) is not None:
                    yield batch
    except Refused as refused:
        raise vanished_or(refused, run_id) from refused
    except FrameError as error:
        raise HostUnavailable(engine.host, f"log of {run_id[:12]}: {error}") from error


async def _next(
    content: aiohttp.StreamReader, ended: asyncio.Event | None, quiet_seconds: float
) -> bytes | None:
    """The next bytes, b"" at the end, or None when nothing came for a while after *ended*."""
    if ended is None:
        return await content.readany()
    if chunk := content.read_nowait():
        return chunk
    if not ended.is_set():
        # Reading is a task only here, where there is time: what is waited for is not there yet.
        read = asyncio.ensure_future(content.readany())
        end = asyncio.ensure_future(ended.wait())
        try:
            await asyncio.wait({read, end}, return_when=asyncio.FIRST_COMPLETED)
            if read.done():
                return read.result()
        finally:
            for task in (read, end):
                task.cancel()
            await asyncio.wait({read, end})
            if not read.cancelled():
                read.exception()
    try:
        async with asyncio.timeout(quiet_seconds):
            return await content.readany()
    except TimeoutError:
        return None


def details_or_vanished(details: Mapping[str, Any], host: str) -> Mapping[str, Any]:
    """*details*, unless the engine is removing that container.

    :raises RunVanished: it is.
    """
    if details["State"]["Status"] in GOING:
        raise RunVanished(f"container {details['Id'][:12]} is being removed from host {host}")
    return details
