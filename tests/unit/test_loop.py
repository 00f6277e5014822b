"""Periodic work goes on whatever a step does, and is woken by news."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fastlane.background.loop import Loop
from fastlane.bus.local import Bus
from fastlane.errors import StorageUnavailable
from fastlane.events import QueueChanged


async def run_until(step: Callable[[], Awaitable[float]], bus: Bus, over: asyncio.Event) -> None:
    task = asyncio.create_task(Loop("test", step, (QueueChanged,)).run(bus))
    try:
        await asyncio.wait_for(over.wait(), 10)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_step_that_fails_is_tried_again() -> None:
    over = asyncio.Event()
    faults = [StorageUnavailable("away"), ZeroDivisionError("a bug"), None]

    async def step() -> float:
        fault = faults.pop(0)
        if fault is not None:
            raise fault
        over.set()
        return 60

    await run_until(step, Bus(), over)
    assert not faults


async def test_news_wakes_a_sleeping_loop_and_none_is_lost_during_a_step() -> None:
    bus, over, steps = Bus(), asyncio.Event(), 0

    async def step() -> float:
        nonlocal steps
        steps += 1
        if steps == 1:
            # While the step is under way: it must be taken as a reason for another one.
            bus.publish(QueueChanged())
        else:
            over.set()
        return 3600

    await run_until(step, bus, over)
    assert steps == 2
