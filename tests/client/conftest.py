"""Servers and both styles for the tests of the client."""

from __future__ import annotations

from tests.api.conftest import make_site, site, still
from tests.client.styles import style

__all__ = ["make_site", "site", "still", "style"]
