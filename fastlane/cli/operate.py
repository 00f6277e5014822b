"""``fastlane status``, ``hosts``, ``drain`` and ``undrain``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastlane.cli.app import client, command, shared
from fastlane.cli.output import print_json, print_table

if TYPE_CHECKING:
    from fastlane_client import Client

Host = Annotated[str, typer.Argument(metavar="HOST", help="As `fastlane hosts` shows it.")]


@command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print what the API answers.")] = False,
) -> None:
    """Show the farms, the queue and the schedule."""
    with client() as server:
        found = server.status()
        if as_json:
            print(json.dumps(dict(found.raw), indent=2, ensure_ascii=False))
            return
        print(f"fastlane {found.version} at {server.server}, {found.backend}")
        print()
        farms = [
            (farm.name, f"{farm.running} of {farm.max_running}", farm.blocked)
            for farm in found.farms
        ]
        print_table(("FARM", "RUNNING", "NOTE"), farms, shared().style)
        print()
        for name, counts in (
            ("tasks", found.tasks),
            ("jobs", found.jobs),
            ("queues", found.queues),
        ):
            print(f"{name.ljust(8)} {_counts(counts)}")


def _counts(counts: Any) -> str:
    return ", ".join(
        f"{name} {value}" for name, value in counts.items() if isinstance(value, int | float)
    )


@command(output=True)
def hosts() -> None:
    """List the hosts and what runs on each."""
    style = shared().style
    with client() as server:
        if style.as_json:
            for farm in server.hosts():
                print_json(dict(farm.raw))
            return
        rows = host_rows(server)
    if style.quiet:
        print("\n".join(str(row[0]) for row in rows))
        return
    print_table(("HOST", "FARM", "STATE", "RUNNING", "ENGINE", "NOTE"), rows, style)


def host_rows(server: Client) -> list[Sequence[object]]:
    """A line for each host."""
    return [
        (
            host.host,
            farm.name,
            "drained" if host.drained else "up" if host.available else "down",
            host.running,
            f"{host.engine.name} {host.engine.version}" if host.engine else "",
            (host.error or "").partition("\n")[0],
        )
        for farm in server.hosts()
        for host in farm.hosts
    ]


@command()
def drain(host: Host) -> None:
    """Give a host no new executions.

    Executions that run there continue."""
    with client() as server:
        server.drain(host)
    print(f"Drained {host}.")


@command()
def undrain(host: Host) -> None:
    """Give a drained host new executions again."""
    with client() as server:
        server.undrain(host)
    print(f"Undrained {host}.")
