"""The open sockets of a server: how many there may be, and how they end when the server does."""

from __future__ import annotations

import asyncio
from typing import Protocol

from fastlane.api.streaming.feed import Feed

# Bounds the open sockets of one server; each may hold a page of log and a task.
MAX_SOCKETS = 1000
# Bounds how long a shutdown waits for clients to take their close frames.
CLOSE_SECONDS = 2.0


class Socket(Protocol):
    """What the registry needs of a socket's handler."""

    def shut_down(self) -> None:
        """Begin to close with the reason ``retry``; a closed socket leaves the registry."""

    def cut_off(self) -> None:
        """Close the connection without waiting for the client."""


class Sockets:
    """Registry of open sockets, and the :class:`Feed` that they share."""

    def __init__(self, feed: Feed, *, limit: int = MAX_SOCKETS) -> None:
        self.feed = feed
        self.limit = limit
        self.closing = False
        self._open: set[Socket] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def full(self) -> bool:
        """Nobody else gets in: there are too many, or the server is about to end."""
        return self.closing or len(self._open) >= self.limit

    def add(self, socket: Socket) -> None:
        self._open.add(socket)
        self._empty.clear()

    def discard(self, socket: Socket) -> None:
        """The socket's connection is gone and its task has ended."""
        self._open.discard(socket)
        if not self._open:
            self._empty.set()

    async def close_all(self) -> None:
        """Close every socket with reason ``retry`` and let no other in. Safe to repeat."""
        self.closing = True
        for socket in tuple(self._open):
            socket.shut_down()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._empty.wait()
        except TimeoutError:
            for socket in tuple(self._open):
                socket.cut_off()
            await self._empty.wait()
        await self.feed.close()
