"""What holds for every request: ids, proxies, auth, origins, methods, encodings, bounds."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
import structlog

import fastlane.server
from fastlane.api.bounds import DISCARDED_BYTES, MAX_HEADER_BYTES
from fastlane.api.connections import Limits
from fastlane.api.routes import ROUTES
from fastlane.model import Stream
from tests.api.conftest import MakeSite
from tests.api.http_site import PAYLOAD, Site
from tests.eventually import eventually

HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
PATHS = tuple(path for route in ROUTES for path in route.paths)
ALL_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "NONSENSE")


def filled(path: str, job: dict[str, Any]) -> str:
    """*path* of the URL table with the ids of a job that is there."""
    found = (
        path.replace("<task>", job["taskId"])
        .replace("<job>", job["jobId"])
        .replace("<execution>", job["executionId"])
        .replace("<name>", "docs.css")
        .replace("<notification>", job["executionId"])
    )
    if path.startswith("/search"):
        return f"{found}?query=a"
    return f"{found}?q=a" if path.rstrip("/").endswith("/logs/search") else found


def methods_of(path: str) -> set[str]:
    """What the route table says that *path* answers."""
    return next(set(route.methods) for route in ROUTES if path in route.paths)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The log lines of handlers, as dictionaries."""
    capture = structlog.testing.LogCapture()
    logger = structlog.wrap_logger(
        None, processors=[structlog.contextvars.merge_contextvars, capture]
    )
    monkeypatch.setattr("fastlane.api.base.log", logger)
    return capture.entries


# -- request ids ----------------------------------------------------------------------------------


async def test_request_id(still: Site) -> None:
    """Taken over where it can be, made where not; in every answer, whatever becomes of it."""
    for given in ("abc", "A-1.b_c:d/e+f=g@h", "x" * 128, str(uuid.uuid4())):
        assert (await still.get("/tasks/", X_Request_ID=given)).headers["X-Request-ID"] == given
    for given in ("a b", "x" * 129, "", "<script>", "é"):
        made = (await still.get("/tasks/", X_Request_ID=given)).headers["X-Request-ID"]
        assert uuid.UUID(made).version == 4
    one, other = [(await still.get("/tasks/")).headers["X-Request-ID"] for _ in range(2)]
    assert one != other
    for method, path, body, status in (
        ("GET", "/nothing", None, 404),
        ("GET", "/%FF", None, 404),
        ("GET", "/tasks/%FF", None, 400),
        ("DELETE", "/tasks/", None, 405),
        ("PATCH", "/tasks/", None, 405),
        ("POST", "/tasks/a", b"x", 400),
        ("POST", "/tasks/a", b"x" * 2_000_000, 413),
    ):
        answer = await still.request(method, path, body, X_Request_ID="my-id")
        assert answer.problem(status)["requestId"] == "my-id"


# -- proxies --------------------------------------------------------------------------------------

# Headers, and the address that is believed when 127.0.0.0/8 and 10.0.0.0/8 are trusted.
FORWARDED: tuple[tuple[dict[str, str], str], ...] = (
    ({}, "127.0.0.1"),
    ({"X-Real-Ip": "203.0.113.9"}, "203.0.113.9"),
    ({"X-Forwarded-For": "203.0.113.9"}, "203.0.113.9"),
    ({"X-Forwarded-For": "203.0.113.9, 10.1.1.1"}, "203.0.113.9"),
    ({"X-Forwarded-For": "1.1.1.1, 203.0.113.9, 10.1.1.1"}, "203.0.113.9"),
    ({"X-Forwarded-For": "10.2.2.2, 10.1.1.1"}, "10.2.2.2"),
    ({"X-Forwarded-For": "203.0.113.9", "X-Real-Ip": "198.51.100.1"}, "203.0.113.9"),
    ({"X-Forwarded-For": "nonsense"}, "127.0.0.1"),
    ({"X-Forwarded-For": "203.0.113.9, nonsense"}, "127.0.0.1"),
    ({"X-Real-Ip": "nonsense"}, "127.0.0.1"),
    ({"X-Forwarded-For": "2001:db8::7"}, "2001:db8::7"),
    ({"X-Forwarded-For": ", ,"}, "127.0.0.1"),
)


@pytest.mark.parametrize(("headers", "address"), FORWARDED)
async def test_trusted_proxy(make_site: MakeSite, headers: dict[str, str], address: str) -> None:
    """The client's address stands on the job and on the execution, also after PUT and retry."""
    site = await make_site(trusted_proxies="127.0.0.0/8,10.0.0.0/8", still=True)
    created = (await site.post("/tasks/a", PAYLOAD, **headers)).json
    job = (await site.get(created["jobUrl"])).json["job"]
    assert job["requestIPAddress"] == address
    assert job["executions"][0]["requestIPAddress"] == address
    path = f"/tasks/a/jobs/{uuid.uuid4()}"
    put = (await site.put(path, PAYLOAD, **headers)).json
    assert (await site.execution(put))["requestIPAddress"] == address


async def test_retry_has_the_address_of_who_asked_for_it(make_site: MakeSite) -> None:
    site = await make_site(trusted_proxies="127.0.0.1")
    created = await site.submit()
    (await site.run_of(created)).end(0)
    await site.status(created, "done")
    retried = (await site.post(f"{created['jobUrl']}retry/", X_Real_Ip="203.0.113.9")).json
    assert (await site.execution(retried))["requestIPAddress"] == "203.0.113.9"
    assert (await site.execution(created))["requestIPAddress"] == "127.0.0.1"


async def test_stranger_is_not_believed(still: Site) -> None:
    headers = {
        "X-Real-Ip": "203.0.113.9",
        "X-Forwarded-For": "203.0.113.9",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "evil.example",
    }
    created = (await still.post("/tasks/a", PAYLOAD, **headers)).json
    assert created["taskUrl"] == f"{still.base}/tasks/a/"
    assert (await still.execution(created))["requestIPAddress"] == "127.0.0.1"


async def test_forwarded_scheme_and_host(make_site: MakeSite) -> None:
    site = await make_site(
        trusted_proxies="127.0.0.1", allowed_hosts="jobs.example.org", still=True
    )
    proxied = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "jobs.example.org"}
    created = (await site.post("/tasks/a", PAYLOAD, **proxied)).json
    for key in ("taskUrl", "jobUrl", "executionUrl"):
        assert created[key].startswith("https://jobs.example.org/tasks/a/")
    for key, value in (("X-Forwarded-Proto", "javascript"), ("X-Forwarded-Host", "a/b")):
        page = (await site.get("/tasks/", **{key: value})).json
        assert page["items"][0]["url"] == f"{site.base}/tasks/a/"
    own = {**proxied, "Origin": "https://jobs.example.org"}
    assert (await site.post("/tasks/a", PAYLOAD, **own)).status == 200


# -- auth -----------------------------------------------------------------------------------------


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


WRONG = (
    None,
    "",
    "Basic",
    "Basic !!!",
    basic("ann", "wrong"),
    basic("bob", "pässword:x"),
    basic("", ""),
    basic("ann", ""),
    basic("ann", "pässword:x") + "x",
    "Bearer " + basic("ann", "pässword:x")[6:],
    basic("ANN", "pässword:x"),
)


async def test_auth_covers_everything(make_site: MakeSite) -> None:
    """Regression 37: every route, method, socket, page, asset, and what is not there at all."""
    site = await make_site(
        basic_auth_user="ann", basic_auth_password="pässword:x", still=True, cors_origins="http://x"
    )
    right = basic("ann", "pässword:x")
    job = (await site.post("/tasks/a", PAYLOAD, Authorization=right)).json
    before = await site.counts()
    closed = [path for path in PATHS if path != "/healthcheck"]
    for path in (*closed, "/nothing", "/%FF", "/tasks/%FF", "/tasks/none"):
        for method in ALL_METHODS:
            answer = await site.request(method, filled(path, job))
            assert answer.status == 401, (method, path)
            assert answer.headers["WWW-Authenticate"].startswith('Basic realm="fastlane"')
            if method != "HEAD":
                answer.problem(401)
        if path.endswith("/ws"):
            (await site.get(filled(path, job), **HANDSHAKE)).problem(401)
    for value in WRONG:
        headers = {} if value is None else {"Authorization": value}
        (await site.post("/tasks/a", PAYLOAD, **headers)).problem(401)
    assert await site.counts() == before
    for path in PATHS:
        if path.endswith("/ws"):
            continue
        method = "GET" if "GET" in methods_of(path) else "HEAD"
        answer = await site.request(method, filled(path, job), Authorization=right)
        assert answer.status in (200, 405), path
    assert (await site.get("/tasks/", Authorization=right.replace("Basic", "bAsIc"))).status == 200


async def test_the_healthcheck_needs_no_credentials(make_site: MakeSite) -> None:
    site = await make_site(basic_auth_user="ann", basic_auth_password="x", still=True)
    for path in ("/healthcheck", "/healthcheck/"):
        for method in ("GET", "HEAD"):
            assert (await site.request(method, path)).status == 200
    assert (await site.get("/status/")).status == 401


# -- methods --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
async def test_methods(still: Site, path: str) -> None:
    """Each route with and without its slash: the same answer, no redirect; 405 with Allow."""
    job = await still.submit()
    allowed = methods_of(path)
    for slash in ("", "/"):
        url = filled(path + slash, job)
        for method in ALL_METHODS:
            answer = await still.request(method, url)
            if method not in allowed:
                assert answer.status == 405
                assert set(answer.headers["Allow"].split(", ")) == allowed
                if method != "HEAD":
                    assert method in answer.problem(405)["detail"]
            elif method == "OPTIONS":
                assert (answer.status, answer.body) == (204, b"")
                assert set(answer.headers["Allow"].split(", ")) == allowed
            elif path.endswith("/ws"):
                answer.problem(426)
            elif method in ("POST", "PUT", "DELETE"):
                # There is no such notification, and what is not final is not deleted.
                unknown = "<notification>" in path
                assert answer.status in ((404,) if unknown else (200, 400, 409))
            else:
                assert answer.status == 200
                assert (answer.body == b"") == (method == "HEAD" or "std" in path)


@pytest.mark.parametrize("path", [path for path in PATHS if "HEAD" in methods_of(path)])
async def test_head_is_get_without_a_body(still: Site, path: str) -> None:
    job = await still.submit()
    url = filled(path, job)
    got, head = await still.get(url), await still.request("HEAD", url)
    assert (head.status, head.body) == (got.status, b"")
    differ = {"Date", "X-Request-ID", "Transfer-Encoding", "Etag"}
    if path == "/metrics":
        differ.add("Content-Length")
    # Of a log it is not known before it is read.
    elif path.endswith(("/logs", "/stdout", "/stderr")):
        differ.add("Content-Length")
        assert "Content-Length" not in head.headers
    kept = {name: value for name, value in got.headers.items() if name.title() not in differ}
    kept.pop("X-Request-Id", None)
    for name in kept:
        if name not in differ:
            assert head.headers[name] == kept[name], name


# -- origins and hosts ----------------------------------------------------------------------------

# Headers of a request, and whether it may change something.
ORIGINS: tuple[tuple[dict[str, str], bool], ...] = (
    ({}, True),
    ({"Origin": "{own}"}, True),
    ({"Origin": "{own}", "Sec-Fetch-Site": "same-origin"}, True),
    ({"Sec-Fetch-Site": "none"}, True),
    ({"Sec-Fetch-Site": "same-origin"}, True),
    ({"Sec-Fetch-Site": "same-site"}, False),
    ({"Sec-Fetch-Site": "cross-site"}, False),
    ({"Origin": "{own}", "Sec-Fetch-Site": "cross-site"}, False),
    ({"Sec-Fetch-Site": "nonsense"}, False),
    ({"Origin": "http://evil.example"}, False),
    ({"Origin": "https://{host}"}, False),
    ({"Origin": "http://127.0.0.1"}, False),
    ({"Origin": "http://127.0.0.1:1"}, False),
    ({"Origin": "{own}.evil.example"}, False),
    # Behind a proxy that ends TLS: what the browser says of itself counts.
    ({"Origin": "https://{host}", "Sec-Fetch-Site": "same-origin"}, True),
    ({"Origin": "https://{host}", "Sec-Fetch-Site": "cross-site"}, False),
    ({"Origin": "null"}, False),
    ({"Origin": ""}, False),
)


@pytest.mark.parametrize(("headers", "may"), ORIGINS)
async def test_other_origins_change_nothing(
    still: Site, headers: dict[str, str], may: bool
) -> None:
    job = await still.submit()
    host = still.base.removeprefix("http://")
    sent = {name: value.format(own=still.base, host=host) for name, value in headers.items()}
    before = await still.counts()
    for method, path, body in (
        ("POST", "/tasks/a", PAYLOAD),
        ("PUT", f"/tasks/a/jobs/{uuid.uuid4()}", PAYLOAD),
        ("POST", f"{job['jobUrl']}stop/", None),
        ("POST", f"{job['executionUrl']}stop/", None),
    ):
        answer = await still.request(method, path, body, **sent)
        assert answer.status == (200 if may else 403)
        if not may:
            assert "refused" in answer.problem(403)["detail"]
    if not may:
        assert await still.counts() == before
        assert (await still.execution(job))["status"] == "enqueued"
        (await still.get(f"{job['jobUrl']}ws/", **HANDSHAKE, **sent)).problem(403)
    assert (await still.get("/tasks/", **sent)).status == 200


@pytest.fixture
async def named(make_site: MakeSite) -> Site:
    """A server with the default of a server on loopback, and names of its own."""
    return await make_site(
        allowed_hosts="fastlane.local,other.local:99", public_url="https://jobs.example.org/x"
    )


OWN_HOSTS = ("localhost", "LOCALHOST:80", "127.0.0.1:10000", "10.0.0.7", "[::1]:80", "[fe80::1]")
NAMED_HOSTS = ("fastlane.local", "FASTLANE.local:10000", "other.local:99", "jobs.example.org:8443")
FOREIGN_HOSTS = ("evil.example", "evil.example:10000", "127.0.0.1.evil.example", "localhost.evil")


@pytest.mark.parametrize("path", [path for path in PATHS if path != "/healthcheck"])
async def test_foreign_hosts_are_refused_everywhere(still: Site, path: str) -> None:
    """DNS rebinding: a page of another name that points to this server is recognised by it."""
    job = await still.submit()
    before = await still.counts()
    url = filled(path, job)
    for host in (*FOREIGN_HOSTS, *NAMED_HOSTS):
        for method in ALL_METHODS:
            answer = await still.request(method, url, Host=host)
            assert answer.status == 421, (method, host)
            if method != "HEAD":
                assert "ALLOWED_HOSTS" in answer.problem(421)["detail"]
        if path.endswith("/ws"):
            (await still.get(url, Host=host, **HANDSHAKE)).problem(421)
    for host in OWN_HOSTS:
        assert (await still.request("OPTIONS", url, Host=host)).status == 204
    (await still.post("/tasks/a", PAYLOAD, Host="evil.example")).problem(421)
    assert await still.counts() == before


async def test_a_foreign_host_is_refused_before_the_body(still: Site) -> None:
    """Whether the body comes or not, and then the connection can be used again."""
    head = b"POST /tasks/a HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 1000\r\n"
    for waits in (b"", b"Expect: 100-continue\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", still.server.port)
        async with asyncio.timeout(10):
            writer.write(head + waits + b"\r\n")
            answer = await reader.readuntil(b"}")
        assert answer.startswith(b"HTTP/1.1 421 Misdirected Request\r\n")
        writer.transport.abort()
    found = await still.raw(
        head + b"\r\n" + b"x" * 1000,
        b"GET /tasks/ HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n",
    )
    assert found.startswith(b"HTTP/1.1 421 ")
    assert b"HTTP/1.1 200 OK" in found


async def test_hosts_of_the_configuration(named: Site) -> None:
    for host in (*OWN_HOSTS, *NAMED_HOSTS):
        assert (await named.post("/tasks/a", PAYLOAD, Host=host)).status == 200, host
        assert (await named.get("/tasks/", Host=host)).status == 200, host
    for host in (*FOREIGN_HOSTS, "other.local:98", "other.local"):
        for method in ("GET", "POST"):
            answer = await named.request(method, "/tasks/a", PAYLOAD, Host=host)
            assert "ALLOWED_HOSTS" in answer.problem(421)["detail"], host
    created = (await named.post("/tasks/a", PAYLOAD, Host="fastlane.local:10000")).json
    assert created["taskUrl"] == "http://fastlane.local:10000/tasks/a/"


@pytest.mark.parametrize(
    ("options", "checked"),
    [
        ({"host": "0.0.0.0", "basic_auth_user": "ann", "basic_auth_password": "x"}, False),
        ({"host": "0.0.0.0", "auth": "none"}, True),
        ({"host": "0.0.0.0", "auth": "none", "allowed_hosts": "fastlane.local"}, True),
        ({"host": "127.0.0.1", "basic_auth_user": "ann", "basic_auth_password": "x"}, True),
        ({"host": "localhost"}, True),
    ],
)
async def test_where_hosts_are_checked(
    make_site: MakeSite, options: dict[str, Any], checked: bool
) -> None:
    site = await make_site(still=True, **options)
    headers = {"Host": "evil.example", "Authorization": basic("ann", "x")}
    assert (await site.get("/tasks/", **headers)).status == (421 if checked else 200)
    assert (await site.get("/healthcheck", **headers)).status == 200


async def test_who_has_no_credentials_learns_nothing_of_hosts(make_site: MakeSite) -> None:
    site = await make_site(still=True, basic_auth_user="ann", basic_auth_password="x")
    (await site.get("/tasks/", Host="evil.example")).problem(401)


PREFLIGHT = {"Origin": "https://ui.example.org", "Access-Control-Request-Method": "PUT"}


async def test_cors_is_off(still: Site) -> None:
    for method in ("GET", "OPTIONS"):
        answer = await still.request(method, "/tasks/", **PREFLIGHT)
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


async def test_cors(make_site: MakeSite) -> None:
    site = await make_site(
        cors_origins="https://ui.example.org",
        basic_auth_user="ann",
        basic_auth_password="x",
        still=True,
    )
    answer = await site.request("OPTIONS", "/tasks/a", **PREFLIGHT)
    assert answer.status == 204
    assert answer.headers["Access-Control-Allow-Origin"] == "https://ui.example.org"
    assert "PUT" in answer.headers["Access-Control-Allow-Methods"]
    assert "Idempotency-Key" in answer.headers["Access-Control-Allow-Headers"]
    assert "Origin" in answer.headers["Vary"]
    headers = {"Origin": "https://ui.example.org", "Authorization": basic("ann", "x")}
    answer = await site.post("/tasks/a", PAYLOAD, **headers)
    assert answer.status == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "https://ui.example.org"
    assert "X-Request-ID" in answer.headers["Access-Control-Expose-Headers"]
    # Refusals can be read, too.
    answer = await site.get("/tasks/", Origin="https://ui.example.org")
    assert answer.problem(401)
    assert answer.headers["Access-Control-Allow-Origin"] == "https://ui.example.org"
    for origin in ("https://evil.example", "http://ui.example.org", "null"):
        answer = await site.request("OPTIONS", "/tasks/a", **{**PREFLIGHT, "Origin": origin})
        assert answer.status == 401
        assert "Access-Control-Allow-Origin" not in answer.headers
        headers["Origin"] = origin
        (await site.post("/tasks/a", PAYLOAD, **headers)).problem(403)


# -- encodings ------------------------------------------------------------------------------------


async def test_gzip(still: Site) -> None:
    for number in range(10):
        await still.submit(f"task-with-a-long-name-{number}")
    plain = await still.get("/tasks/")
    packed = await still.get("/tasks/", Accept_Encoding="gzip, br")
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert len(packed.body) < len(plain.body) / 2
    assert "Accept-Encoding" in plain.headers["Vary"]


async def test_gzipped_log_is_exact(still: Site) -> None:
    owner = still.owner()
    await owner.start()
    await owner.write(b"\xff\x00 out\r\n" * 100_000, (Stream.STDERR, b"err"))
    log = b"\xff\x00 out\r\n" * 100_000 + b"\n-=-\nerr"
    assert (await still.get(f"{owner.path}/logs")).body == log
    packed = await still.get(f"{owner.path}/logs", Accept_Encoding="gzip")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == log


# -- bounds ---------------------------------------------------------------------------------------


async def test_body_limit(make_site: MakeSite) -> None:
    """Regression 40: as a whole, in pieces, and with its sender waiting to be told."""
    site = await make_site(max_body_bytes=2048, still=True)
    body = json.dumps(PAYLOAD).encode()
    fits, exceeds = body.ljust(2048), body.ljust(2049)
    assert (await site.post("/tasks/a", fits)).status == 200
    before = await site.counts()
    answer = await site.post("/tasks/a", exceeds)
    assert "2048 bytes" in answer.problem(413)["detail"]
    (await site.put(f"/tasks/a/jobs/{uuid.uuid4()}", exceeds)).problem(413)
    head = b"POST /tasks/a HTTP/1.1\r\nHost: [::1]\r\n"
    chunked = head + b"Transfer-Encoding: chunked\r\n"
    for size, status in ((512, b"200"), (513, b"413")):
        pieces = [b"%x\r\n%s\r\n" % (size, piece) for piece in (b" " * size,) * 3]
        pieces.append(b"%x\r\n%s\r\n" % (512, body.ljust(512)))
        found = await site.raw(chunked + b"Connection: close\r\n\r\n", *pieces, b"0\r\n\r\n")
        assert found.startswith(b"HTTP/1.1 " + status), found
        assert b'"requestId"' in found or status == b"200"
    # Nothing of the body is sent, and no 100 asks for it.
    found = await site.raw(head + b"Content-Length: 200000000\r\nExpect: 100-continue\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 413 ")
    counts = await site.counts()
    assert counts.jobs == before.jobs + 1


async def test_endless_bodies_are_cut_off(make_site: MakeSite) -> None:
    """Regression 40: what is read in vain has a bound; others are served meanwhile."""
    site = await make_site(max_body_bytes=2048, still=True)
    _, writer = await asyncio.open_connection("127.0.0.1", site.server.port)
    writer.write(b"POST /tasks/a HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\n\r\n")
    sent = 0
    piece = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    try:
        while sent < 10 * DISCARDED_BYTES:
            writer.write(piece)
            await asyncio.wait_for(writer.drain(), 10)
            sent += 0x100000
    except ConnectionError:
        pass
    writer.transport.abort()
    assert sent < 3 * DISCARDED_BYTES
    assert (await site.get("/healthcheck")).status == 200


async def test_connection_goes_on_behind_a_refused_body(make_site: MakeSite) -> None:
    site = await make_site(max_body_bytes=2048, still=True)
    large = b"POST /tasks/a HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000
    found = await site.raw(
        large + b"GET /tasks/ HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n"
    )
    assert found.startswith(b"HTTP/1.1 413 ")
    assert b"HTTP/1.1 200 OK" in found


async def test_header_limit(still: Site) -> None:
    """Regression 40."""
    answer = await still.get("/tasks/", X_Long="x" * MAX_HEADER_BYTES)
    assert str(MAX_HEADER_BYTES) in answer.problem(431)["detail"]
    (await still.get("/tasks/?x=" + "x" * MAX_HEADER_BYTES)).problem(431)
    assert (await still.get("/tasks/", X_Long="x" * (MAX_HEADER_BYTES - 1000))).status == 200
    endless = b"GET /tasks/ HTTP/1.1\r\nHost: [::1]\r\n" + b"X: " + b"x" * 10_000_000
    assert await still.raw(endless) == b""


async def test_slow_requests_are_cut_off(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression 40: headers that dribble, bodies that never end, connections that say nothing."""
    monkeypatch.setattr(fastlane.server, "IDLE_CONNECTION_SECONDS", 0.3)
    monkeypatch.setattr(fastlane.server, "BODY_SECONDS", 0.3)
    limits = Limits(first_byte_seconds=0.3)
    monkeypatch.setattr(fastlane.server, "limits_for", lambda *_: limits)
    site = await make_site(still=True)

    async def dribble(head: bytes, piece: bytes) -> None:
        """Return once the server has hung up, although there was always news."""
        reader, writer = await asyncio.open_connection("127.0.0.1", site.server.port)
        ended = asyncio.create_task(reader.read())
        try:
            async with asyncio.timeout(10):
                writer.write(head)
                while not ended.done():
                    writer.write(piece)
                    await asyncio.wait([ended], timeout=0.05)
            assert await ended == b""
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()

    await asyncio.gather(
        dribble(b"GET /tasks/ HTTP/1.1\r\nHost: [::1]\r\n", b"X: y\r\n"),
        dribble(b"", b""),
        dribble(b"POST /tasks/a HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 9000\r\n\r\n", b" "),
        dribble(
            b"POST /tasks/a HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"1\r\nx\r\n",
        ),
    )
    assert (await site.get("/healthcheck")).status == 200


async def test_client_that_does_not_read(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression 40: it is hung up on after a while, however much there is to send."""
    limits = Limits(abandoned_seconds=0.3)
    monkeypatch.setattr(fastlane.server, "limits_for", lambda *_: limits)
    site = await make_site(still=True)
    owner = site.owner()
    await owner.start()
    for _ in range(64):
        await owner.write(b"x" * 256 * 1024)
    paths = (f"{owner.path}/logs", f"{owner.path}/logs?tail=1000")
    for path in paths:
        assert site.server._http is not None
        connections = site.server._http._connections
        assert not connections
        reader, writer = await asyncio.open_connection("127.0.0.1", site.server.port, limit=1)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: [::1]\r\n\r\n".encode())
        # The transport stops reading: the limit above is one byte.
        await reader.read(1)
        await eventually(lambda: not connections)  # noqa: B023
        async with asyncio.timeout(10):
            taken = 0
            try:
                while data := await reader.read(1 << 20):
                    taken += len(data)
            except ConnectionError:
                pass
        assert taken < 16 * 1024 * 1024
        writer.transport.abort()


# -- secrets --------------------------------------------------------------------------------------


async def test_redaction(make_site: MakeSite) -> None:
    """Regression 37: in job and execution, case aside, also in the headers of webhooks."""
    site = await make_site(still=True)
    envs = {
        "DB_PASSWORD": "hunter2",
        "apiKey": "hunter2",
        "MY_SECRET_1": "hunter2",
        "CLIENT_ID": "hunter2",
        "GITHUB_TOKEN": "hunter2",
        "PLAIN": "shown",
    }
    headers = {"Authorization": "hunter2", "X-Api-Key": "hunter2", "Cookie": "hunter2", "X-A": "b"}
    created = await site.submit(
        envs=envs, webhooks={"fails": [{"url": "http://x.example/", "headers": headers}]}
    )
    hidden = {**dict.fromkeys(envs, "***"), "PLAIN": "shown"}
    job = (await site.get(created["jobUrl"])).json["job"]
    assert job["metadata"]["envs"] == hidden
    assert job["executions"][0]["metadata"]["envs"] == hidden
    shown = job["metadata"]["webhooks"]["fails"][0]["headers"]
    assert shown == dict.fromkeys(headers, "***")
    assert (await site.execution(created))["metadata"]["envs"] == hidden
    for path in PATHS:
        if "GET" in methods_of(path):
            assert b"hunter2" not in (await site.get(filled(path, created))).body, path
    # The run itself gets the values.
    claimed = await site.storage.executions.get(created["executionId"])
    assert claimed.definition.envs == envs


async def test_redaction_words_are_an_option(make_site: MakeSite) -> None:
    site = await make_site(still=True, env_blacklisted_words="smtp")
    created = await site.submit(envs={"SMTP_SERVER": "hunter2", "PASSWORD": "shown"})
    shown = (await site.execution(created))["metadata"]["envs"]
    assert shown == {"SMTP_SERVER": "***", "PASSWORD": "shown"}


async def test_secrets_are_in_no_log_line(
    make_site: MakeSite, lines: list[Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Regression 37."""
    site = await make_site(basic_auth_user="ann", basic_auth_password="hunter2")
    site_headers = {"Authorization": basic("ann", "hunter2")}
    payload = {**PAYLOAD, "envs": {"PASSWORD": "hunter3"}}
    created = (await site.post("/tasks/a", payload, **site_headers)).json
    run = await site.run_of(created)
    assert run.spec.envs["PASSWORD"] == "hunter3"
    run.end(1)
    (await site.post("/tasks/a", {**payload, "image": ""}, **site_headers)).problem(400)
    captured = capsys.readouterr()
    assert "hunter" not in captured.out + captured.err + repr(lines)
