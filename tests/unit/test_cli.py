"""The command line: what it prints, and how it says that something is wrong."""

from __future__ import annotations

import os
import runpy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from fastlane import __version__, logs
from fastlane.background.pulse import FILE_NAME, FRESH_SECONDS, Pulse
from fastlane.cli import main
from fastlane.config import Config, load
from fastlane.errors import StorageInUse
from fastlane.storage.sqlite import SqliteStorage


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


Cli = Callable[..., Ended]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    for name in Config.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["fastlane", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        code = caught.value.code
        return Ended(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run


class StandInServer(ModuleType):
    """Stands where ``fastlane.server`` does, and notes or raises instead of serving."""

    def __init__(self, failure: Exception | None = None) -> None:
        super().__init__("fastlane.server")
        self.configs: list[Config] = []
        self.failure = failure

    def run(self, config: Config) -> None:
        self.configs.append(config)
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[StandInServer], StandInServer]:
    def install(server: StandInServer) -> StandInServer:
        monkeypatch.setitem(sys.modules, "fastlane.server", server)
        # The set-up of logs is the whole process's, and that is pytest's here.
        monkeypatch.setattr(logs, "configure", lambda *_: None)
        return server

    return install


Serve = Callable[[StandInServer], StandInServer]


def test_help_names_the_commands(cli: Cli) -> None:
    ended = cli("--help")
    assert ended.code == 0
    for command in ("server", "config", "version"):
        assert command in ended.out


def test_version_also_as_a_module(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("version").out == f"fastlane {__version__}\n"
    monkeypatch.setattr(sys, "argv", ["fastlane", "version"])
    with pytest.raises(SystemExit):
        runpy.run_module("fastlane", run_name="__main__")
    assert capsys.readouterr().out == f"fastlane {__version__}\n"


def test_the_usual_flags(cli: Cli) -> None:
    assert cli("--version").out == f"fastlane {__version__}\n"
    for command in ((), ("server",), ("notifications", "list")):
        assert cli(*command, "-h").out == cli(*command, "--help").out


def test_a_fault_is_reported_once(cli: Cli) -> None:
    assert cli("logs", "ftp://localhost/logs/").err.splitlines() == [
        'fastlane: "ftp://localhost/logs/" is not the URL of a job or an execution.'
    ]


def test_a_data_directory_that_cannot_be_used_is_named(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "file"))
    monkeypatch.setenv("EXECUTOR", "process")
    # The set-up of logs is the whole process's, and that is pytest's here.
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    ended = cli("server", "--port", "0")
    assert ended.code == 1
    assert f'DATA_DIR is "{tmp_path / "file"}"' in ended.err


WORKER = {"ROLES": "dispatcher", "MONGODB_URL": "mongodb://m/x", "REDIS_URL": "redis://r"}


async def test_a_worker_is_healthy_while_its_storage_answers(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {**WORKER, "DATA_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    ended = cli("healthcheck")
    assert (ended.code, "No worker that uses" in ended.err) == (1, True)
    storage = SqliteStorage(tmp_path / "store")
    pulse = Pulse(storage, tmp_path)
    await storage.open()
    await pulse.step()
    ended = cli("healthcheck")
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    old = time.time() - FRESH_SECONDS - 5
    os.utime(tmp_path / FILE_NAME, (old, old))
    ended = cli("healthcheck")
    assert (ended.code, "was healthy in the last 30 s" in ended.err) == (1, True)
    monkeypatch.setattr(storage, "check", broken)
    await pulse.step()
    assert cli("healthcheck").code == 1, "a storage that does not answer leaves the file as it is"
    await storage.close()


async def broken() -> dict[str, str | None]:
    return {"mongo": "MongoDB is unreachable.", "redis": None}


def test_config_shows_every_option(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "8080")
    monkeypatch.setenv("BASIC_AUTH_USER", "me")
    monkeypatch.setenv("BASIC_AUTH_PASSWORD", "hunter2")
    ended = cli("config")
    assert ended.code == 0
    lines = ended.out.splitlines()
    for name in Config.model_fields:
        assert any(line.startswith(f"{name.upper()}=") for line in lines), name
    assert "PORT=8080  (set)" in lines
    assert "Accepts a whole number from 0 to 65535. Default: 10000" in ended.out
    assert "hunter2" not in ended.out
    # Help fits; a value stands on one line, however long it is.
    assert all(len(line) <= 80 for line in lines if line.startswith(" "))
    assert "\x1b" not in ended.out


def test_the_sample_file_is_read_and_changes_nothing(cli: Cli, tmp_path: Path) -> None:
    ended = cli("config", "--format", "env")
    assert ended.code == 0
    file = tmp_path / "fastlane.env"
    file.write_text(ended.out)
    assert load(file, {}) == Config()
    taken = [line.removeprefix("#") for line in ended.out.splitlines() if line.startswith("#")]
    file.write_text("\n".join(line for line in taken if not line.startswith(" ")))
    assert load(file, {}) == Config()


def test_server_gets_the_configuration(cli: Cli, serve: Serve, tmp_path: Path) -> None:
    server = serve(StandInServer())
    file = tmp_path / "fastlane.env"
    file.write_text("PORT=1\nMAX_RUNNING=3\n")
    assert cli("server", "--port", "0", "--host", "localhost", "--config", str(file)).code == 0
    (config,) = server.configs
    assert (config.host, config.port, config.max_running) == ("localhost", 0, 3)


def test_faults_of_the_configuration_are_sentences(
    cli: Cli, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(StandInServer())
    monkeypatch.setenv("LOG_LEVEL", "loud")
    ended = cli("server", "--port", "abc")
    assert ended.code == 2
    assert ended.err.splitlines() == [
        'fastlane: PORT is "abc" on the command line: give a whole number from 0 to 65535.',
        'fastlane: LOG_LEVEL is "loud" in the environment: give debug, info, warning or error.',
    ]
    assert server.configs == []


def test_processes_beyond_loopback_are_refused(
    cli: Cli, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(StandInServer())
    monkeypatch.setenv("EXECUTOR", "process")
    ended = cli("server", "--host", "0.0.0.0")
    assert ended.code == 2
    assert "has no isolation" in ended.err


def test_a_likely_misspelling_is_a_warning(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARD_EXECUTION_TIMEOUT_SECOND", "1")
    ended = cli("config")
    assert ended.code == 0
    assert "did you mean HARD_EXECUTION_TIMEOUT_SECONDS?" in ended.err


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (StorageInUse("Another server has /data."), "fastlane: Another server has /data."),
        (PermissionError(13, "Permission denied", "/data"), "fastlane: /data: Permission denied"),
    ],
)
def test_failures_are_one_sentence(
    cli: Cli, serve: Serve, monkeypatch: pytest.MonkeyPatch, failure: Exception, says: str
) -> None:
    serve(StandInServer(failure))
    monkeypatch.setenv("DEFAULT_DISK", "10g")
    ended = cli("server")
    assert ended.code == 1
    assert ended.err.strip() == says


def test_an_unknown_command_is_a_usage_error(cli: Cli) -> None:
    ended = cli("sever")
    assert ended.code == 2
    assert "sever" in ended.err
    assert "Traceback" not in ended.err
