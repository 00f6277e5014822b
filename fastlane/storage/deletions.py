"""The facet of what was deleted: marked at once, removed in the background."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

from fastlane.model import Execution
from fastlane.storage.values import ActiveRun


class Deletions(ABC):
    """A mark on a record hides it from all reads for clients; only then is it removed.

    An execution is hidden by a mark of its own, or by the one on its job; a task by having no job
    without a mark, which is why it is gone at once. A mark also takes a job's schedule, name,
    retries and idempotency keys away.
    """

    @abstractmethod
    async def execution(
        self, task_id: str, job_id: str, execution_id: str, *, force: bool, now: float
    ) -> Execution:
        """Mark an execution; with *force*, one that is not final is stopped.

        :raises NotFound: no such execution in this job, or it is marked already.
        :raises NotFinal: it is not final.
        """

    @abstractmethod
    async def job(
        self, task_id: str, job_id: str, *, force: bool, now: float
    ) -> Sequence[Execution]:
        """Mark a job; with *force*, its executions are stopped.

        :return: those that were not final, as they are now.
        :raises NotFound: no such job in this task, or it is marked already.
        :raises NotFinal: one of its executions is not final.
        """

    @abstractmethod
    async def task(self, task_id: str, *, force: bool, now: float) -> Sequence[Execution]:
        """Mark all jobs of a task; with *force*, their executions are stopped.

        A job to which an execution is added meanwhile may stay, unless *force* is given.

        :return: the executions that were not final, as they are now.
        :raises NotFound: no such task.
        :raises NotFinal: one of its executions is not final.
        """

    @abstractmethod
    async def hidden(self, executions: Sequence[Execution | ActiveRun]) -> Collection[str]:
        """The ids of those of *executions* that are hidden."""

    @abstractmethod
    async def removable(self, limit: int, *, without: Collection[str]) -> Sequence[Execution]:
        """Hidden executions that can be removed: they are final, and their notifications are
        delivered or have failed.

        :param without: hosts whose executions are left out.
        """

    @abstractmethod
    async def remove(self, execution_ids: Sequence[str]) -> int:
        """Remove hidden executions and all that is theirs, at least one; how many."""

    @abstractmethod
    async def remove_jobs(self, limit: int) -> int:
        """Remove marked jobs that have no executions any more; how many."""
