"""What the configuration has to know of the executors on Docker engines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fastlane.checks import shown
from fastlane.executors.base import Capabilities, Executor, ExecutorFactory, FarmOptions, Settings
from fastlane.executors.docker.farms import (
    PLAIN,
    SCHEMES,
    DockerOptions,
    check_host,
    is_local,
    options_of,
    tls_of,
)
from fastlane.model import Farm, Network


class DockerFactory(ExecutorFactory):
    """Containers on Docker engines."""

    name = "docker"
    schemes = SCHEMES
    capabilities = Capabilities(
        limits=frozenset({"cpus", "memory", "pids", "disk"}),
        spares_host=True,
        networks=frozenset(Network),
    )
    options = DockerOptions

    def default_host(self, settings: Settings) -> tuple[str, str | None]:
        return settings.docker_host, "docker_host"

    def check_host(self, host: str, options: FarmOptions | None = None) -> None:
        """Accept a socket, ``tcp://``, ``http(s)://`` or ``name:port``."""
        check_host(host)
        if isinstance(options, DockerOptions) and options.tls and host.startswith(PLAIN):
            raise ValueError(f"host {shown(host)} cannot use TLS")

    def make(self, settings: Settings, farms: Sequence[Farm]) -> Executor:
        # Imported where it is used: the client takes 0.3 s, and the configuration needs none.
        from fastlane.executors.docker.executor import DockerExecutor

        return DockerExecutor(
            tls=tls_of(settings, farms), registries_allowed=settings.registries_allowed
        )

    def warnings(self, settings: Settings, farm: Farm) -> Iterable[str]:
        if settings.docker_tls_verify or options_of(farm).tls:
            return
        for host in farm.hosts:
            if not host.startswith(("unix://", "https://")) and not is_local(host):
                yield (
                    f'Host "{host}" of farm "{farm.name}" is reached without TLS: anyone on the '
                    "network between can run anything on it. Give the farm tls."
                )


class SwarmFactory(DockerFactory):
    """Services of Docker swarms; hosts are managers."""

    name = "swarm"
    capabilities = Capabilities()

    def make(self, settings: Settings, farms: Sequence[Farm]) -> Executor:
        from fastlane.executors.docker.swarm import SwarmExecutor

        return SwarmExecutor(
            tls=tls_of(settings, farms), registries_allowed=settings.registries_allowed
        )
