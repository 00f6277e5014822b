"""From the JSON of an answer to frozen records.

A key that this version does not know is ignored, so a newer server can be used; it is still in
``raw``. A key that an older server does not send gets the default of its field.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from fastlane_client.errors import UnexpectedAnswer

R = TypeVar("R", bound="Record")

Decode = Callable[[Any], Any]
Plan = Sequence[tuple[str, str, bool, Decode]]
"""Of each field: its name, its key, whether it must be there, and how its value is read."""
_plans: dict[type[Any], Plan] = {}


class OpenEnum(StrEnum):
    """An enum that a newer server may add values to: each becomes a member of its own."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_ = value.upper().replace("-", "_")
        member._value_ = value
        # The same object each time, so that `is` works as with other members.
        return cls._value2member_map_.setdefault(value, member)  # type: ignore[return-value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The base of all that is read from an answer."""

    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The object as the server sent it."""


def named(key: str, **more: Any) -> Any:
    """A field whose key is not its name in camel case."""
    return field(metadata={"key": key}, **more)


def loads(body: bytes, what: str) -> Any:
    """JSON.

    :param what: where it is from, for the message.
    :raises UnexpectedAnswer: it is not JSON.
    """
    try:
        return json.loads(body)
    except ValueError as error:
        message = f"{what} does not answer like fastlane: is that the URL of a server?"
        raise UnexpectedAnswer(message) from error


def decode(kind: type[R], data: Any) -> R:
    """The record of *kind* in *data*.

    :raises UnexpectedAnswer: *data* is something else.
    """
    if not isinstance(data, dict):
        raise UnexpectedAnswer(f"The server sent {_shown(data)} where it had to send an object.")
    values: dict[str, Any] = {}
    for name, key, required, read in _plan(kind):
        if key in data:
            try:
                values[name] = read(data[key])
            except (TypeError, ValueError, KeyError) as error:
                message = f'The server sent {_shown(data[key])} as "{key}".'
                raise UnexpectedAnswer(message) from error
        elif required:
            raise UnexpectedAnswer(f'The server sent an answer without "{key}".')
    return kind(**values, raw=MappingProxyType(data))


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 100 else f"{text[:100]}…"


def _plan(kind: type[Record]) -> Plan:
    if kind not in _plans:
        _plans[kind] = _make_plan(kind)
    return _plans[kind]


def _make_plan(kind: type[Record]) -> Plan:
    hints = get_type_hints(kind)
    return [
        (
            one.name,
            one.metadata.get("key", _camel(one.name)),
            one.default is MISSING and one.default_factory is MISSING,
            _decoder(hints[one.name]),
        )
        for one in fields(kind)
        if one.name != "raw"
    ]


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _decoder(hint: Any) -> Decode:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        inner = [one for one in arguments if one is not NoneType]
        if len(inner) > 1:
            return _words
        read = _decoder(inner[0])
        return lambda value: None if value is None else read(value)
    if origin is tuple:
        read = _decoder(arguments[0])
        return lambda value: tuple(read(one) for one in value)
    if origin is Mapping:
        read = _decoder(arguments[1])
        return lambda value: MappingProxyType({key: read(one) for key, one in value.items()})
    if hint is datetime:
        return to_time
    if is_dataclass(hint):
        kind: Any = hint
        return lambda value: decode(kind, value)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return hint
    if hint is float:
        return lambda value: None if value is None else float(value)
    return lambda value: value


def _words(value: str | list[str] | None) -> str | tuple[str, ...] | None:
    """A command, as it was submitted."""
    return tuple(value) if isinstance(value, list) else value


def to_time(text: str) -> datetime:
    """A time as the API writes it: RFC 3339, or the reference's form, which is UTC."""
    at = datetime.fromisoformat(text)
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
