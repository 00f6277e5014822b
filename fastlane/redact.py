"""Hides secrets in responses, pages, log lines and notifications.

A value is a secret if its name suggests it. In text, secrets are recognised in the user part of a
URL, and after ``--password`` and ``PASSWORD=`` in a command. No other secret can be recognised.

All patterns are RE2, which matches in linear time, because the text comes from users.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar, cast

import re2

HIDDEN = "***"
"""Replaces a secret."""

Command = TypeVar("Command", bound=str | tuple[str, ...])

WHOLE_WORDS = frozenset(
    {
        "auth",
        "authorization",
        "cookie",
        "credential",
        "credentials",
        "dsn",
        "passphrase",
        "passwd",
        "private",
        "pwd",
    }
)
"""Secret as a whole part of a name (``AUTH_TOKEN``, but not ``AUTHOR``). The words of
``ENV_BLACKLISTED_WORDS`` are secret anywhere in a name."""

# Bounds how deep a value is searched; deeper values are hidden.
DEPTH = 20
# Bound the caches of names and of commands.
_NAMES_REMEMBERED = 10_000
_COMMANDS_REMEMBERED = 8
# Longer names are treated as secret without a look.
_NAME_MAX_CHARS = 1000

# A part of a name: separated by _ - . and spaces, or by a capital (``dbAuthToken``).
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+|\d+")
# Up to the last @ before the path, because clients of URLs take a password with an @ in it.
_USER_IN_URL = re2.compile(r"""(://[^/\s@'":]*):[^/\s'"]*@""")
_ONLY_USER_IN_URL = re2.compile(r"""://[^/\s'"]+@""")
_NAME_BEFORE_VALUE = re2.compile(r"""(?P<name>[\pL\pN_.-]+)["']?(?:\s*[:=]\s*|\s+)""")
_NAME = re2.compile(r"[\pL\pN_.-]+")
# Not re2, which encodes the whole text for each match that starts inside it.
_VALUE = re.compile(r"""(?:(?i:bearer|basic)\s++)?("[^"]*"|'[^']*'|[^\s,;)}\]&"']+)""", re.ASCII)


class Redactor:
    """Recognises secrets by a list of words.

    :param words: ``ENV_BLACKLISTED_WORDS``: a name that contains one of them, in any case, is
        secret. Empty words are ignored.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._words = tuple(word.casefold() for word in words if word)
        self.is_secret = lru_cache(maxsize=_NAMES_REMEMBERED)(self._is_secret)
        # The executions of one job have the same one, which may be a megabyte.
        self._command = lru_cache(maxsize=_COMMANDS_REMEMBERED)(self._hide_in_command)

    def _is_secret(self, name: str) -> bool:
        if len(name) > _NAME_MAX_CHARS:
            return True
        lowered = name.casefold()
        if any(word in lowered for word in self._words):
            return True
        return any(part.casefold() in WHOLE_WORDS for part in _PART.findall(name))

    def mapping(self, values: Mapping[str, str]) -> dict[str, str]:
        """The variables of an environment, with secrets and the passwords of URLs hidden."""
        return {
            name: HIDDEN if self.is_secret(name) else self.url(value)
            for name, value in values.items()
        }

    def value(
        self, value: Any, depth: int = DEPTH, *, text: Callable[[str], str] | None = None
    ) -> Any:
        """*value*, which has only JSON types, with every secret hidden at any depth.

        :param text: what becomes of texts; :meth:`url` by default.
        """
        if isinstance(value, str):
            return (text or self.url)(value)
        if isinstance(value, Mapping | list | tuple) and depth == 0:
            return HIDDEN
        if isinstance(value, Mapping):
            return {
                key: HIDDEN if self.is_secret(str(key)) else self.value(held, depth - 1, text=text)
                for key, held in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.value(held, depth - 1, text=text) for held in value]
        return value

    def url(self, text: str) -> str:
        """*text* without the passwords of the URLs in it."""
        if "://" not in text or "@" not in text:
            return text
        text = _encodable(text)
        text = _USER_IN_URL.sub(rf"\1:{HIDDEN}@", text)
        # A user without a password is usually a token.
        return str(_ONLY_USER_IN_URL.sub(_hide_lone_user, text))

    def text(self, text: str) -> str:
        """*text* without passwords in URLs and without values after secret names.

        Values are recognised after ``NAME=``, ``NAME:`` and ``--name`` with a space.
        """
        if not self._may_hold_secret(text):
            return text
        text = self.url(_encodable(text))
        parts: list[str] = []
        done = 0
        for found in _NAME_BEFORE_VALUE.finditer(text):
            start, end = found.span()
            if start < done or not self._precedes_secret(found["name"], text[start:end]):
                continue
            value = _VALUE.match(text, end)
            if value is None:
                continue
            parts += (text[done:end], HIDDEN)
            done = value.end()
        return "".join((*parts, text[done:])) if done else text

    def _may_hold_secret(self, text: str) -> bool:
        """A quick look: most texts have no separator that could stand before a secret."""
        return "=" in text or ":" in text or "-" in text

    def _precedes_secret(self, name: str, written: str) -> bool:
        separated = written[len(name) :].strip("\"' \t\n") in {":", "="}
        return (separated or name.startswith("-")) and self.is_secret(name)

    def command(self, command: Command) -> Command:
        """*command*, a string or its words, without the values of secret options."""
        return cast(Command, self._command(command))

    def _hide_in_command(self, command: str | tuple[str, ...]) -> str | tuple[str, ...]:
        return self.text(command) if isinstance(command, str) else self._words_of(command)

    def _words_of(self, words: Sequence[str]) -> tuple[str, ...]:
        shown: list[str] = []
        hide_next = False
        for word in words:
            hidden = hide_next and not word.startswith("-")
            shown.append(HIDDEN if hidden else self._word(word))
            hide_next = word.startswith("-") and "=" not in word and self.is_secret(word)
        return tuple(shown)

    def _word(self, word: str) -> str:
        """*word*, whose value ends where the word ends: ``--password=a,b`` is one value."""
        name, separator, value = word.partition("=")
        one_value = word.startswith("-") or " " not in word
        if one_value and separator and value and _NAME.fullmatch(name) and self.is_secret(name):
            return f"{name}={HIDDEN}"
        return self.text(word)


def _encodable(text: str) -> str:
    """*text* with something else in place of lone surrogates, which RE2 does not take."""
    return text.encode("utf-8", "replace").decode()


def _hide_lone_user(found: Any) -> str:
    # Already hidden by the first pattern.
    whole: str = found.group(0)
    return whole if whole.endswith(f":{HIDDEN}@") else f"://{HIDDEN}@"


@lru_cache(maxsize=16)
def redactor(words: tuple[str, ...]) -> Redactor:
    """The cached :class:`Redactor` for *words*."""
    return Redactor(words)


def is_secret(name: str, words: Iterable[str]) -> bool:
    """Whether *name* is the name of a secret; see :class:`Redactor`."""
    return redactor(tuple(words)).is_secret(name)


def redact(mapping: Mapping[str, str], words: Iterable[str]) -> dict[str, str]:
    """:meth:`Redactor.mapping` for *words*."""
    return redactor(tuple(words)).mapping(mapping)
