"""Pages of listings, as the reference shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tornado.web import RequestHandler

from fastlane.api.problems import Problem
from fastlane.storage.base import Page, PageRequest

T = TypeVar("T")

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


def page_body(
    page: Page[T],
    request: PageRequest,
    items: Sequence[Any],
    url: Callable[..., str],
    *,
    per_page: int,
    name: str = "items",
) -> dict[str, Any]:
    """The reference's page object; *url* makes the URL of a page from its query.

    ``nextUrl`` carries the cursor, so that following it costs the same on every page.
    """
    pages = -(-page.total // request.size)
    has_next = page.next_cursor is not None
    has_prev = request.number > 1 and page.total > 0
    size = None if request.size == per_page else request.size
    return {
        "hasNext": has_next,
        "hasPrev": has_prev,
        name: items,
        "nextUrl": url(page=request.number + 1, perPage=size, after=page.next_cursor)
        if has_next
        else None,
        "page": request.number,
        "pages": pages,
        "perPage": request.size,
        "prevUrl": url(page=min(request.number - 1, pages), perPage=size) if has_prev else None,
        "total": page.total,
    }
