"""What the process executor promises beyond the contract: its supervisor, and each crash point."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import structlog

from fastlane.errors import HostUnavailable, RunVanished, StartFailed
from fastlane.executors.base import LogBatch, Phase, RunSpec
from fastlane.executors.process import output, supervisor
from fastlane.executors.process import shim as process_shim
from fastlane.executors.process.executor import ProcessExecutor
from fastlane.executors.utf8 import incomplete_tail
from fastlane.image import ImageReference
from fastlane.model import Reason, Resources, Status, Stream
from tests.eventually import eventually
from tests.unit.test_runner import Instance

pytestmark = pytest.mark.timeout(60)
HOST = "localhost"
IMAGE = ImageReference.parse("anything")
# Bounds each wait for something that must come.
PATIENCE_SECONDS = 20.0


def spec(
    *argv: str, envs: dict[str, str] | None = None, memory_bytes: int | None = None
) -> RunSpec:
    return RunSpec(
        str(uuid.uuid4()),
        "task",
        "job",
        IMAGE,
        argv,
        envs or {},
        resources=Resources(memory_bytes=memory_bytes),
    )


def directory_of(data_dir: Path, run_id: str) -> Path:
    return data_dir / "runs" / HOST / run_id.rpartition(".")[0]


def state_of(data_dir: Path, run_id: str) -> dict[str, int]:
    state: dict[str, int] = json.loads((directory_of(data_dir, run_id) / "state.json").read_text())
    return state


@pytest.fixture
async def executor(tmp_path: Path) -> AsyncIterator[ProcessExecutor]:
    executor = ProcessExecutor(data_dir=tmp_path)
    await executor.open("test")
    yield executor
    for run in await executor.runs(HOST):
        await executor.remove(HOST, run.run_id)
    await executor.close()


async def launch(executor: ProcessExecutor, *argv: str, memory_bytes: int | None = None) -> str:
    run_id = await executor.create(HOST, spec(*argv, memory_bytes=memory_bytes))
    await executor.start(HOST, run_id)
    return run_id


async def log(executor: ProcessExecutor, run_id: str) -> bytes:
    async with asyncio.timeout(PATIENCE_SECONDS):
        batches = [
            batch async for batch in executor.logs(HOST, run_id, bookmark="", ended=asyncio.Event())
        ]
    return b"".join(piece.data for batch in batches for piece in batch.pieces)


# -- crash points -----------------------------------------------------------------------------

SERVER = """
import asyncio, os, signal, sys
from pathlib import Path
from fastlane.executors.base import RunSpec
from fastlane.executors.process.executor import ProcessExecutor
from fastlane.model import ImageReference

async def main():
    executor = ProcessExecutor(data_dir=Path(sys.argv[1]))
    await executor.open("test")
    spec = RunSpec(sys.argv[2], "t", "j", ImageReference.parse("x"), ("sh", "-c", sys.argv[3]))
    await executor.start("localhost", await executor.create("localhost", spec))
    os.kill(0, signal.SIGKILL)

asyncio.run(main())
"""


async def test_a_run_survives_its_server_and_the_server_s_process_group(
    executor: ProcessExecutor, tmp_path: Path
) -> None:
    execution_id = str(uuid.uuid4())
    script = "echo first; while [ ! -e go ]; do sleep 0.05; done; echo last; exit 7"
    server = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", SERVER, str(tmp_path), execution_id, script], start_new_session=True
    )
    assert await asyncio.to_thread(server.wait, PATIENCE_SECONDS) == -signal.SIGKILL
    found = await executor.find(HOST, execution_id)
    assert found is not None
    assert found.phase is Phase.RUNNING
    (directory_of(tmp_path, found.run_id) / "work" / "go").touch()
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert (await executor.wait(HOST, found.run_id)).exit_code == 7
    assert await log(executor, found.run_id) == b"first\nlast\n"


async def test_a_supervisor_killed_before_its_point_of_no_return(
    executor: ProcessExecutor, tmp_path: Path
) -> None:
    """It held the lock and had opened the log, no more: the next start runs the command."""
    run_id = await executor.create(HOST, spec("echo", "once"))
    lock = process_shim.take_lock(str(directory_of(tmp_path, run_id)))
    assert lock is not None
    starting = asyncio.ensure_future(executor.start(HOST, run_id))
    assert (await executor.inspect(HOST, run_id)).phase is Phase.CREATED
    os.close(lock)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await starting
        await executor.wait(HOST, run_id)
    assert await log(executor, run_id) == b"once\n"


def test_a_process_without_leave_runs_nothing(tmp_path: Path) -> None:
    """What the supervisor forked, when the supervisor dies before it gives leave."""
    go_reader, go = os.pipe()
    failure_reader, failure = os.pipe()
    out_reader, out = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        words = {"argv": ["echo", "ran"], "envs": {}}
        process_shim.become(str(tmp_path), words, go_reader, failure, out, out)
    for descriptor in (go, go_reader, failure, out):
        os.close(descriptor)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert (os.read(out_reader, 100), os.read(failure_reader, 100)) == (b"", b"")
    os.close(out_reader)
    os.close(failure_reader)


async def test_a_supervisor_killed_behind_its_point_of_no_return(
    executor: ProcessExecutor, tmp_path: Path
) -> None:
    """Nobody knows whether the command ran: it is never run again."""
    run_id = await executor.create(HOST, spec("echo", "twice?"))
    gone = subprocess.Popen(["true"])  # noqa: ASYNC220
    record = {
        "pid": gone.pid, "pid_ticks": 1, "shim_pid": gone.pid, "shim_ticks": 1,
        "boot": process_shim.boot_id(), "started_at": time.time(),
    }  # fmt: skip
    await asyncio.to_thread(gone.wait)
    directory = directory_of(tmp_path, run_id)
    process_shim.write_once(str(directory / "state.json"), record)
    for call in (executor.start, executor.inspect, executor.wait):
        with pytest.raises(RunVanished):
            await call(HOST, run_id)
    assert (directory / "log").read_bytes() == b""
    assert [run.phase for run in await executor.runs(HOST)] == [Phase.ENDED]
    await executor.stop(HOST, run_id, grace_seconds=1)
    await executor.remove(HOST, run_id)
    assert not directory.exists()


async def test_a_supervisor_killed_while_the_command_runs(
    executor: ProcessExecutor, tmp_path: Path
) -> None:
    run_id = await launch(executor, "sh", "-c", "echo seen; exec sleep 600")
    directory = directory_of(tmp_path, run_id)
    await eventually(lambda: b"seen" in (directory / "log").read_bytes())
    state = state_of(tmp_path, run_id)
    waiting = asyncio.ensure_future(executor.wait(HOST, run_id))
    os.kill(state["shim_pid"], signal.SIGKILL)
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(RunVanished):
            await waiting
    # Lost is said of nothing that still runs.
    await eventually(lambda: process_shim.start_ticks(state["pid"]) is None)
    # What it had written can still be read before the news is told.
    batches: list[LogBatch] = []

    async def read() -> None:
        async for batch in executor.logs(HOST, run_id, bookmark="", ended=asyncio.Event()):
            batches.append(batch)  # noqa: PERF401

    with pytest.raises(RunVanished):
        await read()
    assert [piece.data for batch in batches for piece in batch.pieces] == [b"seen\n"]


@pytest.mark.parametrize("home", [None, "/"], ids=["by its home", "by its execution"])
@pytest.mark.parametrize("leader", ["sleep 600", "exit 0"], ids=["with", "without its leader"])
async def test_nothing_is_left_of_a_run_whose_supervisor_is_killed(
    executor: ProcessExecutor, tmp_path: Path, home: str | None, leader: str
) -> None:
    """In its group or not: what is lost does not run beside what is run again."""
    script = (
        "sh -c 'echo $$ >> pids; exec sleep 600' & setsid sh -c 'echo $$ >> pids; exec sleep 600' &"
        f"while [ ! -e go ]; do sleep 0.02; done; {leader}"
    )
    words = spec("sh", "-c", script)
    envs = {} if home is None else {"HOME": home, "FASTLANE_EXECUTION_ID": words.execution_id}
    run_id = await executor.create(HOST, replace(words, envs=envs))
    await executor.start(HOST, run_id)
    work = directory_of(tmp_path, run_id) / "work"
    pids = work / "pids"
    await eventually(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    state = state_of(tmp_path, run_id)
    # Its leader may be gone before anybody looks.
    os.kill(state["shim_pid"], signal.SIGSTOP)
    (work / "go").touch()
    if leader == "exit 0":
        await eventually(lambda: process_shim.start_ticks(state["pid"]) is None)
    os.kill(state["shim_pid"], signal.SIGKILL)
    await eventually(lambda: process_shim.start_ticks(state["shim_pid"]) is None)
    with pytest.raises(RunVanished):
        await executor.inspect(HOST, run_id)
    left = [int(pid) for pid in pids.read_text().split()]
    await eventually(lambda: [process_shim.start_ticks(pid) for pid in left] == [None, None])


async def test_signals_to_the_supervisor_do_not_cost_the_result(
    executor: ProcessExecutor, tmp_path: Path
) -> None:
    run_id = await launch(executor, "sh", "-c", "while [ ! -e go ]; do sleep 0.02; done; exit 7")
    shim_pid = state_of(tmp_path, run_id)["shim_pid"]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(shim_pid, number)
    (directory_of(tmp_path, run_id) / "work" / "go").touch()
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert (await executor.wait(HOST, run_id)).exit_code == 7


async def test_a_reused_pid_is_another_process(executor: ProcessExecutor, tmp_path: Path) -> None:
    run_id = await executor.create(HOST, spec("true"))
    bystander = subprocess.Popen(["sleep", "600"])  # noqa: ASYNC220
    try:
        record = {
            "pid": bystander.pid, "pid_ticks": 1, "shim_pid": bystander.pid, "shim_ticks": 1,
            "boot": process_shim.boot_id(), "started_at": time.time(),
        }  # fmt: skip
        process_shim.write_once(str(directory_of(tmp_path, run_id) / "state.json"), record)
        await executor.stop(HOST, run_id, grace_seconds=0)
        with pytest.raises(RunVanished):
            await executor.inspect(HOST, run_id)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


async def test_a_process_that_left_the_group_does_not_hold_up_the_end(
    executor: ProcessExecutor,
) -> None:
    run_id = await launch(executor, "sh", "-c", "setsid sleep 3 & echo out; exit 3")
    async with asyncio.timeout(2.5):
        assert (await executor.wait(HOST, run_id)).exit_code == 3
    assert await log(executor, run_id) == b"out\n"


@pytest.mark.parametrize("ending", ["exit", "stop"])
async def test_what_left_the_group_and_the_session_ends_with_the_run(
    executor: ProcessExecutor, tmp_path: Path, ending: str
) -> None:
    # Two generations, each in a session of its own, both deaf to SIGTERM.
    inner = tmp_path / "inner.sh"
    inner.write_text("trap '' TERM; echo $$ >> pids; while :; do sleep 1; done")
    outer = tmp_path / "outer.sh"
    outer.write_text(f"trap '' TERM; setsid sh {inner} & echo $$ >> pids; wait")
    script = f"setsid sh {outer} >/dev/null 2>&1 & while [ ! -e go ]; do sleep 0.02; done; exit 7"
    run_id = await launch(executor, "sh", "-c", script)
    work = directory_of(tmp_path, run_id) / "work"

    def pids() -> list[int]:
        file = work / "pids"
        found = [int(pid) for pid in file.read_text().split()] if file.exists() else []
        return found if len(found) == 2 else []

    left = await eventually(pids)
    if ending == "stop":
        await executor.stop(HOST, run_id, grace_seconds=0.1)
    else:
        (work / "go").touch()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await executor.wait(HOST, run_id)
    # The outcome is there only after them.
    assert [process_shim.start_ticks(pid) for pid in left] == [None, None]


async def test_a_run_reaps_what_its_command_leaves_behind(
    executor: ProcessExecutor, tmp_path: Path
) -> None:
    script = (
        "for i in 1 2 3; do (setsid true &); done; touch go; while [ -e go ]; do sleep 0.02; done"
    )
    run_id = await launch(executor, "sh", "-c", script)
    go = directory_of(tmp_path, run_id) / "work" / "go"
    await eventually(go.exists)
    shim_pid = state_of(tmp_path, run_id)["shim_pid"]
    supervisor = psutil.Process(shim_pid)
    await eventually(lambda: len(supervisor.children()) == 1)
    go.unlink()
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert (await executor.wait(HOST, run_id)).exit_code == 0


# -- damaged records --------------------------------------------------------------------------

DAMAGE = {
    "empty": b"",
    "half-written": b'{"run_id": "a", "installation": "fastl',
    "not JSON": b"\0" * 512,
    "not UTF-8": b'{"run_id": "\xff"}',
    "too deep": b"[" * 100_000,
    "no object": b"[1, 2]",
    "without what it needs": b"{}",
    "of other types": (
        b'{"run_id": 1, "installation": ["fastlane"], "execution_id": null, "task_id": {},'
        b' "job_id": 0, "pid": "1", "pid_ticks": [], "shim_pid": 1.5, "shim_ticks": "x",'
        b' "boot": 7, "started_at": "now", "exit_code": "0", "finished_at": "later"}'
    ),
}
damaged = pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())


async def assert_gone(
    executor: ProcessExecutor, wanted: RunSpec, run_id: str, *, known: bool = False
) -> None:
    """Every look at the run says so, nothing waits for it, and it is not run again."""
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: executor.find(HOST, wanted.execution_id),
        lambda: executor.start(HOST, run_id),
        lambda: executor.inspect(HOST, run_id),
        lambda: executor.wait(HOST, run_id),
    ]
    if known:
        assert await executor.create(HOST, wanted) == run_id
    else:
        calls.append(lambda: executor.create(HOST, wanted))
    async with asyncio.timeout(PATIENCE_SECONDS):
        for call in calls:
            with pytest.raises(RunVanished, match="damaged"):
                await call()
        await executor.stop(HOST, run_id, grace_seconds=10)


@damaged
async def test_a_damaged_spec_costs_that_run_alone(
    executor: ProcessExecutor, tmp_path: Path, damage: bytes
) -> None:
    wanted = spec("sh", "-c", "exec sleep 600")
    run_id = await executor.create(HOST, wanted)
    await executor.start(HOST, run_id)
    directory = directory_of(tmp_path, run_id)
    others = [await executor.create(HOST, spec("true")) for _ in range(2)]
    (directory / "spec.json").write_bytes(damage)
    with structlog.testing.capture_logs() as lines:
        for _ in range(2):
            listed = {run.run_id: run for run in await executor.runs(HOST)}
            assert listed.keys() == {*others, f"{wanted.execution_id}.damaged"}
    # Whose it is nobody knows: only who has its execution may judge it.
    assert listed[f"{wanted.execution_id}.damaged"].execution_id == wanted.execution_id
    assert listed[f"{wanted.execution_id}.damaged"].phase is Phase.RUNNING
    assert [line["path"] for line in lines if line["log_level"] == "error"] == [str(directory)]
    child = state_of(tmp_path, run_id)["pid"]
    assert process_shim.start_ticks(child) is not None

    await assert_gone(executor, wanted, run_id)
    await eventually(lambda: process_shim.start_ticks(child) is None)
    await executor.remove(HOST, f"{wanted.execution_id}.damaged")
    assert not directory.exists()
    assert {run.run_id for run in await executor.runs(HOST)} == set(others)
    assert await executor.find(HOST, wanted.execution_id) is None


@damaged
async def test_a_damaged_state_costs_that_run_alone(
    executor: ProcessExecutor, tmp_path: Path, damage: bytes
) -> None:
    wanted = spec("sh", "-c", "echo $$ > pid; exec sleep 600")
    run_id = await executor.create(HOST, wanted)
    await executor.start(HOST, run_id)
    directory = directory_of(tmp_path, run_id)
    child = state_of(tmp_path, run_id)["pid"]
    other = await executor.create(HOST, spec("true"))
    waiting = asyncio.ensure_future(executor.wait(HOST, run_id))
    (directory / "state.json").write_bytes(damage)
    assert {(run.run_id, run.phase) for run in await executor.runs(HOST)} == {
        (other, Phase.CREATED),
        (run_id, Phase.ENDED),
    }
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(RunVanished, match=r"state\.json"):
            await waiting
    # Its supervisor alone knows what runs.
    await eventually(lambda: process_shim.start_ticks(child) is None)
    await eventually(lambda: (directory / "exit.json").exists())
    await executor.remove(HOST, run_id)
    assert not directory.exists()


@damaged
async def test_a_state_damaged_before_the_start_was_seen_is_not_run_again(
    executor: ProcessExecutor, tmp_path: Path, damage: bytes
) -> None:
    wanted = spec("echo", "twice?")
    run_id = await executor.create(HOST, wanted)
    directory = directory_of(tmp_path, run_id)
    (directory / "state.json").write_bytes(damage)
    await assert_gone(executor, wanted, run_id, known=True)
    assert (directory / "log").read_bytes() == b""
    await executor.remove(HOST, run_id)
    assert not directory.exists()


@damaged
async def test_an_end_that_can_be_read_is_the_end(
    executor: ProcessExecutor, tmp_path: Path, damage: bytes
) -> None:
    run_id = await launch(executor, "sh", "-c", "echo out; exit 7")
    async with asyncio.timeout(PATIENCE_SECONDS):
        await executor.wait(HOST, run_id)
    directory = directory_of(tmp_path, run_id)
    (directory / "state.json").write_bytes(damage)
    state = await executor.inspect(HOST, run_id)
    assert (state.phase, state.exit_code, state.started_at) == (Phase.ENDED, 7, None)
    assert await log(executor, run_id) == b"out\n"
    (directory / "exit.json").write_bytes(damage)
    with pytest.raises(RunVanished, match="damaged"):
        await executor.inspect(HOST, run_id)


async def test_a_run_without_its_spec_is_a_damaged_one(
    executor: ProcessExecutor, tmp_path: Path
) -> None:
    wanted = spec("true")
    run_id = await executor.create(HOST, wanted)
    directory = directory_of(tmp_path, run_id)
    (directory / "spec.json").unlink()
    await assert_gone(executor, wanted, run_id)
    (directory / "spec.json").mkdir()
    await assert_gone(executor, wanted, run_id)
    (run,) = await executor.runs(HOST)
    await executor.remove(HOST, run.run_id)
    assert await executor.runs(HOST) == []


async def test_a_damaged_log_is_read_as_far_as_it_goes(
    executor: ProcessExecutor, tmp_path: Path
) -> None:
    run_id = await launch(executor, "echo", "whole")
    async with asyncio.timeout(PATIENCE_SECONDS):
        await executor.wait(HOST, run_id)
    path = directory_of(tmp_path, run_id) / "log"
    whole = path.read_bytes()
    for rest in (b"\0" * 4096, b"\xff" * 4096, frame(1, b"x")[:5] + b"\xff" * 4096):
        path.write_bytes(whole + rest)
        assert await log(executor, run_id) == b"whole\n" + output.DAMAGED_NOTE


async def test_an_execution_whose_run_is_damaged_is_lost_and_cleared_away(tmp_path: Path) -> None:
    executor = ProcessExecutor(data_dir=tmp_path / "data")
    await executor.open("test")
    async with Instance(tmp_path / "store", executor) as one:
        script = "sh -c 'while [ ! -e go ]; do sleep 0.05; done'"
        made = await one.submit(command=script)
        going = await one.submit(command=script)
        for execution in (made, going):
            await one.in_status(execution.id, Status.RUNNING)
        directory = tmp_path / "data" / "runs" / "a" / made.id
        (directory / "spec.json").write_bytes(b"")
        ended = await one.ended(made.id)
        assert (ended.status, ended.reason) == (Status.FAILED, Reason.LOST)
        assert "damaged" in (ended.error or "")
        await one.keeper.sweep()
        assert not directory.exists()
        assert (await one.storage.executions.get(going.id)).status is Status.RUNNING
        (directory.parent / going.id / "work" / "go").touch()
        assert (await one.ended(going.id)).status is Status.DONE
    await executor.close()


# -- the rest of its promises -----------------------------------------------------------------


async def test_the_command_s_surroundings(executor: ProcessExecutor, tmp_path: Path) -> None:
    run_id = await launch(executor, "sh", "-c", 'pwd; echo "$HOME"; echo "$PATH"; ulimit -c')
    work = str(directory_of(tmp_path, run_id) / "work")
    lines = (await log(executor, run_id)).decode().splitlines()
    assert lines == [work, work, process_shim.DEFAULT_PATH, "0"]
    inherited = await launch(executor, "ls", "/proc/self/fd")
    # 0, 1, 2 and the one that ls itself opened.
    assert (await log(executor, inherited)).split() == [b"0", b"1", b"2", b"3"]


async def test_a_memory_limit_is_set(executor: ProcessExecutor) -> None:
    program = "import resource; print(resource.getrlimit(resource.RLIMIT_DATA)[0])"
    run_id = await launch(executor, sys.executable, "-c", program, memory_bytes=256 * 1024**2)
    assert await log(executor, run_id) == b"%d\n" % (256 * 1024**2)
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY


async def test_a_command_killed_by_a_signal(executor: ProcessExecutor) -> None:
    run_id = await launch(executor, "sh", "-c", "kill -ABRT $$")
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert (await executor.wait(HOST, run_id)).exit_code == 128 + signal.SIGABRT


@pytest.mark.parametrize(
    ("argv", "envs"),
    [((), {}), (("a\0b",), {}), (("a",), {"A=B": ""}), (("a",), {"": ""}), (("\ud800",), {})],
)
async def test_what_cannot_be_run_is_refused_when_created(
    executor: ProcessExecutor, argv: tuple[str, ...], envs: dict[str, str]
) -> None:
    with pytest.raises(StartFailed):
        await executor.create(HOST, spec(*argv, envs=envs))
    assert await executor.runs(HOST) == []


async def test_hosts_are_labels_with_runs_of_their_own(executor: ProcessExecutor) -> None:
    wanted = spec("true")
    for host in ("..", "a/b", "name:2375"):
        run_id = await executor.create(host, wanted)
        assert [run.run_id for run in await executor.runs(host)] == [run_id]
        assert await executor.find(HOST, wanted.execution_id) is None
        await executor.remove(host, run_id)


async def test_failing_disks_are_the_host_s_fault(
    executor: ProcessExecutor, tmp_path: Path
) -> None:
    await executor.check(HOST)
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    (tmp_path / "runs").touch()
    with pytest.raises(HostUnavailable):
        await executor.create(HOST, spec("true"))
    (tmp_path / "runs").unlink()
    with pytest.raises(HostUnavailable):
        await executor.check(HOST)
    (tmp_path / "elsewhere").rename(tmp_path / "runs")


async def test_a_closed_executor_says_so(tmp_path: Path) -> None:
    executor = ProcessExecutor(data_dir=tmp_path)
    with pytest.raises(HostUnavailable):
        await executor.check(HOST)


# -- the pieces -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"", 0), (b"a", 0), ("é".encode(), 0), ("😀".encode(), 0),
        (b"a\xc3", 1), (b"\xe2\x82", 2), (b"\xf0\x9f\x98", 3), (b"\xf0", 1),
        (b"\x80\x80\x80", 0), (b"\xff", 0), (b"\xc0", 0), (b"\xf5\x80", 0),
    ],
)  # fmt: skip
def test_unfinished(data: bytes, count: int) -> None:
    assert incomplete_tail(data) == count


def frame(stream: int, data: bytes, at: float = 1.0) -> bytes:
    return process_shim.FRAME.pack(stream, at, len(data)) + data


def test_a_torn_frame_is_left_for_later() -> None:
    whole = frame(1, b"one") + frame(1, b"two") + frame(2, b"three") + frame(1, b"four", at=9.0)
    first = output.LogReader.at("").take(whole)
    assert first is not None
    assert [(piece.at, piece.stream, piece.data) for piece in first.pieces] == [
        (1.0, Stream.STDOUT, b"onetwo"), (1.0, Stream.STDERR, b"three"),
        (9.0, Stream.STDOUT, b"four"),
    ]  # fmt: skip
    for cut in range(len(whole) + 1):
        reader = output.LogReader.at("")
        taken = [reader.take(whole[:cut])]
        rest = output.LogReader.at(reader.bookmark)
        taken.append(rest.take(whole[reader.offset :]))
        pieces = [piece for batch in taken if batch for piece in batch.pieces]
        assert b"".join(piece.data for piece in pieces) == b"onetwothreefour"
        assert rest.offset == len(whole)


def test_a_full_disk_costs_the_frame_and_no_more(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = process_shim.Log(str(tmp_path / "log"))
    log.append(1, b"before")
    size = (tmp_path / "log").stat().st_size
    # A file size limit makes writes fail as a full disk does, in the middle of a frame.
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
    try:
        log.append(1, b"x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        signal.signal(signal.SIGXFSZ, previous)
    log.append(2, b"after")
    log.close()
    assert log.lost_bytes == 1000
    batch = output.LogReader.at("").take((tmp_path / "log").read_bytes())
    assert batch is not None
    assert [piece.data for piece in batch.pieces] == [b"before", b"after"]


def test_records_are_written_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    assert process_shim.read(str(path)) is None
    process_shim.write_once(str(path), {"a": 1})
    with pytest.raises(FileExistsError):
        process_shim.write_once(str(path), {"a": 2})
    assert process_shim.read(str(path)) == {"a": 1}
    assert os.listdir(tmp_path) == ["state.json"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_lock_is_one_s_and_not_of_a_removed_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").touch()
    held = process_shim.take_lock(str(tmp_path / "run"))
    assert held is not None
    assert process_shim.take_lock(str(tmp_path / "run")) is None
    fcntl.flock(held, fcntl.LOCK_UN)
    os.close(held)
    (tmp_path / "run").rename(tmp_path / "removed")
    with pytest.raises(FileNotFoundError):
        process_shim.take_lock(str(tmp_path / "run"))


def test_processes_are_told_apart_by_their_start(tmp_path: Path) -> None:
    ticks, boot = process_shim.start_ticks(os.getpid()), process_shim.boot_id()
    assert ticks is not None
    assert process_shim.alive(os.getpid(), ticks, boot)
    assert not process_shim.alive(os.getpid(), ticks + 1, boot)
    assert not process_shim.alive(os.getpid(), ticks, "another boot")
    assert not process_shim.alive(os.getpid(), None, boot)
    zombie = os.fork()
    if zombie == 0:
        os._exit(0)
    os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
    assert process_shim.start_ticks(zombie) is None
    os.waitpid(zombie, 0)


def test_a_supervisor_needs_a_run(tmp_path: Path) -> None:
    assert supervisor.launch(tmp_path / "no-run", PATIENCE_SECONDS) == ("gone", "")
