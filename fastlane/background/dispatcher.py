"""Assigns queued executions to hosts, farm by farm, and has the runner run them."""

from __future__ import annotations

from collections import Counter

from fastlane import policy
from fastlane.background.context import Context
from fastlane.background.runner import Runner
from fastlane.errors import HostDrained
from fastlane.events import Event, ExecutionChanged, JobChange, JobChanged, QueueChanged
from fastlane.model import Farm, Status

# Bounds how long a lost event delays an execution.
PERIOD_SECONDS = 5.0


class Dispatcher:
    """Claims executions for the slots that are free."""

    wakes_on = (QueueChanged, ExecutionChanged, JobChanged)

    def __init__(self, context: Context, runner: Runner) -> None:
        self._storage = context.storage
        self._hosts = context.hosts
        self._farms = context.farms
        self._clock = context.clock
        self._runner = runner

    @staticmethod
    def wants(event: Event) -> bool:
        """Whether *event* may mean that something can be claimed that could not be before."""
        if isinstance(event, ExecutionChanged):
            # Queued, or a slot is free.
            return event.final or (event.status is Status.ENQUEUED and event.due_at is None)
        if isinstance(event, JobChanged):
            # With its executions, those end for which others wait.
            return event.change in {JobChange.REPLACED, JobChange.STOPPED}
        return True

    async def step(self) -> float:
        """Claim until every farm is full or its queue is empty."""
        load: Counter[str] = Counter()
        for (_, _, host), count in (await self._storage.executions.active_counts()).items():
            load[host] += count
        next_seconds = PERIOD_SECONDS
        for farm in self._farms.values():
            await self._fill(farm, load)
            resumes_in = self._hosts.resumes_in(farm.hosts)
            if resumes_in is not None:
                next_seconds = min(next_seconds, resumes_in)
        return next_seconds

    async def _fill(self, farm: Farm, load: Counter[str]) -> None:
        while True:
            host = await self._host_for_next(farm, load)
            if host is None:
                return
            try:
                if not await self._runner.claim(farm, host):
                    return
            except HostDrained:
                # By another instance, whose news is still on its way.
                self._hosts.take(await self._storage.hosts.all())
                continue
            load[host] += 1
            self._hosts.given(host)

    async def _host_for_next(self, farm: Farm, load: Counter[str]) -> str | None:
        """The host for the next execution of *farm*; None without an available host or execution.

        Among equally loaded hosts, one that has the execution's image is preferred.
        """
        hosts = policy.least_loaded(self._hosts.available(farm.hosts), load)
        if len(hosts) < 2:
            return next(iter(hosts), None)
        execution = await self._storage.executions.next_queued(
            farm.name,
            now=self._clock(),
            max_per_task=farm.max_running_per_task,
            fifo=farm.fifo,
        )
        if execution is None:
            return None
        image = str(execution.definition.image)
        return next((host for host in hosts if self._hosts.has_image(host, image)), hosts[0])
