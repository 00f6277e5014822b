"""Server and client are released together."""

from __future__ import annotations

from pathlib import Path

import fastlane
import fastlane.client
import fastlane_client

ROOT = Path(__file__).parent.parent.parent


def test_the_client_has_the_version_of_the_server() -> None:
    assert fastlane_client.__version__ == fastlane.__version__
    pinned = f"    fastlane-client == {fastlane.__version__}\n"
    assert pinned in (ROOT / "setup.cfg").read_text()


def test_the_server_re_exports_the_client() -> None:
    assert fastlane.client.__all__ == fastlane_client.__all__
    for name in fastlane_client.__all__:
        assert getattr(fastlane.client, name) is getattr(fastlane_client, name)
