"""The parameters of requests: declared once, for reading, checking and documenting them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tornado.web import RequestHandler

from fastlane.api.problems import Problem
from fastlane.checks import shown


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
