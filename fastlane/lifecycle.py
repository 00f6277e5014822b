"""The life of a job: submit, tick, claim, start, finish, retry, stop.

The only code that changes a status. Each operation is one call of the storage, which is atomic;
``policy`` decides what happens, and an event reports it afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog

from fastlane import policy
from fastlane.errors import CompareFailed
from fastlane.events import (
    HostChanged,
    JobChange,
    JobChanged,
    LogGrown,
    OutboxChanged,
    QueueChanged,
)
from fastlane.model import (
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
    Trigger,
)
from fastlane.steering import COMPARE_ATTEMPTS, Steering, new_id
from fastlane.stored_events import skip_reasons

log = structlog.get_logger(__name__)

# Bounds the executions that are moved to another farm in one step.
REASSIGN_BATCH = 200
# Bounds one step of the clean-up, during which other writes wait.
CLEAN_UP_BATCH = 100


class Lifecycle(Steering):
    """Every change that a task, job or execution can go through."""

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
            last = await self._storage.executions.last_of_job(job.id, deleted=True)
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
        skipped = tick if stored is None or merged else None
        change = {"job_id": job.id, "change": JobChange.TICK_SKIPPED}
        for reason in skip_reasons(job, execution, skipped, merges=merged):
            self._publish(JobChanged.of(job, **change, skipped=reason))
        if skipped is None:
            self._publish(stored)
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
            grown = {"last_seq": records[-1].seq, "size": sum(len(one.data) for one in records)}
            self._publish(LogGrown.of(execution, execution_id=execution.id, **grown))

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

    async def removable(self, limit: int, *, without: Sequence[str]) -> Sequence[Execution]:
        """Deleted executions that can be removed; those on hosts of *without* are left out."""
        return await self._storage.deletions.removable(limit, without=without)

    async def remove(self, execution_ids: Sequence[str]) -> int:
        """Remove some of these deleted executions with all that is theirs; how many."""
        return await self._storage.deletions.remove(execution_ids)

    async def remove_jobs(self, limit: int) -> int:
        """Remove deleted jobs that have no executions any more; how many."""
        return await self._storage.deletions.remove_jobs(limit)

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
