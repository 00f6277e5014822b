"""The requests that are under way, so that a shutdown does not cut off their answers."""

from __future__ import annotations

import asyncio


class Requests:
    """Who is being answered."""

    def __init__(self) -> None:
        self._under_way: set[object] = set()
        self._none = asyncio.Event()
        self._none.set()

    def begin(self, request: object) -> None:
        """*request* is to be answered."""
        self._under_way.add(request)
        self._none.clear()

    def end(self, request: object) -> None:
        """The kernel has all of its answer, or nobody wants one any more. Safe to repeat."""
        self._under_way.discard(request)
        if not self._under_way:
            self._none.set()

    async def answered(self) -> None:
        """Return when none is under way."""
        await self._none.wait()
