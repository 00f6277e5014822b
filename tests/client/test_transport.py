"""What is sent, what is sent again, and what becomes of the answers."""

from __future__ import annotations

import asyncio
import ssl
import warnings
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

import fastlane_client
from fastlane_client import (
    BadAddress,
    BadRequest,
    ClientError,
    Conflict,
    Forbidden,
    NotFound,
    Place,
    Refused,
    ServerError,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
    VersionWarning,
)
from fastlane_client.address import Address, shown
from fastlane_client.core import ALIVE_SECONDS
from tests.client.stand_in import json, problem, stand_in
from tests.client.styles import Style
from tests.services import free_port

HEALTHY = json({"errors": [], "mongo": True, "redis": True, "backend": "sqlite"})
STARTED = {
    "taskId": "t",
    "taskUrl": "http://x/tasks/t/",
    "jobId": "j",
    "jobUrl": "http://x/tasks/t/jobs/j/",
    "executionId": "e",
    "executionUrl": "http://x/tasks/t/jobs/j/executions/e/",
}
PAGE: dict[str, Any] = {"items": [], "nextUrl": None}
VARIABLES = (
    *("FASTLANE_URL", "FASTLANE_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Without what a person's own environment may say."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


# -- again -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble", [None, problem(503, "Wait.", Retry_After="0"), problem(502, "")]
)
async def test_what_is_safe_is_sent_again(style: Style, trouble: Any) -> None:
    async with stand_in(trouble, trouble, HEALTHY) as server, style.client(server.url) as client:
        assert (await style.call(client.health)).backend == "sqlite"
    assert len(server.asked) == 3


async def test_a_submission_is_sent_again_under_its_key(style: Style) -> None:
    async with stand_in(None, json(STARTED)) as server, style.client(server.url) as client:
        run = await style.call(client.submit, "t", image="x", command="y")
        await style.call(client.submit, "t", image="x", command="y")
        await style.call(client.submit, "t", image="x", command="y", idempotency_key="mine")
    assert run.execution_id == "e"
    first, again, other, mine = (one.headers["idempotency-key"] for one in server.asked)
    assert first == again != other
    assert mine == "mine"
    assert server.asked[0].body == server.asked[1].body


async def test_what_would_run_twice_is_sent_once(style: Style) -> None:
    async with stand_in(None, json(STARTED)) as server, style.client(server.url) as client:
        with pytest.raises(Unreachable):
            await style.call(client.run("t", "j", "e").retry)
        server.answers.insert(0, None)
        with pytest.raises(Unreachable):
            await style.call(client.submit, "t", image="x", command="y", job="j")
    assert [one.method for one in server.asked] == ["POST", "PUT"]


async def test_a_request_that_was_turned_away_is_sent_again(style: Style) -> None:
    busy = problem(429, "Too many requests.", Retry_After="0")
    async with stand_in(busy, json(STARTED)) as server, style.client(server.url) as client:
        await style.call(client.run("t", "j", "e").retry)
    assert len(server.asked) == 2


async def test_a_deletion_whose_answer_was_lost_has_succeeded(style: Style) -> None:
    gone = problem(404, "There is no such job.")
    async with stand_in(None, gone) as server, style.client(server.url) as client:
        await style.call(client.run("t", "j").delete)
        with pytest.raises(NotFound):
            await style.call(client.run("t", "j").delete)


async def test_patience_has_an_end(style: Style) -> None:
    async with (
        stand_in(problem(429, "Wait.", Retry_After="3600")) as server,
        style.client(server.url) as client,
    ):
        with pytest.raises(TooManyRequests) as refused:
            await style.call(client.health)
    assert refused.value.retry_after == 3600
    assert len(server.asked) == 1
    async with stand_in(None) as server, style.client(server.url, patience=0) as client:
        with pytest.raises(Unreachable):
            await style.call(client.health)
    assert len(server.asked) == 1


async def test_a_server_that_is_not_there_is_not_waited_for(style: Style) -> None:
    async with style.client(f"http://127.0.0.1:{free_port()}") as client:
        with pytest.raises(Unreachable, match=r"cannot be reached \(Connection refused\): start"):
            await style.call(client.status)


# -- answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequest),
        (401, Unauthorized),
        (403, Forbidden),
        (404, NotFound),
        (405, Refused),
        (409, Conflict),
        (422, BadRequest),
        (500, ServerError),
        (503, Unavailable),
    ],
)
async def test_each_status_has_its_exception(
    style: Style, status: int, kind: type[Refused]
) -> None:
    answer = problem(status, "That is why.", X_Request_ID="r1")
    async with stand_in(answer) as server, style.client(server.url, patience=0) as client:
        with pytest.raises(kind, match="That is why") as refused:
            await style.call(client.openapi)
    assert type(refused.value) is kind
    assert (refused.value.status, refused.value.request_id) == (status, "r1")
    assert refused.value.detail == "That is why."


@pytest.mark.parametrize("body", ["no json", "[]", '{"errors": 1}', '{"errors": [{}]}'])
async def test_an_odd_refusal_is_one_too(style: Style, body: str) -> None:
    async with (
        stand_in(lambda: web.Response(text=body, status=500)) as server,
        style.client(server.url) as client,
    ):
        with pytest.raises(ServerError, match="answers 500"):
            await style.call(client.status)


@pytest.mark.parametrize("body", ["<html>", "[]", '{"version": 1, "hosts": [1]}'])
async def test_what_is_not_fastlane_is_told(style: Style, body: str) -> None:
    async with (
        stand_in(lambda: web.Response(text=body)) as server,
        style.client(server.url) as client,
    ):
        with pytest.raises(UnexpectedAnswer):
            await style.call(client.status)


async def test_what_a_newer_server_adds_is_ignored(style: Style) -> None:
    execution = {"executionId": "e", "status": "frozen", "createdAt": "2026-01-01T00:00:00Z"}
    answer = json({"execution": {**execution, "new": {"key": 1}}})
    async with stand_in(answer) as server, style.client(server.url) as client:
        first = await style.call(client.execution, "t", "j", "e")
        again = await style.call(client.execution, "t", "j", "e")
    assert first.status is again.status
    assert (first.status, first.status.final) == ("frozen", False)
    assert first.raw["new"] == {"key": 1}


async def test_an_other_version_is_warned_of_once(style: Style) -> None:
    healthy = {"errors": [], "mongo": True, "redis": True}
    answer = json(healthy, Fastlane_Version="99.0.0")
    async with stand_in(answer) as server, style.client(server.url) as client:
        with pytest.warns(VersionWarning, match=r"has version 99\.0\.0, and this client"):
            await style.call(client.health)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            await style.call(client.health)
    same = json(healthy, Fastlane_Version=fastlane_client.__version__)
    async with stand_in(same) as server, style.client(server.url) as client:
        await style.call(client.health)


# -- credentials and addresses -----------------------------------------------------------------


def basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


async def test_redirects_are_not_followed(style: Style) -> None:
    async with stand_in(HEALTHY) as other:
        away = {"Location": f"{other.url}/healthcheck/"}
        async with (
            stand_in(lambda: web.Response(status=302, headers=away)) as server,
            style.client(server.url, token="secret") as client,
        ):
            with pytest.raises(UnexpectedAnswer, match="redirects to http://localhost"):
                await style.call(client.health)
    assert other.asked == []


async def test_pages_are_read_from_this_server(style: Style) -> None:
    """Whatever name a proxy has made it believe to have."""
    first = {"items": [], "nextUrl": "http://evil.example/elsewhere/?after=a%2Bb&perPage=2"}
    async with stand_in(json(first), json(PAGE)) as server, style.client(server.url) as client:
        assert await style.list(client.tasks) == []
    assert [one.path for one in server.asked] == [
        "/tasks/?perPage=100",
        "/tasks/?after=a%2Bb&perPage=2",
    ]


async def test_where_credentials_are_from(style: Style, environment: pytest.MonkeyPatch) -> None:
    async with stand_in(HEALTHY) as server:
        with_user = server.url.replace("http://", "http://me:p%40ss@")
        environment.setenv("FASTLANE_URL", server.url)
        environment.setenv("FASTLANE_TOKEN", "env")
        for url, options in (
            (None, {}),
            (with_user, {}),
            (with_user, {"token": "given"}),
            (None, {"token": ""}),
        ):
            async with style.client(url, **options) as client:
                await style.call(client.health)
                assert client.server == server.url
    sent = [one.headers.get("authorization") for one in server.asked]
    assert sent == ["Bearer env", basic("me", "p@ss"), "Bearer given", None]
    assert server.asked[0].headers["user-agent"].startswith("fastlane-client/")


@pytest.mark.parametrize(
    "url", ["localhost:10000", "ftp://x", "http://", "http://[x", "http://a b"]
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(BadAddress, match="is not the URL of a server"):
        fastlane_client.Client(url)


def test_passwords_are_in_no_message() -> None:
    for url in ("http://me:pa@ss@host/x", "htp://me:pa@ss@host/x", "me:pa@ss@host"):
        assert "pa" not in shown(url)
    with pytest.raises(BadAddress) as refused:
        Address.of("ftp://me:hunter2@host")
    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in repr(Address.of("http://me:hunter2@host"))


def test_what_a_url_names() -> None:
    base = "https://host/fastlane"
    job = f"{base}/tasks/my%20task%2F1/jobs/j"
    assert Place.parse(f"{job}/") == Place(base, "my task/1", "j")
    assert Place.parse(f"{job}/logs/") == Place(base, "my task/1", "j")
    assert Place.parse(f"{job}/executions/e") == Place(base, "my task/1", "j", "e")
    assert Place.parse(f"{job}/stream/executions/e/") == Place(base, "my task/1", "j", "e")
    assert Place.parse(f"{base}/tasks/t/") == Place(base, "t")
    for url in (base, "tasks/t", "ftp://x/tasks/t/", f"{job}/what/ever/"):
        with pytest.raises(BadAddress):
            Place.parse(url)


def test_a_url_of_another_server_gets_no_credentials() -> None:
    with fastlane_client.Client("http://one", token="secret") as client:
        with pytest.raises(BadAddress, match="http://two is another server"):
            client.run("http://two/tasks/t/jobs/j/")
        run = client.run("http://one/tasks/t/jobs/j/executions/e/")
        assert (run.task_id, run.job_id, run.execution_id) == ("t", "j", "e")


async def test_names_are_encoded(style: Style) -> None:
    async with stand_in(json(STARTED)) as server, style.client(server.url) as client:
        for name in ("a b/ü?#", ".", "..", "%2F"):
            await style.call(client.submit, name, image="x", command="y")
    assert [one.path for one in server.asked] == [
        "/tasks/a%20b%2F%C3%BC%3F%23/",
        "/tasks/%2E/",
        "/tasks/%2E%2E/",
        "/tasks/%252F/",
    ]


# -- proxies and certificates ------------------------------------------------------------------


async def test_a_proxy_of_the_environment_is_used(
    style: Style, environment: pytest.MonkeyPatch
) -> None:
    async with stand_in(HEALTHY) as proxy:
        environment.setenv("HTTP_PROXY", proxy.url)
        async with style.client("http://fastlane.example:81") as client:
            await style.call(client.health)
        environment.setenv("NO_PROXY", "fastlane.example")
        async with style.client("http://fastlane.example:81", patience=0) as client:
            with pytest.raises(Unreachable):
                await style.call(client.health)
    assert [one.headers["host"] for one in proxy.asked] == ["fastlane.example:81"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_server_on_this_machine_needs_no_proxy(
    style: Style, environment: pytest.MonkeyPatch, host: str
) -> None:
    environment.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    async with (
        stand_in(HEALTHY) as server,
        style.client(server.url.replace("localhost", host)) as client,
    ):
        await style.call(client.health)
    assert len(server.asked) == 1


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
async def test_a_certificate_authority_of_the_environment_is_trusted(
    style: Style, environment: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    async with stand_in(HEALTHY, tls=tls) as server:
        async with style.client(server.url) as client:
            with pytest.raises(ClientError, match="its certificate is not trusted"):
                await style.call(client.health)
        bundle = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(str(bundle))
        environment.setenv(variable, str(bundle))
        async with style.client(server.url) as client:
            await style.call(client.health)


async def test_a_server_that_was_asked_to_wait_is_patiently_asked_again(style: Style) -> None:
    """However often it is gone before there is any news: each time it was there."""

    async def slow(request: web.Request) -> None:
        await asyncio.sleep(ALIVE_SECONDS + 0.1)

    ended = {"executionId": "e", "status": "done", "createdAt": "2026-01-01T00:00:00Z"}
    async with stand_in(None, None, json({"execution": ended})) as server:
        server.before = slow
        async with style.client(server.url, patience=0.4) as client:
            await style.call(client.run("t", "j", "e").wait)
    assert len(server.asked) == 3
