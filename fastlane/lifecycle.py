"""The life of a job: submit, tick, claim, start, finish, retry, stop.

The only code that changes a status. Each operation is one call of the storage, which is atomic;
``policy`` decides what happens, and an event reports it afterwards.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import structlog

from fastlane import policy
from fastlane.bus.local import Bus
from fastlane.errors import CompareFailed, NotFound, Rejected, StorageUnavailable
from fastlane.events import (
    Event,
    ExecutionChanged,
    HostChanged,
    JobChange,
    JobChanged,
    LogGrown,
    OutboxChanged,
    QueueChanged,
)
from fastlane.model import (
    Clock,
    Definition,
    Delivery,
    Execution,
    Farm,
    HostRecord,
    Job,
    LogCap,
    LogRecord,
    Outcome,
    Overlap,
    Reason,
    Schedule,
    Status,
    Trigger,
)
from fastlane.storage.base import IdempotencyKey, Storage, Submitted

log = structlog.get_logger(__name__)

# Bounds the executions that are moved to another farm in one step.
REASSIGN_BATCH = 200
# Bounds one step of the clean-up, during which other writes wait.
CLEAN_UP_BATCH = 100
# Bounds how often a decision is made again because the record moved under it.
COMPARE_ATTEMPTS = 20


def new_id() -> str:
    """A UUID4 in its text form."""
    return str(uuid.uuid4())


class Lifecycle:
    """Every change that a task, job or execution can go through."""

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
            expires_at = one.definition.expires_at
            self._bus.publish(ExecutionChanged.of(one, execution_id=one.id, expires_at=expires_at))
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
    ) -> Submitted:
        """Store a job and, unless it is scheduled, its first execution, ready to run.

        :param job_id: None makes a new job; otherwise the job of this id is made or replaced.
        :param at_once: refuse a job that is scheduled.
        :raises Rejected: no farm matches the task, its farm does not run such an image, or the
            storage refuses (see ``Jobs.submit``).
        """
        now = self._clock()
        farm = self._farm_for(task_id)
        if refusal := policy.image_refusal(definition.image, farm):
            raise Rejected(refusal)
        next_run_at = policy.first_run_at(schedule, now)
        if at_once and next_run_at is not None:
            raise Rejected(
                "The job is scheduled, so there is no end to wait for; leave out wait, or startAt, "
                "startIn and cron."
            )
        job = Job(
            task_id=task_id,
            id=job_id or new_id(),
            definition=definition,
            schedule=schedule,
            created_at=now,
            modified_at=now,
            queue_job_id=new_id(),
            next_run_at=next_run_at,
            request_ip=request_ip,
        )
        execution = None
        if next_run_at is None:
            execution = policy.execution_of(job, farm, id=new_id(), now=now)
        submitted = await self._storage.jobs.submit(
            job, execution, replace=job_id is not None, idempotency=idempotency
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
        execution = await self._storage.executions.get(execution_id)
        if (execution.task_id, execution.job_id) != (task_id, job_id):
            raise NotFound(f"Job {job_id} of task {task_id!r} has no execution {execution_id}.")
        stopped = await self._request_stop(execution_id, Reason.STOPPED)
        retry = await self.retry_after(stopped)
        while retry is not None:
            retry = await self.retry_after(await self._request_stop(retry.id, Reason.STOPPED))
        return stopped

    async def retry_after(self, execution: Execution) -> Execution | None:
        """The retry that was stored with the outcome of *execution*, or None."""
        return await self._storage.executions.retry_of(execution.id) if execution.final else None

    async def retry_job(
        self, task_id: str, job_id: str, *, request_ip: str | None = None
    ) -> Execution:
        """Run a job's last definition once more; one that still runs is stopped first.

        :raises NotFound: no such job.
        :raises Rejected: the job has not run yet.
        """
        for _ in range(COMPARE_ATTEMPTS):
            job = await self._storage.jobs.get(task_id, job_id)
            now = self._clock()
            last = await self._storage.executions.last_of_job(job_id)
            execution = replace(
                policy.execution_of(job, self._farm_for(task_id), id=new_id(), now=now),
                queue_job_id=new_id(),
                request_ip=request_ip,
                trigger=Trigger.MANUAL,
            )
            try:
                stored = await self._storage.jobs.retry(job, execution, now=now)
            except CompareFailed:
                continue
            if last is not None and not last.final:
                await self._publish_current(last)
            self._publish(stored)
            return stored
        raise Rejected(f'Job "{job_id}" keeps changing while it is retried; try again.')

    # -- done by the clock --------------------------------------------------------------------

    async def expire_due(self, limit: int) -> int:
        """End up to *limit* executions that have waited for too long; how many there were."""
        expired = await self._storage.executions.expire(self._clock(), limit)
        for execution in expired:
            log.info("Execution expired", task=execution.task_id, execution=execution.id)
        self._publish(*expired)
        return len(expired)

    async def queue_due(self, limit: int) -> int:
        """Queue up to *limit* retries that are due; how many there were."""
        queued = await self._storage.executions.queue_due(self._clock(), limit)
        if queued:
            self._publish(QueueChanged())
        return queued

    async def run_tick(self, job: Job) -> Execution | None:
        """Run *job*'s next tick, and with it all ticks that were missed before.

        :return: the execution, new or one that waited and has taken the tick; None when the job's
            overlap rule skipped the tick.
        :raises CompareFailed: another instance ran the tick, or the job was changed.
        """
        assert job.next_run_at is not None
        now = self._clock()
        tick = policy.tick_to_run(job.schedule, job.next_run_at, now)
        execution: Execution | None = replace(
            policy.execution_of(
                job, policy.farm_for(job.task_id, self._farms), id=new_id(), now=now
            ),
            tick=tick,
            late_seconds=policy.late_seconds(tick, now),
            trigger=Trigger.SCHEDULE if job.schedule.cron is None else Trigger.CRON,
        )
        overlap = job.definition.overlap
        if overlap is not Overlap.ALLOW:
            last = await self._storage.executions.last_of_job(job.id)
            if last is not None and not last.final:
                if overlap is Overlap.SKIP:
                    execution = None
                    log.info("Tick skipped", task=job.task_id, job=job.id, running=last.id)
                elif execution is not None:
                    execution = replace(execution, waits_for=last.id)
        stored = await self._storage.jobs.tick(
            job,
            execution,
            next_run_at=policy.run_after(job.schedule, now),
            now=now,
            skipped_tick=tick if execution is None else None,
            max_waiting=job.definition.max_waiting if overlap is Overlap.QUEUE else None,
        )
        merged = stored is not None and execution is not None and stored.id != execution.id
        if merged:
            log.info(
                "Tick merged: as many executions wait as maxWaiting allows",
                task=job.task_id,
                job=job.id,
                execution=stored and stored.id,
                max_waiting=job.definition.max_waiting,
            )
        skipped = JobChanged.of(job, job_id=job.id, change=JobChange.TICK_SKIPPED)
        self._publish(skipped if stored is None or merged else stored)
        return stored

    # -- done by the owner of an execution ----------------------------------------------------

    async def claim(self, farm: Farm, host: str) -> Execution | None:
        """Claim the next execution of *farm* to run it on *host*; None when there is none.

        :raises HostDrained: *host* is black-listed.
        """
        execution = await self._storage.executions.claim(
            farm.name,
            host=host,
            owner=self.instance,
            max_running=farm.max_running,
            now=self._clock(),
            max_per_task=farm.max_running_per_task,
            fifo=farm.fifo,
        )
        self._publish(execution)
        return execution

    async def release(self, execution: Execution) -> None:
        """Hand back an execution for which no run was ever requested from a host.

        :raises CompareFailed: another instance owns it.
        """
        await self._storage.executions.release(execution.id, execution.epoch, now=self._clock())
        # It is in the queue again or, where its end was requested, final.
        await self._publish_current(execution)

    async def started(self, execution: Execution, run_id: str) -> Execution:
        """Record that the run was started.

        :raises CompareFailed: another instance owns it.
        """
        execution = await self._storage.executions.started(
            execution.id, execution.epoch, run_id=run_id, started_at=self._clock()
        )
        self._publish(execution)
        return execution

    async def append_log(
        self,
        execution: Execution,
        records: Sequence[LogRecord],
        *,
        bookmark: str,
        cap: LogCap | None,
    ) -> None:
        """Store a piece of log.

        :raises CompareFailed: another instance owns the execution.
        """
        await self._storage.logs.append(
            execution.id, execution.epoch, records, bookmark=bookmark, cap=cap
        )
        if records:
            last_seq = records[-1].seq
            self._publish(LogGrown.of(execution, execution_id=execution.id, last_seq=last_seq))

    async def timed_out(self, execution: Execution) -> Execution:
        """Record that the execution is to end because its time limit has passed."""
        return await self._request_stop(execution.id, Reason.TIMEOUT)

    async def out_of_disk(self, execution: Execution) -> Execution:
        """Record that the execution is to end because it has written more than it may."""
        return await self._request_stop(execution.id, Reason.DISK)

    async def finish(self, execution: Execution, outcome: Outcome) -> Execution:
        """Make the outcome final, with a retry where one follows.

        A stop that was requested in the meantime takes part in the decision.

        :raises CompareFailed: another instance owns the execution, or it is final already.
        """
        epoch = execution.epoch
        for _ in range(COMPARE_ATTEMPTS):
            now = policy.not_before(self._clock(), execution)
            decided = policy.with_stop_intent(outcome, execution.stop_reason, execution)
            try:
                final, retry = await self._storage.executions.finish(
                    execution.id,
                    epoch,
                    decided,
                    expected_stop=execution.stop_reason,
                    retry=policy.follow_up(
                        execution,
                        decided,
                        id=new_id(),
                        now=now,
                        lost_reruns_max=self._lost_reruns_max,
                    ),
                    finished_at=now,
                )
            except CompareFailed as moved:
                if moved.current is None or moved.current.epoch != epoch or moved.current.final:
                    raise
                # The caller's definition may be capped; the stored one never changes.
                execution = replace(moved.current, definition=execution.definition)
                continue
            self._publish(final, retry)
            return final
        raise CompareFailed(f"execution {execution.id} keeps changing", execution)

    # -- farms and hosts ----------------------------------------------------------------------

    async def blacklist_host(self, host: str, *, blacklisted: bool) -> None:
        """Drain a host, so that it gets no new executions, or undrain it."""
        await self._storage.hosts.blacklist(host, blacklisted=blacklisted, now=self._clock())
        log.info("Host drained" if blacklisted else "Host undrained", host=host)
        self._publish(HostChanged(host, blacklisted))

    async def store_breaker(self, record: HostRecord) -> None:
        """Store what a host's circuit breaker has counted."""
        await self._storage.hosts.store_breaker(record, now=self._clock())
        self._publish(HostChanged.of(record))

    async def reassign_orphaned(self) -> None:
        """Move queued executions whose farm is no longer configured to the farm of their task.

        One that no farm accepts stays where it is until there is one.
        """
        names = [farm.name for farm in self._farms]
        after = 0
        while orphaned := await self._storage.executions.orphaned(
            names, after=after, limit=REASSIGN_BATCH
        ):
            for execution in orphaned:
                assert execution.position is not None
                after = execution.position
                farm = policy.farm_for(execution.task_id, self._farms)
                if farm is None:
                    continue
                try:
                    await self._storage.executions.assign_farm(
                        execution.id, expected=execution.farm, farm=farm.name
                    )
                except CompareFailed:
                    continue
                log.info("Execution moved to another farm", execution=execution.id, farm=farm.name)
                self._publish(replace(execution, farm=farm.name))

    async def clean_up(self, older_than_seconds: float) -> int:
        """Delete some records that ended longer ago than that; how many, 0 when none is left."""
        return await self._storage.clean_up(self._clock() - older_than_seconds, CLEAN_UP_BATCH)

    # -- the outbox ---------------------------------------------------------------------------

    async def unclaim_delivery(self, delivery: Delivery) -> None:
        """Hand back a claimed delivery without an attempt.

        :raises CompareFailed: the claim has expired.
        """
        await self._storage.outbox.unclaim(delivery.id, delivery.claim)
        self._publish(OutboxChanged.of(delivery))

    async def requeue_delivery(self, delivery_id: str) -> Delivery:
        """Try a delivery of the error queue again, from its first attempt.

        :raises NotFound: there is no such notification.
        :raises Rejected: it was delivered.
        """
        delivery = await self._storage.outbox.requeue(delivery_id, now=self._clock())
        self._publish(OutboxChanged.of(delivery))
        return delivery

    # -- instances -------------------------------------------------------

    async def beat(self, lease_seconds: float) -> None:
        """Renew the lease of this instance."""
        await self._storage.instances.beat(
            self.instance, now=self._clock(), lease_seconds=lease_seconds
        )

    async def leave(self) -> None:
        """End the lease of this instance, because it stops."""
        await self._storage.instances.leave(self.instance)

    async def adopt(self, limit: int) -> Sequence[Execution]:
        """Take over executions of instances whose lease has expired."""
        return await self._storage.instances.adopt(self.instance, now=self._clock(), limit=limit)

    # -- helpers ------------------------------------------------------------------------------

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
