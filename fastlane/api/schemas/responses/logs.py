"""Answers about logs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fastlane.api.schemas.responses.base import Answer, Count, Time


class LogMatch(Answer):
    """A line in which something was found."""

    seq: Annotated[int, Field(ge=1, examples=[17])]
    """The record in which the match begins."""
    offset: Count
    """Where in the record it begins, in bytes."""
    line: Annotated[int, Field(ge=1, examples=[120])]
    """The line's number."""
    ts: Time
    """The record's time."""
    stream: Annotated[Literal["stdout", "stderr"], Field(examples=["stdout"])]
    text: Annotated[str, Field(examples=["error: no space left"])]
    """The line; of one with more than 2,000 bytes, the part around the match."""


class LogMatches(Answer):
    """Lines of a log, in the order in which they end."""

    matches: list[LogMatch]
    nextAfter: Annotated[str, Field(examples=["17"])]
    """Continues this search, as `after`; also later, in a log that has grown."""
    complete: Annotated[bool, Field(examples=[True])]
    """Whether the whole stored log was searched."""
