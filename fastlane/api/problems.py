"""Errors as RFC 9457 ``application/problem+json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastlane.errors import FastlaneError


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a payload."""

    pointer: str
    """RFC 6901 JSON pointer into the payload; "" is the whole of it."""
    message: str


class Problem(FastlaneError):
    """An answer that is an error: raised in a handler, written by its base."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        faults: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.faults = tuple(faults)
        self.headers = dict(headers or {})
