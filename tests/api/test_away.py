"""What clients see while the storage is away, or when something fails inside."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from fastlane.errors import StorageUnavailable
from fastlane.storage.base import Events, Stats
from fastlane.storage.sqlite import SqliteStorage
from tests.api.conftest import MakeSite
from tests.api.http_site import PAYLOAD, Site
from tests.api.test_around import HANDSHAKE, PATHS, basic, filled, methods_of
from tests.storage_calls import OPERATIONS, Call, wrap

_MORE = [
    *(f"events.{name}" for name in sorted(Events.__abstractmethods__)),
    *(f"stats.{name}" for name in sorted(Stats.__abstractmethods__)),
]


class FailingStorage(SqliteStorage):
    """Every operation of which raises ``failure`` while there is one."""

    failure: Exception | None = None

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        for operation in (*OPERATIONS, *_MORE):
            if operation not in {"instances.beat", "instances.leave"}:
                wrap(self, operation, self._fail)

    def _fail(self, call: Call) -> Call:
        async def fail(*args: Any, **kwargs: Any) -> Any:
            if self.failure is not None:
                raise self.failure
            return await call(*args, **kwargs)

        return fail


class TornStorage(SqliteStorage):
    """Its logs can be read up to a point only."""

    reads = 0

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        wrap(self, "logs.read", self._tear)

    def _tear(self, read: Call) -> Call:
        async def torn(*args: Any, **kwargs: Any) -> Any:
            self.reads += 1
            if self.reads > 2:
                raise StorageUnavailable("the disk is gone")
            return await read(*args, **kwargs)

        return torn


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The log lines of handlers, as dictionaries."""
    capture = structlog.testing.LogCapture()
    logger = structlog.wrap_logger(
        None, processors=[structlog.contextvars.merge_contextvars, capture]
    )
    monkeypatch.setattr("fastlane.api.base.log", logger)
    return capture.entries


@pytest.fixture
async def failing(make_site: MakeSite) -> Site:
    return await make_site(still=True, storage=FailingStorage)


def fail_with(site: Site, failure: Exception | None) -> None:
    assert isinstance(site.storage, FailingStorage)
    site.storage.failure = failure


# Routes that need no storage; metrics are most wanted while it is unreachable.
ASIDE = {"", "/new", "/healthcheck", "/static/<name>", "/docs", "/openapi.json", "/metrics"}
# Of POST: those that take no definition.
BODIES: Mapping[str, Mapping[str, Any] | None] = {
    **dict.fromkeys(("retry", "run", "rerun", "pause", "resume", "stop")),
    "executions/stop": {"ids": [str(uuid.uuid4())], "dryRun": True},
    "executions/rerun": {"ids": [str(uuid.uuid4())], "dryRun": True},
}
NEEDY = [path for path in PATHS if path not in ASIDE]


def body_of(site: Site, path: str, method: str) -> Mapping[str, Any] | None:
    """A body that the route takes."""
    if path == "/docker-executor/blacklist":
        return {"host": site.server.config.docker_hosts[0].hosts[0]} if method != "GET" else None
    if method not in ("POST", "PUT"):
        return None
    last = path.rpartition("/")[2]
    return BODIES.get(path.removeprefix("/"), BODIES.get(last, PAYLOAD))


@pytest.mark.parametrize("path", NEEDY)
async def test_storage_away(failing: Site, lines: list[Any], path: str) -> None:
    """Regression 4: 503 with Retry-After, never a false 2xx; and all is well once it is back."""
    job = await failing.submit()
    before = await failing.counts()
    fail_with(failing, StorageUnavailable("MongoDB at 10.0.0.7 does not answer"))
    for method in methods_of(path) - {"OPTIONS"}:
        body = body_of(failing, path, method)
        headers = HANDSHAKE if path.endswith("/ws") else {}
        answer = await failing.request(
            method, filled(path, job), body, X_Request_ID="my-id", **headers
        )
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
        if method != "HEAD":
            problem = answer.problem(503)
            assert "storage is unreachable" in problem["detail"]
            assert "10.0.0.7" not in problem["detail"]
        assert [line["event"] for line in lines] == ["The storage is unreachable."]
        assert lines[0]["request_id"] == "my-id"
        assert lines[0]["log_level"] == "warning"
        lines.clear()
    fail_with(failing, None)
    assert await failing.counts() == before
    await failing.submit()


async def test_health_of_a_storage_that_is_away(failing: Site) -> None:
    fail_with(failing, StorageUnavailable("the disk is full"))
    for path in ("/healthcheck", "/healthcheck/"):
        answer = await failing.get(path)
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.headers["Content-Type"].startswith("application/json")
        found = json.loads(answer.body)
        assert found["mongo"] is found["redis"] is False
        assert found["errors"] == [
            {"source": "mongo", "message": "the disk is full"},
            {"source": "redis", "message": "the disk is full"},
        ]
    fail_with(failing, None)
    assert (await failing.get("/healthcheck")).json["errors"] == []


async def test_strangers_do_not_learn_what_is_wrong(make_site: MakeSite) -> None:
    site = await make_site(
        still=True, storage=FailingStorage, basic_auth_user="ann", basic_auth_password="x"
    )
    fail_with(site, StorageUnavailable("MongoDB at 10.0.0.7 does not answer"))
    for headers in ({}, {"Authorization": basic("ann", "y")}):
        answer = await site.get("/healthcheck/", **headers)
        assert answer.status == 503
        assert {error["message"] for error in json.loads(answer.body)["errors"]} == {"unavailable"}
    answer = await site.get("/healthcheck/", Authorization=basic("ann", "x"))
    assert "10.0.0.7" in answer.body.decode()


@pytest.mark.parametrize("path", [path for path in NEEDY if not path.endswith("/ws")])
async def test_bug_inside(failing: Site, lines: list[Any], path: str) -> None:
    """500 that tells nothing of the inside, and one log line that tells all."""
    job = await failing.submit()
    fail_with(failing, ZeroDivisionError("password=hunter2"))
    for method in methods_of(path) - {"OPTIONS"}:
        body = body_of(failing, path, method)
        answer = await failing.request(method, filled(path, job), body, X_Request_ID="my-id")
        assert answer.status == 500
        if method != "HEAD":
            problem = answer.problem(500)
            assert problem["detail"] == "Something failed inside fastlane; see its log for details."
            assert b"hunter2" not in answer.body
            assert b"ZeroDivision" not in answer.body
        assert len(lines) == 1
        assert lines[0]["request_id"] == "my-id"
        assert lines[0]["log_level"] == "error"
        assert isinstance(lines[0]["exc_info"], ZeroDivisionError)
        lines.clear()
    fail_with(failing, None)
    assert (await failing.get("/tasks/")).status == 200


async def test_refusals_are_not_logged(still: Site, lines: list[Any]) -> None:
    for path in ("/nothing", "/tasks/none", "/tasks/?page=0", "/tasks/%FF"):
        assert (await still.get(path)).status in (400, 404)
    (await still.post("/tasks/a", b"x")).problem(400)
    assert lines == []


async def test_log_that_breaks_off_does_not_pass_for_whole(make_site: MakeSite) -> None:
    """The connection ends without the chunk that would say that this was all."""
    site = await make_site(still=True, storage=TornStorage)
    owner = site.owner()
    await owner.start()
    for _ in range(8):
        await owner.write(b"x" * 256 * 1024)
    found = await site.raw(f"GET {owner.path}/stdout HTTP/1.1\r\nHost: [::1]\r\n\r\n".encode())
    assert found.startswith(b"HTTP/1.1 200 OK")
    assert b"x" * 1000 in found
    assert not found.endswith(b"0\r\n\r\n")


async def test_submission_at_the_moment_of_failure(failing: Site) -> None:
    """Regression 5: what was not answered 2xx can be sent again with its key, to one effect."""
    key = str(uuid.uuid4())
    fail_with(failing, StorageUnavailable("away"))
    (await failing.post("/tasks/a", PAYLOAD, Idempotency_Key=key)).problem(503)
    fail_with(failing, None)
    first = (await failing.post("/tasks/a", PAYLOAD, Idempotency_Key=key)).json
    again = (await failing.post("/tasks/a", PAYLOAD, Idempotency_Key=key)).json
    assert first == again
    assert (await failing.counts()).jobs == 1
