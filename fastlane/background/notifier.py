"""Delivers what is in the outbox: many at once, a bounded number for each receiver."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

import structlog

from fastlane import policy
from fastlane.background.retrying import retry_until_available
from fastlane.bus.local import Bus
from fastlane.errors import CompareFailed, DeliveryFailed, NotFound, StorageUnavailable
from fastlane.events import OutboxChanged
from fastlane.lifecycle import Lifecycle
from fastlane.model import (
    Attempt,
    Backoff,
    Clock,
    Delivery,
    DeliveryState,
    Event,
    Execution,
    Target,
)
from fastlane.notifications.base import Notification, Report, Sender
from fastlane.storage.base import Storage

log = structlog.get_logger(__name__)

# Bounds the deliveries that one instance tries at once.
PARALLEL = 64
# Bounds how many of them are for one receiver, so that a slow one does not hold up all others.
PER_RECEIVER = 8
# Bounds the sleep while nothing is pending, and how late a step of the wall clock is noticed.
IDLE_SECONDS = 30.0
WATCH_SECONDS = 5.0
# The pause while something is due that has no room; the end of any delivery ends the pause.
FULL_SECONDS = 1.0
# How much longer than its channel's timeout a delivery is claimed: for the storage around it.
CLAIM_MARGIN_SECONDS = 30.0
# Bounds how long the shutdown waits for deliveries under way before it hands them back.
SHUTDOWN_SECONDS = 3.0

Describe = Callable[[Execution, Event], Awaitable[Report]]
"""The execution as receivers may see it, after an event."""


class Notifier:
    """Claims deliveries that are due, and tries each in a task of its own."""

    wakes_on = (OutboxChanged,)

    def __init__(
        self,
        lifecycle: Lifecycle,
        storage: Storage,
        bus: Bus,
        senders: Mapping[str, Sender],
        describe: Describe,
        *,
        clock: Clock,
        backoff: Backoff,
        attempted: Callable[[str, bool], None] = lambda channel, delivered: None,
    ) -> None:
        """:param senders: by the names of their channels.
        :param backoff: the delays between the attempts of a delivery.
        :param attempted: called after each attempt, with the channel and whether it succeeded.
        """
        self._lifecycle = lifecycle
        self._storage = storage
        self._bus = bus
        self._senders = senders
        self._describe = describe
        self._clock = clock
        self._backoff = backoff
        self._attempted = attempted
        self._tasks: dict[asyncio.Task[None], Delivery] = {}
        self._claim_seconds = CLAIM_MARGIN_SECONDS + max(
            (sender.timeout_seconds for sender in senders.values()), default=0.0
        )

    async def step(self) -> float:
        """Begin what is due and has room; return in how many seconds there may be more."""
        room = PARALLEL - len(self._tasks)
        if room <= 0:
            return IDLE_SECONDS
        due_at = await self._storage.outbox.next_due_at()
        if due_at is not None and due_at <= self._clock():
            for delivery in await self._storage.outbox.claim(
                now=self._clock(),
                claim_seconds=self._claim_seconds,
                limit=room,
                per_receiver=PER_RECEIVER,
                busy=Counter(one.receiver for one in self._tasks.values()),
            ):
                self._begin(delivery)
            due_at = await self._storage.outbox.next_due_at()
        if due_at is None:
            return IDLE_SECONDS
        left_seconds = due_at - self._clock()
        return min(left_seconds, WATCH_SECONDS) if left_seconds > 0 else FULL_SECONDS

    async def close(self) -> None:
        """Wait a moment for deliveries under way, and hand back those that have not ended."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=SHUTDOWN_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _begin(self, delivery: Delivery) -> None:
        task = asyncio.create_task(self._deliver(delivery), name=f"deliver {delivery.id}")
        self._tasks[task] = delivery
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        # Only here: another instance has its own room.
        self._bus.wake(OutboxChanged)

    async def _deliver(self, delivery: Delivery) -> None:
        with structlog.contextvars.bound_contextvars(
            notification=delivery.id,
            channel=str(delivery.channel),
            happening=str(delivery.event),
            execution=delivery.execution_id,
        ):
            try:
                attempt, retries = await self._try(delivery)
            except asyncio.CancelledError:
                await self._hand_back(delivery)
                raise
            except StorageUnavailable:
                await self._hand_back(delivery)
                return
            try:
                retry_at = policy.next_attempt_at(
                    delivery,
                    attempt,
                    retries=retries,
                    backoff=self._backoff,
                    now=self._clock(),
                )
                after = await retry_until_available(
                    lambda: self._storage.outbox.attempted(
                        delivery.id, delivery.claim, attempt, retry_at=retry_at
                    )
                )
            except CompareFailed as error:
                log.warning("Another instance owns the delivery now", error=str(error))
                return
            self._log(after, attempt)

    async def _try(self, delivery: Delivery) -> tuple[Attempt, int]:
        """One attempt: its result, and how many retries there are in all.

        :raises StorageUnavailable: no attempt was made.
        """
        loop = asyncio.get_running_loop()
        at, began = self._clock(), loop.time()
        status, error, retries = None, None, 0
        try:
            execution = await self._storage.executions.get(delivery.execution_id)
            target, sender = _target_of(delivery, execution), self._senders[delivery.channel]
            retries = sender.retries if target.retries is None else target.retries
            status = await sender.send(
                Notification(
                    id=delivery.id,
                    event=delivery.event,
                    target=target,
                    created_at=delivery.created_at,
                    report=await self._describe(execution, delivery.event),
                )
            )
        except DeliveryFailed as failure:
            status, error = failure.status, str(failure)
            if failure.final:
                retries = 0
        except NotFound as failure:
            error, retries = str(failure), 0
        except StorageUnavailable:
            raise
        except Exception:
            # A fault of fastlane's own must neither stop other deliveries nor be tried for ever.
            log.exception("Fastlane failed to deliver a notification")
            error = "An internal error occurred in fastlane; its log has the details."
        self._attempted(delivery.channel, error is None)
        return Attempt(at, loop.time() - began, status, error), retries

    async def _hand_back(self, delivery: Delivery) -> None:
        try:
            await self._lifecycle.unclaim_delivery(delivery)
        except (CompareFailed, StorageUnavailable) as error:
            # It is due again when the claim expires.
            log.warning("The delivery could not be handed back", error=str(error))

    def _log(self, delivery: Delivery, attempt: Attempt) -> None:
        facts = {"receiver": delivery.receiver, "status": attempt.status}
        if delivery.state is DeliveryState.DELIVERED:
            log.info("Notification delivered", **facts)
        elif delivery.state is DeliveryState.FAILED:
            log.warning("Notification failed and has no retries left", error=attempt.error, **facts)
        else:
            log.info("Delivery failed and will be retried", error=attempt.error, **facts)


def _target_of(delivery: Delivery, execution: Execution) -> Target:
    """:raises DeliveryFailed: the execution's definition cannot be read."""
    for wanted in execution.definition.subscriptions:
        targets = wanted.targets(delivery.event)
        if wanted.channel == delivery.channel and delivery.index < len(targets):
            return targets[delivery.index]
    raise DeliveryFailed("The stored definition of the job cannot be read.", final=True)
