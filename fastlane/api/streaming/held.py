"""Answers that are held back until something happens, as entries in the registry of sockets.

Their number is bounded, and a shutdown ends them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

from fastlane.api.base import RETRY_AFTER_SECONDS, BaseHandler
from fastlane.api.problems import Problem

T = TypeVar("T")


class Held(Generic[T]):
    """The answer of one request, while it is made."""

    def __init__(self, handler: BaseHandler) -> None:
        self._handler = handler
        self._task: asyncio.Task[T] | None = None

    async def run(self, answering: Coroutine[Any, Any, T]) -> T | None:
        """What *answering* returns; None when it was ended by a shutdown or by the client.

        :raises Problem: too many are held already.
        """
        sockets = self._handler.services.sockets
        if not sockets.admits(self.peer):
            answering.close()
            raise Problem(
                503,
                "The server, or your address, has too many open streams; try again later.",
                headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
            )
        # Tornado does not expect that its own task is cancelled.
        self._task = asyncio.create_task(answering, name=f"held {self._handler.request.path}")
        sockets.add(self)
        # The registry ends it at a shutdown, which need not wait for it.
        self._handler.services.requests.end(self._handler)
        try:
            await asyncio.wait([self._task])
            return None if self._task.cancelled() else self._task.result()
        finally:
            self._task.cancel()
            sockets.discard(self)

    @property
    def peer(self) -> str:
        """See :class:`fastlane.api.streaming.sockets.Socket`."""
        return self._handler.caller.address

    def shut_down(self) -> None:
        """See :class:`fastlane.api.streaming.sockets.Socket`."""
        if self._task is not None:
            self._task.cancel()

    def cut_off(self) -> None:
        """See :class:`fastlane.api.streaming.sockets.Socket`."""
        self.shut_down()
        self._handler.hang_up()
