"""The forms of times in answers, chosen by ``?times=``.

What is a time in an answer follows from the types of its model, so nothing of a user's own, such as
``metadata``, is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, NotRequired, Union, get_args, get_origin, get_type_hints

from typing_extensions import is_typeddict

from fastlane.api.parameters import Parameter
from fastlane.api.schemas.build import added_keys
from fastlane.api.schemas.responses import IsTime

FORMS = ("rfc3339", "unix", "reference")
TIMES = Parameter(
    "times",
    "The form of all times in the answer: `rfc3339` (UTC, with Z), `unix` (seconds, a number) or "
    "`reference` (UTC, without suffix). Without it, each route has its own, which the "
    "schemas describe.",
    {"type": "string", "enum": list(FORMS)},
)
Convert = Callable[[Any, str], Any]
"""Makes of a value the same in another form, one of :data:`FORMS`."""


def in_form(answer: Any, form: str, *models: type[Any]) -> Any:
    """*answer*, which is of one of *models*, with all times in *form*."""
    convert = _converter(Union[models])  # noqa: UP007
    return answer if convert is None else convert(answer, form)


def _time(value: Any, form: str) -> Any:
    if not isinstance(value, str):
        return value
    plain = value.removesuffix("Z")
    if form == "unix":
        return round(datetime.fromisoformat(plain).replace(tzinfo=UTC).timestamp(), 6)
    return f"{plain}Z" if form == "rfc3339" else plain


@cache
def _converter(kind: Any) -> Convert | None:
    """What converts values of a type; None where no value has a time in it."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        if any(isinstance(one, IsTime) for one in arguments[1:]):
            return _time
        return _converter(arguments[0])
    if origin is NotRequired:
        return _converter(arguments[0])
    if origin in {Union, UnionType}:
        return _of_union([one for one in arguments if one is not NoneType])
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return None
    if origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):
        return _of_items(_converter(arguments[0]))
    return _of_model(kind) if is_typeddict(kind) else None


def _of_items(convert: Convert | None) -> Convert | None:
    if convert is None:
        return None
    return lambda value, form: [convert(one, form) for one in value or ()]


def _of_union(kinds: Sequence[Any]) -> Convert | None:
    """Models differ by their keys, others by whether the value is a string or a list."""
    models = [(kind, _converter(kind)) for kind in kinds if is_typeddict(kind)]
    others = [found for kind in kinds if not is_typeddict(kind) and (found := _converter(kind))]

    def convert(value: Any, form: str) -> Any:
        if isinstance(value, dict):
            for kind, of_model in models:
                if of_model is not None and value.keys() <= _keys(kind).keys():
                    return of_model(value, form)
            return value
        return others[0](value, form) if others and value is not None else value

    return convert if others or any(found for _, found in models) else None


def _of_model(kind: Any) -> Convert | None:
    each = {name: _converter(of) for name, of in _keys(kind).items()}
    found = {name: one for name, one in each.items() if one is not None}
    if not found:
        return None

    def convert(value: Any, form: str) -> Any:
        if not isinstance(value, dict):
            return value
        times = {name: found[name](value[name], form) for name in found if name in value}
        return {**value, **times}

    return convert


@cache
def _keys(kind: Any) -> Mapping[str, Any]:
    return {**get_type_hints(kind, include_extras=True), **added_keys().get(kind.__name__, {})}
