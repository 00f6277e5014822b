"""The scoreboard of the fault runs: rows, their text, and the table in ``docs/measured.md``.

::

    python -m scripts.scoreboard

puts the rows of ``.run/faults.json`` (written by ``make faults``) into ``docs/faults.json``, each
in the place of the row of the same scenario, and makes the table in ``docs/measured.md`` from that.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parent.parent
RUN = ROOT / ".run" / "faults.json"
KEPT = ROOT / "docs" / "faults.json"
PAGE = ROOT / "docs" / "measured.md"
BEGIN, END = "<!-- Made by scripts/scoreboard.py -->\n", "<!-- Until here -->\n"

COUNTS = ("lost", "twice", "wrong_outcome", "wrong_log", "wrong_answer")
HEADS = ("scenario", "on", "n", "lost", "twice", "outcome", "log", "answer", "recovery")


@dataclass(frozen=True)
class Row:
    """What one scenario did to *n* jobs; a count of None was not looked at."""

    scenario: str
    where: str
    """``SQLite`` or ``cluster``."""
    n: int
    unit: str = "jobs"
    lost: int | None = None
    """Accepted, and never ended."""
    twice: int | None = None
    """Started more than once, according to the command itself or the engine's events."""
    wrong_outcome: int | None = None
    """Another status, reason or exit code than the run had, or times out of order."""
    wrong_log: int | None = None
    wrong_answer: int | None = None
    """Anything but 2xx and 503."""
    recovery_seconds: float | None = None
    """The longest of all recoveries."""
    note: str = ""
    failed: int = 0
    """How many tests that reported this row failed."""

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """A row of the JSON."""
        return cls(**{each.name: values[each.name] for each in fields(cls) if each.name in values})

    @property
    def key(self) -> tuple[str, str]:
        """Rows with the same key are one scenario."""
        return self.scenario, self.where

    def plus(self, other: Row) -> Row:
        """Both, as one row: counts are added, of the recoveries the longer one stays."""
        both = [row.recovery_seconds for row in (self, other) if row.recovery_seconds is not None]
        return replace(
            self,
            n=self.n + other.n,
            failed=self.failed + other.failed,
            recovery_seconds=max(both, default=None),
            note="; ".join(dict.fromkeys(note for note in (self.note, other.note) if note)),
            lost=_sum(self.lost, other.lost),
            twice=_sum(self.twice, other.twice),
            wrong_outcome=_sum(self.wrong_outcome, other.wrong_outcome),
            wrong_log=_sum(self.wrong_log, other.wrong_log),
            wrong_answer=_sum(self.wrong_answer, other.wrong_answer),
        )

    def cells(self) -> list[str]:
        """As :data:`HEADS`."""
        n = str(self.n) if self.unit == "jobs" else f"{self.n} {self.unit}"
        seconds = "-" if self.recovery_seconds is None else f"{self.recovery_seconds:.1f} s"
        name = self.scenario + (" (failed)" if self.failed else "")
        counts = [self._count(getattr(self, each)) for each in COUNTS]
        return [name, self.where, n, *counts, seconds]

    def _count(self, count: int | None) -> str:
        """A zero has its bound beside it: the rule of three, at 95 % confidence."""
        if count is None:
            return "-"
        if count or not self.n:
            return str(count)
        bound = min(3 / self.n, 1)
        return f"0 ≤{100 * bound:.1g}%" if bound < 0.01 else f"0 ≤{bound:.0%}"


def _sum(one: int | None, other: int | None) -> int | None:
    return (one or 0) + (other or 0) if one is not None or other is not None else None


def merged(rows: Iterable[Row]) -> list[Row]:
    """One row for each scenario and place, in the order in which they came first."""
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        found[row.key] = found[row.key].plus(row) if row.key in found else row
    return list(found.values())


def text(rows: Sequence[Row]) -> str:
    """The scoreboard for a terminal."""
    lines = [list(HEADS), *(row.cells() for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(HEADS))]
    shown = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    notes = [f"{row.scenario} ({row.where}): {row.note}" for row in rows if row.note]
    return "\n".join([*shown, *notes])


def markdown(rows: Sequence[Row]) -> str:
    """The table of the documents, and what was noted beside it."""
    lines = [HEADS, ["---"] * len(HEADS), *(row.cells() for row in rows)]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    notes = "".join(f"- {row.scenario}, {row.where}: {row.note}\n" for row in rows if row.note)
    return f"{table}\n{notes}" if notes else table


def read(path: Path) -> dict[str, Any]:
    """What was written there by :func:`write`."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {**found, "rows": [Row.parse(row) for row in found["rows"]]}


def write(path: Path, rows: Sequence[Row], **about: object) -> None:
    """Write *rows* as JSON; *about* says where they are from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {**about, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def page(document: str, rows: Sequence[Row]) -> str:
    """*document* with the table of *rows* in its place."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{markdown(rows)}\n{END}{after}"


def main() -> None:
    if not RUN.exists():
        sys.exit(f"{RUN.relative_to(ROOT)} does not exist: run make faults first.")
    run = read(RUN)
    kept = read(KEPT) if KEPT.exists() else {"rows": []}
    rows = {row.key: row for row in [*kept["rows"], *run["rows"]]}
    write(KEPT, list(rows.values()), **{key: run[key] for key in run if key != "rows"})
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), list(rows.values())), encoding="utf-8")


if __name__ == "__main__":
    main()
