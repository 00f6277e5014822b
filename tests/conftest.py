"""What every test gets: the real servers of ``tests/services.py``, and no silent skips in CI."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from scripts.machine import in_ci
from tests.services import browser_session, chromium, missing, mongo_server, redis_server

__all__ = ["browser_session", "chromium", "missing", "mongo_server", "redis_server"]


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
