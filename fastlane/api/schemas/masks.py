"""``***`` sent back: a payload that was made from an answer keeps the stored secrets.

A string that reads as the answer shows a stored one stands for the stored one. Any other string
with a mask where a secret belongs is a fault, so that nobody overwrites a secret with its mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastlane.api.problems import Fault
from fastlane.api.schemas.faults import pointer
from fastlane.model import Definition
from fastlane.notifications.registry import channels
from fastlane.redact import HIDDEN, Redactor

# Stands for what is not stored.
_MISSING: Any = object()
# In place of a mask it shows whether a secret would be hidden there.
_PROBE = "x"


class Masks:
    """Restores what masks stand for.

    :param stored: the definition that a payload replaces, if any.
    """

    def __init__(self, stored: Definition | None, hide: Redactor, words: Sequence[str]) -> None:
        self._hide = hide
        self._channels = frozenset(one.key for one in channels())
        self._stored: dict[str, Any] = {}
        self._shown: dict[str, Any] = {}
        if stored is not None:
            self._add("command", stored.command.submitted, hide.command(stored.command.submitted))
            self._add("envs", stored.envs, hide.mapping(stored.envs))
            self._add("metadata", stored.custom, hide.value(stored.custom))
            keys = {channel.name: channel.key for channel in channels()}
            for one in stored.subscriptions:
                self._add(keys[one.channel], one.stored(), one.shown(words))

    def _add(self, key: str, stored: Any, shown: Any) -> None:
        self._stored[key], self._shown[key] = stored, shown

    def restore(self, values: Mapping[str, Any], faults: list[Fault]) -> dict[str, Any]:
        """*values*, a payload as JSON, with the stored values in place of masks.

        :param faults: is extended by the masks that stand for nothing.
        """
        found: dict[str, Any] = self._restore(dict(values), self._shown, self._stored, [], faults)
        return found

    def _restore(
        self, given: Any, shown: Any, stored: Any, path: list[str], faults: list[Fault]
    ) -> Any:
        if isinstance(given, str):
            if HIDDEN not in given or given == shown:
                return given if HIDDEN not in given else stored
            if self._is_mask(given, path):
                faults.append(_fault(path))
            return given
        if isinstance(given, dict):
            shown, stored = (one if isinstance(one, Mapping) else {} for one in (shown, stored))
            return {
                key: self._restore(
                    value, shown.get(key, _MISSING), stored.get(key, _MISSING), [*path, key], faults
                )
                for key, value in given.items()
            }
        if isinstance(given, list):
            return list(self._items(given, shown, stored, path, faults))
        return given

    def _items(
        self, given: list[Any], shown: Any, stored: Any, path: list[str], faults: list[Fault]
    ) -> Iterator[Any]:
        if not isinstance(shown, list | tuple) or not isinstance(stored, list | tuple):
            shown = stored = ()
        for number, value in enumerate(given):
            at = _place(given, number, shown)
            before, after = (_MISSING, _MISSING) if at is None else (shown[at], stored[at])
            inner = [*path, str(number)]
            option = str(given[number - 1]) if number else ""
            if (
                value == HIDDEN
                and at is None
                and option.startswith("-")
                and self._hide.is_secret(option)
            ):
                faults.append(_fault(inner))
            else:
                yield self._restore(value, before, after, inner, faults)

    def _is_mask(self, given: str, path: Sequence[str]) -> bool:
        if path[0] in self._channels:
            return True
        probe = given.replace(HIDDEN, _PROBE)
        if path[0] == "command":
            return self._hide.text(probe) != probe
        named = given == HIDDEN and any(self._hide.is_secret(part) for part in path)
        return named or self._hide.url(probe) != probe


def _fault(path: Sequence[str]) -> Fault:
    return Fault(
        pointer(path),
        f'{".".join(path)} holds "{HIDDEN}", which stands for a stored value, and none is stored '
        "there. Give the value.",
    )


def _place(given: list[Any], number: int, shown: Sequence[Any]) -> int | None:
    """Which item of *shown* the one at *number* was, if that is certain.

    An object is the one with the same URL if it has one: what is sent to one receiver must not go
    to another. Words are the same after the same word.
    """
    value = given[number]
    if isinstance(value, dict) and "url" in value:
        found = [
            at
            for at, one in enumerate(shown)
            if isinstance(one, Mapping) and one.get("url") == value["url"]
        ]
    elif isinstance(value, str):
        before = given[number - 1] if number else None
        found = [
            at
            for at, one in enumerate(shown)
            if one == value and (shown[at - 1] if at else None) == before
        ]
    else:
        found = [number] if number < len(shown) else []
    if number in found:
        return number
    return found[0] if len(found) == 1 else None
