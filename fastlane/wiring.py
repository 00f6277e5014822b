"""Builds the parts of a server from its configuration: storage, executors, channels, TLS, loops."""

from __future__ import annotations

import os
import socket
import ssl
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from fastlane import __version__, policy
from fastlane.api.feed import Feed
from fastlane.api.reports import Reports
from fastlane.api.services import Services
from fastlane.api.sockets import Sockets
from fastlane.background.context import Context, Options
from fastlane.background.dispatcher import Dispatcher
from fastlane.background.hostwatch import HostWatch
from fastlane.background.keeper import Keeper
from fastlane.background.loop import Loop
from fastlane.background.notifier import Notifier
from fastlane.background.runner import Runner
from fastlane.background.scheduler import Scheduler
from fastlane.bus.local import Bus
from fastlane.config import ROLES, Config
from fastlane.errors import ConfigError
from fastlane.events import HostChanged, Missed
from fastlane.executors.base import Executor
from fastlane.executors.docker import DockerExecutor
from fastlane.executors.process import ProcessExecutor
from fastlane.executors.swarm import SwarmExecutor
from fastlane.hosts import BreakerOptions, Hosts
from fastlane.lifecycle import Lifecycle
from fastlane.model import Clock, TlsFiles
from fastlane.notifications.registry import channels
from fastlane.storage.base import Storage
from fastlane.storage.sqlite import SqliteStorage

if TYPE_CHECKING:
    from fastlane.bus.redis import Relay

RUNNING_ROLES = frozenset({"dispatcher", "monitor"})
"""The roles that own executions: the dispatcher claims them, the monitor adopts them."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one server."""

    storage: Storage
    executor: Executor
    bus: Bus
    relay: Relay | None
    """Carries the events of the bus between the instances of a cluster."""
    lifecycle: Lifecycle
    hosts: Hosts
    runner: Runner
    host_watch: HostWatch
    reports: Reports
    notifier: Notifier
    services: Services
    work: Sequence[tuple[Loop, frozenset[str]]]
    """All periodic work, and the roles that do it."""


def wire(config: Config, clock: Clock, storage: Storage | None, executor: Executor | None) -> Parts:
    """Build everything; *storage* and *executor* replace what *config* asks for."""
    bus = Bus()
    relay = None if storage else make_relay(config, bus)
    storage = storage or make_storage(
        config, clock, relay=relay, repaired=lambda: bus.deliver(Missed())
    )
    executor = executor or make_executor(config)
    instance = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    farms = config.docker_hosts
    lifecycle = Lifecycle(
        storage,
        bus,
        clock=clock,
        farms=farms,
        instance=instance,
        lost_reruns_max=config.rerun_when_lost_max,
    )
    hosts = Hosts(
        [host for farm in farms for host in farm.hosts],
        clock,
        BreakerOptions(
            config.docker_circuit_breaker_max_fails,
            config.docker_circuit_breaker_reset_timeout_seconds,
        ),
        # Only to this instance: the others are told once it is stored.
        changed=lambda: bus.wake(HostChanged),
    )
    context = Context(
        lifecycle=lifecycle,
        storage=storage,
        executor=executor,
        bus=bus,
        hosts=hosts,
        farms={farm.name: farm for farm in farms},
        clock=clock,
        options=background_options(config),
    )
    runner = Runner(context)
    host_watch = HostWatch(lifecycle, storage, bus, hosts)
    reports = Reports(storage, config.env_blacklisted_words, config.public_url)
    notifier = Notifier(
        lifecycle,
        storage,
        bus,
        {channel.name: channel.sender(config, clock) for channel in channels()},
        reports.describe,
        clock=clock,
        backoff=config.notification_backoff,
    )
    services = Services(
        storage=storage,
        lifecycle=lifecycle,
        executor=executor,
        bus=bus,
        clock=clock,
        config=config,
        farms=farms,
        version=__version__,
        hosts=hosts,
        sockets=Sockets(Feed(storage, bus)),
    )
    keeper = Keeper(context, runner)
    scheduler = Scheduler(lifecycle, storage, clock)
    dispatcher = Dispatcher(context, runner)
    work = (
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
        (Loop("hosts", host_watch.step, host_watch.wakes_on), frozenset(ROLES)),
        (Loop("sweep", keeper.sweep), frozenset({"monitor"})),
        (Loop("retention", keeper.forget), frozenset({"monitor"})),
        (Loop("notifier", notifier.step, notifier.wakes_on), frozenset({"notifier"})),
    )
    return Parts(
        storage=storage,
        executor=executor,
        bus=bus,
        relay=relay,
        lifecycle=lifecycle,
        hosts=hosts,
        runner=runner,
        host_watch=host_watch,
        reports=reports,
        notifier=notifier,
        services=services,
        work=work,
    )


def background_options(config: Config) -> Options:
    """What *config* says about background work."""
    return Options(
        lease_seconds=config.lease_seconds,
        stop_grace_seconds=config.stop_grace_seconds,
        host_lost_after_seconds=config.host_lost_after_seconds,
        log_cap=policy.log_cap(config.log_max_bytes),
        resource_caps=config.resources,
        hard_timeout_seconds=config.hard_execution_timeout_seconds,
        container_retention_seconds=config.container_retention,
        execution_retention_seconds=config.execution_retention,
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
) -> Storage:
    """The cluster storage where its URLs are given, else the embedded one."""
    if config.cluster_urls is None:
        return SqliteStorage(config.data_dir)
    from fastlane.storage.cluster import ClusterStorage

    return ClusterStorage(config.cluster_urls[0], relay=relay, repaired=repaired, clock=clock)


async def with_installation(config: Config) -> Config:
    """*config* with the name of the installation that all instances on one cluster store share.

    :raises StorageUnavailable: the store cannot be reached.
    """
    if config.cluster_urls is None or config.installation:
        return config
    from fastlane.storage.cluster import ClusterStorage

    storage = ClusterStorage(config.cluster_urls[0])
    await storage.open()
    try:
        return config.model_copy(update={"installation": await storage.installation()})
    finally:
        await storage.close()


def make_executor(config: Config) -> Executor:
    """The executor that ``EXECUTOR`` names."""
    installation = config.installation or installation_id(config.data_dir)
    if config.executor == "process":
        return ProcessExecutor(data_dir=config.data_dir, installation=installation)
    kind = SwarmExecutor if config.executor == "swarm" else DockerExecutor
    return kind(installation=installation, tls=tls_of(config))


def tls_of(config: Config) -> Mapping[str, ssl.SSLContext]:
    """How to speak TLS with each host that does.

    A farm's own files come first. Else what ``docker`` itself does with ``DOCKER_TLS_VERIFY`` and
    ``DOCKER_CERT_PATH`` is done with every host of the configuration that is no socket.

    :raises ConfigError: a file cannot be used.
    """
    directory = Path(config.docker_cert_path or "~/.docker").expanduser()
    contexts: dict[str, ssl.SSLContext] = {}
    for farm in config.docker_hosts:
        for host in farm.hosts:
            files, option = farm.tls, f"tls of farm {farm.name} in DOCKER_HOSTS"
            secure = host.startswith("https://") and bool(config.docker_cert_path)
            plain = host.startswith(("unix://", "http://"))
            if files is None and not plain and (config.docker_tls_verify or secure):
                names = (str(directory / f"{name}.pem") for name in ("ca", "cert", "key"))
                files, option = TlsFiles(*names), f"DOCKER_CERT_PATH ({directory})"
            if files is not None:
                contexts[host] = _tls_context(files, option)
    return contexts


def _tls_context(files: TlsFiles, option: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=files.ca)
        if files.cert is not None:
            # An empty password, because the default asks for one on the terminal.
            context.load_cert_chain(files.cert, files.key, password="")
    except OSError as error:
        raise ConfigError(
            f"{option} cannot be used ({error.strerror or error}); "
            "give PEM files of a CA, a certificate and its key."
        ) from error
    return context


def installation_id(data_dir: Path) -> str:
    """The id that marks this installation's containers, made at the first start."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = data_dir / "installation"
    try:
        with path.open("x") as file:
            file.write(uuid.uuid4().hex)
    except FileExistsError:
        pass
    return path.read_text().strip()
