"""The engines that an executor knows, by host."""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from fastlane.errors import HostUnavailable
from fastlane.executors.base import EngineVersion, Executor
from fastlane.executors.docker.engine import CONNECT_SECONDS, Engine


class Engines:
    """Connections to hosts, made when they are first needed.

    :param tls: for each host that uses TLS, how.
    """

    def __init__(self, tls: Mapping[str, ssl.SSLContext] | None = None) -> None:
        self._tls = dict(tls or {})
        self._engines: dict[str, Engine] = {}

    def of(self, host: str) -> Engine:
        """The engine of *host*.

        :raises HostUnavailable: the TLS files of the environment cannot be used.
        """
        engine = self._engines.get(host)
        if engine is None:
            try:
                engine = Engine(host, self._tls.get(host))
            except (OSError, ValueError) as error:
                raise HostUnavailable(host, f"its TLS files cannot be used: {error}") from error
            self._engines[host] = engine
        return engine

    def version(self, host: str) -> EngineVersion | None:
        """See ``Executor.engine``."""
        engine = self._engines.get(host)
        return None if engine is None else engine.version

    async def close(self) -> None:
        """Close all connections."""
        engines, self._engines = self._engines, {}
        for engine in engines.values():
            await engine.close()


class OnEngines(Executor):
    """What the executors that call engines have in common."""

    _engines: Engines

    async def check(self, host: str) -> None:
        await self._engines.of(host).call("GET", "_ping", seconds=CONNECT_SECONDS, raw=True)

    def engine(self, host: str) -> EngineVersion | None:
        return self._engines.version(host)
