"""Every option in one place: name, type, default, help.

An option is read from the first of these that sets it:

1. the command line (``--host``, ``--port``),
2. the environment, under its upper-case name without a prefix (``PORT=8080``),
3. the file given with ``--config``: lines ``NAME=value`` as in a ``.env`` file, where ``#``
   begins a comment, values may be quoted, and nothing is interpolated,
4. its default.

An empty value counts as not set. Lists are separated by commas. Sizes are bytes, or a number with
the suffix ``k``, ``m`` or ``g`` (powers of 1024). Booleans are ``true`` or ``false``.

The module is as long as the list of options, which is not divided.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, SecretStr, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from fastlane.checks import shown
from fastlane.config import types
from fastlane.config.farms import executor_of, parse_farms
from fastlane.config.related import default_farm, require_isolation
from fastlane.config.types import Lower, Size, Words, count, flag, option, seconds
from fastlane.executors import registry
from fastlane.model import Backoff, Farm, Resources
from fastlane.policy import LOST_RERUNS_MAX

_REDIS_SCHEMES = (
    "redis://",
    "rediss://",
    "unix://",
    "redis+sentinel://",
    "rediss+sentinel://",
)


# Bounds the delay before a delivery is tried again.
NOTIFICATION_BACKOFF_MAX_MS = 3_600_000.0
ROLES = ("api", "scheduler", "dispatcher", "monitor", "notifier")
"""The parts of the work, which instances can divide among themselves."""


class _Origins(dict[str, str]):
    """Where values come from, which is no part of them: any two are equal."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Origins)

    __hash__ = None


class Config(BaseSettings):
    """The options of one server. :func:`load` makes it from the environment and a file.

    Made directly, it reads neither and uses what it is given: ``Config(port=0, data_dir=path)``.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", validate_default=True)
    _origins: _Origins = PrivateAttr(default_factory=lambda: _Origins())

    # Where it listens, and who may call it.
    host: types.Address = option(
        "127.0.0.1", "an IP address or a host name", "Address that the server listens on."
    )
    port: int = count(10000, 0, 65535, "Port that the server listens on; 0: any free port.")
    auth: Lower[Literal["", "none"]] = option(
        "",
        "none, or leave it empty",
        "none: without BASIC_AUTH_USER, let everyone who can reach the server use it. Beyond "
        "loopback, the server does not start without one of the two.",
    )
    basic_auth_user: types.UserName = option(
        "",
        "a user name without a colon",
        "User for HTTP Basic auth on every route; empty: no auth.",
    )
    basic_auth_password: SecretStr = option(
        "", "any text", "Password for HTTP Basic auth; requires BASIC_AUTH_USER."
    )
    healthcheck_open: bool = flag("No longer needed: /healthcheck/ never asks for credentials.")
    trusted_proxies: types.Networks = option(
        (),
        "networks like 10.0.0.0/8,::1 separated by commas",
        "Networks of the proxies whose X-Forwarded-* and X-Real-Ip headers are trusted.",
    )
    cors_origins: types.Origins = option(
        (),
        "origins like https://example.org separated by commas, or *",
        "Origins whose pages may call the API from a browser; empty: none.",
    )
    allowed_hosts: types.HostNames = option(
        (),
        "host names separated by commas",
        "Host names that requests may use besides localhost, IP addresses and that of PUBLIC_URL; "
        "checked if it is set, on loopback, and with AUTH=none.",
    )
    max_body_bytes: Size = count(
        1024 * 1024,
        1024,
        1024**3,
        "Largest request body in bytes; larger ones are answered with 413.",
        form="a size from 1k to 1g, like 1m",
    )

    max_sockets: int = count(
        0,
        0,
        10_000,
        "Most log viewers (WebSockets) at a time; one address has at most half of them. 0: 1000, "
        "or fewer where the limit on open files is low.",
    )

    # Where data is kept.
    data_dir: types.Directory = Field(
        default_factory=types.default_data_dir,
        description="Directory of the embedded store; used by one server at a time.",
        json_schema_extra={"form": "the path of a directory"},
    )
    mongodb_url: SecretStr = option(
        "",
        "a URL like mongodb://host:27017/fastlane",
        "MongoDB of the cluster store, which any number of servers share; requires REDIS_URL. "
        "Empty: the embedded store.",
    )
    mongodb_uri: SecretStr = option(
        "", "a URL like mongodb://host:27017/fastlane", "Another name for MONGODB_URL."
    )
    redis_url: SecretStr = option(
        "",
        "a URL like redis://host:6379/0, rediss://..., unix:///path or "
        "redis+sentinel://host:port,host:port/service/0",
        "Redis of the cluster store; requires MONGODB_URL.",
    )
    roles: Words = option(
        ROLES,
        f"some of {', '.join(ROLES)}, separated by commas",
        "What this server does; without api it does not listen. More than one server needs the "
        "cluster store.",
    )

    # Where jobs run.
    force_process_executor: bool = flag(
        "Allow the process executor on a server that other machines can reach."
    )
    executor: Lower[str] = option(
        "docker",
        f"one of {', '.join(registry.names())}",
        "What runs jobs on farms that do not name or imply an executor: containers, services of a "
        "Docker swarm (hosts are its managers), or plain processes without any isolation.",
    )
    docker_host: str = option(
        "unix:///var/run/docker.sock",
        "unix:///path, tcp://name:port or https://name:port",
        "Docker engine to use when DOCKER_HOSTS is not set.",
    )
    docker_tls_verify: bool = flag(
        "Use TLS with engines written as tcp://name:port or name:port, and verify their "
        "certificate."
    )
    docker_cert_path: str = option(
        "",
        "the path of a directory that contains ca.pem, cert.pem and key.pem",
        "Directory with ca.pem, cert.pem and key.pem for engines that use TLS.",
    )
    max_running: int = count(
        8,
        1,
        10_000,
        "Most executions at a time on the default farm, and on farms without maxRunning.",
    )
    queue_order: Lower[Literal["fair", "fifo"]] = option(
        "fair",
        "fair or fifo",
        "fair: on a farm, tasks take turns, and the executions of one task start in the order in "
        "which they were queued. fifo: all executions of a farm start in that order.",
    )
    docker_hosts: Annotated[tuple[Farm, ...], NoDecode] = option(
        (),
        'a JSON list like [{"name": "builds", "match": "^build-", "hosts": ["localhost:1234"], '
        '"maxRunning": 8}, {"match": "", "hosts": ["unix:///var/run/docker.sock"]}]',
        "Farms as a JSON list of {name?, match?, hosts, maxRunning?, maxRunningPerTask?, "
        "executor?, limits?, images?, network?, tls?, registryAuth?, registriesAllowed?}; a task "
        "runs on the first farm whose pattern is found in its id. maxRunningPerTask: the most "
        "executions of one task at a time. executor: what runs its jobs; by default what the "
        "hosts' scheme implies, else EXECUTOR. "
        "limits: the most cpus, memory, pids and disk of one run; images: patterns, one of which "
        "must match the whole image reference; network: what runs can reach, bridge (default), "
        "none or isolated. Only of Docker hosts: tls, a directory with ca.pem, cert.pem and "
        "key.pem, or an object with the paths ca, cert and key; registryAuth, an "
        "object of registry to {username, password}, or the path of a Docker config file; "
        "registriesAllowed, as REGISTRIES_ALLOWED.",
    )
    registries_allowed: types.Registries = option(
        (),
        "registries like 10.0.0.7:5000,registry.internal separated by commas",
        "Registries that images are pulled from although they are an address, localhost, or a name "
        "without a public address; those of a login are allowed as well.",
    )
    default_memory: types.Limit[Size] = option(
        None,
        "a size from 6m, like 512m, or 0 for no limit",
        "Most memory of one run; empty: 90 % of its host's; 0: no limit.",
        ge=6 * 1024**2,
    )
    default_cpus: types.Limit[float] = option(
        None,
        "a number from 0.01 to 4096, or 0 for no limit",
        "Most processors of one run; empty or 0: no limit.",
        ge=0.01,
        le=4096,
        allow_inf_nan=False,
    )
    default_pids: types.Limit[int] = count(
        1024,
        1,
        4_194_304,
        "Most processes and threads of one run; 0: no limit.",
        form="a whole number from 1 to 4194304, or 0 for no limit",
    )
    default_disk: types.Limit[Size] = option(
        None,
        "a size from 1m, like 10g, or 0 for no limit",
        "Most that one run may write to its own file system; empty or 0: no limit.",
        ge=1024**2,
    )
    installation: types.Label = option(
        "",
        "up to 63 letters, digits, dots, dashes and underscores",
        "Label of this installation's containers; empty: generated once and kept in the store.",
    )

    # How long, how often, how much.
    hard_execution_timeout_seconds: float = seconds(
        1800, "Longest run of an execution in seconds; the upper limit of a job's timeout."
    )
    stop_grace_seconds: float = seconds(
        10, "Seconds between asking a run to stop and killing it.", least=0
    )
    exponential_backoff_min_ms: float = types.milliseconds(
        1000, 86_400_000, "Delay in milliseconds before the first retry."
    )
    exponential_backoff_factor: float = types.factor(
        "Factor by which the delay grows with each further retry."
    )
    exponential_backoff_max_ms: float = types.milliseconds(
        300_000,
        604_800_000,
        "Longest delay in milliseconds before a retry.",
        form="a number of milliseconds up to 604800000, at least EXPONENTIAL_BACKOFF_MIN_MS",
    )
    log_max_bytes: Size = option(
        100 * 1024 * 1024,
        "a size like 100m, or 0 for no limit",
        "How many bytes of one execution's log are kept, half of its start and half of its end; "
        "0: all of it.",
        ge=0,
    )
    host_lost_after_seconds: float = seconds(
        300, "Seconds that a host may be unreachable before its executions are lost."
    )
    rerun_when_lost_max: int = count(
        LOST_RERUNS_MAX,
        0,
        1000,
        "Number of times in a row that a lost execution of a job with rerunWhenLost is run again.",
    )
    docker_circuit_breaker_max_fails: int = count(
        5, 1, 1000, "Consecutive failures after which a host gets no new executions for a while."
    )
    docker_circuit_breaker_reset_timeout_seconds: float = seconds(
        60, "Seconds until a host that failed gets one execution to try."
    )
    container_retention: float = seconds(
        0, "Seconds that a finished container is kept on its host; 0: removed at once.", least=0
    )
    execution_retention: float = seconds(
        0,
        "Seconds that executions and their logs are kept after they end; 0: forever.",
        least=0,
    )
    event_retention: float = seconds(86_400, "Seconds that events are kept.", least=60)
    stats_retention: float = seconds(
        34_560_000, "Seconds that statistics by the hour are kept.", least=3600
    )
    lease_seconds: float = seconds(
        10, "Seconds without a heartbeat after which a server is considered dead.", least=1
    )

    # Notifications.
    public_url: types.BaseUrl = option(
        "",
        "a URL like https://fastlane.example.org",
        "URL of this server as people reach it, for links in webhooks and emails; empty: the "
        "address that it listens on.",
    )
    webhooks_secret: types.SigningSecrets = option(
        "",
        "whsec_ and at least 24 bytes in base64; several, separated by spaces, while you rotate "
        "them; https://example.org=whsec_… for one receiver",
        "Secret that signs webhooks according to Standard Webhooks; empty: not signed. A receiver "
        "with a secret of its own gets no other signature.",
    )
    webhooks_allowed_networks: types.Networks = option(
        (),
        "networks like 10.1.0.0/16,fd00::/8 separated by commas",
        "Networks that webhooks may reach in addition to public addresses.",
    )
    webhooks_timeout_seconds: float = seconds(
        10, "Seconds that one attempt to deliver a webhook may take."
    )
    webhooks_exponential_backoff_min_ms: float = types.milliseconds(
        1000, 3_600_000, "Delay in milliseconds before the second attempt of a webhook or an email."
    )
    webhooks_exponential_backoff_factor: float = types.factor(
        "Factor by which that delay grows with each further attempt, up to an hour."
    )
    smtp_host: str = option(
        "", "a host name or an address", "Mail server for notify; empty: no email is sent."
    )
    smtp_port: int = count(
        0, 0, 65535, "Port of the mail server; 0: 465 with SMTP_USE_SSL, 25 without."
    )
    smtp_user: str = option("", "any text", "User at the mail server; empty: no login.")
    smtp_password: SecretStr = option("", "any text", "Password of SMTP_USER.")
    smtp_from: types.MailAddress = option(
        "fastlane@localhost",
        "an email address, also like fastlane <fastlane@example.org>",
        "Sender of emails.",
    )
    smtp_use_ssl: bool = flag(
        "Use TLS with the mail server: from the start on port 465, with STARTTLS on others."
    )
    smtp_timeout_seconds: float = seconds(30, "Seconds that one attempt to send an email may take.")
    smtp_retries: int = count(10, 0, 100, "How often a failed email is sent again.")
    sentry_dsn: types.Dsn = option(
        "", "a Sentry DSN", "Where errors of fastlane itself are reported; empty: nowhere."
    )

    # Metrics and traces.
    metrics: Lower[Literal["", "open"]] = option(
        "", "open, or leave it empty", "open: /metrics never asks for credentials."
    )
    metrics_tasks: Words = option(
        (),
        "task ids or globs like billing-*,nightly separated by commas",
        "Tasks that have a label of their own in /metrics, whichever tasks come first.",
    )
    metrics_max_tasks: int = count(
        100,
        0,
        10_000,
        "Most tasks with a label of their own in /metrics, of METRICS_TASKS and of the others "
        "each; the rest share the label other.",
    )

    otel_exporter_otlp_endpoint: types.BaseUrl = option(
        "",
        "a URL like http://collector:4318",
        "OpenTelemetry collector that gets a trace of each execution by OTLP over HTTP; requires "
        "fastlane[otel]. The SDK reads further OTEL_* variables.",
    )

    # What is shown and logged.
    env_blacklisted_words: types.LowerWords = option(
        ("password", "key", "secret", "client_id", "token"),
        "words separated by commas",
        "An environment variable whose name contains one of these words is shown as ***.",
    )
    log_format: Lower[Literal["auto", "console", "json"]] = option(
        "auto",
        "auto, console or json",
        "Readable lines or JSON; auto: readable lines on a terminal, JSON otherwise.",
    )
    log_level: Lower[Literal["debug", "info", "warning", "error"]] = option(
        "info", "debug, info, warning or error", "Lowest level that is logged."
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
        # load() reads the sources itself: it must report where each value came from.
        return (init_settings,)

    @property
    def origins(self) -> dict[str, str]:
        """Where each option comes from that is set, by its name in lower case."""
        return self._origins

    @property
    def backoff(self) -> Backoff:
        """The delays between retries of a job that sets none of its own."""
        return Backoff(
            self.exponential_backoff_min_ms,
            self.exponential_backoff_factor,
            self.exponential_backoff_max_ms,
        )

    @property
    def notification_backoff(self) -> Backoff:
        """The delays between the attempts of a delivery."""
        return Backoff(
            self.webhooks_exponential_backoff_min_ms,
            self.webhooks_exponential_backoff_factor,
            NOTIFICATION_BACKOFF_MAX_MS,
        )

    @property
    def resources(self) -> Resources:
        """The limits of one run."""
        return Resources(
            self.default_cpus, self.default_memory, self.default_pids, self.default_disk
        )

    @property
    def memory_unlimited(self) -> bool:
        """Whether ``DEFAULT_MEMORY=0`` says that a run may use up the memory of its host."""
        return self.default_memory is None and "default_memory" in self.model_fields_set

    @property
    def cluster_urls(self) -> tuple[str, str] | None:
        """The URLs of MongoDB and Redis for the cluster store; None for the embedded one."""
        mongodb = self.mongodb_url.get_secret_value() or self.mongodb_uri.get_secret_value()
        return (mongodb, self.redis_url.get_secret_value()) if mongodb else None

    # -- what depends on more than one option -------------------------------------------------

    @field_validator("basic_auth_password")
    @classmethod
    def _both_or_neither(cls, password: SecretStr, info: ValidationInfo) -> SecretStr:
        user = info.data.get("basic_auth_user")
        if user is not None and bool(user) != bool(password.get_secret_value()):
            raise ValueError("set BASIC_AUTH_USER and BASIC_AUTH_PASSWORD together, or neither")
        return password

    @field_validator("mongodb_url", "mongodb_uri")
    @classmethod
    def _mongodb(cls, url: SecretStr, info: ValidationInfo) -> SecretStr:
        text = url.get_secret_value()
        if text and not text.startswith(("mongodb://", "mongodb+srv://")):
            raise ValueError("it must begin with mongodb:// or mongodb+srv://")
        other = info.data.get("mongodb_url") if info.field_name == "mongodb_uri" else None
        if text and other is not None and other.get_secret_value() not in {"", text}:
            raise ValueError("MONGODB_URL has another value; set one of the two")
        return url

    @field_validator("redis_url")
    @classmethod
    def _both_stores(cls, url: SecretStr, info: ValidationInfo) -> SecretStr:
        text = url.get_secret_value()
        if text and not text.startswith(_REDIS_SCHEMES):
            raise ValueError(f"it must begin with one of {', '.join(_REDIS_SCHEMES)}")
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
                raise ValueError(f"{role[: types.SHOWN_CHARS]!r} is not a role")
        if not roles:
            raise ValueError("a server without a role does nothing")
        redis = info.data.get("redis_url")
        if redis is not None and not redis.get_secret_value() and set(roles) != set(ROLES):
            raise ValueError(
                "the embedded store belongs to one server, which must have every role; "
                "set MONGODB_URL and REDIS_URL to divide the work"
            )
        return roles

    @field_validator("executor")
    @classmethod
    def _known_executor(cls, executor: str, info: ValidationInfo) -> str:
        if executor not in registry.names():
            raise ValueError(f"it is not an executor; give one of {', '.join(registry.names())}")
        require_isolation(executor, info, "it")
        return executor

    @field_validator("docker_hosts", mode="before")
    @classmethod
    def _farms(cls, value: object, info: ValidationInfo) -> object:
        # A faulty EXECUTOR is missing here.
        executor = info.data.get("executor")
        # If MAX_RUNNING itself is faulty, any number will do: its own fault is reported.
        max_running = info.data.get("max_running", 1)
        if value in ("", ()):
            farm = default_farm(executor, max_running, info) if executor else None
            fifo = info.data.get("queue_order") == "fifo"
            return () if farm is None else (replace(farm, fifo=fifo),)
        if isinstance(value, str):
            value = tuple(parse_farms(value, max_running, executor))
        if not isinstance(value, tuple) or executor is None:
            return value
        farms = [
            farm if farm.executor else replace(farm, executor=executor_of(farm.hosts, executor))
            for farm in value
        ]
        for farm in farms:
            if farm.executor != executor:
                named = f"farm {shown(farm.name)} uses the {farm.executor} executor, which"
                require_isolation(farm.executor, info, named)
        if info.data.get("queue_order") != "fifo":
            return tuple(farms)
        for farm in farms:
            if farm.max_running_per_task is not None:
                raise ValueError(
                    f"farm {shown(farm.name)} has maxRunningPerTask, which needs turns, and "
                    "QUEUE_ORDER is fifo; remove one of them"
                )
        return tuple(replace(farm, fifo=True) for farm in farms)

    @field_validator("exponential_backoff_max_ms")
    @classmethod
    def _not_below_min(cls, max_ms: float, info: ValidationInfo) -> float:
        min_ms = info.data.get("exponential_backoff_min_ms", max_ms)
        if max_ms < min_ms:
            raise ValueError(f"EXPONENTIAL_BACKOFF_MIN_MS is {min_ms:g}")
        return max_ms

    @field_validator("execution_retention")
    @classmethod
    def _not_below_containers(cls, kept_seconds: float, info: ValidationInfo) -> float:
        containers = info.data.get("container_retention", 0)
        if kept_seconds and kept_seconds < containers:
            # The record says when a container may be removed.
            raise ValueError(
                f"CONTAINER_RETENTION is {containers:g}, and a record outlives its container"
            )
        return kept_seconds
