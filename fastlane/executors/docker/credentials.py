"""Logins at registries: of a farm, of Docker's own configuration file, and in a request."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fastlane.checks import shown
from fastlane.image import DEFAULT_REGISTRY

# Bounds what is read of a Docker config file.
MAX_FILE_BYTES = 1024 * 1024
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"
# The names that Docker's own files have for Docker Hub.
_DOCKER_HUB_NAMES = {_DOCKER_HUB_KEY, "index.docker.io", "registry-1.docker.io"}
_KEYS = ("username", "password", "auth", "identitytoken")


@dataclass(frozen=True, slots=True)
class RegistryCredentials:
    """A login at a registry: user and password, or an identity token in their place."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


Login = Callable[[str], RegistryCredentials | None]
"""Finds the login at a registry; None where there is none."""


def auth_header(registry: str, credentials: RegistryCredentials) -> str:
    """The value of ``X-Registry-Auth``: JSON in the URL-safe base64 of RFC 4648, section 5.

    Source: https://docs.docker.com/reference/api/engine/version/v1.47/#section/Authentication
    """
    if credentials.identity_token:
        login = {"identitytoken": credentials.identity_token}
    else:
        login = {
            "username": credentials.username,
            "password": credentials.password,
            "serveraddress": _DOCKER_HUB_KEY if registry == DEFAULT_REGISTRY else registry,
        }
    return base64.urlsafe_b64encode(json.dumps(login).encode()).decode()


def config_file(environ: Mapping[str, str] | None = None) -> Path:
    """``$DOCKER_CONFIG/config.json``, or ``~/.docker/config.json``.

    Source: https://docs.docker.com/reference/cli/docker/#environment-variables
    """
    directory = (os.environ if environ is None else environ).get("DOCKER_CONFIG")
    return (Path(directory) if directory else Path.home() / ".docker") / "config.json"


def login_of_docker(registry: str) -> RegistryCredentials | None:
    """The login that ``docker login`` has left for *registry*."""
    return login_in(config_file(), registry)


def login_in(file: Path, registry: str) -> RegistryCredentials | None:
    """The login for *registry* in a Docker config file; None without one.

    Credential helpers are programs, and are not run. A file that does not exist or cannot be read
    is no login: the registry itself will say so.
    """
    found: dict[str, RegistryCredentials] = {}
    with contextlib.suppress(OSError, ValueError):
        entries = _entries_in(file)
        # A plain name comes after a URL, and so has precedence.
        for name in sorted(entries, key=lambda name: "://" not in name):
            with contextlib.suppress(ValueError):
                found[_registry(name)] = _login(name, entries[name])
    return found.get(registry)


def read_logins(value: object) -> dict[str, RegistryCredentials]:
    """The logins that a farm's ``registryAuth`` gives; no message repeats anything of them.

    :raises ValueError: it is malformed, or names a file that is.
    """
    if isinstance(value, str):
        try:
            value = _entries_in(Path(value))
        except OSError as error:
            why = f"registryAuth {shown(value)} cannot be read ({error.strerror})"
            raise ValueError(why) from error
        except ValueError as error:
            raise ValueError(f"registryAuth {shown(value)} {error}") from error
    if not isinstance(value, Mapping):
        raise ValueError("registryAuth must be an object, or the path of a Docker config file")
    return {_registry(name): _login(name, entry) for name, entry in value.items()}


def _entries_in(file: Path) -> Mapping[str, object]:
    """:raises ValueError: it is not a Docker config file."""
    with file.open("rb") as stream:
        text = stream.read(MAX_FILE_BYTES)
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ValueError("is not JSON") from error
    entries = config.get("auths") if isinstance(config, dict) else None
    if not isinstance(entries, dict):
        raise ValueError('has no object "auths"')
    # Docker adds keys of its own, and leaves the entries of credential helpers empty.
    return {
        name: login
        for name, entry in entries.items()
        if isinstance(entry, dict)
        and (login := {key: entry[key] for key in _KEYS if entry.get(key)})
    }


def _registry(name: str) -> str:
    """A registry as image references name it."""
    if name in _DOCKER_HUB_NAMES:
        return DEFAULT_REGISTRY
    return name.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _login(name: str, entry: object) -> RegistryCredentials:
    what = f"registryAuth of {shown(name)}"
    if not isinstance(entry, Mapping):
        raise ValueError(f"{what} must be an object of {', '.join(_KEYS)}")
    for key, text in entry.items():
        if key not in _KEYS:
            raise ValueError(f"{shown(key)} in {what} is not one of {', '.join(_KEYS)}")
        if not isinstance(text, str):
            raise ValueError(f"{key} in {what} must be a string")
    user, password = entry.get("username", ""), entry.get("password", "")
    if entry.get("auth"):
        try:
            pair = base64.b64decode(entry["auth"], validate=True).decode()
        except ValueError as error:
            raise ValueError(f"auth in {what} must be base64 of user:password") from error
        user, _, password = pair.partition(":")
    token = entry.get("identitytoken", "")
    if not token and not (user and password):
        raise ValueError(f"{what} must have username and password, auth, or identitytoken")
    return RegistryCredentials(user, password, token)
