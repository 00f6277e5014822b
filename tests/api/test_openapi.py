"""The document says all that is answered, and nothing else is answered."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import aiohttp
import pytest
from aiohttp.client_exceptions import WSServerHandshakeError
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate as validate_document
from tornado.web import RequestHandler

from fastlane.api.handlers import search
from fastlane.api.openapi import document_path, template
from fastlane.api.operations import Route
from fastlane.api.routes import ROUTES
from fastlane.api.streaming.events import EventFeed
from fastlane.errors import StorageUnavailable
from fastlane.lifecycle import Lifecycle
from tests.api.conftest import MakeSite
from tests.api.contract import DOCUMENT, Contract, validate
from tests.api.http_site import PAYLOAD, Answer, Site

NOBODY = "00000000-0000-4000-8000-000000000000"
METHODS = ("get", "head", "post", "put", "delete", "options")
OPERATION_IDS = {
    item[method]["operationId"]: (path, method)
    for path, item in DOCUMENT["paths"].items()
    for method in METHODS
    if method in item
}
DOCUMENTED = {
    (item[method]["operationId"], int(status))
    for item in DOCUMENT["paths"].values()
    for method in METHODS
    if method in item
    for status in item[method]["responses"]
}


# -- the document itself --------------------------------------------------------------------------


def test_it_is_openapi() -> None:
    validate_document({**DOCUMENT, "servers": [{"url": "/"}]})
    assert len(OPERATION_IDS) == sum(m in i for i in DOCUMENT["paths"].values() for m in METHODS)


def test_every_route_is_in_it_with_every_method() -> None:
    paths = [path for route in ROUTES for path in route.paths]
    assert len(paths) == len(set(paths))
    for route in ROUTES:
        item = DOCUMENT["paths"][document_path(route)]
        for path in map(template, route.paths):
            assert {path, f"{path}/"} <= set(item["x-fastlane-spellings"])
        methods = {method for method in METHODS if method in item}
        assert methods == {method.lower() for method in route.methods}, route
        for method, operation in route.operations.items():
            implemented = getattr(route.handler, method)
            assert implemented is not getattr(RequestHandler, method), (route.path, method)
            assert item[method]["description"] == route.description(operation) != ""
        for method in {"get", "post", "put", "delete"} - set(route.operations):
            handled = getattr(route.handler, method)
            assert handled is getattr(RequestHandler, method), f"{method} {route.path}"


def _schemas(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "schema" in value and isinstance(value["schema"], dict):
            yield value["schema"]
        for inner in value.values():
            yield from _schemas(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _schemas(inner)


def _parameters(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for item in document["paths"].values():
        for part in (item, *(item[method] for method in METHODS if method in item)):
            yield from part.get("parameters", ())


def test_schemas_are_schemas_and_describe_their_examples() -> None:
    named = DOCUMENT["components"]["schemas"]
    for schema in (*named.values(), *_schemas(DOCUMENT)):
        Draft202012Validator.check_schema(schema)
    for name, schema in named.items():
        for example in schema.get("examples", ()):
            validate(example, schema, name)
    for parameter in _parameters(DOCUMENT):
        if "example" in parameter:
            validate(parameter["example"], parameter["schema"], parameter["name"])


# -- the answers of a live server -----------------------------------------------------------------


class Checked:
    """A client whose every answer is held against the document."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract

    async def __call__(
        self, site: Site, method: str, path: str, body: Any = None, **headers: str
    ) -> Answer:
        path = path.removeprefix(site.base)
        answer = await site.request(method, path, body, **headers)
        self.contract.check(method, path, answer.status, answer.headers, answer.body)
        return answer


class Broken:
    """A storage, or a facet of one, whose every operation fails."""

    def __init__(self, failure: type[Exception]) -> None:
        self._failure = failure

    def __getattr__(self, name: str) -> Any:
        if name == "name" and self._failure is StorageUnavailable:
            return "away"
        if name == "name":
            raise self._failure("a bug")
        if name.startswith("_"):
            raise AttributeError(name)
        return Broken(self._failure)

    async def __call__(self, *_: Any, **__: Any) -> Any:
        raise self._failure("connection refused")


def break_storage(site: Site, storage: Any) -> None:
    """From now on *site*'s handlers talk to *storage*."""
    services, server = site.server.services, site.server
    lifecycle = Lifecycle(
        storage,
        services.bus,
        clock=services.clock,
        farms=services.farms,
        instance=server.lifecycle.instance,
    )
    events = EventFeed(storage, services.bus, services.clock)
    server.app.settings["services"] = replace(
        services, storage=storage, lifecycle=lifecycle, events=events
    )


BLACKLIST = "/docker-executor/blacklist/"


@pytest.fixture
def checked() -> Checked:
    return Checked(Contract())


@pytest.fixture
async def places(site: Site) -> dict[str, str]:
    """What stands for each name in a path: a job that has run, and of which nobody was told."""
    submitted = await site.submit(
        "tests", retries=1, envs={"A": "b"}, notify={"finishes": ["ann@example.org"]}
    )
    run = await site.run_of(submitted)
    run.output.append(b"err\n")
    run.end(0)
    await site.status(submitted, "done")
    # Nobody can be told: there is no mail server.
    (notification,) = await site.failed_notifications()
    return {
        "notification": notification["id"],
        "task": "tests",
        "job": submitted["jobId"],
        "execution": submitted["executionId"],
        "name": "docs.css",
    }


def filled(path: str, places: dict[str, str]) -> str:
    """*path* with *places*, and with the query that it cannot be without."""
    query = "?query=tests" if path.startswith("/search") else ""
    query = "?q=out" if path.rstrip("/").endswith("/logs/search") else query
    return re.sub(r"{(\w+)}", lambda match: places[match[1]], path) + query


def body_of(method: str, path: str) -> Mapping[str, Any] | None:
    if path == BLACKLIST:
        return {"host": "localhost:1234"} if method in {"post", "put", "delete"} else None
    runs = path.endswith(("/retry/", "/run/", "/rerun/"))
    if path.startswith("/executions/") and method == "post":
        return {"ids": [NOBODY], "dryRun": True}
    return PAYLOAD if method in {"post", "put"} and not runs else None


def operations() -> Iterator[tuple[str, str, str]]:
    """Id, method and path of each, those that change something last."""
    found = [(name, method, path) for name, (path, method) in OPERATION_IDS.items()]
    yield from sorted(found, key=lambda one: one[1] in {"post", "put"})


async def test_every_documented_answer_is_given(
    site: Site, make_site: MakeSite, places: dict[str, str], checked: Checked
) -> None:
    missing = dict.fromkeys(places, NOBODY) | {"task": "nobody", "name": "none"}
    unreadable = {**places, "task": "%ff", "name": "%ff", "notification": "%ff"}
    guarded = await make_site(basic_auth_user="ann", basic_auth_password="secret")
    small = await make_site(max_body_bytes=1024)
    scheduled = {**places, "job": (await site.submit(cron="0 0 1 1 *"))["jobId"]}
    for name, method, path in operations():
        here = scheduled if name in {"pauseJob", "resumeJob"} else places
        if deletes := method == "delete" and (name, 204) in DOCUMENTED:
            await delete_one(site, checked, path)
            here = missing
        asked, body = filled(path, here), body_of(method, path)
        has_body = body is not None
        # 200 (204, 426), then 304.
        answer = await checked(site, method, asked, body)
        if (name, 304) in DOCUMENTED:
            await checked(site, method, asked, If_None_Match=answer.headers["Etag"])
        if (name, 204) in DOCUMENTED and method == "get":
            seen = "9" if "{execution}" in path else f"{places['execution']}:9"
            events = {"Accept": "text/event-stream", "Last_Event_ID": seen}
            assert (await checked(site, method, asked, **events)).status == 204
        if (name, 429) in DOCUMENTED:
            with patch.object(search, "MAX_AT_ONCE", 0):
                assert (await checked(site, method, asked)).status == 429
        if (name, 206) in DOCUMENTED:
            assert (await checked(site, method, asked, Range="bytes=0-1")).status in {206, 416}
            assert (await checked(site, method, asked, Range="bytes=999999-")).status == 416
        for spelling in DOCUMENT["paths"][path]["x-fastlane-spellings"]:
            again = await checked(site, method, filled(spelling, here), body)
            assert again.status in ({404} if deletes else {200, 204, 426})
        if (name, 202) in DOCUMENTED:
            open_ = await site.submit()
            unended = {"task": "tests", "job": open_["jobId"], "execution": open_["executionId"]}
            answer = await checked(site, method, f"{filled(path, unended)}?wait=0", body)
            assert answer.status == 202
        if (name, 404) in DOCUMENTED and path == "/stats/":
            assert (await checked(site, method, f"{asked}?task=nobody")).status == 404
        # What any request may be answered with.
        await checked(site, method, asked, body, Host="a~b")
        await checked(site, method, asked, body, Host="evil.example")
        assert (await checked(small, method, asked, b"x" * 2000)).status == 413
        await checked(site, method, asked, b"x", Content_Encoding="gzip")
        await checked(site, method, asked, X_Long="x" * 70_000)
        guarded_answer = await checked(guarded, method, asked, body)
        assert (guarded_answer.status == 401) is (path != "/healthcheck/")
        if "{" in path:
            assert (await checked(site, method, filled(path, unreadable), body)).status == 400
            if name not in {"createJob", "putJob"}:
                await checked(site, method, filled(path, missing), body)
        if has_body:
            if path.startswith("/executions/"):
                unexpected = {**body_of(method, path), "expected": 7}  # type: ignore[dict-item]
                assert (await checked(site, method, asked, unexpected)).status == 409
            if path == BLACKLIST:
                assert (await checked(site, method, asked, {"host": "b:1"})).status == 404
            if name == "createJob":
                answer = await checked(site, method, f"{asked}?from={NOBODY}", body)
                assert answer.status == 404
                assert (await checked(site, method, f"{asked}?dryRun=true", body)).status == 200
                for retries, status in ((0, 200), (1, 422)):
                    reused = {**PAYLOAD, "retries": retries}
                    answer = await checked(site, method, asked, reused, Idempotency_Key="reused")
                    assert answer.status == status
            for refused in (b"", b"[]", {"image": "a"}, {**PAYLOAD, "cron": "x", "retry": 1}):
                await checked(site, method, asked, refused)
        answer = await checked(
            site, method, asked, body, Origin="http://evil.example", Upgrade="websocket"
        )
        assert answer.status == 403
        for query in (
            "page=0",
            "perPage=1000",
            "after=x",
            "tail=x",
            "limit=0",
            "format=json&limit=0",
            "format=json&wait=31",
            "format=x",
            "query=%ff",
            "q=",
            "q=(&regex=true",
            "state=x",
        ):
            await checked(site, method, f"{asked}{'&' if '?' in asked else '?'}{query}", body)
        if path.endswith("/ws/") and method == "get":
            await open_socket(site, checked.contract, asked)

    break_storage(site, Broken(ZeroDivisionError))
    for _, method, path in operations():
        await checked(site, method, filled(path, places), body_of(method, path))
    break_storage(site, Broken(StorageUnavailable))
    for _, method, path in operations():
        await checked(site, method, filled(path, places), body_of(method, path))

    # Neither asks the storage, so a storage with a bug does them no harm.
    harmless = {name for name, *_ in operations() if name.startswith("options")} | {
        head + name[1:]
        for name in ("getIndex", "getForm", "getMetrics", "getOpenApi", "readDocs", "getAsset")
        for head in (name[0], f"head{name[0].upper()}")
    }
    assert DOCUMENTED - checked.contract.seen == {(name, 500) for name in harmless}


async def delete_one(site: Site, checked: Checked, path: str) -> None:
    """What runs is in the way of a deletion; what has ended is not, once."""
    submitted = await site.submit("deleted")
    ids = {"task": "deleted", "job": submitted["jobId"], "execution": submitted["executionId"]}
    assert (await checked(site, "delete", filled(path, ids))).status == 409
    (await site.run_of(submitted)).end(0)
    await site.status(submitted, "done")
    assert (await checked(site, "delete", filled(path, ids))).status == 204
    assert (await checked(site, "delete", filled(path, ids))).status == 404


async def open_socket(site: Site, contract: Contract, path: str) -> None:
    async with aiohttp.ClientSession() as client:
        try:
            async with client.ws_connect(site.base + path) as socket:
                headers = socket._response.headers
                contract.check("get", path, socket._response.status, headers, b"")
        except WSServerHandshakeError as error:
            raise AssertionError(f"{path}: {error.status}") from error


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
async def test_other_methods_are_405(
    site: Site, checked: Checked, places: dict[str, str], route: Route
) -> None:
    item = DOCUMENT["paths"][document_path(route)]
    other = "PATCH" if "delete" in item else "DELETE"
    for path in map(template, route.paths):
        answer = await checked(site, other, filled(path, places))
        allowed = {method.strip().lower() for method in answer.headers["Allow"].split(",")}
        assert allowed == {method for method in METHODS if method in item}
        assert answer.status == 405


async def test_what_no_route_matches_is_404(site: Site, checked: Checked) -> None:
    for path in ("/nothing", "/tasks/a/b", "/openapiXjson"):
        assert (await checked(site, "GET", path)).status == 404


async def test_jobs_of_every_kind_are_as_described(
    site: Site, still: Site, checked: Checked
) -> None:
    """Each key of a payload, each status of an execution and each kind of page is seen once."""
    await checked(
        site,
        "POST",
        "/tasks/all%20keys/",
        {
            "image": "registry:5000/a/b@sha256:" + "0" * 64,
            "command": ["sh", "-c", "true"],
            "envs": {"A": "b", "PASSWORD": "c"},
            "metadata": {"deep": [{"er": None}]},
            "cron": "*/5 * * * mon-fri",
            "timezone": "Europe/Berlin",
            "overlap": "queue",
            "retries": 3,
            "backoff": {"minMs": 10, "factor": 1.5, "maxMs": 1000},
            "timeout": 5.5,
            "expiration": 99999999999,
            "notify": {"fails": ["ann@example.org"], "everyAttempt": True},
            "webhooks": {
                "starts": [{"url": "https://example.org/hook"}],
                "fails": [{"url": "http://a:1/", "headers": {"Authorization": "x"}, "retries": 2}],
            },
            "resources": {"cpus": 0.5, "memory": "512m", "pids": 10, "disk": "10g"},
            "pullPolicy": "never",
            "rerunWhenLost": True,
            "additionalDNSEntries": {"db": "10.0.0.7"},
        },
        Idempotency_Key="once",
    )
    scheduled = (await checked(site, "POST", "/tasks/later/", {**PAYLOAD, "startIn": "1h"})).json
    await checked(site, "GET", scheduled["jobUrl"])
    await checked(site, "GET", scheduled["jobUrl"] + "logs/")
    await checked(site, "POST", scheduled["jobUrl"] + "retry/")
    await checked(site, "GET", "/status/")
    await checked(site, "POST", scheduled["jobUrl"] + "stop/")
    await checked(site, "GET", scheduled["jobUrl"])
    running = (await checked(site, "POST", "/tasks/now/", PAYLOAD)).json
    run = await site.run_of(running)
    for path in ("/status/", running["jobUrl"], running["executionUrl"]):
        await checked(site, "GET", path)
    run.end(3)
    await site.status(running, "failed")
    retried = (await checked(site, "POST", running["jobUrl"] + "retry/")).json
    (await site.run_of(retried)).end(0)
    await site.status(retried, "done")
    for suffix in ("", "?perPage=1", "?perPage=1&page=2", "?page=9"):
        await checked(site, "GET", running["jobUrl"] + suffix)
        await checked(site, "GET", running["taskUrl"] + suffix)
        await checked(site, "GET", "/tasks/" + suffix)
    await checked(site, "GET", "/search/?query=keys")
    await checked(site, "GET", "/tasks/all%20keys/")

    waiting = (await checked(still, "POST", "/tasks/waiting/", PAYLOAD)).json
    await checked(still, "GET", waiting["executionUrl"])
    await checked(still, "POST", waiting["executionUrl"] + "stop/")
    await checked(still, "GET", waiting["jobUrl"])
