"""Who is answered with a page: the one place that decides it.

The URLs of the API are those of the pages. ``?as=html`` and ``?as=json`` decide; without them a
browser gets the page and everything else JSON. Many programs send ``Accept: text/html`` or copy a
browser's ``User-Agent``, few do both.
"""

from __future__ import annotations

from tornado.httputil import HTTPServerRequest

from fastlane.api import parameters

AS = parameters.choice(
    "as",
    "`html`: a page, `json`: JSON. Without it, `Accept` decides.",
    "json",
    "html",
)
VARY = "Accept, User-Agent"
"""What an answer that may be a page depends on (RFC 9110, section 12.5.5)."""

# Bounds what is read of an ``Accept``.
_MAX_ACCEPT_CHARS = 2000


def wants_page(request: HTTPServerRequest) -> bool:
    """Whether *request* is to be answered with a page where there is one."""
    if request.method not in ("GET", "HEAD"):
        return False
    asked = request.query_arguments.get(AS.name)
    if asked and asked[-1] in (b"html", b"json"):
        return asked[-1] == b"html"
    if not request.headers.get("User-Agent", "").startswith("Mozilla/"):
        return False
    return _preferred(request.headers.get("Accept", "")) == "text/html"


def _preferred(accept: str) -> str:
    """The media type of the highest quality in *accept*, the first of several (section 12.5.1)."""
    best, found = 0.0, ""
    for part in accept[:_MAX_ACCEPT_CHARS].split(","):
        media, *options = (piece.strip().lower() for piece in part.split(";"))
        quality = 1.0
        for option in options:
            if option.startswith("q="):
                try:
                    quality = float(option[2:])
                except ValueError:
                    quality = 0.0
        if quality > best:
            best, found = quality, media
    return found
