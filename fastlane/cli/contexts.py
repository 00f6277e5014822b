"""Named servers with their credentials, and which server a command calls."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fastlane.errors import ConfigError, FastlaneError
from fastlane.files import open_private

LOCAL = "http://localhost:10000"
"""Where a server without any configuration listens."""


@dataclass(frozen=True, slots=True)
class Context:
    """A server: its URL, and what it is shown to let us in."""

    url: str
    token: str | None = None
    ca_file: str | None = None
    """Certificates to trust, in PEM; None: those of the system."""


@dataclass(frozen=True, slots=True)
class Contexts:
    """What the file of contexts holds."""

    current: str | None
    named: dict[str, Context]

    def get(self, name: str) -> Context:
        """:raises ConfigError: there is no such context."""
        if name not in self.named:
            known = ", ".join(sorted(self.named)) or "none"
            raise ConfigError(
                f'There is no context "{name}" (there are: {known}): '
                "create it with `fastlane context create`."
            )
        return self.named[name]

    def with_context(self, name: str, context: Context) -> Contexts:
        """With one more, or another under its name; the first one becomes the current one."""
        return Contexts(self.current or name, {**self.named, name: context})

    def without(self, name: str) -> Contexts:
        """:raises ConfigError: there is no such context."""
        self.get(name)
        left = {key: context for key, context in self.named.items() if key != name}
        return Contexts(None if self.current == name else self.current, left)

    def using(self, name: str | None) -> Contexts:
        """:raises ConfigError: there is no such context."""
        if name is not None:
            self.get(name)
        return replace(self, current=name)


def file() -> Path:
    """Where contexts are kept: ``$FASTLANE_CONFIG_HOME``, or ``fastlane`` in the XDG directory."""
    home = os.environ.get("FASTLANE_CONFIG_HOME")
    if home:
        return Path(home) / "contexts.json"
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "fastlane" / "contexts.json"


def read() -> Contexts:
    """:raises FastlaneError: the file is damaged."""
    path = file()
    try:
        stored = json.loads(path.read_text())
        named = {name: Context(**values) for name, values in stored["contexts"].items()}
        return Contexts(stored.get("current"), named)
    except FileNotFoundError:
        return Contexts(None, {})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FastlaneError(f'"{path}" is damaged ({error}): correct or delete it.') from error


def write(contexts: Contexts) -> None:
    """Replace the file as a whole; only its owner may read it."""
    path = file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    stored = {
        "current": contexts.current,
        "contexts": {name: asdict(context) for name, context in contexts.named.items()},
    }
    new = path.with_name(f"{path.name}.{os.getpid()}")
    with open(new, "w", opener=open_private) as opened:
        opened.write(json.dumps(stored, indent=2) + "\n")
    new.replace(path)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The server that a command calls, and what to tell about the choice."""

    context: Context
    overridden: str | None = None
    """The context that the environment overrides."""


def choose(server: str | None, name: str | None) -> Chosen:
    """``--server``, ``--context``, ``FASTLANE_URL``, the current context, this machine: the first.

    A token in ``FASTLANE_TOKEN`` goes with ``--server`` and ``FASTLANE_URL``, never to the server
    of a context.

    :raises FastlaneError: both options are given, or the context is not there.
    """
    token = os.environ.get("FASTLANE_TOKEN") or None
    if server is not None and name is not None:
        raise ConfigError("Give --server or --context, not both.")
    if server is not None:
        return Chosen(Context(server, token))
    contexts = read()
    if name is not None:
        return Chosen(_alone(contexts.get(name)))
    if url := os.environ.get("FASTLANE_URL"):
        return Chosen(Context(url, token), contexts.current)
    if contexts.current is not None:
        return Chosen(_alone(contexts.get(contexts.current)))
    return Chosen(Context(LOCAL, token))


def _alone(context: Context) -> Context:
    """*context* so that it does not get the token of the environment."""
    user = "@" in context.url.partition("://")[2].partition("/")[0]
    return context if context.token or user else replace(context, token="")
