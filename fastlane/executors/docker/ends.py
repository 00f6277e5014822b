"""How a container ended, where its state does not say it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from fastlane.errors import ExecutorError
from fastlane.executors.base import Phase, RunState
from fastlane.executors.docker.container import unix_time
from fastlane.executors.docker.engine import Engine, Refused

# What an engine says of a container that it finds ended when it starts, without knowing how.
UNSEEN_END = 255
# The exit code of what was killed, as someone does who removes a running container by force.
_KILLED = 137
# How many events an engine keeps (moby, daemon/events/events.go).
_EVENTS_KEPT = 256
_END_EVENTS = ("die", "died")
_SIGNAL_EVENT = "kill"
# Bounds how long an engine may take from the end to the event.
_EVENT_SECONDS = 0.2
# Bounds the silence of an engine that is asked for events.
_SILENCE_SECONDS = 2.0


def end_by_answer(run_id: str, answer: Any) -> RunState | None:
    """The end of a started container that was removed right after it, by the answer of its wait.

    :return: None where the answer does not tell, or reports a kill: that was the removal.
    """
    code = answer.get("StatusCode") if isinstance(answer, Mapping) else None
    if not isinstance(code, int) or code < 0 or code == _KILLED:
        return None
    error = answer.get("Error")
    message = error.get("Message") if isinstance(error, Mapping) else None
    return RunState(run_id, Phase.ENDED, code, error=message or None)


async def was_signalled(engine: Engine, end: RunState) -> bool:
    """Whether the engine sent the container a signal, as a stop or a restart by someone does.

    An engine notes a signal before it takes note of the end that follows, whatever their times, so
    the events are read up to that end. True where the engine does not tell.
    """
    if end.finished_at is None:
        return True
    filters = json.dumps({"container": [end.run_id], "event": [_SIGNAL_EVENT, *_END_EVENTS]})
    params = {
        "since": f"{(end.started_at or 0.0):.6f}",
        # Bounds the answer where there is no such end among the events.
        "until": f"{end.finished_at + _EVENT_SECONDS:.6f}",
        "filters": filters,
    }
    try:
        async with engine.stream(
            "GET", "events", params=params, silence_seconds=_SILENCE_SECONDS
        ) as response:
            async for line in response.content:
                with engine.understood("an event"):
                    action = json.loads(line).get("Action")
                if action == _SIGNAL_EVENT or action in _END_EVENTS:
                    return bool(action == _SIGNAL_EVENT)
    except ExecutorError:
        pass
    return True


async def saw_end(engine: Engine, state: RunState) -> bool:
    """Whether the engine saw the container end; after a loss of power it has only found it ended.

    The engine keeps its last events in memory, from its own start on. True where they do not go
    back far enough to tell.
    """
    for wait_seconds in (_EVENT_SECONDS, 0.0):
        params = {"since": "1", "until": f"{await engine_time(engine):.6f}"}
        try:
            lines = await engine.call("GET", "events", params=params, raw=True)
        except Refused:
            return True
        with engine.understood("its events"):
            events = [json.loads(line) for line in lines.splitlines() if line.strip()]
            if any(
                event.get("Action") in _END_EVENTS and event["Actor"]["ID"] == state.run_id
                for event in events
            ):
                return True
            if len(events) >= _EVENTS_KEPT and (state.finished_at or 0) < events[0]["time"]:
                return True
        await asyncio.sleep(wait_seconds)
    return False


async def engine_time(engine: Engine) -> float:
    """Now, by the engine's wall clock."""
    info = await engine.call("GET", "info")
    with engine.understood("its information"):
        return unix_time(info["SystemTime"]) or 0.0
