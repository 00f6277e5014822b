"""The open sockets of a server: how many there may be, and how they end when the server does."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Protocol

from fastlane.api.streaming.feed import Feed

# Bounds the open sockets of one server where its files do not; each has a task, and its buffers.
MAX_SOCKETS = 1000
# Bounds how long a shutdown waits for clients to take their close frames.
CLOSE_SECONDS = 2.0


class Socket(Protocol):
    """What the registry needs of a socket's handler."""

    @property
    def peer(self) -> str:
        """Whose it is: the client's address."""

    def shut_down(self) -> None:
        """Begin to close with the reason ``retry``; a closed socket leaves the registry."""

    def cut_off(self) -> None:
        """Close the connection without waiting for the client."""


class Sockets:
    """Registry of open sockets, and the :class:`Feed` that they share.

    One peer has at most half of them. Once all are open, the next viewer gets the place of the
    oldest socket of the peer that has the most, unless that has no more than the viewer's peer.
    """

    def __init__(self, feed: Feed, *, limit: int = MAX_SOCKETS) -> None:
        self.feed = feed
        self.limit = limit
        self.closing = False
        # The oldest first.
        self._open: dict[Socket, None] = {}
        self._leaving: set[Socket] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._open) + len(self._leaving)

    def admits(self, peer: str) -> bool:
        """Whether *peer* may open one more; another may have to leave for it."""
        counts = Counter(socket.peer for socket in self._open)
        if self.closing or counts[peer] >= max(1, self.limit // 2):
            return False
        if len(self._open) < self.limit:
            return True
        most, count = counts.most_common(1)[0]
        # Those who leave may take a while, so there are not many of them either.
        if count <= counts[peer] + 1 or len(self._leaving) >= max(1, self.limit // 10):
            return False
        oldest = next(socket for socket in self._open if socket.peer == most)
        del self._open[oldest]
        self._leaving.add(oldest)
        oldest.shut_down()
        return True

    def add(self, socket: Socket) -> None:
        self._open[socket] = None
        self._empty.clear()

    def discard(self, socket: Socket) -> None:
        """The socket's connection is gone and its task has ended."""
        self._open.pop(socket, None)
        self._leaving.discard(socket)
        if not len(self):
            self._empty.set()

    async def close_all(self) -> None:
        """Close every socket with reason ``retry`` and let no other in. Safe to repeat."""
        self.closing = True
        for socket in (*self._open, *self._leaving):
            socket.shut_down()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._empty.wait()
        except TimeoutError:
            for socket in (*self._open, *self._leaving):
                socket.cut_off()
            await self._empty.wait()
        await self.feed.close()
