"""What the command line adds: ``--help`` over bare Python, ``run`` over the job itself."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence

from benchmarks.measure import Bench, BenchError, Result, take_turns
from benchmarks.rows.idle import added_result, job_ms

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
        added_result(bench, NAME, what, ours, other, bare_what=other_what, target_ms=TARGET_MS)
        for what, ours, other, other_what in (
            ("fastlane --help", shown, python, "python -c pass"),
            ("fastlane run IMAGE -- true", ran, jobs, "the job itself, by HTTP"),
        )
    ]
