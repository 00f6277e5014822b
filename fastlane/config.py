"""Every option in one place: name, type, default, help.

An option is read, first found first taken, from

1. the command line (``--host``, ``--port``),
2. the environment, under its upper-case name without any prefix (``PORT=8080``),
3. the file given with ``--config``: lines ``NAME=value`` as in a ``.env`` file, where ``#``
   begins a comment, values may be quoted, and nothing is interpolated,
4. its default.

An empty value is the same as none. Lists are separated by commas. Sizes are bytes, or a number with
``k``, ``m`` or ``g`` behind it (powers of 1024). Booleans are ``true`` or ``false``.
"""

from __future__ import annotations

import base64
import difflib
import io
import ipaddress
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parseaddr
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from dotenv.parser import parse_stream
from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from fastlane.errors import ConfigError
from fastlane.model import Backoff, Farm, RegistryCredentials, Resources, TlsFiles
from fastlane.patterns import pattern
from fastlane.redact import HIDDEN

DEFAULT_DOCKER_HOST = "unix:///var/run/docker.sock"
PROCESS_HOST = "localhost"
"""The name of the one host of the process executor's default farm."""

# The executors whose hosts are Docker engines.
_ENGINES = ("docker", "swarm")
# Bounds how much of a malformed value an error message repeats.
_SHOWN_CHARS = 100
# Bounds a farm's pattern: it is run on every task id.
_PATTERN_MAX_CHARS = 1000
# How alike (0 to 1) a variable's name must be to one of ours to be taken for a misspelling.
_MISSPELLING_RATIO = 0.84
# Names shorter than this are too common for a guess: PORTS, HOSTS.
_MISSPELLING_MIN_CHARS = 6
# Bounds what is read as a configuration file, in bytes.
_FILE_MAX_BYTES = 1024 * 1024

_REDIS_SCHEMES = (
    "redis://",
    "rediss://",
    "unix://",
    "redis+sentinel://",
    "rediss+sentinel://",
)
_SIZE = re.compile(r"(?P<number>\d{1,15})\s*(?P<unit>[kmgt]?)(?:i?b)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


def _size(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError("that is not a size")
    return int(match["number"]) * _UNITS[match["unit"].lower()]


def _zero_is_none(value: object) -> object:
    if isinstance(value, str) and value.strip() == "0":
        return None
    return None if value == 0 else value


def _words(value: object) -> object:
    if isinstance(value, str):
        return tuple(word.strip() for word in value.split(",") if word.strip())
    return value


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


Size = Annotated[int, BeforeValidator(_size)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _option(default: Any, form: str, help: str, **constraints: Any) -> Any:
    """An option: *form* says what a value must be, in words that end "give …"."""
    return Field(default=default, description=help, json_schema_extra={"form": form}, **constraints)


def _seconds(default: float, help: str, *, least: float = 0.001) -> Any:
    # A year bounds every time, so that no arithmetic on it can overflow.
    most = 366 * 24 * 3600
    form = f"a number of seconds from {least:g} to {most}"
    return _option(default, form, help, ge=least, le=most, allow_inf_nan=False)


def default_data_dir(environ: Mapping[str, str] | None = None) -> Path:
    """``$XDG_DATA_HOME/fastlane``, or ``~/.local/share/fastlane``.

    Source: XDG Base Directory Specification 0.8 (a relative ``XDG_DATA_HOME`` is ignored).
    """
    home = Path((os.environ if environ is None else environ).get("XDG_DATA_HOME", ""))
    if not home.is_absolute():
        home = Path.home() / ".local" / "share"
    return home / "fastlane"


def is_loopback(host: str) -> bool:
    """Whether a server that listens on *host* can be reached from this machine only."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class _OtherOption(ValueError):
    """A fault that is found while one option is read, but is another's."""

    def __init__(self, option: str, value: str, message: str) -> None:
        super().__init__(message)
        self.option = option
        self.value = value


ROLES = ("api", "scheduler", "dispatcher", "monitor", "notifier")
"""The parts of the work that instances can share out among them."""


class Config(BaseSettings):
    """The options of one server. :func:`load` makes it from the environment and a file.

    Made directly, it reads neither and takes what it is given: ``Config(port=0, data_dir=path)``.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", validate_default=True)

    # Where it listens, and whom it answers.
    host: str = _option(
        "127.0.0.1", "an IP address or a host name", "Address that the server listens on."
    )
    port: int = _option(
        10000,
        "a whole number from 0 to 65535",
        "Port that the server listens on; 0 takes any free one.",
        ge=0,
        le=65535,
    )
    basic_auth_user: str = _option(
        "", "a name without a colon", "User of HTTP Basic auth on every route; empty: no auth."
    )
    basic_auth_password: SecretStr = _option(
        "", "a text", "Password of HTTP Basic auth; belongs to BASIC_AUTH_USER."
    )
    healthcheck_open: bool = _option(
        False, "true or false", "Answer /healthcheck/ without auth, for load balancers."
    )
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_words)] = _option(
        (),
        "networks like 10.0.0.0/8,::1 separated by commas",
        "Networks of the proxies whose X-Forwarded-* and X-Real-Ip are believed.",
    )
    cors_origins: Words = _option(
        (),
        "origins like https://example.org separated by commas, or *",
        "Origins whose pages may call the API from a browser; empty: none.",
    )
    allowed_hosts: Words = _option(
        (),
        "host names separated by commas",
        "Names that a request's Host may have on what changes something; empty: any.",
    )
    max_body_bytes: Size = _option(
        1024 * 1024,
        "a size from 1k to 1g, like 1m",
        "Largest request body in bytes; a larger one is answered 413.",
        ge=1024,
        le=1024**3,
    )

    # Where it keeps things.
    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="Directory of the embedded store; one server at a time.",
        json_schema_extra={"form": "the path of a directory"},
    )
    mongodb_url: SecretStr = _option(
        "",
        "a URL like mongodb://host:27017/fastlane",
        "MongoDB of the cluster store, which any number of servers share; belongs to REDIS_URL. "
        "Empty: the embedded store.",
    )
    mongodb_uri: SecretStr = _option(
        "", "a URL like mongodb://host:27017/fastlane", "Another name of MONGODB_URL."
    )
    redis_url: SecretStr = _option(
        "",
        "a URL like redis://host:6379/0, rediss://..., unix:///path or "
        "redis+sentinel://host:port,host:port/service/0",
        "Redis of the cluster store; belongs to MONGODB_URL.",
    )
    roles: Words = _option(
        ROLES,
        f"some of {', '.join(ROLES)}, separated by commas",
        "What this server does; one without api listens nowhere. More than one server needs the "
        "cluster store.",
    )

    # Where jobs run.
    force_process_executor: bool = _option(
        False,
        "true or false",
        "Allow EXECUTOR=process on a server that listens beyond loopback.",
    )
    executor: Annotated[Literal["docker", "process", "swarm"], BeforeValidator(_lower)] = _option(
        "docker",
        "docker, swarm or process",
        "What runs jobs: containers, services of a Docker swarm (hosts are its managers), or plain "
        "processes without any isolation.",
    )
    docker_host: str = _option(
        DEFAULT_DOCKER_HOST,
        "unix:///path, tcp://name:port or https://name:port",
        "Docker engine to use when DOCKER_HOSTS is not given.",
    )
    docker_tls_verify: bool = _option(
        False,
        "true or false",
        "Speak TLS to engines named tcp://name:port or name:port, and check their certificate.",
    )
    docker_cert_path: str = _option(
        "",
        "the path of a directory that holds ca.pem, cert.pem and key.pem",
        "Directory of ca.pem, cert.pem and key.pem for engines that speak TLS.",
    )
    max_running: int = _option(
        8,
        "a whole number from 1 to 10000",
        "Executions at a time on the default farm, and on farms without a maxRunning.",
        ge=1,
        le=10_000,
    )
    docker_hosts: Annotated[tuple[Farm, ...], NoDecode] = _option(
        (),
        'a JSON list like [{"name": "builds", "match": "^build-", "hosts": ["localhost:1234"], '
        '"maxRunning": 8}, {"match": "", "hosts": ["unix:///var/run/docker.sock"]}]',
        "Farms as a JSON list of {name?, match?, hosts, maxRunning?, tls?, limits?, images?, "
        "registryAuth?}; a task runs on the first farm whose pattern is found in its id. tls: a "
        "directory of ca.pem, cert.pem and key.pem, or an object of the paths ca, cert and key; "
        "limits: the most cpus, memory and pids of one run; images: patterns, one of which must "
        "match a whole image reference; registryAuth: an object of registry to {username, "
        "password}, or the path of a Docker config file.",
    )
    default_memory: Annotated[Size | None, BeforeValidator(_zero_is_none)] = _option(
        None,
        "a size from 6m, like 512m, or 0 for none",
        "Most memory of one run; empty or 0: no limit.",
        ge=6 * 1024**2,
    )
    default_cpus: Annotated[float | None, BeforeValidator(_zero_is_none)] = _option(
        None,
        "a number from 0.01 to 4096, or 0 for none",
        "Most processors of one run; empty or 0: no limit.",
        ge=0.01,
        le=4096,
        allow_inf_nan=False,
    )
    default_pids: Annotated[int | None, BeforeValidator(_zero_is_none)] = _option(
        1024,
        "a whole number from 1 to 4194304, or 0 for none",
        "Most processes and threads of one run; 0: no limit.",
        ge=1,
        le=4_194_304,
    )
    installation: str = _option(
        "",
        "up to 63 letters, digits, dots, dashes and underscores",
        "Label that marks this installation's containers; empty: made from DATA_DIR.",
    )

    # How long, how often, how much.
    hard_execution_timeout_seconds: float = _seconds(
        1800, "Longest run of an execution in seconds; a job's own timeout is capped by it."
    )
    stop_grace_seconds: float = _seconds(
        10, "Time in seconds between asking a run to end and killing it.", least=0
    )
    exponential_backoff_min_ms: float = _option(
        1000,
        "a number of milliseconds from 0 to 86400000",
        "Delay in milliseconds before the first retry.",
        ge=0,
        le=86_400_000,
        allow_inf_nan=False,
    )
    exponential_backoff_factor: float = _option(
        2,
        "a number from 1 to 100",
        "What the delay is multiplied by with each further retry.",
        ge=1,
        le=100,
        allow_inf_nan=False,
    )
    exponential_backoff_max_ms: float = _option(
        300_000,
        "a number of milliseconds up to 604800000, not below EXPONENTIAL_BACKOFF_MIN_MS",
        "Longest delay in milliseconds before a retry.",
        ge=0,
        le=604_800_000,
        allow_inf_nan=False,
    )
    log_max_bytes: Size = _option(
        100 * 1024 * 1024,
        "a size like 100m, or 0 for no cap",
        "How much of one execution's log is kept (head and tail) in bytes; 0: all of it.",
        ge=0,
    )
    host_lost_after_seconds: float = _seconds(
        300, "Time in seconds out of reach after which a host's executions are lost."
    )
    docker_circuit_breaker_max_fails: int = _option(
        5,
        "a whole number from 1 to 1000",
        "Failures of a host in a row from which on it is given nothing for a while.",
        ge=1,
        le=1000,
    )
    docker_circuit_breaker_reset_timeout_seconds: float = _seconds(
        60, "Time in seconds after which a host that failed is given one execution to try it."
    )
    container_retention: float = _seconds(
        0, "Time in seconds that a finished container is kept on its host; 0: none.", least=0
    )
    execution_retention: float = _seconds(
        0,
        "Time in seconds that executions and their logs are kept once they have ended; 0: for "
        "ever.",
        least=0,
    )
    lease_seconds: float = _seconds(
        10, "Time in seconds without a heartbeat after which a server counts as gone.", least=1
    )

    # Whom it tells.
    public_url: str = _option(
        "",
        "a URL like https://fastlane.example.org",
        "URL under which people reach this server, for links in webhooks and mails; empty: the "
        "address that it listens on.",
    )
    webhooks_secret: SecretStr = _option(
        "",
        "whsec_ and at least 24 bytes in base64; several, separated by blanks, while one follows "
        "another",
        "Secret that webhooks are signed with, as Standard Webhooks has it; empty: not signed.",
    )
    webhooks_allowed_networks: Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_words)] = (
        _option(
            (),
            "networks like 10.1.0.0/16,fd00::/8 separated by commas",
            "Networks that webhooks may reach beside public addresses.",
        )
    )
    webhooks_timeout_seconds: float = _seconds(
        10, "Time in seconds that one attempt at a webhook may take in all."
    )
    webhooks_exponential_backoff_min_ms: float = _option(
        1000,
        "a number of milliseconds from 0 to 3600000",
        "Delay in milliseconds before a webhook or a mail is tried for the second time.",
        ge=0,
        le=3_600_000,
        allow_inf_nan=False,
    )
    webhooks_exponential_backoff_factor: float = _option(
        2,
        "a number from 1 to 100",
        "What that delay is multiplied by with each further attempt, up to an hour.",
        ge=1,
        le=100,
        allow_inf_nan=False,
    )
    smtp_host: str = _option(
        "", "a host name or an address", "Mail server for notify; empty: no mail is sent."
    )
    smtp_port: int = _option(
        0,
        "a whole number from 0 to 65535",
        "Port of the mail server; 0: 465 with SMTP_USE_SSL, 25 without.",
        ge=0,
        le=65535,
    )
    smtp_user: str = _option("", "a text", "User at the mail server; empty: no login.")
    smtp_password: SecretStr = _option("", "a text", "Password of SMTP_USER.")
    smtp_from: str = _option(
        "fastlane@localhost",
        "an e-mail address, also like fastlane <fastlane@example.org>",
        "Whom mails come from.",
    )
    smtp_use_ssl: bool = _option(
        False,
        "true or false",
        "Speak TLS to the mail server: from the first byte on port 465, by STARTTLS on others.",
    )
    smtp_timeout_seconds: float = _seconds(
        30, "Time in seconds that one attempt at a mail may take in all."
    )
    smtp_retries: int = _option(
        10,
        "a whole number from 0 to 100",
        "How often a mail that failed is tried again.",
        ge=0,
        le=100,
    )
    sentry_dsn: SecretStr = _option(
        "", "a DSN of Sentry", "Where errors of fastlane itself are reported; empty: nowhere."
    )

    # What is seen.
    env_blacklisted_words: Words = _option(
        ("password", "key", "secret", "client_id", "token"),
        "words separated by commas",
        "An environment variable whose name holds one of these words is shown as ***.",
    )
    log_format: Annotated[Literal["auto", "console", "json"], BeforeValidator(_lower)] = _option(
        "auto",
        "auto, console or json",
        "Lines for people or JSON; auto: for people on a terminal, JSON otherwise.",
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = (
        _option("info", "debug, info, warning or error", "The least level that is logged.")
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # load() reads the sources itself: it must tell where each value came from.
        return (init_settings,)

    @property
    def backoff(self) -> Backoff:
        """The delays between retries of a job that gives none of its own."""
        return Backoff(
            self.exponential_backoff_min_ms,
            self.exponential_backoff_factor,
            self.exponential_backoff_max_ms,
        )

    @property
    def resources(self) -> Resources:
        """The caps of one run."""
        return Resources(self.default_cpus, self.default_memory, self.default_pids)

    @field_validator("host")
    @classmethod
    def _one_host(cls, host: str) -> str:
        if not host or not re.fullmatch(r"[A-Za-z0-9._:\[\]%-]+", host):
            raise ValueError("that is not an address")
        return host.strip("[]")

    @field_validator("basic_auth_user")
    @classmethod
    def _no_colon(cls, user: str) -> str:
        # RFC 7617, section 2: the first colon ends the user-id.
        if ":" in user:
            raise ValueError("a user name cannot hold a colon")
        return user

    @field_validator("basic_auth_password")
    @classmethod
    def _both_or_none(cls, password: SecretStr, info: ValidationInfo) -> SecretStr:
        user = info.data.get("basic_auth_user")
        if user is not None and bool(user) != bool(password.get_secret_value()):
            raise ValueError("set BASIC_AUTH_USER and BASIC_AUTH_PASSWORD together, or neither")
        return password

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s@?#]+", origin):
                raise ValueError(f"{origin[:_SHOWN_CHARS]!r} is not an origin")
        return tuple(origin.lower() for origin in origins)

    @field_validator("allowed_hosts")
    @classmethod
    def _host_names(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not re.fullmatch(r"[A-Za-z0-9._:\[\]-]+", host):
                raise ValueError(f"{host[:_SHOWN_CHARS]!r} is not a host name")
        return tuple(host.lower() for host in hosts)

    @field_validator("env_blacklisted_words")
    @classmethod
    def _lower_words(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(word.lower() for word in words)

    @field_validator("public_url")
    @classmethod
    def _base_url(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            good = parts.scheme in {"http", "https"} and bool(parts.hostname)
            good = good and not (parts.query or parts.fragment or "@" in parts.netloc)
        except ValueError:
            good = False
        if url and not good:
            raise ValueError("that is not the URL of a server")
        return url.rstrip("/")

    @field_validator("webhooks_secret")
    @classmethod
    def _signing_secrets(cls, secret: SecretStr) -> SecretStr:
        for one in secret.get_secret_value().split():
            try:
                key = base64.b64decode(one.removeprefix("whsec_"), validate=True)
            except ValueError as error:
                raise ValueError("it is not base64") from error
            # Standard Webhooks asks for 24 to 64 bytes.
            if not 24 <= len(key) <= 64:
                raise ValueError(f"it holds {len(key)} bytes")
        return secret

    @field_validator("smtp_from")
    @classmethod
    def _address(cls, text: str) -> str:
        _, address = parseaddr(text)
        if not re.fullmatch(r"[^@\s<>]+@[^@\s<>]+", address) or not text.isprintable():
            raise ValueError("that is not an e-mail address")
        return text

    @field_validator("sentry_dsn")
    @classmethod
    def _dsn(cls, dsn: SecretStr) -> SecretStr:
        text = dsn.get_secret_value()
        try:
            parts = urlsplit(text)
            good = parts.scheme in {"http", "https"} and bool(parts.username and parts.hostname)
        except ValueError:
            good = False
        if text and not good:
            raise ValueError("it is not written as https://key@host/project")
        return dsn

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        try:
            return path.expanduser().absolute()
        except RuntimeError as error:
            raise ValueError(str(error)) from error

    @field_validator("mongodb_url", "mongodb_uri")
    @classmethod
    def _mongodb(cls, url: SecretStr, info: ValidationInfo) -> SecretStr:
        text = url.get_secret_value()
        if text and not text.startswith(("mongodb://", "mongodb+srv://")):
            raise ValueError("it begins with neither mongodb:// nor mongodb+srv://")
        other = info.data.get("mongodb_url") if info.field_name == "mongodb_uri" else None
        if text and other is not None and other.get_secret_value() not in {"", text}:
            raise ValueError("MONGODB_URL is another one; set one of the two")
        return url

    @field_validator("redis_url")
    @classmethod
    def _both_stores(cls, url: SecretStr, info: ValidationInfo) -> SecretStr:
        text = url.get_secret_value()
        if text and not text.startswith(_REDIS_SCHEMES):
            raise ValueError(f"it begins with none of {', '.join(_REDIS_SCHEMES)}")
        names = ("mongodb_url", "mongodb_uri")
        if any(name not in info.data for name in names):
            return url
        if any(info.data[name].get_secret_value() for name in names) != bool(text):
            raise ValueError(
                "set MONGODB_URL and REDIS_URL together for the cluster store, or neither for the "
                "embedded one"
            )
        return url

    @field_validator("roles")
    @classmethod
    def _known_roles(cls, roles: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for role in roles:
            if role not in ROLES:
                raise ValueError(f"{role[:_SHOWN_CHARS]!r} is no role")
        if not roles:
            raise ValueError("a server without any role does nothing")
        redis = info.data.get("redis_url")
        if redis is not None and not redis.get_secret_value() and set(roles) != set(ROLES):
            raise ValueError(
                "one server has the embedded store for itself and must do everything; "
                "set MONGODB_URL and REDIS_URL to share the work"
            )
        return roles

    @property
    def cluster_urls(self) -> tuple[str, str] | None:
        """MongoDB's and Redis' for the cluster store; None for the embedded one."""
        mongodb = self.mongodb_url.get_secret_value() or self.mongodb_uri.get_secret_value()
        return (mongodb, self.redis_url.get_secret_value()) if mongodb else None

    @field_validator("executor")
    @classmethod
    def _isolated(cls, executor: str, info: ValidationInfo) -> str:
        host = info.data.get("host")
        forced = info.data.get("force_process_executor", True)
        if executor == "process" and host is not None and not forced and not is_loopback(host):
            raise ValueError(
                f"it has no isolation, and HOST={host} lets other machines run commands here; "
                "listen on 127.0.0.1, use EXECUTOR=docker, or set FORCE_PROCESS_EXECUTOR=true"
            )
        return executor

    @field_validator("docker_hosts", mode="before")
    @classmethod
    def _farms(cls, value: object, info: ValidationInfo) -> object:
        # An executor that is at fault itself is missing here; hosts are then not looked into.
        executor = info.data.get("executor")
        # Where MAX_RUNNING itself is at fault any number serves: its own fault is reported.
        max_running = info.data.get("max_running", 1)
        if value in ("", ()):
            host = PROCESS_HOST if executor == "process" else info.data["docker_host"]
            if executor in _ENGINES:
                try:
                    check_docker_host(host)
                except ValueError as error:
                    raise _OtherOption("docker_host", host, str(error)) from error
            return (Farm("default", (host,), max_running),)
        if isinstance(value, str):
            return tuple(_parse_farms(value, max_running, docker=executor in _ENGINES))
        return value

    @field_validator("execution_retention")
    @classmethod
    def _not_below_containers(cls, seconds: float, info: ValidationInfo) -> float:
        kept = info.data.get("container_retention", 0)
        if seconds and seconds < kept:
            # The record says when a container may go.
            raise ValueError(
                f"CONTAINER_RETENTION is {kept:g}, and a record outlives its container"
            )
        return seconds

    @field_validator("installation")
    @classmethod
    def _label(cls, installation: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9._-]{0,63}", installation):
            raise ValueError("that does not serve as a label")
        return installation

    @field_validator("exponential_backoff_max_ms")
    @classmethod
    def _not_below_min(cls, max_ms: float, info: ValidationInfo) -> float:
        min_ms = info.data.get("exponential_backoff_min_ms", max_ms)
        if max_ms < min_ms:
            raise ValueError(f"EXPONENTIAL_BACKOFF_MIN_MS is {min_ms:g}")
        return max_ms


def check_docker_host(host: str) -> None:
    """Accept what an engine can be called: a socket, ``tcp://``, ``http(s)://`` or ``name:port``.

    :raises ValueError: it is none of them.
    """
    if host.startswith("unix://"):
        if not host.startswith("unix:///") or len(host) == len("unix:///"):
            raise ValueError(f"host {host[:_SHOWN_CHARS]!r} must name an absolute path")
        return
    scheme, separator, rest = host.rpartition("://")
    if separator and scheme not in ("tcp", "http", "https"):
        raise ValueError(
            f"host {host[:_SHOWN_CHARS]!r} has a scheme that is not unix, tcp, http or https"
        )
    try:
        parts = urlsplit(f"//{rest}")
        complete = bool(parts.hostname and parts.port and parts.netloc == rest)
    except ValueError:
        complete = False
    if not complete or "@" in rest or any(character.isspace() for character in rest):
        raise ValueError(f"host {host[:_SHOWN_CHARS]!r} must be written as name:port")


_FARM_KEYS = ("name", "match", "hosts", "maxRunning", "tls", "limits", "images", "registryAuth")
_LIMIT_KEYS = ("cpus", "memory", "pids")
_TLS_KEYS = ("ca", "cert", "key")
_LOGIN_KEYS = ("username", "password", "auth", "identitytoken")
# Bounds the patterns of a farm's images: each may be run on every image that is submitted.
_IMAGES_MAX = 100
# The names under which Docker's own files have Docker Hub.
_DOCKER_HUB = {"https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io"}


def _parse_farms(text: str, max_running: int, *, docker: bool) -> Iterator[Farm]:
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
            raise ValueError(f"{key[:_SHOWN_CHARS]!r} is not one of {', '.join(_FARM_KEYS)}")
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
            raise ValueError(f"{key[:_SHOWN_CHARS]!r} in {name} is not one of {', '.join(keys)}")
    return value


def _farm_limits(value: object) -> Resources:
    limits = _object(value, "limits", _LIMIT_KEYS)
    cpus, pids = limits.get("cpus"), limits.get("pids")
    try:
        memory: Any = _size(limits.get("memory"))
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
        value = {key: str(Path(value) / f"{key}.pem") for key in _TLS_KEYS}
    files = _object(value, "tls", _TLS_KEYS)
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
            raise ValueError(f"host {host[:_SHOWN_CHARS]!r} cannot speak TLS")
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
    entry = _object(value, f"registryAuth of {name[:_SHOWN_CHARS]!r}", _LOGIN_KEYS)
    if not all(isinstance(text, str) for text in entry.values()):
        raise ValueError(f"registryAuth of {name[:_SHOWN_CHARS]!r} must hold texts")
    user, password = entry.get("username", ""), entry.get("password", "")
    if entry.get("auth"):
        try:
            user, _, password = (
                base64.b64decode(entry["auth"], validate=True).decode().partition(":")
            )
        except ValueError as error:
            raise ValueError(
                f"auth in registryAuth of {name[:_SHOWN_CHARS]!r} is not base64 of user:password"
            ) from error
    token = entry.get("identitytoken", "")
    if not token and not (user and password):
        raise ValueError(
            f"registryAuth of {name[:_SHOWN_CHARS]!r} must hold username and password, "
            "auth, or identitytoken"
        )
    return RegistryCredentials(user, password, token)


class _Strings(EnvSettingsSource):
    """Options out of a mapping of texts, read as pydantic-settings reads the environment."""

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__(Config)
        self.env_vars = {name.lower(): value for name, value in values.items() if value}


_NAMES = tuple(name.upper() for name in Config.model_fields)


def load(
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """The configuration from *overrides* (those that are not None), *environ* and *file*.

    :param environ: ``os.environ`` unless given.
    :param overrides: lower-case option names, as the command line gives them.
    :raises ConfigError: one sentence per line for every fault there is.
    """
    environ = os.environ if environ is None else environ
    in_file, faults = _read_file(file) if file is not None else ({}, [])
    # The environment is case-sensitive: only upper-case names are ours.
    in_environ = {name: value for name, value in environ.items() if name.isupper()}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, found in (
        (f"in {file}", _Strings(in_file)()),
        ("in the environment", _Strings(in_environ)()),
        ("on the command line", {k: v for k, v in (overrides or {}).items() if v is not None}),
    ):
        values |= found
        origins |= dict.fromkeys(found, origin)
    config = None
    try:
        config = Config(**{"data_dir": default_data_dir(environ), **values})
    except ValidationError as error:
        faults += _sentences(error, values, origins)
    if faults or config is None:
        raise ConfigError("\n".join(faults))
    return config


def _read_file(file: Path) -> tuple[dict[str, str], list[str]]:
    """The values in *file* by name as written there, and a sentence for every faulty line."""
    try:
        with file.open("rb") as stream:
            data = stream.read(_FILE_MAX_BYTES + 1)
        text = data.decode()
    except OSError as error:
        reason = error.strerror or error
        return {}, [f"--config {file} cannot be read ({reason}): give a file that can."]
    except UnicodeDecodeError:
        return {}, [f"--config {file} is not UTF-8 text: give a file of NAME=value lines."]
    if len(data) > _FILE_MAX_BYTES:
        return {}, [f"--config {file} is larger than 1 MiB: give a file of NAME=value lines."]
    values: dict[str, str] = {}
    faults: list[str] = []
    for binding in parse_stream(io.StringIO(text)):
        # The parser begins a binding with the blank lines before it.
        lead = binding.original.string
        line = binding.original.line + lead[: len(lead) - len(lead.lstrip())].count("\n")
        place = f"line {line} of {file}"
        if binding.error or (binding.key is not None and binding.value is None):
            faults.append(f"{place} is not understood: write NAME=value.")
        elif binding.key is not None and binding.key.upper() not in _NAMES:
            faults.append(_unknown(binding.key, place))
        elif binding.key is not None and binding.value is not None:
            values[binding.key] = binding.value
    return values, faults


def _unknown(name: str, place: str) -> str:
    close = difflib.get_close_matches(name.upper(), _NAMES, n=1, cutoff=0.6)
    remedy = f"did you mean {close[0]}?" if close else "`fastlane config` lists every option."
    return f"{name[:_SHOWN_CHARS]} in {place} is not an option: {remedy}"


def _sentences(
    error: ValidationError, values: Mapping[str, Any], origins: Mapping[str, str]
) -> Iterator[str]:
    """One sentence per fault: the option, its value and where that stands, and the remedy."""
    seen = set()
    for fault in error.errors(include_url=False):
        name = str(fault["loc"][0])
        cause = fault.get("ctx", {}).get("error")
        value = values.get(name, "")
        if isinstance(cause, _OtherOption):
            name, value = cause.option, cause.value
        if name in seen:
            continue
        seen.add(name)
        field = Config.model_fields.get(name)
        if field is None:
            yield f"{name.upper()} is not an option: `fastlane config` lists every option."
            continue
        remedy = f"give {_form(field)}"
        if isinstance(cause, ValueError):
            remedy = str(cause) if name in _SAYS_ALL else f"{cause}; {remedy}"
        place = f" {origins[name]}" if name in origins else ""
        yield f"{name.upper()} is {_shown(field, value)}{place}: {remedy}."


# Options whose own fault text holds the remedy already.
_SAYS_ALL = {"basic_auth_password", "executor"}


def _form(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra["form"]) if isinstance(extra, dict) else ""


def _shown(field: FieldInfo, value: object) -> str:
    if field.annotation is SecretStr:
        return HIDDEN if value else "empty"
    text = _text(value)
    if "registryAuth" in text:
        return HIDDEN
    return repr(text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}...")


def _text(value: object) -> str:
    """*value* as it would be written in a configuration file."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.15g}"
        case SecretStr():
            return value.get_secret_value()
        case (Farm(), *_):
            return json.dumps([_farm_entry(farm) for farm in value])
        case tuple():
            return ",".join(map(str, value))
    return str(value)


def _farm_entry(farm: Any) -> dict[str, object]:
    entry: dict[str, object] = {
        "name": farm.name,
        "match": farm.match,
        "hosts": list(farm.hosts),
        "maxRunning": farm.max_running,
    }
    if farm.tls is not None:
        entry["tls"] = {key: path for key in _TLS_KEYS if (path := getattr(farm.tls, key))}
    limits = (farm.limits.cpus, farm.limits.memory_bytes, farm.limits.pids)
    if any(limit is not None for limit in limits):
        entry["limits"] = {
            key: limit for key, limit in zip(_LIMIT_KEYS, limits, strict=True) if limit is not None
        }
    if farm.images:
        entry["images"] = list(farm.images)
    if farm.registry_auth:
        entry["registryAuth"] = dict.fromkeys(farm.registry_auth, HIDDEN)
    return entry


def doubts(config: Config) -> list[str]:
    """A sentence for everything in *config* that is allowed, but hardly what was meant."""
    found = []
    taken_by = None
    for farm in config.docker_hosts:
        if taken_by is not None:
            found.append(
                f"Farm {farm.name} gets no task: farm {taken_by} before it has an empty match and "
                "takes them all."
            )
        if not farm.match and taken_by is None:
            taken_by = farm.name
        if config.executor in _ENGINES and farm.tls is None and not config.docker_tls_verify:
            found += [
                f"Host {host} of farm {farm.name} is reached without TLS: whoever is on the way "
                "can run anything on it; give the farm tls."
                for host in farm.hosts
                if not host.startswith(("unix://", "https://")) and not _is_local(host)
            ]
    return found


def _is_local(host: str) -> bool:
    name = urlsplit(host if "://" in host else f"//{host}").hostname
    return name is not None and is_loopback(name)


def misspellings(environ: Mapping[str, str] | None = None) -> list[str]:
    """A sentence for every variable of *environ* that looks like a misspelt option."""
    environ = os.environ if environ is None else environ
    found = []
    for name in sorted(environ):
        if name in _NAMES or not name.isupper() or len(name) < _MISSPELLING_MIN_CHARS:
            continue
        close = difflib.get_close_matches(name, _NAMES, n=1, cutoff=_MISSPELLING_RATIO)
        if close and close[0] not in environ:
            found.append(f"{name} in the environment is ignored: did you mean {close[0]}?")
    return found


@dataclass(frozen=True, slots=True)
class Option:
    """An option as people read it; texts are as they would be written in a file."""

    name: str
    """Upper case, as in the environment."""
    type: str
    """What a value must be, in words."""
    default: str
    help: str
    value: str
    """The current value; a secret is hidden."""
    changed: bool
    """The current value is not the default."""
    secret: bool


def options(config: Config | None = None) -> list[Option]:
    """Every option in the order of its definition, with the values of *config* (or defaults)."""
    config = Config() if config is None else config
    listed = []
    for name, field in Config.model_fields.items():
        secret = field.annotation is SecretStr
        default = _text(field.get_default(call_default_factory=False))
        if field.default_factory is not None:
            default = str(default_data_dir())
        value = _text(getattr(config, name))
        listed.append(
            Option(
                name=name.upper(),
                type=_form(field),
                default=default,
                help=field.description or "",
                value=(HIDDEN if value else "") if secret else value,
                changed=name in config.model_fields_set and value != default,
                secret=secret,
            )
        )
    return listed
