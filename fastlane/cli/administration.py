"""``fastlane version`` and ``prune``."""

from __future__ import annotations

from typing import Annotated

import typer

from fastlane.cli.app import ConfigFile, app, load_config, say, show_version
from fastlane.cli.contexts import LOCAL


@app.command(hidden=True)
def version() -> None:
    """Show the version."""
    show_version(True)


@app.command("prune")
def prune_runs(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")
    ] = False,
    config: ConfigFile = None,
    server: Annotated[
        str,
        typer.Option(
            "--server", envvar="FASTLANE_URL", metavar="URL", help="The server that uses it."
        ),
    ] = LOCAL,
) -> None:
    """Remove containers whose execution has ended.

    Executions are looked up in the storage of this configuration; if a server is using that, the
    server is asked.
    """
    loaded = load_config(config)
    import asyncio

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
