"""Webhooks, sent to real servers that behave well and badly (regressions 34, 37, 38)."""

from __future__ import annotations

import asyncio
import base64
import gc
import ipaddress
import resource
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from fastlane.addresses import Address, carried, is_public, permitted
from fastlane.config import Config
from fastlane.errors import DeliveryFailed
from fastlane.notifications.base import Notification
from fastlane.notifications.webhook import Webhook as Target
from fastlane.notifications.webhook import WebhookSender
from fastlane.resolver import Resolver
from tests.receivers import (
    Behave,
    Request,
    drips,
    endless_headers,
    hangs,
    never_answers_finally,
    never_ends,
    receiving,
    redirects_to,
    refuses,
    resets,
    talks_nonsense,
)
from tests.reports import REPORT, notification

LOCAL = (ipaddress.ip_network("127.0.0.0/8"),)
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(bytes(range(40))).decode()


def message(target: str, headers: Mapping[str, str] | None = None, **report: Any) -> Notification:
    return notification(
        Target.model_construct(url=target, headers=headers or {}, retries=0), **report
    )


def sender(seconds: float = 5.0, **options: Any) -> WebhookSender:
    """*options* are those that begin with ``WEBHOOKS_``, and parts of the sender."""
    parts = {name: options.pop(name) for name in ("resolve", "tls") if name in options}
    clock = options.pop("clock", time.time)
    given: dict[str, Any] = {"timeout_seconds": seconds, "allowed_networks": LOCAL}
    config = Config(**{f"webhooks_{name}": value for name, value in (given | options).items()})
    return WebhookSender(config, clock, **parts)


async def refusal(hooks: WebhookSender, target: str, **changes: Any) -> DeliveryFailed:
    with pytest.raises(DeliveryFailed) as raised:
        await hooks.send(message(target, **changes))
    assert "CANARY" not in str(raised.value)
    return raised.value


# -- what is sent ------------------------------------------------------------------------------


async def test_a_delivery() -> None:
    async with receiving() as receiver:
        hook = message(receiver.url, headers={"X-Own": "ü", "user-agent": "me", "Cookie": "a=b"})
        assert await sender().send(hook) == 200
        (request,) = receiver.requests
    assert request.line == "POST /hook HTTP/1.1"
    assert request.body == REPORT.body
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == hook.id
    assert request.headers["user-agent"] == "me"
    assert request.headers["cookie"] == "a=b"
    assert "x-own" in request.headers
    assert "webhook-signature" not in request.headers


async def test_own_headers_do_not_replace_what_fastlane_says() -> None:
    headers = {"Webhook-Id": "x", "WEBHOOK-SIGNATURE": "x", "host": "evil", "Content-Length": "1"}
    async with receiving() as receiver:
        await sender().send(message(receiver.url, headers=headers))
        (request,) = receiver.requests
    assert request.headers["webhook-id"] == message("").id
    assert "webhook-signature" not in request.headers
    assert request.headers["host"] == f"127.0.0.1:{receiver.port}"


@pytest.mark.parametrize("headers", [{"X": "a\r\nEvil: 1"}, {"X\r\nEvil": "a"}, {"X": "a\nb"}])
async def test_headers_are_not_injected(headers: dict[str, str]) -> None:
    """Refused on submission; a stored one gets no further than this either."""
    async with receiving() as receiver:
        with pytest.raises(DeliveryFailed):
            await sender().send(message(receiver.url, headers=headers))
    assert receiver.requests == []


async def test_signatures_are_those_of_the_standard() -> None:
    """Checked by the library that receivers use."""
    async with receiving() as receiver:
        await sender(secret=f"{SECRET} {OTHER_SECRET}").send(message(receiver.url))
        (request,) = receiver.requests
    for secret in (SECRET, OTHER_SECRET):
        assert Webhook(secret).verify(request.body, request.headers) == request.json
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(request.body + b" ", request.headers)
    stranger = "whsec_" + base64.b64encode(bytes(32)).decode()
    with pytest.raises(WebhookVerificationError):
        Webhook(stranger).verify(request.body, request.headers)


async def test_a_receiver_with_a_secret_of_its_own_gets_no_signature_of_another() -> None:
    async with receiving() as own, receiving() as other:
        name = own.url.replace("127.0.0.1", "LocalHost").removesuffix("/hook")
        hooks = sender(
            secret=f"{SECRET} {name}={OTHER_SECRET}",
            resolve=localhost,
        )
        await hooks.send(message(f"{name}/hook".lower()))
        await hooks.send(message(other.url))
        (at_own,), (at_other,) = own.requests, other.requests
    Webhook(OTHER_SECRET).verify(at_own.body, at_own.headers)
    Webhook(SECRET).verify(at_other.body, at_other.headers)
    for request in (at_own, at_other):
        assert len(request.headers["webhook-signature"].split()) == 1
    alone = sender(secret=f"https://example.org={SECRET}")
    async with receiving() as receiver:
        await alone.send(message(receiver.url))
        assert "webhook-signature" not in receiver.requests[0].headers


async def test_each_attempt_is_signed_with_its_own_time_and_the_same_id() -> None:
    now = time.time()
    times = iter([now - 60, now])
    async with receiving() as receiver:
        hooks = sender(secret=SECRET, clock=lambda: next(times))
        await hooks.send(message(receiver.url))
        await hooks.send(message(receiver.url))
        first, second = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) == 60
    for request in (first, second):
        Webhook(SECRET).verify(request.body, request.headers)


# -- receivers that behave badly ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("behave", "status", "words"),
    [
        (hangs, None, "did not answer completely within 0.4 s"),
        (drips, None, "did not answer completely within 0.4 s"),
        (refuses, 500, "The receiver answered 500."),
        (resets, None, "connection"),
        (never_ends, 200, "with more than 1 MiB"),
        (endless_headers, None, ""),
        (talks_nonsense, None, "not HTTP"),
        (never_answers_finally, None, "more than 16 interim answers"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_bad_receivers(behave: Behave, status: int | None, words: str) -> None:
    """Regression 34."""
    slow = behave in (hangs, drips)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with receiving(behave) as receiver:
        began = time.monotonic()
        failure = await refusal(sender(0.4 if slow else 10.0), receiver.url)
        assert time.monotonic() - began < 8
        assert len(receiver.requests) == 1
    assert failure.status == status
    assert words in str(failure)
    assert not failure.final
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
    gc.collect()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_failures(status: int) -> None:
    async with receiving() as inside:

        async def behave(_: Any, __: Request, writer: asyncio.StreamWriter) -> None:
            writer.write(f"HTTP/1.1 {status} X\r\nLocation: {inside.url}\r\n\r\n".encode())
            await writer.drain()

        async with receiving(behave) as receiver:
            failure = await refusal(sender(), receiver.url)
        assert failure.status == status
        assert inside.requests == []


async def test_a_redirect_inside_is_not_followed() -> None:
    async with receiving(redirects_to("http://169.254.169.254/latest/meta-data/")) as receiver:
        assert "redirects are not followed" in str(await refusal(sender(), receiver.url))


async def test_nobody_listens(unused_port: int) -> None:
    failure = await refusal(sender(), f"http://127.0.0.1:{unused_port}/")
    assert "No connection to the receiver" in str(failure)


@pytest.fixture
async def unused_port() -> int:
    async with receiving() as receiver:
        return receiver.port


# -- TLS ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_tls(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def localhost(host: str, port: int) -> Sequence[Address]:
    return [ipaddress.ip_address("127.0.0.1")]


async def test_a_good_certificate(authority: trustme.CA) -> None:
    async with receiving(tls=server_tls(authority, "hooks.example.org")) as receiver:
        hooks = sender(tls=client_tls(authority), resolve=localhost)
        target = f"https://hooks.example.org:{receiver.port}/x"
        assert await hooks.send(message(target)) == 200
        assert receiver.requests[0].headers["host"] == f"hooks.example.org:{receiver.port}"


@pytest.mark.parametrize("case", ["another name", "unknown authority", "no TLS at all"])
async def test_a_wrong_certificate(authority: trustme.CA, case: str) -> None:
    name = "other.example.org" if case == "another name" else "hooks.example.org"
    tls = None if case == "no TLS at all" else server_tls(authority, name)
    trust = ssl.create_default_context() if case == "unknown authority" else client_tls(authority)
    async with receiving(tls=tls) as receiver:
        # Who speaks no TLS waits for the end of a line that never comes.
        hooks = sender(0.5 if tls is None else 5.0, tls=trust, resolve=localhost)
        failure = await refusal(hooks, f"https://hooks.example.org:{receiver.port}/x")
        assert receiver.requests == []
    assert ("certificate is not valid" in str(failure)) == (tls is not None)


# -- addresses ---------------------------------------------------------------------------------

# Hosts of URLs that must not be reached (regression 38), as an attacker would write them.
INNER = [
    "127.0.0.1",
    "127.8.8.8",
    "127.1",
    "0",
    "0.0.0.0",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "2130706433",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "[::]",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "[::127.0.0.1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::169.254.169.254]",
    "[64:ff9b:1::a00:1]",
    "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:7f00:1::]",
    "[2001:db8::1]",
    "[fe80::1]",
    "[fec0::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[ff02::1]",
    "[100::1]",
    "[3fff::1]",
    "[5f00::1]",
    "[4000::1]",
    "[2606:4700::5efe:10.0.0.1]",
    "[2606:4700::200:5efe:127.0.0.1]",
    "localhost",
    "localhost.",
    "LOCALHOST",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.169.0.0",
    "223.255.255.255",
    "2606:4700::1111",
    "2a00:1450:4001::200e",
    "64:ff9b::808:808",
    "::ffff:8.8.8.8",
]


@pytest.mark.parametrize("host", INNER)
async def test_inner_addresses_are_refused(host: str) -> None:
    async with receiving() as receiver:
        hooks = sender(allowed_networks=())
        failure = await refusal(hooks, f"http://{host}:{receiver.port}/")
        # A resolver may not know the name with its dot.
        assert failure.final or "cannot be resolved" in str(failure)
        assert failure.status is None
        assert receiver.requests == []


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are_permitted(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


def test_a_scope_is_never_public() -> None:
    assert not is_public(ipaddress.ip_address("2606:4700::1111%eth0"))


def test_listed_networks_are_permitted() -> None:
    listed = (ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8"))
    for text, wanted in {
        "10.1.2.3": True,
        "10.2.0.1": False,
        "::ffff:10.1.2.3": True,
        "::ffff:10.2.0.1": False,
        "64:ff9b::10.1.2.3": True,
        "fd00::1": True,
        "fc00::1": False,
        "8.8.8.8": True,
    }.items():
        assert permitted(ipaddress.ip_address(text), listed) is wanted, text
    assert carried(ipaddress.ip_address("::ffff:1.2.3.4")) == ipaddress.ip_address("1.2.3.4")


async def test_a_name_that_resolves_differently_the_second_time() -> None:
    """DNS rebinding: one look-up for an attempt, and the connection goes where that one said."""
    lookups: list[str] = []

    async def rebinding(host: str, port: int) -> Sequence[Address]:
        lookups.append(host)
        # Public at the first look, ours at the second. 192.0.2.1 stands in for the public one.
        return [ipaddress.ip_address("192.0.2.1" if len(lookups) == 1 else "127.0.0.1")]

    listed = (ipaddress.ip_network("192.0.2.0/24"),)
    async with receiving() as receiver:
        hooks = sender(0.5, resolve=rebinding, allowed_networks=listed)
        target = f"http://rebind.example.org:{receiver.port}/"
        await refusal(hooks, target)
        assert lookups == ["rebind.example.org"]
        # The next attempt looks again, and is refused for what it finds.
        failure = await refusal(hooks, target)
        assert failure.final
        assert len(lookups) == 2
        assert receiver.requests == []


async def test_of_several_addresses_only_permitted_ones_are_tried() -> None:
    async def mixed(host: str, port: int) -> Sequence[Address]:
        return [ipaddress.ip_address(text) for text in ("::1", "10.0.0.1", "127.0.0.1")]

    async with receiving() as receiver:
        hooks = sender(resolve=mixed)
        assert await hooks.send(message(f"http://mixed.example:{receiver.port}/")) == 200


async def test_the_refusal_does_not_tell_what_a_name_means_inside() -> None:
    async def inner(host: str, port: int) -> Sequence[Address]:
        return [ipaddress.ip_address("10.11.12.13")]

    failure = await refusal(sender(resolve=inner), "http://db.internal/")
    assert "10.11.12.13" not in str(failure)


async def test_a_name_that_is_not_known() -> None:
    failure = await refusal(sender(), "http://nobody.invalid/")
    assert not failure.final
    assert "cannot be resolved" in str(failure)


async def test_a_name_that_hangs_delays_nobody() -> None:
    """Regression 25."""
    never = asyncio.Event()

    async def resolve(host: str, port: int) -> Sequence[Address]:
        if host == "slow.example":
            await never.wait()
        return [ipaddress.ip_address("127.0.0.1")]

    hooks = sender(0.5, resolve=resolve)
    async with receiving() as receiver:
        slow = [
            asyncio.create_task(refusal(hooks, f"http://slow.example:{receiver.port}/"))
            for _ in range(50)
        ]
        assert await hooks.send(message(receiver.url)) == 200
        assert not any(task.done() for task in slow)
        for failure in await asyncio.gather(*slow):
            assert "within 0.5 s" in str(failure)


async def test_the_resolver() -> None:
    resolver = Resolver()
    assert ipaddress.ip_address("127.0.0.1") in await resolver("localhost", 80)
    assert await resolver("0x7f.1", 80) == [ipaddress.ip_address("127.0.0.1")]
    for name in ("nobody.invalid", "a" * 300, "a..b", "\ud800"):
        with pytest.raises(OSError, match=r".*"):
            await resolver(name, 80)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    target=st.one_of(st.text(max_size=60), st.text(max_size=40).map("http://{}/".format)),
    headers=st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3),
)
async def test_whatever_a_record_holds_ends_in_a_sentence(
    target: str, headers: dict[str, str]
) -> None:
    """Regression 35."""

    async def inner(host: str, port: int) -> Sequence[Address]:
        if not host.isascii():
            raise OSError("no such name")
        return [ipaddress.ip_address("127.0.0.1")]

    hooks = sender(1.0, resolve=inner, allowed_networks=())
    failure = await refusal(hooks, target, headers=headers)
    assert str(failure).endswith(".")


async def test_a_name_in_another_script() -> None:
    lookups: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[Address]:
        lookups.append(host)
        return [ipaddress.ip_address("127.0.0.1")]

    async with receiving() as receiver:
        await sender(resolve=resolve).send(message(f"http://bücher.example:{receiver.port}/"))
        assert receiver.requests[0].headers["host"].startswith("xn--bcher-kva.example:")
    assert lookups == ["xn--bcher-kva.example"]
