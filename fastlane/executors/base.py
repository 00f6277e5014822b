"""The executor interface: how a command runs on a host and is found again.

A stranger should be able to write another executor from this page; ``tests/contracts`` holds every
one of them to it. Words: a *host* is a place to run on, named by a string of the configuration; a
*run* is what the executor makes for one execution (a container, a process, a service); its
``run_id`` is the executor's own handle.

The path of a run is ``pull → create → start → logs and wait, side by side → inspect → remove``;
``stop`` may come at any point behind ``create``. Every method is safe to repeat, and after a crash
of the caller any of them may be called again by another process that knows nothing but the host
and the execution id.

Errors say whose fault it was, and nothing else leaves an executor:

* :class:`~fastlane.errors.HostUnavailable`: the host's. Whether the call took effect is unknown.
* ``PullFailed``, ``StartFailed``: the job's.
* ``RunVanished``: somebody removed the run.

Every call but ``pull``, ``logs`` and ``wait`` ends within a bounded time; those three bound the
silence on the wire, not the whole.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from fastlane.model import ImageReference, PullPolicy, RegistryCredentials, Resources, Stream


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Everything that an executor is told about an execution."""

    execution_id: str
    task_id: str
    job_id: str
    image: ImageReference
    argv: tuple[str, ...]
    envs: Mapping[str, str] = field(default_factory=dict)
    pull_policy: PullPolicy = PullPolicy.MISSING
    resources: Resources = Resources()
    dns_entries: Mapping[str, str] = field(default_factory=dict)
    credentials: RegistryCredentials | None = None
    """For the image's registry; None where the executor is to find its own."""


class Phase(StrEnum):
    """Where a run stands."""

    CREATED = "created"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class RunState:
    """What the host knows of a run. Times are unix seconds by the host's clock."""

    run_id: str
    phase: Phase
    exit_code: int | None = None
    """Set when it has ended."""
    started_at: float | None = None
    finished_at: float | None = None
    oom: bool = False
    error: str | None = None
    """What the host says went wrong, where the output does not say it."""


@dataclass(frozen=True, slots=True)
class ListedRun:
    """A run of this installation that a host knows of."""

    execution_id: str
    run_id: str
    phase: Phase
    task_id: str = ""
    job_id: str = ""


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Output of a run as it was read: a record without its number.

    Does not end inside a UTF-8 character unless the stream ends there or is not UTF-8.
    """

    at: float
    stream: Stream
    data: bytes


@dataclass(frozen=True, slots=True)
class LogBatch:
    """Pieces in the order they were written, and the bookmark behind the last of them."""

    pieces: Sequence[LogPiece]
    bookmark: str


class Executor(ABC):
    """Runs commands on hosts. See the module's docstring for the common rules."""

    name: str
    """As in ``EXECUTOR=`` and in ``/status/``."""

    @abstractmethod
    async def open(self) -> None:
        """Make ready (sessions, directories). A host that is away is no error here."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of connections. Runs go on without us. Safe to repeat."""

    @abstractmethod
    async def check(self, host: str) -> None:
        """Return when *host* answers.

        :raises HostUnavailable: it does not.
        """

    @abstractmethod
    async def pull(self, host: str, spec: RunSpec, progress: Callable[[str], None]) -> None:
        """Make ``spec.image`` ready on *host*, as its pull policy says.

        One pull per host and image at a time, shared by all who wait for it; *progress* is called
        with short lines for people. Cancelling one waiter does not cancel the others' pull.

        :raises PullFailed: the image cannot be had.
        """

    @abstractmethod
    async def create(self, host: str, spec: RunSpec) -> str:
        """Make the run without starting it, or find the one that is there for this execution.

        :return: its run id.
        :raises StartFailed: the host refuses such a run (a malformed limit, say).
        :raises PullFailed: the image is not there.
        :raises RunVanished: as :meth:`find`; another one is never made in its place.
        """

    @abstractmethod
    async def find(self, host: str, execution_id: str) -> RunState | None:
        """The run for *execution_id* on *host*, or None when there is none.

        :raises RunVanished: there was one, and what is left of it can never be made out.
        """

    @abstractmethod
    async def start(self, host: str, run_id: str) -> None:
        """Start a created run; one that was started already is left alone.

        :raises StartFailed: the command cannot be executed; the run stays as created. (Where an
            init stands before the command, :meth:`wait` says so instead.)
        :raises NotStarted: the host refused for reasons of its own; the run stays as created.
        :raises RunVanished: there is no such run.
        """

    @abstractmethod
    async def inspect(self, host: str, run_id: str) -> RunState:
        """Where the run stands.

        :raises RunVanished: there is no such run.
        """

    @abstractmethod
    async def wait(self, host: str, run_id: str) -> RunState:
        """Return the run's state once it has ended, at once when it has already.

        :raises RunVanished: it was removed.
        :raises StartFailed: its command could not be executed, where a host knows that only now.
        """

    @abstractmethod
    def logs(
        self, host: str, run_id: str, *, bookmark: str, ended: asyncio.Event
    ) -> AsyncGenerator[LogBatch, None]:
        """Output of a started run behind *bookmark*, as it comes; returns when all was yielded.

        Both streams, in the order in which the host has them, every byte once (a host may hold an
        unfinished line back until it ends). The caller sets
        *ended* when :meth:`wait` has returned: from then on the iterator must not hang, and it
        returns only when the log is complete. After an error the caller asks again with the last
        bookmark it stored. Where the host no longer has what follows the bookmark (rotated away),
        it goes on with what is there, behind a ``FASTLANE`` piece that says so.

        :raises RunVanished: the run was removed; what was not read is gone.
        """

    @abstractmethod
    async def stop(self, host: str, run_id: str, *, grace_seconds: float) -> None:
        """Ask the run to end and kill it after *grace_seconds*. Returns when it has ended, or is
        gone, or never was started (it then never will run anything).
        """

    @abstractmethod
    async def remove(self, host: str, run_id: str) -> None:
        """Remove an ended (or never started) run; one that is gone is no error."""

    async def set_aside(self, host: str, run_id: str) -> None:  # noqa: B027 (optional)
        """Keep an ended run for people to look at, where :meth:`find` no longer sees it.

        It is still among :meth:`runs`, and is removed like any other. One that is gone is no
        error. Where nothing is in anybody's way there is nothing to do.
        """

    @abstractmethod
    async def runs(self, host: str) -> Sequence[ListedRun]:
        """Every run of this installation on *host*, by label and never by name."""
