"""Builds the parts of a server from its configuration: storage, executors, channels, loops."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from fastlane import __version__, policy
from fastlane.api.ends import Ends
from fastlane.api.reports import Reports
from fastlane.api.services import Services
from fastlane.api.streaming.events import EventFeed
from fastlane.api.streaming.feed import Feed
from fastlane.api.streaming.sockets import Sockets
from fastlane.background.chronicle import Chronicle
from fastlane.background.context import Context, Options
from fastlane.background.deleter import Deleter
from fastlane.background.dispatcher import Dispatcher
from fastlane.background.hostwatch import HostWatch
from fastlane.background.keeper import Keeper
from fastlane.background.loop import Loop
from fastlane.background.notifier import Notifier
from fastlane.background.pulse import Pulse
from fastlane.background.runner import Runner
from fastlane.background.scheduler import Scheduler
from fastlane.bus.local import Bus
from fastlane.config import ROLES, Config
from fastlane.errors import ConfigError
from fastlane.events import EventsMoved, HostChanged, Missed
from fastlane.executors.base import Executor
from fastlane.executors.registry import Executors
from fastlane.hosts import BreakerOptions, Hosts
from fastlane.lifecycle import Lifecycle
from fastlane.metrics import Metrics, TaskLabels
from fastlane.model import Clock
from fastlane.notifications.registry import channels
from fastlane.storage.base import Storage
from fastlane.storage.sqlite import SqliteStorage

if TYPE_CHECKING:
    from fastlane.bus.redis import Relay
    from fastlane.tracing import Tracing

RUNNING_ROLES = frozenset({"dispatcher", "monitor"})
"""The roles that own executions: the dispatcher claims them, the monitor adopts them."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one server."""

    services: Services
    """Those that handlers have, too: storage, executors, bus, …"""
    relay: Relay | None
    """Carries the events of the bus between the instances of a cluster."""
    runner: Runner
    host_watch: HostWatch
    reports: Reports
    notifier: Notifier
    tracing: Tracing | None
    work: Sequence[tuple[Loop, frozenset[str]]]
    """All periodic work, and the roles that do it."""


def wire(config: Config, clock: Clock, storage: Storage | None, executor: Executor | None) -> Parts:
    """Build everything; *storage* and *executor* replace what *config* asks for."""
    bus = Bus()
    relay = None if storage else make_relay(config, bus)
    storage = storage or make_storage(
        config,
        clock,
        relay=relay,
        repaired=lambda: bus.deliver(Missed()),
        moved=lambda: bus.publish(EventsMoved()),
    )
    instance = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    farms = config.docker_hosts
    executors = Executors.single(executor, farms) if executor else make_executors(config)
    reruns = config.rerun_when_lost_max
    lifecycle = Lifecycle(
        storage, bus, clock=clock, farms=farms, instance=instance, lost_reruns_max=reruns
    )
    hosts = make_hosts(config, clock, bus)
    context = Context(
        lifecycle=lifecycle,
        storage=storage,
        executors=executors,
        bus=bus,
        hosts=hosts,
        farms={farm.name: farm for farm in farms},
        clock=clock,
        options=background_options(config),
    )
    runner = Runner(context)
    host_watch = HostWatch(lifecycle, storage, bus, hosts)
    reports = Reports(storage, config.env_blacklisted_words, config.public_url)
    sockets = Sockets(Feed(storage, bus))
    metrics = make_metrics(config, clock, storage, hosts, sockets)
    bus.relay_to(metrics.event)
    tracing = make_tracing(config, clock)
    if tracing is not None:
        bus.relay_to(tracing.event)
    notifier = Notifier(
        lifecycle,
        storage,
        bus,
        {channel.name: channel.sender(config, clock) for channel in channels()},
        reports.describe,
        clock=clock,
        backoff=config.notification_backoff,
        attempted=metrics.attempt,
    )
    services = Services(
        storage=storage,
        lifecycle=lifecycle,
        executors=executors,
        bus=bus,
        clock=clock,
        config=config,
        farms=farms,
        version=__version__,
        hosts=hosts,
        sockets=sockets,
        ends=Ends(lifecycle, storage, bus),
        events=EventFeed(storage, bus, clock),
        metrics=metrics,
    )
    return Parts(
        services=services,
        relay=relay,
        runner=runner,
        host_watch=host_watch,
        reports=reports,
        notifier=notifier,
        tracing=tracing,
        work=(*make_work(config, context, runner, host_watch, notifier), *measuring(metrics)),
    )


def make_metrics(
    config: Config, clock: Clock, storage: Storage, hosts: Hosts, sockets: Sockets
) -> Metrics:
    """What Prometheus reads."""
    return Metrics(
        storage=storage,
        hosts=hosts,
        farms=config.docker_hosts,
        clock=clock,
        version=__version__,
        tasks=TaskLabels(config.metrics_tasks, config.metrics_max_tasks),
        viewers=lambda: sockets.feed.viewers,
    )


def make_hosts(config: Config, clock: Clock, bus: Bus) -> Hosts:
    """What is known of the configured hosts."""
    return Hosts(
        [host for farm in config.docker_hosts for host in farm.hosts],
        clock,
        BreakerOptions(
            config.docker_circuit_breaker_max_fails,
            config.docker_circuit_breaker_reset_timeout_seconds,
        ),
        # Only on this instance: the others are notified once it is stored.
        changed=lambda: bus.wake(HostChanged),
    )


def make_work(
    config: Config, context: Context, runner: Runner, host_watch: HostWatch, notifier: Notifier
) -> Sequence[tuple[Loop, frozenset[str]]]:
    """All periodic work, and the roles that do it."""
    keeper = Keeper(context, runner)
    deleter = Deleter(context)
    scheduler = Scheduler(context.lifecycle, context.storage, context.clock)
    dispatcher = Dispatcher(context, runner)
    chronicle = Chronicle(
        context.storage,
        context.clock,
        context.lifecycle.instance,
        event_retention_seconds=config.event_retention,
        stats_retention_seconds=config.stats_retention,
    )
    pulse = Pulse(context.storage, config.data_dir)
    every = frozenset(ROLES)
    return (
        # An instance that claims must prove that it is alive; one that is alive adopts.
        (Loop("heartbeat", keeper.beat), RUNNING_ROLES),
        (
            Loop("scheduler", scheduler.step, scheduler.wakes_on, scheduler.wants),
            frozenset({"scheduler"}),
        ),
        (
            Loop("dispatcher", dispatcher.step, dispatcher.wakes_on, dispatcher.wants),
            frozenset({"dispatcher"}),
        ),
        (Loop("hosts", host_watch.step, host_watch.wakes_on), every),
        (Loop("sweep", keeper.sweep), frozenset({"monitor"})),
        (Loop("retention", keeper.forget), frozenset({"monitor"})),
        (Loop("deletions", deleter.step, deleter.wakes_on, deleter.wants), frozenset({"monitor"})),
        (Loop("chronicle", chronicle.step, chronicle.wakes_on), frozenset({"monitor"})),
        (Loop("notifier", notifier.step, notifier.wakes_on), frozenset({"notifier"})),
        # An instance that listens is asked by HTTP.
        (Loop("pulse", pulse.step), frozenset() if "api" in config.roles else every),
    )


def measuring(metrics: Metrics) -> Sequence[tuple[Loop, frozenset[str]]]:
    """The work of those instances whose metrics can be asked for."""
    loops = Loop("lag", metrics.measure_lag), Loop("successes", metrics.find_last_successes)
    return [(loop, frozenset({"api"})) for loop in loops]


def background_options(config: Config) -> Options:
    """What *config* says about background work."""
    return Options(
        lease_seconds=config.lease_seconds,
        stop_grace_seconds=config.stop_grace_seconds,
        host_lost_after_seconds=config.host_lost_after_seconds,
        log_cap=policy.log_cap(config.log_max_bytes),
        resource_caps=config.resources,
        spare_host=not config.memory_unlimited,
        hard_timeout_seconds=config.hard_execution_timeout_seconds,
        container_retention_seconds=config.container_retention,
        execution_retention_seconds=config.execution_retention,
        traced=bool(config.otel_exporter_otlp_endpoint),
    )


def make_tracing(config: Config, clock: Clock) -> Tracing | None:
    """What sends traces, where there is a collector.

    :raises ConfigError: the extra that it needs is not installed.
    """
    if not config.otel_exporter_otlp_endpoint:
        return None
    try:
        # Imported where it is used: it takes 0.3 s, and most have no collector.
        from fastlane.tracing import Tracing
    except ImportError as error:
        raise ConfigError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT needs more packages ({error}); "
            "install them with: pip install 'fastlane[otel]'"
        ) from error
    return Tracing(
        config.otel_exporter_otlp_endpoint,
        version=__version__,
        public_url=config.public_url,
        clock=clock,
    )


def make_relay(config: Config, bus: Bus) -> Relay | None:
    """What carries the events of *bus* between the instances of a cluster.

    :raises ConfigError: ``REDIS_URL`` is malformed.
    """
    if config.cluster_urls is None:
        return None
    # Imported where they are used: one machine needs neither client, and they take 0.2 s.
    from fastlane.bus.redis import Relay
    from fastlane.storage.mongo.database import DEFAULT_DATABASE

    mongodb_url, redis_url = config.cluster_urls
    database = urlsplit(mongodb_url).path.strip("/").partition(".")[0]
    # Redis Cluster keeps what is in braces on one node.
    return Relay(redis_url, f"fastlane:{{{unquote(database) or DEFAULT_DATABASE}}}:news", bus)


def make_storage(
    config: Config,
    clock: Clock,
    *,
    relay: Relay | None = None,
    repaired: Callable[[], None] = lambda: None,
    moved: Callable[[], None] = lambda: None,
) -> Storage:
    """The cluster storage where its URLs are given, else the embedded one."""
    if config.cluster_urls is None:
        return SqliteStorage(config.data_dir)
    from fastlane.storage.mongo import ClusterStorage

    return ClusterStorage(
        config.cluster_urls[0], relay=relay, repaired=repaired, moved=moved, clock=clock
    )


def make_executors(config: Config) -> Executors:
    """The executors of the configured farms.

    :raises ConfigError: the files of an option cannot be used.
    """
    return Executors.configured(config, config.docker_hosts, default=config.executor)
