"""What the command line adds: ``--help`` over bare Python, ``run`` over the job itself."""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Sequence

from benchmarks.measure import Bench, BenchError, Result, summary, take_turns
from benchmarks.rows.idle import job_ms

NAME = "cli"

TARGET_MS = 150.0


async def measure(bench: Bench) -> Sequence[Result]:
    """Whole processes, in turns with what they are compared with."""
    rounds = 5 if bench.quick else 20
    async with bench.server() as server:
        environment = {**os.environ, "FASTLANE_URL": f"http://127.0.0.1:{server.client.port}"}

        async def command_ms(*arguments: str) -> float:
            began = time.perf_counter()
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                env=environment,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            _, error = await process.communicate()
            if process.returncode != 0:
                raise BenchError(f"{' '.join(arguments)}: {error.decode()}")
            return (time.perf_counter() - began) * 1000

        run = ("-m", "fastlane", "run", bench.engine.image, "--", "true")
        shown, python = await take_turns(
            rounds, lambda: command_ms("-m", "fastlane", "--help"), lambda: command_ms("-c", "pass")
        )
        ran, jobs = await take_turns(
            rounds,
            lambda: command_ms(*run),
            lambda: job_ms(server, bench.engine, watched=False),
        )
    return [
        _result(bench, "fastlane --help", shown, python, "python -c pass"),
        _result(bench, "fastlane run IMAGE -- true", ran, jobs, "the job itself, by HTTP"),
    ]


def _result(
    bench: Bench, what: str, ours: list[float], other: list[float], other_what: str
) -> Result:
    # Pairs are neighbours in time, so the machine's drift is the same in both.
    added = statistics.median(mine - its for mine, its in zip(ours, other, strict=True))
    return Result(
        row=NAME,
        setup=bench.setup.name,
        what=what,
        unit="ms",
        ours=statistics.median(ours),
        n=len(ours),
        bare=statistics.median(other),
        bare_what=other_what,
        compared=f"{added:+.1f} ms",
        target=f"≤ +{TARGET_MS:g} ms",
        met=added <= TARGET_MS,
        details={"added_ms": added, "ours": summary(ours), "bare": summary(other)},
    )
