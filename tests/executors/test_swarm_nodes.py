"""A swarm of two nodes: runs on the node that is not asked, and what becomes of them there.

The manager takes no tasks unless a test says so: every run is on the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from fastlane.errors import HostUnavailable, RunOutOfReach, RunVanished
from fastlane.executors.base import LogBatch, Phase, RunState
from fastlane.executors.docker.swarm import SERVICE_LABEL, SwarmExecutor
from fastlane.model import Stream
from scripts.engine import Engine
from tests.engines import SwarmEngine, TwoNodeSwarm
from tests.eventually import eventually
from tests.executors.conftest import Docker, output

# In one process, so that there is one such swarm.
pytestmark = pytest.mark.timeout(120)

# Says each number once, and goes on until it is told to end.
COUNT = "trap 'echo last; exit 5' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"


class Swarm(Docker):
    """One installation's executor on the manager of a swarm."""

    def __init__(self, nodes: TwoNodeSwarm, image: str) -> None:
        super().__init__(nodes.manager.url, image)
        self.nodes = nodes
        self.executor = SwarmExecutor()

    def containers(self, node: SwarmEngine, run_id: str) -> list[dict[str, Any]]:
        """Those of a run that a node's engine has, running or not."""
        filters = quote(json.dumps({"label": [f"{SERVICE_LABEL}={run_id}"]}))
        found: list[dict[str, Any]] = Engine(node.url).get(
            f"/containers/json?all=1&filters={filters}"
        )
        return found

    def tasks(self, run_id: str) -> list[dict[str, Any]]:
        """What the swarm has made of a run."""
        filters = quote(json.dumps({"service": [run_id]}))
        found: list[dict[str, Any]] = self.engine.get(f"/tasks?filters={filters}")
        return found

    async def clear(self) -> None:
        """End what a test has left, all at once."""
        runs = await self.executor.runs(self.host)
        await asyncio.gather(*(self.executor.remove(self.host, run.run_id) for run in runs))
        await self.executor.close()

    async def follow(self, run_id: str) -> tuple[list[LogBatch], RunState]:
        """Log and end as an execution's owner gets them: asking again while something is away."""
        ended = asyncio.Event()
        batches: list[LogBatch] = []

        async def wait() -> RunState:
            while True:
                try:
                    return await self.executor.wait(self.host, run_id)
                except HostUnavailable:
                    await asyncio.sleep(0.1)

        async def read() -> None:
            while True:
                bookmark = batches[-1].bookmark if batches else ""
                logs = self.executor.logs(self.host, run_id, bookmark=bookmark, ended=ended)
                try:
                    async for batch in logs:
                        # One by one: what came before an error is stored, and gone on behind.
                        batches.append(batch)  # noqa: PERF401
                    return
                except HostUnavailable:
                    await asyncio.sleep(0.1)

        async with asyncio.timeout(90):
            reading = asyncio.create_task(read())
            try:
                state = await wait()
                ended.set()
                await reading
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
        return batches, state


def assert_counted(batches: list[LogBatch]) -> None:
    """Every number of COUNT is there once, and its last word."""
    *numbers, last = output(batches).split()
    assert last == b"last"
    assert numbers == [b"%d" % number for number in range(1, len(numbers) + 1)]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodeSwarm]:
    with TwoNodeSwarm(tmp_path_factory.mktemp("nodes")) as nodes:
        nodes.set_availability(nodes.manager, "drain")
        nodes.worker.image()
        yield nodes


@pytest.fixture
async def swarm(nodes: TwoNodeSwarm) -> AsyncIterator[Swarm]:
    swarm = Swarm(nodes, nodes.manager.image())
    await swarm.open()
    yield swarm
    nodes.mend()
    nodes.worker.start()
    await eventually(
        lambda: nodes.node(nodes.worker)["Status"]["State"] == "ready", "the worker to be back"
    )
    await swarm.clear()


async def test_a_run_on_the_other_node(swarm: Swarm) -> None:
    run_id = await swarm.shell("echo out; echo err >&2; seq 1 2000; exit 3")
    batches, state = await swarm.follow(run_id)
    assert (state.phase, state.exit_code, state.error) == (Phase.ENDED, 3, None)
    numbers = b"".join(b"%d\n" % number for number in range(1, 2001))
    assert output(batches, Stream.STDOUT) == b"out\n" + numbers
    assert output(batches, Stream.STDERR) == b"err\n"
    assert len(swarm.containers(swarm.nodes.worker, run_id)) == 1
    assert swarm.containers(swarm.nodes.manager, run_id) == []


async def test_runs_are_spread_over_the_nodes(swarm: Swarm) -> None:
    nodes = swarm.nodes
    nodes.set_availability(nodes.manager, "active")
    try:
        run_ids = [await swarm.shell("echo here; exec sleep 600") for _ in range(4)]
        for run_id in run_ids:
            await swarm.read_until(run_id, b"here\n")
        for node in (nodes.manager, nodes.worker):
            assert sum(len(swarm.containers(node, run_id)) for run_id in run_ids) == 2
    finally:
        nodes.set_availability(nodes.manager, "drain")


async def test_a_run_on_the_other_node_is_stopped(swarm: Swarm) -> None:
    run_id = await swarm.shell("echo here; exec sleep 600")
    await swarm.read_until(run_id, b"here\n")
    async with asyncio.timeout(8):
        await swarm.executor.stop(swarm.host, run_id, grace_seconds=0)
    state = await swarm.wait(run_id)
    # The code can be read for a quarter of a second, which a slow machine may miss.
    assert (state.phase, state.error) == (Phase.ENDED, None)
    assert state.exit_code in (143, None)
    await eventually(
        lambda: not swarm.containers(swarm.nodes.worker, run_id), "the container to go"
    )


async def test_a_run_goes_on_when_its_node_is_drained(swarm: Swarm) -> None:
    """A swarm moves services from drained nodes, and leaves jobs alone; new ones go elsewhere."""
    nodes = swarm.nodes
    run_id = await swarm.shell(COUNT)
    await swarm.read_until(run_id, b"3\n")
    following = asyncio.create_task(swarm.follow(run_id))
    nodes.set_availability(nodes.worker, "drain")
    try:
        nobody = await swarm.shell("echo never")
        await eventually(
            lambda: [task["Status"]["State"] for task in swarm.tasks(nobody)] == ["pending"],
            "a run that no node takes",
        )
        (container,) = swarm.containers(nodes.worker, run_id)
        assert container["State"] == "running"
        assert (await swarm.executor.inspect(swarm.host, nobody)).phase is Phase.RUNNING
        Engine(nodes.worker.url).call("POST", f"/containers/{container['Id']}/kill?signal=TERM")
        batches, state = await following
        assert state.exit_code == 5
        assert_counted(batches)
        assert len(swarm.tasks(run_id)) == 1
    finally:
        nodes.set_availability(nodes.worker, "active")
    batches, state = await swarm.follow(nobody)
    assert (output(batches), state.exit_code) == (b"never\n", 0)


async def test_a_node_that_is_back_has_lost_nothing(swarm: Swarm) -> None:
    nodes = swarm.nodes
    run_id = await swarm.shell(COUNT)
    await swarm.read_until(run_id, b"3\n")
    following = asyncio.create_task(swarm.follow(run_id))
    nodes.cut()
    await until_out_of_reach(swarm, run_id)
    # The manager, and whatever else it has, is well.
    await swarm.executor.check(swarm.host)
    (listed,) = await swarm.executor.runs(swarm.host)
    assert listed.phase is Phase.RUNNING
    nodes.mend()

    async def back() -> bool:
        with contextlib.suppress(RunOutOfReach):
            return (await swarm.executor.inspect(swarm.host, run_id)).phase is Phase.RUNNING
        return False

    await eventually(back, "a run within reach")
    (container,) = swarm.containers(nodes.worker, run_id)
    Engine(nodes.worker.url).call("POST", f"/containers/{container['Id']}/kill?signal=TERM")
    batches, state = await following
    assert state.exit_code == 5
    assert_counted(batches)
    assert len(swarm.tasks(run_id)) == 1


async def until_out_of_reach(swarm: Swarm, run_id: str) -> RunOutOfReach:
    async def probe() -> RunOutOfReach | None:
        try:
            assert (await swarm.executor.inspect(swarm.host, run_id)).phase is Phase.RUNNING
        except RunOutOfReach as error:
            return error
        return None

    return await eventually(probe, "a run out of reach")


async def test_what_is_removed_while_its_node_is_away_does_not_go_on_there(swarm: Swarm) -> None:
    nodes = swarm.nodes
    run_id = await swarm.shell("echo here; exec sleep 600")
    await swarm.read_until(run_id, b"here\n")
    nodes.cut()
    await until_out_of_reach(swarm, run_id)
    with pytest.raises(RunOutOfReach):
        await swarm.executor.wait(swarm.host, run_id)
    with pytest.raises(RunOutOfReach):
        await swarm.executor.stop(swarm.host, run_id, grace_seconds=0)
    await swarm.executor.remove(swarm.host, run_id)
    assert await swarm.executor.runs(swarm.host) == []
    (container,) = swarm.containers(nodes.worker, run_id)
    assert container["State"] == "running"
    nodes.mend()
    await eventually(lambda: not swarm.containers(nodes.worker, run_id), "the container to go")


async def test_a_node_whose_engine_is_killed_loses_its_runs(swarm: Swarm) -> None:
    """The engine that comes back ends them: not what they did themselves, and not done again."""
    nodes = swarm.nodes
    run_id = await swarm.shell("echo here; exec sleep 600")
    await swarm.read_until(run_id, b"here\n")
    await asyncio.to_thread(nodes.worker.kill)
    await until_out_of_reach(swarm, run_id)
    await asyncio.to_thread(nodes.worker.start)
    with pytest.raises(RunVanished, match="its node was unreachable"):
        await swarm.follow(run_id)
    assert len(swarm.tasks(run_id)) == 1


async def test_a_manager_that_restarts_loses_nothing_and_starts_nothing_again(
    swarm: Swarm,
) -> None:
    nodes = swarm.nodes
    failed = await swarm.shell("echo once; exit 3")
    assert (await swarm.wait(failed)).exit_code == 3
    running = await swarm.shell(COUNT)
    await swarm.read_until(running, b"3\n")
    following = asyncio.create_task(swarm.follow(running))
    await asyncio.to_thread(nodes.manager.stop)
    with pytest.raises(HostUnavailable):
        await swarm.executor.inspect(swarm.host, running)
    await asyncio.to_thread(nodes.manager.start)
    # Behind whatever the manager would start again: it is the one that takes the jobs in turn. It
    # may take the node for away at first.
    later = await swarm.shell("exit 4")
    assert (await swarm.follow(later))[1].exit_code == 4
    assert len(swarm.tasks(failed)) == 1
    state = await swarm.wait(failed)
    assert (state.phase, state.exit_code) == (Phase.ENDED, 3)
    (container,) = swarm.containers(nodes.worker, running)
    Engine(nodes.worker.url).call("POST", f"/containers/{container['Id']}/kill?signal=TERM")
    batches, state = await following
    assert state.exit_code == 5
    assert_counted(batches)
    assert len(swarm.tasks(running)) == 1


@pytest.mark.faults
async def test_a_task_that_a_manager_makes_behind_everybodys_back(swarm: Swarm) -> None:
    """A run that failed unseen is given a second task by a manager that restarts: it is not the
    run, and is ended as soon as somebody looks.
    """
    nodes = swarm.nodes
    second_from = time.time() + 8
    run_id = await swarm.shell(
        f"[ $(date +%s) -lt {second_from:.0f} ] && exit 3; echo again; exec sleep 600"
    )

    def states() -> list[str]:
        return sorted(task["Status"]["State"] for task in swarm.tasks(run_id))

    await eventually(lambda: states() == ["failed"], "the first task to fail")
    await asyncio.to_thread(nodes.manager.stop)
    await eventually(lambda: time.time() > second_from + 1, "the second task to be another one")
    await asyncio.to_thread(nodes.manager.start)
    await eventually(lambda: states() == ["failed", "running"], "a second task")
    assert (await swarm.wait(run_id)).exit_code == 3
    await eventually(
        lambda: {each["State"] for each in swarm.containers(nodes.worker, run_id)} == {"exited"},
        "the second task to be ended",
    )
