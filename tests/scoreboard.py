"""The fixture ``scoreboard``, to which scenarios add rows, and ``--scale`` and ``--seed``.

Rows travel as properties of a test's report, so that they come from workers of xdist and from tests
that fail, too. They are printed at the end and written to ``.run/faults.json``.
"""

from __future__ import annotations

import os
import platform
import random
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import pytest

from scripts.scoreboard import RUN, Row, merged, text, write

if TYPE_CHECKING:
    from tests.load import Report

_PROPERTY = "scoreboard"


def add_options(parser: pytest.Parser) -> None:
    """The options of the fault runs."""
    group = parser.getgroup("faults", "fault runs")
    group.addoption("--scale", type=float, default=1.0, help="Multiplies counts and durations (1).")
    group.addoption("--seed", type=int, help="Repeats the random choices of a fault run.")


class Scoreboard:
    """Where one test reports to, and what it is told: its scale and its seed."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        config = request.config
        self._properties = request.node.user_properties
        self.scale: float = config.getoption("--scale")
        given: int | None = config.getoption("--seed")
        self.seed = random.randrange(10**6) if given is None else given
        # pytest shows it with a failure.
        print(f"Repeat this run with: make faults ARGS='--seed {self.seed} -k {request.node.name}'")

    def scaled(self, number: float, *, least: float = 1) -> int:
        """*number* at the scale of this run."""
        return round(max(number * self.scale, least))

    def chance(self) -> random.Random:
        """Random choices that ``--seed`` repeats."""
        return random.Random(self.seed)

    def add(self, row: Row) -> None:
        """Put a row on the scoreboard."""
        self._properties.append((_PROPERTY, asdict(row)))

    def take(self, report: Report, scenario: str, where: str, note: str = "") -> None:
        """Put what came of a load on the scoreboard, then fail if anything was wrong."""
        self.add(report.row(scenario, where, note))
        report.check()


@pytest.fixture
def scoreboard(request: pytest.FixtureRequest) -> Scoreboard:
    """Where fault scenarios report to."""
    return Scoreboard(request)


class ScoreboardPlugin:
    """Collects the rows of all tests and shows them at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self._scale: float = config.getoption("--scale")
        self._rows: list[Row] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the rows of a test that ended."""
        if report.when != "call":
            return
        for name, value in report.user_properties:
            if name == _PROPERTY and isinstance(value, dict):
                self._rows.append(replace(Row.parse(value), failed=int(report.failed)))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the scoreboard and write it as JSON."""
        if not self._rows:
            return
        rows = merged(self._rows)
        terminalreporter.section("scoreboard")
        terminalreporter.write_line(text(rows))
        write(
            RUN,
            rows,
            date=time.strftime("%Y-%m-%d"),
            scale=self._scale,
            python=platform.python_version(),
            cores=os.cpu_count(),
        )
