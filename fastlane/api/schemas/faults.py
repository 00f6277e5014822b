"""What is wrong with a payload, each fault with a JSON pointer (RFC 6901) and a sentence.

A sentence names the value and the remedy. A value that may be a secret is not repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from fastlane.api.problems import Fault
from fastlane.api.schemas.json_body import kind_of
from fastlane.checks import SHOWN_CHARS, Hint, SeveralFaults, shown, suggestion
from fastlane.redact import is_secret

# Bounds the faults of one answer, and how many of them come with a suggestion, which takes time.
MAX_FAULTS = 100
MAX_SUGGESTIONS = 10


def faults_of(
    error: ValidationError, model: type[BaseModel], secret_words: Sequence[str]
) -> Iterator[Fault]:
    """Every fault that validating a payload as *model* found.

    :param secret_words: the value of a name that holds one of them is not repeated.
    """
    seen: set[str] = set()
    count = 0
    for fault in error.errors(include_url=False):
        path = list(fault["loc"])
        if path[:2] in (["resources", "memory"], ["resources", "disk"]):
            # What follows is pydantic's name of a member of the union.
            del path[2:]
        place = pointer(path)
        if place in seen:
            continue
        seen.add(place)
        cause = fault.get("ctx", {}).get("error")
        if isinstance(cause, SeveralFaults):
            for name, message in cause.faults.items():
                yield Fault(pointer([*path, name]), f"{_name(path)}: {message}.")
            continue
        count += 1
        if count > MAX_FAULTS:
            # It is only counted.
            yield Fault(place, "")
        elif fault["type"] == "extra_forbidden":
            suggested = _suggestion(model, path) if count <= MAX_SUGGESTIONS else ""
            yield Fault(place, f"{_unknown_key(path)}{suggested}")
        else:
            yield Fault(place, _sentence(fault, path, model, secret_words))


def pointer(path: Sequence[int | str]) -> str:
    """The JSON pointer (RFC 6901) to *path*."""
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


def _unknown_key(path: Sequence[int | str]) -> str:
    where = f"of {_name(path[:-1])}" if len(path) > 1 else "of the payload"
    return f"{shown(path[-1])} is not a key {where}."


def _sentence(
    fault: Any, path: Sequence[int | str], model: type[BaseModel], secret_words: Sequence[str]
) -> str:
    kind, context = fault["type"], fault.get("ctx", {})
    name, value = _name(path), _shown_at(path, fault.get("input"), secret_words)
    match kind:
        case "missing":
            return f"{name} is required."
        case "value_error":
            text = str(context["error"]).rstrip(".")
            return f"{name}: {text}." if name else f"{text}."
        case "literal_error":
            expected = context["expected"].replace("'", '"')
            return f"{name} is {value}; it must be one of {expected}."
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            bound = f"{next(iter(context.values())):.15g}"
            how = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
            return f"{name} is {value}; it must be {how[next(iter(context))]} {bound}."
        case "too_long":
            return f"{name} has too many entries; at most {context['max_length']} are accepted."
        case "string_too_long":
            return f"{name} has too many characters; at most {context['max_length']} are accepted."
    wanted = _TYPES.get(kind)
    if wanted is not None:
        return f"{name} is {value}; it must be {wanted}{_hint(model, path)}."
    return f"{name} is {value}: {fault['msg']}."


def _hint(model: type[BaseModel], path: Sequence[int | str]) -> str:
    field = None if isinstance(path[-1], int) else _field(model, path)
    return "".join(one.text for one in field.metadata if isinstance(one, Hint)) if field else ""


def _field(model: type[BaseModel], path: Sequence[int | str]) -> FieldInfo | None:
    """The field of *model* that *path* ends at."""
    found: FieldInfo | None = None
    inner: type[BaseModel] | None = model
    for part in path:
        if isinstance(part, int):
            continue
        fields = {} if inner is None else _fields(inner)
        found = fields.get(part)
        inner = None if found is None else _model_in(found.annotation)
    return found


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a value of *annotation* is of, or is a list of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((inner for one in get_args(annotation) if (inner := _model_in(one))), None)


def _suggestion(model: type[BaseModel], path: Sequence[int | str]) -> str:
    """Which key was meant, where one is similar enough."""
    *parents, wrong = path
    parent = _field(model, parents)
    inner = model if parent is None else _model_in(parent.annotation)
    return "" if inner is None else suggestion(str(wrong), _fields(inner))


_SHOWN_NOT = frozenset({"envs", "headers"})


def _shown_at(path: Sequence[int | str], value: object, secret_words: Sequence[str]) -> str:
    """*value* as a sentence shows it; of what may be a secret only its type is named."""
    if any(is_secret(str(part), secret_words) for part in path):
        return kind_of(value)
    if _SHOWN_NOT.intersection(map(str, path)) and isinstance(value, (str, list, dict)):
        return kind_of(value)
    return shown(value)
