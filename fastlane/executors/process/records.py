"""What the files of a run say about it. See :mod:`.shim`, which writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastlane.errors import RunVanished
from fastlane.executors.base import Phase, RunState
from fastlane.executors.process import shim
from fastlane.executors.process.supervisor import end_unsupervised, is_supervised

_NUMBER = (int, float)
# What must be in a run's records, of which types, before anything is made of them.
SPEC_FIELDS: Mapping[str, tuple[type, ...]] = dict.fromkeys(
    ("run_id", "installation", "execution_id", "task_id", "job_id"), (str,)
)
STATE_FIELDS: Mapping[str, tuple[type, ...]] = {
    "pid": (int,),
    "pid_ticks": (int, type(None)),
    "shim_pid": (int,),
    "shim_ticks": (int, type(None)),
    "boot": (str,),
    "started_at": _NUMBER,
}
EXIT_FIELDS: Mapping[str, tuple[type, ...]] = {"exit_code": (int,), "finished_at": _NUMBER}


class Damaged(Exception):
    """A record of a run cannot be read, though the disk answers."""


@dataclass(frozen=True, slots=True)
class View:
    """A run's state, and what of it is the executor's own business."""

    state: RunState
    processes: dict[str, Any] | None
    starting: bool = False
    """A supervisor has it, and has not said yet whether the command executes."""
    refused: str | None = None
    """Why it can never be started (again)."""

    @property
    def over(self) -> bool:
        """Nothing about it will change any more."""
        return self.state.phase is Phase.ENDED or self.refused is not None


def record_in(path: Path, fields: Mapping[str, tuple[type, ...]]) -> dict[str, Any] | None:
    """The record in *path*; None when there is none.

    :raises Damaged: there is one that has not these *fields*.
    """
    try:
        record = shim.read(str(path))
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path.name}: {error}") from error
    except IsADirectoryError as error:
        raise Damaged(f"{path.name} is a directory") from error
    if record is None:
        return None
    if not isinstance(record, dict):
        raise Damaged(f"{path.name} holds no object")
    for name, types in fields.items():
        if not isinstance(record.get(name), types):
            raise Damaged(f"{path.name}: {name!r} is missing or malformed")
    return record


def spec_in(directory: Path) -> dict[str, Any] | None:
    """What the run in *directory* was to run; None when there is none.

    :raises Damaged: there is one that cannot be read.
    """
    for _ in range(2):
        spec = record_in(directory / shim.SPEC, SPEC_FIELDS)
        # A run comes and goes whole: with the one file there the other one was overlooked, or lost.
        if spec is not None or not (directory / shim.LOCK).exists():
            return spec
    raise Damaged(f"{shim.SPEC} is missing")


def view_of(directory: Path, run_id: str) -> View:
    """How the run in *directory* is.

    :raises Damaged: nobody can tell.
    :raises RunVanished: its supervisor is gone.
    """
    # Read in the reverse of the order in which they are written.
    end = record_in(directory / shim.EXIT, EXIT_FIELDS)
    try:
        state = record_in(directory / shim.STATE, STATE_FIELDS)
    except Damaged:
        if end is None:
            raise
        # Only when it began is not known.
        state = None
    if end is None and state is not None and not is_supervised(state):
        end = record_in(directory / shim.EXIT, EXIT_FIELDS)
        if end is None:
            end_unsupervised(directory, state)
            raise RunVanished(f"run {run_id}: its supervisor is gone")
    started_at = state["started_at"] if state else None
    if end is not None:
        error = None if end.get("error") is None else str(end["error"])
        refused = None
        if end.get("start_failed") or end.get("never_started"):
            refused, started_at = error or "it could not be started", None
        return View(
            RunState(
                run_id,
                Phase.CREATED if end.get("start_failed") else Phase.ENDED,
                exit_code=end["exit_code"],
                started_at=started_at,
                finished_at=end["finished_at"],
                error=error,
            ),
            state,
            refused=refused,
        )
    if state is None:
        return View(RunState(run_id, Phase.CREATED), None)
    if (directory / shim.STARTING).exists():
        return View(RunState(run_id, Phase.CREATED), state, starting=True)
    return View(RunState(run_id, Phase.RUNNING, started_at=started_at), state)
