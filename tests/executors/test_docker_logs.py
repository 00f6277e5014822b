"""The log is complete and comes once, whatever the engine does while it is followed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from fastlane.errors import RunVanished
from fastlane.executors.base import LogBatch
from fastlane.executors.docker import logs
from fastlane.executors.docker.container import LogLimits
from fastlane.executors.docker.executor import DockerExecutor
from fastlane.executors.docker.reader import ROTATED_NOTE
from fastlane.model import Stream
from tests.executors.conftest import Docker
from tests.executors.engines import (
    PATIENCE_SECONDS,
    RUN_ID,
    ClockSetBack,
    FakeEngine,
    FollowBreaksOff,
    FollowHangs,
    FollowMissesTheEnd,
    FollowRepeats,
    frame,
    output,
)

FRAMES = [frame(number, b"line %d\n" % number) for number in range(5)]
WHOLE = b"".join(b"line %d\n" % number for number in range(5))


@pytest.fixture
async def executor() -> AsyncIterator[DockerExecutor]:
    executor = DockerExecutor()
    await executor.open("test")
    yield executor
    await executor.close()


async def read(executor: DockerExecutor, fake: FakeEngine, ended: asyncio.Event) -> list[LogBatch]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        found = executor.logs(fake.url, RUN_ID, bookmark="", ended=ended)
        return [batch async for batch in found]


async def test_a_follow_that_breaks_off_goes_on_without_a_gap(executor: DockerExecutor) -> None:
    async with FollowBreaksOff(log=FRAMES) as fake:
        assert output(await read(executor, fake, asyncio.Event())) == WHOLE
        assert fake.follows == 5


async def test_a_follow_that_hangs_after_the_exit(executor: DockerExecutor) -> None:
    ended = asyncio.Event()
    async with FollowHangs(log=FRAMES, given=5) as fake:
        reading = asyncio.create_task(read(executor, fake, ended))
        await fake.hanging.wait()
        fake.status = "exited"
        ended.set()
        async with asyncio.timeout(logs.STUCK_SECONDS - 0.5):
            assert output(await reading) == WHOLE


async def test_a_follow_that_hangs_with_a_part_of_the_log(
    executor: DockerExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "STUCK_SECONDS", 0.1)
    ended = asyncio.Event()
    async with FollowHangs(log=FRAMES, given=3) as fake:
        reading = asyncio.create_task(read(executor, fake, ended))
        await fake.hanging.wait()
        fake.status = "exited"
        ended.set()
        assert output(await reading) == WHOLE
        assert fake.follows == 1


async def test_a_follow_that_gets_stuck_while_the_run_goes_on(
    executor: DockerExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "FIRST_CHECK_SECONDS", 0.1)
    monkeypatch.setattr(logs, "STUCK_SECONDS", 0.1)
    async with FollowHangs(log=FRAMES, given=3) as fake, asyncio.timeout(PATIENCE_SECONDS):
        found = executor.logs(fake.url, RUN_ID, bookmark="", ended=asyncio.Event())
        batches: list[LogBatch] = []
        async with aclosing(found):
            async for batch in found:
                batches.append(batch)
                # The second follow gives more, and gets stuck, too.
                fake.given = 5
                if output(batches) == WHOLE:
                    break
        assert fake.follows == 2


async def test_a_silent_log_is_not_read_again_and_again(
    executor: DockerExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "FIRST_CHECK_SECONDS", 0.01)
    ended = asyncio.Event()
    async with FollowHangs(log=FRAMES, given=5) as fake:
        reading = asyncio.create_task(read(executor, fake, ended))
        await fake.wait_until(lambda: fake.count("tail=1") >= 4)
        assert fake.follows == 1
        ended.set()
        assert output(await reading) == WHOLE


async def test_a_follow_that_misses_the_end(executor: DockerExecutor) -> None:
    async with FollowMissesTheEnd(log=FRAMES) as fake:
        assert output(await read(executor, fake, asyncio.Event())) == WHOLE
        assert fake.follows == 1


async def test_equal_parts_of_one_long_line_are_no_proof(executor: DockerExecutor) -> None:
    part = frame(1, b"x" * 16384)
    async with FollowMissesTheEnd(log=[part, part, part]) as fake:
        assert output(await read(executor, fake, asyncio.Event())) == b"x" * 16384 * 3


async def test_the_engines_own_words_are_marked_as_such(executor: DockerExecutor) -> None:
    words = b"Error grabbing logs: invalid character"
    broken = b"\x03\0\0\0\0\0\0" + bytes([len(words)]) + words
    ended = asyncio.Event()
    ended.set()
    async with FakeEngine(log=[FRAMES[0], broken, FRAMES[1]]) as fake:
        batches = await read(executor, fake, ended)
    assert output(batches, Stream.STDOUT) == b"line 0\nline 1\n"
    assert words in output(batches, Stream.FASTLANE)


# -- rotation, on the real engine -------------------------------------------------------------


async def test_going_on_where_the_host_has_rotated_the_log_away(
    docker_host: str, docker_image: str
) -> None:
    docker = Docker(docker_host, docker_image, log_limits=LogLimits(50_000, 2))
    try:
        run_id = await docker.shell(
            "trap 'exit 0' USR1; trap 'seq 100000 160000 >&2; exit 0' TERM; "
            "seq 1 100; while :; do sleep 0.05; done"
        )
        first = await docker.read_until(run_id, b"\n100\n")
        await docker.executor.stop(docker.host, run_id, grace_seconds=30)
        rest = await docker.log(run_id, first[-1].bookmark)
        pieces = [piece for batch in rest for piece in batch.pieces]
        assert (pieces[0].stream, pieces[0].data) == (Stream.FASTLANE, ROTATED_NOTE)
        numbers = output(rest, Stream.STDERR).split()
        # What is there comes without a gap, up to the end; nothing of it had been read before.
        assert numbers == [b"%d" % n for n in range(int(numbers[0]), 160_001)]
        assert int(numbers[0]) > 100_000
        assert output(rest, Stream.STDOUT) == b""
        # The note is not repeated behind a bookmark that was made after it.
        for batch in rest:
            again = await docker.log(run_id, batch.bookmark)
            assert output(again, Stream.FASTLANE) == b""
            index = rest.index(batch)
            assert output(again) == output(rest[index + 1 :])
    finally:
        await docker.clear()


async def test_nothing_comes_twice_when_the_log_is_rotated_under_a_follow(
    docker_host: str, docker_image: str
) -> None:
    docker = Docker(docker_host, docker_image, log_limits=LogLimits(50_000, 2))
    try:
        # More than two files hold, and faster than anybody reads: Docker 20.10 repeats itself then.
        for _ in range(5):
            run_id = await docker.shell(
                "trap 'seq 20000 20100; exit 0' TERM; seq 1 9999; echo 10000; "
                "while :; do sleep 0.05; done"
            )
            first = await docker.read_until(run_id, b"10000\n")
            await docker.executor.stop(docker.host, run_id, grace_seconds=30)
            rest = await docker.log(run_id, first[-1].bookmark)
            assert output(rest) == b"".join(b"%d\n" % n for n in range(20000, 20101))
            numbers = [int(word) for word in output(first, Stream.STDOUT).split()]
            assert numbers == sorted(set(numbers))
            assert numbers[-1] == 10000
    finally:
        await docker.clear()


async def test_what_a_follow_repeats_is_not_taken_twice(executor: DockerExecutor) -> None:
    async with FollowRepeats(log=FRAMES) as fake:
        assert output(await read(executor, fake, asyncio.Event())) == WHOLE


async def test_a_clock_that_was_set_back_loses_nothing(executor: DockerExecutor) -> None:
    numbers = [5, 6, 2, 3, 1, 7]
    async with ClockSetBack(log=[frame(n, b"%d\n" % n) for n in numbers]) as fake:
        found = output(await read(executor, fake, asyncio.Event()))
    assert found == b"".join(b"%d\n" % n for n in numbers)
    assert fake.follows == 3


async def test_fifty_megabytes_of_bytes(docker: Docker) -> None:
    run_id = await docker.shell("head -c 50000000 /dev/zero | tr '\\0' '\\377'; echo")
    ended = asyncio.Event()
    reading = asyncio.create_task(docker.log(run_id, ended=ended))
    await docker.wait(run_id)
    ended.set()
    batches = await reading
    assert output(batches) == b"\xff" * 50_000_000 + b"\n"


async def test_a_run_removed_while_it_is_followed(docker: Docker) -> None:
    run_id = await docker.shell("echo ready; while :; do sleep 0.05; done")
    first = await docker.read_until(run_id, b"ready\n")
    following = docker.log(run_id, first[-1].bookmark, ended=asyncio.Event())
    reading = asyncio.create_task(following)
    await docker.call("DELETE", f"/containers/{run_id}?force=1")
    with pytest.raises(RunVanished, match=run_id[:12]):
        await reading
