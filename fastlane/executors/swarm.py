"""Runs executions as services of an existing Docker swarm: it chooses the node, not we.

A host is a manager of the swarm, which takes every call for all of its nodes. Each execution is a
service in the mode ``replicated-job``: one task, never started anew. It is created to complete
nothing, and started by letting it complete one task; so what is created never runs by itself.

What differs from containers: nodes pull the images themselves, as a part of the start, whatever the
pull policy; a run on another node than the manager's is stopped by taking its task away, which
leaves its exit code for a quarter of a second, and no more log than was read before.

Never twice: a manager that (re)starts, or becomes the leader, gives a job whose task has failed
another one, whatever its restart policy. So a failed run's service is made to complete nothing as
soon as its end is seen, and of several tasks only the first counts.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from fastlane.errors import (
    HostUnavailable,
    PullFailed,
    RunOutOfReach,
    RunVanished,
    StartFailed,
)
from fastlane.executors.base import ListedRun, LogBatch, Phase, RunSpec, RunState
from fastlane.executors.docker.container import (
    DEFAULT_PIDS,
    EXECUTION_LABEL,
    INSTALLATION_LABEL,
    JOB_LABEL,
    TASK_LABEL,
    LogLimits,
    container_name,
    engine_reference,
    labels,
    unix_time,
)
from fastlane.executors.docker.credentials import auth_header, config_file, login_in
from fastlane.executors.docker.engine import SLOW_CALL_SECONDS, Engine, Refused
from fastlane.executors.docker.executor import (
    STOP_MARGIN_SECONDS,
    DockerExecutor,
    stop_container,
)
from fastlane.executors.docker.frames import HEADER_BYTES, STAMP_BYTES
from fastlane.executors.docker.logs import follow_logs, tail
from fastlane.executors.docker.refusals import CANNOT_EXECUTE
from fastlane.model import Resources

STARTED_LABEL = "fastlane.started"
"""On a service that was let make its task."""
STOPPED_LABEL = "fastlane.stopped"
"""On a service whose task was taken away."""
SERVICE_LABEL = "com.docker.swarm.service.id"
"""The swarm's own, on each container."""
# Bound the pauses between two looks at a task; a manager answers them from memory.
FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 1.0
# Bounds the updates of a service that others update at the same time.
UPDATE_ATTEMPTS = 10
# Bounds how old what is known of the nodes may be: one list serves all the runs of a swarm.
NODES_SECONDS = 1.0
# Bounds of how many runs it is remembered that their node was away, and how they ended.
MAX_REMEMBERED = 10_000
# Bounds how long a manager may take to obey the removal of a task, which it does at once.
REMOVE_SECONDS = 10.0
# A task in one of these states does not change any more.
_OVER = frozenset({"complete", "failed", "rejected", "shutdown", "orphaned", "remove"})
# Of these, those that a swarm gives to what it ends itself.
_TAKEN_AWAY = frozenset({"shutdown", "orphaned", "remove"})
# A node in one of these states is not heard of; one whose manager is new is "unknown" for a moment.
_AWAY = frozenset({"down", "disconnected"})
# What a container ends with whose engine ends, was killed, or lost its machine.
_ENDED_WITH_ITS_ENGINE = frozenset({137, 143, 255})

Details = Mapping[str, Any]


class SwarmExecutor(DockerExecutor):
    """Runs each execution as a ``replicated-job`` service; hosts are managers of a swarm."""

    name = "swarm"

    async def open(self) -> None:
        """Nothing is connected before it is needed."""
        await super().open()
        self._nodes: dict[str, _Nodes] = {}
        # Runs whose node was seen to be away, until they are removed.
        self._was_away: set[str] = set()
        # How runs have ended whose task was taken away and forgotten, until they are removed.
        self._ends: dict[str, RunState] = {}

    async def pull(self, host: str, spec: RunSpec, progress: Callable[[str], None]) -> None:
        """The nodes pull; here it only shows that *host* is a manager."""
        await self._engine(host).call("GET", "swarm")

    async def create(self, host: str, spec: RunSpec) -> str:
        engine = self._engine(host)
        name = container_name(spec.execution_id)
        credentials = spec.credentials or await asyncio.to_thread(
            login_in, config_file(), spec.image.registry
        )
        headers = {}
        if credentials is not None:
            headers["X-Registry-Auth"] = auth_header(spec.image.registry, credentials)
        body = service_spec(
            spec,
            installation=self._installation,
            defaults=self._defaults,
            log_limits=self._log_limits,
        )
        try:
            created = await engine.call(
                "POST", "services/create", body=body, headers=headers, seconds=SLOW_CALL_SECONDS
            )
            return str(created["ID"])
        except Refused as refused:
            if refused.status == 400:
                raise StartFailed(f"Host {host} refuses such a run: {refused.reason}") from refused
            if refused.status != 409:
                raise
            taken = refused
        service = await self._service(engine, name)
        if service is None:
            raise HostUnavailable(host, f"an old service stays: {taken.reason}") from taken
        if not self._is_ours(service, spec.execution_id):
            raise StartFailed(f"On host {host} another service has the name of this run")
        return str(service["ID"])

    async def find(self, host: str, execution_id: str) -> RunState | None:
        engine = self._engine(host)
        service = await self._service(engine, container_name(execution_id))
        if service is None or not self._is_ours(service, execution_id):
            return None
        tasks = await self._tasks(engine, [service["ID"]])
        await self._raise_if_away(host, tasks)
        return self._state(service, tasks)

    async def start(self, host: str, run_id: str) -> None:
        def complete_one(spec: dict[str, Any]) -> bool:
            job = spec["Mode"]["ReplicatedJob"]
            if job["TotalCompletions"] or {STARTED_LABEL, STOPPED_LABEL} & spec["Labels"].keys():
                return False
            job["TotalCompletions"] = 1
            spec["Labels"][STARTED_LABEL] = "1"
            return True

        await self._update(host, run_id, complete_one)

    async def inspect(self, host: str, run_id: str) -> RunState:
        """See ``Executor.inspect``.

        :raises RunOutOfReach: its node is away.
        """
        return self._state(*await self._within_reach(host, run_id))

    async def wait(self, host: str, run_id: str) -> RunState:
        """See ``Executor.wait``.

        :raises PullFailed: its node could not have the image.
        :raises StartFailed: its command cannot be executed, or no node takes it.
        :raises RunVanished: the swarm has ended it, or its node has.
        :raises RunOutOfReach: its node is away.
        """
        pause = FIRST_PAUSE_SECONDS
        while True:
            service, tasks = await self._within_reach(host, run_id)
            state = self._state(service, tasks)
            if state.phase is Phase.ENDED:
                await self._seal(host, service, tasks)
                await self._raise_if_not_its_own_end(host, service, tasks, state)
                return state
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, MAX_PAUSE_SECONDS)

    async def _seal(self, host: str, service: Details, tasks: Sequence[Details]) -> None:
        """See to it that no manager makes another task for a run that has ended."""
        first = _first(tasks)
        if first is None or first["Status"]["State"] == "complete":
            return
        try:
            await self._update(host, service["ID"], _complete_nothing)
        except RunVanished:
            # Somebody else has removed it already.
            return

    async def _raise_if_not_its_own_end(
        self, host: str, service: Details, tasks: Sequence[Details], state: RunState
    ) -> None:
        task = _first(tasks)
        if task is None or STOPPED_LABEL in service["Spec"]["Labels"]:
            return
        status = task["Status"]
        if state.exit_code is None:
            error = state.error or f"its task is {status['State']}"
            # A task that was running keeps the process id where nobody saw it end.
            if status["State"] in _TAKEN_AWAY or status.get("ContainerStatus", {}).get("PID"):
                raise RunVanished(f"the swarm has ended it: {error}")
            if "image" in error.lower():
                raise PullFailed(f"The image cannot be had: {error}")
            raise StartFailed(f"The run could not be started: {error}")
        if state.exit_code in _ENDED_WITH_ITS_ENGINE and state.run_id in self._was_away:
            raise RunVanished(
                f"its node was away, and has ended it (its exit code is {state.exit_code})"
            )
        if state.exit_code in CANNOT_EXECUTE:
            await self._raise_if_not_executed(self._engine(host), state)

    async def logs(
        self, host: str, run_id: str, *, bookmark: str, ended: asyncio.Event
    ) -> AsyncGenerator[LogBatch, None]:
        words = {Phase.CREATED: "created", Phase.RUNNING: "running", Phase.ENDED: "exited"}

        async def inspect() -> Details:
            # The log of an ended run is on its node, too.
            state = _state(*await self._within_reach(host, run_id, ended=True))
            return {
                "Id": run_id,
                "Config": {"Tty": False},
                "State": {"Status": words[state.phase]},
            }

        batches = follow_logs(
            self._engine(host),
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
        engine = self._engine(host)
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + grace_seconds + STOP_MARGIN_SECONDS
        asked = False
        while loop.time() < give_up_at:
            try:
                service = await self._present_service(host, run_id)
            except RunVanished:
                return
            tasks = await self._tasks(engine, [run_id])
            state = _state(service, tasks)
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
                await self._raise_if_away(host, tasks)
            await asyncio.sleep(FIRST_PAUSE_SECONDS)
        raise HostUnavailable(host, f"service {run_id[:12]} does not stop")

    async def remove(self, host: str, run_id: str) -> None:
        """See ``Executor.remove``; what still runs, as on a node that was away, ends with it."""
        engine = self._engine(host)
        self._was_away.discard(run_id)
        self._ends.pop(run_id, None)
        await self._take_tasks_away(host, run_id)
        try:
            await engine.call("DELETE", f"services/{run_id}", raw=True, seconds=SLOW_CALL_SECONDS)
        except Refused as refused:
            if refused.status != 404:
                raise
        await self._end_orphans(engine, run_id)

    async def _take_tasks_away(self, host: str, run_id: str) -> None:
        """Engines up to 20.10 at least forget a job's task with its service, and let it run on;
        what they were told of a task before is carried out, also by a node that comes back.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + REMOVE_SECONDS
        while True:
            going_on = [
                task
                for task in await self._tasks(self._engine(host), [run_id])
                if task["Status"]["State"] not in _OVER and task["DesiredState"] != "remove"
            ]
            if not going_on:
                return
            if loop.time() >= give_up_at:
                raise HostUnavailable(host, f"service {run_id[:12]} keeps its task")
            try:
                await self._update(host, run_id, _mark_stopped)
            except RunVanished:
                return
            await asyncio.sleep(FIRST_PAUSE_SECONDS)

    async def set_aside(self, host: str, run_id: str) -> None:
        """A service keeps its name; nobody else wants it."""

    async def runs(self, host: str) -> Sequence[ListedRun]:
        engine = self._engine(host)
        filters = {"label": [f"{INSTALLATION_LABEL}={self._installation}"]}
        services = await engine.call("GET", "services", params={"filters": json.dumps(filters)})
        marked = [each for each in services if EXECUTION_LABEL in each["Spec"]["Labels"]]
        if not marked:
            return []
        tasks = await self._tasks(engine, [each["ID"] for each in marked])
        return [
            ListedRun(
                each["Spec"]["Labels"][EXECUTION_LABEL],
                each["ID"],
                _state(each, [task for task in tasks if task["ServiceID"] == each["ID"]]).phase,
                each["Spec"]["Labels"].get(TASK_LABEL, ""),
                each["Spec"]["Labels"].get(JOB_LABEL, ""),
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
        """Stop the run's container where that is on the manager itself, else take its task away."""
        task = _first(tasks)
        container = (task or {}).get("Status", {}).get("ContainerStatus", {}).get("ContainerID")
        if task is not None and container and task["Status"]["State"] == "running":
            info = await engine.call("GET", "info")
            if task.get("NodeID") == info["Swarm"]["NodeID"]:
                await stop_container(engine, container, grace_seconds)
                return True
        if task is not None and task["Status"]["State"] == "starting":
            # In a moment it runs, or does not.
            return False

        try:
            await self._update(host, run_id, _mark_stopped)
        except RunVanished:
            return True
        return True

    async def _update(
        self, host: str, run_id: str, change: Callable[[dict[str, Any]], bool]
    ) -> None:
        """Apply *change* to the service's specification; False from it means that all is well.

        :raises RunVanished: there is no such service.
        """
        engine = self._engine(host)
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
                    raise _vanished(host, run_id) from refused
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
        engine = self._engine(host)
        service = await self._service(engine, run_id)
        if service is None:
            await self._end_orphans(engine, run_id)
            raise _vanished(host, run_id)
        return service

    async def _within_reach(
        self, host: str, run_id: str, *, ended: bool = False
    ) -> tuple[Details, Sequence[Details]]:
        """The service of a run, and its tasks.

        :param ended: its node is needed behind its end as well.
        :raises RunOutOfReach: its node is away.
        """
        service = await self._present_service(host, run_id)
        tasks = await self._tasks(self._engine(host), [run_id])
        await self._raise_if_away(host, tasks, ended=ended)
        return service, tasks

    async def _end_orphans(self, engine: Engine, run_id: str) -> None:
        """Remove what a removed service has left on the manager's own node.

        Engines up to 20.10 at least forget a job's tasks with its service, and leave the containers
        alone until the manager starts anew; on other nodes only who can reach them can remove them.
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
            # A service that has gone in between has no tasks; the next look says so.
            if refused.status == 404:
                return []
            raise
        return tasks

    async def _raise_if_away(
        self, host: str, tasks: Sequence[Details], *, ended: bool = False
    ) -> None:
        """:param ended: also where the run has ended.
        :raises RunOutOfReach: the node that has the run is away.
        """
        task = _first(tasks)
        node = None if task is None else task.get("NodeID")
        if task is None or not node or (task["Status"]["State"] in _OVER and not ended):
            return
        nodes = self._nodes.setdefault(host, _Nodes(self._engine(host)))
        state = await nodes.state(node)
        if state in _AWAY:
            if len(self._was_away) < MAX_REMEMBERED:
                self._was_away.add(str(task["ServiceID"]))
            raise RunOutOfReach(host, f"node {node} of the swarm is {state}")

    def _state(self, service: Details, tasks: Sequence[Details]) -> RunState:
        return (None if tasks else self._ends.get(service["ID"])) or _state(service, tasks)

    def _is_ours(self, service: Details, execution_id: str) -> bool:
        found = service["Spec"]["Labels"]
        return (found.get(INSTALLATION_LABEL), found.get(EXECUTION_LABEL)) == (
            self._installation,
            execution_id,
        )

    async def _raise_if_not_executed(self, engine: Engine, state: RunState) -> None:
        """As for containers: the init says that it could not execute the command."""
        last = await tail(engine, state.run_id, kind="services", stdout="0")
        text = last[HEADER_BYTES + STAMP_BYTES :].decode("utf-8", "replace").strip()
        who, _, message = text.partition("] ")
        if who.startswith("[FATAL tini (") and message.startswith("exec "):
            raise StartFailed(f"The command cannot be executed: {message}", state.exit_code)


def service_spec(
    spec: RunSpec, *, installation: str, defaults: Resources, log_limits: LogLimits
) -> dict[str, Any]:
    """The body of ``POST /services/create``.

    Source: https://docs.docker.com/reference/api/engine/version/v1.47/#tag/Service/operation/ServiceCreate
    """
    asked = spec.resources
    limits: dict[str, int] = {"Pids": asked.pids or defaults.pids or DEFAULT_PIDS}
    cpus = asked.cpus if asked.cpus is not None else defaults.cpus
    memory = asked.memory_bytes if asked.memory_bytes is not None else defaults.memory_bytes
    if cpus is not None:
        limits["NanoCPUs"] = math.ceil(cpus * 1e9)
    if memory is not None:
        limits["MemoryBytes"] = memory
    marks = labels(spec, installation)
    return {
        "Name": container_name(spec.execution_id),
        "Labels": marks,
        "Mode": {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 0}},
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": engine_reference(spec.image),
                "Args": list(spec.argv),
                "Env": [_literal(f"{name}={value}") for name, value in spec.envs.items()],
                "Labels": marks,
                "Init": True,
                "TTY": False,
                "CapabilityDrop": ["NET_RAW", "MKNOD"],
                # Engines before 25 have no such switch for services, and pass it over.
                "Privileges": {"NoNewPrivileges": True},
                "Hosts": [f"{address} {name}" for name, address in spec.dns_entries.items()],
            },
            "Resources": {"Limits": limits},
            "RestartPolicy": {"Condition": "none"},
            "LogDriver": {
                "Name": "local",
                "Options": {
                    "max-size": str(log_limits.max_bytes),
                    "max-file": str(log_limits.max_files),
                    "compress": "false",
                },
            },
        },
    }


def _literal(text: str) -> str:
    """What a swarm makes *text* of, as it takes environments for Go's templates.

    Source: https://docs.docker.com/reference/cli/docker/service/create/#create-services-using-templates
    """
    return text.replace("{{", '{{"{{"}}')


class _Nodes:
    """What a manager knows of the nodes, asked at most so often for all runs together."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._states: dict[str, str] = {}
        self._asked_at = -math.inf
        self._asking = asyncio.Lock()

    async def state(self, node: str) -> str:
        """The node's state; one that is not there any more is "removed"."""
        async with self._asking:
            if time.monotonic() >= self._asked_at + NODES_SECONDS:
                found = await self._engine.call("GET", "nodes")
                self._states = {each["ID"]: each["Status"]["State"] for each in found}
                self._asked_at = time.monotonic()
            return self._states.get(node, "removed")


def _complete_nothing(spec: dict[str, Any]) -> bool:
    job = spec["Mode"]["ReplicatedJob"]
    if not job["TotalCompletions"]:
        return False
    job["TotalCompletions"] = 0
    return True


def _mark_stopped(spec: dict[str, Any]) -> bool:
    if STOPPED_LABEL in spec["Labels"]:
        return False
    spec["Labels"][STOPPED_LABEL] = "1"
    _complete_nothing(spec)
    # Makes it another job to the swarm, which takes away the tasks of the one before.
    template = spec["TaskTemplate"]
    template["ForceUpdate"] = template.get("ForceUpdate", 0) + 1
    return True


def _first(tasks: Sequence[Details]) -> Details | None:
    """The task that is the run; others were made by a manager that knew no better."""
    return min(tasks, key=lambda task: str(task["CreatedAt"]), default=None)


def _state(service: Details, tasks: Sequence[Details]) -> RunState:
    """What the swarm knows of a run, in the executor's words."""
    run_id = str(service["ID"])
    task = _first(tasks)
    marks = service["Spec"]["Labels"]
    stopped = STOPPED_LABEL in marks
    if task is None:
        if service["Spec"]["Mode"]["ReplicatedJob"]["TotalCompletions"]:
            return RunState(run_id, Phase.RUNNING)
        over = stopped or STARTED_LABEL in marks
        return RunState(run_id, Phase.ENDED if over else Phase.CREATED)
    status = task["Status"]
    started_at = unix_time(task["CreatedAt"])
    if status["State"] not in _OVER:
        return RunState(run_id, Phase.RUNNING, started_at=started_at)
    container = status.get("ContainerStatus") or {}
    exit_code: int | None = None
    if status["State"] == "complete":
        exit_code = 0
    elif container.get("ExitCode", 0) > 0 and (
        status["State"] == "failed"
        # Only of what was asked to end: and 0 is also what never began is left with.
        or (status["State"] == "shutdown" and stopped)
    ):
        exit_code = container["ExitCode"]
    error = None if exit_code is not None or stopped else status.get("Err") or status.get("Message")
    return RunState(
        run_id,
        Phase.ENDED,
        exit_code,
        started_at,
        unix_time(status.get("Timestamp")),
        error=error,
    )


def _vanished(host: str, run_id: str) -> RunVanished:
    return RunVanished(f"service {run_id[:12]} is not on host {host} any more")
