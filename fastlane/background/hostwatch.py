"""Shares the state of the hosts: stores what this instance found out, reads what others did."""

from __future__ import annotations

from fastlane.bus.local import Bus
from fastlane.events import HostChanged, QueueChanged
from fastlane.hosts import Hosts
from fastlane.lifecycle import Lifecycle
from fastlane.storage.base import Storage

# Bounds how long an instance acts on old news when an event was lost.
PERIOD_SECONDS = 10.0


class HostWatch:
    """Stores what is new about hosts, and reads what others have stored."""

    wakes_on = (HostChanged,)

    def __init__(self, lifecycle: Lifecycle, storage: Storage, bus: Bus, hosts: Hosts) -> None:
        self._lifecycle = lifecycle
        self._storage = storage
        self._bus = bus
        self._hosts = hosts

    async def step(self) -> float:
        """Store, then read."""
        unsaved = self._hosts.unsaved()
        for record in unsaved:
            await self._lifecycle.store_breaker(record)
            self._hosts.saved(record)
        # What this instance found out may have freed a host as well.
        if self._hosts.take(await self._storage.hosts.all()) or unsaved:
            self._bus.wake(QueueChanged)
        return PERIOD_SECONDS
