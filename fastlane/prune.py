"""``fastlane prune``: removes this installation's ended runs from the hosts.

Their executions are looked up in the storage, or requested from the server that owns it. A run is
removed only if its execution has certainly ended.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastlane.client import AsyncClient
from fastlane.client import NotFound as NoSuchExecution
from fastlane.config import Config
from fastlane.errors import ExecutorError, NotFound, StorageInUse
from fastlane.executors.base import Executor, ListedRun, Phase
from fastlane.storage.base import Storage
from fastlane.wiring import make_executors, make_storage

IsOver = Callable[[ListedRun], Awaitable[bool]]
"""Whether the execution of a run has certainly ended."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """A run that was removed, or why a run or a host could not be cleaned up."""

    host: str
    run_id: str
    execution_id: str
    error: str | None = None
    """Why the run is still there; with an empty ``run_id``, why the host was skipped."""


async def prune(config: Config, server: str, *, dry_run: bool) -> AsyncIterator[Pruned]:
    """Remove each run of this installation whose execution has ended, host by host.

    :param server: the URL of the server to call if it is using the storage.
    :param dry_run: report what would be removed, and remove nothing.
    :raises FastlaneError: the storage cannot be reached.
    :raises ClientError: the server that uses it cannot be reached.
    """
    executors = make_executors(config)
    storage = make_storage(config, time.time)
    try:
        async with _knowing(storage, server) as is_over:
            await executors.open(config.installation or await storage.installation())
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
    """A function that knows executions, from the storage or from the server that uses it."""
    try:
        await storage.open()
    except StorageInUse:
        async with AsyncClient(server) as client:

            async def ask(run: ListedRun) -> bool:
                if not run.task_id or not run.job_id:
                    return False
                ids = (run.task_id, run.job_id, run.execution_id)
                try:
                    return (await client.execution(*ids)).status.final
                except NoSuchExecution:
                    return False

            # An unreachable server must not look like one that does not know the executions.
            await client.status()
            yield ask
        return
    except BaseException:
        await storage.close()
        raise
    try:

        async def look_up(run: ListedRun) -> bool:
            try:
                return (await storage.executions.get(run.execution_id)).final
            except NotFound:
                # Its record was cleaned up, so it has ended; a run that is running is another
                # installation's.
                return run.phase is Phase.ENDED

        yield look_up
    finally:
        await storage.close()
