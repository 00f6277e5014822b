"""``fastlane prune``: removes what runs have left on the hosts, of this installation only.

What a run is for is asked of the storage, or of the server that owns it. A run whose execution is
not known to be over is never touched.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastlane.client import connected
from fastlane.config import Config
from fastlane.errors import ExecutorError, NotFound, StorageInUse
from fastlane.executors.base import Executor, ListedRun, Phase
from fastlane.model import FINAL
from fastlane.storage.base import Storage
from fastlane.wiring import installation_of, make_executors, make_storage

IsOver = Callable[[ListedRun], Awaitable[bool]]
"""Whether the execution of a run is known to be over."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What became of one run, or of one host."""

    host: str
    run_id: str
    execution_id: str
    error: str | None = None
    """Why it is still there; with an empty ``run_id`` why the host was passed over."""


async def prune(config: Config, server: str, *, dry_run: bool) -> AsyncIterator[Pruned]:
    """Remove every run of this installation whose execution is over, host by host.

    :param server: asked where another process owns the storage.
    :param dry_run: only tell what would be removed.
    :raises FastlaneError: neither the storage nor the server can be asked.
    """
    executors = make_executors(config)
    storage = make_storage(config, time.time)
    try:
        async with _knowing(storage, server) as is_over:
            await executors.open(await installation_of(config, storage))
            hosts = dict.fromkeys(host for farm in config.docker_hosts for host in farm.hosts)
            for host in hosts:
                async for pruned in _prune_host(executors.of(host), host, is_over, dry_run):
                    yield pruned
    finally:
        await executors.close()


async def _prune_host(
    executor: Executor, host: str, is_over: IsOver, dry_run: bool
) -> AsyncIterator[Pruned]:
    try:
        runs = await executor.runs(host)
    except ExecutorError as error:
        yield Pruned(host, "", "", str(error))
        return
    for run in runs:
        if not await is_over(run):
            continue
        error_text = None
        if not dry_run:
            try:
                await executor.stop(host, run.run_id, grace_seconds=0)
                await executor.remove(host, run.run_id)
            except ExecutorError as error:
                error_text = str(error)
        yield Pruned(host, run.run_id, run.execution_id, error_text)


@asynccontextmanager
async def _knowing(storage: Storage, server: str) -> AsyncIterator[IsOver]:
    """What knows the executions: the storage itself, or the server that has it."""
    try:
        await storage.open()
    except StorageInUse:
        async with connected(server) as client:

            async def ask(run: ListedRun) -> bool:
                if not run.task_id or not run.job_id:
                    return False
                status = await client.execution_status(run.task_id, run.job_id, run.execution_id)
                return status in FINAL

            # Another's server would not know our executions, and one that is away knows nothing.
            await client.status()
            yield ask
        return
    except BaseException:
        await storage.close()
        raise
    try:

        async def look_up(run: ListedRun) -> bool:
            try:
                return (await storage.execution(run.execution_id)).final
            except NotFound:
                # This storage has forgotten it, so it was over; one that runs is somebody else's.
                return run.phase is Phase.ENDED

        yield look_up
    finally:
        await storage.close()
