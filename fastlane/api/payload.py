"""The payload of a job, from JSON text to a definition and a schedule.

The models are the contract's table: they validate, and the OpenAPI document is made from them.
Everything that is wrong is said at once, each with a JSON pointer (RFC 6901) and a sentence that
names the value and the remedy.
"""

from __future__ import annotations

import asyncio
import difflib
import ipaddress
import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NoReturn
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pytimeparse.timeparse import timeparse

from fastlane import cron as cron_rules
from fastlane.api.problems import Fault, Problem
from fastlane.model import (
    Backoff,
    Definition,
    ImageReference,
    Overlap,
    PullPolicy,
    Resources,
    Schedule,
)
from fastlane.redact import is_secret

# Bounds on single values; the body as a whole is bounded by MAX_BODY_BYTES.
MAX_WORDS = 10_000
# Bounds what is read on the event loop: a few milliseconds' worth.
LARGE_BODY_BYTES = 16 * 1024
MAX_ENTRIES = 1_000
MAX_TEXT = 128 * 1024
MAX_RETRIES = 10_000
MAX_HEADER_CHARS = 8192
MAX_NESTING = 50
# The last second that the API's form of a time can show.
MAX_UNIX_SECONDS = 253_402_300_799
# A time beyond the year 5138 is much likelier one in milliseconds.
MILLISECONDS_FROM = 1e11
MAX_DURATION_SECONDS = 10 * 366 * 24 * 3600
# Bounds the faults of one answer.
MAX_FAULTS = 100
# How much of a value a sentence repeats.
SHOWN_CHARS = 80

_DURATION = re.compile(r"(?:\d{1,9}[wdhms])+", re.ASCII)
_DURATION_ORDER = re.compile(
    r"(?:\d+w)?(?:\d+d)?(?:\d+h)?(?:\d+m)?(?:\d+s)?", re.ASCII | re.IGNORECASE
)
_SIZE = re.compile(r"(\d{1,15})([bkmg]?)", re.ASCII | re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
# The shape that HTML's <input type=email> takes (WHATWG HTML, 4.10.5.1.5).
_EMAIL = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}"
    r"@[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    r"(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*",
    re.ASCII,
)
# RFC 9110, section 5.6.2: token.
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}", re.ASCII)
_RESERVED_HEADERS = frozenset({"host", "content-length", "connection", "transfer-encoding"})
_DNS_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    r"(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*",
    re.ASCII,
)


class _Several(ValueError):
    """Faults of the entries of one object: each entry's name and what is wrong with it."""

    def __init__(self, faults: Mapping[str, str]) -> None:
        super().__init__("; ".join(faults.values()))
        self.faults = faults


def _raise_several(faults: Mapping[str, str]) -> None:
    if faults:
        raise _Several(faults)


def _check_word(word: str) -> None:
    if "\0" in word:
        raise ValueError("the command holds a NUL character; leave it out")
    if len(word) > MAX_TEXT:
        raise ValueError(
            f"the command holds a text of {len(word)} characters; at most {MAX_TEXT} are taken"
        )


def _image(text: str) -> str:
    ImageReference.parse(text)
    return text


def _command(value: object) -> object:
    if isinstance(value, str):
        _check_word(value)
        try:
            words = shlex.split(value)
        except ValueError as error:
            raise ValueError(
                f"{_shown(value)} cannot be split into words ({error}); close the quotes, or give "
                "a list of words"
            ) from error
        if not words:
            raise ValueError("the command is empty; give at least one word")
    elif isinstance(value, list):
        if not value or not all(isinstance(word, str) for word in value):
            raise ValueError("a command is a string or a list of at least one string")
        if not value[0]:
            raise ValueError("the first word of the command is empty; name a program")
        if len(value) > MAX_WORDS:
            raise ValueError(f"the command has {len(value)} words; at most {MAX_WORDS} are taken")
        for word in value:
            _check_word(word)
    else:
        raise ValueError(f"{_shown(value)} is not a command; give a string or a list of strings")
    return value


def _unix_seconds(value: float) -> float:
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{value:.15g} is not a time; give unix seconds, such as 1645113692")
    if value > MILLISECONDS_FROM:
        raise ValueError(f"{value:.15g} is beyond all times; give unix seconds, not milliseconds")
    return value


def _duration(text: str) -> str:
    if not _DURATION.fullmatch(text) or not _DURATION_ORDER.fullmatch(text):
        raise ValueError(
            f"{_shown(text)} is not a duration; write it with units, such as 10s, 2m30s, "
            "4h30m25s or 240h"
        )
    if duration_seconds(text) > MAX_DURATION_SECONDS:
        raise ValueError(f"{_shown(text)} is more than ten years; give a shorter duration")
    return text


def duration_seconds(text: str) -> float:
    """The seconds in a duration that the payload's model has accepted."""
    parsed = timeparse(text)
    assert parsed is not None
    return float(parsed)


def _email(text: str) -> str:
    if len(text) > 254 or not _EMAIL.fullmatch(text):
        raise ValueError(f"{_shown(text)} is not an e-mail address, such as ann@example.org")
    return text


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    well_formed = (
        parts.scheme in {"http", "https"}
        and bool(parts.hostname)
        and port != 0
        and len(text) <= 4096
        and not any(character.isspace() or ord(character) < 0x20 for character in text)
    )
    if "@" in parts.netloc:
        # Not shown: there is a password in it.
        raise ValueError("a webhook's URL holds no user or password; give them in its headers")
    if not well_formed:
        raise ValueError(
            f"{_shown(text)} is not a webhook's URL; give http://host/path or https://host/path"
        )
    return text


def _headers(headers: dict[str, str]) -> dict[str, str]:
    faults = {}
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            faults[name] = f"{_shown(name)} is not the name of a header, such as X-Token"
        elif name.lower() in _RESERVED_HEADERS:
            faults[name] = f"header {name} is set by fastlane itself; leave it out"
        elif any(character in value for character in "\r\n\0"):
            faults[name] = f"the value of header {name} holds a line break or NUL; leave it out"
        elif len(value) > MAX_HEADER_CHARS:
            faults[name] = (
                f"the value of header {name} has {len(value)} characters; "
                f"at most {MAX_HEADER_CHARS} are taken"
            )
        elif not all(ord(character) < 256 for character in value):
            faults[name] = f"the value of header {name} holds characters that are not Latin-1"
    _raise_several(faults)
    return headers


def _envs(envs: dict[str, str]) -> dict[str, str]:
    faults = {}
    for name, value in envs.items():
        if not name or "=" in name or "\0" in name:
            faults[name] = (
                f"{_shown(name)} is not the name of an environment variable; "
                "use a text without '=' and NUL"
            )
        elif "\0" in value:
            faults[name] = f"the value of {name} holds a NUL character; leave it out"
    _raise_several(faults)
    return envs


def _dns_entries(entries: dict[str, str]) -> dict[str, str]:
    faults = {}
    for name, address in entries.items():
        if not _DNS_NAME.fullmatch(name):
            faults[name] = f"{_shown(name)} is not a host name, such as db.internal"
            continue
        try:
            ipaddress.ip_address(address)
        except ValueError:
            faults[name] = f"{_shown(address)} (of {name}) is not an address, such as 10.0.0.7"
    _raise_several(faults)
    return entries


def _memory(value: object) -> object:
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match is None:
            raise ValueError(f"{_shown(value)} is not a size; give bytes, or 512m, 2g")
        value = int(match[1]) * _UNITS[match[2].lower()]
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{_shown(value)} is not a size; give bytes, or 512m, 2g")
    # Docker's own least; see the engine's daemon_unix.go (linuxMinMemory).
    if not 6 * 1024**2 <= value < 2**63:
        raise ValueError(f"{_shown(value)} is out of range; give at least 6m")
    return value


def _cron(text: str) -> str:
    cron_rules.check_cron(text)
    return text


def _timezone(text: str) -> str:
    cron_rules.check_timezone(text)
    return text


Text = Annotated[str, Field(max_length=MAX_TEXT)]
EmailAddress = Annotated[str, AfterValidator(_email)]
Addresses = Annotated[list[EmailAddress], Field(max_length=100)]
Strings = Annotated[dict[str, Text], Field(max_length=MAX_ENTRIES)]
Milliseconds = Annotated[float, Field(ge=0, le=7 * 24 * 3600 * 1000, allow_inf_nan=False)]


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, alias_generator=to_camel, validate_by_alias=True
    )


class BackoffPayload(_Model):
    """The delays between retries; what is left out is the server's default."""

    min_ms: Milliseconds | None = Field(default=None, description="Before the first retry.")
    factor: Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)] | None = Field(
        default=None, description="What the delay is multiplied by with each further retry."
    )
    max_ms: Milliseconds | None = Field(default=None, description="The longest delay.")


class NotifyPayload(_Model):
    """Who is told by e-mail how an execution ended."""

    succeeds: Addresses = Field(default_factory=list)
    fails: Addresses = Field(default_factory=list)
    finishes: Addresses = Field(default_factory=list)
    every_attempt: bool = Field(
        default=False, description="Tell of failures that are followed by a retry, too."
    )


class WebhookPayload(_Model):
    """A receiver of POST requests about an execution."""

    url: Annotated[str, AfterValidator(_url)]
    headers: Annotated[Strings, AfterValidator(_headers)] = Field(default_factory=dict)
    retries: Annotated[int, Field(ge=0, le=100)] = 0
    every_attempt: bool = False


Webhooks = Annotated[list[WebhookPayload], Field(max_length=100)]


class WebhooksPayload(_Model):
    """Who is told by HTTP what becomes of an execution."""

    starts: Webhooks = Field(default_factory=list)
    succeeds: Webhooks = Field(default_factory=list)
    fails: Webhooks = Field(default_factory=list)
    finishes: Webhooks = Field(default_factory=list)


class ResourcesPayload(_Model):
    """Limits of the container, capped by the farm's."""

    cpus: Annotated[float, Field(ge=0.01, le=4096, allow_inf_nan=False)] | None = None
    memory: Annotated[int | str, BeforeValidator(_memory)] | None = Field(
        default=None, description="Bytes, or a text like 512m."
    )
    pids: Annotated[int, Field(ge=1, le=4_194_304)] | None = None


class JobPayload(_Model):
    """What to run, when, and how."""

    image: Annotated[str, AfterValidator(_image)] = Field(
        description="Any image reference; no tag means latest.", examples=["ubuntu:latest"]
    )
    command: Annotated[str | list[str], BeforeValidator(_command)] = Field(
        description="A string is split as a shell splits words and run without a shell.",
        examples=["ls -lah"],
    )
    envs: Annotated[Strings, AfterValidator(_envs)] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(
        default_factory=dict, description="Kept as the job's metadata.custom."
    )
    start_at: Annotated[float, AfterValidator(_unix_seconds)] | None = Field(
        default=None, description="Unix seconds; the past means now."
    )
    start_in: Annotated[str, AfterValidator(_duration)] | None = Field(
        default=None, examples=["10s", "2m30s", "4h30m25s", "240h"]
    )
    cron: Annotated[str, AfterValidator(_cron)] | None = Field(
        default=None, description="Five fields.", examples=["*/5 * * * *"]
    )
    timezone: Annotated[str, AfterValidator(_timezone)] = Field(
        default="UTC", description="IANA zone of cron."
    )
    overlap: Literal["allow", "skip", "queue"] = Field(
        default="allow", description="What a tick does while the last execution still runs."
    )
    retries: Annotated[int, Field(ge=0, le=MAX_RETRIES)] = 0
    backoff: BackoffPayload = BackoffPayload()
    timeout: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None = Field(
        default=None, description="Seconds; capped by HARD_EXECUTION_TIMEOUT_SECONDS."
    )
    expiration: Annotated[float, AfterValidator(_unix_seconds)] | None = Field(
        default=None, description="Unix seconds by which it must have started."
    )
    notify: NotifyPayload = NotifyPayload()
    webhooks: WebhooksPayload = WebhooksPayload()
    resources: ResourcesPayload = ResourcesPayload()
    pull_policy: Literal["always", "missing", "never"] | None = None
    rerun_when_lost: bool = False
    additional_dns_entries: Annotated[Strings, AfterValidator(_dns_entries)] = Field(
        default_factory=dict, alias="additionalDNSEntries", examples=[{"db": "10.0.0.7"}]
    )

    @model_validator(mode="after")
    def _one_time(self) -> JobPayload:
        given = [
            name
            for name, value in (
                ("startAt", self.start_at),
                ("startIn", self.start_in),
                ("cron", self.cron),
            )
            if value is not None
        ]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other; give one of them")
        return self

    def definition(self, backoff: Backoff, hard_timeout_seconds: float) -> Definition:
        """What the job runs; *backoff* is for what the payload leaves out."""
        min_ms = backoff.min_ms if self.backoff.min_ms is None else self.backoff.min_ms
        max_ms = backoff.max_ms if self.backoff.max_ms is None else self.backoff.max_ms
        factor = backoff.factor if self.backoff.factor is None else self.backoff.factor
        timeout = hard_timeout_seconds if self.timeout is None else self.timeout
        command = self.command if isinstance(self.command, str) else tuple(self.command)
        memory = self.resources.memory
        assert not isinstance(memory, str)
        return Definition(
            image=self.image,
            command=command,
            envs=self.envs,
            custom=self.metadata,
            retries=self.retries,
            backoff=Backoff(min_ms, factor, max_ms),
            timeout_seconds=min(timeout, hard_timeout_seconds),
            expires_at=self.expiration,
            overlap=Overlap(self.overlap),
            notify=self.notify.model_dump(by_alias=True),
            webhooks=self.webhooks.model_dump(by_alias=True),
            resources=Resources(self.resources.cpus, memory, self.resources.pids),
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


class _Malformed(ValueError):
    """A text that is not the JSON that we take; the message says why."""


def _no_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _Malformed(f"The key {_shown(name)} stands there twice.")
        found[name] = value
    return found


def _refuse_constant(text: str) -> NoReturn:
    raise _Malformed(f"{text} is not a JSON number.")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Malformed(f"The number {text[:SHOWN_CHARS]} is too large; at most 1.7e308 is taken.")
    return value


def _bounded_int(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise _Malformed(
            f"The number {text[:SHOWN_CHARS]} is too large; whole ones lie within ±{2**63 - 1}."
        )
    return int(text)


def read_json_object(body: bytes) -> dict[str, Any]:
    """The object in *body*, whatever the content type says.

    :raises Problem: 400; it is not one, or holds what RFC 8259 does not allow or leaves open.
    """
    if not body.strip():
        raise Problem(400, "The body is empty; send a JSON object with image and command.")
    try:
        text = body.decode("utf-8")
        if text.startswith("\ufeff"):
            raise _Malformed("It begins with a byte order mark; leave that out.")
        found = json.loads(
            text,
            object_pairs_hook=_no_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_bounded_int,
        )
        if _nesting(found) > MAX_NESTING:
            raise _Malformed(f"It is nested more than {MAX_NESTING} deep.")
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise Problem(
            400, f"The body is not UTF-8 text (byte {error.start} of it); send JSON in UTF-8."
        ) from error
    except UnicodeEncodeError as error:
        raise Problem(
            400, "The body holds half of a surrogate pair (\\ud800 to \\udfff), which is no text."
        ) from error
    except _Malformed as error:
        raise Problem(400, f"The body is not the JSON that is taken here. {error}") from error
    except RecursionError as error:
        raise Problem(400, f"The body is nested more than {MAX_NESTING} deep.") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        message = error.msg.removesuffix(" at")
        raise Problem(400, f"The body is not JSON: {message} at {where}.") from error
    if not isinstance(found, dict):
        raise Problem(
            400, f"The body is {_kind(found)}; send a JSON object with image and command."
        )
    return found


def _nesting(value: object) -> int:
    depth, level = 0, [value]
    while level and depth <= MAX_NESTING + 1:
        depth += 1
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
        level = inner
    return depth


async def take_payload(body: bytes, words: Sequence[str] = ()) -> JobPayload:
    """:func:`read_payload`, off the event loop where the body is large enough to hold it up."""
    if len(body) > LARGE_BODY_BYTES:
        return await asyncio.to_thread(read_payload, body, words)
    return read_payload(body, words)


def read_payload(body: bytes, words: Sequence[str] = ()) -> JobPayload:
    """The payload in *body*.

    :param words: the value of a name that holds one of them is repeated in no message.
    :raises Problem: 400 with every fault that there is.
    """
    values = read_json_object(body)
    try:
        return JobPayload.model_validate(values)
    except ValidationError as error:
        faults = list(_faults(error, values, words))
        count = "One thing is" if len(faults) == 1 else f"{len(faults)} things are"
        if len(faults) > MAX_FAULTS:
            more = Fault("", f"{len(faults) - MAX_FAULTS} more things are wrong.")
            faults[MAX_FAULTS:] = [more]
        raise Problem(
            400, f"{count} wrong with the payload: {faults[0].message}", faults=faults
        ) from error


class BlacklistPayload(_Model):
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


def read_blacklist(body: bytes) -> str:
    """The host that *body* names.

    :raises Problem: 400, it names none.
    """
    values = read_json_object(body) if body else {}
    host = values.get("host")
    if set(values) != {"host"} or not isinstance(host, str) or not 1 <= len(host) <= 255:
        fault = Fault("/host", 'host must be the name of a host, like "localhost:1234".')
        raise Problem(400, 'Send {"host": "name:port"} and nothing else.', faults=[fault])
    return host


def _faults(
    error: ValidationError, values: Mapping[str, Any], words: Sequence[str]
) -> Iterator[Fault]:
    seen: set[str] = set()
    count = 0
    for fault in error.errors(include_url=False):
        path = list(fault["loc"])
        if path[:1] == ["command"] or path[:2] == ["resources", "memory"]:
            # What follows is pydantic's name for an arm of the union.
            del path[1 if path[0] == "command" else 2 :]
        pointer = _pointer(path)
        if pointer in seen:
            continue
        seen.add(pointer)
        cause = fault.get("ctx", {}).get("error")
        if isinstance(cause, _Several):
            for name, message in cause.faults.items():
                yield Fault(_pointer([*path, name]), f"{_name(path)}: {message}.")
            continue
        count += 1
        # Nobody reads so many, and looking for the nearest key takes its time.
        message = _sentence(fault, path, words) if count <= MAX_FAULTS else ""
        yield Fault(pointer, message)
    for first, second in (("startAt", "startIn"), ("startAt", "cron"), ("startIn", "cron")):
        # The model's own check is not reached while a field is at fault: say it all the same.
        both = values.get(first) is not None and values.get(second) is not None
        if both and "" not in seen:
            yield Fault("", f"{first} and {second} exclude each other; give one of them.")


def _pointer(path: Sequence[int | str]) -> str:
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)


def _name(path: Sequence[int | str]) -> str:
    name = ".".join(str(part) for part in path)
    return name if len(name) <= SHOWN_CHARS else f"{name[:SHOWN_CHARS]}…"


_TYPES = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


_HINTS = {
    "image": ", such as ubuntu:latest",
    "startAt": " of unix seconds, such as 1645113692",
    "startIn": " with units, such as 5m or 2h30m",
    "cron": ' of five fields, such as "*/5 * * * *"',
    "timezone": ", such as Europe/Berlin",
    "timeout": " of seconds, such as 30",
    "expiration": " of unix seconds, such as 1645113692",
    "retries": ", such as 3",
    "envs": " of names and strings",
    "notify.succeeds": " of e-mail addresses",
    "notify.fails": " of e-mail addresses",
    "notify.finishes": " of e-mail addresses",
    "additionalDNSEntries": " of host names and addresses",
}


def _sentence(fault: Any, path: Sequence[int | str], words: Sequence[str]) -> str:
    kind, context = fault["type"], fault.get("ctx", {})
    name, value = _name(path), _shown_at(path, fault.get("input"), words)
    match kind:
        case "missing":
            return f"{name} is missing; it must be given."
        case "extra_forbidden":
            where = f"of {_name(path[:-1])}" if len(path) > 1 else "of the payload"
            return f"{_shown(path[-1])} is not a key {where}; the nearest one is {_nearest(path)}."
        case "value_error":
            text = str(context["error"]).rstrip(".")
            return f"{name}: {text}." if name else f"{text}."
        case "literal_error":
            return f"{name} is {value}; it must be one of {context['expected']}."
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            bound = f"{next(iter(context.values())):.15g}"
            how = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
            return f"{name} is {value}; it must be {how[next(iter(context))]} {bound}."
        case "too_long":
            return f"{name} has too many entries; at most {context['max_length']} are taken."
        case "string_too_long":
            return f"{name} has too many characters; at most {context['max_length']} are taken."
    wanted = _TYPES.get(kind)
    if wanted is not None:
        return f"{name} is {value}; it must be {wanted}{_HINTS.get(name, '')}."
    return f"{name} is {value}: {fault['msg']}."


_MODELS: Mapping[str, type[BaseModel]] = {
    "backoff": BackoffPayload,
    "notify": NotifyPayload,
    "webhooks": WebhooksPayload,
    "resources": ResourcesPayload,
}


def _nearest(path: Sequence[int | str]) -> str:
    model: type[BaseModel] = JobPayload
    if len(path) > 1:
        model = _MODELS.get(str(path[0]), JobPayload)
        if model is WebhooksPayload and len(path) > 2:
            model = WebhookPayload
    known = [field.alias or name for name, field in model.model_fields.items()]
    lowered = {key.lower().replace("_", ""): key for key in known}
    wanted = str(path[-1]).lower().replace("_", "")[:100]
    close = difflib.get_close_matches(wanted, lowered, n=1, cutoff=0)
    return _shown(lowered[close[0]] if close else known[0])


_SHOWN_NOT = frozenset({"envs", "headers"})


def _shown_at(path: Sequence[int | str], value: object, words: Sequence[str]) -> str:
    """*value* as a sentence shows it; what may be a secret is named by its kind only."""
    if any(is_secret(str(part), words) for part in path):
        return _kind(value)
    if _SHOWN_NOT.intersection(map(str, path)) and isinstance(value, (str, list, dict)):
        return _kind(value)
    return _shown(value)


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
    return "an object"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"
