"""The exchange of events inside this process. Use it from the event loop's thread only."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from fastlane.events import Event, Missed

Kind = type[Event]
Wanted = Callable[[Event], bool]


class Subscription:
    """One subscriber's view: set while there is news that it has not seen.

    Any amount of news is one wake-up. The events themselves are kept only where they are asked for.
    """

    def __init__(self, wanted: Wanted | None, keep: int) -> None:
        self._set = asyncio.Event()
        self._wanted = wanted
        self._keep = keep
        self._events: deque[Event] = deque()

    def offer(self, event: Event) -> None:
        """Take *event*, unless it is not wanted."""
        if self._wanted is None or isinstance(event, Missed) or self._wanted(event):
            self.wake(event)

    def wake(self, event: Event | None = None) -> None:
        """Wake the subscriber."""
        self._set.set()
        if event is None or not self._keep:
            return
        if len(self._events) >= self._keep:
            self._events.clear()
            event = Missed()
        self._events.append(event)

    async def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait for news, which then counts as seen; False when *timeout_seconds* passed without."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._set.wait()
        except TimeoutError:
            return False
        self._set.clear()
        return True

    def taken(self) -> Sequence[Event]:
        """The events since the last call, in the order of their arrival."""
        events = tuple(self._events)
        self._events.clear()
        return events


class Bus:
    """Hands each event to those who subscribed to its kind, or to its kind and key."""

    def __init__(self) -> None:
        self._subscribers: dict[tuple[Kind, str | None], set[Subscription]] = defaultdict(set)
        self._relays: list[Callable[[Event], None]] = []

    def publish(self, *events: Event) -> None:
        """Hand *events* to subscribers in this process and in other instances."""
        for event in events:
            self.deliver(event)
            for relay in self._relays:
                relay(event)

    def deliver(self, event: Event) -> None:
        """Hand *event* to subscribers in this process (what a relay does with what it hears)."""
        if isinstance(event, Missed):
            for subscription in {one for some in self._subscribers.values() for one in some}:
                subscription.offer(event)
            return
        for key in {event.key, None}:
            for subscription in self._subscribers.get((type(event), key), ()):
                subscription.offer(event)

    def wake(self, kind: Kind, key: str | None = None) -> None:
        """Wake the subscribers in this process who wait for *kind*, without an event to show."""
        for one in {key, None}:
            for subscription in self._subscribers.get((kind, one), ()):
                subscription.wake()

    def relay_to(self, relay: Callable[[Event], None]) -> None:
        """Hand every published event to *relay* too, which carries it to other instances."""
        self._relays.append(relay)

    @contextmanager
    def subscribe(
        self,
        *kinds: Kind,
        key: str | None = None,
        wanted: Wanted | None = None,
        keep: int = 0,
    ) -> Iterator[Subscription]:
        """A view of events of *kinds*, for as long as the context lasts.

        :param key: only events with this key.
        :param wanted: only events for which it returns True. ``Missed`` is always among them.
        :param keep: how many events are kept for :meth:`Subscription.taken`.
        """
        subscription = Subscription(wanted, keep)
        for kind in kinds:
            self._subscribers[kind, key].add(subscription)
        try:
            yield subscription
        finally:
            for kind in kinds:
                self._subscribers[kind, key].discard(subscription)
                if not self._subscribers[kind, key]:
                    del self._subscribers[kind, key]
