"""``?force=true``: delete also what has not ended."""

from __future__ import annotations

from tornado.web import RequestHandler

from fastlane.api import parameters

FORCE = parameters.choice("force", "Stop what is not final.", "false", "true")


def is_forced(handler: RequestHandler) -> bool:
    """:raises Problem: 400, it is neither true nor false."""
    return FORCE.choice(handler) == "true"
