"""Failed sign-ins are delayed, logged and counted by address; nobody is locked out."""

from __future__ import annotations

import asyncio
import base64

import pytest
import structlog

from fastlane.api import sign_ins
from fastlane.api.sign_ins import DELAYED_PER_ADDRESS, FREE, OTHERS, FailedSignIns
from tests.api.conftest import MakeSite
from tests.api.http_site import Site
from tests.eventually import eventually

FAR = 3600.0


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"ann:{password}".encode()).decode()


async def guarded(make_site: MakeSite) -> Site:
    return await make_site(
        basic_auth_user="ann", basic_auth_password="x", trusted_proxies="127.0.0.1", still=True
    )


async def wrong(site: Site, address: str) -> int:
    answer = await site.get("/status/", Authorization=basic("wrong"), X_Forwarded_For=address)
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    return answer.status


async def test_wrong_passwords_wait_and_the_right_one_does_not(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign_ins, "FIRST_DELAY_SECONDS", FAR)
    monkeypatch.setattr(sign_ins, "MAX_DELAY_SECONDS", FAR)
    site = await guarded(make_site)
    for _ in range(FREE):
        assert await wrong(site, "192.0.2.1") == 401
    # As many as are delayed at a time, and some that are one too many.
    more = [asyncio.create_task(wrong(site, "192.0.2.1")) for _ in range(DELAYED_PER_ADDRESS + 3)]
    await eventually(lambda: sum(one.done() for one in more) == 3)
    right = await site.get("/status/", Authorization=basic("x"), X_Forwarded_For="192.0.2.1")
    assert right.status == 200
    assert (await site.get("/status/", X_Forwarded_For="192.0.2.1")).status == 401
    assert await wrong(site, "192.0.2.2") == 401
    assert sum(one.done() for one in more) == 3
    for one in more:
        one.cancel()
    await asyncio.gather(*more, return_exceptions=True)


async def test_a_delayed_answer_arrives(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign_ins, "FIRST_DELAY_SECONDS", 0.01)
    site = await guarded(make_site)
    assert {await wrong(site, "192.0.2.1") for _ in range(FREE + 3)} == {401}


async def test_an_address_has_one_line_a_minute(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign_ins, "FIRST_DELAY_SECONDS", 0.0)
    with structlog.testing.capture_logs() as lines:
        site = await guarded(make_site)
        for _ in range(20):
            await wrong(site, "192.0.2.1")
        await site.get("/status/")
        await wrong(site, "192.0.2.2")
        found = [line for line in lines if line["event"] == "Sign-in failed"]
        assert [(line["address"], line["count"]) for line in found] == [
            ("192.0.2.1", 1),
            ("192.0.2.2", 1),
        ]
        assert found[1]["total"] == 21


async def test_the_minute_ends_with_a_count_and_a_quiet_one_forgets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sign_ins, "LOGGED_SECONDS", 0.01)
    failed = FailedSignIns()
    with structlog.testing.capture_logs() as lines:
        for _ in range(297):
            failed.add("192.0.2.1")
        await eventually(lambda: not failed._of)
    assert [line["count"] for line in lines] == [1, 296]


async def test_many_addresses_share_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_ins, "ADDRESSES", 3)
    failed = FailedSignIns()
    with structlog.testing.capture_logs() as lines:
        for number in range(9):
            failed.add(f"192.0.2.{number}")
    assert [line["address"] for line in lines] == ["192.0.2.0", "192.0.2.1", "192.0.2.2", OTHERS]
    assert len(failed._of) == 4
    assert failed.total == 9
