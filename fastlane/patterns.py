"""Regular expressions of the configuration, matched in linear time.

``re`` backtracks: ``(a+)+$`` on a task id of forty characters keeps it busy for hours, and the task
id comes from the person who submits. RE2 does not, at the price of look-arounds and
back-references. Syntax: https://github.com/google/re2/wiki/Syntax
"""

from __future__ import annotations

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

    def is_in(self, text: str) -> bool:
        """Whether the pattern matches anywhere in *text*."""
        return self._compiled.search(text) is not None


# Bounds the compiled patterns that are kept: those of the farms of one configuration.
@lru_cache(maxsize=1000)
def pattern(text: str) -> Pattern:
    """The compiled *text*.

    :raises ValueError: *text* is not a regular expression in RE2 syntax.
    """
    return Pattern(text)
