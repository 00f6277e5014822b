"""The client commands, against a stand-in that answers as the HTTP contract says."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from fastlane.cli import main
from fastlane.client import End, connected
from fastlane.errors import FastlaneError

Record = dict[str, Any]


def record(seq: int, text: str, stream: str = "stdout") -> Record:
    return {"seq": seq, "ts": "2026-01-01T00:00:00", "stream": stream, "text": text}


END: Record = {"end": True, "status": "failed", "exitCode": 3, "reason": "exit-code"}


class StandInFastlane:
    """Answers submissions and logs; breaks the log off behind each *break_after* records."""

    def __init__(self) -> None:
        self.records = [record(1, "one\n"), record(2, "two\n", "stderr"), record(3, "three\n"), END]
        self.break_after = 100
        self.asked: list[tuple[str, Any, str | None]] = []
        self.problem: web.Response | None = None
        app = web.Application()
        app.router.add_post("/tasks/{task}/", self.submit)
        app.router.add_get("/status/", self.status)
        app.router.add_get("/e/ws/", self.socket)
        app.router.add_get("/e/logs/", self.logs)
        self.server = TestServer(app)

    @property
    def url(self) -> str:
        return str(self.server.make_url("/")).rstrip("/")

    def note(self, request: web.Request, body: Any = None) -> None:
        self.asked.append((request.raw_path, body, request.headers.get("Authorization")))

    async def submit(self, request: web.Request) -> web.Response:
        self.note(request, await request.json())
        if self.problem is not None:
            return self.problem
        return web.json_response({"executionUrl": f"{self.url}/e", "jobUrl": f"{self.url}/j"})

    async def status(self, request: web.Request) -> web.Response:
        self.note(request)
        return web.json_response({"tasks": {"count": 1}})

    async def logs(self, request: web.Request) -> web.Response:
        self.note(request)
        return web.Response(body=b"one\n\n-=-\n\xff")

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        self.note(request)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        after = int(request.query.get("after", "0"))
        behind = [found for found in self.records if found.get("seq", 1000) > after]
        for sent, found in enumerate(behind):
            if sent == self.break_after:
                await socket.close(message=b"retry")
                return socket
            await socket.send_json(found)
        await socket.close(message=b"done")
        return socket


@pytest.fixture
async def fastlane() -> AsyncIterator[StandInFastlane]:
    stand_in = StandInFastlane()
    await stand_in.server.start_server()
    yield stand_in
    await stand_in.server.close()


async def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of ``fastlane`` with *arguments*; it runs a loop of its own in a thread."""
    monkeypatch.setattr(sys, "argv", ["fastlane", *arguments])

    def call() -> int:
        try:
            main()
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else 0
        return 0

    return await asyncio.to_thread(call)


async def test_submit_prints_where_it_runs(
    fastlane: StandInFastlane, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FASTLANE_URL", fastlane.url)
    code = await run(
        monkeypatch,
        *("submit", "my task/1", "--image", "busy", "--command", "echo hi", "--env", "A=b=c"),
        *("--retries", "2", "--start-in", "5m"),
    )
    assert code == 0
    assert capsys.readouterr().out == f"{fastlane.url}/e\n"
    ((path, body, _),) = fastlane.asked
    assert path == "/tasks/my%20task%2F1/"
    assert body == {
        "image": "busy",
        "command": "echo hi",
        "envs": {"A": "b=c"},
        "retries": 2,
        "startIn": "5m",
    }


async def test_following_splits_the_streams_and_exits_as_the_job_does(
    fastlane: StandInFastlane, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    submit = ("submit", "t", "--image", "busy", "--command", "x", "-f", "--server", fastlane.url)
    assert await run(monkeypatch, *submit) == 3
    captured = capsys.readouterr()
    assert captured.out == "one\nthree\n"
    assert "two\n" in captured.err
    assert "the execution is failed (exit-code)" in captured.err


async def test_a_log_that_breaks_off_goes_on_behind_the_last_record(
    fastlane: StandInFastlane,
) -> None:
    fastlane.break_after = 1
    written: list[str] = []
    async with asyncio.timeout(20), connected(fastlane.url) as client:
        end = await client.follow(f"{fastlane.url}/e/", lambda _, text: written.append(text))
    assert end == End("failed", 3, "exit-code")
    assert written == ["one\n", "two\n", "three\n"]
    assert [path for path, _, _ in fastlane.asked] == [
        "/e/ws/?format=json",
        *(f"/e/ws/?format=json&after={seq}" for seq in (1, 2, 3)),
    ]


async def test_logs_are_the_exact_bytes(
    fastlane: StandInFastlane,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    assert await run(monkeypatch, "logs", f"{fastlane.url}/e") == 0
    assert capsysbinary.readouterr().out == b"one\n\n-=-\n\xff"


async def test_the_password_is_for_its_server_only(
    fastlane: StandInFastlane,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    server = fastlane.url.replace("http://", "http://me:hunter2@")
    assert await run(monkeypatch, "status", "--server", server) == 0
    assert b'"count": 1' in capsysbinary.readouterr().out
    assert await run(monkeypatch, "logs", f"{fastlane.url}/e", "--server", "http://u:p@a:1") == 0
    (_, _, mine), (_, _, others) = fastlane.asked
    assert mine == "Basic " + base64.b64encode(b"me:hunter2").decode()
    assert others is None


async def test_a_refusal_is_told_fault_by_fault(
    fastlane: StandInFastlane, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fastlane.problem = web.json_response(
        {
            "title": "Bad Request",
            "detail": "The payload cannot be used.",
            "errors": [{"pointer": "/image", "message": "it is no image reference"}],
        },
        status=400,
    )
    submit = ("submit", "t", "--image", "!", "--command", "x", "--server", fastlane.url)
    assert await run(monkeypatch, *submit) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"fastlane: {fastlane.url}/tasks/t/ answers 400: The payload cannot be used.",
        "fastlane: /image: it is no image reference",
    ]


@pytest.mark.parametrize("body", ["no json", "[]", '{"errors": 1}', '{"errors": [{}]}'])
async def test_an_odd_refusal_is_told_too(fastlane: StandInFastlane, body: str) -> None:
    fastlane.problem = web.Response(text=body, status=500)
    async with connected(fastlane.url) as client:
        with pytest.raises(FastlaneError, match="answers 500"):
            await client.submit("t", {})


async def test_an_answer_of_something_else_is_told(fastlane: StandInFastlane) -> None:
    fastlane.problem = web.Response(text="<html>")
    async with connected(fastlane.url) as client:
        with pytest.raises(FastlaneError, match="does not answer as fastlane does"):
            await client.submit("t", {})


async def test_nothing_there(fastlane: StandInFastlane) -> None:
    async with connected(fastlane.url) as client:
        with pytest.raises(FastlaneError, match="answers 404: give the URL of a job"):
            await client.follow(f"{fastlane.url}/none", lambda *_: None)
    url = fastlane.url
    await fastlane.server.close()
    async with connected(url) as client:
        with pytest.raises(FastlaneError, match="cannot be reached"):
            await client.status()


@pytest.mark.parametrize("server", ["localhost:10000", "ftp://x", "http://", "", "http://[x"])
async def test_a_server_is_named_by_a_url(server: str) -> None:
    with pytest.raises(FastlaneError, match="is no URL: give one like"):
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(connected(server))


async def test_an_environment_variable_without_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    submit = ("submit", "t", "--image", "i", "--command", "c", "--env", "A")
    assert await run(monkeypatch, *submit) == 2
    assert "--env A has no value: give NAME=VALUE." in capsys.readouterr().err
