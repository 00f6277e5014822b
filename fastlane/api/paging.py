"""Which page of a listing a request asks for."""

from __future__ import annotations

from tornado.web import RequestHandler

from fastlane.api import parameters
from fastlane.api.parameters import Parameter
from fastlane.storage.base import PageRequest

MAX_PER_PAGE = 100
# Bounds a page number to what every storage can count.
MAX_PAGE = 10**9

_PAGE = parameters.number("page", "Which page, from 1. One past the end is empty.", 1, MAX_PAGE, 1)
_PER_PAGE = parameters.number("perPage", "How many items a page has.", 1, MAX_PER_PAGE)
_AFTER = Parameter("after", "Opaque: part of `nextUrl`. It overrides `page`.", {"type": "string"})
PAGED = (_PAGE, _PER_PAGE, _AFTER)


def requested_page(handler: RequestHandler, per_page: int) -> PageRequest:
    """The page that the query asks for.

    :raises Problem: 400, ``page`` or ``perPage`` is wrong.
    """
    return PageRequest(
        number=_PAGE.number(handler) or 1,
        size=_PER_PAGE.number(handler) or per_page,
        after=_AFTER.text(handler) or None,
    )
