"""The event stream as a follower hears it while instances come and go, and what must be in it."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.cluster.instances import Servers
from tests.eventually import wait_for
from tests.load import SETTLE_SECONDS

FINAL_TYPES = {f"execution.{status}" for status in ("done", "failed", "timedout", "expired")}
# What may follow what, of one execution; None is its beginning.
FOLLOWS: Mapping[str | None, set[str]] = {
    None: {"execution.enqueued"},
    "execution.enqueued": {"execution.enqueued", "execution.pulling"} | FINAL_TYPES,
    "execution.pulling": {"execution.enqueued", "execution.pulling", "execution.running"}
    | FINAL_TYPES,
    # An owner that adopts what ran may say so again.
    "execution.running": {"execution.running"} | FINAL_TYPES,
}
# How long one request waits for news, in seconds.
WAIT_SECONDS = 2
PAGE = {"Accept": "application/json"}


class EventLog:
    """Follows the events in a thread, each page from any instance."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._start = ""
        self._heard: dict[str, dict[str, Any]] = {}
        """Each event once, by its id, in the order in which it came first."""
        self.repeated = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow)

    def begin(self) -> None:
        """Follow from now on."""
        self._start = wait_for(self._now, "a cursor", SETTLE_SECONDS)
        self._thread.start()

    def end(self) -> None:
        """Follow no longer. Safe to repeat."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _now(self) -> str | None:
        found = self._page("/events/")
        return None if found is None else str(found["cursor"])

    def _page(self, path: str) -> dict[str, Any] | None:
        status, answer = self._servers.request("GET", path, headers=PAGE)
        assert status in {0, 200, 503}, (path, status, answer[:300])
        found: dict[str, Any] | None = json.loads(answer) if status == 200 else None
        return found

    def _follow(self) -> None:
        cursor = self._start
        while not self._over.is_set():
            found = self._page(f"/events/?after={cursor}&wait={WAIT_SECONDS}")
            if found is None:
                self._over.wait(0.05)
                continue
            for event in found["items"]:
                self.repeated += event["id"] in self._heard
                self._heard.setdefault(event["id"], event)
            cursor = found["cursor"]

    def _stored(self) -> Iterator[dict[str, Any]]:
        """All events since the beginning, read once more."""
        cursor, more = self._start, True
        while more:
            path = f"/events/?after={cursor}&limit=1000"
            found = wait_for(lambda: self._page(path), "events", SETTLE_SECONDS)  # noqa: B023
            yield from found["items"]
            cursor, more = found["cursor"], found["hasMore"]

    def faults(self, executions: Sequence[Mapping[str, Any]], deleted: Sequence[str]) -> list[str]:
        """What is wrong with the events of *executions*, which have all ended.

        :param deleted: the jobs that were deleted.
        """
        wanted = {one["executionId"]: one for one in executions}

        def all_told() -> bool:
            told = {each["executionId"] for each in self._heard.copy().values() if _is_final(each)}
            gone = [each["jobId"] for each in self._heard.copy().values() if _is_gone(each)]
            return wanted.keys() <= told and set(deleted) <= set(gone)

        found = []
        try:
            wait_for(all_told, "the final event of each", SETTLE_SECONDS)
        finally:
            self.end()
            heard = self._heard
            found += [f"not heard: {one}" for one in self._stored() if one["id"] not in heard]
            found += [f"a gap: {one}" for one in heard.values() if one["type"] == "gap"]
            found += self._of_executions(wanted)
            gone = [each["jobId"] for each in heard.values() if _is_gone(each)]
            found += [
                f"{job}: deleted {gone.count(job)} times" for job in deleted if gone.count(job) != 1
            ]
            # Shown with the failure of the wait, too.
            print("\n".join(found))
        return found

    def _of_executions(self, wanted: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        events: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for event in self._heard.values():
            if event["type"] in FINAL_TYPES | set(FOLLOWS):
                events[event["executionId"]].append(event)
        for key, execution in wanted.items():
            before: str | None = None
            for event in events[key]:
                if event["type"] not in FOLLOWS.get(before, set()):
                    yield f"{key}: {event['type']} after {before}"
                before = event["type"]
            finals = [event for event in events[key] if _is_final(event)]
            if len(finals) != 1:
                yield f"{key}: {len(finals)} final events"
            elif any(finals[0].get(name) != execution[name] for name in ("status", "reason")):
                yield f"{key}: {finals[0]} for {execution['status']}, {execution['reason']}"


def _is_gone(event: Mapping[str, Any]) -> bool:
    return bool(event["type"] == "job.deleted")


def _is_final(event: Mapping[str, Any]) -> bool:
    return event["type"] in FINAL_TYPES
