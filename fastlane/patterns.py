"""Regular expressions of the configuration, matched in linear time.

``re`` backtracks: ``(a+)+$`` on a task id of forty characters keeps it busy for hours, and the task
id comes from the person who submits. RE2 does not, at the price of look-arounds and
back-references. Syntax: https://github.com/google/re2/wiki/Syntax
"""

from __future__ import annotations

import re
from functools import lru_cache

import re2

# Bounds the compiled program of one pattern, in bytes; RE2's own default.
MAX_PROGRAM_BYTES = 8 * 1024 * 1024


class Pattern:
    """A compiled regular expression."""

    def __init__(self, text: str) -> None:
        """:raises ValueError: *text* is not a regular expression; the message says why."""
        options = re2.Options()
        options.log_errors = False
        options.max_mem = MAX_PROGRAM_BYTES
        try:
            self._compiled = re2.compile(text, options)
        except re2.error as error:
            why = error.args[0] if error.args else ""
            why = why.decode("utf-8", "replace") if isinstance(why, bytes) else str(why)
            raise ValueError(why or "it cannot be compiled") from error

    def is_in(self, text: str | bytes) -> bool:
        """Whether the pattern matches anywhere in *text*."""
        return self._compiled.search(text) is not None

    def find(self, text: bytes, at: int = 0) -> int | None:
        """Where in *text*, from *at* on, the first match begins; None without one."""
        found = self._compiled.search(text, at)
        return None if found is None else int(found.start())


# Bounds the compiled patterns that are kept: those of the farms of one configuration.
@lru_cache(maxsize=1000)
def pattern(text: str) -> Pattern:
    """The compiled *text*.

    :raises ValueError: *text* is not a regular expression in RE2 syntax.
    """
    return Pattern(text)


# The parts of RE2's syntax that matter below: \Q…\E, an escape, a class, or any character.
_TOKEN = re.compile(
    r"\\Q(?P<literal>.*?)(?:\\E|\Z)|\\.|\[\^?\]?(?:\[:.*?:\]|\\.|[^\]])*\]|.", re.DOTALL
)
# A byte that is no character: no wildcard and no class matches it, only \C does.
_SEPARATOR = b"\xff"
_SLASH = r"(?:/|\C)"
# Something that no literal and no list of characters matches, only a wildcard does.
_ANYTHING = "\x02"


def admits(text: str, head: str, tail: str) -> bool:
    """Whether the pattern *text* matches the whole of *head*/*tail* without crossing that slash.

    ``busybox:.*`` does not match ``busybox:1/x:2`` of a registry ``busybox:1``: the slash is
    matched by a slash in the pattern, or by a wildcard that would match any *head*, as in ``.*``.

    :raises ValueError: *text* is not a regular expression.
    """
    whole = rf"\A(?:{text})\z"
    if not pattern(whole).is_in(f"{head}/{tail}"):
        return False
    if pattern(whole).is_in(f"{_ANYTHING}/{tail}"):
        return True
    parted = _SEPARATOR.join((head.encode(), tail.encode()))
    return pattern(rf"\A(?:{_with_separators(text)})\z").is_in(parted)


@lru_cache(maxsize=1000)
def _with_separators(text: str) -> str:
    """The pattern *text*, in which each slash also matches the separator."""

    def token(found: re.Match[str]) -> str:
        part = found[0]
        if found["literal"] is not None:
            return _SLASH.join(rf"\Q{each}\E" for each in found["literal"].split("/"))
        if part in {"/", r"\/"}:
            return _SLASH
        if part[0] == "[" and part[1] != "^" and pattern(part).is_in("/"):
            return rf"(?:{part}|\C)"
        return part

    return _TOKEN.sub(token, text)
