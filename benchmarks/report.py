"""The table on the terminal, the JSON file and the plot."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.measure import Result

# The width of the table where there is no terminal to ask.
PIPED_COLUMNS = 150


@dataclass(frozen=True, slots=True)
class Machine:
    """What the numbers were measured on."""

    when: str
    commit: str
    python: str
    kernel: str
    cpus: int
    engine: str
    load_before: float
    """The load average of the minute before: how much else was going on."""

    @classmethod
    def here(cls, engine: str) -> Machine:
        """This one. *engine* is the engine's version."""
        return cls(
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            commit=_commit(),
            python=platform.python_version(),
            kernel=platform.release(),
            cpus=os.cpu_count() or 0,
            engine=engine,
            load_before=round(os.getloadavg()[0], 2),
        )

    def __str__(self) -> str:
        return (
            f"{self.when} · commit {self.commit} · {self.cpus} CPUs · Docker {self.engine} · "
            f"Python {self.python} · load before {self.load_before:g}"
        )


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def print_table(results: Sequence[Result], machine: Machine) -> None:
    """For people; without colours where it is piped."""
    piped = not sys.stdout.isatty()
    console = Console(width=PIPED_COLUMNS if piped else None)
    table = Table(title="fastlane next to the bare engine", caption=str(machine))
    for heading in ("row", "what", "n", "fastlane", "bare", "compared", "target", "verdict"):
        right = heading in {"n", "fastlane", "compared"}
        table.add_column(heading, justify="right" if right else "left")
    setups = {result.setup for result in results}
    row = ""
    for result in results:
        if row and result.row != row:
            table.add_section()
        row = result.row
        bare = ""
        if result.bare is not None:
            bare = f"{_number(result.bare)} {result.unit} ({result.bare_what})"
        table.add_row(
            f"{result.row} {result.setup}" if len(setups) > 1 else result.row,
            result.what,
            str(result.n),
            f"{_number(result.ours)} {result.unit}",
            bare,
            result.compared,
            result.target,
            _verdict(result),
        )
    console.print(table)


def _verdict(result: Result) -> Text:
    if result.met is None:
        return Text("-", style="dim")
    return Text("met", style="green") if result.met else Text("MISSED", style="bold red")


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def write_files(results: Sequence[Result], machine: Machine, directory: Path) -> None:
    """``latest.json`` and ``latest.svg`` in *directory*."""
    directory.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": asdict(machine),
        "results": [asdict(result) for result in results],
    }
    (directory / "latest.json").write_text(
        json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (directory / "latest.svg").write_text(plot(results, machine), encoding="utf-8")


# The plot's measures, in pixels.
_LEFT, _BAR, _RIGHT, _ROW, _TOP = 20, 420, 340, 62, 56


def plot(results: Sequence[Result], machine: Machine) -> str:
    """Two bars for each number that has a bare one beside it, each pair on its own scale.

    Written by hand: a plotting library would weigh more than all of fastlane.
    """
    pairs = [result for result in results if result.bare is not None]
    width = _LEFT + _BAR + _RIGHT
    height = _TOP + _ROW * len(pairs) + 14
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{_LEFT}" y="22" font-size="16" font-weight="bold">'
        "fastlane next to the bare engine</text>",
        f'<text x="{_LEFT}" y="40" fill="#666" font-size="10">{escape(str(machine))}</text>',
    ]
    for number, result in enumerate(pairs):
        assert result.bare is not None
        top = _TOP + number * _ROW
        scale = _BAR / (max(result.ours, result.bare) or 1)
        title = f"{result.row} ({result.setup}): {result.what}"
        parts.append(f'<text x="{_LEFT}" y="{top + 12}">{escape(title)}</text>')
        for offset, value, colour, label in (
            (18, result.ours, "#2166ac", f"fastlane {_number(result.ours)} {result.unit}"),
            (34, result.bare, "#b8b8b8", f"bare {_number(result.bare)} {result.unit}"),
        ):
            length = max(1.0, value * scale)
            parts.append(
                f'<rect x="{_LEFT}" y="{top + offset}" width="{length:.1f}" height="13" '
                f'fill="{colour}"/>'
            )
            if offset == 18:
                label = f"{label}   {result.compared}"
            parts.append(
                f'<text x="{_LEFT + length + 6:.1f}" y="{top + offset + 11}">{escape(label)}</text>'
            )
    return "\n".join([*parts, "</svg>", ""])
