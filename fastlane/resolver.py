"""Resolves names off the event loop; no look-up waits for another."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence

from fastlane.addresses import Address

# Bounds the look-ups in progress, also those whose caller has given up: the system's resolver
# cannot be interrupted, and gives up by itself after some seconds.
LOOKUPS = 256

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]
"""From host and port to addresses. Raises ``OSError`` if there are none."""


class Resolver:
    """The system's own resolver (``/etc/hosts``, DNS), with a thread for each look-up.

    Names that never resolve could block a pool of threads, and the process would wait for it at its
    end. These threads are daemons.
    """

    def __init__(self) -> None:
        self._under_way = 0

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        """:raises OSError: the name is not known, or too many look-ups hang already."""
        try:
            # Also what only the system takes for an address: 127.1, 0x7f000001, 2130706433.
            return _look_up(host, port, socket.AI_NUMERICHOST)
        except OSError:
            pass
        if self._under_way >= LOOKUPS:
            raise OSError("too many look-ups of names are under way")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Sequence[Address]] = loop.create_future()

        def settle(found: Sequence[Address] | OSError) -> None:
            self._under_way -= 1
            if answer.done():
                return
            if isinstance(found, OSError):
                answer.set_exception(found)
            else:
                answer.set_result(found)

        def look_up() -> None:
            found: Sequence[Address] | OSError
            try:
                found = _look_up(host, port, 0)
            except OSError as error:
                found = error
            try:
                loop.call_soon_threadsafe(settle, found)
            except RuntimeError:
                # The loop has been closed: nobody waits for the answer any more.
                return

        self._under_way += 1
        threading.Thread(target=look_up, name="look-up", daemon=True).start()
        return await answer


def _look_up(host: str, port: int, flags: int) -> Sequence[Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError as error:
        raise OSError("that is not a host name") from error
    # In the system's order of preference; a scope ("%eth0") is part of the text.
    return list(dict.fromkeys(ipaddress.ip_address(entry[4][0]) for entry in found))
