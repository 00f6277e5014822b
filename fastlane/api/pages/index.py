"""``/``: the overview for people, and for programs the routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from fastlane.api.base import BaseHandler
from fastlane.api.openapi import document_path
from fastlane.api.operations import Route
from fastlane.api.schemas.responses import Answer


class RouteItem(Answer):
    """A route in the index."""

    path: Annotated[str, Field(examples=["/tasks/{task}/"])]
    methods: Annotated[list[str], Field(examples=[["GET", "POST"]])]
    summary: Annotated[str, Field(examples=["One task"])]


class RouteIndex(Answer):
    """What the server answers."""

    version: Annotated[str, Field(examples=["1.0.0"])]
    documentation: Annotated[str, Field(examples=["http://localhost:10000/docs/"])]
    routes: list[RouteItem]


class Index(BaseHandler):
    """``/``"""

    async def get(self) -> None:
        """The routes of this server. A browser gets the overview."""
        routes: Sequence[Route] = self.settings["routes"]
        found: RouteIndex = {
            "version": self.services.version,
            "documentation": f"{self.urls.base}/docs/",
            "routes": [
                {
                    "path": document_path(one),
                    "methods": [*map(str.upper, one.operations)],
                    "summary": next(iter(one.operations.values())).summary,
                }
                for one in routes
            ],
        }
        await self.send_json(found)
