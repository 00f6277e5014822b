"""The files of ``static/``."""

from __future__ import annotations

from pathlib import Path

from fastlane.api.base import BaseHandler
from fastlane.api.rendering import ASSET_TYPES, ASSETS, ASSETS_VERSION
from fastlane.checks import shown
from fastlane.errors import NotFound


class Asset(BaseHandler):
    """A file of ``static/``."""

    checks_query = False

    async def get(self, name: str) -> None:
        """Style sheets, scripts and pictures of the pages."""
        body = ASSETS.get(name)
        if body is None:
            raise NotFound(f"There is no file {shown(name)}.")
        versioned = self.get_query_argument("v", "") == ASSETS_VERSION
        self.set_header("Content-Type", ASSET_TYPES[Path(name).suffix])
        # It does not depend on who asks for it.
        self.clear_header("Vary")
        self.set_header(
            "Cache-Control", "private, max-age=31536000, immutable" if versioned else "no-cache"
        )
        self.finish(body)
