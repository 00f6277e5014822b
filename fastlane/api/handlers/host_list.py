"""The farms with their slots, their hosts, and what runs on these."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from functools import partial

from fastlane.api import large
from fastlane.api.base import BaseHandler
from fastlane.api.schemas import responses
from fastlane.api.schemas.listed import instant_or_none
from fastlane.api.services import Services
from fastlane.api.urls import Urls
from fastlane.errors import HostUnavailable
from fastlane.hosts import Circuit
from fastlane.model import Farm
from fastlane.storage.base import ActiveRun

# WATCH.md has no bound; this one keeps an answer small where ten thousand executions run.
RUNS_SHOWN = 1000
# Bounds the hosts that are connected to because it is not known what they are.
HOSTS_ASKED = 20
# Bounds how long these may take, together.
ASKED_SECONDS = 1.0
# Characters of a host's part of the answer, nearly.
HOST_CHARS = 400
RUN_CHARS = 500


class HostList(BaseHandler):
    """``/hosts/``"""

    async def get(self) -> None:
        """Farms with their slots and hosts, and the executions that run on them.

        Drain a host, or put it back, with `/docker-executor/blacklist/`.
        """
        await self.send_json(await list_hosts(self.services, self.urls))


async def list_hosts(services: Services, urls: Urls) -> responses.HostList:
    """What is answered."""
    runs = await services.storage.executions.active_runs()
    hidden = await services.storage.deletions.hidden(runs)
    hosts = [host for farm in services.farms for host in farm.hosts]
    await _ask(services, hosts)
    size = HOST_CHARS * len(hosts) + RUN_CHARS * min(len(runs), RUNS_SHOWN)
    return await large.off_the_loop(size, partial(_host_list, services, urls, runs, hidden))


async def _ask(services: Services, hosts: Sequence[str]) -> None:
    """Connect to hosts of which it is not known what they are."""

    async def ask(host: str) -> None:
        try:
            await services.executors.of(host).check(host)
        except HostUnavailable:
            return

    unknown = [
        host
        for host in hosts
        if services.executors.of(host).engine(host) is None
        and services.hosts.circuit(host) is Circuit.CLOSED
    ]
    asked = [asyncio.create_task(ask(host)) for host in unknown[:HOSTS_ASKED]]
    if asked:
        _, late = await asyncio.wait(asked, timeout=ASKED_SECONDS)
        for one in late:
            one.cancel()


def _host_list(
    services: Services, urls: Urls, runs: Sequence[ActiveRun], hidden: Collection[str]
) -> responses.HostList:
    """:param hidden: which of *runs* were deleted; until they have ended, they hold their slots."""
    running = Counter((run.farm or "", run.host) for run in runs)
    on_host: dict[tuple[str, str], list[responses.RunOnHost]] = defaultdict(list)
    listed = [run for run in runs if run.id not in hidden]
    for run in listed[: -RUNS_SHOWN - 1 : -1]:
        on_host[run.farm or "", run.host].append(
            {
                "executionId": run.id,
                "url": urls.execution_of(run.task_id, run.job_id, run.id),
                "taskId": run.task_id,
                "jobId": run.job_id,
                "status": run.status,
                "startedAt": instant_or_none(run.started_at),
            }
        )

    def item(farm: Farm, host: str) -> responses.HostItem:
        record, engine = services.hosts.record(host), services.executors.of(host).engine(host)
        return {
            "host": host,
            "configured": host in farm.hosts,
            "available": bool(services.hosts.available([host])) and host in farm.hosts,
            "drained": record.blacklisted,
            "circuit": services.hosts.circuit(host),
            "failures": record.failures,
            "error": record.error,
            "triedAgainAt": instant_or_none(record.open_until),
            "engine": None if engine is None else {"name": engine.name, "version": engine.version},
            "running": running[farm.name, host],
            "executions": on_host[farm.name, host],
        }

    def farm_item(farm: Farm) -> responses.FarmItem:
        left = sorted({host for name, host in running if name == farm.name} - set(farm.hosts))
        return {
            "name": farm.name,
            "match": farm.match,
            "executor": farm.executor or services.executors.default,
            "running": sum(count for (name, _), count in running.items() if name == farm.name),
            "maxRunning": farm.max_running,
            "maxRunningPerTask": farm.max_running_per_task,
            "blocked": services.hosts.blocked(farm.hosts),
            "hosts": [item(farm, host) for host in (*farm.hosts, *left)],
        }

    return {"farms": [farm_item(farm) for farm in services.farms]}
