"""The facet for stored events: read in their order, and forgotten when they are old.

There is no method that stores one. Each operation of the other facets stores the events of its
change in the same write; see :mod:`fastlane.stored_events`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fastlane.events import Event
from fastlane.stored_events import StoredEvent


@dataclass(frozen=True, slots=True)
class Span:
    """Which events are there, as positions. Positions rise; they may have holes."""

    since: int
    """After this position, or a later one, nothing is missing."""
    last: int
    """The position of the last event; 0 when there never was one."""


class Events(ABC):
    """Stored events, in an order that never changes.

    A change may become readable here some time after the operation that made it has returned, but
    never before an event that somebody has read. Events of one execution are in the order of its
    changes.
    """

    announced_by: ClassVar[tuple[type[Event], ...]]
    """The kinds of news after which there may be something to read."""

    @abstractmethod
    async def span(self) -> Span:
        """Which events are there."""

    @abstractmethod
    async def after(self, position: int, limit: int) -> Sequence[StoredEvent]:
        """The next events after *position*, at most *limit*, in their order; empty at the end."""

    @abstractmethod
    async def forget(self, before: float, limit: int) -> int:
        """Delete about *limit* events that happened before that time, the oldest first.

        :return: how many; 0 when none is left.
        """
