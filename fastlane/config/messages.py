"""What is said of the options: faults, misspellings, warnings, and the list of all options."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from fastlane.config.farms import LIMIT_KEYS, TLS_KEYS
from fastlane.config.options import ENGINES, Config, OtherOption
from fastlane.config.types import SHOWN_CHARS, default_data_dir, is_loopback
from fastlane.model import Farm
from fastlane.redact import HIDDEN

NAMES = tuple(name.upper() for name in Config.model_fields)

# How similar (0 to 1) a variable's name must be to an option's to count as a misspelling of it.
_MISSPELLING_RATIO = 0.84
# Names shorter than this are too common for a guess: PORTS, HOSTS.
_MISSPELLING_MIN_CHARS = 6


def unknown(name: str, place: str) -> str:
    close = difflib.get_close_matches(name.upper(), NAMES, n=1, cutoff=0.6)
    remedy = f"did you mean {close[0]}?" if close else "`fastlane config` lists every option."
    return f"{name[:SHOWN_CHARS]} in {place} is not an option: {remedy}"


def sentences(
    error: ValidationError, values: Mapping[str, Any], origins: Mapping[str, str]
) -> Iterator[str]:
    """One sentence per fault: the option, its value and where that stands, and the remedy."""
    seen = set()
    for fault in error.errors(include_url=False):
        name = str(fault["loc"][0])
        cause = fault.get("ctx", {}).get("error")
        value = values.get(name, "")
        if isinstance(cause, OtherOption):
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
    return repr(text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}...")


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
        entry["tls"] = {key: path for key in TLS_KEYS if (path := getattr(farm.tls, key))}
    limits = (farm.limits.cpus, farm.limits.memory_bytes, farm.limits.pids)
    if any(limit is not None for limit in limits):
        entry["limits"] = {
            key: limit for key, limit in zip(LIMIT_KEYS, limits, strict=True) if limit is not None
        }
    if farm.images:
        entry["images"] = list(farm.images)
    if farm.registry_auth:
        entry["registryAuth"] = dict.fromkeys(farm.registry_auth, HIDDEN)
    return entry


def warnings(config: Config) -> list[str]:
    """A sentence for everything in *config* that is allowed, but hardly what was meant."""
    found = []
    if "healthcheck_open" in config.model_fields_set:
        found.append(
            "HEALTHCHECK_OPEN is ignored: /healthcheck/ never asks for credentials; remove it."
        )
    if "notifier" in config.roles and not config.public_url:
        if "api" not in config.roles:
            found.append(
                "PUBLIC_URL is not set: links in notifications lead to this instance, which has no "
                "api role; set PUBLIC_URL to the URL under which people reach the API."
            )
        elif config.smtp_host and is_loopback(config.host):
            found.append(
                f"PUBLIC_URL is not set: links in notifications lead to {config.host}, which only "
                "this machine can open; set PUBLIC_URL to the URL under which people reach it."
            )
    taken_by = None
    for farm in config.docker_hosts:
        if taken_by is not None:
            found.append(
                f"Farm {farm.name} gets no task: farm {taken_by} before it has an empty match and "
                "takes them all."
            )
        if not farm.match and taken_by is None:
            taken_by = farm.name
        if config.executor in ENGINES and farm.tls is None and not config.docker_tls_verify:
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
        if name in NAMES or not name.isupper() or len(name) < _MISSPELLING_MIN_CHARS:
            continue
        close = difflib.get_close_matches(name, NAMES, n=1, cutoff=_MISSPELLING_RATIO)
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
