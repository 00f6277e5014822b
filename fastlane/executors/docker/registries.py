"""Which registries images are pulled from.

A submitter names the registry and an engine connects to it, so an image reference could probe
whatever the hosts can reach (CWE-918). Docker Hub is always one: no submitter chooses its address.
An engine resolves names by itself, so the look-up here is only an early answer: what the operator
lists is the guard.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence

from fastlane.addresses import is_public
from fastlane.errors import PullFailed
from fastlane.executors.docker.credentials import Login
from fastlane.executors.docker.farms import DockerOptions
from fastlane.image import DEFAULT_REGISTRY, ImageReference
from fastlane.resolver import Resolve, Resolver

# Bounds the look-up of a registry's name.
LOOKUP_SECONDS = 5.0
_HTTPS_PORT = 443


class Registries:
    """The registries of one executor.

    :param allowed: ``REGISTRIES_ALLOWED``, for all farms.
    :param login: finds a login for images whose farm has none.
    """

    def __init__(
        self, allowed: Sequence[str], login: Login, resolve: Resolve | None = None
    ) -> None:
        self._allowed = allowed
        self._login = login
        self._resolve = resolve or Resolver()

    async def check(self, image: ImageReference, options: DockerOptions) -> None:
        """Accept *image* of a farm with *options* to be pulled.

        :raises PullFailed: its registry is refused.
        """
        registry = image.registry
        allowed = (
            DEFAULT_REGISTRY,
            *self._allowed,
            *options.registries_allowed,
            *options.registry_auth,
        )
        if registry.lower() in {each.lower() for each in allowed}:
            return
        if await asyncio.to_thread(self._login, registry) is not None:
            return
        if fault := await self._fault_of(registry):
            raise PullFailed(
                f'Image {image} is not pulled: its registry "{registry}" {fault}. To allow it, an '
                "operator adds it to REGISTRIES_ALLOWED, or to registriesAllowed of the farm."
            )

    async def _fault_of(self, registry: str) -> str | None:
        host, port = _split(registry)
        if _is_literal(host):
            return "is an IP address"
        if host == "localhost" or host.endswith(".localhost"):
            return "is the host itself"
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                found = await self._resolve(host, port)
        except (OSError, TimeoutError):
            found = ()
        if not found or not all(map(is_public, found)):
            # Not which of them: that would tell what names there are inside.
            return "has no public address"
        return None


def _split(registry: str) -> tuple[str, int]:
    host, colon, port = registry.lower().rpartition(":")
    if colon and port.isdigit():
        return host, min(int(port), 65535)
    return registry.lower(), _HTTPS_PORT


def _is_literal(host: str) -> bool:
    """Whether *host* is an address, in any form that a resolver accepts (``0x7f.1``)."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        try:
            socket.inet_aton(host)
        except OSError:
            return False
    return True
