"""The contract of every executor: what the docstrings of ``fastlane/executors/base.py`` promise.

Another executor joins with a :class:`Harness` and its line in ``HARNESSES``. Commands are written
for any POSIX ``sh`` and busybox. Nothing here sleeps to be in time for something: a command that
shall wait does so until it gets SIGTERM, which :meth:`Executor.stop` sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastlane.errors import ExecutorError, HostUnavailable, RunVanished, StartFailed
from fastlane.executors.base import Executor, LogBatch, LogPiece, Phase, RunSpec, RunState
from fastlane.executors.docker.executor import DockerExecutor
from fastlane.executors.docker.swarm import SwarmExecutor
from fastlane.executors.process.executor import ProcessExecutor
from fastlane.image import ImageReference
from fastlane.model import Resources, Stream
from scripts import engine as setup
from tests.engine import find_engine
from tests.engines import SwarmEngine
from tests.eventually import eventually

# Bounds each test, and within it each wait for something that must come.
pytestmark = pytest.mark.timeout(90)
ENGINE = pytest.mark.engine
PATIENCE_SECONDS = 30.0
# Bounds how far the clocks of this process and of a host on the same machine are apart.
CLOCK_SECONDS = 0.05

FOREVER = "while :; do sleep 0.05; done"


def until_term(first: str, on_term: str) -> str:
    """A script that does *first*, waits for SIGTERM and does *on_term*.

    The signal may go to the whole group. What is waited for is made to ignore it from the very
    beginning: a shell says "Terminated" of a child that does not, at some time or other.
    """
    wait = "trap '' TERM; sleep 600 >/dev/null 2>&1 & "
    return f'{wait} trap "{on_term}" TERM; {first}; wait $!'


class Harness(ABC):
    """How the suite gets at one kind of executor."""

    host: str
    image: ImageReference
    shows_unfinished_lines = True
    """Whether output is seen while its line has not ended."""
    reads_quickly = True
    """Whether some hundred thousand lines are read in a second or so."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @abstractmethod
    def make(self) -> Executor:
        """A new object, as a restarted server makes one, not open yet."""

    @abstractmethod
    async def vanish(self, run_id: str) -> None:
        """Remove a run behind the executor's back, whatever it is doing."""

    def processes(self, token: str) -> list[int]:
        """The live processes with *token* on their command line (containers' are seen here too)."""
        found = []
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError):
                if token.encode() in Path("/proc", entry, "cmdline").read_bytes():
                    found.append(int(entry))
        return found


class ProcessHarness(Harness):
    host = "localhost"
    image = ImageReference.parse("anything")

    def make(self) -> Executor:
        return ProcessExecutor(data_dir=self.directory)

    async def vanish(self, run_id: str) -> None:
        execution_id = run_id.rpartition(".")[0]
        shutil.rmtree(self.directory / "runs" / self.host / execution_id)


class DockerHarness(Harness):
    shows_unfinished_lines = False

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.host, image = find_engine()
        self.image = ImageReference.parse(image)

    def make(self) -> Executor:
        return DockerExecutor()

    async def vanish(self, run_id: str) -> None:
        engine = setup.Engine(self.host)
        await asyncio.to_thread(engine.call, "DELETE", f"/containers/{run_id}?force=1")


class SwarmHarness(Harness):
    shows_unfinished_lines = False
    # Each line is a message of its own between the nodes.
    reads_quickly = False

    def __init__(self, directory: Path, engine: SwarmEngine) -> None:
        super().__init__(directory)
        self.host = engine.url
        self.image = ImageReference.parse(engine.image())

    def make(self) -> Executor:
        return SwarmExecutor()

    async def vanish(self, run_id: str) -> None:
        engine = setup.Engine(self.host)
        await asyncio.to_thread(engine.call, "DELETE", f"/services/{run_id}")


@pytest.fixture(scope="module")
def swarm_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwarmEngine]:
    with SwarmEngine(tmp_path_factory.mktemp("swarm")) as engine:
        yield engine


class Stage:
    """One test's executors and runs, cleared away at its end."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.host = harness.host
        self.name = f"test-{uuid.uuid4().hex[:12]}"
        self._opened: list[tuple[str, Executor]] = []

    async def executor(self, suffix: str = "") -> Executor:
        """A new open executor: of this test's installation, or of another by *suffix*."""
        executor = self.harness.make()
        await executor.open(self.name + suffix)
        self._opened.append((suffix, executor))
        return executor

    async def start_and_wait(self, executor: Executor, run_id: str) -> RunState:
        """Start a run and await its end; either may say that its command cannot be executed."""
        await executor.start(self.host, run_id)
        return await self.wait(executor, run_id)

    def spec(self, *argv: str, **fields: Any) -> RunSpec:
        return RunSpec(str(uuid.uuid4()), "task", "job", self.harness.image, argv, **fields)

    async def create(self, executor: Executor, *argv: str, **fields: Any) -> str:
        spec = self.spec(*argv, **fields)
        await executor.pull(self.host, spec, lambda _: None)
        return await executor.create(self.host, spec)

    async def launch(self, executor: Executor, *argv: str, **fields: Any) -> str:
        run_id = await self.create(executor, *argv, **fields)
        await executor.start(self.host, run_id)
        return run_id

    async def shell(self, executor: Executor, script: str, *more: str) -> str:
        return await self.launch(executor, "sh", "-c", script, *more)

    async def wait(self, executor: Executor, run_id: str) -> RunState:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await executor.wait(self.host, run_id)

    async def follow(
        self, executor: Executor, run_id: str, bookmark: str = ""
    ) -> tuple[list[LogBatch], RunState]:
        """Log and end, side by side, as the owner of an execution reads them."""
        ended = asyncio.Event()

        async def end() -> RunState:
            try:
                return await executor.wait(self.host, run_id)
            finally:
                ended.set()

        async def read() -> list[LogBatch]:
            logs = executor.logs(self.host, run_id, bookmark=bookmark, ended=ended)
            return [batch async for batch in logs]

        async with asyncio.timeout(PATIENCE_SECONDS):
            batches, state = await asyncio.gather(read(), end())
        return batches, state

    async def read_until(
        self, executor: Executor, run_id: str, text: bytes, bookmark: str = ""
    ) -> list[LogBatch]:
        """Batches of a run that goes on, up to the one in which *text* is complete."""
        batches: list[LogBatch] = []
        logs = executor.logs(self.host, run_id, bookmark=bookmark, ended=asyncio.Event())
        async with asyncio.timeout(PATIENCE_SECONDS), contextlib.aclosing(logs):
            async for batch in logs:
                batches.append(batch)
                if text in output(batches):
                    return batches
        raise AssertionError(f"the log ended without {text!r}: {batches}")

    async def clear(self) -> None:
        for suffix in {suffix for suffix, _ in self._opened}:
            executor = self.harness.make()
            await executor.open(self.name + suffix)
            for run in await executor.runs(self.host):
                await executor.stop(self.host, run.run_id, grace_seconds=0)
                await executor.remove(self.host, run.run_id)
            assert await executor.runs(self.host) == []
            await executor.close()
        for _, executor in self._opened:
            await executor.close()


def swarm_harness(directory: Path, request: pytest.FixtureRequest) -> Harness:
    return SwarmHarness(directory, request.getfixturevalue("swarm_engine"))


HARNESSES = [
    pytest.param(lambda directory, _: ProcessHarness(directory), id="process"),
    pytest.param(lambda directory, _: DockerHarness(directory), id="docker", marks=ENGINE),
    pytest.param(swarm_harness, id="swarm", marks=ENGINE),
]


@pytest.fixture(params=HARNESSES)
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Harness:
    make: Callable[[Path, pytest.FixtureRequest], Harness] = request.param
    return make(tmp_path, request)


@pytest.fixture
async def stage(harness: Harness) -> AsyncIterator[Stage]:
    stage = Stage(harness)
    yield stage
    await stage.clear()


def pieces(batches: Sequence[LogBatch]) -> list[LogPiece]:
    return [piece for batch in batches for piece in batch.pieces]


def output(batches: Sequence[LogBatch], stream: Stream | None = None) -> bytes:
    return b"".join(p.data for p in pieces(batches) if stream in (None, p.stream))


def in_order(batches: Sequence[LogBatch]) -> list[tuple[Stream, bytes]]:
    """The log with adjacent pieces of one stream put together: how it was cut does not count."""
    merged: list[tuple[Stream, bytearray]] = []
    for piece in pieces(batches):
        if merged and merged[-1][0] is piece.stream:
            merged[-1][1].extend(piece.data)
        else:
            merged.append((piece.stream, bytearray(piece.data)))
    return [(stream, bytes(data)) for stream, data in merged]


# -- the path of a run ------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 3, 255])
async def test_a_run_from_pull_to_remove(stage: Stage, code: int) -> None:
    executor = await stage.executor()
    await executor.check(stage.host)
    engine = executor.engine(stage.host)
    assert engine is None or (engine.name in {"Docker", "Podman"} and engine.version[0].isdigit())
    assert (engine is None) == (executor.name == "process")
    before = time.time()
    spec = stage.spec("sh", "-c", f"echo out; echo err >&2; exit {code}")
    await executor.pull(stage.host, spec, lambda _: None)
    run_id = await executor.create(stage.host, spec)

    created = await executor.inspect(stage.host, run_id)
    assert (created.run_id, created.phase) == (run_id, Phase.CREATED)

    await executor.start(stage.host, run_id)
    batches, ended = await stage.follow(executor, run_id)
    assert output(batches, Stream.STDOUT) == b"out\n"
    assert output(batches, Stream.STDERR) == b"err\n"
    assert (ended.run_id, ended.phase, ended.exit_code) == (run_id, Phase.ENDED, code)
    assert ended.error is None
    assert not ended.oom
    assert ended.started_at is not None
    assert ended.finished_at is not None
    assert before - 1 <= ended.started_at <= ended.finished_at <= time.time() + 1
    assert all(before - 1 <= piece.at <= time.time() + 1 for piece in pieces(batches))
    assert await executor.inspect(stage.host, run_id) == ended

    await executor.remove(stage.host, run_id)
    assert await executor.find(stage.host, spec.execution_id) is None


async def test_a_run_is_seen_in_each_phase(stage: Stage) -> None:
    executor = await stage.executor()
    spec = stage.spec("sh", "-c", until_term("echo ready", "exit 0"))
    await executor.pull(stage.host, spec, lambda _: None)
    assert await executor.find(stage.host, spec.execution_id) is None
    run_id = await executor.create(stage.host, spec)

    async def seen(by: Executor) -> set[tuple[str, Phase]]:
        found = await by.find(stage.host, spec.execution_id)
        assert found is not None
        inspected = await by.inspect(stage.host, run_id)
        listed = await by.runs(stage.host)
        assert [run.execution_id for run in listed] == [spec.execution_id]
        seen_in_list = {(run.run_id, run.phase) for run in listed}
        return {(state.run_id, state.phase) for state in (found, inspected)} | seen_in_list

    assert await seen(executor) == {(run_id, Phase.CREATED)}
    await executor.start(stage.host, run_id)
    await stage.read_until(executor, run_id, b"ready\n")
    assert await seen(executor) == {(run_id, Phase.RUNNING)}
    assert await seen(await stage.executor()) == {(run_id, Phase.RUNNING)}
    assert (await executor.inspect(stage.host, run_id)).exit_code is None
    await executor.stop(stage.host, run_id, grace_seconds=20)
    assert await seen(executor) == {(run_id, Phase.ENDED)}
    assert await seen(await stage.executor()) == {(run_id, Phase.ENDED)}


async def test_words_reach_the_command_unchanged_and_without_a_shell(stage: Stage) -> None:
    executor = await stage.executor()
    words = ("a b", "$HOME", "*", "", "'\"\\", "é\n😀", "{{.Node.ID}}")
    run_id = await stage.launch(executor, "printf", "%s|", *words)
    batches, _ = await stage.follow(executor, run_id)
    assert output(batches).decode() == "".join(f"{word}|" for word in words)


async def test_the_environment_is_the_given_one(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_SERVER", "not for jobs")
    executor = await stage.executor()
    odd = "é\n'\"$PATH {{.Node.ID}} {{{{ x }} \\ `id`"
    envs = {"PLAIN": "a=b", "EMPTY": "", "ODD": odd, "PATH": "/bin:/usr/bin"}
    run_id = await stage.launch(
        executor, "sh", "-c", 'printf "%s|" "$PLAIN" "$EMPTY" "$ODD" "$PATH"; env', envs=envs
    )
    batches, state = await stage.follow(executor, run_id)
    assert state.exit_code == 0
    assert output(batches).decode().startswith(f"a=b||{odd}|/bin:/usr/bin|")
    assert b"OF_THE_SERVER" not in output(batches)


async def test_standard_input_is_empty(stage: Stage) -> None:
    executor = await stage.executor()
    batches, state = await stage.follow(executor, await stage.launch(executor, "cat"))
    assert (output(batches), state.exit_code) == (b"", 0)


async def test_a_run_within_its_limits(stage: Stage) -> None:
    executor = await stage.executor()
    resources = Resources(cpus=0.5, memory_bytes=128 * 1024**2, pids=64)
    run_id = await stage.launch(executor, "sh", "-c", "echo within", resources=resources)
    batches, state = await stage.follow(executor, run_id)
    assert (output(batches), state.exit_code) == (b"within\n", 0)


async def test_twenty_runs_at_once(stage: Stage) -> None:
    executor = await stage.executor()

    async def one(number: int) -> tuple[bytes, int | None]:
        run_id = await stage.shell(executor, f"echo {number}; exit {number}")
        batches, state = await stage.follow(executor, run_id)
        return output(batches), state.exit_code

    results = await asyncio.gather(*(one(number) for number in range(20)))
    assert results == [(f"{number}\n".encode(), number) for number in range(20)]


async def test_many_may_pull_at_once(stage: Stage) -> None:
    executor = await stage.executor()
    spec = stage.spec("true")
    async with asyncio.timeout(PATIENCE_SECONDS):
        pulls = [
            asyncio.ensure_future(executor.pull(stage.host, spec, lambda _: None)) for _ in range(5)
        ]
        pulls[0].cancel()
        results = await asyncio.gather(*pulls, return_exceptions=True)
    assert results[1:] == [None] * 4


# -- found again, never started twice ---------------------------------------------------------


async def test_create_finds_the_run_that_is_there(stage: Stage) -> None:
    one, other = await stage.executor(), await stage.executor()
    spec = stage.spec("sh", "-c", "echo once")
    await one.pull(stage.host, spec, lambda _: None)
    calls = [executor.create(stage.host, spec) for executor in (one, other, one, other)]
    run_ids = set(await asyncio.gather(*calls))
    assert len(run_ids) == 1
    run_id = run_ids.pop()

    await one.start(stage.host, run_id)
    batches, _ = await stage.follow(one, run_id)
    assert output(batches) == b"once\n"
    assert await (await stage.executor()).create(stage.host, spec) == run_id
    assert (await one.inspect(stage.host, run_id)).phase is Phase.ENDED
    assert len(await one.runs(stage.host)) == 1


async def test_start_runs_the_command_once(stage: Stage) -> None:
    one, other = await stage.executor(), await stage.executor()
    run_id = await stage.create(one, "sh", "-c", until_term("echo once", "exit 0"))
    calls = [executor.start(stage.host, run_id) for executor in (one, other, one, other)]
    await asyncio.gather(*calls)
    await stage.read_until(one, run_id, b"once\n")
    await other.start(stage.host, run_id)
    await one.stop(stage.host, run_id, grace_seconds=20)
    ended = await stage.wait(one, run_id)
    await (await stage.executor()).start(stage.host, run_id)
    batches, again = await stage.follow(other, run_id)
    assert output(batches) == b"once\n"
    assert again == ended


async def test_a_cancelled_start_is_repeated_safely(stage: Stage) -> None:
    executor = await stage.executor()
    run_id = await stage.create(executor, "sh", "-c", "echo once; exit 3")
    starting = asyncio.ensure_future(executor.start(stage.host, run_id))
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await executor.start(stage.host, run_id)
    batches, state = await stage.follow(executor, run_id)
    assert (output(batches), state.exit_code) == (b"once\n", 3)


async def test_runs_go_on_when_the_executor_is_closed(stage: Stage) -> None:
    executor = await stage.executor()
    run_id = await stage.shell(executor, until_term("echo first", "echo last; exit 4"))
    batches = await stage.read_until(executor, run_id, b"first\n")
    await executor.close()
    await executor.close()
    successor = await stage.executor()
    assert (await successor.inspect(stage.host, run_id)).phase is Phase.RUNNING
    await successor.stop(stage.host, run_id, grace_seconds=20)
    rest, state = await stage.follow(successor, run_id, batches[-1].bookmark)
    assert (output(rest), state.exit_code) == (b"last\n", 4)


async def test_only_runs_of_this_installation_are_listed(stage: Stage) -> None:
    ours, theirs = await stage.executor(), await stage.executor("-other")
    mine = await stage.create(ours, "true")
    yours = await stage.create(theirs, "true")
    assert [run.run_id for run in await ours.runs(stage.host)] == [mine]
    assert [run.run_id for run in await theirs.runs(stage.host)] == [yours]


# -- start failures ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code"), [("no-such-command", 127), ("/no/such/file", 127), ("/dev", 126)]
)
async def test_a_command_that_cannot_be_executed(stage: Stage, command: str, code: int) -> None:
    executor = await stage.executor()
    run_id = await stage.create(executor, command)
    for each in (executor, await stage.executor()):
        with pytest.raises(StartFailed) as caught:
            await stage.start_and_wait(each, run_id)
        assert caught.value.exit_code == code
        assert command in str(caught.value)
        assert (await each.inspect(stage.host, run_id)).phase is not Phase.RUNNING
    await executor.stop(stage.host, run_id, grace_seconds=1)
    await executor.remove(stage.host, run_id)


# -- logs -------------------------------------------------------------------------------------


async def test_both_streams_in_order(stage: Stage) -> None:
    executor = await stage.executor()
    run_id = await stage.shell(executor, until_term("echo one", "echo two >&2; exit 0"))
    await stage.read_until(executor, run_id, b"one\n")
    await executor.stop(stage.host, run_id, grace_seconds=20)
    batches, _ = await stage.follow(executor, run_id)
    assert in_order(batches) == [(Stream.STDOUT, b"one\n"), (Stream.STDERR, b"two\n")]


async def test_no_output(stage: Stage) -> None:
    executor = await stage.executor()
    batches, _ = await stage.follow(executor, await stage.launch(executor, "true"))
    assert pieces(batches) == []


async def test_every_byte_value_on_both_streams(stage: Stage) -> None:
    executor = await stage.executor()
    octal = "".join(f"\\{byte:03o}" for byte in range(256))
    run_id = await stage.shell(executor, f"printf '{octal}'; printf '{octal}' >&2")
    batches, _ = await stage.follow(executor, run_id)
    assert output(batches, Stream.STDOUT) == bytes(range(256))
    assert output(batches, Stream.STDERR) == bytes(range(256))


async def test_a_line_of_a_megabyte(stage: Stage) -> None:
    executor = await stage.executor()
    run_id = await stage.shell(executor, r"head -c 1000000 /dev/zero | tr '\000' x; echo")
    batches, _ = await stage.follow(executor, run_id)
    assert output(batches) == b"x" * 1_000_000 + b"\n"


async def test_much_output_comes_whole_and_in_bounded_batches(stage: Stage) -> None:
    executor = await stage.executor()
    # More than a batch may hold.
    many = 400_000 if stage.harness.reads_quickly else 200_000
    run_id = await stage.launch(executor, "seq", f"{many}")
    batches, _ = await stage.follow(executor, run_id)
    assert output(batches) == b"".join(b"%d\n" % number for number in range(1, many + 1))
    assert max(len(output([batch])) for batch in batches) <= 1024**2


async def test_the_last_output_of_a_run_is_there(stage: Stage) -> None:
    """What is written at the very moment of the end, often enough to meet the race."""
    executor = await stage.executor()

    async def one() -> bytes:
        run_id = await stage.shell(executor, "seq 1 3000; echo err >&2; exec printf last")
        batches, _ = await stage.follow(executor, run_id)
        return output(batches, Stream.STDOUT)

    whole = b"".join(b"%d\n" % number for number in range(1, 3001)) + b"last"
    assert await asyncio.gather(*(one() for _ in range(8))) == [whole] * 8


async def test_a_character_is_never_cut(stage: Stage) -> None:
    executor = await stage.executor()
    # An odd number of bytes in front puts each later boundary of even size inside a character.
    run_id = await stage.shell(
        executor, r"printf a; yes é | head -n 200000 | tr -d '\n'; printf '\360\237\230\200\n'"
    )
    batches, _ = await stage.follow(executor, run_id)
    assert output(batches).decode() == "a" + "é" * 200_000 + "😀\n"
    for piece in pieces(batches):
        piece.data.decode()


@pytest.mark.parametrize("harness", HARNESSES[:1], indirect=True)
async def test_a_character_whose_halves_come_apart(stage: Stage) -> None:
    """Over two reads, with the other stream in between, and over a restart of the reader."""
    executor = await stage.executor()
    on_term = r"echo between >&2; printf '\230\200b'; exit 0"
    run_id = await stage.shell(executor, until_term(r"printf 'a\360\237'; echo ready >&2", on_term))
    first = await stage.read_until(executor, run_id, b"ready\n")
    if b"a" not in output(first):
        # Two pipes are two pipes: the engine may see the second one first.
        first += await stage.read_until(executor, run_id, b"a", first[-1].bookmark)
    successor = await stage.executor()
    await successor.stop(stage.host, run_id, grace_seconds=20)
    rest, _ = await stage.follow(successor, run_id, first[-1].bookmark)
    assert output(first, Stream.STDOUT) == b"a"
    assert output(rest, Stream.STDOUT) == "😀b".encode()
    assert output(rest, Stream.STDERR) == b"between\n"
    for piece in pieces([*first, *rest]):
        piece.data.decode()
    # From the start in one go, it is the same log.
    batches, _ = await stage.follow(successor, run_id)
    assert output(batches, Stream.STDOUT) == "a😀b".encode()
    for piece in pieces(batches):
        piece.data.decode()


async def test_half_a_character_at_the_very_end(stage: Stage) -> None:
    executor = await stage.executor()
    run_id = await stage.shell(executor, r"printf 'a\360\237'; printf 'b\303' >&2")
    batches, _ = await stage.follow(executor, run_id)
    assert output(batches, Stream.STDOUT) == b"a\xf0\x9f"
    assert output(batches, Stream.STDERR) == b"b\xc3"
    rest, _ = await stage.follow(executor, run_id, batches[-1].bookmark)
    assert pieces(rest) == []


async def test_a_long_silence(stage: Stage) -> None:
    executor = await stage.executor()
    run_id = await stage.shell(executor, "echo before; sleep 4; echo after; exit 3")
    batches, state = await stage.follow(executor, run_id)
    assert (output(batches), state.exit_code) == (b"before\nafter\n", 3)


async def test_output_comes_while_it_runs(stage: Stage) -> None:
    executor = await stage.executor()
    text = "unfinished" if stage.harness.shows_unfinished_lines else r"finished\n"
    run_id = await stage.shell(executor, f"printf '{text}'; {FOREVER}")
    await stage.read_until(executor, run_id, b"finished")
    assert (await executor.inspect(stage.host, run_id)).phase is Phase.RUNNING


async def test_going_on_behind_every_bookmark(stage: Stage) -> None:
    executor = await stage.executor()
    many, some = (12_000, 6_000) if stage.harness.reads_quickly else (2_000, 1_000)
    run_id = await stage.shell(
        executor, f"for n in 1 2 3 4 5 6; do seq 1 {many}; seq 1 {some} >&2; echo é; done"
    )
    batches, _ = await stage.follow(executor, run_id)
    assert len(batches) > 2
    # Enough of them, and always the first and the last.
    step = max(1, len(batches) // 6)
    for index in {*range(0, len(batches), step), len(batches) - 1}:
        successor = await stage.executor()
        rest, _ = await stage.follow(successor, run_id, batches[index].bookmark)
        assert in_order([*batches[: index + 1], *rest]) == in_order(batches), index


async def test_two_readers_at_once(stage: Stage) -> None:
    executor = await stage.executor()
    run_id = await stage.launch(executor, "seq", "50000")
    (one, _), (other, _) = await asyncio.gather(
        stage.follow(executor, run_id), stage.follow(executor, run_id)
    )
    assert output(one) == output(other) == b"".join(b"%d\n" % n for n in range(1, 50001))


async def test_the_log_of_an_ended_run_ends(stage: Stage) -> None:
    executor = await stage.executor()
    run_id = await stage.shell(executor, "echo all")
    await stage.wait(executor, run_id)
    successor = await stage.executor()
    ended = asyncio.Event()
    ended.set()
    async with asyncio.timeout(5):
        logs = successor.logs(stage.host, run_id, bookmark="", ended=ended)
        batches = [batch async for batch in logs]
        assert output(batches) == b"all\n"
        logs = successor.logs(stage.host, run_id, bookmark=batches[-1].bookmark, ended=ended)
        assert pieces([batch async for batch in logs]) == []


# -- wait -------------------------------------------------------------------------------------


async def test_wait_for_an_ended_run_returns_at_once(stage: Stage) -> None:
    executor = await stage.executor()
    run_id = await stage.shell(executor, "exit 3")
    state = await stage.wait(executor, run_id)
    assert (state.phase, state.exit_code) == (Phase.ENDED, 3)
    async with asyncio.timeout(3):
        assert await executor.wait(stage.host, run_id) == state
        assert await (await stage.executor()).wait(stage.host, run_id) == state


async def test_many_may_wait(stage: Stage) -> None:
    one, other = await stage.executor(), await stage.executor()
    run_id = await stage.shell(one, until_term("echo ready", "exit 3"))
    waits = [asyncio.ensure_future(stage.wait(each, run_id)) for each in (one, one, other)]
    await stage.read_until(one, run_id, b"ready\n")
    await one.stop(stage.host, run_id, grace_seconds=20)
    assert [state.exit_code for state in await asyncio.gather(*waits)] == [3, 3, 3]


async def test_cancelled_logs_and_wait_leave_nothing_behind(stage: Stage) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    warm = await stage.executor()
    run_id = await stage.shell(warm, until_term("echo ready", "exit 3"))
    await stage.read_until(warm, run_id, b"ready\n")
    await warm.close()
    tasks, before = asyncio.all_tasks(), descriptors()

    executor = await stage.executor()
    got = asyncio.Event()

    async def read() -> None:
        logs = executor.logs(stage.host, run_id, bookmark="", ended=asyncio.Event())
        async with contextlib.aclosing(logs):
            async for _ in logs:
                got.set()

    async def wait() -> None:
        await executor.wait(stage.host, run_id)

    for _ in range(5):
        got.clear()
        pending = [asyncio.ensure_future(call()) for call in (read, wait)]
        async with asyncio.timeout(PATIENCE_SECONDS):
            await got.wait()
        for task in pending:
            task.cancel()
        results = await asyncio.gather(*pending, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * 2
    assert (await executor.inspect(stage.host, run_id)).phase is Phase.RUNNING
    await executor.close()
    await eventually(lambda: asyncio.all_tasks() <= tasks and descriptors() <= before)


async def test_how_long_a_run_has_been_running(stage: Stage) -> None:
    executor, began = await stage.executor(), time.monotonic()
    run_id = await stage.shell(executor, until_term("echo ready", "exit 5"))
    await stage.read_until(executor, run_id, b"ready\n")
    # Another process, after a restart, asks as well.
    successor = await stage.executor()

    async def ran_for_a_while() -> bool:
        ran_seconds = await successor.ran_seconds(stage.host, run_id)
        assert ran_seconds <= time.monotonic() - began + CLOCK_SECONDS
        return ran_seconds >= 1

    await eventually(ran_for_a_while, every=0.1)
    await executor.stop(stage.host, run_id, grace_seconds=20)
    state = await executor.inspect(stage.host, run_id)
    assert state.ran_seconds is not None
    assert 1 <= state.ran_seconds <= time.monotonic() - began + CLOCK_SECONDS
    await executor.remove(stage.host, run_id)
    with pytest.raises(RunVanished):
        await executor.ran_seconds(stage.host, run_id)


# -- stop -------------------------------------------------------------------------------------


async def test_stop_of_a_created_run(stage: Stage) -> None:
    executor = await stage.executor()
    run_id = await stage.create(executor, "sh", "-c", "echo never")
    for each in (executor, await stage.executor()):
        async with asyncio.timeout(PATIENCE_SECONDS):
            await each.stop(stage.host, run_id, grace_seconds=5)
    with pytest.raises(ExecutorError):
        await executor.start(stage.host, run_id)
    found = [run for run in await executor.runs(stage.host) if run.phase is Phase.RUNNING]
    assert found == []


async def test_stop_of_a_running_run_that_obeys(stage: Stage) -> None:
    executor = await stage.executor()
    run_id = await stage.shell(executor, until_term("echo ready", "echo bye; exit 5"))
    await stage.read_until(executor, run_id, b"ready\n")
    async with asyncio.timeout(15):
        await executor.stop(stage.host, run_id, grace_seconds=60)
    state = await executor.inspect(stage.host, run_id)
    assert (state.phase, state.exit_code) == (Phase.ENDED, 5)
    batches, _ = await stage.follow(executor, run_id)
    assert output(batches) == b"ready\nbye\n"


async def test_a_command_that_handles_no_signal_ends_with_143(stage: Stage) -> None:
    executor = await stage.executor()
    run_id = await stage.shell(executor, "echo ready; exec sleep 1000")
    await stage.read_until(executor, run_id, b"ready\n")
    async with asyncio.timeout(15):
        await executor.stop(stage.host, run_id, grace_seconds=60)
    assert (await stage.wait(executor, run_id)).exit_code == 143


async def test_what_ignores_sigterm_is_killed_after_the_grace(stage: Stage) -> None:
    executor = await stage.executor()
    token = uuid.uuid4().hex
    stubborn = f"trap '' TERM; echo $0; {FOREVER}"
    run_id = await stage.launch(
        executor, "sh", "-c", f'trap "" TERM; sh -c "$1" "$0" & {FOREVER}', token, stubborn
    )
    await stage.read_until(executor, run_id, token.encode())
    assert len(stage.harness.processes(token)) >= 2
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await executor.stop(stage.host, run_id, grace_seconds=1)
    assert time.monotonic() - began >= 0.9
    state = await executor.inspect(stage.host, run_id)
    assert (state.phase, state.exit_code) == (Phase.ENDED, 137)
    await eventually(lambda: not stage.harness.processes(token))


async def test_what_the_command_left_behind_ends_with_it(stage: Stage) -> None:
    executor = await stage.executor()
    token = uuid.uuid4().hex
    left = f"trap '' TERM HUP; echo $0; {FOREVER}"
    run_id = await stage.launch(
        executor, "sh", "-c", 'sh -c "$1" "$0" & sleep 0.3; exit 3', token, left
    )
    _, state = await stage.follow(executor, run_id)
    assert state.exit_code == 3
    await eventually(lambda: not stage.harness.processes(token))


async def test_stop_of_what_has_ended_or_is_gone(stage: Stage) -> None:
    executor = await stage.executor()
    run_id = await stage.shell(executor, "exit 3")
    state = await stage.wait(executor, run_id)
    async with asyncio.timeout(5):
        await executor.stop(stage.host, run_id, grace_seconds=60)
        assert await executor.inspect(stage.host, run_id) == state
        await executor.remove(stage.host, run_id)
        await executor.stop(stage.host, run_id, grace_seconds=60)


async def test_stop_by_two_at_once(stage: Stage) -> None:
    one, other = await stage.executor(), await stage.executor()
    run_id = await stage.shell(one, until_term("echo ready", "exit 5"))
    await stage.read_until(one, run_id, b"ready\n")
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(
            one.stop(stage.host, run_id, grace_seconds=60),
            other.stop(stage.host, run_id, grace_seconds=60),
        )
    assert (await one.inspect(stage.host, run_id)).exit_code == 5


async def test_stop_beside_start_ends_it_either_way(stage: Stage) -> None:
    executor = await stage.executor()
    for _ in range(5):
        run_id = await stage.create(executor, "sh", "-c", FOREVER)
        async with asyncio.timeout(PATIENCE_SECONDS):
            _, stopped = await asyncio.gather(
                executor.start(stage.host, run_id),
                executor.stop(stage.host, run_id, grace_seconds=0),
                return_exceptions=True,
            )
            if isinstance(stopped, HostUnavailable):
                # Whether it took effect is unknown then, and its caller asks again.
                await executor.stop(stage.host, run_id, grace_seconds=0)
        with contextlib.suppress(RunVanished):
            state = await executor.inspect(stage.host, run_id)
            assert state.phase is not Phase.RUNNING


# -- removal ----------------------------------------------------------------------------------


async def assert_gone(stage: Stage, executor: Executor, execution_id: str, run_id: str) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        for call in (executor.inspect, executor.wait, executor.start):
            with pytest.raises(RunVanished):
                await call(stage.host, run_id)
        ended = asyncio.Event()
        ended.set()
        with pytest.raises(RunVanished):
            async for _ in executor.logs(stage.host, run_id, bookmark="", ended=ended):
                pass
    assert await executor.find(stage.host, execution_id) is None
    assert run_id not in [run.run_id for run in await executor.runs(stage.host)]


async def test_remove_of_an_ended_run(stage: Stage) -> None:
    executor = await stage.executor()
    spec = stage.spec("sh", "-c", "echo gone")
    await executor.pull(stage.host, spec, lambda _: None)
    run_id = await executor.create(stage.host, spec)
    await executor.start(stage.host, run_id)
    await stage.wait(executor, run_id)
    other = await stage.executor()
    await asyncio.gather(
        executor.remove(stage.host, run_id),
        other.remove(stage.host, run_id),
    )
    await executor.remove(stage.host, run_id)
    await assert_gone(stage, executor, spec.execution_id, run_id)
    await assert_gone(stage, await stage.executor(), spec.execution_id, run_id)


async def test_remove_of_a_run_that_was_never_started(stage: Stage) -> None:
    executor = await stage.executor()
    spec = stage.spec("true")
    await executor.pull(stage.host, spec, lambda _: None)
    run_id = await executor.create(stage.host, spec)
    await executor.remove(stage.host, run_id)
    await assert_gone(stage, executor, spec.execution_id, run_id)


async def test_a_new_run_after_removal_is_another_one(stage: Stage) -> None:
    executor = await stage.executor()
    spec = stage.spec("sh", "-c", "exit 3")
    await executor.pull(stage.host, spec, lambda _: None)
    first = await executor.create(stage.host, spec)
    await executor.remove(stage.host, first)
    second = await executor.create(stage.host, replace(spec, argv=("sh", "-c", "exit 4")))
    assert second != first
    with pytest.raises(RunVanished):
        await executor.inspect(stage.host, first)
    await executor.start(stage.host, second)
    assert (await stage.wait(executor, second)).exit_code == 4


async def test_a_running_run_that_vanishes(stage: Stage) -> None:
    executor = await stage.executor()
    token = uuid.uuid4().hex
    spec = stage.spec("sh", "-c", f"echo ready; {FOREVER}", token)
    await executor.pull(stage.host, spec, lambda _: None)
    run_id = await executor.create(stage.host, spec)
    await executor.start(stage.host, run_id)
    batches = await stage.read_until(executor, run_id, b"ready\n")
    following = asyncio.ensure_future(stage.follow(executor, run_id, batches[-1].bookmark))
    waiting = asyncio.ensure_future(executor.wait(stage.host, run_id))
    await asyncio.sleep(0)
    await stage.harness.vanish(run_id)
    async with asyncio.timeout(10):
        results = await asyncio.gather(following, waiting, return_exceptions=True)
    assert [type(result) for result in results] == [RunVanished] * 2
    await assert_gone(stage, executor, spec.execution_id, run_id)
    # Lost is said of nothing that goes on.
    await eventually(lambda: not stage.harness.processes(token))


async def test_what_never_was(stage: Stage) -> None:
    executor = await stage.executor()
    assert await executor.runs(stage.host) == []
    spec = stage.spec("true")
    await executor.pull(stage.host, spec, lambda _: None)
    run_id = await executor.create(stage.host, spec)
    await executor.remove(stage.host, run_id)
    async with asyncio.timeout(5):
        await executor.stop(stage.host, run_id, grace_seconds=60)
        await executor.remove(stage.host, run_id)
    assert await executor.find(stage.host, str(uuid.uuid4())) is None
