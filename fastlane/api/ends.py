"""Requests that wait for an execution to end: ``?wait=`` and ``Prefer: wait=`` (RFC 7240).

A waiting request is woken by the event that reports the end, and reads the storage then. It never
polls; a bounded second look makes good for an event that was lost.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tornado.iostream import StreamClosedError
from tornado.web import RequestHandler

from fastlane.api import parameters
from fastlane.api.parameters import Parameter
from fastlane.bus.local import Bus, Subscription
from fastlane.errors import NotFound, StorageUnavailable
from fastlane.events import Event, ExecutionChanged
from fastlane.lifecycle import Lifecycle
from fastlane.model import Execution
from fastlane.storage.base import Storage

# Bounds a wait, in seconds.
MAX_WAIT_SECONDS = 300
# Bounds how long a lost event delays an answer. Thousands may wait, so it is not short.
SECOND_LOOK_SECONDS = 30.0
# How often it is looked for while the storage is unreachable.
UNREACHABLE_SECONDS = 5.0

WAIT = parameters.number(
    "wait",
    "Answer when it has ended, or with 202 after so many seconds.",
    0,
    MAX_WAIT_SECONDS,
)
PREFER = Parameter(
    "Prefer",
    f"`wait=60` is as the query parameter; more than {MAX_WAIT_SECONDS} is cut, and"
    " `Preference-Applied` says to what.",
    {"type": "string"},
    "header",
    example="wait=60",
)
# RFC 7240, section 4.3, in a list of preferences. A malformed one is ignored, as section 2 says.
_PREFERENCE = re.compile(r'\s*wait\s*=\s*"?([0-9]{1,9})"?\s*(?:;.*)?', re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Wait:
    """How long a client wants to wait."""

    seconds: int
    is_preference: bool = False
    """Asked for by ``Prefer``, which is ignored where it cannot be met."""


def requested_wait(handler: RequestHandler) -> Wait | None:
    """The wait that a request asks for; None if it asks for none.

    :raises Problem: 400, ``?wait=`` is not a whole number within its bounds.
    """
    seconds = WAIT.number(handler)
    if seconds is not None:
        return Wait(seconds)
    for one in ",".join(handler.request.headers.get_list("Prefer")).split(","):
        found = _PREFERENCE.fullmatch(one)
        if found is not None:
            return Wait(min(int(found[1]), MAX_WAIT_SECONDS), is_preference=True)
    return None


class Ends:
    """The requests that wait, and what wakes them."""

    def __init__(self, lifecycle: Lifecycle, storage: Storage, bus: Bus) -> None:
        self._lifecycle = lifecycle
        self._storage = storage
        self._bus = bus
        self._waiting: dict[object, Subscription | None] = {}
        self._closing = False

    def __len__(self) -> int:
        return len(self._waiting)

    async def of(
        self, execution_id: str, seconds: float, client: object, *, retries: bool
    ) -> Execution:
        """Wait for the end of an execution.

        :param client: who waits, for :meth:`leave`.
        :param retries: also wait for the retries that follow.
        :return: the execution, or its last retry; not final when *seconds* have passed, or when
            the server stops.
        :raises NotFound: it does not exist (any more).
        :raises StreamClosedError: the client has left.
        """
        until = asyncio.get_running_loop().time() + seconds
        self._waiting[client] = None
        try:
            while True:
                execution = await self._end_of(execution_id, until, client)
                retry = await self._lifecycle.retry_after(execution) if retries else None
                if retry is None:
                    return execution
                execution_id = retry.id
                del execution, retry
        finally:
            self._waiting.pop(client, None)

    async def _end_of(self, execution_id: str, until: float, client: object) -> Execution:
        now = asyncio.get_running_loop().time
        with self._news(execution_id, client) as news:
            while True:
                look_seconds = SECOND_LOOK_SECONDS
                try:
                    execution = await self._storage.executions.get(execution_id)
                    if execution.deleted_at is not None:
                        raise NotFound(f'Execution "{execution_id}" was deleted.')
                    if execution.final or self._closing or until <= now():
                        return execution
                    # Not kept during a wait: its definition may be large.
                    del execution
                except StorageUnavailable:
                    # What was accepted continues, so the wait for it does, too.
                    if self._closing or until <= now():
                        raise
                    look_seconds = UNREACHABLE_SECONDS
                if client not in self._waiting:
                    raise StreamClosedError
                await news.wait(min(until - now(), look_seconds))

    @contextmanager
    def _news(self, execution_id: str, client: object) -> Iterator[Subscription]:
        with self._bus.subscribe(ExecutionChanged, key=execution_id, wanted=_is_final) as news:
            if client in self._waiting:
                self._waiting[client] = news
            yield news

    def leave(self, client: object) -> None:
        """The client has hung up. What it waits for is not affected."""
        news = self._waiting.pop(client, None)
        if news is not None:
            news.wake()

    def close(self) -> None:
        """The server stops: nobody waits any longer. Safe to repeat."""
        self._closing = True
        for news in self._waiting.values():
            if news is not None:
                news.wake()


def _is_final(event: Event) -> bool:
    return isinstance(event, ExecutionChanged) and event.final
