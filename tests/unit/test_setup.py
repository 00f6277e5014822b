"""Set-up of a machine: what it says where it cannot go on, and what it leaves alone."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from scripts import engine, floors
from scripts.floors import ROOT
from scripts.machine import SetupError
from tests import services
from tests.services import free_port, missing, need


@pytest.fixture
def pid_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "dockerd.pid"
    monkeypatch.setattr(engine, "_PID_FILE", file)
    return file


def test_docker_host_that_does_not_answer_is_named_and_not_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = f"tcp://127.0.0.1:{free_port()}"
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(SetupError, match=f"does not answer: {host}"):
        engine.ensure()


def test_docker_host_of_an_unknown_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://somewhere")
    with pytest.raises(SetupError, match="neither unix:// nor tcp://"):
        engine.ensure()


def test_without_an_engine_and_without_the_right_to_install_it_says_how(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(engine, "DEFAULT_HOST", f"unix://{tmp_path}/docker.sock")
    monkeypatch.setattr(engine, "can_install", lambda: False)
    with pytest.raises(SetupError, match=r"apt install docker\.io"):
        engine.ensure()


def test_stop_leaves_a_process_alone_that_took_over_the_id(
    pid_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        pid_file.write_text(str(other.pid), encoding="ascii")
        assert engine.stop() == 1
        assert other.poll() is None
        other.kill()
    assert "left alone" in capsys.readouterr().err
    assert other.returncode == -signal.SIGKILL


def test_stop_without_a_start_says_so(pid_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not pid_file.exists()
    assert engine.stop() == 1
    assert "no engine was started from here" in capsys.readouterr().err


def test_the_small_image_has_a_shell(tmp_path: Path) -> None:
    busybox = tmp_path / "busybox"
    busybox.write_text("#!/bin/sh\necho busybox; echo sh; echo true\n", encoding="ascii")
    busybox.chmod(0o755)
    with tarfile.open(fileobj=io.BytesIO(engine._busybox_tar(busybox))) as tar:
        assert tar.getmember("bin/sh").linkname == "busybox"
        assert tar.getmember("tmp").mode == 0o1777
        assert tar.getmember("bin/busybox").mode == 0o755


def test_an_error_in_a_stream_that_began_with_200_is_raised() -> None:
    with pytest.raises(engine.EngineError, match="no such image"):
        engine._raise_streamed_error(b'{"status": "Pulling"}\r\n{"error": "no such image"}\r\n')


def test_a_skip_is_a_failure_in_ci(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeconftest("from tests.conftest import pytest_runtest_makereport")
    pytester.makepyfile("import pytest\ndef test_one(): pytest.skip('no engine')")
    monkeypatch.setenv("CI", "true")
    result = pytester.runpytest("-p", "no:asyncio")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*was skipped, which CI does not allow: no engine"])
    monkeypatch.delenv("CI")
    pytester.runpytest("-p", "no:asyncio").assert_outcomes(skipped=1)


def test_missing_service_skips_on_a_laptop_and_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="redis-server is not there: gone"):
        missing("redis-server", "gone")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="redis-server is not there: gone"):
        missing("redis-server", "gone")


def test_a_service_without_its_marker_fails_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(pytest.fail.Exception, match="must be marked 'cluster'"):
        need("cluster")
    monkeypatch.setattr(services, "markers", frozenset({"cluster"}))
    need("cluster")
    # Benchmarks start the same servers, without pytest.
    monkeypatch.setattr(services, "markers", None)
    need("cluster")


def test_unit_tests_import_no_client_of_a_service() -> None:
    """Collecting them must stay a matter of a second or two."""
    script = """
import sys, pytest
code = pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", sys.argv[1]])
heavy = {"fiftyone", "pymongo", "redis", "selenium"} & set(sys.modules)
sys.exit(code or (f"imported: {sorted(heavy)}" if heavy else 0))
"""
    command = [sys.executable, "-c", script, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or done.stdout[-2000:]


def test_the_floors_of_packages_are_the_versions_that_are_tested() -> None:
    constraints = (ROOT / "constraints.txt").read_text()
    for file in floors.SETUPS:
        setup = file.read_text()
        assert setup == floors.raised(setup, constraints), f"{file}: run python -m scripts.floors"
    setup = (ROOT / "setup.cfg").read_text()
    assert "    tornado >= 6.6.1\n" in setup
    assert (
        floors.raised("    A_b[c] >= 1; x\n", "a-b==2.0.post1\n") == "    A_b[c] >= 2.0.post1; x\n"
    )
