"""Reports of fastlane's own errors, to an endpoint that stands in for Sentry (regression 37)."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import sentry_sdk
import structlog
from pydantic import SecretStr

from fastlane import logs, sentry
from fastlane.config import Config
from fastlane.sentry import Scrubber
from fastlane.server import Server
from tests.fakes import MemoryExecutor

CANARY = "canary-5e1f1e55"
KEY = "0123456789abcdef0123456789abcdef"
# More than the queue of reports holds.
REPORTS = 500
# Bounds each wait for something that must come.
PATIENCE_SECONDS = 20.0


class FakeSentry:
    """Takes envelopes, and keeps the events in them."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.raw = ""
        self.asked = threading.Event()
        """A report has arrived."""
        self.answers = threading.Event()
        """Cleared, it keeps all reports waiting."""
        self.answers.set()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805
                body = handler.rfile.read(int(handler.headers["Content-Length"]))
                if handler.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                self.asked.set()
                self.answers.wait()
                self.raw += body.decode()
                parts = [json.loads(line) for line in body.splitlines() if line.startswith(b"{")]
                for header, payload in pairwise(parts[1:]):
                    if header.get("type") == "event":
                        self.events.append(payload)
                handler.send_response(200)
                handler.end_headers()

            def log_message(handler, *_: Any) -> None:  # noqa: N805
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.dsn = f"http://{KEY}@127.0.0.1:{self._server.server_port}/1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def received(self) -> list[dict[str, Any]]:
        """The events, once all that was reported has been sent."""
        sentry_sdk.flush(10)
        return self.events

    def close(self) -> None:
        self.answers.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(autouse=True)
def set_up_is_undone() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    sentry_sdk.get_client().close(timeout=2)
    sentry_sdk.get_global_scope().set_client(None)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def endpoint() -> Iterator[FakeSentry]:
    endpoint = FakeSentry()
    yield endpoint
    endpoint.close()


def set_up(dsn: str, **options: Any) -> Config:
    config = Config(sentry_dsn=SecretStr(dsn), log_format="json", **options)
    logs.configure(config)
    sentry.configure(config)
    return config


def test_an_error_is_reported_with_its_facts(endpoint: FakeSentry) -> None:
    set_up(endpoint.dsn)
    log = structlog.get_logger("fastlane.test")
    try:
        raise ValueError("a bug")
    except ValueError:
        log.exception("background step failed", loop="scheduler", count=3)
    (event,) = endpoint.received()
    assert event["logentry"]["message"] == "background step failed"
    assert (event["level"], event["logger"]) == ("error", "fastlane.test")
    assert event["extra"]["loop"] == "scheduler"
    assert event["extra"]["count"] == 3
    assert event["exception"]["values"][-1]["type"] == "ValueError"
    assert event["release"].startswith("fastlane@")


def test_errors_of_libraries_are_reported_and_warnings_are_not(endpoint: FakeSentry) -> None:
    set_up(endpoint.dsn)
    structlog.get_logger("fastlane.test").warning("storage is away")
    logging.getLogger("tornado.application").error("uncaught %s", "x", exc_info=OSError("y"))
    (event,) = endpoint.received()
    assert event["logentry"]["message"] == "uncaught x"
    assert event["exception"]["values"][-1]["value"] == "y"


def test_no_secret_is_in_a_report(endpoint: FakeSentry) -> None:
    set_up(
        endpoint.dsn,
        basic_auth_user="ann",
        basic_auth_password=f"{CANARY}-by-value",
        smtp_password=CANARY,
    )
    log = structlog.get_logger("fastlane.test")
    envs = {"DB_PASSWORD": CANARY, "deep": [{"api_key": CANARY}]}
    local_secret = CANARY + "-local"
    try:
        raise ValueError(
            f"the storage refused {{'DB_PASSWORD': '{CANARY}x'}} of redis://ann:{CANARY}x@host, "
            f"token={CANARY}x, Authorization: {CANARY}x {CANARY} {len(local_secret)}"
        )
    except ValueError:
        log.exception("it failed", envs=envs, password=CANARY, url=f"http://a:{CANARY}x@b/")
    log.error(f"client_id: {CANARY}x")
    events = endpoint.received()
    assert len(events) == 2
    assert endpoint.raw.count(CANARY) == 0
    assert "the storage refused" in endpoint.raw
    assert "***" in endpoint.raw


def test_without_a_dsn_nothing_is_sent(endpoint: FakeSentry) -> None:
    set_up("")
    structlog.get_logger("fastlane.test").error("a bug")
    assert not sentry_sdk.get_client().is_active()
    assert endpoint.received() == []


def test_a_second_call_replaces_the_first(endpoint: FakeSentry) -> None:
    set_up(endpoint.dsn)
    set_up(endpoint.dsn)
    structlog.get_logger("fastlane.test").error("a bug")
    assert len(endpoint.received()) == 1


def test_nobody_waits_for_a_sentry_that_hangs(endpoint: FakeSentry) -> None:
    endpoint.answers.clear()
    set_up(endpoint.dsn)
    log = structlog.get_logger("fastlane.test")

    def report() -> None:
        for _ in range(REPORTS):
            log.error("a bug")

    reporting = threading.Thread(target=report, daemon=True)
    reporting.start()
    assert endpoint.asked.wait(PATIENCE_SECONDS)
    reporting.join(PATIENCE_SECONDS)
    # All was logged while not one report had been answered.
    assert not reporting.is_alive()
    assert endpoint.events == []
    endpoint.answers.set()
    # What did not fit into the queue was dropped.
    assert 0 < len(endpoint.received()) < REPORTS


def test_the_scrubber_keeps_what_is_no_secret() -> None:
    scrub = Scrubber(("password",), ["hunter2"])
    event = {"a": ["it is hunter2", 1, None, True], "passwords": {"x": 1}, "b": ("c",)}
    assert scrub(event) == {"a": ["it is ***", 1, None, True], "passwords": "***", "b": ["c"]}
    assert scrub('x {"db_password": "a b"} y') == 'x {"db_password": ***} y'
    assert scrub("DB_PASSWORD=a b") == "DB_PASSWORD=*** b"
    assert scrub("see http://a.example/b@c") == "see http://a.example/b@c"


def test_a_long_text_is_cut_and_costs_no_time() -> None:
    """The pattern of an earlier release took 25 s for 1,500 characters."""
    scrub = Scrubber(("password",), [])
    assert scrub("password" * 200) == "password" * 200
    assert len(scrub("password=x " * 100_000)) < 20_000


async def test_a_request_that_fails_inside_is_reported(
    endpoint: FakeSentry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = set_up(endpoint.dsn, port=0, data_dir=tmp_path)
    server = Server(config, executor=MemoryExecutor())
    await server.start()
    try:

        async def fail() -> None:
            raise ZeroDivisionError(f"secret={CANARY}")

        monkeypatch.setattr(server.storage, "overview", fail)
        async with (
            aiohttp.ClientSession() as client,
            client.get(
                f"http://127.0.0.1:{server.port}/status/", headers={"Authorization": CANARY}
            ) as answer,
        ):
            assert answer.status == 500
        events = await asyncio.to_thread(endpoint.received)
    finally:
        await server.stop()
    (event,) = [one for one in events if "request failed" in one["logentry"]["message"]]
    assert event["exception"]["values"][-1]["type"] == "ZeroDivisionError"
    assert endpoint.raw.count(CANARY) == 0
