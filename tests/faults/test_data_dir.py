"""The directory of an embedded server: its file system becomes read-only, and it is copied live."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cluster.instances import ContainerRuns, ProcessRuns, Single
from tests.eventually import wait_for
from tests.load import Load, Report, await_ends
from tests.scoreboard import Scoreboard

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


class Disk:
    """An ext4 in a file, which can fail as a real one does: from then on it is read-only."""

    def __init__(self, directory: Path, megabytes: int) -> None:
        self.path = directory / "disk"
        self._file = directory / "disk.img"
        with self._file.open("wb") as image:
            image.truncate(megabytes * 1024 * 1024)
        subprocess.run(["mkfs.ext4", "-q", str(self._file)], check=True)
        self.path.mkdir()

    def mount(self) -> None:
        """Mount it, which repairs what the failure has left."""
        subprocess.run(["mount", "-o", "loop", str(self._file), str(self.path)], check=True)

    def unmount(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", str(self.path)], check=True)
        # A namespace that was made meanwhile may hold it a moment longer.
        wait_for(self._is_free, "the disk to be free")

    def _is_free(self) -> bool:
        loops = subprocess.run(
            ["losetup", "-j", str(self._file)], stdout=subprocess.PIPE, check=True
        )
        return not loops.stdout

    def fail(self) -> None:
        """Make it read-only under those who write."""
        subprocess.run(["mount", "-o", "remount,abort", str(self.path)], check=True)
        # The kernel notices it with the first write that reaches the journal.
        with suppress(OSError):
            (self.path / "noticed").write_text("")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A mounted one."""
    disk = Disk(tmp_path, 64)
    disk.mount()
    yield disk
    disk.unmount()


def test_read_only(tmp_path: Path, disk: Disk, scoreboard: Scoreboard) -> None:
    """No answer is 200 that is not stored, and what was accepted continues on the mended disk."""
    # Containers: what processes write is on the same disk.
    runs = ContainerRuns(tmp_path)
    with Single(tmp_path, runs, DATA_DIR=str(disk.path / "data")) as single:
        load = Load(single, scoreboard.scaled(100, least=20), every_seconds=0.1)
        with load.running() as report:
            for _ in range(scoreboard.scaled(5)):
                wait_for(lambda: len(set(single.starts())) >= 3, "some starts")
                disk.fail()
                refused = report.refused
                wait_for(lambda: report.refused > refused, "a refusal")  # noqa: B023
                single.server.kill()
                disk.unmount()
                disk.mount()
                single.server.start()
                single.await_recovery(report)
        scoreboard.take(report, "the disk becomes read-only, kill -9", "SQLite")


def copied(server: Single, to: Path) -> None:
    """A copy by the recipe of the documents, while the server writes."""
    source = Path(server.server.options["DATA_DIR"])
    to.mkdir()
    shutil.copy(source / "installation", to)
    with (
        sqlite3.connect(source / "fastlane.db") as live,
        sqlite3.connect(to / "fastlane.db") as copy,
    ):
        live.backup(copy)
    live.close()
    copy.close()


def check_copy(directory: Path, number: int, accepted: dict[str, str], report: Report) -> None:
    """A server on the copy knows all that was accepted before, and brings it to an end."""
    elsewhere = directory / f"elsewhere-{number}"
    elsewhere.mkdir()
    options = {"DATA_DIR": str(directory / f"copy-{number}")}
    with Single(elsewhere, ProcessRuns(elsewhere), **options) as single:
        report.accepted += len(accepted)
        ended = await_ends(single, accepted)
        report.lost += [f"copy {number}: {name}" for name in set(accepted) - set(ended)]
        for name, executions in ended.items():
            outcome = (executions[-1]["status"], executions[-1]["reason"])
            # What ran while the copy was taken runs somewhere else: its command, started or not,
            # says in the first server's file that it started.
            if outcome not in {("failed", "exit-code"), ("failed", "lost")}:
                report.wrong_outcomes.append(f"copy {number} {name}: {outcome}")
    with sqlite3.connect(Path(options["DATA_DIR"]) / "fastlane.db") as stored:
        (health,) = stored.execute("PRAGMA integrity_check").fetchone()
    stored.close()
    if health != "ok":
        report.wrong_outcomes.append(f"copy {number}: {health}")
    shutil.rmtree(options["DATA_DIR"])


def test_copied_while_it_runs(tmp_path: Path, scoreboard: Scoreboard) -> None:
    chance = scoreboard.chance()
    known: list[dict[str, str]] = []
    with Single(tmp_path) as single:
        load = Load(single, scoreboard.scaled(200, least=20), pause=0.05, every_seconds=0.02)
        with load.running():
            for number in range(scoreboard.scaled(20, least=3)):
                more = len(load.accepted) + chance.randrange(1, 5)
                wait_for(
                    lambda: len(load.accepted) >= more or not load.under_way,  # noqa: B023
                    "more jobs",
                )
                known.append(dict(load.accepted))
                copied(single, tmp_path / f"copy-{number}")
    load.report.check()
    report = Report()
    for number, accepted in enumerate(known):
        check_copy(tmp_path, number, accepted, report)
    what = "live copies of DATA_DIR started elsewhere"
    scoreboard.take(report, what, "SQLite", f"{len(known)} copies")
