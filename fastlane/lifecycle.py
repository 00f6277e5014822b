"""The life of a job: submit, tick, claim, start, finish, retry, stop.

The only code that changes a status. Each operation is one call of the storage, which is atomic;
what is to happen comes from ``policy``; who should know hears of it on the bus afterwards.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace

import structlog

from fastlane import policy
from fastlane.errors import CompareFailed, NotFound, Rejected, StorageUnavailable
from fastlane.events import HOSTS, OUTBOX, QUEUE, SCHEDULE, Bus, end_topic, log_topic, stop_topic
from fastlane.model import (
    Attempt,
    Backoff,
    Clock,
    Definition,
    Delivery,
    Execution,
    Farm,
    Job,
    LogCap,
    LogRecord,
    Outcome,
    Overlap,
    Reason,
    Schedule,
)
from fastlane.storage.base import IdempotencyKey, PageRequest, Storage, Submitted

log = structlog.get_logger(__name__)

# Bounds one round of due work, so that a long absence is made up for in steps.
DUE_BATCH = 200
# Bounds one step of the clean-up, which everybody else's writes wait for.
CLEAN_UP_BATCH = 100
# Bounds how often a decision is made again because the record moved under it.
COMPARE_ATTEMPTS = 20
# Bound the search for the retry of an execution, among the newest of its job.
RETRY_PAGE = 50
RETRY_PAGES = 20


def new_id() -> str:
    """A UUID4 in its text form."""
    return str(uuid.uuid4())


class Lifecycle:
    """Every change that a task, job or execution can go through."""

    def __init__(
        self, storage: Storage, bus: Bus, *, clock: Clock, farms: Sequence[Farm], instance: str
    ) -> None:
        """:param instance: the name under which this process owns executions."""
        self._storage = storage
        self._bus = bus
        self._clock = clock
        self._farms = tuple(farms)
        self.instance = instance
        self.claims_under_way = 0
        """Claims that were asked for and not answered yet."""

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
    ) -> Submitted:
        """Store a job and, unless it is scheduled, its first execution, ready to run.

        :param job_id: None makes a new job; otherwise the job of this id is made or replaced.
        :raises Rejected: no farm takes the task, its farm does not run such an image, or the
            storage refuses (see ``Storage.submit``).
        """
        now = self._clock()
        farm = self._farm_for(task_id)
        if not policy.image_is_allowed(definition.image, farm):
            raise Rejected(policy.image_is_refused(definition.image, farm))
        next_run_at = policy.first_run_at(schedule, now)
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
            execution = replace(_execution_of(job, farm, now), request_ip=request_ip)
        submitted = await self._storage.submit(
            job, execution, replace=job_id is not None, idempotency=idempotency
        )
        self._bus.publish(SCHEDULE if execution is None else QUEUE, *_expiry_of(definition))
        if job_id is not None:
            # A replaced job's retries have ended, and are told of.
            self._bus.publish(OUTBOX)
        return submitted

    async def stop_job(self, task_id: str, job_id: str) -> Job:
        """End a job's last execution, its schedule and its retries.

        :raises NotFound: no such job.
        """
        job = await self._storage.stop_job(task_id, job_id, now=self._clock())
        last = await self._storage.last_execution(job_id)
        self._bus.publish(SCHEDULE, QUEUE, OUTBOX)
        if last is not None:
            self._bus.publish(stop_topic(last.id), log_topic(last.id))
        return job

    async def stop_execution(self, task_id: str, job_id: str, execution_id: str) -> Execution:
        """End one run and its retries; the job's schedule goes on.

        Where the run has ended already, that is the retry that followed.

        :raises NotFound: no such execution in this job.
        """
        execution = await self._storage.execution(execution_id)
        if (execution.task_id, execution.job_id) != (task_id, job_id):
            raise NotFound(f"Job {job_id} of task {task_id!r} has no execution {execution_id}.")
        stopped = await self._request_stop(execution_id, Reason.STOPPED)
        retry = await self.retry_after(stopped)
        while retry is not None:
            retry = await self.retry_after(await self._request_stop(retry.id, Reason.STOPPED))
        return stopped

    async def retry_after(self, execution: Execution) -> Execution | None:
        """The retry that was stored with the outcome of *execution*, or None."""
        if not execution.final or execution.reason is None:
            return None
        outcome = Outcome(execution.status, execution.reason)
        if policy.follow_up_delay_seconds(execution, outcome) is None:
            return None
        request = PageRequest(size=RETRY_PAGE)
        for _ in range(RETRY_PAGES):
            page = await self._storage.executions(execution.job_id, request)
            for later in page.items:
                if later.number <= execution.number:
                    return None
                if (later.attempt, later.generation, later.created_at) == (
                    execution.attempt + 1,
                    execution.generation,
                    execution.finished_at,
                ):
                    return later
            if page.next_cursor is None:
                break
            request = replace(request, after=page.next_cursor)
        return None

    async def retry_job(
        self, task_id: str, job_id: str, *, request_ip: str | None = None
    ) -> Execution:
        """Run a job's last definition once more; one that still runs is stopped first.

        :raises NotFound: no such job.
        :raises Rejected: the job has not run yet.
        """
        for _ in range(COMPARE_ATTEMPTS):
            job = await self._storage.job(task_id, job_id)
            now = self._clock()
            last = await self._storage.last_execution(job_id)
            execution = replace(
                _execution_of(job, self._farm_for(task_id), now),
                queue_job_id=new_id(),
                request_ip=request_ip,
            )
            try:
                stored = await self._storage.retry_job(job, execution, now=now)
            except CompareFailed:
                continue
            if last is not None:
                self._bus.publish(stop_topic(last.id), log_topic(last.id), OUTBOX)
            self._bus.publish(QUEUE, *_expiry_of(stored.definition))
            return stored
        raise Rejected(f"Job {job_id} keeps changing while it is retried; try again.")

    # -- done by the clock --------------------------------------------------------------------

    async def next_due_at(self) -> float | None:
        """When :meth:`run_due` has something to do next."""
        return await self._storage.next_due_at()

    async def run_due(self) -> None:
        """Act on everything whose time has come: expiries, back-offs, ticks.

        One job that cannot be ticked does not keep the others from theirs.

        :raises ExceptionGroup: with what kept jobs from their ticks, when all others had theirs.
        """
        now = self._clock()
        for expired in await self._storage.expire(now, DUE_BATCH):
            log.info("execution expired", task=expired.task_id, execution=expired.id)
            self._bus.publish(log_topic(expired.id), QUEUE, *_outbox_of(expired))
        if await self._storage.queue_due(now, DUE_BATCH):
            self._bus.publish(QUEUE)
        failures: list[Exception] = []
        for job in await self._storage.due_jobs(now, DUE_BATCH):
            try:
                await self.run_tick(job)
            except CompareFailed:
                # Another instance took the tick, or the job was changed: both are in order.
                continue
            except StorageUnavailable:
                raise
            except Exception as error:
                error.add_note(f"job {job.id} of task {job.task_id!r}")
                failures.append(error)
        if failures:
            raise ExceptionGroup("jobs that are due could not be run", failures)

    async def run_tick(self, job: Job) -> Execution | None:
        """Act on the tick that *job* stands at, with all that were missed before it as one.

        :return: the execution, or None when the job's overlap rule skipped the tick.
        :raises CompareFailed: the job is no longer what *job* says.
        """
        assert job.next_run_at is not None
        now = self._clock()
        tick = policy.tick_to_run(job.schedule, job.next_run_at, now)
        execution: Execution | None = replace(
            _execution_of(job, policy.farm_for(job.task_id, self._farms), now),
            tick=tick,
            late_seconds=policy.late_seconds(tick, now),
            request_ip=job.request_ip,
        )
        if job.definition.overlap is not Overlap.ALLOW:
            last = await self._storage.last_execution(job.id)
            if last is not None and not last.final:
                if job.definition.overlap is Overlap.SKIP:
                    execution = None
                    log.info("tick skipped", task=job.task_id, job=job.id, running=last.id)
                else:
                    assert execution is not None
                    execution = replace(execution, waits_for=last.id)
        stored = await self._storage.tick(
            job, execution, next_run_at=policy.run_after(job.schedule, now), now=now
        )
        if stored is not None:
            self._bus.publish(QUEUE)
        return stored

    # -- done by the owner of an execution ----------------------------------------------------

    async def claim(self, farm: Farm, host: str) -> Execution | None:
        """Take the next execution of *farm* to run it on *host*; None when there is none."""
        self.claims_under_way += 1
        try:
            return await self._storage.claim(
                farm.name,
                host=host,
                owner=self.instance,
                max_running=farm.max_running,
                now=self._clock(),
            )
        finally:
            self.claims_under_way -= 1

    async def release(self, execution: Execution) -> None:
        """Hand an execution back to the queue, of which no run was ever asked for.

        :raises CompareFailed: it is no longer ours.
        """
        await self._storage.release(execution.id, execution.epoch)
        # With a stop intent that was its end.
        self._bus.publish(QUEUE, log_topic(execution.id), *_outbox_of(execution))

    async def started(self, execution: Execution, run_id: str) -> Execution:
        """Say that the run is on its way.

        :raises CompareFailed: it is no longer ours.
        """
        execution = await self._storage.started(
            execution.id, execution.epoch, run_id=run_id, started_at=self._clock()
        )
        self._bus.publish(log_topic(execution.id), *_outbox_of(execution))
        return execution

    async def append_log(
        self,
        execution: Execution,
        records: Sequence[LogRecord],
        *,
        bookmark: str,
        cap: LogCap | None,
    ) -> None:
        """Keep a piece of log and tell those who watch it.

        :raises CompareFailed: the execution is no longer ours.
        """
        await self._storage.append_log(
            execution.id, execution.epoch, records, bookmark=bookmark, cap=cap
        )
        self._bus.publish(log_topic(execution.id))

    async def timed_out(self, execution: Execution) -> Execution:
        """Write down that the execution is to end because its time is over."""
        return await self._request_stop(execution.id, Reason.TIMEOUT)

    async def finish(self, execution: Execution, outcome: Outcome) -> Execution:
        """Make the outcome final, with a retry where one follows.

        A stop that arrived in the meantime is taken into the decision.

        :raises CompareFailed: the execution is no longer ours, or is final already.
        """
        epoch = execution.epoch
        for _ in range(COMPARE_ATTEMPTS):
            now = self._clock()
            decided = policy.with_stop_intent(outcome, execution.stop_reason, execution)
            try:
                final, retry = await self._storage.finish(
                    execution.id,
                    epoch,
                    decided,
                    expected_stop=execution.stop_reason,
                    retry=_retry_of(execution, decided, now),
                    finished_at=now,
                )
            except CompareFailed as moved:
                if moved.current is None or moved.current.epoch != epoch or moved.current.final:
                    raise
                execution = moved.current
                continue
            self._bus.publish(log_topic(final.id), end_topic(final.id), QUEUE, *_outbox_of(final))
            if retry is not None:
                self._bus.publish(SCHEDULE)
            return final
        raise CompareFailed(f"execution {execution.id} keeps changing", execution)

    # -- farms and hosts ----------------------------------------------------------------------

    async def blacklist_host(self, host: str, *, blacklisted: bool) -> None:
        """Take a host out for new executions, or put it back."""
        await self._storage.blacklist_host(host, blacklisted=blacklisted)
        log.info("host black-listed" if blacklisted else "host put back", host=host)
        self._bus.publish(HOSTS, QUEUE)

    async def reassign_strays(self) -> None:
        """Give queued executions whose farm is no longer there to the farm that takes their task.

        One that no farm takes stays where it is until there is one.
        """
        names = [farm.name for farm in self._farms]
        after = 0
        while strays := await self._storage.stray_executions(names, after=after, limit=DUE_BATCH):
            for stray in strays:
                assert stray.position is not None
                after = stray.position
                farm = policy.farm_for(stray.task_id, self._farms)
                if farm is None:
                    continue
                try:
                    await self._storage.assign_farm(stray.id, expected=stray.farm, farm=farm.name)
                except CompareFailed:
                    continue
                log.info("execution goes to another farm", execution=stray.id, farm=farm.name)
                self._bus.publish(QUEUE, log_topic(stray.id))

    async def clean_up(self, older_than_seconds: float) -> int:
        """One step of forgetting what ended longer ago than that; how much went, 0 at the end."""
        return await self._storage.clean_up(self._clock() - older_than_seconds, CLEAN_UP_BATCH)

    # -- the outbox ---------------------------------------------------------------------------

    async def next_delivery_at(self) -> float | None:
        """When :meth:`claim_deliveries` has something next."""
        return await self._storage.next_delivery_at()

    async def claim_deliveries(
        self, *, claim_seconds: float, limit: int, per_receiver: int, busy: Mapping[str, int]
    ) -> Sequence[Delivery]:
        """Claim deliveries that are due, to try them within *claim_seconds*."""
        return await self._storage.claim_deliveries(
            now=self._clock(),
            claim_seconds=claim_seconds,
            limit=limit,
            per_receiver=per_receiver,
            busy=busy,
        )

    async def attempted(
        self, delivery: Delivery, attempt: Attempt, *, retries: int, backoff: Backoff
    ) -> Delivery:
        """Record an attempt at a claimed delivery; a failed one has *retries* in all.

        :raises CompareFailed: the claim has run out, and another has it or had it.
        """
        retry_at = policy.next_attempt_at(
            delivery, attempt, retries=retries, backoff=backoff, now=self._clock()
        )
        return await self._storage.attempted(
            delivery.id, delivery.claim, attempt, retry_at=retry_at
        )

    async def unclaim_delivery(self, delivery: Delivery) -> None:
        """Hand back a delivery that was not tried.

        :raises CompareFailed: as :meth:`attempted`.
        """
        await self._storage.unclaim_delivery(delivery.id, delivery.claim)
        self._bus.publish(OUTBOX)

    async def requeue_delivery(self, delivery_id: str) -> Delivery:
        """Try a delivery of the error queue again, from its first attempt.

        :raises NotFound: there is none of this id.
        :raises Rejected: it was delivered.
        """
        delivery = await self._storage.requeue_delivery(delivery_id, now=self._clock())
        self._bus.publish(OUTBOX)
        return delivery

    # -- the house-keeping of instances -------------------------------------------------------

    async def beat(self, lease_seconds: float) -> None:
        """Say that this instance lives."""
        await self._storage.beat(self.instance, now=self._clock(), lease_seconds=lease_seconds)

    async def leave(self) -> None:
        """Say that this instance ends in order."""
        await self._storage.leave(self.instance)

    async def adopt(self, limit: int) -> Sequence[Execution]:
        """Take over executions of instances that no longer live."""
        return await self._storage.adopt(self.instance, now=self._clock(), limit=limit)

    # -- helpers ------------------------------------------------------------------------------

    async def _request_stop(self, execution_id: str, reason: Reason) -> Execution:
        execution = await self._storage.stop_execution(
            execution_id, reason=reason, now=self._clock()
        )
        self._bus.publish(
            stop_topic(execution_id), log_topic(execution_id), QUEUE, *_outbox_of(execution)
        )
        return execution

    def _farm_for(self, task_id: str) -> Farm:
        farm = policy.farm_for(task_id, self._farms)
        if farm is None:
            raise Rejected(
                f"No farm takes task {task_id!r}; give one of DOCKER_HOSTS a match for it."
            )
        return farm


def _expiry_of(definition: Definition) -> tuple[str, ...]:
    """The topic of what is due, where an enqueued execution may expire."""
    return () if definition.expires_at is None else (SCHEDULE,)


def _outbox_of(execution: Execution) -> tuple[str, ...]:
    """The topic of the outbox, where anybody is notified of *execution*."""
    return (OUTBOX,) if execution.definition.subscriptions else ()


def _execution_of(job: Job, farm: Farm | None, now: float) -> Execution:
    return Execution(
        id=new_id(),
        task_id=job.task_id,
        job_id=job.id,
        definition=job.definition,
        # No farm has an empty name: it waits for one that takes its task.
        farm="" if farm is None else farm.name,
        created_at=now,
        queue_job_id=job.queue_job_id,
        generation=job.generation,
    )


def _retry_of(execution: Execution, outcome: Outcome, now: float) -> Execution | None:
    delay_seconds = policy.follow_up_delay_seconds(execution, outcome)
    if delay_seconds is None:
        return None
    return Execution(
        id=new_id(),
        task_id=execution.task_id,
        job_id=execution.job_id,
        definition=execution.definition,
        farm=execution.farm,
        created_at=now,
        queue_job_id=execution.queue_job_id,
        generation=execution.generation,
        attempt=execution.attempt + 1,
        request_ip=execution.request_ip,
        due_at=now + delay_seconds,
    )
