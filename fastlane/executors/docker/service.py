"""What a run's service looks like: its specification, how that is changed, its state read back."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastlane.errors import RunVanished
from fastlane.executors.base import Phase, RunSpec, RunState
from fastlane.executors.docker.container import (
    DEFAULT_PIDS,
    LogLimits,
    container_name,
    engine_reference,
    labels,
    log_driver,
    nano_cpus,
    unix_time,
)

STARTED_LABEL = "fastlane.started"
"""On a service that may make its task: when it was allowed to, see :func:`boot_mark`."""
STOPPED_LABEL = "fastlane.stopped"
"""On a service whose task was removed."""
# A task in one of these states does not change any more.
OVER = frozenset({"complete", "failed", "rejected", "shutdown", "orphaned", "remove"})
# Of these, the states of tasks that the swarm itself has ended.
TAKEN_AWAY = frozenset({"shutdown", "orphaned", "remove"})

Details = Mapping[str, Any]


def service_spec(spec: RunSpec, *, installation: str, log_limits: LogLimits) -> dict[str, Any]:
    """The body of ``POST /services/create``.

    Source: https://docs.docker.com/reference/api/engine/version/v1.47/#tag/Service/operation/ServiceCreate
    """
    asked = spec.resources
    limits: dict[str, int] = {"Pids": asked.pids or DEFAULT_PIDS}
    if asked.cpus is not None:
        limits["NanoCPUs"] = nano_cpus(asked.cpus)
    if asked.memory_bytes is not None:
        limits["MemoryBytes"] = asked.memory_bytes
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
                # Engines before 25 have no such switch for services, and ignore it.
                "Privileges": {"NoNewPrivileges": True},
                "Hosts": [f"{address} {name}" for name, address in spec.dns_entries.items()],
            },
            "Resources": {"Limits": limits},
            "RestartPolicy": {"Condition": "none"},
            "LogDriver": {"Name": "local", "Options": log_driver(log_limits)},
        },
    }


def _literal(text: str) -> str:
    """What a swarm turns into *text*: it expands environments as Go templates.

    Source: https://docs.docker.com/reference/cli/docker/service/create/#create-services-using-templates
    """
    return text.replace("{{", '{{"{{"}}')


def boot_mark() -> str:
    """This moment by a clock that is never set, and the boot of the machine whose clock it is."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot_id} {time.clock_gettime(time.CLOCK_BOOTTIME):.3f}"


def seconds_since_mark(mark: str) -> float | None:
    """Seconds since :func:`boot_mark` gave *mark*; None where that was another machine or boot."""
    boot_id, _, then = mark.partition(" ")
    now_id, _, now = boot_mark().partition(" ")
    return float(now) - float(then) if boot_id == now_id else None


def complete_one(spec: dict[str, Any], mark: str) -> bool:
    """Let the service make its task; False when it was started or stopped before."""
    job = spec["Mode"]["ReplicatedJob"]
    if job["TotalCompletions"] or {STARTED_LABEL, STOPPED_LABEL} & spec["Labels"].keys():
        return False
    job["TotalCompletions"] = 1
    spec["Labels"][STARTED_LABEL] = mark
    return True


def complete_nothing(spec: dict[str, Any]) -> bool:
    job = spec["Mode"]["ReplicatedJob"]
    if not job["TotalCompletions"]:
        return False
    job["TotalCompletions"] = 0
    return True


def mark_stopped(spec: dict[str, Any]) -> bool:
    if STOPPED_LABEL in spec["Labels"]:
        return False
    spec["Labels"][STOPPED_LABEL] = "1"
    complete_nothing(spec)
    # This makes it another job to the swarm, which removes the tasks of the previous one.
    template = spec["TaskTemplate"]
    template["ForceUpdate"] = template.get("ForceUpdate", 0) + 1
    return True


def first_task(tasks: Sequence[Details]) -> Details | None:
    """The task that is the run; a restarted manager may have made others."""
    return min(tasks, key=lambda task: str(task["CreatedAt"]), default=None)


def state_of(service: Details, tasks: Sequence[Details]) -> RunState:
    """The run, as the swarm knows it."""
    run_id = str(service["ID"])
    task = first_task(tasks)
    marks = service["Spec"]["Labels"]
    stopped = STOPPED_LABEL in marks
    if task is None:
        if service["Spec"]["Mode"]["ReplicatedJob"]["TotalCompletions"]:
            return RunState(run_id, Phase.RUNNING)
        over = stopped or STARTED_LABEL in marks
        return RunState(run_id, Phase.ENDED if over else Phase.CREATED)
    status = task["Status"]
    started_at = unix_time(task["CreatedAt"])
    if status["State"] not in OVER:
        return RunState(run_id, Phase.RUNNING, started_at=started_at)
    container = status.get("ContainerStatus") or {}
    exit_code: int | None = None
    if status["State"] == "complete":
        exit_code = 0
    elif container.get("ExitCode", 0) > 0 and (
        status["State"] == "failed"
        # Only of what was asked to stop. A task that never began has 0, too.
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


def vanished(host: str, run_id: str) -> RunVanished:
    return RunVanished(f"service {run_id[:12]} is no longer on host {host}")
