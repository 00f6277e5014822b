"""The farms of ``DOCKER_HOSTS``."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastlane.config.types import SHOWN_CHARS, parse_size
from fastlane.model import Farm, RegistryCredentials, Resources, TlsFiles
from fastlane.patterns import pattern

# Bounds a farm's pattern: it is run on every task id.
_PATTERN_MAX_CHARS = 1000


def check_docker_host(host: str) -> None:
    """Accept what an engine can be called: a socket, ``tcp://``, ``http(s)://`` or ``name:port``.

    :raises ValueError: it is none of them.
    """
    if host.startswith("unix://"):
        if not host.startswith("unix:///") or len(host) == len("unix:///"):
            raise ValueError(f"host {host[:SHOWN_CHARS]!r} must name an absolute path")
        return
    scheme, separator, rest = host.rpartition("://")
    if separator and scheme not in ("tcp", "http", "https"):
        raise ValueError(
            f"host {host[:SHOWN_CHARS]!r} has a scheme that is not unix, tcp, http or https"
        )
    try:
        parts = urlsplit(f"//{rest}")
        complete = bool(parts.hostname and parts.port and parts.netloc == rest)
    except ValueError:
        complete = False
    if not complete or "@" in rest or any(character.isspace() for character in rest):
        raise ValueError(f"host {host[:SHOWN_CHARS]!r} must be written as name:port")


_FARM_KEYS = ("name", "match", "hosts", "maxRunning", "tls", "limits", "images", "registryAuth")
LIMIT_KEYS = ("cpus", "memory", "pids")
TLS_KEYS = ("ca", "cert", "key")
_LOGIN_KEYS = ("username", "password", "auth", "identitytoken")
# Bounds the patterns of a farm's images: each may be run on every image that is submitted.
_IMAGES_MAX = 100
# The names under which Docker's own files have Docker Hub.
_DOCKER_HUB = {"https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io"}


def parse_farms(text: str, max_running: int, *, docker: bool) -> Iterator[Farm]:
    """The farms in *text*; *max_running* is for those that give none.

    :raises ValueError: the first fault, in a clause that names the farm by its place.
    """
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({error})") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError("it is not a list of at least one farm")
    names: set[str] = set()
    tls: dict[str, TlsFiles | None] = {}
    for number, entry in enumerate(entries, 1):
        try:
            farm = _parse_farm(entry, number, max_running, docker=docker)
            if farm.name in names:
                raise ValueError(f"the name {farm.name!r} is taken by another farm")
            for host in farm.hosts:
                if tls.setdefault(host, farm.tls) != farm.tls:
                    raise ValueError(f"host {host!r} has another tls than in a farm before")
        except ValueError as error:
            raise ValueError(f"in farm {number}, {error}") from error
        names.add(farm.name)
        yield farm


def _parse_farm(entry: object, number: int, max_running: int, *, docker: bool) -> Farm:
    if not isinstance(entry, dict):
        raise ValueError("there is no JSON object")
    for key in entry:
        if key not in _FARM_KEYS:
            raise ValueError(f"{key[:SHOWN_CHARS]!r} is not one of {', '.join(_FARM_KEYS)}")
    name = entry.get("name", "default" if number == 1 else f"farm-{number}")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,63}", name):
        raise ValueError(f"name must be 1 to 63 letters, digits, dots or dashes, not {name!r}")
    match = entry.get("match", "")
    if not isinstance(match, str) or len(match) > _PATTERN_MAX_CHARS:
        raise ValueError(f"match must be a pattern of at most {_PATTERN_MAX_CHARS} characters")
    try:
        pattern(match)
    except ValueError as error:
        raise ValueError(
            f"match {match!r} is not a regular expression in RE2's syntax ({error})"
        ) from error
    hosts = entry.get("hosts")
    if (
        not isinstance(hosts, list)
        or not hosts
        or not all(isinstance(host, str) and host for host in hosts)
    ):
        raise ValueError("hosts must be a list of at least one host")
    if len(set(hosts)) != len(hosts):
        raise ValueError("hosts holds the same host twice")
    if docker:
        for host in hosts:
            check_docker_host(host)
    running = entry.get("maxRunning", max_running)
    if isinstance(running, bool) or not isinstance(running, int) or not 1 <= running <= 10_000:
        raise ValueError(f"maxRunning must be a whole number from 1 to 10000, not {running!r}")
    return Farm(
        name,
        tuple(hosts),
        running,
        match,
        limits=_farm_limits(entry.get("limits")),
        images=_farm_images(entry.get("images")),
        tls=_farm_tls(entry.get("tls"), hosts),
        registry_auth=_farm_logins(entry.get("registryAuth")),
    )


def _object(value: object, name: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """*value*, when it is None or an object of some of *keys*."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object of {', '.join(keys)}")
    for key in value:
        if key not in keys:
            raise ValueError(f"{key[:SHOWN_CHARS]!r} in {name} is not one of {', '.join(keys)}")
    return value


def _farm_limits(value: object) -> Resources:
    limits = _object(value, "limits", LIMIT_KEYS)
    cpus, pids = limits.get("cpus"), limits.get("pids")
    try:
        memory: Any = parse_size(limits.get("memory"))
    except ValueError as error:
        raise ValueError("memory in limits must be a size like 512m") from error
    if cpus is not None and not (_is_number(cpus) and 0.01 <= cpus <= 4096):
        raise ValueError("cpus in limits must be a number from 0.01 to 4096")
    if memory is not None and not (_is_whole(memory) and memory >= 6 * 1024**2):
        raise ValueError("memory in limits must be a size from 6m")
    if pids is not None and not (_is_whole(pids) and 1 <= pids <= 4_194_304):
        raise ValueError("pids in limits must be a whole number from 1 to 4194304")
    return Resources(cpus, memory, pids)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _farm_images(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if (
        not isinstance(value, list)
        or not 1 <= len(value) <= _IMAGES_MAX
        or not all(isinstance(one, str) and 0 < len(one) <= _PATTERN_MAX_CHARS for one in value)
    ):
        raise ValueError(f"images must be a list of 1 to {_IMAGES_MAX} patterns")
    for one in value:
        try:
            pattern(one)
        except ValueError as error:
            raise ValueError(
                f"{one!r} in images is not a regular expression in RE2's syntax ({error})"
            ) from error
    return tuple(value)


def _farm_tls(value: object, hosts: list[str]) -> TlsFiles | None:
    if value is None:
        return None
    if isinstance(value, str):
        value = {key: str(Path(value) / f"{key}.pem") for key in TLS_KEYS}
    files = _object(value, "tls", TLS_KEYS)
    if not files or not all(isinstance(path, str) and path for path in files.values()):
        raise ValueError("tls must be a directory, or an object of the paths ca, cert and key")
    if ("cert" in files) != ("key" in files):
        raise ValueError("cert and key in tls belong together")
    for path in files.values():
        try:
            with Path(path).open("rb"):
                pass
        except OSError as error:
            raise ValueError(f"{path} in tls cannot be read ({error.strerror})") from error
    for host in hosts:
        if host.startswith(("unix://", "http://")):
            raise ValueError(f"host {host[:SHOWN_CHARS]!r} cannot speak TLS")
    return TlsFiles(**files)


def _farm_logins(value: object) -> dict[str, RegistryCredentials]:
    """The logins of a farm; nothing of them is repeated in a message."""
    if value is None:
        return {}
    if isinstance(value, str):
        try:
            config = json.loads(Path(value).read_bytes())
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not JSON"
            raise ValueError(f"{value} in registryAuth cannot be read ({why})") from error
        auths = config.get("auths") if isinstance(config, dict) else None
        if not isinstance(auths, dict):
            raise ValueError(f"{value} in registryAuth has no auths")
        # Entries of credential helpers are empty there.
        logins = {
            name: {key: entry[key] for key in _LOGIN_KEYS if entry.get(key)}
            for name, entry in auths.items()
            if isinstance(entry, dict) and any(entry.get(key) for key in _LOGIN_KEYS)
        }
    elif isinstance(value, dict):
        logins = value
    else:
        raise ValueError("registryAuth must be an object, or the path of a Docker config file")
    return {_registry_name(name): _login(name, entry) for name, entry in logins.items()}


def _registry_name(name: str) -> str:
    """A registry as image references name it."""
    if name in _DOCKER_HUB:
        return "docker.io"
    return name.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _login(name: str, value: object) -> RegistryCredentials:
    entry = _object(value, f"registryAuth of {name[:SHOWN_CHARS]!r}", _LOGIN_KEYS)
    if not all(isinstance(text, str) for text in entry.values()):
        raise ValueError(f"registryAuth of {name[:SHOWN_CHARS]!r} must hold texts")
    user, password = entry.get("username", ""), entry.get("password", "")
    if entry.get("auth"):
        try:
            user, _, password = (
                base64.b64decode(entry["auth"], validate=True).decode().partition(":")
            )
        except ValueError as error:
            raise ValueError(
                f"auth in registryAuth of {name[:SHOWN_CHARS]!r} is not base64 of user:password"
            ) from error
    token = entry.get("identitytoken", "")
    if not token and not (user and password):
        raise ValueError(
            f"registryAuth of {name[:SHOWN_CHARS]!r} must hold username and password, "
            "auth, or identitytoken"
        )
    return RegistryCredentials(user, password, token)
