"""What a run's container looks like: its name, labels, configuration, and its state read back.

A submitter chooses the image, command, environment, limits and extra hosts; everything else is
fixed here: no mounts, no privileges, no network other than what the farm says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastlane.executors.base import ListedRun, Phase, RunSpec, RunState
from fastlane.image import ImageReference
from fastlane.model import Network, Resources

INSTALLATION_LABEL = "fastlane.installation"
EXECUTION_LABEL = "fastlane.execution"
TASK_LABEL = "fastlane.task"
JOB_LABEL = "fastlane.job"

# Enough for any build tool, few enough that a fork bomb leaves its host usable.
DEFAULT_PIDS = 4096
# The engine's states in which a container is on its way out and can no longer be relied on.
GOING = frozenset({"removing", "dead"})
_PHASES = {"created": Phase.CREATED, "exited": Phase.ENDED}


@dataclass(frozen=True, slots=True)
class LogLimits:
    """How much log a host keeps of one container, in ``max_files`` files of ``max_bytes`` each.

    A log is stored while it is written, so this only needs to bridge the time when nobody reads.
    """

    max_bytes: int = 256 * 1024 * 1024
    max_files: int = 4


def is_run_of(labels: Mapping[str, str] | None, installation: str, execution_id: str) -> bool:
    """Whether *labels* are those of our run for the execution."""
    found = labels or {}
    return (found.get(INSTALLATION_LABEL), found.get(EXECUTION_LABEL)) == (
        installation,
        execution_id,
    )


def listed_run(labels: Mapping[str, str], run_id: str, phase: Phase) -> ListedRun:
    """A run by its labels."""
    return ListedRun(
        labels[EXECUTION_LABEL],
        run_id,
        phase,
        labels.get(TASK_LABEL, ""),
        labels.get(JOB_LABEL, ""),
    )


def container_name(execution_id: str) -> str:
    return f"fastlane-{execution_id}"


def ended_name(execution_id: str) -> str:
    """The name of a container that is kept for people to look at."""
    return f"fastlane-ended-{execution_id}"


def engine_reference(image: ImageReference) -> str:
    """The reference as the engine looks it up: a digest alone decides where there is one."""
    return f"{image.name}@{image.digest}" if image.digest else str(image)


def labels(spec: RunSpec, installation: str) -> dict[str, str]:
    return {
        INSTALLATION_LABEL: installation,
        EXECUTION_LABEL: spec.execution_id,
        TASK_LABEL: spec.task_id,
        JOB_LABEL: spec.job_id,
    }


def log_driver(limits: LogLimits) -> dict[str, str]:
    """The options of the ``local`` driver.

    Unlike ``json-file`` it keeps every byte, where that one stores U+FFFD for whatever is not
    UTF-8, also for both halves of a character that its 16 KiB line split has cut.
    """
    return {
        "max-size": str(limits.max_bytes),
        "max-file": str(limits.max_files),
        "compress": "false",
    }


def container_config(
    spec: RunSpec, *, installation: str, log_limits: LogLimits, network: str | None = None
) -> dict[str, Any]:
    """The body of ``POST /containers/create``.

    :param network: the id of the run's own network, if it has one.

    Source: https://docs.docker.com/reference/api/engine/version/v1.47/#tag/Container/operation/ContainerCreate
    """
    return {
        "Image": engine_reference(spec.image),
        "Cmd": list(spec.argv),
        "Env": [f"{name}={value}" for name, value in spec.envs.items()],
        "Labels": labels(spec, installation),
        "Tty": False,
        "OpenStdin": False,
        "HostConfig": {
            # PID 1 ignores SIGTERM unless it handles it; an init passes it on and reaps.
            "Init": True,
            "Privileged": False,
            "CapDrop": ["NET_RAW", "MKNOD"],
            "SecurityOpt": ["no-new-privileges"],
            "RestartPolicy": {"Name": "no"},
            # An engine that removes on exit loses the log and the exit code.
            "AutoRemove": False,
            "ExtraHosts": [f"{name}:{address}" for name, address in spec.dns_entries.items()],
            "LogConfig": {"Type": "local", "Config": log_driver(log_limits)},
            **_network(spec, network),
            **_limits(spec.resources),
        },
    }


def _network(spec: RunSpec, network: str | None) -> dict[str, Any]:
    if network is not None:
        # An engine looks names up by itself, and by default wherever its own machine does.
        return {"NetworkMode": network, "Dns": ["127.0.0.1"]}
    return {"NetworkMode": "none"} if spec.network is Network.NONE else {}


def _limits(asked: Resources) -> dict[str, int]:
    limits = {"PidsLimit": DEFAULT_PIDS if asked.pids is None else asked.pids}
    if asked.cpus is not None:
        limits["NanoCpus"] = nano_cpus(asked.cpus)
    if asked.memory_bytes is not None:
        # Equal values mean that nothing is swapped beyond the limit.
        limits["Memory"] = limits["MemorySwap"] = asked.memory_bytes
    return limits


def nano_cpus(cpus: float) -> int:
    return math.ceil(cpus * 1e9)


def phase_of(status: str) -> Phase:
    """The phase for the engine's status (``paused`` and ``restarting`` still run)."""
    return _PHASES.get(status, Phase.RUNNING)


def run_state(details: Mapping[str, Any]) -> RunState:
    """What ``GET /containers/{id}/json`` says, in the executor's words."""
    state = details["State"]
    phase = phase_of(state["Status"])
    started_at, finished_at = unix_time(state.get("StartedAt")), unix_time(state.get("FinishedAt"))
    if started_at is not None and finished_at is not None:
        # Under load the engine notes the start of a short run after its end.
        started_at = min(started_at, finished_at)
    return RunState(
        run_id=details["Id"],
        phase=phase,
        exit_code=state["ExitCode"] if phase is Phase.ENDED else None,
        started_at=started_at,
        finished_at=finished_at,
        oom=bool(state.get("OOMKilled")),
        error=state.get("Error") or None,
    )


def unix_time(text: str | None) -> float | None:
    """Unix seconds of an RFC 3339 time; the engine writes the year 1 for "never"."""
    if not text or text.startswith("0001-"):
        return None
    return datetime.fromisoformat(text).astimezone(UTC).timestamp()
