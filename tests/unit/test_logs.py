"""Log lines: their form, what they carry, and what they must not show."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from fastlane import logs
from fastlane.config import Config


def set_up(log_format: Any, log_level: Any, stream: io.StringIO) -> None:
    logs.configure(
        Config(
            log_format=log_format,
            log_level=log_level,
            env_blacklisted_words=("password", "token"),
        ),
        stream,
    )


class Terminal(io.StringIO):
    """A stream that says that a person reads it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def set_up_is_undone() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    chatty = {name: logging.getLogger(name).level for name in ("aiohttp", "asyncio", "pymongo")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in chatty.items():
        logging.getLogger(name).setLevel(before)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_carry_level_time_and_context() -> None:
    stream = io.StringIO()
    set_up("auto", "info", stream)
    log = structlog.get_logger("fastlane.test")
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        log.info("something", task="t")
        logging.getLogger("tornado.general").warning("uncaught %s", "x")
    log.debug("too fine")
    own, foreign = lines(stream)
    timestamp = own.pop("timestamp")
    assert timestamp.endswith("Z")
    assert own == {
        "event": "something",
        "task": "t",
        "request_id": "r1",
        "level": "info",
        "logger": "fastlane.test",
    }
    assert foreign["event"] == "uncaught x"
    assert (foreign["level"], foreign["request_id"]) == ("warning", "r1")
    assert foreign["logger"] == "tornado.general"


def test_lines_for_people_on_a_terminal() -> None:
    stream = Terminal()
    set_up("auto", "info", stream)
    structlog.get_logger("fastlane.test").info("something", task="t")
    (line,) = stream.getvalue().splitlines()
    assert "something" in line
    assert not line.startswith("{")


def test_what_others_wrote_cannot_pass_for_a_line_of_ours() -> None:
    stream = io.StringIO()
    set_up("console", "info", stream)
    structlog.get_logger("fastlane.test").info("a\nb", task="x\n\x1b[2Jfake line")
    (line,) = stream.getvalue().splitlines()
    assert "\x1b" not in line
    assert "fake line" in line


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_secrets_are_in_no_line(log_format: str) -> None:
    stream = io.StringIO()
    set_up(log_format, "debug", stream)
    log = structlog.get_logger("fastlane.test")
    log.info("start", envs={"DB_PASSWORD": "hunter2", "A": "b"}, deep=[{"x": {"token": "hunter2"}}])
    log.info("start", api_token="hunter2")
    logging.getLogger("aiohttp").error("failed", extra={"password": "hunter2"})

    def fail(password: str) -> None:
        raise RuntimeError("no luck")

    try:
        fail("hun" + "ter2")
    except RuntimeError:
        log.exception("caught")
        logging.getLogger("tornado").exception("caught")
    text = stream.getvalue()
    assert "hunter2" not in text
    assert text.count("***") == 4
    assert text.count("RuntimeError: no luck") == 2


def test_levels_and_warnings() -> None:
    stream = io.StringIO()
    set_up("json", "debug", stream)
    logging.getLogger("asyncio").debug("using selector")
    logging.getLogger("fastlane.test").debug("shown")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn("old thing", UserWarning, stacklevel=1)
    shown, warned = lines(stream)
    assert shown["event"] == "shown"
    assert "old thing" in warned["event"]
    set_up("json", "error", stream)
    structlog.get_logger("fastlane.other").warning("not any more")
    assert len(lines(stream)) == 2


def test_a_second_call_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    set_up("json", "info", first)
    set_up("json", "info", second)
    structlog.get_logger("fastlane.test").info("once")
    assert first.getvalue() == ""
    assert len(lines(second)) == 1


def test_what_json_does_not_know_is_still_logged() -> None:
    stream = io.StringIO()
    set_up("json", "info", stream)
    structlog.get_logger("fastlane.test").info("odd", data=b"\xff", text="\ud800", number=1.5)
    (line,) = lines(stream)
    assert line["event"] == "odd"
