"""Small files are whole or not there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from fastlane import files


def test_a_file_is_made_whole_private_and_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bool] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        # The name must not be there before its content is on the disk.
        assert (tmp_path / "file").exists() == synced[-1]
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    files.write_new(tmp_path / "file", "content")
    assert (tmp_path / "file").read_text() == "content"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert synced == [False, True], "the file, then its directory"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_that_is_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("first")
    with pytest.raises(FileExistsError):
        files.write_new(tmp_path / "file", "second")
    assert (tmp_path / "file").read_text() == "first"
    assert os.listdir(tmp_path) == ["file"]


def test_a_disk_that_refuses_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_new(tmp_path / "file", "content")
    assert os.listdir(tmp_path) == []
