"""Which page of a listing a request asks for."""

from __future__ import annotations

from tornado.web import RequestHandler

from fastlane.api.problems import Problem
from fastlane.storage.base import PageRequest

MAX_PER_PAGE = 100
# Bounds a page number to what every storage can count.
MAX_PAGE = 10**9


def requested_page(handler: RequestHandler, per_page: int) -> PageRequest:
    """The page that the query asks for.

    :raises Problem: 400 with what is wrong with ``page`` or ``perPage``.
    """
    after = handler.get_query_argument("after", None)
    return PageRequest(
        number=_number(handler, "page", 1, MAX_PAGE),
        size=_number(handler, "perPage", per_page, MAX_PER_PAGE),
        after=after or None,
    )


def _number(handler: RequestHandler, name: str, default: int, most: int) -> int:
    text = handler.get_query_argument(name, "")
    if not text and name not in handler.request.query_arguments:
        return default
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else 0
    if not 1 <= number <= most:
        raise Problem(400, f"{name} is {text[:50]!r}; it must be a whole number from 1 to {most}.")
    return number
