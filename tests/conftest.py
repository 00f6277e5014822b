"""What every test gets: the real servers, the markers of what it needs, and no silent skips in CI.

Nobody has to remember a marker: a test gets it from its directory or its fixtures, and a test that
starts an engine, a store or a browser without the marker fails (:func:`tests.services.need`).
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from scripts.machine import in_ci
from tests import services
from tests.scoreboard import ScoreboardPlugin, add_options, scoreboard
from tests.services import browser_session, chromium, missing, mongo_server, redis_server

__all__ = ["browser_session", "chromium", "missing", "mongo_server", "redis_server", "scoreboard"]

# What the tests of a directory need. The order is that of `make test`: the longest files first, so
# that the workers end at the same time.
DIRECTORIES = {
    "cluster": {"cluster", "engine", "slow"},
    "server": {"engine", "slow"},
    "faults": {"cluster", "engine", "slow"},
    "executors": {"engine"},
    "contracts": set[str](),
    "browser": {"browser"},
    "api": set[str](),
    "client": set[str](),
    "unit": set[str](),
}

FIXTURES = {
    "browser_session": "browser",
    "docker_host": "engine",
    "docker_image": "engine",
    "mongo_server": "cluster",
    "redis_server": "cluster",
    "registry": "engine",
    "scoreboard": "scoreboard",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the fault runs."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Collect what fault runs report."""
    config.pluginmanager.register(ScoreboardPlugin(config))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test with what it needs, before ``-m`` chooses; the longest directories first."""
    root = Path(__file__).parent
    order = {name: place for place, name in enumerate(DIRECTORIES)}
    places: dict[str, int] = {}
    for item in items:
        directory = item.path.relative_to(root).parts[0] if item.path.is_relative_to(root) else ""
        fixtures = getattr(item, "fixturenames", ())
        marks = DIRECTORIES.get(directory, set()) | {
            mark for fixture, mark in FIXTURES.items() if fixture in fixtures
        }
        for mark in sorted(marks):
            item.add_marker(mark)
        places[item.nodeid] = order.get(directory, len(order))
    items.sort(key=lambda item: places[item.nodeid])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Tell :func:`tests.services.need` which markers the test bears that runs now."""
    services.markers = frozenset(mark.name for mark in item.iter_markers())
    try:
        return (yield)
    finally:
        services.markers = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure with ``CI=true``, where everything is expected to be there."""
    report = yield
    if in_ci() and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        why = call.excinfo.value if call.excinfo is not None else "no reason given"
        report.longrepr = f"{item.nodeid} was skipped, which CI does not allow: {why}"
    return report
