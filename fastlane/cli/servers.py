"""``fastlane context``, ``api`` and ``completion``."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from fastlane.cli import complete
from fastlane.cli.app import app, client, command, say, shared
from fastlane.cli.contexts import Context, read, write
from fastlane.cli.output import print_json, print_table
from fastlane.errors import ConfigError

context = typer.Typer(
    help="Name servers and keep their credentials.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(context, name="context")

Name = Annotated[
    str, typer.Argument(metavar="NAME", autocompletion=complete.contexts, help="The context.")
]


@context.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name for the server.")],
    url: Annotated[str, typer.Option(metavar="URL", help="The server.")],
    token: Annotated[
        str | None,
        typer.Option(metavar="TOKEN", help="Its token; - reads it from stdin."),
    ] = None,
    ca_file: Annotated[
        str | None, typer.Option("--ca", metavar="FILE", help="Certificates to trust, in PEM.")
    ] = None,
) -> None:
    """Name a server, and use it from now on if it is the first."""
    from fastlane_client import Client

    if token == "-":  # noqa: S105
        token = sys.stdin.readline().strip()
    # Says what is wrong with the URL; nothing is sent.
    Client(url, token=token).close()
    contexts = read()
    if name in contexts.named:
        raise ConfigError(f'There is a context "{name}" already: remove it first.')
    write(contexts.with_context(name, Context(url, token, ca_file)))
    print(f"Created {name}.")


@context.command("use")
def use(name: Name) -> None:
    """Use this server from now on."""
    write(read().using(name))
    print(f"Using {name}.")


@context.command("ls")
def ls(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """List the contexts; the current one is marked."""
    from fastlane_client.address import shown

    contexts = read()
    rows = [
        ("*" if name == contexts.current else "", name, shown(one.url), "yes" if one.token else "")
        for name, one in sorted(contexts.named.items())
    ]
    if as_json:
        for current, name, url, token in rows:
            print_json({"name": name, "url": url, "current": bool(current), "token": bool(token)})
        return
    print_table(("", "NAME", "URL", "TOKEN"), rows, shared().style)


@context.command("rm")
def rm(name: Name) -> None:
    """Forget a server and its credentials."""
    write(read().without(name))
    print(f"Removed {name}.")


@command()
def api(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="Such as GET or POST.")],
    path: Annotated[str, typer.Argument(metavar="PATH", help="Such as /tasks/.")],
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", metavar="JSON", help="The body; - reads it from stdin."),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", metavar="NAME:VALUE", help="Send a header."),
    ] = None,
) -> None:
    """Send any request, and print the answer.

    The credentials are those of the context."""
    text = sys.stdin.read() if data == "-" else data
    try:
        body: Any = None if text is None else json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--data is not JSON: {error}.") from error
    with client() as server:
        reply = server.api(method, path, body, headers=dict(map(_header, header or ())))
    if "json" in reply.headers.get("content-type", "") and reply.body:
        print(json.dumps(json.loads(reply.body), indent=2, ensure_ascii=False))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(reply.body)
        sys.stdout.buffer.flush()
    if not reply.body:
        say(f"{reply.status}, without a body.")


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ConfigError(f'--header is "{text}": give NAME:VALUE.')
    return name.strip(), value.strip()


class Shell(StrEnum):
    """A shell that completion is for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@app.command()
def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="Bash, zsh or fish.")],
) -> None:
    """Print what makes a shell complete commands, tasks and ids.

    For bash: eval "$(fastlane completion bash)" in ~/.bashrc; for zsh the same in ~/.zshrc, after
    compinit; for fish: fastlane completion fish > ~/.config/fish/completions/fastlane.fish.
    """
    # Typer prints it for who asks in this variable.
    os.environ["_FASTLANE_COMPLETE"] = f"source_{shell.value}"
    app(prog_name="fastlane")
