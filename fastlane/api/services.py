"""What every handler is given."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from fastlane.api.ends import Ends
from fastlane.api.renders import Renders
from fastlane.api.requests import Requests
from fastlane.api.streaming.events import EventFeed
from fastlane.api.streaming.sockets import Sockets
from fastlane.bus.local import Bus
from fastlane.config import Config
from fastlane.executors.registry import Executors
from fastlane.hosts import Hosts
from fastlane.lifecycle import Lifecycle
from fastlane.metrics import Metrics
from fastlane.model import Clock, Farm
from fastlane.storage.base import Storage


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of the server that handlers talk to."""

    storage: Storage
    lifecycle: Lifecycle
    executors: Executors
    bus: Bus
    clock: Clock
    config: Config
    farms: tuple[Farm, ...]
    version: str
    hosts: Hosts
    sockets: Sockets
    ends: Ends
    events: EventFeed
    metrics: Metrics
    requests: Requests = field(default_factory=Requests)
    searches: Counter[str] = field(default_factory=Counter)
    """How many searches of logs each user, or address, has under way."""
    renders: Renders = field(default_factory=Renders)
