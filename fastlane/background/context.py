"""What the background work of a server is given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fastlane.bus.local import Bus
from fastlane.executors.registry import Executors
from fastlane.hosts import Hosts
from fastlane.lifecycle import Lifecycle
from fastlane.model import Clock, Farm, LogCap, Resources
from fastlane.storage.base import Storage


@dataclass(frozen=True, slots=True)
class Options:
    """What the configuration says about runs and what is kept of them."""

    lease_seconds: float = 30.0
    """How long this instance may be silent before others adopt its executions."""
    stop_grace_seconds: float = 10.0
    host_lost_after_seconds: float = 300.0
    """How long a host may be unreachable before its executions are lost."""
    log_cap: LogCap | None = None
    resource_caps: Resources = Resources()
    """For farms that have none of their own."""
    spare_host: bool = True
    """A run whose memory nothing limits leaves a tenth of its host's."""
    hard_timeout_seconds: float = math.inf
    """Caps the timeouts of jobs that were stored when the limit was higher."""
    container_retention_seconds: float = 0.0
    """How long an ended run is kept on its host for people to look at."""
    execution_retention_seconds: float = 0.0
    """How long records are kept after their end; 0 is for ever."""
    traced: bool = False
    """Runs get the ``TRACEPARENT`` of their span."""


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of the server that background work talks to."""

    lifecycle: Lifecycle
    storage: Storage
    executors: Executors
    bus: Bus
    hosts: Hosts
    farms: Mapping[str, Farm]
    """By name, in the order of the configuration."""
    clock: Clock
    options: Options = Options()
