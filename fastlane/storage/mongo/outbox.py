"""The outbox: deliveries that are claimed, tried and written down."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace as copy_with

from pymongo import ASCENDING, DESCENDING

from fastlane.errors import CompareFailed, NotFound, Rejected
from fastlane.model import Attempt, Delivery, DeliveryState
from fastlane.storage.base import Outbox, Page, PageRequest
from fastlane.storage.mongo.facet import Connection, Facet, operation
from fastlane.storage.mongo.records import delivery_doc, delivery_from, page_of
from fastlane.storage.mongo.writes import Doc
from fastlane.storage.transitions import attempted
from fastlane.stored_events import delivery_event


class MongoOutbox(Facet, Outbox):
    """:class:`fastlane.storage.base.Outbox` in MongoDB; each operation is one write."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._claiming = asyncio.Lock()

    @operation
    async def next_due_at(self) -> float | None:
        doc = await self._db.deliveries.find_one(
            {"due": {"$exists": True}}, {"due": 1}, sort=[("due", ASCENDING)]
        )
        return None if doc is None else float(doc["due"])

    @operation
    async def claim(
        self,
        *,
        now: float,
        claim_seconds: float,
        limit: int,
        per_receiver: int,
        busy: Mapping[str, int],
    ) -> Sequence[Delivery]:
        """One write for each decides. When an answer is lost, the claim runs out by itself."""
        claimed: list[Delivery] = []
        taken = dict(busy)
        async with self._claiming:
            while len(claimed) < limit:
                due = await self._due(now, limit - len(claimed), per_receiver, taken)
                got = [await self._claim(doc, now, claim_seconds) for doc in due]
                claimed += [delivery for delivery in got if delivery is not None]
                for delivery in got:
                    if delivery is not None:
                        taken[delivery.receiver] = taken.get(delivery.receiver, 0) + 1
                if None not in got:
                    break
        return claimed

    async def _claim(self, doc: Doc, now: float, claim_seconds: float) -> Delivery | None:
        """Take the delivery of *doc*; None when another instance was faster."""
        delivery = delivery_from(doc)
        taken = copy_with(
            delivery, claim=delivery.claim + 1, claimed_at=now, due_at=now + claim_seconds
        )
        if await self._db.swap(self._db.deliveries, doc, delivery_doc(taken, doc)):
            return taken
        return None

    async def _due(
        self, now: float, limit: int, per_receiver: int, busy: Mapping[str, int]
    ) -> Sequence[Doc]:
        due: list[Doc] = []
        for receiver, earliest in await self._due_receivers(now):
            if len(due) >= limit and earliest >= due[-1]["due_at"]:
                break
            room = min(limit, per_receiver - busy.get(receiver, 0))
            if room > 0:
                found = self._db.deliveries.find({"pending": receiver, "due_at": {"$lte": now}})
                docs = await found.sort("due_at", ASCENDING).limit(room).to_list(None)
                due = sorted([*due, *docs], key=lambda doc: float(doc["due_at"]))[:limit]
        return due

    async def _due_receivers(self, now: float) -> Sequence[tuple[str, float]]:
        """Each receiver that has something due, and since when: one seek each in the index."""
        cursor = await self._db.deliveries.aggregate(
            [
                {"$match": {"pending": {"$gt": ""}, "due_at": {"$lte": now}}},
                {"$sort": {"pending": 1, "due_at": 1}},
                {"$group": {"_id": "$pending", "earliest": {"$first": "$due_at"}}},
                {"$sort": {"earliest": 1, "_id": 1}},
            ],
            hint="pending",
        )
        return [(doc["_id"], doc["earliest"]) for doc in await cursor.to_list(None)]

    @operation
    async def attempted(
        self, delivery_id: str, claim: int, attempt: Attempt, *, retry_at: float | None
    ) -> Delivery:
        while True:
            doc = await self._claimed(delivery_id, claim)
            delivery = delivery_from(doc)
            changed = copy_with(delivery, **attempted(delivery, attempt, retry_at))
            failed = changed.state is DeliveryState.FAILED
            events = [delivery_event(changed, attempt.at)] if failed else []
            after = delivery_doc(changed, doc)
            if await self._db.swap(self._db.deliveries, doc, after, *events):
                return changed

    @operation
    async def unclaim(self, delivery_id: str, claim: int) -> None:
        while True:
            doc = await self._claimed(delivery_id, claim)
            delivery = delivery_from(doc)
            changed = copy_with(delivery, due_at=delivery.claimed_at, claimed_at=None)
            if await self._db.swap(self._db.deliveries, doc, delivery_doc(changed, doc)):
                return

    @operation
    async def requeue(self, delivery_id: str, *, now: float) -> Delivery:
        while True:
            doc = await self._db.deliveries.find_one({"_id": delivery_id})
            if doc is None:
                raise NotFound(f'There is no notification "{delivery_id}".')
            delivery = delivery_from(doc)
            if delivery.state is DeliveryState.DELIVERED:
                raise Rejected(
                    f'Notification "{delivery_id}" was delivered; there is nothing to requeue.'
                )
            if delivery.state is DeliveryState.PENDING:
                return delivery
            changed = copy_with(delivery, state=DeliveryState.PENDING, attempts=0, due_at=now)
            if await self._db.swap(self._db.deliveries, doc, delivery_doc(changed, doc)):
                return changed

    @operation
    async def in_state(self, state: DeliveryState, page: PageRequest) -> Page[Delivery]:
        if state is DeliveryState.DELIVERED:
            raise Rejected("Delivered notifications are listed by their execution only.")
        wanted = {"open": str(state)}
        total = await self._db.deliveries.count_documents(wanted)
        return await page_of(
            self._db.deliveries, wanted, page, total, delivery_from, by="seq", order=DESCENDING
        )

    @operation
    async def of_executions(self, execution_ids: Sequence[str]) -> Sequence[Delivery]:
        found = self._db.deliveries.find({"execution_id": {"$in": list(execution_ids)}})
        return [delivery_from(doc) for doc in await found.sort("seq", ASCENDING).to_list(None)]

    async def _claimed(self, delivery_id: str, claim: int) -> Doc:
        """The pending delivery, as long as it is claimed under *claim*."""
        doc = await self._db.deliveries.find_one({"_id": delivery_id})
        if doc is None or "claimed_at" not in doc or doc["claim"] != claim:
            raise CompareFailed(f"notification {delivery_id} is not claimed under {claim} any more")
        return doc
