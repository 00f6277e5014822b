"""What was answered or shown stays true, wherever the primary is cut off from the others.

A model of each operation of the cluster storage: all of them run at once and are held before their
k-th write. Then the primary's writes no longer reach the other members, and the operations
continue, are repeated, and are looked at by another instance on the same primary. It is killed, and
a member follows it that has seen none of this. Whatever returned, or was shown, must still be so;
and each operation must come to its end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from fastlane.errors import CompareFailed, NotFound, Rejected, StorageUnavailable
from fastlane.model import Definition, DeliveryState, HostRecord, Reason, Status
from fastlane.storage.base import IdempotencyKey, Storage
from fastlane.storage.mongo import ClusterStorage
from scripts.scoreboard import Row
from tests.cluster.gates import Gate, gated, held
from tests.cluster.replica_set import ReplicaSet
from tests.contracts.test_storage import (
    DONE,
    NOW,
    finish,
    make_execution,
    make_job,
    new_id,
    records,
    running,
    submit,
)
from tests.contracts.test_storage import claimed as claimed_of
from tests.contracts.test_storage_outbox import OK, hook, submit_telling
from tests.eventually import eventually
from tests.scoreboard import Scoreboard

__all__ = ["gated"]  # a fixture

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("gated")]

# What an operation that is cut off may take: less than in production, because all of them wait.
CUT_OFF_SECONDS = 1.0

Call = Callable[[Storage], Awaitable[object]]
Holds = Callable[[Storage], Awaitable[bool]]


@dataclass
class Operation:
    """One operation on records of its own, and how to see that it has taken place."""

    name: str
    call: Call
    holds: Holds
    gate: Gate = field(default_factory=lambda: Gate(0))
    told: list[str] = field(default_factory=list)
    """How it became known that it has taken place."""

    async def run(self, storage: Storage, when: str) -> None:
        """Call it; one that is cut off may fail in one way only."""
        try:
            await self.call(storage)
        except StorageUnavailable:
            return
        except CompareFailed:
            # Right for one that has taken place, and wrong where nothing is known.
            assert self.told, f"{self.name} was refused {when}"
            return
        self.told.append(f"answered {when}")

    async def look(self, storage: Storage, who: str) -> None:
        try:
            if await self.holds(storage):
                self.told.append(f"shown to {who}")
        except (NotFound, StorageUnavailable):
            pass


async def submits(storage: Storage) -> list[Operation]:
    new, keyed, key = make_job(), make_job(), IdempotencyKey("key", "print")
    put, stopped, again, ticked = (make_job(job_id) for job_id in ("p", "s", "r", "t"))
    ticked = make_job("t", next_run_at=NOW)
    for job in (put, stopped, again):
        await storage.jobs.submit(job, make_execution(job, farm=job.task_id))
    await finish(storage, await running(storage, farm="r", owner="alive"))
    await storage.jobs.submit(ticked, None)
    retry, tick = make_execution(again, queue_job_id="manual"), make_execution(ticked, tick=NOW)
    put_run = make_execution(put)
    first, first_keyed = make_execution(new), make_execution(keyed)

    async def submit_keyed(s: Storage) -> object:
        stored = await s.jobs.submit(keyed, first_keyed, idempotency=key)
        assert stored.execution is not None, "an answer without the execution"
        return stored

    async def submit_new(s: Storage) -> object:
        try:
            return await s.jobs.submit(new, first)
        except CompareFailed:
            # A repeat under the same id, which the API never makes.
            return await s.executions.get(first.id)

    async def tick_once(s: Storage) -> object:
        try:
            return await s.jobs.tick(ticked, tick, next_run_at=NOW + 60, now=NOW)
        except CompareFailed:
            # Taken: by the first call, so the execution is there or follows.
            return None

    async def is_there(s: Storage, execution_id: str) -> bool:
        return (await s.executions.get(execution_id)).id == execution_id

    async def has(s: Storage, job: Any, **values: object) -> bool:
        stored = await s.jobs.get(job.task_id, job.id)
        return all(getattr(stored, name) == value for name, value in values.items())

    return [
        Operation("submit", submit_new, lambda s: is_there(s, first.id)),
        Operation("submit with a key", submit_keyed, lambda s: is_there(s, first_keyed.id)),
        Operation(
            "PUT",
            lambda s: s.jobs.submit(put, put_run, replace=True),
            lambda s: is_there(s, put_run.id),
        ),
        Operation("tick", tick_once, lambda s: has(s, ticked, next_run_at=NOW + 60)),
        Operation(
            "stop a job",
            lambda s: s.jobs.stop("s", stopped.id, now=NOW + 7),
            lambda s: has(s, stopped, stopped_at=NOW + 7),
        ),
        Operation(
            "retry",
            lambda s: s.jobs.retry(again, retry, now=NOW),
            lambda s: has(s, again, queue_job_id="manual"),
        ),
    ]


async def lives(storage: Storage) -> list[Operation]:
    farms = ("claim", "release", "start", "stop", "finish", "append", "chunks", "adopt", "move")
    ids = {farm: (await submit(storage, farm, farm=farm)).id for farm in (*farms, "stop queued")}
    due = await submit(storage, due_at=NOW + 5)
    expiring = make_job(definition=Definition.parse("i:1", "true", expires_at=NOW + 500))
    expires = await submit(storage, job=expiring, farm="expire")
    release, start = [await claimed_of(storage, farm=f, owner="alive") for f in farms[1:3]]
    stop, end, append, chunks = [
        await running(storage, farm=farm, owner="alive") for farm in farms[3:7]
    ]
    await running(storage, farm="adopt", owner="dead")
    retry = make_execution(await storage.jobs.get("finish", end.job_id), attempt=1)
    small, large = records(1, 2), records(1, 4, size=200_000)

    async def has(s: Storage, execution_id: str, **values: object) -> bool:
        stored = await s.executions.get(execution_id)
        return all(getattr(stored, name) == value for name, value in values.items())

    async def claim(s: Storage) -> object:
        got = await s.executions.claim("claim", host="h:1", owner="alive", max_running=1, now=NOW)
        if got is None:
            # None is no promise; but see that it is not lost.
            raise StorageUnavailable("claimed by the first call, or not at all")
        return got

    async def released(s: Storage) -> object:
        try:
            await s.executions.release(release.id, release.epoch, now=NOW)
        except CompareFailed:
            return "released already"
        return "released"

    async def move(s: Storage) -> object:
        try:
            await s.executions.assign_farm(ids["move"], expected="move", farm="moved")
        except CompareFailed:
            return "moved already"
        return "moved"

    def counted(call: Callable[[Storage], Awaitable[Any]]) -> Call:
        """Returning nothing is no promise."""

        async def run(s: Storage) -> object:
            if not (got := await call(s)):
                raise StorageUnavailable("nothing was done")
            return got

        return run

    async def logged(s: Storage, execution_id: str, last: int) -> bool:
        state = await s.logs.state(execution_id)
        shown = await s.logs.read(execution_id, max_bytes=2**21)
        assert len(shown) in {0, last}
        return state.last_seq == last and bool(shown)

    return [
        Operation("claim", claim, lambda s: has(s, ids["claim"], status=Status.PULLING)),
        Operation("release", released, lambda s: has(s, release.id, status=Status.ENQUEUED)),
        Operation(
            "started",
            lambda s: s.executions.started(start.id, start.epoch, run_id="r", started_at=NOW),
            lambda s: has(s, start.id, status=Status.RUNNING),
        ),
        Operation(
            "stop an execution",
            lambda s: s.executions.stop(stop.id, reason=Reason.STOPPED, now=NOW),
            lambda s: has(s, stop.id, stop_reason=Reason.STOPPED),
        ),
        Operation(
            "stop one that is queued",
            lambda s: s.executions.stop(ids["stop queued"], reason=Reason.STOPPED, now=NOW),
            lambda s: has(s, ids["stop queued"], status=Status.FAILED),
        ),
        Operation(
            "finish",
            lambda s: finish(s, end, DONE, retry=retry),
            lambda s: has(s, end.id, status=Status.DONE, exit_code=0),
        ),
        Operation(
            "append",
            lambda s: s.logs.append(append.id, append.epoch, small, bookmark="b", cap=None),
            lambda s: logged(s, append.id, 2),
        ),
        Operation(
            "append chunks",
            lambda s: s.logs.append(chunks.id, chunks.epoch, large, bookmark="b", cap=None),
            lambda s: logged(s, chunks.id, 4),
        ),
        Operation(
            "adopt",
            counted(lambda s: s.instances.adopt("heir", now=NOW, limit=10)),
            lambda s: has(s, ids["adopt"], owner="heir"),
        ),
        Operation("assign a farm", move, lambda s: has(s, ids["move"], farm="moved")),
        Operation(
            "queue what is due",
            counted(lambda s: s.executions.queue_due(NOW + 5, 10)),
            lambda s: has(s, due.id, due_at=None),
        ),
        Operation(
            "expire",
            counted(lambda s: s.executions.expire(NOW + 500, 10)),
            lambda s: has(s, expires.id, status=Status.EXPIRED),
        ),
    ]


async def others(storage: Storage) -> list[Operation]:
    tried, failed, untried = [f"http://{name}.example/" for name in ("tried", "failed", "untried")]
    _, execution = await submit_telling(
        storage,
        notify={},
        webhooks={"finishes": [hook(url) for url in (tried, failed, untried)]},
    )
    await finish(storage, await running(storage, farm=execution.farm, owner="alive"))
    taken = {
        one.target: one
        for one in await storage.outbox.claim(
            now=NOW + 3, claim_seconds=60, limit=10, per_receiver=10, busy={}
        )
    }
    refused = OK.__class__(NOW, 0.1, status=500, error="refused")
    await storage.outbox.attempted(taken[failed].id, taken[failed].claim, refused, retry_at=None)
    await storage.outbox.unclaim(taken[untried].id, taken[untried].claim)

    async def delivery(s: Storage, url: str) -> Any:
        found = await s.outbox.of_executions([execution.id])
        return next(one for one in found if one.target == url)

    async def attempted(s: Storage) -> object:
        try:
            return await s.outbox.attempted(taken[tried].id, taken[tried].claim, OK, retry_at=None)
        except CompareFailed:
            return None

    async def claim(s: Storage) -> object:
        got = await s.outbox.claim(
            now=NOW + 3, claim_seconds=60, limit=10, per_receiver=10, busy={}
        )
        if untried not in {one.target for one in got}:
            raise StorageUnavailable("it was not among them")
        return got

    async def is_delivered(s: Storage) -> bool:
        return bool((await delivery(s, tried)).state is DeliveryState.DELIVERED)

    async def is_pending(s: Storage) -> bool:
        return bool((await delivery(s, failed)).state is DeliveryState.PENDING)

    async def is_claimed(s: Storage) -> bool:
        return bool((await delivery(s, untried)).claim == taken[untried].claim + 1)

    async def is_stored(s: Storage, host: str, **values: object) -> bool:
        found = {record.host: record for record in await s.hosts.all()}
        return host in found and all(getattr(found[host], k) == v for k, v in values.items())

    return [
        Operation("an attempt", attempted, is_delivered),
        Operation(
            "requeue", lambda s: s.outbox.requeue(taken[failed].id, now=NOW + 90), is_pending
        ),
        Operation("claim a delivery", claim, is_claimed),
        Operation(
            "black-list",
            lambda s: s.hosts.blacklist("h:2", blacklisted=True, now=NOW),
            lambda s: is_stored(s, "h:2", blacklisted=True),
        ),
        Operation(
            "a breaker",
            lambda s: s.hosts.store_breaker(HostRecord("h:3", failures=5), now=NOW),
            lambda s: is_stored(s, "h:3", failures=5),
        ),
    ]


@pytest.fixture(scope="module")
def replica_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    with ReplicaSet(tmp_path_factory.mktemp("rs")) as members:
        yield members


# The first two are the writes that decide, but for a claim of a farm that is new.
@pytest.mark.parametrize(
    "write", [1, 2, *(pytest.param(n, marks=pytest.mark.faults) for n in (3, 4, 5))]
)
async def test_what_was_answered_survives_a_fail_over(
    write: int,
    replica_set: ReplicaSet,
    monkeypatch: pytest.MonkeyPatch,
    scoreboard: Scoreboard,
) -> None:
    """Four seconds of it are time limits that pass, and an election."""
    url = replica_set.url.replace("/fastlane?", f"/write{write}-{new_id()[:8]}?")
    witness = ClusterStorage(url)
    await eventually(lambda: _opens(witness), "a storage that opens")
    storage = ClusterStorage(url)
    with monkeypatch.context() as patch:
        patch.setattr("fastlane.storage.mongo.database.OPERATION_SECONDS", CUT_OFF_SECONDS)
        await storage.open()
    try:
        await witness.instances.beat("alive", now=NOW, lease_seconds=10_000)
        # Black-listing, which is among the others, spoils claims that are under way.
        operations = [*await others(witness), *await submits(witness), *await lives(witness)]
        await _cut_off(operations, replica_set, storage, witness, write)
        undone = [one for one in operations if not await _survived(one, storage, witness)]
        what = "each operation of the store, cut off and repeated"
        told = sum(bool(one.told) for one in operations)
        scoreboard.add(
            Row(
                what,
                "cluster",
                len(operations),
                "operations",
                lost=0,
                wrong_answer=len(undone),
                note=f"before write {write}: {told} became known",
            )
        )
        assert not undone, {one.name: one.told for one in undone}
    finally:
        await storage.close()
        await witness.close()


async def _opens(storage: Storage) -> bool:
    try:
        await storage.open()
    except StorageUnavailable:
        return False
    return True


async def _cut_off(
    operations: list[Operation],
    replica_set: ReplicaSet,
    storage: Storage,
    witness: Storage,
    write: int,
) -> None:
    first = []
    for operation in operations:
        operation.gate = Gate(write)
        first.append(await held(operation.gate, operation.run(storage, "at first")))
    primary = await asyncio.to_thread(replica_set.hold)
    try:
        for operation in operations:
            operation.gate.opened.set()
        await asyncio.gather(*first)
        await asyncio.gather(*(one.look(witness, "another") for one in operations))
        await asyncio.gather(*(one.run(storage, "when repeated") for one in operations))
        await asyncio.gather(*(one.look(storage, "the same") for one in operations))
    finally:
        await asyncio.to_thread(replica_set.fail_over, primary)
        await asyncio.to_thread(primary.start)


async def _survived(operation: Operation, storage: Storage, witness: Storage) -> bool:
    """Whether what became known of *operation* is still so. It comes to its end in any case."""

    async def holds() -> bool | None:
        try:
            return await operation.holds(witness)
        except NotFound:
            return False
        except StorageUnavailable:
            return None

    async def known() -> list[bool] | None:
        now = await holds()
        return None if now is None else [now]

    (now,) = await eventually(known, "an answer of the next primary")

    async def ends() -> bool:
        with contextlib.suppress(StorageUnavailable, CompareFailed, Rejected):
            await operation.call(storage)
        return bool(await holds())

    await eventually(ends, f"the end of {operation.name}")
    return now or not operation.told
