"""The types of the options: how their text becomes a value, and which form it must have."""

from __future__ import annotations

import base64
import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from email.utils import parseaddr
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from fastlane.image import ImageReference

SHOWN_CHARS = 100
"""Bounds how much of a malformed value an error message repeats."""

# Ten years bound every duration, so that no arithmetic on it can overflow.
_MAX_SECONDS = 3653 * 24 * 3600
_SIZE = re.compile(r"(?P<number>\d{1,15})\s*(?P<unit>[kmgt]?)(?:i?b)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_ORIGIN = re.compile(r"\*|https?://[^/\s@?#]+")
_HOST_NAME = re.compile(r"[A-Za-z0-9._:\[\]-]+")

T = TypeVar("T")


def option(default: Any, form: str, help: str, **constraints: Any) -> Any:
    """An option: *form* says what a value must be, in words that can follow "give …"."""
    return Field(default=default, description=help, json_schema_extra={"form": form}, **constraints)


def flag(help: str, *, default: bool = False) -> Any:
    """An option that is on or off."""
    return option(default, "true or false", help)


def seconds(default: float, help: str, *, least: float = 0.001) -> Any:
    """An option that is a duration in seconds."""
    form = f"a number of seconds from {least:g} to {_MAX_SECONDS}"
    return option(default, form, help, ge=least, le=_MAX_SECONDS, allow_inf_nan=False)


def milliseconds(default: float, most: int, help: str, *, form: str = "") -> Any:
    """An option that is a duration in milliseconds of at most *most*."""
    form = form or f"a number of milliseconds from 0 to {most}"
    return option(default, form, help, ge=0, le=most, allow_inf_nan=False)


def factor(help: str) -> Any:
    """An option that multiplies a delay."""
    form = "a number from 1 to 100"
    return option(2, form, help, ge=1, le=100, allow_inf_nan=False)


def count(default: int, least: int, most: int, help: str, *, form: str = "") -> Any:
    """An option that is a whole number."""
    form = form or f"a whole number from {least} to {most}"
    return option(default, form, help, ge=least, le=most)


def parse_size(value: object) -> object:
    """Bytes for a string like ``64m``; anything but a string is left to pydantic."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError("it is not a size")
    return int(match["number"]) * _UNITS[match["unit"].lower()]


def _zero_is_none(value: object) -> object:
    if isinstance(value, str) and value.strip() == "0":
        return None
    return None if value == 0 else value


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(word.strip() for word in value.split(",") if word.strip())
    return value


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _matching(pattern: str, fault: str) -> AfterValidator:
    """Accepts text that *pattern* matches as a whole."""

    def validate(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(fault)
        return text

    return AfterValidator(validate)


def _each(accepts: Callable[[str], object], what: str) -> AfterValidator:
    """Accepts words that are *what*, and makes them lower case."""

    def validate(words: tuple[str, ...]) -> tuple[str, ...]:
        for word in words:
            if not accepts(word):
                raise ValueError(f"{word[:SHOWN_CHARS]!r} is not {what}")
        return tuple(word.lower() for word in words)

    return AfterValidator(validate)


def _is_http(url: str, accepts: Callable[[SplitResult], object]) -> bool:
    """Whether *url* is one of HTTP, and *accepts* its parts."""
    try:
        parts = urlsplit(url)
        return bool(parts.scheme in {"http", "https"} and parts.hostname and accepts(parts))
    except ValueError:
        return False


def _base_url(url: str) -> str:
    if url and not _is_http(url, lambda it: not (it.query or it.fragment or "@" in it.netloc)):
        raise ValueError("it is not the URL of a server")
    return url.rstrip("/")


def _mail_address(text: str) -> str:
    _, address = parseaddr(text)
    if not re.fullmatch(r"[^@\s<>]+@[^@\s<>]+", address) or not text.isprintable():
        raise ValueError("it is not an email address")
    return text


def _signing_secrets(secret: SecretStr) -> SecretStr:
    for one in secret.get_secret_value().split():
        if one.startswith(("http://", "https://")):
            receiver, _, one = one.partition("=")
            if not _is_http(receiver, lambda it: not any(it[2:]) and "@" not in it.netloc):
                raise ValueError("it has a receiver that is not like https://example.org:8443")
        try:
            key = base64.b64decode(one.removeprefix("whsec_"), validate=True)
        except ValueError as error:
            raise ValueError("it is not base64") from error
        # Standard Webhooks asks for 24 to 64 bytes.
        if not 24 <= len(key) <= 64:
            raise ValueError(f"it has {len(key)} bytes")
    return secret


def _dsn(dsn: SecretStr) -> SecretStr:
    text = dsn.get_secret_value()
    if text and not _is_http(text, lambda it: it.username):
        raise ValueError("it does not have the form https://key@host/project")
    return dsn


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(str(error)) from error


Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_split)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
LowerWords = Annotated[Words, _each(bool, "a word")]
Origins = Annotated[Words, _each(_ORIGIN.fullmatch, "an origin")]
HostNames = Annotated[Words, _each(_HOST_NAME.fullmatch, "a host name")]
Registries = Annotated[Words, _each(ImageReference.is_registry, "a registry")]
Size = Annotated[int, BeforeValidator(parse_size)]
Limit = Annotated[T | None, BeforeValidator(_zero_is_none)]
"""A limit, where 0 stands for no limit."""
Lower = Annotated[T, BeforeValidator(_lower)]
"""One of a few words, in any case."""
Address = Annotated[
    str,
    _matching(r"[A-Za-z0-9._:\[\]%-]+", "it is not an address"),
    AfterValidator(lambda host: host.strip("[]")),
]
# RFC 7617, section 2: the first colon ends the user-id.
UserName = Annotated[str, _matching(r"[^:]*", "a user name cannot contain a colon")]
Label = Annotated[str, _matching(r"[A-Za-z0-9._-]{0,63}", "it cannot be used as a label")]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
MailAddress = Annotated[str, AfterValidator(_mail_address)]
SigningSecrets = Annotated[SecretStr, AfterValidator(_signing_secrets)]
Dsn = Annotated[SecretStr, AfterValidator(_dsn)]
Directory = Annotated[Path, AfterValidator(_absolute)]


def default_data_dir(environ: Mapping[str, str] | None = None) -> Path:
    """``$XDG_DATA_HOME/fastlane``, or ``~/.local/share/fastlane``.

    Source: XDG Base Directory Specification 0.8 (a relative ``XDG_DATA_HOME`` is ignored).
    """
    home = Path((os.environ if environ is None else environ).get("XDG_DATA_HOME", ""))
    if not home.is_absolute():
        home = Path.home() / ".local" / "share"
    return home / "fastlane"
