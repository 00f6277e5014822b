"""The files for deployments are read as those read them who use them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import honcho.environ
import pytest
import yaml
from typer.testing import CliRunner

from fastlane.cli import app
from fastlane.config import Config
from tests.services import missing

ROOT = Path(__file__).parent.parent.parent
STRINGS_OR_LIST = (str, list)


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def test_honcho_reads_the_procfile() -> None:
    found = honcho.environ.parse_procfile((ROOT / "Procfile").read_text())
    assert found.processes["web"] == "fastlane server --host 0.0.0.0 --port $PORT"
    (process,) = honcho.environ.expand_processes(found.processes, env={}, port=5000)
    assert process.env["PORT"] == "5000"


def test_the_command_line_takes_what_the_procfile_gives() -> None:
    told = CliRunner().invoke(app, ["server", "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    for option in ("--host", "--port", "--roles"):
        assert option in told.output


def test_the_compose_file_holds_together() -> None:
    """What Compose itself does not look at."""
    project = compose()
    assert set(project) <= {"services", "volumes", "x-fastlane"}
    services = project["services"]
    assert set(services) == {"one", "two", "mongo", "redis"}
    options = {name.upper() for name in Config.model_fields}
    for name, service in services.items():
        assert isinstance(service.get("command", []), STRINGS_OR_LIST), name
        assert service.get("image"), name
        if name in {"one", "two"}:
            # Each listens on all addresses of its container, and its port on loopback only.
            assert service["environment"]["AUTH"] == "none"
            assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert set(service.get("environment", {})) <= options, name
        for needed, how in service.get("depends_on", {}).items():
            assert "healthcheck" in services[needed]
            assert how == {"condition": "service_healthy"}
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source.startswith("/") or source in project["volumes"], volume
        for port in service.get("ports", []):
            assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == len(set(ports)) == 2


@pytest.mark.engine
def test_compose_takes_the_file() -> None:
    """Compose itself: the engine's plugin where it is there, else Debian's command."""
    commands = (["docker", "compose"], ["docker-compose"])
    there = [words for words in commands if shutil.which(words[0]) and runs(*words, "version")]
    if not there:
        missing("docker-compose", "neither a plugin of docker nor on the path")
    checked = subprocess.run(
        [*there[0], "config", "--quiet"], cwd=ROOT, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr


def runs(*command: str) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


def test_the_image_is_not_root_and_says_how_it_is() -> None:
    lines = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text()).splitlines()
    instructions = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    names = [instruction[0] for instruction in instructions]
    last_stage = names[len(names) - names[::-1].index("FROM") :]
    assert {"USER", "HEALTHCHECK", "ENTRYPOINT"} <= set(last_stage)
    healthcheck = next(rest for name, rest in instructions if name == "HEALTHCHECK")
    assert healthcheck.endswith('CMD ["fastlane", "healthcheck"]')
    copied = [rest for name, rest in instructions if name == "COPY"]
    for source in (word for rest in copied for word in rest.split()[:-1]):
        assert (ROOT / source).exists(), source
        assert f"!{source}" in (ROOT / ".dockerignore").read_text().splitlines()
