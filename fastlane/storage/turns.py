"""Whose turn it is in a farm: the rule that every storage follows.

Tasks take turns in rounds. A round gives one turn to each task that waited at its start, in the
order of their names as in a ring, from the task on that had the last turn. A task that comes later
waits for the next round: otherwise new tasks could be served before one that waits, for ever.
So the order needs no record of each task, and a task that does not wait costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Turn:
    """The last turn of a farm, and the round that it belongs to."""

    task_id: str = ""
    """Whose it was."""
    start: str = ""
    """Where the ring is closed: the last task that can have a turn in this round."""
    upto: int = 0
    """Who waits since before the start of the round has a ``position`` up to this one."""
    wrapped: bool = True
    """Whether the round has gone on from the last name to the first one."""

    def rest(self) -> Iterator[Part]:
        """What is left of the round, as parts of the ring in which to look."""
        if not self.wrapped:
            yield Part(self, self.task_id, None)
            yield Part(replace(self, wrapped=True), "", self.start)
        elif self.task_id < self.start:
            yield Part(self, self.task_id, self.start)

    def next_round(self, upto: int) -> Turn:
        """The round after this one, for all that are queued up to a ``position``."""
        return Turn(self.task_id, self.task_id, upto, wrapped=False)

    def of(self, task_id: str) -> Turn:
        """The next turn, which is the task's."""
        return replace(self, task_id=task_id)


@dataclass(frozen=True, slots=True)
class Part:
    """The tasks after one name, up to and with another (None: up to the last)."""

    turn: Turn
    after: str
    to: str | None
