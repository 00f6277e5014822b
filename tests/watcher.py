"""Follows events while a test makes trouble, and holds them against what was stored."""

from __future__ import annotations

import http.client
import json
import threading
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.eventually import wait_for
from tests.fastlane_server import FINAL

if TYPE_CHECKING:
    from tests.cluster.instances import Servers

# Bounds one answer that a stream waits for, in seconds.
SILENCE_SECONDS = 5.0
_ORDER = ("enqueued", "pulling", "running", *FINAL)


class Watcher:
    """One consumer that loses its connection at random, and goes on at a random instance."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self.start = self.cursor = servers.insist("/events/?limit=1")["cursor"]
        self.received: list[dict[str, Any]] = []
        self.connections = 0
        self._ended = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Follow until the end of the context, and then up to the last event."""
        thread = threading.Thread(target=self._run, name="watcher")
        thread.start()
        try:
            yield
            wait_for(self._has_all, "the last event")
        finally:
            self._ended.set()
            thread.join()

    def _has_all(self) -> bool:
        return bool(self.cursor == self._servers.insist("/events/?limit=1")["cursor"])

    def _run(self) -> None:
        chance = self._servers.chance
        while not self._ended.is_set():
            self.connections += 1
            try:
                if chance.random() < 0.5:
                    self._stream(chance.randint(1, 30))
                else:
                    self._poll()
            except (OSError, http.client.HTTPException, ValueError):
                self._ended.wait(0.05)

    def _open(self, query: str, accept: str) -> Any:
        base = self._servers.chance.choice(self._servers.instances).url
        request = urllib.request.Request(
            f"{base}/events/?after={self.cursor}{query}", headers={"Accept": accept}
        )
        return urllib.request.urlopen(request, timeout=SILENCE_SECONDS)

    def _poll(self) -> None:
        with self._open("&wait=1&limit=7", "application/json") as answer:
            page = json.loads(answer.read())
        self.received += page["items"]
        self.cursor = page["cursor"]

    def _stream(self, events: int) -> None:
        with self._open("", "text/event-stream") as answer:
            while events and not self._ended.is_set():
                line = answer.readline()
                if not line:
                    return
                if line.startswith(b"data: "):
                    event = json.loads(line[6:])
                    self.received.append(event)
                    self.cursor = event["cursor"]
                    events -= 1

    def check(self) -> None:
        """Fail unless everything arrived that is stored, each execution's in order."""
        stored = list(self._stored())
        # What was stored after the consumer had ended, such as a host that is up again.
        late = self._servers.insist(f"/events/?limit=1000&after={self.cursor}")
        self.received += late["items"]
        stored += [event for event in late["items"] if event not in stored]
        assert "gap" not in {event["type"] for event in self.received}
        received = {event["id"]: event for event in self.received}
        assert received.keys() == {event["id"] for event in stored}
        assert len({event["id"] for event in stored}) == len(stored)
        for execution, events in by_execution(self.received).items():
            ranks = [_ORDER.index(event["status"]) for event in events]
            statuses = [event["status"] for event in events]
            assert statuses[0] == "enqueued", (execution, statuses)
            # Handed back, it is enqueued again; whatever it was, its end is the last.
            assert statuses[-1] in FINAL, (execution, statuses)
            assert sum(status in FINAL for status in statuses) == 1, (execution, statuses)
            if "enqueued" not in statuses[1:]:
                assert ranks == sorted(ranks), (execution, statuses)
        self._check_against_records(stored)

    def _stored(self) -> Iterator[dict[str, Any]]:
        cursor, more = self.start, True
        while more:
            page = self._servers.insist(f"/events/?limit=1000&after={cursor}")
            yield from page["items"]
            cursor, more = page["cursor"], page["hasMore"]

    def _check_against_records(self, stored: list[dict[str, Any]]) -> None:
        ends = {
            event["executionId"]: event
            for event in stored
            if event["type"].removeprefix("execution.") in FINAL
        }
        path, seen = "/executions/?perPage=100&status=final", 0
        while path:
            page = self._servers.insist(path)
            for item in page["items"]:
                event = ends[item["executionId"]]
                assert (event["status"], event.get("reason")) == (item["status"], item["reason"])
                assert (event.get("exitCode"), event["attempt"]) == (
                    item["exitCode"],
                    item["attempt"],
                )
                seen += 1
            path = page["nextUrl"] and "/" + page["nextUrl"].split("/", 3)[3]
        assert seen == len(ends)


def by_execution(events: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The events of each execution, the first time that each arrived."""
    found: defaultdict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for event in events:
        if event["type"].startswith("execution."):
            found[event["executionId"]].setdefault(event["id"], event)
    return {execution: list(some.values()) for execution, some in found.items()}
