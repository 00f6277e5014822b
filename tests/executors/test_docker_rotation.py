"""A log whose start the host has rotated away is gone on with behind the bookmark."""

from __future__ import annotations

import itertools

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlane.executors.base import LogBatch
from fastlane.executors.docker.container import LogLimits
from fastlane.executors.docker.reader import ROTATED_NOTE, LogReader
from fastlane.model import Stream
from tests.executors.conftest import Docker
from tests.executors.engines import RUN_ID, FakeEngine, frame, opened, output, read_all

pytestmark = pytest.mark.timeout(90)

# Lines of one stream each, a line in one or more parts as the engine cuts long ones.
LINES = st.lists(
    st.tuples(
        st.sampled_from([1, 2]),
        st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=12,
)


def frames_of(lines: list[tuple[int, list[str]]]) -> list[list[bytes]]:
    """The frames of each line, which share its time."""
    found = []
    for number, (kind, parts) in enumerate(lines):
        texts = [*parts[:-1], parts[-1] + "\n"]
        found.append([frame(number + 1, text.encode(), kind) for text in texts])
    return found


def read(reader: LogReader, frames: list[bytes], step: int) -> list[LogBatch]:
    wire = b"".join(frames)
    chunks = [wire[at : at + step] for at in range(0, len(wire), step)]
    fed = [reader.feed(chunk) for chunk in chunks]
    return [batch for batch in (*fed, reader.finish()) if batch is not None]


def streams(batches: list[LogBatch]) -> tuple[bytes, bytes]:
    return output(batches, Stream.STDOUT), output(batches, Stream.STDERR)


@settings(deadline=None)
@given(LINES, st.integers(0, 40), st.integers(0, 12), st.integers(25, 400), st.booleans())
def test_nothing_is_lost_or_doubled_wherever_the_start_was_cut_off(
    lines: list[tuple[int, list[str]]], stop: int, dropped: int, step: int, restarted: bool
) -> None:
    by_line = frames_of(lines)
    frames = list(itertools.chain(*by_line))
    stop = min(stop, len(frames))
    left = list(itertools.chain(*by_line[dropped:]))
    reader = LogReader("")
    begun = read(reader, frames[:stop], step)
    if restarted:
        # The same caller, on a new connection.
        reader.restart()
    else:
        reader = LogReader(begun[-1].bookmark if begun else "")
    rest = read(reader, left, step)

    gone = len(frames) - len(left)
    new = frames[max(stop, gone) :]
    assert streams(rest) == streams(read(LogReader(""), new, len(b"".join(new)) + 1))
    # Where exactly what was read is gone, nobody can tell that nothing more is.
    notes = output(rest, Stream.FASTLANE)
    assert notes == (ROTATED_NOTE if stop and left and gone >= stop else b"")
    # Every bookmark behind the cut is as good as the first one.
    for index, batch in enumerate(rest):
        again = read(LogReader(batch.bookmark), left, step)
        assert streams(again) == streams(rest[index + 1 :])
        assert output(again, Stream.FASTLANE) == b""


async def test_a_bookmark_in_what_the_host_still_has_goes_on_without_a_note(
    docker_host: str, docker_image: str
) -> None:
    docker = Docker(docker_host, docker_image, log_limits=LogLimits(200_000, 2))
    line = "%04d" + "x" * 95
    script = (
        'p() { i=$1; while [ $i -le $2 ]; do printf "' + line + '\\n" $i; i=$((i+1)); done; }; '
        "trap 'p 2201 3600; exit 0' TERM; p 1 2200; while :; do sleep 0.05; done"
    )
    try:
        run_id = await docker.shell(script)
        begun = await docker.read_until(run_id, b"\n2200" + b"x" * 95 + b"\n")
        await docker.executor.stop(docker.host, run_id, grace_seconds=30)
        fresh = output(await docker.log(run_id))
        # The start is gone, what was read last is not.
        assert 1 < int(fresh[:4]) < 2000
        checked = 0
        for number, batch in enumerate(begun):
            read_so_far = output(begun[: number + 1])
            if int(fresh[:4]) > int(read_so_far[-100:-96]):
                continue
            rest = await docker.log(run_id, batch.bookmark)
            assert output(rest, Stream.FASTLANE) == b""
            whole = read_so_far + output(rest, Stream.STDOUT)
            assert whole == b"".join(b"%04d" % n + b"x" * 95 + b"\n" for n in range(1, 3601))
            checked += 1
        assert checked > 0
    finally:
        await docker.clear()


class RepeatsOneLine(FakeEngine):
    """As Docker 20.10 does at a rotation: the first follow gives one line a second time."""

    async def follow(self, response: web.StreamResponse) -> None:
        """See :meth:`FakeEngine.follow`."""
        if self.follows == 1:
            await response.write(b"".join([*self.log[:2], *self.log[1:]]))
        else:
            await response.write(b"".join(self.log))
            self.status = "exited"


async def test_a_single_line_that_a_follow_repeats_is_not_taken_twice() -> None:
    log = [frame(number, b"%d\n" % number) for number in range(1, 5)]
    async with RepeatsOneLine(log=log) as engine, opened() as executor:
        batches = await read_all(executor, engine.url, RUN_ID, ended=False)
        assert output(batches) == b"1\n2\n3\n4\n"
        assert engine.follows == 2


@pytest.mark.parametrize("ended", [False, True])
async def test_equal_lines_of_one_moment_are_kept(ended: bool) -> None:
    class CoarseClock(FakeEngine):
        """Has a clock that stands still for a while."""

        async def follow(self, response: web.StreamResponse) -> None:
            await response.write(b"".join(self.log))
            if self.follows > 1:
                self.status = "exited"

    log = [frame(1, b"a\n"), frame(1, b"a\n"), frame(1, b"a\n"), frame(2, b"b\n")]
    async with CoarseClock(log=log) as engine, opened() as executor:
        batches = await read_all(executor, engine.url, RUN_ID, ended=ended)
    assert output(batches) == b"a\na\na\nb\n"
