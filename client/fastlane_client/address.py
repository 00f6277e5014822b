"""The address of a server and what is at a URL below it."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from fastlane_client.errors import BadAddress

DEFAULT_URL = "http://localhost:10000"
"""Where a server without any configuration listens."""

_PATH = re.compile(
    r"/tasks?/(?P<task>[^/]+)(?:/jobs?/(?P<job>[^/]+)"
    r"(?:/(?:stream/)?executions/(?P<execution>[^/]+))?)?(?:/[a-z]+)?/?"
)


@dataclass(frozen=True, slots=True)
class Address:
    """A server, and the credentials that were given with it."""

    base: str
    """Its URL without user, password and a slash at the end."""
    authorization: str | None = field(default=None, repr=False)
    """The ``Authorization`` header."""

    @classmethod
    def of(cls, url: str | None = None, token: str | None = None) -> Address:
        """From *url* and *token*, or ``FASTLANE_URL`` and ``FASTLANE_TOKEN``.

        A token that is given precedes a user in the URL, which precedes ``FASTLANE_TOKEN``.

        :raises BadAddress: it is not an http URL.
        """
        text = url or os.environ.get("FASTLANE_URL") or DEFAULT_URL
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
            good = parts.scheme in ("http", "https") and bool(host)
        except ValueError:
            good = False
        if not good or parts.query or parts.fragment or re.search(r"[\s\x00-\x1f]", text):
            raise BadAddress(
                f'"{shown(text)[:200]}" is not the URL of a server: give one like {DEFAULT_URL}.'
            )
        place = f"[{host}]" if ":" in (host or "") else host
        at = f"{place}:{port}" if port is not None else f"{place}"
        base = f"{parts.scheme}://{at}{parts.path.rstrip('/')}"
        if token is not None:
            return cls(base, f"Bearer {_header_value(token)}" if token else None)
        if parts.username:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            return cls(base, f"Basic {b64encode(pair.encode()).decode()}")
        token = os.environ.get("FASTLANE_TOKEN")
        return cls(base, f"Bearer {_header_value(token)}" if token else None)

    @property
    def headers(self) -> Mapping[str, str]:
        return {} if self.authorization is None else {"Authorization": self.authorization}


def _header_value(token: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise BadAddress("The token contains characters that no token has; check FASTLANE_TOKEN.")
    return token


@dataclass(frozen=True, slots=True)
class Place:
    """What a URL of a server names: a task, a job or an execution."""

    base: str
    """The URL of the server, without credentials."""
    task_id: str
    job_id: str | None = None
    execution_id: str | None = None

    @classmethod
    def parse(cls, url: str) -> Place:
        """What is at *url*, as answers and pages show it.

        :raises BadAddress: it is not the URL of a task, a job or an execution.
        """
        parts = urlsplit(url)
        found = re.search(_PATH.pattern + "$", parts.path)
        if parts.scheme not in ("http", "https") or not parts.hostname or found is None:
            raise BadAddress(f'"{shown(url)[:200]}" is not the URL of a job or an execution.')
        base = Address.of(f"{parts.scheme}://{parts.netloc}{parts.path[: found.start()]}").base
        ids = [None if one is None else unquote(one) for one in found.group(1, 2, 3)]
        return cls(base, ids[0] or "", ids[1], ids[2])


def segment(text: str) -> str:
    """*text* as one segment of a path.

    :raises BadAddress: it is empty.
    """
    if not text:
        raise BadAddress("A name or an id is empty.")
    # A path with a literal dot for a segment is shortened on its way.
    return text.replace(".", "%2E") if text in (".", "..") else quote(text, safe="")


def shown(url: str) -> str:
    """*url* without its user and password; of a malformed one, all that could be one of them."""
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname:
            return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    except ValueError:
        pass
    # Where the parts of a malformed URL end is not known: a password may hold any character.
    return re.sub(r"^(\w+://)?.*@", r"\1***@", url, flags=re.DOTALL)
