"""Periodic work goes on whatever a step does, and is woken by news."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fastlane.background.loop import Loop
from fastlane.errors import StorageUnavailable
from fastlane.events import Bus


async def run_until(step: Callable[[], Awaitable[float]], bus: Bus, over: asyncio.Event) -> None:
    task = asyncio.create_task(Loop("test", ("news",), step).run(bus))
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
            bus.publish("news")
        else:
            over.set()
        return 3600

    await run_until(step, bus, over)
    assert steps == 2


async def test_relays_carry_what_is_published_but_not_what_is_delivered() -> None:
    bus, carried = Bus(), list[str]()
    bus.relay_to(carried.append)
    with bus.subscribe("a", "b") as signal:
        bus.deliver("a")
        assert await signal.wait(1)
        bus.publish("b")
        assert await signal.wait(0)
        assert not await signal.wait(0.01)
    assert carried == ["b"]
