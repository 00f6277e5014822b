"""In-process publish/subscribe: hints that something changed, never the change itself.

Who hears a topic reads the storage again, so a lost or doubled hint costs nothing but time.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

QUEUE = "queue"
"""Something was queued, or a slot came free."""
SCHEDULE = "schedule"
"""Something is due at another time than before."""
HOSTS = "hosts"
"""A host was black-listed or put back, or its circuit breaker has moved."""
OUTBOX = "outbox"
"""A notification waits for delivery."""


def log_topic(execution_id: str) -> str:
    """News of an execution's log or status, for those who watch it."""
    return f"log:{execution_id}"


def end_topic(execution_id: str) -> str:
    """An execution has its outcome, for those who watch it and are not to be kept waiting."""
    return f"end:{execution_id}"


def stop_topic(execution_id: str) -> str:
    """Somebody wants the execution to end, for the one who runs it."""
    return f"stop:{execution_id}"


class Signal:
    """One subscriber's view of some topics: set while there is news it has not taken."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        self._event.set()

    async def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait for news and take it; False when *timeout_seconds* passed without any."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Bus:
    """The process's own exchange of hints. Use it from the event loop's thread only."""

    def __init__(self) -> None:
        self._subscribers: dict[str, set[Signal]] = defaultdict(set)
        self._relays: list[Callable[[str], None]] = []

    def publish(self, *topics: str) -> None:
        """Tell every subscriber of *topics*, here and behind every relay."""
        for topic in topics:
            self.deliver(topic)
            for relay in self._relays:
                relay(topic)

    def deliver(self, topic: str) -> None:
        """Tell the subscribers in this process only (what a relay does with what it hears)."""
        for signal in self._subscribers.get(topic, ()):
            signal.notify()

    def deliver_all(self) -> None:
        """Tell every subscriber in this process: what was missed is not known."""
        for signals in self._subscribers.values():
            for signal in signals:
                signal.notify()

    def relay_to(self, relay: Callable[[str], None]) -> None:
        """Hand every published topic to *relay* too, which carries it to other instances."""
        self._relays.append(relay)

    @contextmanager
    def subscribe(self, *topics: str) -> Iterator[Signal]:
        """A signal for *topics*, for as long as the context lasts."""
        signal = Signal()
        for topic in topics:
            self._subscribers[topic].add(signal)
        try:
            yield signal
        finally:
            for topic in topics:
                self._subscribers[topic].discard(signal)
                if not self._subscribers[topic]:
                    del self._subscribers[topic]
