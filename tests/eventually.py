"""Waiting for what must come, with a bound: the only polling in the tests.

Prefer an event where there is one. :func:`eventually` is for tests on the event loop,
:func:`wait_for` for those with servers in processes of their own.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

import pytest

# Bounds each wait unless its caller gives another bound, in seconds.
PATIENCE_SECONDS = 30.0

T = TypeVar("T")


@overload
async def eventually(
    probe: Callable[[], Awaitable[T | None]],
    what: str = ...,
    seconds: float = ...,
    every: float = ...,
) -> T: ...
@overload
async def eventually(
    probe: Callable[[], T | None], what: str = ..., seconds: float = ..., every: float = ...
) -> T: ...
async def eventually(
    probe: Callable[[], object],
    what: str = "what must come",
    seconds: float = PATIENCE_SECONDS,
    every: float = 0.01,
) -> object:
    """Call *probe*, which may be a coroutine function, until it returns something true.

    :param what: what is waited for, for the failure.
    :param seconds: bounds the wait, calls included.
    :param every: seconds between two calls.
    :return: what it returned.
    """
    try:
        async with asyncio.timeout(seconds):
            while True:
                found = probe()
                if inspect.isawaitable(found):
                    found = await found
                if found:
                    return found
                await asyncio.sleep(every)
    except TimeoutError:
        pytest.fail(f"waited {seconds:g} s in vain for {what}")


def wait_for(
    probe: Callable[[], T | None],
    what: str = "what must come",
    seconds: float = 2 * PATIENCE_SECONDS,
    every: float = 0.05,
) -> T:
    """:func:`eventually`, without an event loop."""
    deadline = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:g} s in vain for {what}")
        time.sleep(every)
