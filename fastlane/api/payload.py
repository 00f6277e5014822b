"""The payload of a job, from JSON text to a definition and a schedule.

The models are the contract's table: they validate, and the OpenAPI document is made from them.
Everything that is wrong is said at once, each with a JSON pointer (RFC 6901) and a sentence that
names the value and the remedy.
"""

from __future__ import annotations

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

# Bounds on single values; the body as a whole is bounded by MAX_BODY_BYTES.
MAX_WORDS = 10_000
MAX_ENTRIES = 1_000
MAX_TEXT = 128 * 1024
MAX_RETRIES = 10_000
MAX_NESTING = 50
# The last second that the API's form of a time can show.
MAX_UNIX_SECONDS = 253_402_300_799
# A time beyond the year 5138 is much likelier one in milliseconds.
MILLISECONDS_FROM = 1e11
MAX_DURATION_SECONDS = 10 * 366 * 24 * 3600
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


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL character; leave it out")
    return text


def _image(text: str) -> str:
    ImageReference.parse(text)
    return text


def _command(value: object) -> object:
    if isinstance(value, str):
        try:
            words = shlex.split(value)
        except ValueError as error:
            raise ValueError(
                f"{_shown(value)} cannot be split into words ({error}); close the quotes, or give "
                "a list of words"
            ) from error
        if not words:
            raise ValueError("the command is empty; give at least one word")
        _no_nul(value)
    elif isinstance(value, list):
        if not value or not all(isinstance(word, str) for word in value):
            raise ValueError("a command is a string or a list of at least one string")
        if not value[0]:
            raise ValueError("the first word of the command is empty; name a program")
        if len(value) > MAX_WORDS:
            raise ValueError(f"the command has {len(value)} words; at most {MAX_WORDS} are taken")
        for word in value:
            _no_nul(word)
    else:
        raise ValueError(f"{_shown(value)} is not a command; give a string or a list of strings")
    return value


def _unix_seconds(value: float) -> float:
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{_shown(value)} is not a time; give unix seconds, such as 1645113692")
    if value > MILLISECONDS_FROM:
        raise ValueError(
            f"{_shown(value)} is beyond all times; give unix seconds, not milliseconds"
        )
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
        and "@" not in parts.netloc
    )
    if not well_formed:
        raise ValueError(
            f"{_shown(text)} is not a webhook's URL; give http://host/path or https://host/path, "
            "credentials in its headers"
        )
    return text


def _headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{_shown(name)} is not the name of a header")
        if name.lower() in _RESERVED_HEADERS:
            raise ValueError(f"header {name} is set by fastlane itself; leave it out")
        if any(character in value for character in "\r\n\0") or len(value) > 8192:
            raise ValueError(f"the value of header {name} holds a line break or is too long")
        try:
            value.encode("latin-1")
        except UnicodeEncodeError:
            raise ValueError(f"the value of header {name} is not Latin-1 text") from None
    return headers


def _envs(envs: dict[str, str]) -> dict[str, str]:
    for name, value in envs.items():
        if not name or "=" in name or "\0" in name:
            raise ValueError(f"{_shown(name)} is not the name of an environment variable")
        if "\0" in value:
            raise ValueError(f"the value of {name} holds a NUL character; leave it out")
    return envs


def _dns_entries(entries: dict[str, str]) -> dict[str, str]:
    for name, address in entries.items():
        if not _DNS_NAME.fullmatch(name):
            raise ValueError(f"{_shown(name)} is not a host name")
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise ValueError(
                f"{_shown(address)} (of {name}) is not an address, such as 10.0.0.7"
            ) from None
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
        raise _Malformed(f"The number {_shown(text)} is too large.")
    return value


def _bounded_int(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise _Malformed(f"The number {_shown(text)} is too large.")
    return int(text)


def read_json_object(body: bytes) -> dict[str, Any]:
    """The object in *body*, whatever the content type says.

    :raises Problem: 400; it is not one, or holds what RFC 8259 does not allow or leaves open.
    """
    try:
        text = body.decode("utf-8")
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
        raise Problem(400, f"The body is not UTF-8 text (byte {error.start}).") from error
    except UnicodeEncodeError as error:
        raise Problem(400, "The body holds half of a surrogate pair, which is no text.") from error
    except _Malformed as error:
        raise Problem(400, f"The body is not the JSON that is taken here. {error}") from error
    except RecursionError as error:
        raise Problem(400, f"The body is nested more than {MAX_NESTING} deep.") from error
    except ValueError as error:
        raise Problem(400, f"The body is not JSON: {error}.") from error
    if not isinstance(found, dict):
        raise Problem(400, "The body is not a JSON object; send {…} with image and command.")
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


def read_payload(body: bytes) -> JobPayload:
    """The payload in *body*.

    :raises Problem: 400 with every fault that there is.
    """
    values = read_json_object(body)
    try:
        return JobPayload.model_validate(values)
    except ValidationError as error:
        faults = tuple(_faults(error, values))
        count = "One thing is" if len(faults) == 1 else f"{len(faults)} things are"
        raise Problem(
            400, f"{count} wrong with the payload: {faults[0].message}", faults=faults
        ) from error


def _faults(error: ValidationError, values: Mapping[str, Any]) -> Iterator[Fault]:
    seen: set[str] = set()
    for fault in error.errors(include_url=False):
        path = [part for part in fault["loc"] if not _is_union_arm(part)]
        pointer = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)
        if pointer in seen:
            continue
        seen.add(pointer)
        yield Fault(pointer, _sentence(fault, path))
    for first, second in (("startAt", "startIn"), ("startAt", "cron"), ("startIn", "cron")):
        # The model's own check is not reached while a field is at fault: say it all the same.
        both = values.get(first) is not None and values.get(second) is not None
        if both and "" not in seen:
            yield Fault("", f"{first} and {second} exclude each other; give one of them.")


def _is_union_arm(part: int | str) -> bool:
    """Whether pydantic put *part* into a location to name an arm of a union or a validator."""
    return isinstance(part, str) and part.startswith(("function-", "constrained-", "literal["))


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


def _sentence(fault: Any, path: Sequence[int | str]) -> str:
    kind, context, value = fault["type"], fault.get("ctx", {}), fault.get("input")
    name = ".".join(str(part) for part in path)
    match kind:
        case "missing":
            return f"{name} is missing; it must be given."
        case "extra_forbidden":
            return f"{_shown(path[-1])} is not a key that is known here{_nearest(path)}."
        case "value_error":
            text = str(context["error"]).rstrip(".")
            return f"{name}: {text}." if name else f"{text}."
        case "literal_error":
            return f"{name} is {_shown(value)}; it must be one of {context['expected']}."
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            bound = next(iter(context.values()))
            words = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
            return f"{name} is {_shown(value)}; it must be {words[next(iter(context))]} {bound}."
        case "too_long" | "string_too_long":
            return f"{name} is too long; at most {context['max_length']} are taken."
    wanted = _TYPES.get(kind)
    if wanted is not None:
        return f"{name} is {_shown(value)}; it must be {wanted}."
    return f"{name} is {_shown(value)}: {fault['msg']}."


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
    return f"; the nearest that is, is {lowered[close[0]]!r}" if close else ""


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"
