"""What the facets of a storage are given and give back besides the records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from fastlane.model import Execution, Job

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which part of a listing: page *number* (from 1) of *size*.

    *after* is the ``next_cursor`` of the page before and wins over *number* where it is given: with
    it the last page costs what the first does, without it the storage may have to count its way.
    """

    number: int = 1
    size: int = 10
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a listing."""

    items: Sequence[T]
    total: int
    next_cursor: str | None
    """None on the last page."""


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A submitter's name for one request, unique within its task."""

    key: str
    fingerprint: str
    """A digest of the request: the same key with another one is an error of the submitter."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """What :meth:`Jobs.submit` stored, or, for a repeat, what the first request stored."""

    job: Job
    execution: Execution | None
    repeated: bool = False
