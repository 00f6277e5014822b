"""The one place that wires: storage, executor, background work and the HTTP server.

Starts in the order in which the parts need each other and stops in the reverse one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path

import structlog
import tornado.netutil
import uvloop
from tornado.httpserver import HTTPServer

from fastlane import __version__, policy
from fastlane.api.bounds import MAX_HEADER_BYTES
from fastlane.api.connections import Connections, Listener, limits_for, raise_file_limit
from fastlane.api.feed import Feed
from fastlane.api.reports import Reports
from fastlane.api.services import Services
from fastlane.api.sockets import Sockets
from fastlane.background.dispatcher import Dispatcher
from fastlane.background.hostwatch import HostWatch
from fastlane.background.keeper import Keeper, KeeperOptions
from fastlane.background.loop import Loop
from fastlane.background.notifier import Notifier
from fastlane.background.runner import Runner, RunnerOptions
from fastlane.background.scheduler import Scheduler
from fastlane.config import ROLES, Config, is_loopback
from fastlane.errors import ConfigError, StorageUnavailable
from fastlane.events import HOSTS, OUTBOX, QUEUE, SCHEDULE, Bus
from fastlane.executors.base import Executor
from fastlane.executors.docker import DockerExecutor
from fastlane.executors.process import ProcessExecutor
from fastlane.executors.swarm import SwarmExecutor
from fastlane.hosts import BreakerOptions, Hosts
from fastlane.lifecycle import Lifecycle
from fastlane.model import Clock, TlsFiles
from fastlane.notifications.registry import channels
from fastlane.routes import make_app
from fastlane.storage.base import Storage
from fastlane.storage.sqlite import SqliteStorage

log = structlog.get_logger(__name__)

RUNNING_ROLES = {"dispatcher", "monitor"}
"""Of whoever owns executions: the dispatcher claims them, the monitor adopts them."""

# Bounds how long requests that are under way may keep the shutdown waiting.
DRAIN_SECONDS = 5.0
# Bounds the whole shutdown, below the 30 s that Heroku and Kubernetes give by default.
SHUTDOWN_SECONDS = 25.0
# Bound the time that a connection may do nothing or dribble its headers, and dribble a body.
IDLE_CONNECTION_SECONDS = 75.0
BODY_SECONDS = 60.0


class Server:
    """One instance. ``await start()``, then it serves until ``await stop()``."""

    def __init__(
        self,
        config: Config,
        *,
        storage: Storage | None = None,
        executor: Executor | None = None,
        clock: Clock = time.time,
    ) -> None:
        """:param storage, executor, clock: in place of what the configuration asks for (tests)."""
        self.config = config
        self.bus = Bus()
        self.storage = storage or make_storage(config, self.bus, clock)
        self.executor = executor or make_executor(config)
        self.instance = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        farms = config.docker_hosts
        self.lifecycle = Lifecycle(
            self.storage, self.bus, clock=clock, farms=farms, instance=self.instance
        )
        self.hosts = Hosts(
            [host for farm in farms for host in farm.hosts],
            clock,
            BreakerOptions(
                config.docker_circuit_breaker_max_fails,
                config.docker_circuit_breaker_reset_timeout_seconds,
            ),
            # To ourselves only: the others hear of it once it is stored.
            changed=lambda: self.bus.deliver(HOSTS),
        )
        self.runner = Runner(
            self.lifecycle,
            self.storage,
            self.executor,
            self.bus,
            self.hosts,
            farms=farms,
            clock=clock,
            options=RunnerOptions(
                stop_grace_seconds=config.stop_grace_seconds,
                host_lost_after_seconds=config.host_lost_after_seconds,
                log_cap=policy.log_cap(config.log_max_bytes),
                resource_caps=config.resources,
                container_retention_seconds=config.container_retention,
            ),
        )
        scheduler = Scheduler(self.lifecycle, clock)
        dispatcher = Dispatcher(
            self.lifecycle, self.storage, self.runner, self.hosts, farms=farms, clock=clock
        )
        keeper = Keeper(
            self.lifecycle,
            self.storage,
            self.executor,
            self.runner,
            self.hosts,
            lease_seconds=config.lease_seconds,
            clock=clock,
            options=KeeperOptions(
                container_retention_seconds=config.container_retention,
                execution_retention_seconds=config.execution_retention,
            ),
        )
        self._host_watch = HostWatch(self.storage, self.bus, self.hosts)
        self._reports = Reports(self.storage, config.env_blacklisted_words, config.public_url)
        self.notifier = Notifier(
            self.lifecycle,
            self.storage,
            self.bus,
            {channel.name: channel.sender(config, clock) for channel in channels()},
            self._reports.describe,
            clock=clock,
            backoff=config.notification_backoff,
        )
        # All periodic work there is, and whose roles it is.
        self._work = (
            # Whoever claims must show that it lives; whoever lives adopts.
            (Loop("heartbeat", (), keeper.beat), RUNNING_ROLES),
            (Loop("scheduler", (SCHEDULE,), scheduler.step), {"scheduler"}),
            (Loop("dispatcher", (QUEUE,), dispatcher.step), {"dispatcher"}),
            (Loop("hosts", (HOSTS,), self._host_watch.step), set(ROLES)),
            (Loop("sweep", (), keeper.sweep), {"monitor"}),
            (Loop("retention", (), keeper.forget), {"monitor"}),
            (Loop("notifier", (OUTBOX,), self.notifier.step), {"notifier"}),
        )
        self.services = Services(
            storage=self.storage,
            lifecycle=self.lifecycle,
            executor=self.executor,
            bus=self.bus,
            clock=clock,
            config=config,
            farms=farms,
            version=__version__,
            hosts=self.hosts,
            sockets=Sockets(Feed(self.storage, self.bus)),
        )
        self._loops: list[asyncio.Task[None]] = []
        self._http: HTTPServer | None = None
        self._listener: Listener | None = None
        self.connections: Connections | None = None
        self.port = config.port

    async def start(self) -> None:
        """Open everything and begin to serve.

        :raises ConfigError: the address is in use, or must not be open to everyone.
        :raises StorageInUse: another server owns the data directory.
        """
        roles = set(self.config.roles)
        if "api" in roles:
            check_access(self.config)
        sockets = bind(self.config.host, self.config.port) if "api" in roles else []
        try:
            await self.storage.open()
            await self.executor.open()
            if roles & RUNNING_ROLES:
                # Before the first claim: what it claims must have an owner that lives.
                await self.lifecycle.beat(self.config.lease_seconds)
            # And a host that is out must be known to be.
            await self._host_watch.step()
        except BaseException:
            for bound in sockets:
                bound.close()
            raise
        self.app = make_app(self.services)
        if sockets:
            self._serve(sockets)
        self._reports.base_url = self.config.public_url or self._url_for_others
        self._loops = [
            asyncio.create_task(work.run(self.bus), name=work.name)
            for work, whose in self._work
            if roles & whose
        ]
        log.info(
            "fastlane serves" if sockets else "fastlane works",
            url=self.url if sockets else None,
            version=__version__,
            executor=self.executor.name,
            storage=self.storage.name,
            roles=",".join(self.config.roles),
            data_dir=str(self.config.data_dir),
        )

    def _serve(self, sockets: Sequence[socket.socket]) -> None:
        self._http = HTTPServer(
            self.app,
            # The application refuses what is larger than it takes, and says so; see api/bounds.py.
            max_body_size=sys.maxsize,
            max_header_size=2 * MAX_HEADER_BYTES,
            idle_connection_timeout=IDLE_CONNECTION_SECONDS,
            body_timeout=BODY_SECONDS,
        )
        limits = limits_for(raise_file_limit())
        self.connections = Connections(limits, is_proxy=self._is_trusted_proxy)
        self._listener = Listener(self._http, self.connections)
        self._listener.listen(sockets)
        self.port = sockets[0].getsockname()[1]

    def _is_trusted_proxy(self, address: str) -> bool:
        networks = self.config.trusted_proxies
        return bool(networks) and any(ip_address(address) in network for network in networks)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{_url_host(self.config.host)}:{self.port}"

    @property
    def _url_for_others(self) -> str:
        """What to put into links: of a server on all addresses, under the name of its machine."""
        if self.config.host in {"0.0.0.0", "::"}:  # noqa: S104
            return f"http://{socket.gethostname()}:{self.port}"
        return self.url

    async def stop(self) -> None:
        """Stop claiming, hand back what has not started, let go of the rest.

        Containers run on; the next owner finds them.
        """
        log.info("fastlane stops")
        if self._listener is not None:
            self._listener.stop()
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self.runner.close()
        await self.notifier.close()
        await self.services.sockets.close_all()
        if self._http is not None:
            try:
                async with asyncio.timeout(DRAIN_SECONDS):
                    await self.services.requests.answered()
            except TimeoutError:
                log.warning("requests were cut off by the shutdown")
            try:
                # This hangs up on whoever is there.
                async with asyncio.timeout(DRAIN_SECONDS):
                    await self._http.close_all_connections()
            except TimeoutError:
                log.warning("requests go on while the storage closes")
        try:
            await self.lifecycle.leave()
        except StorageUnavailable as error:
            log.warning("could not sign off; the lease will run out", error=str(error))
        await self.executor.close()
        await self.storage.close()


def make_storage(config: Config, bus: Bus, clock: Clock) -> Storage:
    """The cluster storage where its URLs are given, else the embedded one."""
    if config.cluster_urls is None:
        return SqliteStorage(config.data_dir)
    # Imported where it is used: one machine needs neither client, and they take 0.2 s.
    from fastlane.storage.cluster import ClusterStorage

    return ClusterStorage(*config.cluster_urls, bus=bus, clock=clock)


async def with_installation(config: Config) -> Config:
    """*config* with the name of the installation that all instances on one cluster store share.

    :raises StorageUnavailable: the store cannot be reached.
    """
    if config.cluster_urls is None or config.installation:
        return config
    from fastlane.storage.cluster import ClusterStorage

    storage = ClusterStorage(*config.cluster_urls)
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


def check_access(config: Config) -> None:
    """Refuse to open the API to strangers unless the configuration says so, and warn then.

    :raises ConfigError: it would be open without anybody having asked for that.
    """
    if config.basic_auth_user:
        return
    if config.auth == "none":
        log.warning("AUTH=none: everyone who can reach this server can run anything on its hosts.")
    elif not is_loopback(config.host):
        raise ConfigError(
            f'HOST is "{config.host}", which others can reach, and no credentials are set: set '
            "BASIC_AUTH_USER and BASIC_AUTH_PASSWORD, or AUTH=none to let everyone in."
        )


def bind(host: str, port: int) -> Sequence[socket.socket]:
    """Sockets that listen on *host*; port 0 takes a free one.

    :raises ConfigError: the address cannot be listened on.
    """
    try:
        return tornado.netutil.bind_sockets(port, host)
    except OSError as error:
        raise ConfigError(
            f"Cannot listen on {host}:{port} ({error.strerror}); "
            "choose another address with --host and --port."
        ) from error


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def run(config: Config) -> None:
    """Serve until SIGTERM or SIGINT.

    :raises ConfigError: see :meth:`Server.start`.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        config = runner.run(with_installation(config))
        runner.run(serve(Server(config)))


async def serve(server: Server) -> None:
    """Start *server*, and stop it at SIGTERM or SIGINT."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, ended.set)
    starting = asyncio.create_task(server.start(), name="start")
    ending = asyncio.create_task(ended.wait(), name="end")
    try:
        await asyncio.wait({starting, ending}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            await ending
        else:
            # A storage that hangs must not make us deaf to who wants us to end.
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
    finally:
        ending.cancel()
    try:
        async with asyncio.timeout(SHUTDOWN_SECONDS):
            await server.stop()
    except TimeoutError:
        log.error("shutdown took too long; the next start adopts what is left")
