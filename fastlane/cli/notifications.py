"""``fastlane notifications``: those that were not delivered."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

from fastlane.cli.app import LOCAL, ServerUrl, app, call
from fastlane.cli.old_client import Client
from fastlane.errors import ConfigError

notifications = typer.Typer(
    help="List notifications that were not delivered, and have them sent again.",
    no_args_is_help=True,
)
app.add_typer(notifications, name="notifications")


class Listed(StrEnum):
    """Which notifications are listed."""

    FAILED = "failed"
    PENDING = "pending"


@notifications.command("list")
def list_notifications(
    state: Annotated[
        Listed, typer.Option(help="failed: out of retries; pending: not delivered yet.")
    ] = Listed.FAILED,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line, as the API has it.")
    ] = False,
    server: ServerUrl = LOCAL,
) -> None:
    """List notifications, newest first: id, event, channel, receiver and error."""

    async def show(client: Client) -> None:
        async for item in client.notifications(state):
            typer.echo(json.dumps(item, ensure_ascii=False) if as_json else _line(item))

    call(server, show)


@notifications.command("requeue")
def requeue_notifications(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID...", help="Ids, as listed.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All that have failed.")] = False,
    server: ServerUrl = LOCAL,
) -> None:
    """Send failed notifications again, with all their retries."""
    if bool(ids) == every:
        raise ConfigError("Nothing was requeued: give ids, or --all.")

    async def requeue(client: Client) -> int:
        # The whole list first: requeueing would move its pages.
        chosen = ids or [item["id"] async for item in client.notifications(Listed.FAILED)]
        for notification_id in chosen:
            await client.requeue(notification_id)
        return len(chosen)

    typer.echo(f"{call(server, requeue)} requeued")


def _line(item: dict[str, Any]) -> str:
    """One line of the list; what a receiver or a submitter chose cannot move the cursor."""
    last = item["dispatch"][-1] if item["dispatch"] else {}
    words = [item["id"], item["event"], item["channel"], item["target"], last.get("error") or ""]
    line = "  ".join(words).rstrip()
    return line if line.isprintable() else repr(line)[1:-1]
