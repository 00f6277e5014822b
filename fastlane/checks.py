"""What the checks of payloads and options share: a base of models, and how a fault reads."""

from __future__ import annotations

import difflib
import ipaddress
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

# Bound single values; the body as a whole is bounded by MAX_BODY_BYTES.
MAX_TEXT = 128 * 1024
MAX_ENTRIES = 1_000
# Bounds how much of a value a sentence repeats.
SHOWN_CHARS = 80
# A known name less similar than this to an unknown one is not suggested; 1 is equal.
SUGGESTED_FROM = 0.6

Text = Annotated[str, Field(max_length=MAX_TEXT)]
Strings = Annotated[dict[str, Text], Field(max_length=MAX_ENTRIES)]


class PayloadModel(BaseModel):
    """The base of every part of a payload: strict, frozen, camelCase, and no unknown keys."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, alias_generator=to_camel, validate_by_alias=True
    )

    def __deepcopy__(self, memo: dict[int, object] | None = None) -> Self:
        """The same, which is frozen: otherwise each payload would copy all of its defaults."""
        return self


@dataclass(frozen=True, slots=True)
class Hint:
    """Put into a field's ``Annotated``: ends the sentence that says which type it must have."""

    text: str


class SeveralFaults(ValueError):
    """Faults of the entries of one object.

    :param faults: what is wrong, by the entry's name.
    """

    def __init__(self, faults: Mapping[str, str]) -> None:
        super().__init__("; ".join(faults.values()))
        self.faults = faults


def check_entries(check: Callable[[str, str], None]) -> Callable[[dict[str, str]], dict[str, str]]:
    """A validator of objects: *check*, which raises ValueError, looks at each name and value.

    It raises :class:`SeveralFaults`.
    """

    def check_all(entries: dict[str, str]) -> dict[str, str]:
        faults = {}
        for name, value in entries.items():
            try:
                check(name, value)
            except ValueError as error:
                faults[name] = str(error)
        if faults:
            raise SeveralFaults(faults)
        return entries

    return check_all


def shown(value: object) -> str:
    """*value* as a sentence repeats it: as JSON on one line, and not too much of it."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    if len(text) > SHOWN_CHARS:
        quote = '"' if isinstance(value, str) else ""
        text = f"{text[:SHOWN_CHARS]}…{quote}"
    # JSON leaves some line separators and control characters as they are.
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """The end of a sentence about a *wrong* name: which of the *known* ones was meant, if any."""
    names = {name.lower(): name for name in known}
    wanted = wrong.lower().replace("_", "")[:SHOWN_CHARS]
    close = closest(wanted, names)
    return f" Did you mean {shown(names[close])}?" if close else ""


def closest(wrong: str, known: Iterable[str], *, least: float = SUGGESTED_FROM) -> str | None:
    """The one of the *known* names that is most similar to *wrong*, if it is *least* similar."""
    close = difflib.get_close_matches(wrong, list(known), n=1, cutoff=least)
    return close[0] if close else None


def is_loopback(host: str) -> bool:
    """Whether a server that listens on *host* can be reached from this machine only."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
