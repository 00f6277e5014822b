"""``python -m benchmarks [--only NAME] [--quick]``"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from benchmarks.engine import BareEngine
from benchmarks.measure import Bench, Result, Setup
from benchmarks.report import Machine, print_table, write_files
from benchmarks.rows import ROWS
from scripts.engine import EngineError
from scripts.machine import SetupError, fail

RESULTS = Path(__file__).parent / "results"

# Every way to run the server; another storage is one more line here.
SETUPS = (Setup("sqlite"),)


async def measure(names: Sequence[str], *, quick: bool) -> tuple[list[Result], Machine, list[str]]:
    """The results of the rows named (all without a name), and what went wrong with the others."""
    results: list[Result] = []
    failures: list[str] = []
    async with BareEngine.from_environment() as engine:
        machine = Machine.here(await engine.version())
        for setup in SETUPS:
            for row in ROWS:
                if names and row.NAME not in names:
                    continue
                began = time.monotonic()
                try:
                    results += await row.measure(Bench(engine, setup, quick))
                except Exception as error:
                    notes = "".join(f"\n    {note}" for note in getattr(error, "__notes__", ()))
                    failures.append(f"{row.NAME} on {setup.name}: {error!r}{notes}")
                took = time.monotonic() - began
                print(f"measured  {row.NAME} on {setup.name} in {took:.0f} s", file=sys.stderr)
    return results, machine, failures


def main() -> int:
    """0, or 1 where a number could not be measured; a target that is missed is no failure."""
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
    parser.add_argument("--quick", action="store_true", help="fewer and smaller measurements")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the files go")
    arguments = parser.parse_args()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            results, machine, failures = runner.run(measure(arguments.only, quick=arguments.quick))
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
