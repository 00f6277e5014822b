"""The outbox, over every storage of ``test_storage.PLACES``."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastlane import policy
from fastlane.errors import CompareFailed, NotFound, Rejected
from fastlane.model import (
    ATTEMPTS_KEPT,
    Attempt,
    Definition,
    Delivery,
    DeliveryState,
    Event,
    Execution,
    Job,
    Outcome,
    Reason,
    Status,
)
from fastlane.notifications.registry import subscriptions_of
from fastlane.storage.base import PageRequest, Storage
from tests.contracts.test_storage import (
    FAILED,
    NOW,
    Place,
    claimed,
    every_page,
    finish,
    make_execution,
    make_job,
    new_id,
    outcomes,
    place,
    running,
    storage,
    submit,
)

__all__ = ["place", "storage"]  # fixtures

OK = Attempt(NOW + 5, 0.25, status=204)
REFUSED = Attempt(NOW + 5, 1.5, status=500, error="The receiver answered 500.")
PENDING, FAILED_STATE = DeliveryState.PENDING, DeliveryState.FAILED


def hook(url: str = "http://one.example/a", **more: Any) -> dict[str, Any]:
    return {"url": url, "headers": {}, "retries": 0, "everyAttempt": False, **more}


def telling(**events: Any) -> Definition:
    """A definition with one webhook and one mail for everything, unless *events* says otherwise."""
    wanted: dict[str, Any] = {
        "webhooks": {event.value: [hook()] for event in Event},
        "notify": {event.value: ["ann@example.org"] for event in Event if event != Event.STARTS},
    }
    return Definition.parse("busy:latest", "true", subscriptions=subscriptions_of(wanted | events))


async def submit_telling(storage: Storage, **events: Any) -> tuple[Job, Execution]:
    job = make_job(definition=telling(**events))
    execution = await submit(storage, job=job)
    return job, execution


async def told(storage: Storage, execution: Execution) -> list[tuple[str, str]]:
    deliveries = await storage.outbox.of_executions([execution.id])
    return sorted((one.event.value, one.channel) for one in deliveries)


async def take(storage: Storage, now: float = NOW + 100, **options: Any) -> Sequence[Delivery]:
    chosen: dict[str, Any] = {
        "claim_seconds": 60.0,
        "limit": 1000,
        "per_receiver": 1000,
        "busy": {},
    }
    return await storage.outbox.claim(now=now, **chosen | options)


async def one_taken(storage: Storage, **options: Any) -> Delivery:
    (delivery,) = await take(storage, **options)
    return delivery


async def hooks_only(storage: Storage, *urls: str, at: float = NOW + 2) -> Execution:
    """A finished execution with one pending delivery for each of *urls*."""
    _, execution = await submit_telling(
        storage, notify={}, webhooks={"finishes": [hook(url) for url in urls]}
    )
    active = await running(storage)
    assert active.id == execution.id
    final, _ = await finish(storage, active, finished_at=at)
    return final


FINISHED = [("finishes", "email"), ("finishes", "webhook")]
ENDED_WELL = [*FINISHED, ("succeeds", "email"), ("succeeds", "webhook")]
ENDED_BADLY = [("fails", "email"), ("fails", "webhook"), *FINISHED]
STARTED = [("starts", "webhook")]


# -- what is written, and when ----------------------------------------------------------------


async def test_nothing_is_told_before_the_start(storage: Storage) -> None:
    _, execution = await submit_telling(storage)
    await claimed(storage)
    assert await told(storage, execution) == []
    assert await storage.outbox.next_due_at() is None
    assert await take(storage) == []


async def test_start_and_outcome_are_told_with_the_step(storage: Storage) -> None:
    _, execution = await submit_telling(storage)
    active = await running(storage)
    assert await told(storage, execution) == STARTED
    again = await storage.executions.started(
        active.id, active.epoch, run_id="c1", started_at=NOW + 9
    )
    assert again.started_at == NOW + 1
    assert await told(storage, execution) == STARTED
    final, _ = await finish(storage, active)
    assert await told(storage, execution) == sorted(ENDED_WELL + STARTED)
    expected = [
        *policy.deliveries_of(again, now=NOW + 1),
        *policy.deliveries_of(final, now=NOW + 2),
    ]
    assert list(await storage.outbox.of_executions([execution.id])) == expected
    assert await storage.outbox.next_due_at() == NOW + 1


@pytest.mark.parametrize(
    "outcome",
    [
        FAILED,
        Outcome(Status.FAILED, Reason.OOM, 137),
        Outcome(Status.FAILED, Reason.PULL_FAILED, error="no such image"),
        Outcome(Status.FAILED, Reason.START_FAILED, 127),
        Outcome(Status.FAILED, Reason.LOST),
        Outcome(Status.TIMEDOUT, Reason.TIMEOUT),
    ],
    ids=lambda outcome: outcome.reason,
)
async def test_every_bad_end_is_told(storage: Storage, outcome: Outcome) -> None:
    """Regression 32."""
    _, execution = await submit_telling(storage)
    await finish(storage, await claimed(storage), outcome)
    assert await told(storage, execution) == ENDED_BADLY


async def test_expiry_is_told(storage: Storage) -> None:
    """Regression 32."""
    definition = dataclasses.replace(telling(), expires_at=NOW + 1)
    execution = await submit(storage, job=make_job(definition=definition))
    await storage.executions.expire(NOW + 2, 10)
    assert await told(storage, execution) == ENDED_BADLY
    await storage.executions.expire(NOW + 3, 10)
    assert await told(storage, execution) == ENDED_BADLY


async def test_stops_are_told(storage: Storage) -> None:
    _, by_execution = await submit_telling(storage)
    await storage.executions.stop(by_execution.id, reason=Reason.STOPPED, now=NOW)
    job, by_job = await submit_telling(storage)
    await storage.jobs.stop(job.task_id, job.id, now=NOW)
    _, released = await submit_telling(storage)
    active = await claimed(storage)
    await storage.executions.stop(active.id, reason=Reason.STOPPED, now=NOW)
    await storage.executions.release(active.id, active.epoch, now=NOW)
    for execution in (by_execution, by_job, released):
        assert (await storage.executions.get(execution.id)).final
        assert await told(storage, execution) == ENDED_BADLY


async def test_what_a_retry_or_a_put_ends_is_told(storage: Storage) -> None:
    job, _ = await submit_telling(storage)
    await finish(storage, await claimed(storage), FAILED)
    again = await storage.jobs.retry(job, make_execution(job), now=NOW)
    once_more = await storage.jobs.retry(job, make_execution(job), now=NOW)
    assert await told(storage, again) == ENDED_BADLY
    _, retry = await finish(
        storage, await claimed(storage), FAILED, retry=make_execution(job, attempt=1)
    )
    assert retry is not None
    assert await told(storage, once_more) == FINISHED
    await storage.jobs.submit(job, None, replace=True)
    assert await told(storage, retry) == ENDED_BADLY


@pytest.mark.parametrize("every", ["nobody", "webhook", "email"])
async def test_fails_waits_for_the_last_attempt(storage: Storage, every: str) -> None:
    by_kind: dict[str, dict[str, Any]] = {
        "nobody": {},
        "webhook": {
            "webhooks": {e.value: [hook(everyAttempt=True)] for e in Event},
        },
        "email": {
            "notify": {e.value: ["a@b"] for e in Event if e != Event.STARTS}
            | {"everyAttempt": True}
        },
    }
    job, first = await submit_telling(storage, **by_kind[every])
    _, retry = await finish(
        storage, await claimed(storage), FAILED, retry=make_execution(job, attempt=1)
    )
    assert retry is not None
    expected = {("finishes", "email"), ("finishes", "webhook"), ("fails", every)}
    assert await told(storage, first) == sorted(expected - {("fails", "nobody")})
    await finish(storage, await claimed(storage), FAILED)
    assert await told(storage, retry) == ENDED_BADLY


async def test_a_retry_that_is_not_stored_does_not_silence_fails(storage: Storage) -> None:
    """Regression 16: stopped between the decision to retry and its storing."""
    job, execution = await submit_telling(storage)
    active = await claimed(storage)
    await storage.jobs.stop(job.task_id, job.id, now=NOW)
    _, retry = await finish(
        storage,
        active,
        FAILED,
        expected_stop=Reason.STOPPED,
        retry=make_execution(job, attempt=1, generation=1),
    )
    assert retry is None
    assert await told(storage, execution) == ENDED_BADLY


async def test_a_refused_finish_tells_nobody(storage: Storage) -> None:
    """Regression 13: one outcome, one set of notifications."""
    _, execution = await submit_telling(storage)
    active = await claimed(storage)
    done, refused = await outcomes(finish(storage, active) for _ in range(5))
    assert (len(done), len(refused)) == (1, 4)
    assert await told(storage, execution) == ENDED_WELL


async def test_a_malformed_channel_is_left_out(storage: Storage) -> None:
    """Regression 35: nothing of what a definition holds keeps an execution from its end."""
    _, execution = await submit_telling(storage, webhooks={"finishes": [7, hook()]})
    await finish(storage, await claimed(storage))
    assert await told(storage, execution) == [("finishes", "email"), ("succeeds", "email")]


# -- claims -----------------------------------------------------------------------------------


async def test_a_claim_is_nobody_elses(storage: Storage) -> None:
    await hooks_only(storage, *(f"http://r{n}.example/" for n in range(20)))
    taken = await asyncio.gather(*[take(storage, limit=4) for _ in range(8)])
    ids = [one.id for part in taken for one in part]
    assert len(ids) == len(set(ids)) == 20
    assert await take(storage) == []


async def test_a_claim_says_so_on_the_record(storage: Storage) -> None:
    final = await hooks_only(storage, "http://a.example/")
    delivery = await one_taken(storage, now=NOW + 7, claim_seconds=30.0)
    assert (delivery.claim, delivery.claimed_at, delivery.due_at) == (1, NOW + 7, NOW + 37)
    assert list(await storage.outbox.of_executions([final.id])) == [delivery]
    assert await storage.outbox.next_due_at() == NOW + 37


async def test_a_claim_runs_out(storage: Storage) -> None:
    await hooks_only(storage, "http://a.example/")
    first = await one_taken(storage, now=NOW + 7, claim_seconds=30.0)
    assert await take(storage, now=NOW + 36) == []
    second = await one_taken(storage, now=NOW + 37)
    assert second.id == first.id
    with pytest.raises(CompareFailed):
        await storage.outbox.attempted(first.id, first.claim, OK, retry_at=None)
    with pytest.raises(CompareFailed):
        await storage.outbox.unclaim(first.id, first.claim)
    ended = await storage.outbox.attempted(second.id, second.claim, OK, retry_at=None)
    assert ended.state is DeliveryState.DELIVERED


async def test_nothing_is_claimed_before_it_is_due(storage: Storage) -> None:
    await hooks_only(storage, "http://a.example/", at=NOW + 50)
    assert await take(storage, now=NOW + 49) == []
    assert len(await take(storage, now=NOW + 50)) == 1


async def test_the_longest_due_first(storage: Storage) -> None:
    for n in (3, 1, 2):
        await hooks_only(storage, f"http://r{n}.example/", at=NOW + n)
    taken = [(await one_taken(storage, limit=1)).target for _ in range(3)]
    assert taken == ["http://r1.example/", "http://r2.example/", "http://r3.example/"]


async def test_no_receiver_takes_the_room_of_others(storage: Storage) -> None:
    """Regression 25."""
    for n in range(30):
        await hooks_only(storage, f"http://slow.example/{n}", at=NOW + n)
    await hooks_only(storage, "http://quick.example/", "https://SLOW.example/", at=NOW + 90)
    taken = await take(storage, per_receiver=4, limit=10)
    assert sorted(one.receiver for one in taken) == [
        "http://quick.example:80",
        *["http://slow.example:80"] * 4,
        "https://slow.example:443",
    ]
    busy = {"http://slow.example:80": 3}
    taken = await take(storage, per_receiver=4, limit=10, busy=busy)
    assert [one.target for one in taken] == ["http://slow.example/4"]
    busy = {"http://slow.example:80": 9}
    assert await take(storage, per_receiver=4, limit=10, busy=busy) == []


async def test_an_unclaimed_delivery_is_due_again(storage: Storage) -> None:
    await hooks_only(storage, "http://a.example/")
    first = await one_taken(storage, now=NOW + 7)
    await storage.outbox.unclaim(first.id, first.claim)
    assert await storage.outbox.next_due_at() == NOW + 7
    second = await one_taken(storage, now=NOW + 8)
    assert (second.claim, second.attempts) == (2, 0)
    with pytest.raises(CompareFailed):
        await storage.outbox.unclaim(first.id, first.claim)


# -- what came of it --------------------------------------------------------------------------


async def test_delivered(storage: Storage) -> None:
    final = await hooks_only(storage, "http://a.example/")
    taken = await one_taken(storage)
    ended = await storage.outbox.attempted(taken.id, taken.claim, OK, retry_at=None)
    assert ended == dataclasses.replace(
        taken,
        state=DeliveryState.DELIVERED,
        attempts=1,
        due_at=None,
        claimed_at=None,
        history=(OK,),
    )
    assert list(await storage.outbox.of_executions([final.id])) == [ended]
    assert await storage.outbox.next_due_at() is None
    with pytest.raises(CompareFailed):
        await storage.outbox.attempted(taken.id, taken.claim, OK, retry_at=None)


async def test_tried_again_later(storage: Storage) -> None:
    await hooks_only(storage, "http://a.example/")
    history = [dataclasses.replace(REFUSED, at=NOW + n, error=f"no {n} ü") for n in range(5)]
    for number, attempt in enumerate(history, 1):
        at = NOW + 100 * number
        taken = await one_taken(storage, now=at)
        tried = await storage.outbox.attempted(taken.id, taken.claim, attempt, retry_at=at + 100)
        assert (tried.state, tried.attempts, tried.due_at) == (PENDING, number, at + 100)
        assert await take(storage, now=at + 99) == []
    assert tried.history == tuple(history[-ATTEMPTS_KEPT:])


async def test_used_up_and_requeued(storage: Storage) -> None:
    await hooks_only(storage, "http://a.example/", "http://b.example/")
    first, second = await take(storage)
    failed = await storage.outbox.attempted(first.id, first.claim, REFUSED, retry_at=None)
    assert (failed.state, failed.due_at) == (FAILED_STATE, None)
    await storage.outbox.attempted(second.id, second.claim, OK, retry_at=None)
    assert await take(storage, now=NOW + 10**6) == []
    assert await storage.outbox.next_due_at() is None

    again = await storage.outbox.requeue(first.id, now=NOW + 500)
    assert again == dataclasses.replace(failed, state=PENDING, attempts=0, due_at=NOW + 500)
    assert await storage.outbox.requeue(first.id, now=NOW + 600) == again
    taken = await one_taken(storage, now=NOW + 500)
    assert taken.id == first.id
    ended = await storage.outbox.attempted(taken.id, taken.claim, OK, retry_at=None)
    assert ended.history == (REFUSED, OK)
    with pytest.raises(Rejected):
        await storage.outbox.requeue(first.id, now=NOW)
    with pytest.raises(NotFound):
        await storage.outbox.requeue(new_id(), now=NOW)


async def test_an_unknown_delivery(storage: Storage) -> None:
    with pytest.raises(CompareFailed):
        await storage.outbox.attempted(new_id(), 1, OK, retry_at=None)
    with pytest.raises(CompareFailed):
        await storage.outbox.unclaim(new_id(), 1)
    assert list(await storage.outbox.of_executions([new_id()])) == []
    assert list(await storage.outbox.of_executions([])) == []


# -- looking at them --------------------------------------------------------------------------


async def test_listing_and_counts(storage: Storage) -> None:
    finals = [await hooks_only(storage, f"http://r{n}.example/") for n in range(7)]
    _, mailed = await submit_telling(storage, webhooks={})
    await finish(storage, await claimed(storage))
    overview = await storage.overview()
    assert (overview.pending, overview.undelivered) == ({"webhook": 7, "email": 2}, 0)
    page = await storage.outbox.in_state(PENDING, PageRequest(size=100))
    assert page.total == 9
    assert {one.execution_id for one in page.items} == {mailed.id, *(one.id for one in finals)}
    assert {one.execution_id for one in page.items[:2]} == {mailed.id}

    for taken in await take(storage, limit=5):
        await storage.outbox.attempted(taken.id, taken.claim, REFUSED, retry_at=None)
    overview = await storage.overview()
    assert (overview.pending, overview.undelivered) == ({"webhook": 2, "email": 2}, 5)
    pages = [
        one
        async for one in every_page(
            lambda page: storage.outbox.in_state(FAILED_STATE, page), size=2
        )
    ]
    assert [len(one.items) for one in pages] == [2, 2, 1]
    assert {one.total for one in pages} == {5}
    listed = [item.execution_id for one in pages for item in one.items]
    assert listed == [one.id for one in reversed(finals[:5])]
    third = await storage.outbox.in_state(FAILED_STATE, PageRequest(number=3, size=2))
    assert list(third.items) == list(pages[2].items)
    beyond = await storage.outbox.in_state(FAILED_STATE, PageRequest(number=9, size=2))
    assert (list(beyond.items), beyond.total) == ([], 5)
    with pytest.raises(Rejected):
        await storage.outbox.in_state(DeliveryState.DELIVERED, PageRequest())


async def test_deliveries_of_several_executions(storage: Storage) -> None:
    finals = [await hooks_only(storage, "http://a.example/", "http://b.example/") for _ in "123"]
    found = await storage.outbox.of_executions([finals[2].id, finals[0].id])
    assert [one.execution_id for one in found if one.index == 0] == [finals[0].id, finals[2].id]
    assert len(found) == 4


async def test_the_outbox_survives_a_restart(place: Place) -> None:
    """Regression 33: what was claimed when the process died is found again, not later than the
    end of the claim."""
    first = place.storage()
    await first.open()
    final = await hooks_only(first, "http://a.example/")
    taken = await one_taken(first, now=NOW + 10, claim_seconds=60.0)
    await first.close()
    second = place.storage()
    await second.open()
    try:
        again = await one_taken(second, now=NOW + 70)
        assert (again.id, again.claim) == (taken.id, 2)
        assert again.execution_id == final.id
        assert (await second.overview()).pending["webhook"] == 1
    finally:
        await second.close()


# -- any order of events ----------------------------------------------------------------------

MOVES = ("finish", "take", "take", "deliver", "refuse", "refuse for good", "unclaim", "requeue")


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, 20)), max_size=40))
async def test_any_order_of_deliveries(storage: Storage, moves: list[tuple[str, int]]) -> None:
    """Each delivery is somewhere, the counts are right, and nobody gets what another has."""
    before = await storage.overview()
    known: set[str] = set()
    held: dict[str, Delivery] = {}
    now = NOW + 10**6
    for move, pick in moves:
        now += 1
        chosen = list(held.values())[pick % len(held)] if held else None
        if move == "finish":
            known.add((await hooks_only(storage, "http://a.example/", at=now)).id)
        elif move == "take":
            for one in await take(storage, now=now, limit=1 + pick % 3, claim_seconds=10**7):
                assert one.id not in held
                held[one.id] = one
        elif move == "requeue" and known:
            for one in await storage.outbox.of_executions([sorted(known)[pick % len(known)]]):
                if one.state is not DeliveryState.DELIVERED:
                    await storage.outbox.requeue(one.id, now=now)
        elif chosen is not None:
            del held[chosen.id]
            if move == "unclaim":
                await storage.outbox.unclaim(chosen.id, chosen.claim)
            else:
                attempt = OK if move == "deliver" else REFUSED
                retry_at = now + 2 if move == "refuse" else None
                await storage.outbox.attempted(chosen.id, chosen.claim, attempt, retry_at=retry_at)
        everything = await storage.outbox.of_executions(sorted(known))
        assert len(everything) == len(known)
        for one in everything:
            assert (one.claimed_at is not None) == (one.id in held)
            assert (one.due_at is not None) == (one.state is PENDING)
        after = await storage.overview()
        pending = [one.due_at for one in everything if one.state is PENDING]
        failed = [one for one in everything if one.state is FAILED_STATE]
        assert sum(after.pending.values()) - sum(before.pending.values()) == len(pending)
        assert after.undelivered - before.undelivered == len(failed)
    for one in await take(storage, now=now + 10**8):
        held[one.id] = one
        await storage.outbox.attempted(one.id, one.claim, OK, retry_at=None)
    assert await storage.outbox.next_due_at() is None


def test_ids_are_stable_and_differ() -> None:
    job = make_job(definition=telling(webhooks={"finishes": [hook(), hook()]}))
    execution = dataclasses.replace(make_execution(job), status=Status.DONE)
    first, second = (policy.deliveries_of(execution, now=at) for at in (1.0, 2.0))
    assert [one.id for one in first] == [one.id for one in second]
    assert len({one.id for one in first}) == len(first) == 4
    assert {one.channel for one in first} == {"webhook", "email"}
