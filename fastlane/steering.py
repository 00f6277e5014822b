"""What clients ask for: submit, stop, retry, run, pause.

The part of :mod:`fastlane.lifecycle` that acts on request; see there.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from fastlane import policy
from fastlane.bus.local import Bus
from fastlane.errors import CompareFailed, NotFound, Rejected, StorageUnavailable
from fastlane.events import Deleted, Event, ExecutionChanged, JobChange, JobChanged, OutboxChanged
from fastlane.model import (
    Clock,
    Definition,
    Execution,
    Farm,
    Job,
    Reason,
    Schedule,
    Status,
    Trigger,
)
from fastlane.storage.base import IdempotencyKey, Storage, Submitted

Change = Callable[[Definition], Awaitable[Definition]]
"""Makes the definition of one execution from the stored one."""

# Bounds how often a decision is made again because the record moved under it.
COMPARE_ATTEMPTS = 20


def new_id() -> str:
    """A UUID4 in its text form."""
    return str(uuid.uuid4())


async def unchanged(definition: Definition) -> Definition:
    return definition


class Steering:
    """Every change that somebody can ask for."""

    def __init__(
        self,
        storage: Storage,
        bus: Bus,
        *,
        clock: Clock,
        farms: Sequence[Farm],
        instance: str,
        lost_reruns_max: int = policy.LOST_RERUNS_MAX,
    ) -> None:
        """:param instance: the name under which this process owns executions.
        :param lost_reruns_max: how often in a row a lost execution is run again.
        """
        self._storage = storage
        self._bus = bus
        self._clock = clock
        self._farms = tuple(farms)
        self.instance = instance
        self._lost_reruns_max = lost_reruns_max

    def _publish(self, *news: Execution | Event | None) -> None:
        """Publish what was stored, but for None. Nothing else publishes an event.

        An execution is published with its status, and with its notifications where it has some.
        """
        for one in news:
            if not isinstance(one, Execution):
                if one is not None:
                    self._bus.publish(one)
                continue
            of = {
                "expires_at": one.definition.expires_at,
                "traceparent": one.definition.traceparent,
            }
            self._bus.publish(ExecutionChanged.of(one, execution_id=one.id, **of))
            if (one.final or one.status is Status.RUNNING) and one.definition.subscriptions:
                self._bus.publish(OutboxChanged.of(one, execution_id=one.id))

    async def _publish_current(self, execution: Execution) -> None:
        """Publish what *execution* has become by a write that did not return it."""
        # The write itself went well; older news makes others look, too.
        with suppress(StorageUnavailable):
            execution = await self._storage.executions.get(execution.id)
        self._publish(execution)

    # -- asked for by clients -----------------------------------------------------------------

    async def submit(
        self,
        *,
        task_id: str,
        job_id: str | None,
        definition: Definition,
        schedule: Schedule,
        request_ip: str | None = None,
        idempotency: IdempotencyKey | None = None,
        at_once: bool = False,
        name: str | None = None,
    ) -> Submitted:
        """Store a job and, unless it is scheduled, its first execution, ready to run.

        :param job_id: None makes a new job; otherwise the job of this id is made or replaced.
        :param at_once: refuse a job that is scheduled.
        :param name: the job of this name is made or replaced; its id is its own.
        :raises Rejected: no farm matches the task, its farm does not run such an image, or the
            storage refuses (see ``Jobs.submit``).
        """
        job, farm = self.planned(task_id, job_id or new_id(), definition, schedule)
        if at_once and job.scheduled:
            raise Rejected(
                "The job is scheduled, so there is no end to wait for; leave out wait, or startAt, "
                "startIn and cron."
            )
        job = replace(job, request_ip=request_ip, name=name)
        execution = None
        if not job.scheduled:
            execution = policy.execution_of(job, farm, id=new_id(), now=job.created_at)
        submitted = await self._storage.jobs.submit(
            job,
            execution,
            replace=job_id is not None or name is not None,
            idempotency=idempotency,
        )
        if submitted.repeated:
            return submitted
        job, execution = submitted.job, submitted.execution
        change = JobChange.CREATED if job.generation == 1 else JobChange.REPLACED
        self._publish(JobChanged.of(job, job_id=job.id, change=change), execution)
        if change is JobChange.REPLACED:
            # Retries of the job that was replaced have ended.
            self._publish(OutboxChanged(task_id, job.id))
        return submitted

    def planned(
        self, task_id: str, job_id: str, definition: Definition, schedule: Schedule
    ) -> tuple[Job, Farm]:
        """The job that would be stored now, and the farm that would run it.

        :raises Rejected: no farm matches the task, or its farm does not run such an image.
        """
        now, farm = self._clock(), self._farm_for(task_id)
        if refusal := policy.image_refusal(definition.image, farm):
            raise Rejected(refusal)
        job = Job(
            task_id=task_id,
            id=job_id,
            definition=definition,
            schedule=schedule,
            created_at=now,
            modified_at=now,
            queue_job_id=new_id(),
            next_run_at=policy.first_run_at(schedule, now),
        )
        return job, farm

    async def stop_job(self, task_id: str, job_id: str) -> Job:
        """End a job's last execution, its schedule and its retries.

        :raises NotFound: no such job.
        """
        job = await self._storage.jobs.stop(task_id, job_id, now=self._clock())
        last = await self._storage.executions.last_of_job(job_id)
        self._publish(JobChanged.of(job, job_id=job.id, change=JobChange.STOPPED), last)
        # Its retries have ended, too.
        self._publish(OutboxChanged(task_id, job_id))
        return job

    async def stop_execution(self, task_id: str, job_id: str, execution_id: str) -> Execution:
        """End one run and its retries; the job's schedule continues.

        If the run has ended already, the retry that followed it is ended.

        :raises NotFound: no such execution in this job.
        """
        await self._execution(task_id, job_id, execution_id)
        stopped = await self._request_stop(execution_id, Reason.STOPPED)
        retry = await self.retry_after(stopped)
        while retry is not None:
            retry = await self.retry_after(await self._request_stop(retry.id, Reason.STOPPED))
        return stopped

    async def delete_execution(
        self, task_id: str, job_id: str, execution_id: str, *, force: bool
    ) -> None:
        """Hide an execution; what is left of it is removed in the background.

        :param force: stop it, unless it is final.
        :raises NotFound: no such execution in this job.
        :raises NotFinal: it is not final.
        """
        execution = await self._storage.deletions.execution(
            task_id, job_id, execution_id, force=force, now=self._clock()
        )
        self._publish(Deleted(task_id, job_id, execution_id), execution)

    async def delete_job(self, task_id: str, job_id: str, *, force: bool) -> None:
        """Hide a job with its executions, and end its schedule; as :meth:`delete_execution`."""
        stopped = await self._storage.deletions.job(task_id, job_id, force=force, now=self._clock())
        self._publish(Deleted(task_id, job_id), OutboxChanged(task_id, job_id), *stopped)

    async def delete_task(self, task_id: str, *, force: bool) -> None:
        """Hide a task with its jobs; as :meth:`delete_job`."""
        stopped = await self._storage.deletions.task(task_id, force=force, now=self._clock())
        self._publish(Deleted(task_id), *stopped)

    async def is_under_way(self, execution: Execution) -> bool:
        """Whether *execution*, or a retry that followed it, is not final."""
        last: Execution | None = execution
        while last is not None and last.final:
            last = await self.retry_after(last)
        return last is not None

    async def retry_after(self, execution: Execution) -> Execution | None:
        """The retry that was stored with the outcome of *execution*, or None."""
        return await self._storage.executions.retry_of(execution.id) if execution.final else None

    async def retry_job(
        self,
        task_id: str,
        job_id: str,
        *,
        change: Change = unchanged,
        request_ip: str | None = None,
    ) -> Execution:
        """Run a job's last definition once more; one that still runs is stopped first.

        :param change: what is different in this one execution.
        :raises NotFound: no such job.
        :raises Rejected: the job has not run yet, or its farm does not run such an image.
        """
        return await self._run_again(task_id, job_id, None, change, request_ip, beside=False)

    async def run_job(
        self,
        task_id: str,
        job_id: str,
        *,
        change: Change = unchanged,
        request_ip: str | None = None,
    ) -> Execution:
        """Run a job's definition now, whatever its schedule, beside what runs of it.

        As :meth:`retry_job`, but also for a job that has not run yet.
        """
        return await self._run_again(task_id, job_id, None, change, request_ip, beside=True)

    async def rerun_execution(
        self,
        task_id: str,
        job_id: str,
        execution_id: str,
        *,
        change: Change = unchanged,
        request_ip: str | None = None,
    ) -> Execution:
        """Run an execution's definition once more, beside what runs of its job.

        As :meth:`run_job`.

        :raises NotFound: no such execution in this job.
        """
        execution = await self._execution(task_id, job_id, execution_id)
        definition = execution.definition
        return await self._run_again(task_id, job_id, definition, change, request_ip, beside=True)

    async def _run_again(
        self,
        task_id: str,
        job_id: str,
        definition: Definition | None,
        change: Change,
        request_ip: str | None,
        *,
        beside: bool,
    ) -> Execution:
        for _ in range(COMPARE_ATTEMPTS):
            job = await self._storage.jobs.get(task_id, job_id)
            now, farm = self._clock(), self._farm_for(task_id)
            wanted = await change(job.definition if definition is None else definition)
            if refusal := policy.image_refusal(wanted.image, farm):
                raise Rejected(refusal)
            last = None if beside else await self._storage.executions.last_of_job(job_id)
            execution = replace(
                policy.execution_of(job, farm, id=new_id(), now=now),
                definition=wanted,
                queue_job_id=new_id(),
                request_ip=request_ip,
                trigger=Trigger.MANUAL,
            )
            try:
                stored = await self._storage.jobs.retry(job, execution, now=now, beside=beside)
            except CompareFailed:
                continue
            if last is not None and not last.final:
                await self._publish_current(last)
            self._publish(stored)
            return stored
        raise self._keeps_changing(job_id)

    async def pause_job(self, task_id: str, job_id: str) -> Job:
        """Hold back the ticks of a scheduled job. What is queued, and retries, go ahead.

        :raises NotFound: no such job.
        :raises Rejected: it is not scheduled.
        """
        return await self._reschedule(task_id, job_id, pause=True)

    async def resume_job(self, task_id: str, job_id: str) -> Job:
        """End a pause. Missed ticks are not made up for; a ``startAt`` that has passed runs now.

        :raises NotFound: no such job.
        :raises Rejected: it is not scheduled.
        """
        return await self._reschedule(task_id, job_id, pause=False)

    async def _reschedule(self, task_id: str, job_id: str, *, pause: bool) -> Job:
        for _ in range(COMPARE_ATTEMPTS):
            job = await self._storage.jobs.get(task_id, job_id)
            if not (job.scheduled or job.paused):
                verb = "pause" if pause else "resume"
                raise Rejected(f'Job "{job_id}" is not scheduled, so there is nothing to {verb}.')
            if job.paused is pause:
                return job
            now = self._clock()
            next_run_at = None if pause else policy.resumed_run_at(job.schedule, now)
            try:
                job = await self._storage.jobs.reschedule(
                    job, paused_at=now if pause else None, next_run_at=next_run_at, now=now
                )
            except CompareFailed:
                continue
            kind = JobChange.PAUSED if pause else JobChange.RESUMED
            self._publish(JobChanged.of(job, job_id=job.id, change=kind))
            return job
        raise self._keeps_changing(job_id)

    # -- helpers ------------------------------------------------------------------------------

    async def _execution(self, task_id: str, job_id: str, execution_id: str) -> Execution:
        execution = await self._storage.executions.get(execution_id)
        await self._storage.jobs.get(task_id, job_id)
        if execution.job_id != job_id or execution.deleted_at is not None:
            raise NotFound(f'Job "{job_id}" has no execution "{execution_id}".')
        return execution

    @staticmethod
    def _keeps_changing(job_id: str) -> Rejected:
        return Rejected(f'Job "{job_id}" keeps changing; try again.')

    async def _request_stop(self, execution_id: str, reason: Reason) -> Execution:
        execution = await self._storage.executions.stop(
            execution_id, reason=reason, now=self._clock()
        )
        self._publish(execution)
        return execution

    def _farm_for(self, task_id: str) -> Farm:
        farm = policy.farm_for(task_id, self._farms)
        if farm is None:
            raise Rejected(f'No farm matches task "{task_id}"; add a farm with a match for it.')
        return farm
