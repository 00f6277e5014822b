"""Accepts connections, and pauses while no file is left for them."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterable
from functools import partial

from tornado.httpserver import HTTPServer

from fastlane.api.connections import Connections

# Bounds the connections accepted in one go, so that others get their turn on the loop.
ACCEPT_BATCH = 64
# Bounds the pause in accepting while the process or the machine has no descriptors left.
NO_FILES_SECONDS = 1.0

_NO_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener:
    """Accepts connections for an HTTP server and has :class:`Connections` count them."""

    def __init__(self, http: HTTPServer, connections: Connections) -> None:
        self._http = http
        self._connections = connections
        self._sockets: list[socket.socket] = []
        self._paused: asyncio.TimerHandle | None = None

    def listen(self, sockets: Iterable[socket.socket]) -> None:
        """Accept on *sockets*, which are bound and listening."""
        self._sockets = list(sockets)
        for sock in self._sockets:
            sock.setblocking(False)
        self._resume()

    def stop(self) -> None:
        """Accept no more connections; requests under way continue. Safe to repeat."""
        if self._paused is not None:
            self._paused.cancel()
        self._pause()
        for sock in self._sockets:
            sock.close()
        self._sockets = []
        self._connections.close()

    def _resume(self) -> None:
        self._paused = None
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.add_reader(sock, self._accept, sock)

    def _pause(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.remove_reader(sock)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPT_BATCH):
            try:
                sock, address = listening.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:
                if error.errno not in _NO_FILES:
                    raise
                # The connection stays in the kernel's queue: asking again at once would spin.
                self._connections.say(
                    "files", "No descriptor is left for a new connection.", error=error.strerror
                )
                self._pause()
                loop = asyncio.get_running_loop()
                self._paused = loop.call_later(NO_FILES_SECONDS, self._resume)
                return
            sock.setblocking(False)
            begin = partial(self._http.handle_stream, address=address)
            self._connections.admit(sock, str(address[0]), begin)
