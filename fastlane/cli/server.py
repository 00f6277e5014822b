"""``fastlane server`` and its healthcheck."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastlane.cli.app import ConfigFile, app, load_config
from fastlane.errors import ConfigError, FastlaneError

if TYPE_CHECKING:
    from fastlane.config import Config

# Addresses that mean all of a machine's, and the one of them to call.
_ON_ALL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104

Host = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Address of the server; default: $HOST, or 127.0.0.1."),
]
Port = Annotated[
    str | None, typer.Option(metavar="PORT", help="Port of the server; default: $PORT, or 10000.")
]


@app.command()
def server(
    # Texts, so that their errors read like those of all other options.
    host: Host = None,
    port: Port = None,
    roles: Annotated[
        str | None,
        typer.Option(
            metavar="ROLES",
            help="What it does: some of api,scheduler,dispatcher,monitor,notifier; "
            "default: $ROLES, or all of them.",
        ),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Serve the API and run jobs until SIGTERM or Ctrl-C."""
    # The environment holds passwords, and jobs of the process executor run as the same user.
    from fastlane import processes

    processes.hide()
    loaded = load_config(config, host=host, port=port, roles=roles)
    # The server's imports take longer than any other command needs.
    from fastlane import logs, sentry
    from fastlane.server import run

    logs.configure(loaded)
    sentry.configure(loaded)
    run(loaded)


@app.command()
def healthcheck(host: Host = None, port: Port = None, config: ConfigFile = None) -> None:
    """Check that the server on this machine is healthy.

    Exits with 0 if it is, and with 1 if it is not.

    If ROLES does not include api, the worker that uses DATA_DIR is checked instead.
    """
    from fastlane.config import load

    try:
        # Without the warnings: this runs every few seconds.
        loaded = load(config, overrides={"host": host, "port": port})
    except ConfigError as error:
        raise FastlaneError(str(error)) from error
    if "api" in loaded.roles or host is not None or port is not None:
        _check_server(loaded)
    else:
        _check_worker(loaded.data_dir)


def _check_server(config: Config) -> None:
    from urllib.parse import quote

    from fastlane_client import Client

    host = _ON_ALL.get(config.host, config.host)
    at = f"[{host}]" if ":" in host else host
    user = ""
    if config.basic_auth_user:
        password = config.basic_auth_password.get_secret_value()
        user = f"{quote(config.basic_auth_user, safe='')}:{quote(password, safe='')}@"
    # The engine runs this command again; it does not retry itself.
    with Client(f"http://{user}{at}:{config.port}", patience=0) as client:
        client.health()


def _check_worker(data_dir: Path) -> None:
    from fastlane.background.pulse import FILE_NAME, FRESH_SECONDS

    file = data_dir / FILE_NAME
    if not file.exists() or time.time() - file.stat().st_mtime > FRESH_SECONDS:
        raise FastlaneError(
            f"No worker that uses {data_dir} was healthy in the last {FRESH_SECONDS:g} s: "
            "see its log, or set DATA_DIR to its directory."
        )
