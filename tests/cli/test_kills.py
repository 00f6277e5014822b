"""``fastlane run`` while the server is killed again and again."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from scripts.scoreboard import Row
from tests.client.test_follow import killed_script
from tests.fastlane_server import FastlaneServer
from tests.scoreboard import Scoreboard

LINES = 10
# How many commands run at the same time; each is a process.
AT_ONCE = 8


@pytest.mark.faults
@pytest.mark.timeout(3700)
async def test_many_jobs_are_followed_while_the_server_is_killed(
    tmp_path: Path, scoreboard: Scoreboard
) -> None:
    """300 jobs with a retry each, and a kill every three seconds."""
    count = scoreboard.scaled(300)
    room, wrong, kills = asyncio.Semaphore(AT_ONCE), [], 0
    # A command that finds no server at all says so and ends, so each finds one at first.
    up = asyncio.Condition()
    starting = 0
    lines = [f"out {number}" for number in range(LINES)] * 2
    errors = [f"err {number}" for number in range(LINES)] * 2
    with FastlaneServer(tmp_path, EXECUTOR="process") as server:
        environment = {**os.environ, "FASTLANE_URL": server.url}

        async def run(number: int) -> None:
            script = killed_script(tmp_path / f"tried-{number}", LINES)
            command = (*("--retries=1", "--backoff=1s", "any:1", "--"), *("sh", "-c", script))
            nonlocal starting
            async with room:
                async with up:
                    starting += 1
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "fastlane", "run", "-t", f"t{number % 7}", *command),
                    env=environment,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                )
                assert process.stderr is not None
                first = await process.stderr.readline()
                async with up:
                    starting -= 1
                    up.notify_all()
                out, err = (text.decode() for text in await process.communicate())
                assert first.startswith(b"fastlane: http"), first
            said = [line for line in err.splitlines() if line.startswith("err ")]
            if (process.returncode, out.splitlines(), said) != (5, lines, errors):
                wrong.append(f"{number}: {process.returncode} {out!r} {err!r}")

        async def kill() -> None:
            nonlocal kills
            while True:
                await asyncio.sleep(3)
                async with up:
                    await up.wait_for(lambda: starting == 0)
                    await asyncio.to_thread(server.restart)
                kills += 1

        killer = asyncio.create_task(kill())
        async with asyncio.timeout(scoreboard.scaled(3600, least=300)):
            await asyncio.gather(*(run(number) for number in range(count)))
        killer.cancel()
        await asyncio.wait([killer])
    note = f"{kills} times, every 3 s; two attempts each"
    scenario = "fastlane run, kill -9 of the server"
    scoreboard.add(Row(scenario, "SQLite", count, wrong_log=len(wrong), note=note))
    assert not wrong, wrong[:5]
