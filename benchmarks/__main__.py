"""``python -m benchmarks [--only NAME] [--setup NAME] [--quick]``"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from benchmarks.engine import BareEngine
from benchmarks.measure import Bench, Result
from benchmarks.report import Machine, print_table, write_files
from benchmarks.rows import ROWS
from benchmarks.stores import SETUPS, SetupMissing
from scripts.engine import EngineError
from scripts.machine import SetupError, fail, in_ci

T = TypeVar("T")

RESULTS = Path(__file__).parent / "results"


async def measure(
    names: Sequence[str], setups: Sequence[str], *, quick: bool
) -> tuple[list[Result], Machine, list[str]]:
    """The results of the rows and setups named (all without a name), and what went wrong."""
    results: list[Result] = []
    failures: list[str] = []
    async with BareEngine.from_environment() as engine:
        try:
            machine = Machine.here(await engine.version())
            for name, made in SETUPS:
                if setups and name not in setups:
                    continue
                try:
                    async with made() as setup:
                        await _measure_on(Bench(engine, setup, quick), names, results, failures)
                except SetupMissing as error:
                    print(f"skipped   {name}: {error}", file=sys.stderr)
                    if in_ci():
                        failures.append(f"{name}: {error}")
        finally:
            await engine.clear()
    return results, machine, failures


async def _measure_on(
    bench: Bench, names: Sequence[str], results: list[Result], failures: list[str]
) -> None:
    for row in ROWS:
        if names and row.NAME not in names:
            continue
        began = time.monotonic()
        try:
            results += await row.measure(bench)
        except Exception as error:
            notes = "".join(f"\n    {note}" for note in getattr(error, "__notes__", ()))
            failures.append(f"{row.NAME} on {bench.setup.name}: {error!r}{notes}")
        took = time.monotonic() - began
        print(f"measured  {row.NAME} on {bench.setup.name} in {took:.0f} s", file=sys.stderr)


async def ended_by_sigterm(work: Coroutine[Any, Any, T]) -> T:
    """Do *work*, which SIGTERM cancels as Ctrl-C does: what it has started is cleaned up.

    :raises asyncio.CancelledError: so it was.
    """
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    told = False

    def end() -> None:
        # Once: a second one would cut the cleaning short.
        nonlocal told
        if not told:
            told = True
            task.cancel()

    loop.add_signal_handler(signal.SIGTERM, end)
    try:
        return await work
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def main() -> int:
    """0, or 1 where a number could not be measured; a target that is missed is no failure.

    143 when SIGTERM ended it.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="fastlane next to the bare engine"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=[row.NAME for row in ROWS],
        help="this row alone; may be repeated",
    )
    parser.add_argument(
        "--setup",
        action="append",
        default=[],
        choices=[name for name, _ in SETUPS],
        help="on this storage alone; may be repeated",
    )
    parser.add_argument("--quick", action="store_true", help="fewer and smaller measurements")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the files go")
    arguments = parser.parse_args()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            work = measure(arguments.only, arguments.setup, quick=arguments.quick)
            results, machine, failures = runner.run(ended_by_sigterm(work))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    except (EngineError, SetupError) as error:
        return fail(str(error))
    if results:
        print_table(results, machine)
        write_files(results, machine, arguments.results)
        print(f"written   {arguments.results}/latest.json and latest.svg")
    for failure in failures:
        fail(f"failed    {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
