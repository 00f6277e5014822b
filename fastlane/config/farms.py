"""The farms of ``DOCKER_HOSTS``: what all of them share. The rest is read by their executors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
)
from pydantic.alias_generators import to_camel

from fastlane.checks import closest, shown
from fastlane.config.types import parse_size
from fastlane.executors import registry
from fastlane.executors.base import ExecutorFactory, FarmOptions
from fastlane.model import Farm, Network, Resources
from fastlane.patterns import pattern

# Bounds a farm's pattern: it is run on every task id.
_PATTERN_MAX_CHARS = 1000
# Bounds the patterns of a farm's images: each may be run on every image that is submitted.
_IMAGES_MAX = 100


def _compiles(text: str, info: ValidationInfo) -> str:
    try:
        pattern(text)
    except ValueError as error:
        raise ValueError(
            f"{shown(text)} in {info.field_name} is not a regular expression in RE2's syntax "
            f"({error})"
        ) from error
    return text


def _each_once(hosts: list[str]) -> list[str]:
    if len(set(hosts)) != len(hosts):
        raise ValueError("hosts contains the same host twice")
    return hosts


def _known(name: str) -> str:
    if name not in registry.names():
        raise ValueError(f"executor must be one of {', '.join(registry.names())}")
    return name


Pattern = Annotated[str, Field(max_length=_PATTERN_MAX_CHARS), AfterValidator(_compiles)]
Host = Annotated[str, Field(min_length=1)]


class _Model(BaseModel):
    """A field's description completes the sentence "KEY must be …"."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", alias_generator=to_camel)


class _Limits(_Model):
    cpus: float | None = Field(
        default=None,
        ge=0.01,
        le=4096,
        allow_inf_nan=False,
        description="a number from 0.01 to 4096",
    )
    memory: Annotated[int | None, BeforeValidator(parse_size)] = Field(
        default=None, ge=6 * 1024**2, description="a size from 6m, like 512m"
    )
    pids: int | None = Field(
        default=None, ge=1, le=4_194_304, description="a whole number from 1 to 4194304"
    )
    disk: Annotated[int | None, BeforeValidator(parse_size)] = Field(
        default=None, ge=1024**2, description="a size from 1m, like 10g"
    )


class _Entry(_Model):
    """A farm as it is written; keys that are not here are its executor's."""

    model_config = ConfigDict(extra="allow")

    name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]{1,63}\z",
        description="1 to 63 letters, digits, dots, dashes or underscores",
    )
    match: Pattern = Field(
        default="", description=f"a pattern of at most {_PATTERN_MAX_CHARS} characters"
    )
    hosts: Annotated[list[Host], AfterValidator(_each_once)] = Field(
        min_length=1, description="a list of at least one host"
    )
    max_running: int | None = Field(
        default=None, ge=1, le=10_000, description="a whole number from 1 to 10000"
    )
    max_running_per_task: int | None = Field(
        default=None, ge=1, le=10_000, description="a whole number from 1 to 10000"
    )
    limits: _Limits | None = Field(
        default=None, description="an object of cpus, memory, pids and disk"
    )
    images: list[Pattern] | None = Field(
        default=None,
        min_length=1,
        max_length=_IMAGES_MAX,
        description=f"a list of 1 to {_IMAGES_MAX} patterns",
    )
    network: Literal["bridge", "none", "isolated"] = Field(
        default="bridge", description="bridge, none or isolated"
    )
    executor: Annotated[str, AfterValidator(_known)] | None = Field(
        default=None, description="the name of an executor"
    )


def parse_farms(text: str, max_running: int, default: str | None) -> Iterator[Farm]:
    """The farms in *text*.

    :param max_running: for farms that set none.
    :param default: the name of the executor of farms that neither name nor imply one; None where
        ``EXECUTOR`` itself is faulty, so that such a farm's own part cannot be checked.
    :raises ValueError: the first fault, in a clause that names the farm by its place.
    """
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({error})") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError("it is not a list of at least one farm")
    names: set[str] = set()
    connections: dict[str, tuple[str, object]] = {}
    for number, entry in enumerate(entries, 1):
        try:
            farm = _parse_farm(entry, number, max_running, default)
            if farm.name in names:
                raise ValueError(f"the name {shown(farm.name)} is used by another farm")
            for host in farm.hosts:
                _check_shared(host, farm, connections)
        except ValueError as error:
            raise ValueError(f"in farm {number}, {error}") from error
        names.add(farm.name)
        yield farm


def _parse_farm(entry: object, number: int, max_running: int, default: str | None) -> Farm:
    if not isinstance(entry, dict):
        raise ValueError("there is no JSON object")
    # First, because a misspelt key is reported as a missing one otherwise.
    known = [*_keys(_Entry)]
    for each in registry.names():
        known += [key for key in _keys(registry.factory(each).options) if key not in known]
    for key in entry:
        if key not in known:
            raise ValueError(_unknown(key, "", known))
    try:
        read = _Entry.model_validate(entry)
    except ValidationError as error:
        raise ValueError(_clause(error, _Entry)) from error
    name = read.executor or executor_of(read.hosts, default)
    options = None
    if name is not None:
        options = _options(registry.factory(name), read.hosts, read.model_extra or {})
        _check_network(read, registry.factory(name))
    limits = read.limits or _Limits()
    return Farm(
        read.name or ("default" if number == 1 else f"farm-{number}"),
        tuple(read.hosts),
        read.max_running or max_running,
        read.match,
        limits=Resources(limits.cpus, limits.memory, limits.pids, limits.disk),
        images=tuple(read.images or ()),
        network=Network(read.network),
        image_ids=not (read.images or (options and options.private_images)),
        executor=name or "",
        options=options,
        max_running_per_task=read.max_running_per_task,
    )


def executor_of(hosts: Sequence[str], default: str | None) -> str | None:
    """The executor that the schemes of *hosts* imply.

    :raises ValueError: they imply several.
    """
    if default is None:
        return None
    implied = {registry.name_for(host, default) for host in hosts}
    if len(implied) > 1:
        raise ValueError(
            f"the hosts belong to different executors ({', '.join(sorted(implied))}); "
            "make a farm for each"
        )
    return implied.pop()


def _options(
    factory: ExecutorFactory, hosts: Sequence[str], keys: Mapping[str, object]
) -> FarmOptions:
    try:
        options = factory.options.model_validate(keys)
    except ValidationError as error:
        raise ValueError(_clause(error, factory.options, also=_keys(_Entry))) from error
    for host in hosts:
        factory.check_host(host, options)
    return options


def _check_network(read: _Entry, factory: ExecutorFactory) -> None:
    able = factory.capabilities.networks
    if "network" in read.model_fields_set and read.network not in able:
        remedy = f"use {' or '.join(sorted(able))}" if able else "leave it out"
        raise ValueError(
            f"network {shown(read.network)} is not supported by the {factory.name} executor; "
            f"{remedy}"
        )


def _check_shared(host: str, farm: Farm, connections: dict[str, tuple[str, object]]) -> None:
    """A host in several farms is one host, which is reached in one way."""
    options = farm.options if isinstance(farm.options, FarmOptions) else FarmOptions()
    executor, connection = connections.setdefault(host, (farm.executor, options.connection))
    if executor != farm.executor:
        raise ValueError(f"host {shown(host)} belongs to the {executor} executor of a farm before")
    if connection != options.connection:
        raise ValueError(f"host {shown(host)} is reached in another way than in a farm before")


def _clause(error: ValidationError, model: type[BaseModel], also: Sequence[str] = ()) -> str:
    """The first fault in *error* as a clause.

    :param also: keys that are known in addition to the model's.
    """
    fault = error.errors(include_url=False)[0]
    if isinstance(cause := fault.get("ctx", {}).get("error"), ValueError) and not (
        fault["loc"] and fault["loc"][-1] in {"memory", "disk"}
    ):
        return str(cause)
    *parents, key = [part for part in fault["loc"] if isinstance(part, str)]
    for parent in parents:
        model, also = _model_of(model, parent), ()
    place = "".join(f" in {parent}" for parent in reversed(parents))
    if fault["type"] == "extra_forbidden":
        return _unknown(key, place, [*also, *_keys(model)])
    (description,) = (
        field.description for name, field in model.model_fields.items() if _key(model, name) == key
    )
    return f"{key}{place} must be {description}"


def _unknown(key: str, place: str, keys: Sequence[str]) -> str:
    close = closest(key, keys)
    remedy = f"did you mean {shown(close)}?" if close else f"use one of {', '.join(keys)}"
    return f"{shown(key)}{place} is not a known key: {remedy}"


def _keys(model: type[BaseModel]) -> list[str]:
    return [_key(model, name) for name in model.model_fields]


def _key(model: type[BaseModel], name: str) -> str:
    return model.model_fields[name].alias or name


def _model_of(model: type[BaseModel], key: str) -> type[BaseModel]:
    """The model of the object below *key*."""
    (annotation,) = (
        field.annotation for name, field in model.model_fields.items() if _key(model, name) == key
    )
    return next(
        each
        for each in (annotation, *get_args(annotation))
        if isinstance(each, type) and issubclass(each, BaseModel)
    )


def written(farm: Farm) -> dict[str, object]:
    """A farm as it would be written in ``DOCKER_HOSTS``, without its secrets."""
    entry: dict[str, Any] = {
        "name": farm.name,
        "match": farm.match,
        "hosts": list(farm.hosts),
        "maxRunning": farm.max_running,
        "executor": farm.executor,
    }
    if farm.max_running_per_task is not None:
        entry["maxRunningPerTask"] = farm.max_running_per_task
    limits = zip(_keys(_Limits), astuple(farm.limits), strict=True)
    if found := {key: limit for key, limit in limits if limit is not None}:
        entry["limits"] = found
    if farm.network is not Network.BRIDGE:
        entry["network"] = str(farm.network)
    if farm.images:
        entry["images"] = list(farm.images)
    if isinstance(farm.options, FarmOptions):
        entry |= farm.options.shown()
    return entry
