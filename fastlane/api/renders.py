"""Fragments of pages, rendered once for all who look at the same one."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable

# How long a fragment is served again before it is rendered anew, in seconds.
FRESH_SECONDS = 1.0
# Bounds the fragments that are kept.
MAX_FRAGMENTS = 500

Make = Callable[[], Awaitable[bytes]]


class Renders:
    """The newest rendering of each fragment, for a second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: OrderedDict[Hashable, tuple[float, asyncio.Task[bytes]]] = OrderedDict()

    async def get(self, key: Hashable, make: Make) -> bytes:
        """What *make* returns for *key*; it runs once for all who ask while it is fresh."""
        at, task = self._found.get(key, (-FRESH_SECONDS, None))
        now = self._clock()
        if task is None or (task.done() and now - at >= FRESH_SECONDS):
            task = asyncio.ensure_future(_run(make))
            self._found[key] = (now, task)
            self._found.move_to_end(key)
            task.add_done_callback(lambda done: self._forget_failure(key, done))
            while len(self._found) > MAX_FRAGMENTS:
                self._found.popitem(last=False)
        # Others may wait for it, so it is not cancelled with the one that hangs up.
        return await asyncio.shield(task)

    def _forget_failure(self, key: Hashable, task: asyncio.Task[bytes]) -> None:
        failed = task.cancelled() or task.exception() is not None
        if failed and key in self._found and self._found[key][1] is task:
            del self._found[key]


async def _run(make: Make) -> bytes:
    return await make()
