"""Runs executions as services of an existing Docker swarm, which chooses the node.

A host is a manager of the swarm, which accepts every call for all of its nodes. Each execution is a
service in the mode ``replicated-job``: one task, never restarted. It is created to complete
nothing, and started by letting it complete one task; so a created run never runs by itself.

What differs from containers: nodes pull the images themselves, as a part of the start, whatever the
pull policy; a run on a node other than the manager's is stopped by removing its task, which leaves
its exit code for a quarter of a second, and no more log than was read before.

Never twice: a manager that (re)starts, or becomes the leader, gives a job whose task has failed
another one, whatever its restart policy. So a failed run's service is made to complete nothing as
soon as its end is seen, and of several tasks only the first counts.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import structlog

from fastlane.errors import (
    HostUnavailable,
    PullFailed,
    RunOutOfReach,
    RunVanished,
    StartFailed,
)
from fastlane.executors.base import ListedRun, LogBatch, Phase, RunSpec, RunState
from fastlane.executors.docker.container import (
    EXECUTION_LABEL,
    INSTALLATION_LABEL,
    LogLimits,
    container_name,
    is_run_of,
    listed_run,
)
from fastlane.executors.docker.credentials import Login, auth_header, login_of_docker
from fastlane.executors.docker.engine import SLOW_CALL_SECONDS, Engine, Refused
from fastlane.executors.docker.engines import Engines, OnEngines
from fastlane.executors.docker.executor import (
    STOP_MARGIN_SECONDS,
    seconds_since,
    stop_container,
)
from fastlane.executors.docker.farms import options_of
from fastlane.executors.docker.logs import follow_logs, init_failure
from fastlane.executors.docker.nodes import UNREACHABLE, Nodes
from fastlane.executors.docker.refusals import CANNOT_EXECUTE, pull_failure
from fastlane.executors.docker.registries import Registries
from fastlane.executors.docker.service import (
    OVER,
    STARTED_LABEL,
    STOPPED_LABEL,
    TAKEN_AWAY,
    Details,
    boot_mark,
    complete_nothing,
    complete_one,
    first_task,
    mark_stopped,
    seconds_since_mark,
    service_spec,
    state_of,
    vanished,
)
from fastlane.pause import Pause
from fastlane.resolver import Resolve

log = structlog.get_logger(__name__)

SERVICE_LABEL = "com.docker.swarm.service.id"
"""The swarm's own, on each container."""
# Bound the pauses between two looks at a task; a manager answers them from memory.
FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 1.0
# Bounds the updates of a service that others update at the same time.
UPDATE_ATTEMPTS = 10
# Bounds the runs whose end, or whose unreachable node, is remembered.
MAX_REMEMBERED = 10_000
# Bounds how long a manager may take to remove a task; it usually does so at once.
REMOVE_SECONDS = 10.0
# Exit codes of a container whose engine ended, was killed, or lost its machine.
_ENDED_WITH_ITS_ENGINE = frozenset({137, 143, 255})


class SwarmExecutor(OnEngines):
    """Runs each execution as a ``replicated-job`` service; hosts are managers of a swarm.

    :param tls, log_limits, login, registries_allowed, resolve: as for a
        :class:`~fastlane.executors.docker.executor.DockerExecutor`.
    """

    name = "swarm"

    def __init__(
        self,
        *,
        tls: Mapping[str, ssl.SSLContext] | None = None,
        log_limits: LogLimits | None = None,
        login: Login = login_of_docker,
        registries_allowed: Sequence[str] = (),
        resolve: Resolve | None = None,
    ) -> None:
        self._installation = ""
        self._log_limits = log_limits or LogLimits()
        self._login = login
        self._registries = Registries(registries_allowed, login, resolve)
        self._engines = Engines(tls)
        self._nodes: dict[str, Nodes] = {}
        # Runs whose node was unreachable at some time, until they are removed.
        self._was_unreachable: set[str] = set()
        # How runs ended whose task was removed and forgotten, until they are removed.
        self._ends: dict[str, RunState] = {}

    async def open(self, installation: str) -> None:
        """Nothing is connected before it is needed."""
        self._installation = installation

    async def close(self) -> None:
        await self._engines.close()

    async def pull(self, host: str, spec: RunSpec, progress: Callable[[str], None]) -> None:
        """The nodes pull; this makes sure that they may, and that *host* is a manager."""
        await self._registries.check(spec.image, options_of(spec))
        await self._engines.of(host).call("GET", "swarm")

    async def create(self, host: str, spec: RunSpec) -> str:
        engine = self._engines.of(host)
        name = container_name(spec.execution_id)
        registry = spec.image.registry
        credentials = options_of(spec).registry_auth.get(registry)
        credentials = credentials or await asyncio.to_thread(self._login, registry)
        headers = {}
        if credentials is not None:
            headers["X-Registry-Auth"] = auth_header(registry, credentials)
        body = service_spec(spec, installation=self._installation, log_limits=self._log_limits)
        try:
            created = await engine.call(
                "POST", "services/create", body=body, headers=headers, seconds=SLOW_CALL_SECONDS
            )
            return str(created["ID"])
        except Refused as refused:
            if refused.status == 400:
                raise StartFailed(f"Host {host} refused the service: {refused.reason}") from refused
            if refused.status != 409:
                raise
            taken = refused
        service = await self._service(engine, name)
        if service is None:
            raise HostUnavailable(host, f"an old service remains: {taken.reason}") from taken
        if not self._is_ours(service, spec.execution_id):
            raise StartFailed(f"Another service on host {host} has the name of this run.")
        return str(service["ID"])

    async def find(self, host: str, execution_id: str) -> RunState | None:
        engine = self._engines.of(host)
        service = await self._service(engine, container_name(execution_id))
        if service is None or not self._is_ours(service, execution_id):
            return None
        tasks = await self._tasks(engine, [service["ID"]])
        await self._raise_if_unreachable(host, tasks)
        return self._state_of(service, tasks)

    async def start(self, host: str, run_id: str) -> None:
        mark = boot_mark()
        await self._update(host, run_id, lambda spec: complete_one(spec, mark))

    async def inspect(self, host: str, run_id: str) -> RunState:
        """See ``Executor.inspect``.

        :raises RunOutOfReach: its node is unreachable.
        """
        return self._state_of(*await self._within_reach(host, run_id))

    async def wait(self, host: str, run_id: str) -> RunState:
        """See ``Executor.wait``.

        :raises PullFailed: its node could not get the image.
        :raises StartFailed: its command cannot be executed, or no node accepts it.
        :raises RunVanished: the swarm has ended it, or its node has.
        :raises RunOutOfReach: its node is unreachable.
        """
        pause = Pause(FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS, factor=1.5)
        while True:
            service, tasks = await self._within_reach(host, run_id)
            state = self._state_of(service, tasks)
            if state.phase is Phase.ENDED:
                await self._seal(host, service, tasks)
                await self._raise_if_not_its_own_end(host, service, tasks, state)
                return state
            await pause.wait()

    async def _seal(self, host: str, service: Details, tasks: Sequence[Details]) -> None:
        """Keep every manager from making another task for a run that has ended."""
        first = first_task(tasks)
        if first is None or first["Status"]["State"] == "complete":
            return
        try:
            await self._update(host, service["ID"], complete_nothing)
        except RunVanished:
            # Somebody else has removed it already.
            return

    async def _raise_if_not_its_own_end(
        self, host: str, service: Details, tasks: Sequence[Details], state: RunState
    ) -> None:
        task = first_task(tasks)
        if task is None or STOPPED_LABEL in service["Spec"]["Labels"]:
            return
        status = task["Status"]
        if state.exit_code is None:
            error = state.error or f"its task is {status['State']}"
            # A task that was running still has its process id if nobody saw it end.
            if status["State"] in TAKEN_AWAY or status.get("ContainerStatus", {}).get("PID"):
                raise RunVanished(f"the swarm ended it: {error}")
            if "image" in error.lower():
                log.warning("A node could not pull an image", host=host, error=error)
                raise PullFailed(f"The image could not be pulled ({pull_failure(error)}).")
            raise StartFailed(f"The run could not be started: {error}")
        if state.exit_code in _ENDED_WITH_ITS_ENGINE and state.run_id in self._was_unreachable:
            raise RunVanished(
                f"its node was unreachable and ended it (exit code {state.exit_code})"
            )
        if state.exit_code in CANNOT_EXECUTE:
            message = await init_failure(self._engines.of(host), state.run_id, kind="services")
            if message:
                raise StartFailed(f"The command cannot be executed: {message}", state.exit_code)

    async def ran_seconds(self, host: str, run_id: str) -> float:
        """See ``Executor.ran_seconds``: by the manager's clock, from the task's creation.

        If the server was started on the machine that it is on now, the clock may have been set in
        the meantime: no run is older than its mark.
        """
        service, tasks = await self._within_reach(host, run_id)
        started_at = self._state_of(service, tasks).started_at
        ran_seconds = await seconds_since(self._engines.of(host), started_at)
        age_seconds = seconds_since_mark(service["Spec"]["Labels"].get(STARTED_LABEL, ""))
        return ran_seconds if age_seconds is None else min(ran_seconds, age_seconds)

    async def logs(
        self, host: str, run_id: str, *, bookmark: str, ended: asyncio.Event
    ) -> AsyncGenerator[LogBatch, None]:
        words = {Phase.CREATED: "created", Phase.RUNNING: "running", Phase.ENDED: "exited"}

        async def inspect() -> Details:
            # The log of an ended run is on its node, as well.
            state = state_of(*await self._within_reach(host, run_id, ended=True))
            return {
                "Id": run_id,
                "Config": {"Tty": False},
                "State": {"Status": words[state.phase]},
            }

        batches = follow_logs(
            self._engines.of(host),
            run_id,
            bookmark=bookmark,
            ended=ended,
            inspect=inspect,
            kind="services",
        )
        async with aclosing(batches):
            async for batch in batches:
                yield batch

    async def stop(self, host: str, run_id: str, *, grace_seconds: float) -> None:
        engine = self._engines.of(host)
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + grace_seconds + STOP_MARGIN_SECONDS
        asked = False
        while loop.time() < give_up_at:
            try:
                service = await self._present_service(host, run_id)
            except RunVanished:
                return
            tasks = await self._tasks(engine, [run_id])
            state = state_of(service, tasks)
            if state.phase is Phase.ENDED:
                if state.exit_code is not None and len(self._ends) < MAX_REMEMBERED:
                    self._ends[run_id] = state
                return
            if state.phase is Phase.CREATED:
                await self.remove(host, run_id)
                return
            if not asked:
                asked = await self._ask_to_end(engine, host, run_id, tasks, grace_seconds)
            if asked:
                await self._raise_if_unreachable(host, tasks)
            await asyncio.sleep(FIRST_PAUSE_SECONDS)
        raise HostUnavailable(host, f"service {run_id[:12]} does not stop")

    async def remove(self, host: str, run_id: str) -> None:
        """See ``Executor.remove``; one that still runs (its node was unreachable) ends with it."""
        engine = self._engines.of(host)
        self._was_unreachable.discard(run_id)
        self._ends.pop(run_id, None)
        await self._take_tasks_away(host, run_id)
        try:
            await engine.call("DELETE", f"services/{run_id}", raw=True, seconds=SLOW_CALL_SECONDS)
        except Refused as refused:
            if refused.status != 404:
                raise
        await self._end_orphans(engine, run_id)

    async def _take_tasks_away(self, host: str, run_id: str) -> None:
        """End the tasks before the service is removed.

        Engines (up to 20.10 at least) forget a job's task with its service and let it run on. An
        order to end it that they have by then is carried out, even by a node that comes back.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + REMOVE_SECONDS
        while True:
            running = [
                task
                for task in await self._tasks(self._engines.of(host), [run_id])
                if task["Status"]["State"] not in OVER and task["DesiredState"] != "remove"
            ]
            if not running:
                return
            if loop.time() >= give_up_at:
                raise HostUnavailable(host, f"service {run_id[:12]} still has its task")
            try:
                await self._update(host, run_id, mark_stopped)
            except RunVanished:
                return
            await asyncio.sleep(FIRST_PAUSE_SECONDS)

    async def runs(self, host: str) -> Sequence[ListedRun]:
        engine = self._engines.of(host)
        filters = {"label": [f"{INSTALLATION_LABEL}={self._installation}"]}
        services = await engine.call("GET", "services", params={"filters": json.dumps(filters)})
        marked = [each for each in services if EXECUTION_LABEL in each["Spec"]["Labels"]]
        if not marked:
            return []
        tasks = await self._tasks(engine, [each["ID"] for each in marked])
        return [
            listed_run(
                each["Spec"]["Labels"],
                each["ID"],
                state_of(each, [task for task in tasks if task["ServiceID"] == each["ID"]]).phase,
            )
            for each in marked
        ]

    async def _ask_to_end(
        self,
        engine: Engine,
        host: str,
        run_id: str,
        tasks: Sequence[Details],
        grace_seconds: float,
    ) -> bool:
        """Stop the run's container if it is on the manager itself; else remove its task."""
        task = first_task(tasks)
        container = (task or {}).get("Status", {}).get("ContainerStatus", {}).get("ContainerID")
        if task is not None and container and task["Status"]["State"] == "running":
            info = await engine.call("GET", "info")
            if task.get("NodeID") == info["Swarm"]["NodeID"]:
                await stop_container(engine, container, grace_seconds)
                return True
        if task is not None and task["Status"]["State"] == "starting":
            # It will run in a moment, or fail.
            return False

        try:
            await self._update(host, run_id, mark_stopped)
        except RunVanished:
            return True
        return True

    async def _update(
        self, host: str, run_id: str, change: Callable[[dict[str, Any]], bool]
    ) -> None:
        """Apply *change* to the service's specification; it returns False to change nothing.

        :raises RunVanished: there is no such service.
        """
        engine = self._engines.of(host)
        for _ in range(UPDATE_ATTEMPTS):
            service = await self._present_service(host, run_id)
            spec: dict[str, Any] = dict(service["Spec"])
            if not change(spec):
                return
            try:
                await engine.call(
                    "POST",
                    f"services/{run_id}/update",
                    params={"version": str(service["Version"]["Index"])},
                    body=spec,
                    seconds=SLOW_CALL_SECONDS,
                )
            except Refused as refused:
                if refused.status == 404:
                    raise vanished(host, run_id) from refused
                if "out of sequence" not in refused.reason:
                    raise
            else:
                return
        raise HostUnavailable(host, f"service {run_id[:12]} keeps changing")

    async def _service(self, engine: Engine, name: str) -> Details | None:
        try:
            service: Details = await engine.call("GET", f"services/{name}")
        except Refused as refused:
            if refused.status == 404:
                return None
            raise
        return service

    async def _present_service(self, host: str, run_id: str) -> Details:
        engine = self._engines.of(host)
        service = await self._service(engine, run_id)
        if service is None:
            await self._end_orphans(engine, run_id)
            raise vanished(host, run_id)
        return service

    async def _within_reach(
        self, host: str, run_id: str, *, ended: bool = False
    ) -> tuple[Details, Sequence[Details]]:
        """The service of a run, and its tasks.

        :param ended: its node is needed after its end as well.
        :raises RunOutOfReach: its node is unreachable.
        """
        service = await self._present_service(host, run_id)
        tasks = await self._tasks(self._engines.of(host), [run_id])
        await self._raise_if_unreachable(host, tasks, ended=ended)
        return service, tasks

    async def _end_orphans(self, engine: Engine, run_id: str) -> None:
        """Remove the containers that a removed service has left on the manager's own node.

        Engines (up to 20.10 at least) forget a job's tasks with its service, and leave the
        containers alone until the manager restarts. Those on other nodes are not reachable from
        here.
        """
        filters = json.dumps({"label": [f"{SERVICE_LABEL}={run_id}"]})
        found = await engine.call("GET", "containers/json", params={"all": "1", "filters": filters})
        for each in found:
            try:
                await engine.call(
                    "DELETE",
                    f"containers/{each['Id']}",
                    params={"force": "1"},
                    seconds=SLOW_CALL_SECONDS,
                )
            except Refused as refused:
                if refused.status not in (404, 409):
                    raise

    async def _tasks(self, engine: Engine, services: Sequence[str]) -> Sequence[Details]:
        filters = json.dumps({"service": list(services)})
        try:
            tasks: Sequence[Details] = await engine.call(
                "GET", "tasks", params={"filters": filters}
            )
        except Refused as refused:
            # A service that was removed in the meantime has no tasks; the next look reports that.
            if refused.status == 404:
                return []
            raise
        return tasks

    async def _raise_if_unreachable(
        self, host: str, tasks: Sequence[Details], *, ended: bool = False
    ) -> None:
        """:param ended: also where the run has ended.
        :raises RunOutOfReach: the node that has the run is unreachable.
        """
        task = first_task(tasks)
        node = None if task is None else task.get("NodeID")
        if task is None or not node or (task["Status"]["State"] in OVER and not ended):
            return
        nodes = self._nodes.setdefault(host, Nodes(self._engines.of(host)))
        state = await nodes.state(node)
        if state in UNREACHABLE:
            if len(self._was_unreachable) < MAX_REMEMBERED:
                self._was_unreachable.add(str(task["ServiceID"]))
            raise RunOutOfReach(host, f"node {node} of the swarm is {state}")

    def _state_of(self, service: Details, tasks: Sequence[Details]) -> RunState:
        return (None if tasks else self._ends.get(service["ID"])) or state_of(service, tasks)

    def _is_ours(self, service: Details, execution_id: str) -> bool:
        return is_run_of(service["Spec"]["Labels"], self._installation, execution_id)
