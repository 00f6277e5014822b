"""The engine is restarted under a running container."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fastlane.errors import HostUnavailable
from fastlane.executors.base import LogBatch, Phase
from tests.engine import EngineServer
from tests.executors.conftest import Docker, output

pytestmark = pytest.mark.timeout(120)
# Bounds how often a caller asks again while the engine is away.
ATTEMPTS = 100


async def insist(docker: Docker, run_id: str) -> tuple[list[LogBatch], int | None]:
    """Log and end as an execution's owner gets them: asking again while the host is away."""
    ended = asyncio.Event()
    batches: list[LogBatch] = []

    async def wait() -> int | None:
        for _ in range(ATTEMPTS):
            try:
                state = await docker.executor.wait(docker.host, run_id)
            except HostUnavailable:
                await asyncio.sleep(0.1)
            else:
                ended.set()
                return state.exit_code
        raise AssertionError("the engine did not come back")

    async def read() -> None:
        for _ in range(ATTEMPTS):
            bookmark = batches[-1].bookmark if batches else ""
            logs = docker.executor.logs(docker.host, run_id, bookmark=bookmark, ended=ended)
            try:
                async for batch in logs:
                    # One by one: what came before an error is stored, and gone on behind.
                    batches.append(batch)  # noqa: PERF401
            except HostUnavailable:
                await asyncio.sleep(0.1)
            else:
                return
        raise AssertionError("the engine did not come back")

    async with asyncio.timeout(60):
        code, _ = await asyncio.gather(wait(), read())
    return batches, code


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
async def test_containers_that_outlive_their_engine(tmp_path: Path, killed: bool) -> None:
    with EngineServer(tmp_path / "engine", "--live-restore") as server:
        docker = Docker(server.url, server.image())
        run_id = await docker.shell(
            "trap 'echo last; exit 5' TERM; echo first; i=0; "
            "while :; do i=$((i+1)); echo $i; sleep 0.05; done"
        )
        await docker.read_until(run_id, b"first\n")
        following = asyncio.create_task(insist(docker, run_id))
        await asyncio.to_thread(server.kill if killed else server.stop)
        with pytest.raises(HostUnavailable):
            await docker.executor.inspect(docker.host, run_id)
        await asyncio.to_thread(server.start)
        assert (await docker.executor.inspect(docker.host, run_id)).phase is Phase.RUNNING
        await docker.executor.stop(docker.host, run_id, grace_seconds=30)
        batches, code = await following
        assert code == 5
        lines = output(batches).split()
        assert (lines[0], lines[-1]) == (b"first", b"last")
        assert lines[1:-1] == [b"%d" % number for number in range(1, len(lines) - 1)]
        await docker.clear()


async def test_containers_that_end_with_their_engine(tmp_path: Path) -> None:
    with EngineServer(tmp_path / "engine") as server:
        docker = Docker(server.url, server.image())
        run_id = await docker.shell(
            "trap 'echo last; exit 5' TERM; echo first; while :; do sleep 0.05; done"
        )
        await docker.read_until(run_id, b"first\n")
        following = asyncio.create_task(insist(docker, run_id))
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        batches, code = await following
        assert code == 5
        assert output(batches) == b"first\nlast\n"
        await docker.clear()
