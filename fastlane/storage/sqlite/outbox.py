"""The outbox: deliveries that are claimed, tried and recorded."""

# ruff: noqa: S608 (what is put into a query is a constant of this package)

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace as copy_with
from typing import Any

from fastlane.errors import CompareFailed, NotFound, Rejected
from fastlane.model import Attempt, Delivery, DeliveryState
from fastlane.storage.base import Outbox, Page, PageRequest
from fastlane.storage.codec import cursor_numbers
from fastlane.storage.sqlite.changes import record, update
from fastlane.storage.sqlite.facet import Facet, on_reader, on_writer
from fastlane.storage.sqlite.records import DELIVERY_COLUMNS, MAX_OFFSET, delivery_from, page_of
from fastlane.storage.transitions import attempted
from fastlane.stored_events import delivery_event

FIND_DELIVERY = f"SELECT {DELIVERY_COLUMNS} FROM deliveries WHERE id = ?"
# Steps from receiver to receiver through the index, however many deliveries each of them has.
DUE_RECEIVERS = """
WITH RECURSIVE receivers (name) AS (
    SELECT min(receiver) FROM deliveries WHERE state = 'pending'
    UNION ALL
    SELECT (SELECT min(receiver) FROM deliveries WHERE state = 'pending' AND receiver > name)
    FROM receivers WHERE name IS NOT NULL
)
SELECT name, (
    SELECT min(due_at) FROM deliveries WHERE state = 'pending' AND receiver = name
) AS earliest
FROM receivers WHERE name IS NOT NULL AND earliest <= ? ORDER BY earliest
"""
DUE_DELIVERIES = f"""
SELECT {DELIVERY_COLUMNS} FROM deliveries
WHERE state = 'pending' AND receiver = ? AND due_at <= ? ORDER BY due_at LIMIT ?
"""
NEXT_DELIVERY = "SELECT min(due_at) FROM deliveries WHERE state = 'pending'"
DELIVERIES_TOTAL = {
    DeliveryState.PENDING: "SELECT ifnull(sum(deliveries), 0) FROM pending",
    DeliveryState.FAILED: "SELECT undelivered FROM counters",
}
DELIVERIES_PAGE = f"""
SELECT seq, {DELIVERY_COLUMNS} FROM deliveries INDEXED BY deliveries_open
WHERE state IN ('pending', 'failed') AND state = ? AND seq < ? ORDER BY seq DESC LIMIT ? OFFSET ?
"""
DELIVERIES_OF = f"""
SELECT {DELIVERY_COLUMNS} FROM deliveries
WHERE execution_id IN (SELECT value FROM json_each(?)) ORDER BY seq
"""


class SqliteOutbox(Facet, Outbox):
    """:class:`fastlane.storage.base.Outbox` in SQLite."""

    @on_reader
    def next_due_at(self, connection: sqlite3.Connection) -> float | None:
        earliest: float | None = connection.execute(NEXT_DELIVERY).fetchone()[0]
        return earliest

    @on_writer
    def claim(
        self,
        connection: sqlite3.Connection,
        *,
        now: float,
        claim_seconds: float,
        limit: int,
        per_receiver: int,
        busy: Mapping[str, int],
    ) -> Sequence[Delivery]:
        due: list[Delivery] = []
        for receiver, earliest in connection.execute(DUE_RECEIVERS, (now,)).fetchall():
            if len(due) >= limit and earliest >= max(_due(one) for one in due[:limit]):
                break
            room = min(limit, per_receiver - busy.get(receiver, 0))
            if room > 0:
                rows = connection.execute(DUE_DELIVERIES, (receiver, now, room))
                due = sorted([*due, *map(delivery_from, rows)], key=_due)[:limit]
        return [
            _change_delivery(
                connection,
                delivery,
                claim=delivery.claim + 1,
                claimed_at=now,
                due_at=now + claim_seconds,
            )
            for delivery in due
        ]

    @on_writer
    def attempted(
        self,
        connection: sqlite3.Connection,
        delivery_id: str,
        claim: int,
        attempt: Attempt,
        *,
        retry_at: float | None,
    ) -> Delivery:
        delivery = _claimed(connection, delivery_id, claim)
        after = _change_delivery(connection, delivery, **attempted(delivery, attempt, retry_at))
        if after.state is DeliveryState.FAILED:
            record(connection, delivery_event(after, attempt.at))
        return after

    @on_writer
    def unclaim(self, connection: sqlite3.Connection, delivery_id: str, claim: int) -> None:
        delivery = _claimed(connection, delivery_id, claim)
        _change_delivery(connection, delivery, due_at=delivery.claimed_at, claimed_at=None)

    @on_writer
    def requeue(self, connection: sqlite3.Connection, delivery_id: str, *, now: float) -> Delivery:
        delivery = _find_delivery(connection, delivery_id)
        if delivery is None:
            raise NotFound(f'There is no notification "{delivery_id}".')
        if delivery.state is DeliveryState.DELIVERED:
            raise Rejected(
                f'Notification "{delivery_id}" was delivered; there is nothing to requeue.'
            )
        if delivery.state is DeliveryState.PENDING:
            return delivery
        return _change_delivery(
            connection, delivery, state=DeliveryState.PENDING, attempts=0, due_at=now
        )

    @on_reader
    def in_state(
        self, connection: sqlite3.Connection, state: DeliveryState, page: PageRequest
    ) -> Page[Delivery]:
        if state not in DELIVERIES_TOTAL:
            raise Rejected("Delivered notifications are listed by their execution only.")
        (before,) = cursor_numbers(page, parts=1) or (MAX_OFFSET,)
        total = connection.execute(DELIVERIES_TOTAL[state]).fetchone()[0]
        return page_of(connection, DELIVERIES_PAGE, (state, before), page, total, delivery_from)

    @on_reader
    def of_executions(
        self, connection: sqlite3.Connection, execution_ids: Sequence[str]
    ) -> Sequence[Delivery]:
        rows = connection.execute(DELIVERIES_OF, (json.dumps(list(execution_ids)),))
        return [delivery_from(row) for row in rows]


def _due(delivery: Delivery) -> float:
    assert delivery.due_at is not None
    return delivery.due_at


def _find_delivery(connection: sqlite3.Connection, delivery_id: str) -> Delivery | None:
    row = connection.execute(FIND_DELIVERY, (delivery_id,)).fetchone()
    return None if row is None else delivery_from(row)


def _claimed(connection: sqlite3.Connection, delivery_id: str, claim: int) -> Delivery:
    """The pending delivery, as long as it is claimed under *claim*."""
    delivery = _find_delivery(connection, delivery_id)
    if delivery is None or delivery.claimed_at is None or delivery.claim != claim:
        raise CompareFailed(f"notification {delivery_id} is not claimed under {claim} any more")
    return delivery


def _change_delivery(
    connection: sqlite3.Connection, delivery: Delivery, **changes: Any
) -> Delivery:
    update(connection, "deliveries", delivery.id, changes)
    return copy_with(delivery, **changes)
