"""The payload of a job, from JSON text to a definition and a schedule.

The models are the contract's table: they validate, and the OpenAPI document is made from them. Each
notification channel adds a key of its own. All errors are reported at once.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from functools import cache, partial
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    create_model,
)
from pytimeparse.timeparse import timeparse

from fastlane.api.problems import Fault, Problem
from fastlane.api.schemas.faults import MAX_FAULTS, faults_of
from fastlane.api.schemas.json_body import check_items, read_json_object
from fastlane.api.schemas.masks import Masks
from fastlane.checks import MAX_TEXT, Hint, PayloadModel, Strings, check_entries, shown
from fastlane.config import Config
from fastlane.cron import check_cron, check_timezone
from fastlane.image import ImageReference
from fastlane.model import Backoff, Command, Definition, Overlap, PullPolicy, Resources, Schedule
from fastlane.notifications.base import Channel
from fastlane.notifications.registry import channels, nothing, wanted_of

T = TypeVar("T")
Model = TypeVar("Model", bound=PayloadModel)

# Bound single values; the body as a whole is bounded by MAX_BODY_BYTES.
MAX_WORDS = 10_000
MAX_RETRIES = 10_000
MAX_WAITING = 1_000
MAX_DURATION_SECONDS = 10 * 366 * 24 * 3600
# Bounds what is read on the event loop: a few milliseconds' worth.
LARGE_BODY_BYTES = 16 * 1024
# Bounds the large bodies that are read at a time: each takes up to twenty times its size.
_READERS = ThreadPoolExecutor(2, "payload")
# A time after the year 5138 is far likelier one in milliseconds.
MILLISECONDS_FROM = 1e11

_DURATION = re.compile(r"(?:\d{1,9}[wdhms])+", re.ASCII)
_DURATION_ORDER = re.compile(
    r"(?:\d+w)?(?:\d+d)?(?:\d+h)?(?:\d+m)?(?:\d+s)?", re.ASCII | re.IGNORECASE
)
_SIZE = re.compile(r"(\d{1,15})([bkmg]?)", re.ASCII | re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
# "=" ends a name; a line break would add a variable wherever environments are read as lines.
_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?"
    r"(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_NOT_IN_ENV_NAMES = re.compile("[=\0-\x1f\x7f-\x9f\u2028\u2029]")
_DNS_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    r"(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*",
    re.ASCII,
)


def _image(value: object) -> ImageReference:
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is not an image; give a string, such as ubuntu:latest")
    return ImageReference.parse(value)


def _command(value: object) -> Command:
    if isinstance(value, list):
        if not value or not all(isinstance(word, str) for word in value):
            raise ValueError("a command is a string or a list of at least one string")
        if not value[0]:
            raise ValueError("the first word of the command is empty; name a program")
        if len(value) > MAX_WORDS:
            raise ValueError(
                f"the command has {len(value)} words; at most {MAX_WORDS} are accepted"
            )
    elif not isinstance(value, str):
        raise ValueError(f"{shown(value)} is not a command; give a string or a list of strings")
    for word in [value] if isinstance(value, str) else value:
        if "\0" in word:
            raise ValueError("the command contains a NUL character; leave it out")
        if len(word) > MAX_TEXT:
            raise ValueError(
                f"the command has a word of {len(word)} characters; at most {MAX_TEXT} are accepted"
            )
    try:
        command = Command.parse(value)
    except ValueError as error:
        # Not shown: there may be a password in it.
        raise ValueError(
            f"the command cannot be split into words ({error}); close the quotes, or give "
            "a list of words"
        ) from error
    if not command.argv:
        raise ValueError("the command is empty; give at least one word")
    return command


def _unix_seconds(value: float) -> float:
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{value:.15g} is not a time; give unix seconds, such as 1645113692")
    if value > MILLISECONDS_FROM:
        raise ValueError(f"{value:.15g} is too large; give unix seconds, not milliseconds")
    return value


def _start(value: object) -> object:
    """Unix seconds of a time as RFC 3339 has it; a number is that already."""
    if not isinstance(value, str):
        return value
    try:
        return datetime.fromisoformat(
            value.upper() if _RFC_3339.fullmatch(value) else ""
        ).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(
            f"{shown(value)} is not a time; give unix seconds, such as 1645113692, or a time with "
            "its offset, such as 2026-01-31T12:00:00Z"
        ) from None


def _expiration(value: object) -> float | str:
    """Unix seconds, or a duration from the submission on."""
    if isinstance(value, str):
        return _duration(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(
            f"{shown(value)} is not a time; give unix seconds, such as 1645113692, or a duration, "
            "such as 5m"
        )
    return _unix_seconds(float(value))


def _timeout(value: float, info: ValidationInfo) -> float:
    limit = math.inf if info.context is None else info.context
    if value > limit:
        raise ValueError(
            f"{value:.15g} is above the limit of {limit:.15g} seconds "
            "(HARD_EXECUTION_TIMEOUT_SECONDS); give a shorter one"
        )
    return value


def _duration(text: str) -> str:
    if not _DURATION.fullmatch(text) or not _DURATION_ORDER.fullmatch(text):
        raise ValueError(
            f"{shown(text)} is not a duration; write it with units, such as 10s, 2m30s, "
            "4h30m25s or 240h"
        )
    if duration_seconds(text) > MAX_DURATION_SECONDS:
        raise ValueError(f"{shown(text)} is more than ten years; give a shorter duration")
    return text


def duration_seconds(text: str) -> float:
    """The seconds in a duration that the payload's model has accepted."""
    parsed = timeparse(text)
    assert parsed is not None
    return float(parsed)


def _seconds(value: object) -> object:
    """A duration as seconds; a number is one already."""
    return duration_seconds(_duration(value)) if isinstance(value, str) else value


def _env(name: str, value: str) -> None:
    if not name or _NOT_IN_ENV_NAMES.search(name):
        raise ValueError(
            f"{shown(name)} is not the name of an environment variable; "
            "use a name without '=', line breaks and control characters"
        )
    if "\0" in value:
        raise ValueError(f"the value of {name} contains a NUL character; leave it out")


def _dns_entry(name: str, address: str) -> None:
    if not _DNS_NAME.fullmatch(name):
        raise ValueError(f"{shown(name)} is not a host name, such as db.internal")
    if "%" in address:
        raise ValueError(
            f"{shown(address)} (of {name}) has a scope, which names an interface of one machine; "
            "give an address such as 10.0.0.7"
        )
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise ValueError(
            f"{shown(address)} (of {name}) is not an address, such as 10.0.0.7"
        ) from None


def _size(least: str) -> BeforeValidator:
    """Reads a size of at least *least*, which is written like the value."""
    found = _SIZE.fullmatch(least)
    assert found is not None
    least_bytes = int(found[1]) * _UNITS[found[2]]

    def read(value: object) -> object:
        if isinstance(value, str):
            match = _SIZE.fullmatch(value)
            if match is None:
                raise ValueError(f"{shown(value)} is not a size; give bytes, or 512m, 2g")
            value = int(match[1]) * _UNITS[match[2].lower()]
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{shown(value)} is not a size; give bytes, or 512m, 2g")
        if not least_bytes <= value < 2**63:
            raise ValueError(f"{shown(value)} is out of range; give at least {least}")
        return value

    return BeforeValidator(read)


Start = Annotated[
    float,
    BeforeValidator(_start, json_schema_input_type=float | str),
    AfterValidator(_unix_seconds),
]
Expiration = Annotated[float | str, PlainValidator(_expiration, json_schema_input_type=float | str)]
UNIX_HINT = Hint(" of unix seconds, such as 1645113692, or a time, such as 2026-01-31T12:00:00Z")
Image = Annotated[ImageReference, PlainValidator(_image), WithJsonSchema({"type": "string"})]
CommandWords = Annotated[Command, PlainValidator(_command, json_schema_input_type=str | list[str])]
Envs = Annotated[Strings, AfterValidator(check_entries(_env)), Hint(" of names and strings")]
Timeout = Annotated[
    float,
    BeforeValidator(_seconds, json_schema_input_type=float | str),
    Field(gt=0, le=1e9, allow_inf_nan=False),
    AfterValidator(_timeout),
]
TIMEOUT_HINT = Hint(" of seconds, such as 30, or a duration, such as 5m")
Milliseconds = Annotated[float, Field(ge=0, le=7 * 24 * 3600 * 1000, allow_inf_nan=False)]


class BackoffPayload(PayloadModel):
    """The delays between retries; what is left out is the server's default."""

    min_ms: Milliseconds | None = Field(default=None, description="Before the first retry.")
    factor: Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)] | None = Field(
        default=None, description="What the delay is multiplied by with each further retry."
    )
    max_ms: Milliseconds | None = Field(default=None, description="The longest delay.")


class ResourcesPayload(PayloadModel):
    """Limits of the container, capped by the farm's."""

    cpus: Annotated[float, Field(ge=0.01, le=4096, allow_inf_nan=False)] | None = None
    # Docker's own least; see the engine's daemon_unix.go (linuxMinMemory).
    memory: Annotated[int | str, _size("6m")] | None = Field(
        default=None, description="Bytes, or a size such as 512m."
    )
    pids: Annotated[int, Field(ge=1, le=4_194_304)] | None = None
    disk: Annotated[int | str, _size("1m")] | None = Field(
        default=None,
        description="What it may write to its own file system: bytes, or a size such as 10g.",
    )

    def limits(self) -> Resources:
        """As a definition has them."""
        assert not isinstance(self.memory, str)
        assert not isinstance(self.disk, str)
        return Resources(self.cpus, self.memory, self.pids, self.disk)


class JobPayload(PayloadModel):
    """What to run, when, and how."""

    image: Image = Field(
        description="Any image reference; no tag means latest.", examples=["ubuntu:latest"]
    )
    command: CommandWords = Field(
        description="A string is split as a shell splits words and run without a shell.",
        examples=["ls -lah"],
    )
    envs: Envs = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(
        default_factory=dict, description="Kept as the job's metadata.custom."
    )
    start_at: Annotated[Start | None, UNIX_HINT] = Field(
        default=None,
        description="Unix seconds, or RFC 3339; the past means now.",
        examples=["2026-01-31T12:00:00Z"],
    )
    start_in: Annotated[
        Annotated[str, AfterValidator(_duration)] | None,
        Hint(" with units, such as 5m or 2h30m"),
    ] = Field(default=None, examples=["10s", "2m30s", "4h30m25s", "240h"])
    cron: Annotated[
        Annotated[str, AfterValidator(check_cron)] | None,
        Hint(' of five fields, such as "*/5 * * * *"'),
    ] = Field(
        default=None,
        description="Five fields, or @hourly, @daily, @weekly, @monthly, @yearly.",
        examples=["*/5 * * * *"],
    )
    timezone: Annotated[str, AfterValidator(check_timezone), Hint(", such as Europe/Berlin")] = (
        Field(default="UTC", description="IANA zone of cron.")
    )
    overlap: Literal["allow", "skip", "queue"] = Field(
        default="allow", description="What a tick does while the last execution still runs."
    )
    max_waiting: Annotated[int, Field(ge=1, le=MAX_WAITING), Hint(", such as 1")] = Field(
        default=1, description="How many ticks wait at most with overlap queue; more are merged."
    )
    retries: Annotated[int, Field(ge=0, le=MAX_RETRIES), Hint(", such as 3")] = 0
    backoff: BackoffPayload = BackoffPayload()
    timeout: Annotated[Timeout | None, TIMEOUT_HINT] = Field(
        default=None,
        description="Seconds, or a duration such as 5m; at most HARD_EXECUTION_TIMEOUT_SECONDS, "
        "the default.",
    )
    expiration: Expiration | None = Field(
        default=None,
        description="By when it must have started: unix seconds, or a duration from now.",
        examples=["5m"],
    )
    resources: ResourcesPayload = ResourcesPayload()
    pull_policy: Literal["always", "missing", "never"] | None = None
    rerun_when_lost: bool = False
    additional_dns_entries: Annotated[
        Strings, AfterValidator(check_entries(_dns_entry)), Hint(" of host names and addresses")
    ] = Field(default_factory=dict, alias="additionalDNSEntries", examples=[{"db": "10.0.0.7"}])

    def definition(self, backoff: Backoff, hard_timeout_seconds: float, now: float) -> Definition:
        """What the job runs; *backoff* and *hard_timeout_seconds* are for what it leaves out."""
        expires_at = self.expiration
        if isinstance(expires_at, str):
            expires_at = now + duration_seconds(expires_at)
        return Definition(
            image=self.image,
            command=self.command,
            envs=self.envs,
            custom=self.metadata,
            retries=self.retries,
            backoff=replace(backoff, **self.backoff.model_dump(exclude_none=True)),
            timeout_seconds=hard_timeout_seconds if self.timeout is None else self.timeout,
            expires_at=expires_at,
            overlap=Overlap(self.overlap),
            max_waiting=self.max_waiting,
            subscriptions=wanted_of(getattr(self, channel.key) for channel in channels()),
            resources=self.resources.limits(),
            pull_policy=None if self.pull_policy is None else PullPolicy(self.pull_policy),
            rerun_when_lost=self.rerun_when_lost,
            dns_entries=self.additional_dns_entries,
        )

    def schedule(self, now: float) -> Schedule:
        """When the job runs, seen from *now*."""
        start_at = self.start_at
        if self.start_in is not None:
            start_at = now + duration_seconds(self.start_in)
        return Schedule(start_at=start_at, cron=self.cron, timezone=self.timezone)


def job_payload() -> type[JobPayload]:
    """The payload with the keys of all channels that are registered."""
    return _with_channels(channels())


@cache
def _with_channels(registered: tuple[Channel, ...]) -> type[JobPayload]:
    fields: dict[str, Any] = {one.key: (one.payload, nothing(one.payload)) for one in registered}
    return create_model("JobPayload", __base__=JobPayload, __doc__=JobPayload.__doc__, **fields)


class BlacklistPayload(PayloadModel):
    """Which host."""

    host: Annotated[
        str,
        Field(
            min_length=1,
            max_length=255,
            description="As in DOCKER_HOSTS, or its name:port.",
            examples=["localhost:1234"],
        ),
    ]


async def take_submission(
    body: bytes, config: Config, now: float, masks: Masks | None = None
) -> tuple[Definition, Schedule]:
    """What *body* asks for, read off the event loop where it is large.

    :param masks: of what it replaces.
    :raises Problem: see :func:`read_payload`.
    """
    words, limit = config.env_blacklisted_words, config.hard_execution_timeout_seconds
    payload = await off_the_loop(len(body), partial(read_payload, body, words, limit, masks))
    return payload.definition(config.backoff, limit, now), payload.schedule(now)


async def off_the_loop(size: int, read: Callable[[], T]) -> T:
    """What *read* returns, which is called elsewhere where the body has more than a few bytes."""
    if size <= LARGE_BODY_BYTES:
        return read()
    return await asyncio.get_running_loop().run_in_executor(_READERS, read)


def read_payload(
    body: bytes,
    words: Sequence[str] = (),
    hard_timeout_seconds: float = math.inf,
    masks: Masks | None = None,
) -> JobPayload:
    """The payload in *body*.

    :param words: the value of a name that holds one of them is repeated in no message.
    :param hard_timeout_seconds: the longest ``timeout`` that is accepted.
    :param masks: restores what ``***`` stands for.
    :raises Problem: 400 with every error.
    """
    values = read_json_object(body)
    # What is wrong with each of a million items would take minutes to say. Metadata may be
    # anything, and a command has a bound of its own.
    check_items(inner for name, inner in values.items() if name not in {"metadata", "command"})
    given = [name for name in ("startAt", "startIn", "cron") if values.get(name) is not None]
    faults: list[Fault] = []
    if masks is not None:
        values = masks.restore(values, faults)
    if len(given) > 1:
        faults.append(
            Fault("", f"{' and '.join(given)} cannot be used together; give one of them.")
        )
    return validated(job_payload(), values, faults, words, hard_timeout_seconds)


def read_blacklist(body: bytes) -> str:
    """The host that *body* names.

    :raises Problem: 400, it names none.
    """
    return validated(BlacklistPayload, read_json_object(body) if body else {}, []).host


def validated(
    model: type[Model],
    values: Mapping[str, Any],
    faults: list[Fault],
    words: Sequence[str] = (),
    context: object = None,
) -> Model:
    """:raises Problem: there are *faults*, or more are found."""
    try:
        payload = model.model_validate(values, context=context)
    except ValidationError as error:
        faults += faults_of(error, model, words)
    if not faults:
        return payload
    count = "1 error" if len(faults) == 1 else f"{len(faults)} errors"
    if len(faults) > MAX_FAULTS:
        faults[MAX_FAULTS:] = [Fault("", f"{len(faults) - MAX_FAULTS} more errors.")]
    raise Problem(400, f"The payload has {count}.", faults=faults)
