"""Fragments of pages, rendered once for all who look at the same one."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass

# The least time between two renderings of one fragment, in seconds. What happens just after one
# is to be seen within a second.
PACE_SECONDS = 0.8
# Bounds the fragments that are kept.
MAX_FRAGMENTS = 500

Make = Callable[[], Awaitable[bytes]]


@dataclass(slots=True)
class _Rendering:
    began: float
    task: asyncio.Task[bytes]
    following: asyncio.Task[bytes] | None = None
    """The one after it, for those who ask before its time."""


class Renders:
    """The newest rendering of each fragment."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: OrderedDict[Hashable, _Rendering] = OrderedDict()

    async def get(self, key: Hashable, make: Make, *, after_now: bool = False) -> bytes:
        """What *make* returns for *key*: it runs once for all who ask within a short time.

        :param after_now: only a rendering that begins after this call will do, as something has
            changed; it may have to be waited for.
        """
        last = self._found.get(key)
        if last is None or self._is_over(last):
            task = self._begin(key, make).task
        elif not after_now:
            task = last.task
        else:
            if last.following is None:
                last.following = asyncio.create_task(self._follow(key, last, make))
            task = last.following
        # Others may wait for it, so it is not cancelled with the one that hangs up.
        return await asyncio.shield(task)

    def _is_over(self, one: _Rendering) -> bool:
        return one.task.done() and self._clock() - one.began >= PACE_SECONDS

    def _begin(self, key: Hashable, make: Make) -> _Rendering:
        one = _Rendering(self._clock(), asyncio.create_task(_run(make)))
        self._found[key] = one
        self._found.move_to_end(key)
        one.task.add_done_callback(lambda task: self._forget_failure(key, one, task))
        while len(self._found) > MAX_FRAGMENTS:
            self._found.popitem(last=False)
        return one

    async def _follow(self, key: Hashable, last: _Rendering, make: Make) -> bytes:
        await asyncio.wait({last.task})
        await asyncio.sleep(max(0.0, last.began + PACE_SECONDS - self._clock()))
        return await self._begin(key, make).task

    def _forget_failure(self, key: Hashable, one: _Rendering, task: asyncio.Task[bytes]) -> None:
        if (task.cancelled() or task.exception() is not None) and self._found.get(key) is one:
            del self._found[key]


async def _run(make: Make) -> bytes:
    return await make()
