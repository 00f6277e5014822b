"""Logs from Python: read, followed through retries, and resumed when the server is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastlane_client import AsyncClient, Execution, LogRecord, Status, Stream
from scripts.scoreboard import Row
from tests.client.styles import Style
from tests.fastlane_server import FastlaneServer
from tests.scoreboard import Scoreboard

BACKOFF = {"minMs": 100, "factor": 1, "maxMs": 100}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastlaneServer]:
    directory = tmp_path_factory.mktemp("server")
    with FastlaneServer(directory, EXECUTOR="process", STOP_GRACE_SECONDS="1") as server:
        yield server


def job(script: str, **keys: Any) -> dict[str, Any]:
    return {"image": "none:1", "command": ["sh", "-c", script], **keys}


def text(records: list[LogRecord], stream: Stream) -> str:
    return "".join(record.text for record in records if record.stream is stream)


async def test_a_log_is_followed_while_it_is_written(server: FastlaneServer, style: Style) -> None:
    async with style.client(server.url) as client:
        # It goes on only once its first line was seen.
        gate = server.directory / f"gate-{style.asynchronous}"
        script = f"echo one; until [ -e {gate} ]; do sleep 0.05; done; echo two >&2; exit 3"
        run = await style.call(client.submit, "t", **job(script))
        found: list[LogRecord] = []
        async for record in style.iterate(run.logs, follow=True):
            found.append(record)
            gate.touch()
        ended = await style.call(run.wait, check=False)
    assert (text(found, Stream.STDOUT), text(found, Stream.STDERR)) == ("one\n", "two\n")
    assert [record.seq for record in found] == sorted({record.seq for record in found})
    assert {record.execution_id for record in found} == {run.execution_id}
    assert ended.exit_code == 3


async def test_following_goes_through_retries(server: FastlaneServer, style: Style) -> None:
    async with style.client(server.url) as client:
        script = "echo again; exit 1"
        run = await style.call(client.submit, "t", **job(script, retries=2, backoff=BACKOFF))
        found = await style.list(run.logs, follow=True)
        first = await style.list(client.run("t", run.job_id, run.execution_id).logs, follow=True)
        whole = await style.list(client.run(f"{server.url}/tasks/t/jobs/{run.job_id}/").logs)
    assert text(found, Stream.STDOUT) == "again\n" * 3
    assert len({record.execution_id for record in found}) == 3
    assert text(first, Stream.STDOUT) == "again\n"
    assert text(whole, Stream.STDOUT) == "again\n"


async def test_watching_tells_every_status(server: FastlaneServer, style: Style) -> None:
    async with style.client(server.url) as client:
        run = await style.call(
            client.submit, "t", **job("sleep 0.3; echo a; exit 1", retries=1, backoff=BACKOFF)
        )
        found = await style.list(run.watch)
    states = [one for one in found if isinstance(one, Execution)]
    assert text([one for one in found if isinstance(one, LogRecord)], Stream.STDOUT) == "a\na\n"
    ends = [one for one in states if one.status.final]
    assert [one.status for one in ends] == [Status.FAILED, Status.FAILED]
    assert ends[0].retry is not None
    assert ends[0].retry.execution_id == ends[1].execution_id
    assert ends[1].retry is None
    assert found[-1] is ends[1]


async def test_a_log_is_read_from_any_point(server: FastlaneServer, style: Style) -> None:
    async with style.client(server.url) as client:
        script = "echo one; sleep 0.2; echo two >&2; sleep 0.2; echo three"
        run = await style.call(client.submit, "t", **job(script))
        await style.call(run.wait)
        records = await style.list(run.logs)
        rest = await style.list(run.logs, after=records[0].seq)
        last = await style.list(run.logs, tail=1)
        third = await style.list(run.logs, line=3)
        recent = await style.list(run.logs, since="1h")
        matches = await style.list(run.search, "T[HW]", regex=True)
        pieces = await style.list(run.output)
        stderr = await style.list(run.output, "stderr")
    assert [record.text for record in records] == ["one\n", "two\n", "three\n"]
    assert rest == records[1:]
    assert [record.text for record in last] == ["three\n"]
    assert [record.text for record in third] == ["three\n"]
    assert recent == records
    assert [(match.line, match.text) for match in matches] == [(2, "two"), (3, "three")]
    assert [record.line for record in records] == [1, 2, 3]
    assert b"".join(pieces) == b"one\nthree\n\n-=-\ntwo\n"
    assert b"".join(stderr) == b"two\n"


@pytest.mark.slow
async def test_a_log_is_resumed_when_the_server_is_killed(tmp_path: Path, style: Style) -> None:
    """Neither a gap nor a repeat, through a retry, and the end is that of the job."""
    script = killed_script(tmp_path / "tried", 12)
    with FastlaneServer(tmp_path, EXECUTOR="process") as server:
        async with style.client(server.url) as client:
            run = await style.call(client.submit, "t", **job(script, retries=1, backoff=BACKOFF))
            found: list[LogRecord] = []
            restarts: list[asyncio.Task[None]] = []
            async for record in style.iterate(run.logs, follow=True):
                found.append(record)
                # Once during each attempt.
                if len(restarts) < len({one.execution_id for one in found}) and record.text > "out":
                    restarts.append(asyncio.create_task(asyncio.to_thread(server.restart)))
            await asyncio.gather(*restarts)
            ended = await style.call(run.wait, check=False)
    assert len(restarts) == 2
    check_killed(found, ended, 12)


@pytest.mark.faults
@pytest.mark.timeout(4000)
async def test_many_logs_are_followed_while_the_server_is_killed(
    tmp_path: Path, scoreboard: Scoreboard
) -> None:
    """300 jobs with a retry each, and a kill every three seconds."""
    count, lines = scoreboard.scaled(300), 10
    wrong: list[str] = []
    with FastlaneServer(tmp_path, EXECUTOR="process", MAX_RUNNING="20") as server:
        async with AsyncClient(server.url) as client:

            async def follow(number: int) -> None:
                script = killed_script(tmp_path / f"tried-{number}", lines)
                payload = job(script, retries=1, backoff=BACKOFF)
                run = await client.submit_payload(f"t{number % 7}", payload)
                found = [record async for record in run.logs(follow=True)]
                try:
                    check_killed(found, await run.wait(check=False), lines)
                except AssertionError as error:
                    wrong.append(f"{number}: {error}")

            async def kill() -> None:
                while True:
                    await asyncio.sleep(3)
                    await asyncio.to_thread(server.restart)
                    kills.append(1)

            kills: list[int] = []
            killer = asyncio.create_task(kill())
            async with asyncio.timeout(scoreboard.scaled(3600, least=300)):
                await asyncio.gather(*(follow(number) for number in range(count)))
            killer.cancel()
            await asyncio.wait([killer])
    scoreboard.add(
        Row(
            "logs that are followed, kill -9 of the server",
            "SQLite",
            count,
            wrong_log=len(wrong),
            note=f"{len(kills)} times, every 3 s; two attempts each",
        )
    )
    assert not wrong, wrong[:5]


def killed_script(tried: Path, lines: int) -> str:
    """Writes to both streams, fails at first, and with 5 the second time."""
    return (
        f"i=0; while [ $i -lt {lines} ]; do echo out $i; echo err $i >&2; sleep 0.1; "
        f"i=$((i+1)); done; if [ -e {tried} ]; then exit 5; fi; touch {tried}; exit 3"
    )


def check_killed(found: list[LogRecord], ended: Execution, lines: int) -> None:
    attempts = dict.fromkeys(record.execution_id for record in found)
    assert len(attempts) == 2
    for execution_id in attempts:
        records = [record for record in found if record.execution_id == execution_id]
        assert text(records, Stream.STDOUT) == "".join(f"out {i}\n" for i in range(lines))
        assert text(records, Stream.STDERR) == "".join(f"err {i}\n" for i in range(lines))
        assert [one.seq for one in records] == sorted({one.seq for one in records})
    assert list(attempts)[-1] == ended.execution_id
    assert (ended.exit_code, ended.attempt) == (5, 1)
