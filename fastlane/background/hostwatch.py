"""Carries the health of the hosts from this instance to the others, and theirs to this one."""

from __future__ import annotations

from fastlane.events import HOSTS, QUEUE, Bus
from fastlane.hosts import Hosts
from fastlane.storage.base import Storage

# Bounds how long a lost hint keeps an instance from obeying the others.
PERIOD_SECONDS = 10.0


class HostWatch:
    """Stores what is news about hosts, and reads what is news from others."""

    def __init__(self, storage: Storage, bus: Bus, hosts: Hosts) -> None:
        self._storage = storage
        self._bus = bus
        self._hosts = hosts

    async def step(self) -> float:
        """Store, tell, read."""
        if unsaved := self._hosts.unsaved():
            for record in unsaved:
                await self._storage.store_breaker(record)
                self._hosts.saved(record)
            # Only now, so that whoever hears it reads what was stored.
            self._bus.publish(HOSTS)
        # Our own news may have made a host free as well.
        if self._hosts.take(await self._storage.hosts()) or unsaved:
            self._bus.deliver(QUEUE)
        return PERIOD_SECONDS
