"""The scoreboard of the fault runs: sums, bounds, and the table in the documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import scoreboard
from scripts.scoreboard import Row, markdown, merged, page, read, text, write

ROWS = [
    Row("killed", "SQLite", 100, lost=0, twice=1, recovery_seconds=2.0, note="40 times"),
    Row("killed", "cluster", 10, lost=0),
    Row("killed", "SQLite", 50, lost=2, recovery_seconds=1.0, note="9 times", failed=1),
]


def test_rows_of_one_scenario_are_added_up() -> None:
    sqlite, cluster = merged(ROWS)
    assert cluster == ROWS[1]
    assert (sqlite.n, sqlite.lost, sqlite.twice, sqlite.wrong_log) == (150, 2, 1, None)
    assert (sqlite.recovery_seconds, sqlite.failed) == (2.0, 1)
    assert sqlite.note == "40 times; 9 times"


def test_a_zero_has_its_bound_and_what_was_not_looked_at_a_dash() -> None:
    name, where, n, lost, twice, *_ = Row("s", "SQLite", 300, "ticks", lost=0).cells()
    assert (name, where, n, lost, twice) == ("s", "SQLite", "300 ticks", "0 ≤1%", "-")
    assert Row("s", "SQLite", 100_000, lost=0).cells()[3] == "0 ≤0.003%"
    assert Row("s", "SQLite", 2, lost=0).cells()[3] == "0 ≤100%"
    assert Row("s", "SQLite", 300, lost=4, failed=1).cells()[0:4:3] == ["s (failed)", "4"]


def test_text_has_a_line_for_each_row_and_the_notes() -> None:
    lines = text(merged(ROWS)).splitlines()
    assert lines[0].split() == list(scoreboard.HEADS)
    assert len(lines) == 1 + 2 + 1
    assert lines[-1] == "killed (SQLite): 40 times; 9 times"


def test_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    write(tmp_path / "new" / "faults.json", ROWS, date="2026-01-01")
    assert read(tmp_path / "new" / "faults.json") == {"date": "2026-01-01", "rows": ROWS}


def test_the_document_has_the_rows_that_are_kept() -> None:
    kept = read(scoreboard.KEPT)["rows"]
    document = scoreboard.PAGE.read_text()
    assert page(document, kept) == document, "run python -m scripts.scoreboard"


def test_a_run_replaces_its_rows_in_the_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RUN", "KEPT", "PAGE"):
        monkeypatch.setattr(scoreboard, name, tmp_path / name)
    write(scoreboard.KEPT, [Row("a", "SQLite", 1, lost=1), Row("b", "SQLite", 2)], date="then")
    write(scoreboard.RUN, [Row("a", "SQLite", 3, lost=0)], date="now")
    scoreboard.PAGE.write_text(f"before\n{scoreboard.BEGIN}old\n{scoreboard.END}after\n")
    scoreboard.main()
    rows = [Row("a", "SQLite", 3, lost=0), Row("b", "SQLite", 2)]
    assert read(scoreboard.KEPT) == {"date": "now", "rows": rows}
    assert scoreboard.PAGE.read_text() == (
        f"before\n{scoreboard.BEGIN}\n{markdown(rows)}\n{scoreboard.END}after\n"
    )


def test_rows_of_workers_and_of_failures_arrive(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        f"""
        import sys

        sys.path.insert(0, {str(scoreboard.ROOT)!r})
        import scripts.scoreboard, tests.scoreboard
        from tests.scoreboard import scoreboard

        def pytest_addoption(parser):
            tests.scoreboard.add_options(parser)

        def pytest_configure(config):
            tests.scoreboard.RUN = config.rootpath / "faults.json"
            config.pluginmanager.register(tests.scoreboard.ScoreboardPlugin(config))
        """
    )
    pytester.makepyfile(
        """
        import pytest
        from scripts.scoreboard import Row

        @pytest.mark.parametrize("number", range(4))
        def test_one(number, scoreboard):
            scoreboard.add(Row("s", "SQLite", scoreboard.scaled(10), lost=int(number == 3)))
            assert number < 3, scoreboard.seed
        """
    )
    result = pytester.runpytest_subprocess(
        "-n2", "--scale=0.5", "--seed=7", "-p", "no:cacheprovider"
    )
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        ["*--seed 7 -k test_one*", "*scoreboard*", "s (failed) *SQLite*20*1*"]
    )
    (row,) = read(pytester.path / "faults.json")["rows"]
    assert row == Row("s", "SQLite", 20, lost=1, failed=1)
