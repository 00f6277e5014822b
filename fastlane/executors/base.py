"""The executor interface: how a command runs on a host and is found again.

This page is all you need to write another executor; ``tests/contracts`` holds every one of them to
it, and :mod:`.registry` says how it becomes known. Words: a *host* is a place to run on, named by a
string of the configuration; a *run* is what the executor makes for one execution (a container, a
process, a service); its ``run_id`` is the executor's own handle.

The path of a run is ``pull → create → start → logs and wait, side by side → inspect → remove``;
``stop`` may come at any point after ``create``. Every method is safe to repeat, and after a crash
of the caller any of them may be called again by another process that knows only the host and the
execution id.

An executor raises these errors only; each says whose fault it was:

* :class:`~fastlane.errors.HostUnavailable`: the host's. Whether the call took effect is unknown.
* ``PullFailed``, ``StartFailed``: the job's.
* ``RunVanished``: somebody removed the run.

Every call ends within a bounded time, except ``pull``, ``logs`` and ``wait``: for those three the
silence on the wire is bounded, not the whole.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Protocol

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from fastlane.image import ImageReference
from fastlane.model import Farm, Network, PullPolicy, Resources, Stream


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a farm may ask of an executor. What it cannot do is refused or reported at the start."""

    isolated: bool = True
    """Runs cannot read or change the machine that the server runs on."""
    images: bool = True
    """Runs have an image."""
    limits: frozenset[str] = frozenset({"cpus", "memory", "pids"})
    """Which resources of a run it can limit."""
    spares_host: bool = False
    """Where nothing limits the memory of a run, a tenth of its host's is left to the host."""
    networks: frozenset[Network] = frozenset({Network.BRIDGE})
    """To which a run can be limited."""


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Everything that an executor needs to know about an execution."""

    execution_id: str
    task_id: str
    job_id: str
    image: ImageReference
    argv: tuple[str, ...]
    envs: Mapping[str, str] = field(default_factory=dict)
    pull_policy: PullPolicy = PullPolicy.MISSING
    resources: Resources = Resources()
    dns_entries: Mapping[str, str] = field(default_factory=dict)
    network: Network = Network.BRIDGE
    spare_host: bool = False
    """Nothing limits the memory: see :attr:`Capabilities.spares_host`."""
    options: object = None
    """The farm's options for its executor (:attr:`~fastlane.model.Farm.options`); None where the
    farm has none, or is no longer configured."""


class Phase(StrEnum):
    """How far a run is."""

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

    @property
    def ran_seconds(self) -> float | None:
        """How long an ended run lasted; None where the host does not say it."""
        if self.phase is not Phase.ENDED or self.started_at is None or self.finished_at is None:
            return None
        return self.finished_at - self.started_at


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
    """Pieces in the order they were written, and the bookmark after the last of them."""

    pieces: Sequence[LogPiece]
    bookmark: str


@dataclass(frozen=True, slots=True)
class EngineVersion:
    """What serves a host."""

    name: str
    version: str


class Executor(ABC):
    """Runs commands on hosts. See the module's docstring for the common rules."""

    name: str
    """As in ``EXECUTOR=`` and in ``/status/``."""

    @abstractmethod
    async def open(self, installation: str) -> None:
        """Get ready (sessions, threads). An unreachable host is not an error here.

        :param installation: marks our runs among those of other installations on the same hosts.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close all connections. Runs continue without us. Safe to repeat."""

    @abstractmethod
    async def check(self, host: str) -> None:
        """Return when *host* answers.

        :raises HostUnavailable: it does not.
        """

    def engine(self, host: str) -> EngineVersion | None:
        """What *host* said of itself when it was last connected to.

        None before that, and where there is no engine.
        """
        return None

    @abstractmethod
    async def pull(self, host: str, spec: RunSpec, progress: Callable[[str], None]) -> None:
        """Make ``spec.image`` ready on *host*, as its pull policy says.

        One pull per host and image at a time, shared by all that wait for it; *progress* is called
        with short lines for people. Cancelling one waiter does not cancel the others' pull.

        :raises PullFailed: the image is not available.
        """

    @abstractmethod
    async def create(self, host: str, spec: RunSpec) -> str:
        """Make the run without starting it, or find the existing one for this execution.

        :return: its run id.
        :raises StartFailed: the host refuses such a run (a malformed limit, say).
        :raises PullFailed: the image is not there.
        :raises RunVanished: as :meth:`find`; another one is never made in its place.
        """

    @abstractmethod
    async def find(self, host: str, execution_id: str) -> RunState | None:
        """The run for *execution_id* on *host*, or None when there is none.

        :raises RunVanished: there was one, but its remains do not say how it ended.
        """

    @abstractmethod
    async def start(self, host: str, run_id: str) -> None:
        """Start a created run; one that was started already is left alone.

        :raises StartFailed: the command cannot be executed; the run stays as created. (Where an
            init runs before the command, :meth:`wait` says so instead.)
        :raises NotStarted: the host refused for reasons of its own; the run stays as created.
        :raises RunVanished: there is no such run.
        :raises RemovedUnstarted: the same, and the host tells that this call started nothing.
        """

    @abstractmethod
    async def inspect(self, host: str, run_id: str) -> RunState:
        """The state of the run.

        :raises RunVanished: there is no such run.
        """

    @abstractmethod
    async def wait(self, host: str, run_id: str) -> RunState:
        """Return the run's state once it has ended, at once when it has already.

        :raises RunVanished: it was removed, or the host does not know how it ended.
        :raises StartFailed: its command could not be executed, where a host knows that only now.
        """

    async def is_last(self, host: str, end: RunState) -> bool:
        """Whether *end*, as :meth:`wait` has returned it, stays the end of the run.

        Asked after the log was read, before the end counts. False where someone has the same run
        run again: it is waited for once more, and its log continues.
        """
        return True

    async def ran_seconds(self, host: str, run_id: str) -> float:
        """How long a started run has been running, by its host alone; rather less than more.

        By a clock that is never set, where the host shows one, otherwise by its wall clock. The
        caller's clocks play no part. An executor that cannot tell says 0, and the time limit of a
        run begins again when its owner is restarted.

        :raises RunVanished: there is no such run.
        """
        return 0.0

    @abstractmethod
    def logs(
        self, host: str, run_id: str, *, bookmark: str, ended: asyncio.Event
    ) -> AsyncGenerator[LogBatch, None]:
        """Output of a started run after *bookmark*, as it comes; returns when all was yielded.

        Both streams, in the order in which the host has them, every byte once (a host may hold an
        unfinished line back until it ends). The caller sets *ended* when :meth:`wait` has returned:
        from then on the iterator must not hang, and it returns only when the log is complete. After
        an error the caller asks again with the last bookmark it stored. Where the host no longer
        has what follows the bookmark (rotated away), it continues with what is there, after a
        ``FASTLANE`` piece that says so.

        :raises RunVanished: the run was removed; what was not read is gone.
        """

    @abstractmethod
    async def stop(self, host: str, run_id: str, *, grace_seconds: float) -> None:
        """Ask the run to end and kill it after *grace_seconds*. Returns when it has ended, is gone,
        or was never started (it then never will run anything).
        """

    @abstractmethod
    async def remove(self, host: str, run_id: str) -> None:
        """Remove an ended (or never started) run; one that is gone is not an error."""

    async def archive(self, host: str, run_id: str) -> None:  # noqa: B027 (optional)
        """Keep an ended run for people to look at, where :meth:`find` no longer sees it.

        It is still among :meth:`runs`, and is removed like any other. One that is gone is not an
        error. An executor whose ended runs are in nobody's way does nothing.
        """

    async def disk_bytes(self, host: str, run_id: str) -> int | None:
        """What a run has written to its own file system; None where that is not to be watched.

        :raises RunVanished: there is no such run.
        """
        return None

    @abstractmethod
    async def runs(self, host: str) -> Sequence[ListedRun]:
        """Every run of this installation on *host*, by label and never by name."""


# -- what the configuration asks of an executor ---------------------------------------------------


class FarmOptions(BaseModel):
    """The keys of a farm in ``DOCKER_HOSTS`` that are its executor's own; none by default.

    A field's description completes the sentence "KEY must be …".
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, validate_by_name=True
    )

    @property
    def connection(self) -> object:
        """How the farm's hosts are reached; the same in all farms that share a host."""
        return None

    @property
    def private_images(self) -> bool:
        """Whether the farm's hosts may have images that are not for everyone."""
        return False

    def shown(self) -> dict[str, object]:
        """The keys as they may be shown: nothing secret."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)


class Settings(Protocol):
    """The server's own options that executors read."""

    @property
    def data_dir(self) -> Path: ...
    @property
    def docker_host(self) -> str: ...
    @property
    def docker_tls_verify(self) -> bool: ...
    @property
    def docker_cert_path(self) -> str: ...
    @property
    def registries_allowed(self) -> tuple[str, ...]: ...


class ExecutorFactory(ABC):
    """What is known of an executor before there is one; see :mod:`.registry`."""

    name: ClassVar[str]
    """As in ``EXECUTOR=`` and as a farm's ``executor``."""
    schemes: ClassVar[frozenset[str]] = frozenset()
    """The schemes of its hosts. A host with one of them needs no ``executor`` in its farm."""
    capabilities: ClassVar[Capabilities] = Capabilities()
    options: ClassVar[type[FarmOptions]] = FarmOptions

    @abstractmethod
    def default_host(self, settings: Settings) -> tuple[str, str | None]:
        """The host to use without ``DOCKER_HOSTS``, and the option that names it, if one does."""

    @abstractmethod
    def make(self, settings: Settings, farms: Sequence[Farm]) -> Executor:
        """The executor of *farms*, not open yet. It must do for hosts of no farm as well.

        :raises ConfigError: what the options name cannot be used.
        """

    def check_host(self, host: str, options: FarmOptions | None = None) -> None:  # noqa: B027
        """Accept *host* in a farm with *options*.

        :raises ValueError: it is malformed.
        """

    def warnings(self, settings: Settings, farm: Farm) -> Iterable[str]:
        """A sentence for everything in *farm* that is allowed, but probably a mistake."""
        return ()
