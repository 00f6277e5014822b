"""The facet for statistics: what stored events add up to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from fastlane.stats import Bucket, Step
from fastlane.stored_events import StoredEvent


class Stats(ABC):
    """Buckets by minute and by hour, of all tasks together and of each task that is active.

    Each event is counted once, whatever is killed and however many instances count.
    """

    @abstractmethod
    async def lead(self, instance: str, *, now: float, seconds: float) -> bool:
        """Whether *instance* is to count until ``now + seconds``.

        Only saves work: nothing is counted twice when several do.
        """

    @abstractmethod
    async def position(self) -> int:
        """The position of the last event that is counted; 0 for none."""

    @abstractmethod
    async def add(self, after: int, events: Sequence[StoredEvent]) -> None:
        """Count *events*, which are all that follow position *after*, up to the last of them.

        :raises CompareFailed: :meth:`position` is no longer *after*.
        """

    @abstractmethod
    async def read(
        self, task_id: str | None, step: Step, *, since: float, until: float
    ) -> Sequence[Bucket] | None:
        """The buckets that begin in [*since*, *until*), in order; empty ones are left out.

        :param task_id: None for all tasks together.
        :return: None when the task is not among those that are counted.
        """

    @abstractmethod
    async def forget(self, minutes_before: float, hours_before: float, *, tasks: int) -> int:
        """Delete old buckets, and those of all but the *tasks* most recently active tasks.

        A bounded number of them in one call.

        :return: how many buckets and tasks went; 0 when none is left.
        """
