"""What every storage promises of the order in which queued executions are claimed."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastlane.model import ACTIVE, Definition, Execution, Reason, Status
from fastlane.storage.base import Storage
from tests.contracts.test_storage import (
    FARM,
    NOW,
    Place,
    finish,
    new_id,
    place,
    storage,
    submit,
)

__all__ = ["place", "storage"]


async def claim(storage: Storage, **options: Any) -> Execution | None:
    return await storage.executions.claim(
        **{"farm": FARM, "host": "h", "owner": "one", "max_running": 99, "now": NOW, **options}
    )


async def claimed_tasks(storage: Storage, count: int, **options: Any) -> str:
    """The tasks (of one letter each) whose executions are claimed next; ``-`` for none."""
    found = [await claim(storage, **options) for _ in range(count)]
    return "".join("-" if one is None else one.task_id for one in found)


async def test_tasks_take_turns(storage: Storage) -> None:
    for task in "aaaacbbcc":
        await submit(storage, task)
    assert await claimed_tasks(storage, 10) == "abcabcaca-"


async def test_one_job_behind_many_of_another_starts_within_two_turns(
    storage: Storage,
) -> None:
    many = [await submit(storage, "many") for _ in range(30)]
    first = [await claim(storage, max_running=2) for _ in range(2)]
    assert [one.id for one in first if one] == [one.id for one in many[:2]]
    for task in ("a task before it by name", "zeta, after it"):
        single = await submit(storage, task)
        turns = 0
        while (await storage.executions.get(single.id)).status is Status.ENQUEUED:
            active = await storage.executions.active(owner="one")
            await finish(storage, active[0])
            assert await claim(storage, max_running=2) is not None
            turns += 1
        assert turns <= 2


async def test_with_fifo_nobody_takes_turns(storage: Storage) -> None:
    for task in "aaabca":
        await submit(storage, task)
    found = await storage.executions.next_queued(FARM, now=NOW, fifo=True)
    assert found is not None
    assert found.task_id == "a"
    assert await claimed_tasks(storage, 7, fifo=True) == "aaabca-"


async def test_the_next_in_turn_is_the_one_that_is_claimed(storage: Storage) -> None:
    for task in "aabbc":
        await submit(storage, task)
    for _ in range(5):
        hint = await storage.executions.next_queued(FARM, now=NOW)
        taken = await claim(storage)
        assert hint is not None
        assert taken is not None
        assert hint.id == taken.id
    assert await storage.executions.next_queued(FARM, now=NOW) is None


async def test_new_tasks_do_not_get_in_before_those_that_wait(storage: Storage) -> None:
    """Each sorts behind the one before it, so they would always be the next."""
    await submit(storage, "build-0")
    last = await submit(storage, "deploy")
    for number in range(1, 9):
        taken = await claim(storage)
        if taken is not None and taken.id == last.id:
            break
        await submit(storage, f"build-{number}")
        await submit(storage, f"build-{number}.b")
    else:
        pytest.fail("the task that waited was passed over")
    assert number <= 3


async def test_a_farm_has_turns_of_its_own(storage: Storage) -> None:
    for task in "aab":
        await submit(storage, task)
        await submit(storage, task, farm="other")
    assert await claimed_tasks(storage, 1) == "a"
    assert await claimed_tasks(storage, 3, farm="other") == "aba"
    assert await claimed_tasks(storage, 2) == "ba"


async def test_a_task_has_no_more_than_its_share(storage: Storage) -> None:
    for task in "aaaab":
        await submit(storage, task)
    assert await claimed_tasks(storage, 4, max_per_task=2) == "aba-"
    assert await storage.executions.next_queued(FARM, now=NOW, max_per_task=2) is None
    active = await storage.executions.active(owner="one")
    await finish(storage, next(one for one in active if one.task_id == "b"))
    assert await claim(storage, max_per_task=2) is None
    await finish(storage, next(one for one in active if one.task_id == "a"))
    assert await claimed_tasks(storage, 2, max_per_task=2) == "a-"
    assert await claimed_tasks(storage, 2) == "a-"


async def test_several_instances_keep_to_turns_and_shares(
    place: Place, storage: Storage, request: pytest.FixtureRequest
) -> None:
    instances = [storage]
    if "cluster" in request.node.callspec.id:
        for _ in range(2):
            instances.append(place.storage())
            await instances[-1].open()
    for _ in range(8):
        for task in "abc":
            await submit(storage, task)
    taken = await asyncio.gather(
        *[claim(one, max_per_task=3, max_running=8) for one in instances for _ in range(6)]
    )
    counts = Counter(one.task_id for one in taken if one is not None)
    # One instance makes six attempts, three make more than there are slots.
    assert sum(counts.values()) == (6 if len(instances) == 1 else 8)
    assert max(counts.values()) <= 3
    assert min(counts[task] for task in "abc") >= 2
    for one in instances[1:]:
        await one.close()


async def test_one_that_is_released_is_the_first_of_its_task_again(storage: Storage) -> None:
    first = await submit(storage, "a")
    await submit(storage, "a")
    await submit(storage, "b")
    taken = await claim(storage)
    assert taken is not None
    await storage.executions.release(taken.id, taken.epoch, now=NOW)
    assert await claimed_tasks(storage, 1) == "b"
    again = await claim(storage)
    assert again is not None
    assert again.id == first.id


async def test_the_expired_and_the_stopped_cost_their_task_no_turn(storage: Storage) -> None:
    definition = Definition.parse("busy", ("true",), expires_at=NOW)
    for _ in range(5):
        await submit(storage, "a", definition=definition)
    stopped = [await submit(storage, "a") for _ in range(5)]
    for task in "abb":
        await submit(storage, task)
    for one in stopped:
        await storage.executions.stop(one.id, reason=Reason.STOPPED, now=NOW)
    assert await claimed_tasks(storage, 4) == "abb-"


async def test_turns_outlive_a_restart(place: Place) -> None:
    first = place.storage()
    await first.open()
    for task in "aabb":
        await submit(first, task)
    assert await claimed_tasks(first, 1) == "a"
    await first.close()
    second = place.storage()
    await second.open()
    assert await claimed_tasks(second, 4) == "bab-"
    await second.close()


async def test_those_ahead_are_counted(storage: Storage) -> None:
    made = [await submit(storage, task) for task in "aabaa"]
    ahead = storage.executions.ahead_of
    assert [await ahead(one, fifo=False, limit=9) for one in made] == [0, 1, 0, 2, 3]
    assert [await ahead(one, fifo=True, limit=9) for one in made] == [0, 1, 2, 3, 4]
    assert await ahead(made[4], fifo=False, limit=2) == 2
    assert await claim(storage) is not None
    assert await ahead(made[4], fifo=False, limit=9) == 2


# -- any order of events ----------------------------------------------------------------------


class Fair:
    """Any events in any order on one farm; each claim is compared with what is fair.

    While a task waits with room in its share, no other gets more than two turns before it.
    """

    MAX_RUNNING = 4
    SHARE = 2

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.farm = new_id()
        self.prefix = new_id()
        self.now = NOW
        self.made: dict[str, Execution] = {}
        self.passed_over: defaultdict[str, Counter[str]] = defaultdict(Counter)

    async def meet(self, event: str, task: int, pick: int) -> None:
        self.now += 1
        executions = self.storage.executions
        active = [one for one in self.made.values() if one.status in ACTIVE]
        if event in {"submit", "submit expiring"}:
            expires_at = self.now + pick % 7 if event != "submit" else None
            definition = Definition.parse("busy", "true", expires_at=expires_at)
            name = f"{self.prefix} {task}"
            made = await submit(self.storage, name, definition=definition, farm=self.farm)
            self.made[made.id] = made
        elif event == "claim":
            await self._claim()
        elif event == "stop" and self.made:
            chosen = list(self.made)[pick % len(self.made)]
            await executions.stop(chosen, reason=Reason.STOPPED, now=self.now)
        elif event == "expire":
            await executions.expire(self.now, 2)
        elif active:
            chosen_one = active[pick % len(active)]
            if event == "release":
                await executions.release(chosen_one.id, chosen_one.epoch, now=NOW)
            else:
                expected = chosen_one.stop_reason
                await finish(self.storage, chosen_one, expected_stop=expected)
        for execution_id in self.made:
            self.made[execution_id] = await executions.get(execution_id)

    async def _claim(self) -> None:
        queues: defaultdict[str, list[Execution]] = defaultdict(list)
        running: Counter[str] = Counter()
        for one in self.made.values():
            running[one.task_id] += one.status in ACTIVE
            expires_at = one.definition.expires_at
            if one.status is Status.ENQUEUED and (expires_at is None or expires_at > self.now):
                queues[one.task_id].append(one)
        free = {task for task in queues if running[task] < self.SHARE}
        for task in list(self.passed_over):
            if task not in free:
                del self.passed_over[task]
        got = await self.storage.executions.claim(
            self.farm,
            host="h",
            owner="one",
            max_running=self.MAX_RUNNING,
            now=self.now,
            max_per_task=self.SHARE,
        )
        if not free or running.total() >= self.MAX_RUNNING:
            assert got is None
            return
        assert got is not None
        assert got.task_id in free
        assert got.id == min(queues[got.task_id], key=lambda one: one.position or 0).id
        self.passed_over.pop(got.task_id, None)
        for task in free - {got.task_id}:
            self.passed_over[task][got.task_id] += 1
            assert max(self.passed_over[task].values()) <= 2, task

    async def calm_down(self) -> None:
        for execution_id in self.made:
            await self.storage.executions.stop(execution_id, reason=Reason.STOPPED, now=self.now)


EVENTS = ("submit", "submit", "submit expiring", "claim", "claim", "claim", "finish", "release")


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    events=st.lists(
        st.tuples(
            st.sampled_from([*EVENTS, "stop", "expire"]), st.integers(0, 4), st.integers(0, 99)
        ),
        max_size=60,
    )
)
async def test_any_events_in_any_order_are_fair(
    storage: Storage, events: list[tuple[str, int, int]]
) -> None:
    fair = Fair(storage)
    try:
        for event, task, pick in events:
            await fair.meet(event, task, pick)
    finally:
        await fair.calm_down()
