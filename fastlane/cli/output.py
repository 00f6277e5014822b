"""What commands print: tables, JSON lines, ids, times and sentences.

Output goes to stdout; what is said about it to stderr. A table is untruncated and without colour
when it is redirected.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

# On a terminal that is too narrow, columns are not cut below this; the last ones are left out.
_COLUMN_MIN = 10
_GAP = "  "
_COLOURS = {
    "done": "32",
    "running": "36",
    "pulling": "36",
    "active": "36",
    "up": "32",
    "failed": "31",
    "timedout": "31",
    "down": "31",
    "expired": "33",
    "paused": "33",
    "drained": "33",
}


@dataclass(frozen=True, slots=True)
class Style:
    """How the shared options want the output."""

    as_json: bool = False
    quiet: bool = False
    colour: bool = True


def colours(style: Style, file: Any = None) -> bool:
    """Whether *file* (stdout) is to have colours: https://no-color.org."""
    file = file or sys.stdout
    return style.colour and not os.environ.get("NO_COLOR") and file.isatty()


def plain(text: object) -> str:
    """*text* in one line; what a submitter chose cannot move the cursor."""
    shown = "" if text is None else str(text)
    return shown if shown.isprintable() else repr(shown)[1:-1]


def print_json(value: object) -> None:
    """One JSON value on one line."""
    print(json.dumps(value, ensure_ascii=False, default=str), flush=True)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]], style: Style) -> None:
    """Columns as wide as their cells; on a terminal, the widest are cut to fit its width."""
    for line in lines_of(headings, rows, style):
        print(line)
    sys.stdout.flush()


def lines_of(
    headings: Sequence[str], rows: Sequence[Sequence[object]], style: Style
) -> Iterator[str]:
    """The lines of a table."""
    table = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *table, strict=True)]
    if sys.stdout.isatty():
        _fit(widths, shutil.get_terminal_size().columns)
    coloured = colours(style)
    for number, row in enumerate([list(headings), *table]):
        cells = [cut(cell, width).ljust(width) for cell, width in zip(row, widths, strict=False)]
        cells[-1] = cells[-1].rstrip()
        if coloured:
            cells = [_coloured(cell, heading=number == 0) for cell in cells]
        yield _GAP.join(cells).rstrip()


def _fit(widths: list[int], room: int) -> None:
    """Make columns narrower until they fit, the widest first; leave out the last ones."""
    while sum(widths) + len(_GAP) * (len(widths) - 1) > room:
        widest = max(range(len(widths)), key=widths.__getitem__)
        if widths[widest] > _COLUMN_MIN:
            widths[widest] -= 1
        else:
            widths.pop()


def cut(text: str, width: int) -> str:
    """*text*, or its beginning and an ellipsis."""
    return text if len(text) <= width else f"{text[: max(width - 1, 0)]}…"


def _coloured(cell: str, *, heading: bool) -> str:
    code = "1" if heading else _COLOURS.get(cell.strip())
    return f"\033[{code}m{cell}\033[0m" if code else cell


def ago(at: datetime | None) -> str:
    """How long ago (or in how long) a time is, in one or two units."""
    if at is None:
        return ""
    passed = time.time() - at.timestamp()
    return f"in {duration(-passed)}" if passed < 0 else f"{duration(passed)} ago"


def duration(seconds: float | None) -> str:
    """``4s``, ``2m 30s``, ``3h 5m``, ``2d 4h``: two units at most."""
    if seconds is None:
        return ""
    if 0 < seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    left, parts = int(seconds), []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
        elif parts:
            break
    return " ".join(parts[:2]) or "0s"


def short(record_id: str) -> str:
    """An id as tables have it: on a terminal its beginning, which other commands accept."""
    return record_id[:8] if sys.stdout.isatty() else record_id
