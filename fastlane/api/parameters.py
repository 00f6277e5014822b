"""The parameters of requests: declared once, for reading, checking and documenting them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from pytimeparse.timeparse import timeparse
from tornado.web import RequestHandler

from fastlane.api.problems import Problem
from fastlane.checks import shown, suggestion

# Answers show microseconds. What is shown as a time is not before it.
ROUNDED_SECONDS = 0.5e-6
_SECONDS = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?", re.ASCII)
_DURATION = re.compile(r"(?:[0-9]{1,9}[wdhms])+", re.ASCII)


@dataclass(frozen=True, slots=True, eq=False)
class Parameter:
    """One parameter, in the terms of OpenAPI."""

    name: str
    description: str
    schema: Mapping[str, Any]
    where: str = "query"
    """``query``, ``path`` or ``header``."""
    required: bool = False
    example: str | None = None

    def text(self, handler: RequestHandler) -> str | None:
        """What the query gives for it, or its default."""
        return handler.get_query_argument(self.name, self.schema.get("default"))

    def number(self, handler: RequestHandler) -> int | None:
        """:raises Problem: 400, it is not a whole number within its bounds."""
        text = handler.get_query_argument(self.name, None)
        if text is None:
            default: int | None = self.schema.get("default")
            return default
        least, most = self.schema["minimum"], self.schema["maximum"]
        digits = text.lstrip("0") or "0"
        is_number = text.isascii() and text.isdigit() and len(digits) <= len(str(most))
        if not is_number or not least <= int(digits) <= most:
            raise Problem(
                400,
                f"{self.name} is {shown(text)}; it must be a whole number from {least} to {most}.",
            )
        return int(digits)

    def choice(self, handler: RequestHandler) -> str | None:
        """:raises Problem: 400, it is not one of its values."""
        text = self.text(handler)
        if text is not None and text not in self.schema["enum"]:
            known = " or ".join(shown(value) for value in self.schema["enum"])
            raise Problem(400, f"{self.name} is {shown(text)}; it must be {known}.")
        return text

    def choices(
        self,
        handler: RequestHandler,
        known: Iterable[str],
        groups: Mapping[str, Iterable[str]] = MappingProxyType({}),
    ) -> set[str]:
        """The values that a comma-separated string names, by themselves or by their groups.

        :raises Problem: 400, one is unknown; the problem names the nearest known one.
        """
        names = [*known, *groups]
        found: set[str] = set()
        for name in filter(None, map(str.strip, (self.text(handler) or "").split(","))):
            if name not in names:
                raise Problem(
                    400,
                    f"{self.name} has {shown(name)}; it must be one or more of "
                    f"{', '.join(names)}.{suggestion(name, names)}",
                )
            found.update(groups.get(name, (name,)))
        return found

    def one_of(self, handler: RequestHandler, known: Iterable[str]) -> str | None:
        """:raises Problem: 400, it is not one of *known*; the problem names the nearest."""
        names, text = list(known), self.text(handler)
        if text is not None and text not in names:
            raise Problem(
                400,
                f"{self.name} is {shown(text)}; it must be one of {', '.join(names)}."
                f"{suggestion(text, names)}",
            )
        return text

    def moment(self, handler: RequestHandler, now: float) -> float | None:
        """A bound of times (unix seconds): given so, as RFC 3339, or as a duration back from *now*.

        :raises Problem: 400, it is none of them.
        """
        text = self.text(handler)
        return None if text is None else _moment(self.name, text.strip(), now) - ROUNDED_SECONDS


def _moment(name: str, text: str, now: float) -> float:
    with contextlib.suppress(ValueError, OverflowError):
        if _SECONDS.fullmatch(text):
            return float(text)
        if _DURATION.fullmatch(text):
            seconds = timeparse(text)
            if seconds is not None:
                return now - float(seconds)
        # A plus that is not percent-encoded arrives as a space.
        parsed = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else "")
        if parsed.tzinfo is not None:
            return parsed.timestamp()
    raise Problem(
        400,
        f'{name} is {shown(text)}; it must be unix seconds, a time such as "2026-01-31T12:00:00Z", '
        'or a duration back from now, such as "24h".',
    )


def number(
    name: str, description: str, least: int, most: int, default: int | None = None
) -> Parameter:
    """A whole number."""
    schema = {"type": "integer", "minimum": least, "maximum": most}
    return Parameter(
        name, description, schema if default is None else {**schema, "default": default}
    )


def choice(name: str, description: str, *values: str) -> Parameter:
    """One of *values*; the first is the default."""
    schema = {"type": "string", "enum": list(values), "default": values[0]}
    return Parameter(name, description, schema)


def header(name: str, description: str, example: str) -> Parameter:
    """A header of the request."""
    return Parameter(name, description, {"type": "string"}, "header", example=example)
