"""The health of the hosts: a circuit breaker for each, and which are black-listed.

The breaker counts consecutive failures of the host, never those of a job.

* *closed*: the host gets executions, after a failure only after a short pause.
* *open*, after enough failures: it gets none for a while, on every instance.
* *half-open*, after that: one execution tests it, and its result closes or opens the circuit.

Pauses are measured in monotonic time, so a step of the clock does not change them. Instances tell
each other in unix seconds until when a circuit is open. That is converted once, when it is read,
to at most the whole timeout.

Nothing here does I/O. :meth:`Hosts.unsaved` has what other instances must learn;
:meth:`Hosts.take` accepts what they have stored.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from fastlane.model import Clock, HostRecord

# Bounds the pause of a host whose circuit is closed: 1, 2, 4, … seconds up to this.
MAX_PAUSE_SECONDS = 30.0
# Bounds the images that are remembered, over all hosts.
IMAGES_REMEMBERED = 1000
# Bounds what is kept and shown of a host's error.
ERROR_CHARS = 500


class Circuit(StrEnum):
    """The state of a circuit breaker, in the words of ``/status/``."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class BreakerOptions:
    """When a circuit opens, and for how long."""

    max_fails: int = 5
    reset_timeout_seconds: float = 60.0


class Hosts:
    """The configured hosts, and others on which executions were found."""

    def __init__(
        self,
        hosts: Iterable[str],
        clock: Clock,
        breaker: BreakerOptions | None = None,
        *,
        changed: Callable[[], None] = lambda: None,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        """:param clock: unix seconds, for what the instances tell each other.
        :param changed: called when there is something in :meth:`unsaved`.
        :param ticks: seconds that never step, for what is counted here.
        """
        self._configured = frozenset(hosts)
        self._clock = clock
        self._ticks = ticks
        self._breaker = breaker or BreakerOptions()
        self._changed = changed
        self._records: dict[str, HostRecord] = {}
        # All three in ticks.
        self._open_until: dict[str, float] = {}
        self._paused_until: dict[str, float] = {}
        self._trial_until: dict[str, float] = {}
        self._unsaved: set[str] = set()
        self._images: OrderedDict[tuple[str, str], None] = OrderedDict()

    # -- what hosts do ------------------------------------------------------------------------

    def failed(self, host: str, error: str) -> None:
        """The host failed: give it nothing new for a while."""
        record = self.record(host)
        circuit = self.circuit(host)
        failures = record.failures + 1
        open_until = record.open_until
        if circuit is Circuit.HALF_OPEN or (
            circuit is Circuit.CLOSED and failures >= self._breaker.max_fails
        ):
            open_until = self._clock() + self._breaker.reset_timeout_seconds
        self._keep(
            replace(record, failures=failures, error=error[:ERROR_CHARS], open_until=open_until)
        )
        # The exponent is bounded because a float is.
        pause_seconds = min(2.0 ** min(failures - 1, 10), MAX_PAUSE_SECONDS)
        self._paused_until[host] = self._ticks() + pause_seconds
        self._trial_until.pop(host, None)
        if circuit is not Circuit.OPEN:
            # While it is open, its own executions keep failing. That is not news.
            self._save(host)

    def answered(self, host: str) -> None:
        """The host answered."""
        self._paused_until.pop(host, None)
        self._trial_until.pop(host, None)
        record = self.record(host)
        if record.failures:
            self._keep(HostRecord(host, blacklisted=record.blacklisted))
            self._save(host)

    def given(self, host: str) -> None:
        """The host got an execution, which is the test of a half-open circuit."""
        if self.circuit(host) is Circuit.HALF_OPEN:
            # Bounded, because a stop of the execution also ends the test.
            self._trial_until[host] = self._ticks() + self._breaker.reset_timeout_seconds

    def has_now(self, host: str, image: str) -> None:
        """The host has *image*."""
        self._images[host, image] = None
        self._images.move_to_end((host, image))
        if len(self._images) > IMAGES_REMEMBERED:
            self._images.popitem(last=False)

    def forget(self, host: str) -> None:
        """Forget a host that no farm has, because nothing is left to do there."""
        assert host not in self._configured
        for known in (self._records, self._open_until, self._paused_until, self._trial_until):
            known.pop(host, None)
        self._unsaved.discard(host)

    # -- what others know ---------------------------------------------------------------------

    def unsaved(self) -> Sequence[HostRecord]:
        """What other instances do not know yet."""
        return [self.record(host) for host in sorted(self._unsaved)]

    def saved(self, record: HostRecord) -> None:
        """Note that *record* is stored."""
        if self.record(record.host) == record:
            self._unsaved.discard(record.host)

    def take(self, records: Iterable[HostRecord]) -> bool:
        """Adopt stored records, except where ours are newer; whether that changed anything.

        Hosts that are not configured concern only the instance that has executions on them.
        """
        news = False
        for stored in records:
            if stored.host not in self._configured | self._records.keys():
                continue
            known = self.record(stored.host)
            if stored.host in self._unsaved:
                stored = replace(known, blacklisted=stored.blacklisted)
            elif known.open_until == stored.open_until is not None:
                # We kept counting while it was open.
                stored = replace(stored, failures=max(stored.failures, known.failures))
            if stored != known:
                news = True
                self._keep(stored)
                if stored.open_until != known.open_until:
                    self._paused_until.pop(stored.host, None)
                    self._trial_until.pop(stored.host, None)
        return news

    # -- what to do about it ------------------------------------------------------------------

    def available(self, hosts: Sequence[str]) -> Sequence[str]:
        """Those of *hosts* that may get executions, in their order."""
        now = self._ticks()
        return [
            host
            for host in hosts
            if not self.record(host).blacklisted and self._free_at(host) <= now
        ]

    def resumes_in(self, hosts: Sequence[str]) -> float | None:
        """Seconds until the first paused one of *hosts* may be tried again; None if none is
        paused.
        """
        now = self._ticks()
        return min(
            (
                at - now
                for host in hosts
                if not self.record(host).blacklisted and (at := self._free_at(host)) > now
            ),
            default=None,
        )

    def blocked(self, hosts: Sequence[str]) -> str | None:
        """A sentence on why none of *hosts* gets executions; None if one may."""
        if self.available(hosts):
            return None
        return f"No host is available: {'; '.join(map(self._trouble, hosts))}."

    def is_doubtful(self, host: str) -> bool:
        """Whether to ping the host before it gets an execution."""
        return self.record(host).failures > 0

    def is_configured(self, host: str) -> bool:
        """Whether a farm has the host."""
        return host in self._configured

    def has_image(self, host: str, image: str) -> bool:
        """Whether the host had *image* when it was last given it."""
        return (host, image) in self._images

    def circuit(self, host: str) -> Circuit:
        """The state of the host's circuit."""
        open_until = self._open_until.get(host)
        if open_until is None:
            return Circuit.CLOSED
        return Circuit.OPEN if open_until > self._ticks() else Circuit.HALF_OPEN

    def record(self, host: str) -> HostRecord:
        """What is known of *host*."""
        return self._records.get(host) or HostRecord(host)

    def all(self) -> Sequence[str]:
        """Every configured host, and those with a record."""
        return sorted(self._configured | self._records.keys())

    def _keep(self, record: HostRecord) -> None:
        known = self.record(record.host)
        self._records[record.host] = record
        if record.open_until is None:
            self._open_until.pop(record.host, None)
        elif record.open_until != known.open_until:
            left_seconds = min(
                record.open_until - self._clock(), self._breaker.reset_timeout_seconds
            )
            self._open_until[record.host] = self._ticks() + left_seconds

    def _save(self, host: str) -> None:
        self._unsaved.add(host)
        self._changed()

    def _free_at(self, host: str) -> float:
        return max(
            self._open_until.get(host, float("-inf")),
            self._paused_until.get(host, float("-inf")),
            self._trial_until.get(host, float("-inf")),
        )

    def _trouble(self, host: str) -> str:
        record = self.record(host)
        if record.blacklisted:
            return f"{host} is black-listed"
        if self.circuit(host) is Circuit.OPEN:
            return f"{host} is out after {record.failures} failures ({record.error})"
        return f"{host} is tried again after a failure ({record.error})"
