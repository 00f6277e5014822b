"""Holds an operation of the cluster storage before one of its writes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from pymongo.asynchronous.collection import AsyncCollection

T = TypeVar("T")


@dataclass
class Gate:
    """Holds an operation before its *stop_at*-th write, and before those that follow."""

    stop_at: int
    writes: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def write(self) -> None:
        self.writes += 1
        if self.writes >= self.stop_at:
            self.reached.set()
            await self.opened.wait()


_gate: ContextVar[Gate | None] = ContextVar("gate", default=None)


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write passes the gate of its operation."""

    def through(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def write(self: Any, *args: Any, **options: Any) -> Any:
            gate = _gate.get()
            # Numbers are handed out by a task that all share.
            if gate is not None and self.name != "counters":
                await gate.write()
            return await method(self, *args, **options)

        return write

    for name in ("insert_one", "insert_many", "update_one", "update_many", "delete_one"):
        monkeypatch.setattr(AsyncCollection, name, through(getattr(AsyncCollection, name)))


async def held(gate: Gate, call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Begin *call* behind *gate*, and return once it is held or has ended."""
    token = _gate.set(gate)
    task = asyncio.create_task(call)
    _gate.reset(token)
    reached = asyncio.create_task(gate.reached.wait())
    await asyncio.wait({task, reached}, return_when=asyncio.FIRST_COMPLETED)
    reached.cancel()
    return task
