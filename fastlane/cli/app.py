"""What all commands share: the application, and the options that each command has."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

import typer
from typer.core import TyperGroup

from fastlane import __version__
from fastlane.cli import complete
from fastlane.cli.contexts import choose
from fastlane.cli.output import Style

if TYPE_CHECKING:
    from fastlane.config import Config
    from fastlane_client import Client

Command = TypeVar("Command", bound=Callable[..., Any])

_ORDER = (
    *("run", "ps", "ls", "logs", "show", "open", "wait", "stop", "retry", "rerun", "pause"),
    *("resume", "rm", "events", "top", "status", "hosts", "drain", "undrain", "notifications"),
    *(
        "context",
        "api",
        "server",
        "config",
        "healthcheck",
        "prune",
        "completion",
        "submit",
        "version",
    ),
)


class _Ordered(TyperGroup):
    """Lists the commands as people need them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_ORDER.index)


app = typer.Typer(
    name="fastlane",
    cls=_Ordered,
    no_args_is_help=True,
    # Typer's tracebacks show local variables, and those hold secrets.
    pretty_exceptions_enable=False,
    # Rich's help costs more than all of our own imports.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Read options from NAME=value lines; the environment takes precedence.",
    ),
]

_SERVER = {
    "server": Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="URL",
            help="The server to call. Default: $FASTLANE_URL, the current context, or "
            "http://localhost:10000.",
        ),
    ],
    "context": Annotated[
        str | None,
        typer.Option(
            "--context",
            metavar="NAME",
            help="The context to use.",
            autocompletion=complete.contexts,
        ),
    ],
}
_OUTPUT = {
    "as_json": Annotated[bool, typer.Option("--json", help="Print JSON lines.")],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Print ids only.")],
}
_COLOUR = {"no_color": Annotated[bool, typer.Option("--no-color", help="Print without colours.")]}


@dataclass(slots=True)
class Shared:
    """What the shared options of the command that runs say."""

    server: str | None = None
    context: str | None = None
    as_json: bool = False
    quiet: bool = False
    no_color: bool = False

    @property
    def style(self) -> Style:
        return Style(self.as_json, self.quiet, not self.no_color)


_shared = Shared()


def shared() -> Shared:
    """The shared options of the command that runs."""
    return _shared


def command(
    name: str | None = None,
    *,
    into: typer.Typer = app,
    output: bool = False,
    flags: Mapping[str, Any] = MappingProxyType({}),
    **settings: Any,
) -> Callable[[Command], Command]:
    """Register a function as a command that calls a server, with the shared options after its own.

    :param output: it also has ``--json`` and ``-q``.
    :param flags: more options, by name, with their annotations. The function gets the values of all
        of them in its argument ``given``.
    """
    common = _SERVER | (_OUTPUT if output else {}) | _COLOUR

    def register(function: Command) -> Command:
        own = inspect.signature(function, eval_str=True).parameters.values()
        parameters = [
            *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own if p.name != "given"),
            *(_parameter(key, annotation) for key, annotation in flags.items()),
            *(_parameter(key, annotation) for key, annotation in common.items()),
        ]

        def run(**values: Any) -> Any:
            global _shared
            _shared = Shared(**{key: values.pop(key) for key in common})
            if flags:
                values["given"] = {key: values.pop(key) for key in flags}
            return function(**values)

        run.__name__, run.__doc__ = function.__name__, function.__doc__
        run.__dict__["__signature__"] = inspect.Signature(parameters)
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        into.command(name, **settings)(run)
        return function

    return register


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    default = False if get_args(annotation)[0] is bool else None
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def show_version(wanted: bool) -> None:
    """What ``--version`` does."""
    if wanted:
        typer.echo(f"fastlane {__version__}")
        raise typer.Exit


@app.callback()
def fastlane(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Run container jobs for anyone who can send an HTTP request.

    Try `fastlane run ubuntu:22.04 -- echo hello`: it submits a job, shows its log, and exits as the
    job does.
    """


def say(sentence: str) -> None:
    """Tell the user something that is not the command's output."""
    typer.echo(f"fastlane: {sentence}", err=True)


def client() -> Client:
    """A client of the server that the options, the environment or the context name.

    :raises FastlaneError: the options contradict each other, or the context is not there.
    """
    _import_without_trio()
    from fastlane_client import Client

    chosen = choose(_shared.server, _shared.context)
    if chosen.overridden is not None:
        say(f'FASTLANE_URL overrides the context "{chosen.overridden}".')
    context = chosen.context
    verify = None
    if context.ca_file is not None:
        import ssl

        verify = ssl.create_default_context(cafile=context.ca_file)
    return Client(context.url, token=context.token, verify=verify)


def _import_without_trio() -> None:
    """httpcore2 imports trio where it is installed, which takes longer than our whole start."""
    if "trio" in sys.modules:
        return
    sys.modules["trio"] = None  # type: ignore[assignment]
    try:
        import httpcore2  # noqa: F401
    finally:
        del sys.modules["trio"]


def load_config(file: Path | None, **overrides: str | None) -> Config:
    """The configuration; what it probably does not mean is a warning."""
    from fastlane.config import load, misspellings, warnings

    for sentence in misspellings():
        say(f"Warning: {sentence}")
    config = load(file, overrides=overrides)
    for sentence in warnings(config):
        say(f"Warning: {sentence}")
    return config
