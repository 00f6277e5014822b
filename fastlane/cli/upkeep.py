"""``fastlane version``, ``status`` and ``prune``."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer

from fastlane.cli.app import LOCAL, ConfigFile, ServerUrl, app, call, load_config, say, show_version
from fastlane.cli.old_client import Client


@app.command()
def version() -> None:
    """Show the version."""
    show_version(True)


@app.command()
def status(server: ServerUrl = LOCAL) -> None:
    """Show the hosts, jobs and queues of a running server as JSON."""
    typer.echo(json.dumps(call(server, Client.status), indent=2, ensure_ascii=False))


@app.command("prune")
def prune_runs(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")
    ] = False,
    config: ConfigFile = None,
    server: ServerUrl = LOCAL,
) -> None:
    """Remove this installation's containers whose execution has ended.

    Executions are looked up in the storage of this configuration; if a server is using that, the
    server is asked.
    """
    loaded = load_config(config)
    from fastlane.prune import prune

    async def run() -> bool:
        failed = False
        async for each in prune(loaded, server, dry_run=dry_run):
            if each.error is not None:
                say(each.error)
                failed = True
            else:
                done = "Would remove" if dry_run else "Removed"
                typer.echo(f"{done} {each.run_id} of execution {each.execution_id} on {each.host}.")
        return failed

    if asyncio.run(run()):
        raise typer.Exit(1)
