"""A replica set of three members on this machine, whose replication can be held up."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Self

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from scripts.services import prepare_mongod
from tests.eventually import wait_for
from tests.services import MongoServer, missing


class Member(MongoServer):
    """One of three members of the replica set ``rs``."""

    @property
    def address(self) -> str:
        """Where the others and clients reach it."""
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [*super().command(), "--replSet", "rs", "--setParameter", "enableTestCommands=1"]


class ReplicaSet:
    """Three members on this machine."""

    def __init__(self, directory: Path) -> None:
        self.members = [self._member(directory / f"member-{n}", n) for n in range(3)]

    def _member(self, directory: Path, number: int) -> Member:
        return Member(directory)

    def __enter__(self) -> Self:
        why = prepare_mongod()
        if why is not None:
            missing("mongod", why)
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        places = ",".join(member.address for member in self.members)
        return f"mongodb://{places}/fastlane?replicaSet=rs"

    def start(self) -> None:
        for member in self.members:
            member.start()
        config = {
            "_id": "rs",
            "members": [
                {"_id": n, "host": member.address} for n, member in enumerate(self.members)
            ],
            "settings": {"electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 500},
        }
        with self.client(self.members[0]) as client:
            client.admin.command("replSetInitiate", config)
        wait_for(self.primary, "a primary")

    def stop(self) -> None:
        for member in self.members:
            member.kill()

    def client(self, member: Member) -> MongoClient[dict[str, Any]]:
        return MongoClient(
            f"mongodb://127.0.0.1:{member.port}/?directConnection=true",
            serverSelectionTimeoutMS=2000,
            timeoutMS=5000,
        )

    def primary(self) -> Member | None:
        for member in self.members:
            try:
                socket.create_connection(("127.0.0.1", member.port), 0.5).close()
                with self.client(member) as client:
                    if client.admin.command("hello").get("isWritablePrimary"):
                        return member
            except (OSError, PyMongoError):
                continue
        return None

    def hold(self) -> Member:
        """Cut the primary's writes off from the others, which keep it as their primary.

        :return: the primary, for :meth:`fail_over`.
        """
        primary = wait_for(self.primary, "a primary")
        for member in self.members:
            if member is not primary:
                self._set(member, "stopReplProducer", "alwaysOn")
        return primary

    def fail_over(self, primary: Member) -> None:
        """Kill the held *primary*, and let one of the others follow it without its last writes."""
        primary.kill()
        others = [member for member in self.members if member is not primary]
        for member in others:
            self._set(member, "stopReplProducer", "off")
        wait_for(self.primary, "another primary")

    def _set(self, member: Member, point: str, mode: str) -> None:
        with self.client(member) as client:
            client.admin.command({"configureFailPoint": point, "mode": mode})
