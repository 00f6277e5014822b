"""Starts the parts of a server in the order of their needs, and stops them in reverse."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from ipaddress import ip_address

import structlog
import tornado.netutil
import uvloop
from tornado.httpserver import HTTPServer

from fastlane import __version__
from fastlane.api.bounds import MAX_HEADER_BYTES
from fastlane.api.connections import Connections, limits_for, raise_file_limit
from fastlane.api.listener import Listener
from fastlane.api.routes import make_app
from fastlane.api.streaming.sockets import MAX_SOCKETS
from fastlane.config import Config, is_loopback
from fastlane.errors import ConfigError, StorageUnavailable
from fastlane.executors.base import Executor
from fastlane.model import Clock
from fastlane.storage.base import Storage
from fastlane.wiring import RUNNING_ROLES, wire

log = structlog.get_logger(__name__)

# Bounds how long requests that are under way may delay the shutdown.
DRAIN_SECONDS = 5.0
# Bounds the whole shutdown, below the 30 s that Heroku and Kubernetes give by default.
SHUTDOWN_SECONDS = 25.0
# Bound how long a connection may be idle or send its headers, and send a body.
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
        """:param storage, executor, clock: replace what the configuration asks for (tests)."""
        self.config = config
        self.parts = parts = wire(config, clock, storage, executor)
        self.services = parts.services
        self.storage = parts.services.storage
        self.lifecycle = parts.services.lifecycle
        self._loops: list[asyncio.Task[None]] = []
        self._http: HTTPServer | None = None
        self._listener: Listener | None = None
        self._opened = AsyncExitStack()
        self.connections: Connections | None = None
        self.port = config.port

    async def start(self) -> None:
        """Open everything and begin to serve; what was opened is closed again if a part fails.

        :raises ConfigError: the address is in use, or must not be open to everyone.
        :raises StorageInUse: another server owns the data directory.
        """
        parts = self.parts
        roles = set(self.config.roles)
        if "api" in roles:
            check_access(self.config)
        async with AsyncExitStack() as opened:
            sockets = bind(self.config.host, self.config.port) if "api" in roles else []
            for bound in sockets:
                opened.callback(bound.close)
            opened.push_async_callback(self.storage.close)
            await self.storage.open()
            if parts.relay is not None:
                opened.push_async_callback(parts.relay.close)
                await parts.relay.open()
            await self.services.executors.open(
                self.config.installation or await self.storage.installation()
            )
            opened.push_async_callback(self.services.executors.close)
            if roles & RUNNING_ROLES:
                # Before the first claim: what it claims must have an owner that is alive.
                opened.push_async_callback(self._leave)
                await self.lifecycle.beat(self.config.lease_seconds)
            # And it must know which hosts the others have found to be out.
            await parts.host_watch.step()
            self.app = make_app(self.services)
            if sockets:
                self._serve(sockets)
            self._opened = opened.pop_all()
        parts.reports.base_url = self.config.public_url or self._url_for_others
        self._loops = [
            asyncio.create_task(work.run(self.services.bus), name=work.name)
            for work, whose in parts.work
            if roles & whose
        ]
        log.info(
            "Server started",
            url=self.url if sockets else None,
            version=__version__,
            executors=",".join(sorted({farm.executor for farm in self.config.docker_hosts})),
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
        limits = limits_for(raise_file_limit(), self.config.max_body_bytes)
        self.services.sockets.limit = self.config.max_sockets or min(MAX_SOCKETS, limits.total // 2)
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
        log.info("Server stopping")
        if self._listener is not None:
            self._listener.stop()
        self.services.ends.close()
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self.parts.runner.close()
        await self.parts.notifier.close()
        await self.services.sockets.close_all()
        if self._http is not None:
            try:
                async with asyncio.timeout(DRAIN_SECONDS):
                    await self.services.requests.answered()
            except TimeoutError:
                log.warning("Requests were cut off by the shutdown")
            try:
                # This closes the connections that are still open.
                async with asyncio.timeout(DRAIN_SECONDS):
                    await self._http.close_all_connections()
            except TimeoutError:
                log.warning("Requests are still running while the storage closes")
        await self._opened.aclose()
        if self.parts.tracing is not None:
            await asyncio.to_thread(self.parts.tracing.close)

    async def _leave(self) -> None:
        try:
            await self.lifecycle.leave()
        except StorageUnavailable as error:
            log.warning("Could not sign off; the lease will expire", error=str(error))


def check_access(config: Config) -> None:
    """Refuse to open the API to strangers unless the configuration says so, and warn then.

    :raises ConfigError: it would be open without anybody having asked for that.
    """
    if config.basic_auth_user:
        return
    if config.auth == "none":
        # Not "AUTH=none:": the log would hide the word as the value of a secret.
        log.warning(
            'AUTH is "none": everyone who can reach this server can run anything on its hosts.'
        )
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
            # A storage that hangs must not keep the server from ending.
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
    finally:
        ending.cancel()
    try:
        async with asyncio.timeout(SHUTDOWN_SECONDS):
            await server.stop()
    except TimeoutError:
        log.error("The shutdown took too long; the next start adopts what is left")
