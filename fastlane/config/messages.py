"""The sentences about options: faults, misspellings, warnings, and the list of all options."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from fastlane.checks import closest, is_loopback
from fastlane.config.farms import written
from fastlane.config.options import Config
from fastlane.config.related import OtherOption
from fastlane.config.types import SHOWN_CHARS, default_data_dir
from fastlane.executors import registry
from fastlane.executors.base import Capabilities
from fastlane.model import Farm
from fastlane.policy import farm_caps
from fastlane.redact import HIDDEN

NAMES = tuple(name.upper() for name in Config.model_fields)

# How similar (0 to 1) a variable's name must be to an option's to count as a misspelling of it.
_MISSPELLING_RATIO = 0.84
# Names shorter than this are too common for a guess: PORTS, HOSTS.
_MISSPELLING_MIN_CHARS = 6


def unknown(name: str, place: str) -> str:
    close = closest(name[:SHOWN_CHARS].upper(), NAMES)
    remedy = f"did you mean {close}?" if close else "`fastlane config` lists every option."
    return f"{name[:SHOWN_CHARS]} in {place} is not an option: {remedy}"


def sentences(
    error: ValidationError, values: Mapping[str, Any], origins: Mapping[str, str]
) -> Iterator[str]:
    """One sentence per fault: the option, its value and where it is set, and the remedy."""
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
    return quoted(text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}...")


def quoted(text: str) -> str:
    """*text* in quotation marks and on one line."""
    return f'"{"".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)}"'


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
        case (Farm(), *_) as farms:
            return json.dumps([written(farm) for farm in farms if isinstance(farm, Farm)])
        case tuple():
            return ",".join(map(str, value))
    return str(value)


def warnings(config: Config) -> list[str]:
    """A sentence for everything in *config* that is allowed, but probably a mistake."""
    found: list[str] = []
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
    catch_all = None
    for farm in config.docker_hosts:
        factory = registry.factory(farm.executor)
        if catch_all is not None:
            found.append(
                f'Farm "{farm.name}" gets no tasks: farm "{catch_all}" before it has an empty '
                "match, which accepts all of them."
            )
        elif not farm.match:
            catch_all = farm.name
        found += _unsupported(farm, factory.capabilities)
        found += _uncapped(config, farm, factory.capabilities)
        found += factory.warnings(config, farm)
    return found


def _uncapped(config: Config, farm: Farm, capabilities: Capabilities) -> Iterator[str]:
    """What one run on the farm may use up."""
    caps = farm_caps(farm, config.resources)
    spared = capabilities.spares_host and not config.memory_unlimited
    uncapped = {
        "memory": caps.memory_bytes is None and not spared,
        "disk": caps.disk_bytes is None,
    }
    if names := [name for name in uncapped if uncapped[name] and name in capabilities.limits]:
        options = " and ".join(f"DEFAULT_{name.upper()}" for name in names)
        yield (
            f'Farm "{farm.name}" limits no {" and no ".join(names)}: one run can use up all of '
            f"its host. Set {options}, or limits of the farm."
        )


def _unsupported(farm: Farm, capabilities: Capabilities) -> Iterator[str]:
    """What the farm asks of an executor that cannot do it."""
    limits = {
        "cpus": farm.limits.cpus,
        "memory": farm.limits.memory_bytes,
        "pids": farm.limits.pids,
        "disk": farm.limits.disk_bytes,
    }
    asked = {name for name, limit in limits.items() if limit is not None}
    for name in sorted(asked - capabilities.limits):
        yield (
            f'Farm "{farm.name}" limits {name}, which the {farm.executor} executor does not '
            "enforce."
        )
    if farm.images and not capabilities.images:
        yield f'Farm "{farm.name}" restricts images, but the {farm.executor} executor uses none.'


def misspellings(environ: Mapping[str, str] | None = None) -> list[str]:
    """A sentence for every variable of *environ* that looks like a misspelt option."""
    environ = os.environ if environ is None else environ
    found = []
    for name in sorted(environ):
        if name in NAMES or not name.isupper() or len(name) < _MISSPELLING_MIN_CHARS:
            continue
        close = closest(name, NAMES, least=_MISSPELLING_RATIO)
        if close and close not in environ:
            found.append(f"{name} in the environment is ignored: did you mean {close}?")
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
    origin: str
    """Where the value comes from, such as "in the environment"; empty for a default."""
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
                origin=config.origins.get(name, ""),
                secret=secret,
            )
        )
    return listed
