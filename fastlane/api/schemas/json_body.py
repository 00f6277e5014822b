"""A request's JSON body: read with bounds, and refused where RFC 8259 leaves anything open."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from fastlane.api.problems import Problem
from fastlane.checks import SHOWN_CHARS, shown

MAX_NESTING = 50
# Bounds the keys of all objects of a body, and the items of lists that are validated.
MAX_KEYS = 10_000


class _Malformed(ValueError):
    """JSON that is not accepted; the message says why."""


class _Objects:
    """Makes objects from pairs, each key once, and not too many in all."""

    def __init__(self) -> None:
        self._keys = 0

    def __call__(self, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        self._keys += len(pairs)
        if self._keys > MAX_KEYS:
            raise _Malformed(f"Its objects have more than {MAX_KEYS} keys.")
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise _Malformed(f"Duplicate key {shown(name)}.")
            found[name] = value
        return found


def _refuse_constant(text: str) -> NoReturn:
    raise _Malformed(f"{text} is not a JSON number.")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Malformed(f"The number {text[:SHOWN_CHARS]} is too large; the maximum is 1.7e308.")
    return value


def _bounded_int(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise _Malformed(
            f"The number {text[:SHOWN_CHARS]} is too large; "
            f"whole numbers must be within ±{2**63 - 1}."
        )
    return int(text)


def read_json_object(body: bytes, wanted: str = "image and command") -> dict[str, Any]:
    """The object in *body*, whatever the content type says.

    :param wanted: what it is to hold, for the error.

    :raises Problem: 400, it is not an object, or holds what RFC 8259 forbids or leaves open.
    """
    if not body.strip():
        raise Problem(400, f"The request body is empty; send a JSON object with {wanted}.")
    try:
        text = body.decode("utf-8")
        if text.startswith("\ufeff"):
            raise _Malformed("It begins with a byte order mark; remove it.")
        found = json.loads(
            text,
            object_pairs_hook=_Objects(),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_bounded_int,
        )
        if _nesting(found) > MAX_NESTING:
            raise _Malformed(f"It is nested more than {MAX_NESTING} levels deep.")
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise Problem(
            400, f"The request body is not UTF-8 (see byte {error.start}); send JSON in UTF-8."
        ) from error
    except UnicodeEncodeError as error:
        raise Problem(
            400,
            "The request body contains half of a surrogate pair (\\ud800 to \\udfff); "
            "send the character.",
        ) from error
    except _Malformed as error:
        raise Problem(400, f"The request body is not accepted. {error}") from error
    except RecursionError as error:
        raise Problem(
            400, f"The request body is nested more than {MAX_NESTING} levels deep."
        ) from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        message = error.msg.removesuffix(" at")
        raise Problem(400, f"The request body is not JSON: {message} at {where}.") from error
    if not isinstance(found, dict):
        raise Problem(
            400, f"The request body is {kind_of(found)}; send a JSON object with {wanted}."
        )
    return found


def check_items(values: Iterable[object]) -> None:
    """:raises Problem: 400, the lists in *values* have too many items to validate each."""
    waiting, count = list(values), 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            count += len(value)
            if count > MAX_KEYS:
                raise Problem(
                    400,
                    "The request body is not accepted. Its lists have more than "
                    f"{MAX_KEYS} items, not counting metadata and command.",
                )
            waiting += value


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


def kind_of(value: object) -> str:
    """What *value* is, in the words of JSON."""
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
