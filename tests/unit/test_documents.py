"""The documents hold what they say: links, options, line lengths."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import Any

import pytest

from fastlane.config import Config
from scripts.scoreboard import BEGIN, END

ROOT = Path(__file__).parents[2]
MAX_LINE = 120

DOCUMENTS = sorted(
    [*(ROOT / "docs").rglob("*.md")]
    + [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
)
OPTIONS = {name.upper() for name in Config.model_fields}
#: Names in capitals that are not options of fastlane.
OTHER_NAMES = re.compile(
    r"(FASTLANE|COMPOSE|XDG|CI)_\w+|NO_COLOR|DOCKER_(CONFIG|GID)|NET_RAW|CHANGELOG|SQL\w*|"
    r"DB_PASSWORD|HTTPS?_PROXY|NO_PROXY|SSL_CERT_\w+|\w+_CA_BUNDLE|CRON_TZ|"
    r"OTEL_(SERVICE|EXPORTER_OTLP_HEADERS)\w*"
)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (path.parent / name) if name else path
        assert linked.exists(), f"{target} does not exist"
        if anchor:
            assert anchor in anchors(linked.read_text()), f"{target} has no such heading"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_are_short(path: Path) -> None:
    # What a script makes of measurements is a line for each, however long.
    text = re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", "", path.read_text(), flags=re.S)
    assert [line for line in text.splitlines() if len(line) > MAX_LINE] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_options_exist(path: Path) -> None:
    """Every `NAME_IN_CAPITALS` that a document sets in code is an option."""
    if "adr" in path.parts or path.name == "CHANGELOG.md":
        return  # They describe what was.
    code = re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9])[=`]", path.read_text())
    assert {name for name in code if not OTHER_NAMES.fullmatch(name)} - OPTIONS == set()


def unit() -> dict[str, dict[str, Any]]:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(ROOT / "deploy" / "fastlane.service")
    return {name: dict(parser[name]) for name in parser.sections()}


def test_the_systemd_unit_gives_known_options_and_enough_time() -> None:
    service = unit()["Service"]
    assert service["Environment"].partition("=")[0] in OPTIONS
    # The shutdown takes 25 s at most.
    assert int(service["TimeoutStopSec"]) > 25
    # Commands of the process executor are children of the server and continue without it.
    assert service["KillMode"] == "process"


def test_each_decision_has_its_number() -> None:
    """No two have the same, and it stands in the heading and in the list, in their order."""
    found = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
    numbers = [int(path.name[:4]) for path in found]
    assert numbers == sorted(set(numbers))
    for number, path in zip(numbers, found, strict=True):
        assert path.read_text().startswith(f"# {number}. "), path.name
    listed = re.findall(
        r"^\| (\d+) \| .*\]\(([^)]+)\)", (ROOT / "docs/adr/README.md").read_text(), re.M
    )
    assert [(int(number), name) for number, name in listed] == [
        (number, path.name) for number, path in zip(numbers, found, strict=True)
    ]
