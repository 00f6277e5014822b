"""Executors that fail in a named way, for what a real engine cannot be made to do on cue."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace

from fastlane.errors import HostUnavailable, RunVanished
from fastlane.executors.base import (
    Executor,
    ListedRun,
    LogBatch,
    LogPiece,
    Phase,
    RunSpec,
    RunState,
)
from fastlane.model import Stream


@dataclass
class FakeRun:
    """A run in memory; ``end`` ends it."""

    spec: RunSpec
    state: RunState
    output: list[bytes] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, exit_code: int = 0) -> None:
        self.state = replace(
            self.state, phase=Phase.ENDED, exit_code=exit_code, finished_at=time.monotonic()
        )
        self.ended.set()


class MemoryExecutor(Executor):
    """Runs nothing; every run lasts until its test ends it (or at once with ``instant``)."""

    name = "memory"

    def __init__(self, *, instant: bool = False) -> None:
        self.instant = instant
        self.runs_by_id: dict[str, FakeRun] = {}
        self.calls: Counter[str] = Counter()
        self.changed = asyncio.Condition()

    async def open(self, installation: str) -> None: ...

    async def close(self) -> None: ...

    async def check(self, host: str) -> None:
        self.calls["check"] += 1

    async def pull(self, host: str, spec: RunSpec, progress: Callable[[str], None]) -> None:
        self.calls["pull"] += 1

    async def create(self, host: str, spec: RunSpec) -> str:
        self.calls["create"] += 1
        run_id = f"run-{spec.execution_id}"
        if run_id not in self.runs_by_id:
            self.runs_by_id[run_id] = FakeRun(spec, RunState(run_id, Phase.CREATED))
        return run_id

    async def find(self, host: str, execution_id: str) -> RunState | None:
        self.calls["find"] += 1
        run = self.runs_by_id.get(f"run-{execution_id}")
        return run.state if run else None

    async def start(self, host: str, run_id: str) -> None:
        run = self._run(run_id)
        if run.state.phase is Phase.CREATED:
            self.calls["start"] += 1
            # The host's clock is nobody else's.
            run.state = replace(run.state, phase=Phase.RUNNING, started_at=time.monotonic())
            run.output.append(b"out\n")
            if self.instant:
                run.end()
        async with self.changed:
            self.changed.notify_all()

    async def inspect(self, host: str, run_id: str) -> RunState:
        return self._run(run_id).state

    async def wait(self, host: str, run_id: str) -> RunState:
        run = self._run(run_id)
        await run.ended.wait()
        return self._run(run_id).state

    async def ran_seconds(self, host: str, run_id: str) -> float:
        started_at = self._run(run_id).state.started_at
        return 0.0 if started_at is None else time.monotonic() - started_at

    async def logs(
        self, host: str, run_id: str, *, bookmark: str, ended: asyncio.Event
    ) -> AsyncGenerator[LogBatch, None]:
        run = self._run(run_id)
        read = int(bookmark or "0")
        while True:
            over = run.ended.is_set()
            while read < len(run.output):
                data = run.output[read]
                stream = Stream.STDERR if data.startswith(b"err") else Stream.STDOUT
                piece = LogPiece(1.0, stream, data)
                read += 1
                yield LogBatch([piece], str(read))
            if over:
                return
            await run.ended.wait()

    async def stop(self, host: str, run_id: str, *, grace_seconds: float) -> None:
        self.calls["stop"] += 1
        run = self.runs_by_id.get(run_id)
        if run is not None and run.state.phase is Phase.RUNNING:
            run.end(143)

    async def remove(self, host: str, run_id: str) -> None:
        self.calls["remove"] += 1
        self.runs_by_id.pop(run_id, None)

    async def runs(self, host: str) -> Sequence[ListedRun]:
        return [
            ListedRun(run.spec.execution_id, run_id, run.state.phase)
            for run_id, run in self.runs_by_id.items()
        ]

    async def started(self, execution_id: str) -> FakeRun:
        """The run of an execution, once it was started."""
        run_id = f"run-{execution_id}"

        def running() -> bool:
            run = self.runs_by_id.get(run_id)
            return run is not None and run.state.phase is not Phase.CREATED

        async with self.changed:
            await asyncio.wait_for(self.changed.wait_for(running), 10)
        return self.runs_by_id[run_id]

    def _run(self, run_id: str) -> FakeRun:
        try:
            return self.runs_by_id[run_id]
        except KeyError:
            raise RunVanished(f"no run {run_id}") from None


class LostAnswer(MemoryExecutor):
    """The first start takes effect, but its answer never arrives."""

    lost = False

    async def start(self, host: str, run_id: str) -> None:
        await super().start(host, run_id)
        if not self.lost:
            self.lost = True
            raise HostUnavailable(host, "connection reset")


class LostCreateAnswer(MemoryExecutor):
    """The first create takes effect, but its answer never arrives."""

    lost = False

    async def create(self, host: str, spec: RunSpec) -> str:
        run_id = await super().create(host, spec)
        if not self.lost:
            self.lost = True
            raise HostUnavailable(host, "connection reset")
        return run_id


class DeadHost(MemoryExecutor):
    """Hosts in ``dead`` answer nothing."""

    def __init__(self, *dead: str, instant: bool = False) -> None:
        super().__init__(instant=instant)
        self.dead = set(dead)
        self.refusals = asyncio.Semaphore(0)
        """Released with every refusal."""

    def _answer(self, host: str) -> None:
        if host in self.dead:
            self.refusals.release()
            raise HostUnavailable(host, "no route to host")

    async def pull(self, host: str, spec: RunSpec, progress: Callable[[str], None]) -> None:
        self._answer(host)
        await super().pull(host, spec, progress)

    async def create(self, host: str, spec: RunSpec) -> str:
        self._answer(host)
        return await super().create(host, spec)

    async def find(self, host: str, execution_id: str) -> RunState | None:
        self._answer(host)
        return await super().find(host, execution_id)

    async def inspect(self, host: str, run_id: str) -> RunState:
        self._answer(host)
        return await super().inspect(host, run_id)

    async def wait(self, host: str, run_id: str) -> RunState:
        self._answer(host)
        return await super().wait(host, run_id)

    async def remove(self, host: str, run_id: str) -> None:
        self._answer(host)
        await super().remove(host, run_id)


class SlowPull(MemoryExecutor):
    """A pull lasts until the test lets it go on."""

    def __init__(self) -> None:
        super().__init__(instant=True)
        self.pulling = asyncio.Event()
        self.go_on = asyncio.Event()

    async def pull(self, host: str, spec: RunSpec, progress: Callable[[str], None]) -> None:
        self.pulling.set()
        await self.go_on.wait()
        await super().pull(host, spec, progress)


class FrozenBeforeCreate(MemoryExecutor):
    """The first create is only carried out once the test lets it go on, as by a frozen owner."""

    def __init__(self) -> None:
        super().__init__(instant=True)
        self.frozen = asyncio.Event()
        self.go_on = asyncio.Event()

    async def create(self, host: str, spec: RunSpec) -> str:
        if not self.frozen.is_set():
            self.frozen.set()
            await self.go_on.wait()
        return await super().create(host, spec)


class VanishingRun(MemoryExecutor):
    """Every run is removed behind our back while it is waited for."""

    async def wait(self, host: str, run_id: str) -> RunState:
        self.runs_by_id.pop(run_id, None)
        raise RunVanished(f"no such run: {run_id}")


class FaultyInside(MemoryExecutor):
    """Has a bug of our own."""

    async def create(self, host: str, spec: RunSpec) -> str:
        raise ZeroDivisionError("a bug")
