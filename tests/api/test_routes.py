"""What follows from an entry of the route table: routing, roles, parameters, the document."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import tornado.netutil
from openapi_spec_validator import validate as validate_document
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders

from fastlane.api import parameters
from fastlane.api.base import BaseHandler
from fastlane.api.operations import Route, get, route
from fastlane.api.pages.assets import Asset
from fastlane.api.pages.page import Page
from fastlane.api.routes import ROUTES, make_app
from fastlane.api.schemas.responses import Answer, Count
from fastlane.api.security import Authenticator, Principal, Role, Security
from tests.api.http_site import PAYLOAD, Site
from tests.api.test_around import ALL_METHODS, HANDSHAKE, filled


class Named(Authenticator):
    """Believes what a request says of itself."""

    challenge, remedy = "Role", "Send a role."

    def authenticate(self, headers: HTTPHeaders) -> Principal:
        role = Role[headers.get("X-Role", "ANONYMOUS")]
        return Principal(role.name.lower(), role)


@asynccontextmanager
async def served(site: Site, routes: tuple[Route, ...] = ROUTES) -> AsyncIterator[str]:
    """*routes* over the parts of *site*, for :class:`Named` principals; their base URL."""
    services = site.server.services
    server = HTTPServer(make_app(services, routes, Security(services.config, Named())))
    sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    try:
        yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    finally:
        server.stop()
        await server.close_all_connections()


# -- a new endpoint is a handler, an entry, and this test -----------------------------------------


class Sum(Answer):
    """A sum."""

    total: Count


LEFT = parameters.number("left", "One summand.", 0, 100, 1)
RIGHT = parameters.number("right", "The other one.", 0, 100, 1)


class Add(BaseHandler):
    """``/sums/``"""

    async def get(self, task_id: str) -> None:
        """Adds two numbers."""
        found: Sum = {"total": (LEFT.number(self) or 0) + (RIGHT.number(self) or 0)}
        await self.send_json(found)


ENTRY = route(
    "/sums/<task>", Add, get("addNumbers", Role.OPERATOR, "A sum", Sum, (LEFT, RIGHT)), tag="Tasks"
)


async def test_a_new_endpoint_is_a_handler_and_an_entry(still: Site) -> None:
    async with served(still, (*ROUTES, ENTRY)) as base:
        admin = {"X-Role": "ADMIN"}
        # Routed, with and without its slash.
        for path in ("/sums/a", "/sums/a/"):
            assert (await still.get(f"{base}{path}?left=2&right=003", **admin)).json == {"total": 5}
        assert (await still.request("HEAD", f"{base}/sums/a", **admin)).status == 200
        answer = await still.post(f"{base}/sums/a", **admin)
        assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"
        answer.problem(405)
        # Its role is checked.
        (await still.get(f"{base}/sums/a")).problem(401)
        refused = (await still.get(f"{base}/sums/a", X_Role="SUBMITTER")).problem(403)
        assert refused["detail"] == '"submitter" has the role submitter; this needs operator.'
        # So are its parameters.
        wrong = (await still.get(f"{base}/sums/a?left=101", **admin)).problem(400)
        assert wrong["detail"] == 'left is "101"; it must be a whole number from 0 to 100.'
        unknown = (await still.get(f"{base}/sums/a?lefd=1", **admin)).problem(400)
        assert unknown["detail"] == 'Unknown query parameter "lefd". Did you mean "left"?'
        # And it is documented.
        document = (await still.get(f"{base}/openapi.json", **admin)).json
        validate_document(document)
        described = document["paths"]["/sums/{task}/"]["get"]
        assert described["operationId"] == "addNumbers"
        assert described["description"] == "Adds two numbers."
        assert [one["name"] for one in described["parameters"]] == ["left", "right", "times"]
        assert "Sum" in document["components"]["schemas"]
        assert b"addNumbers" in (await still.get(f"{base}/docs/", **admin)).body


# -- roles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", Role)
async def test_each_route_asks_for_its_role(still: Site, role: Role) -> None:
    job = await still.submit()
    before = await still.counts()
    async with served(still) as base:
        for entry in ROUTES:
            for path in entry.paths:
                for method in ALL_METHODS:
                    required = entry.role(method)
                    if method not in ("GET", "HEAD", "OPTIONS") and role >= required:
                        # It would be done.
                        continue
                    headers = HANDSHAKE if path.endswith("/ws") and role < required else {}
                    url = base + filled(path, job)
                    answer = await still.request(method, url, X_Role=role.name, **headers)
                    if role >= required:
                        assert answer.status not in (401, 403), (method, path)
                    else:
                        refusal = 401 if role is Role.ANONYMOUS else 403
                        assert answer.status == refusal, (method, path)
        if role < Role.SUBMITTER:
            url = f"{base}/tasks/a"
            assert (await still.post(url, PAYLOAD, X_Role=role.name)).status in (401, 403)
    assert await still.counts() == before


def test_roles_of_the_table() -> None:
    """Whoever reads needs less than whoever changes something."""
    for entry in ROUTES:
        for method, operation in entry.operations.items():
            if entry.path == "/healthcheck":
                assert operation.role is Role.ANONYMOUS
            # The form is of use only to those who may send it.
            elif entry.path == "/new":
                assert operation.role is Role.SUBMITTER
            elif method == "get":
                assert operation.role in (Role.VIEWER, Role.OPERATOR)
            else:
                assert operation.role >= Role.SUBMITTER


# -- query parameters -----------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ROUTES, ids=lambda entry: entry.path)
async def test_unknown_query_parameters(still: Site, entry: Route) -> None:
    """400 on the API; ignored on pages and assets, and where the name begins with "_"."""
    job = await still.submit()
    before = await still.counts()
    for path in entry.paths:
        url = filled(path, job)
        join = "&" if "?" in url else "?"
        for method in entry.operations:
            answer = await still.request(method.upper(), f"{url}{join}_=1&tial=5")
            if issubclass(entry.handler, (Page, Asset)):
                assert answer.status == 200
                continue
            detail = answer.problem(400)["detail"]
            assert detail.startswith('Unknown query parameter "tial".')
            assert ('Did you mean "tail"?' in detail) == path.endswith(("logs", "stdout", "stderr"))
        if "get" in entry.operations and not path.endswith("/ws"):
            assert (await still.get(f"{url}{join}_=1&_tail=5")).status == 200
        # A preflight repeats the query of the request that is to come.
        assert (await still.request("OPTIONS", f"{url}{join}page=1")).status == 204
    assert await still.counts() == before


async def test_suggestions_are_close(still: Site) -> None:
    for given, suggested in (("pgae", "page"), ("PAGE", "page"), ("per_page", "perPage")):
        detail = (await still.get(f"/tasks/?{given}=1")).problem(400)["detail"]
        assert detail == f'Unknown query parameter "{given}". Did you mean "{suggested}"?'
    for given in ("volumes", "x", "%00", "%F0", "x" * 5000):
        assert "Did you mean" not in (await still.get(f"/tasks/?{given}=1")).problem(400)["detail"]


async def test_search_needs_a_query(still: Site) -> None:
    detail = (await still.get("/search/")).problem(400)["detail"]
    assert detail == 'The query parameter "query" is required.'
    assert (await still.get("/search/?query=")).json["items"] == []


async def test_numbers_may_begin_with_zeros(still: Site) -> None:
    owner = still.owner()
    await owner.start()
    await owner.write(b"one\ntwo\nthree\n")
    assert (await still.get(f"{owner.path}/stdout?tail=0000000000002")).body == b"two\nthree\n"
    assert (await still.get("/tasks/?page=0000000000001")).json["page"] == 1


# -- bodies ---------------------------------------------------------------------------------------


async def test_retry_takes_overrides_only(site: Site) -> None:
    """A body that would be ignored is refused."""
    submitted = await site.submit()
    (await site.run_of(submitted)).end(0)
    await site.status(submitted, "done")
    url = f"{submitted['jobUrl']}retry/"
    before = await site.counts()
    bodies: tuple[Any, ...] = ({"retries": 1}, b"[]", b"x", b"null", {"": {}})
    for body in bodies:
        (await site.post(url, body)).problem(400)
    assert await site.counts() == before
    for body in (b"", b" ", {}):
        answer = await site.post(url, body)
        assert json.loads(answer.body)["executionId"]


async def test_an_unknown_host_is_repeated_as_it_was_given(still: Site) -> None:
    for host, status in (("Docker-A.Example:1234", 404), ("TCP://Docker-A.Example:x", 400)):
        problem = (await still.post("/docker-executor/blacklist", {"host": host})).problem(status)
        assert host in problem["detail"]
