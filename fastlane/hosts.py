"""What this instance knows of the health of its hosts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from fastlane.model import Clock

# Bounds the pause after a host's failures: 1, 2, 4, … seconds up to this.
MAX_PAUSE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class HostHealth:
    """One host as this instance sees it."""

    host: str
    failures: int = 0
    """In a row; 0 when the last call went well."""
    error: str | None = None
    paused_until: float = 0.0


class Hosts:
    """Counts what hosts did wrong (never what jobs did) and pauses the ones that fail."""

    def __init__(self, hosts: Iterable[str], clock: Clock) -> None:
        self._clock = clock
        self._health = {host: HostHealth(host) for host in hosts}

    def failed(self, host: str, error: str) -> None:
        """The host did not do its part: give it nothing new for a while."""
        health = self._health.get(host, HostHealth(host))
        failures = health.failures + 1
        # The exponent is bounded because a float is.
        pause_seconds = min(2.0 ** min(failures - 1, 10), MAX_PAUSE_SECONDS)
        self._health[host] = replace(
            health, failures=failures, error=error, paused_until=self._clock() + pause_seconds
        )

    def answered(self, host: str) -> None:
        """The host did its part."""
        self._health[host] = HostHealth(host)

    def available(self, hosts: Sequence[str]) -> Sequence[str]:
        """Those of *hosts* that may be given something new, in their order."""
        now = self._clock()
        return [host for host in hosts if self.health(host).paused_until <= now]

    def resumes_at(self, hosts: Sequence[str]) -> float | None:
        """When the first paused one of *hosts* may be tried again; None when none is paused."""
        now = self._clock()
        return min(
            (until for host in hosts if (until := self.health(host).paused_until) > now),
            default=None,
        )

    def health(self, host: str) -> HostHealth:
        """What is known of *host*."""
        return self._health.get(host, HostHealth(host))

    def all(self) -> Sequence[HostHealth]:
        """Every host of the configuration, and those that executions were found on."""
        return list(self._health.values())
