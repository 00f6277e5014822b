"""The options of a farm of Docker engines: host strings, TLS and registry logins."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from fastlane.checks import is_loopback, shown
from fastlane.errors import ConfigError
from fastlane.executors.base import (
    FarmOptions,
    RunSpec,
    Settings,
)
from fastlane.executors.docker.credentials import RegistryCredentials, read_logins
from fastlane.image import ImageReference
from fastlane.model import Farm
from fastlane.redact import HIDDEN

SCHEMES = frozenset({"unix", "tcp", "http", "https"})
# Hosts that cannot use TLS.
PLAIN = ("unix://", "http://")


class TlsFiles(BaseModel):
    """The files for TLS with an engine, as ``docker --tlsverify`` names them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ca: str | None = Field(default=None, description="the path of a PEM file")
    cert: str | None = Field(default=None, description="the path of a PEM file")
    key: str | None = Field(default=None, description="the path of a PEM file")

    @model_validator(mode="after")
    def _usable(self) -> TlsFiles:
        paths = [path for path in (self.ca, self.cert, self.key) if path]
        if not paths:
            raise ValueError("tls must name at least one of ca, cert and key")
        if bool(self.cert) != bool(self.key):
            raise ValueError("cert and key in tls must be set together")
        for path in paths:
            try:
                with Path(path).open("rb"):
                    pass
            except OSError as error:
                raise ValueError(f'"{path}" in tls cannot be read ({error.strerror})') from error
        return self


def _directory_or_files(value: object) -> object:
    if isinstance(value, str):
        return _files_in(Path(value))
    return value


def _files_in(directory: Path) -> dict[str, str]:
    return {name: str(directory / f"{name}.pem") for name in TlsFiles.model_fields}


def _registries(words: tuple[str, ...]) -> tuple[str, ...]:
    for word in words:
        if not ImageReference.is_registry(word):
            raise ValueError(f"{shown(word)} in registriesAllowed is not a registry")
    return words


class DockerOptions(FarmOptions):
    """The keys of a farm of Docker engines or swarm managers."""

    tls: Annotated[TlsFiles | None, BeforeValidator(_directory_or_files)] = Field(
        default=None,
        description="the path of a directory, or an object with the paths ca, cert and key",
    )
    registry_auth: Annotated[Mapping[str, RegistryCredentials], BeforeValidator(read_logins)] = (
        Field(default={}, repr=False)
    )
    """Credentials by the registry's host; ``docker.io`` is Docker Hub."""

    registries_allowed: Annotated[tuple[str, ...], AfterValidator(_registries)] = Field(
        default=(), description="a list of registries like registry.example:5000"
    )
    """Registries to pull from although they have no public address."""

    @property
    def connection(self) -> object:
        return self.tls

    @property
    def private_images(self) -> bool:
        return bool(self.registry_auth)

    def shown(self) -> dict[str, object]:
        found: dict[str, object] = {}
        if self.tls:
            found["tls"] = self.tls.model_dump(exclude_none=True)
        if self.registry_auth:
            found["registryAuth"] = dict.fromkeys(self.registry_auth, HIDDEN)
        if self.registries_allowed:
            found["registriesAllowed"] = list(self.registries_allowed)
        return found


def check_host(host: str) -> None:
    """:raises ValueError: *host* names no Docker engine."""
    named = f"host {shown(host)}"
    if host.startswith("unix://"):
        if not host.startswith("unix:///") or len(host) == len("unix:///"):
            raise ValueError(f"{named} must name an absolute path")
        return
    scheme, separator, rest = host.rpartition("://")
    if separator and scheme not in SCHEMES:
        raise ValueError(f"{named} must have the scheme unix, tcp, http or https")
    try:
        parts = urlsplit(f"//{rest}")
        complete = bool(parts.hostname and parts.port and parts.netloc == rest)
    except ValueError:
        complete = False
    if not complete or "@" in rest or any(character.isspace() for character in rest):
        raise ValueError(f"{named} must be written as name:port")


def options_of(farm: Farm | RunSpec) -> DockerOptions:
    """The options of a farm, or of the farm that a run belongs to."""
    return farm.options if isinstance(farm.options, DockerOptions) else DockerOptions()


def is_local(host: str) -> bool:
    """Whether *host* is this machine."""
    name = urlsplit(host if "://" in host else f"//{host}").hostname
    return name is not None and is_loopback(name)


def tls_of(settings: Settings, farms: Sequence[Farm]) -> dict[str, ssl.SSLContext]:
    """How to use TLS with each host that needs it.

    A farm's own files come first. Else ``DOCKER_TLS_VERIFY`` and ``DOCKER_CERT_PATH`` mean for
    every host that is not a socket what they mean to ``docker`` itself.

    :raises ConfigError: a file cannot be used.
    """
    directory = Path(settings.docker_cert_path or "~/.docker").expanduser()
    contexts: dict[str, ssl.SSLContext] = {}
    for farm in farms:
        for host in farm.hosts:
            files = options_of(farm).tls
            source = f'tls of farm "{farm.name}" in DOCKER_HOSTS'
            secure = host.startswith("https://") and bool(settings.docker_cert_path)
            if (
                files is None
                and not host.startswith(PLAIN)
                and (settings.docker_tls_verify or secure)
            ):
                source = f'DOCKER_CERT_PATH "{directory}"'
                files = TlsFiles.model_construct(None, **_files_in(directory))
            if files is not None:
                contexts[host] = _context(files, source)
    return contexts


def _context(files: TlsFiles, source: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=files.ca)
        if files.cert is not None:
            # An empty password, because the default asks for one on the terminal.
            context.load_cert_chain(files.cert, files.key, password="")
    except OSError as error:
        raise ConfigError(
            f"{source} cannot be used ({error.strerror or error}); "
            "give PEM files of a CA, a certificate and its key."
        ) from error
    return context
