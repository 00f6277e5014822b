"""Logins at registries: for the header of a pull, and out of Docker's own configuration file."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from pathlib import Path

from fastlane.model import RegistryCredentials

# Bounds what is read of a Docker config file.
MAX_FILE_BYTES = 1024 * 1024
DOCKER_HUB = "docker.io"
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"


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
            "serveraddress": _DOCKER_HUB_KEY if registry == DOCKER_HUB else registry,
        }
    return base64.urlsafe_b64encode(json.dumps(login).encode()).decode()


def config_file(environ: Mapping[str, str] | None = None) -> Path:
    """``$DOCKER_CONFIG/config.json``, or ``~/.docker/config.json``.

    Source: https://docs.docker.com/reference/cli/docker/#environment-variables
    """
    directory = (os.environ if environ is None else environ).get("DOCKER_CONFIG")
    return (Path(directory) if directory else Path.home() / ".docker") / "config.json"


def login_in(file: Path, registry: str) -> RegistryCredentials | None:
    """The login for *registry* in a Docker config file; None without.

    Credential helpers are programs, and are not run. A file that is not there or cannot be read is
    no login: the registry itself says so.
    """
    try:
        with file.open("rb") as stream:
            entries = json.loads(stream.read(MAX_FILE_BYTES)).get("auths", {})
        names = (_DOCKER_HUB_KEY, "index.docker.io") if registry == DOCKER_HUB else ()
        for name in (registry, f"https://{registry}", f"http://{registry}", *names):
            entry = entries.get(name) or {}
            if entry.get("identitytoken"):
                return RegistryCredentials(identity_token=str(entry["identitytoken"]))
            if entry.get("auth"):
                user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
                return RegistryCredentials(user, password)
            if entry.get("username"):
                return RegistryCredentials(str(entry["username"]), str(entry.get("password", "")))
    except (OSError, ValueError, AttributeError):
        return None
    return None
