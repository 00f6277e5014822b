"""``fastlane notifications``: those that were not delivered."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from fastlane.cli.app import app, client, command, shared
from fastlane.cli.output import ago, print_json, print_table
from fastlane.errors import ConfigError

if TYPE_CHECKING:
    from fastlane_client.records import Notification

notifications = typer.Typer(
    help="List undelivered notifications, and resend them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(notifications, name="notifications")


class Listed(StrEnum):
    """Which notifications are listed."""

    FAILED = "failed"
    PENDING = "pending"


@command("list", into=notifications, output=True)
def list_notifications(
    state: Annotated[
        Listed, typer.Option(help="Those out of retries (failed), or not delivered yet (pending).")
    ] = Listed.FAILED,
) -> None:
    """List notifications, newest first."""
    style = shared().style
    with client() as server:
        found = server.notifications(state.value)
        if style.as_json or style.quiet:
            for item in found:
                print_json(dict(item.raw)) if style.as_json else print(item.id)
            return
        rows = [_row(item) for item in found]
    print_table(("ID", "EVENT", "CHANNEL", "TARGET", "CREATED", "ERROR"), rows, style)


@command("requeue", into=notifications)
def requeue_notifications(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID...", help="Ids, as listed.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All that have failed.")] = False,
) -> None:
    """Send failed notifications again, with all their retries."""
    if bool(ids) == every:
        raise ConfigError("Nothing was requeued: give ids, or --all.")
    with client() as server:
        # The whole list first: requeueing would move its pages.
        chosen = ids or [item.id for item in server.notifications(Listed.FAILED.value)]
        for notification_id in chosen:
            server.requeue(notification_id)
    print(f"{len(chosen)} requeued")


def _row(item: Notification) -> tuple[object, ...]:
    error = item.dispatch[-1].error if item.dispatch else None
    return item.id, item.event, item.channel, item.target, ago(item.created_at), error
