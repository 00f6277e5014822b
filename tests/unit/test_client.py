"""The client commands, against a stand-in that answers as the HTTP contract says."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from fastlane.cli import main
from fastlane.cli.old_client import State, connected, shown_url
from fastlane.errors import FastlaneError

Record = dict[str, Any]


def record(seq: int, text: str, stream: str = "stdout") -> Record:
    return {"seq": seq, "ts": "2026-01-01T00:00:00", "stream": stream, "text": text}


END: Record = {"end": True, "status": "failed", "exitCode": 3, "reason": "exit-code"}


def state(execution: str, **more: Any) -> Record:
    attempts = {"attempt": int(execution), "attempts": 2}
    return {"state": {"status": "running", "executionId": execution, **attempts, **more}}


class StandInFastlane:
    """Answers submissions and logs; breaks the log off after each *break_after* messages."""

    def __init__(self) -> None:
        self.records = [record(1, "one\n"), record(2, "two\n", "stderr"), record(3, "three\n"), END]
        self.retries: dict[str, list[Record]] = {}
        """What the job's later executions send, by their ids."""
        self.break_after = 100
        self.headers = {"Fastlane-Status": "done", "Fastlane-Reason": "exit-code"}
        self.asked: list[tuple[str, Any, str | None]] = []
        self.problem: web.Response | None = None
        self.open: asyncio.Event = asyncio.Event()
        """Set by a log that is longer than the test: nothing comes after its records."""
        app = web.Application()
        app.router.add_post("/tasks/{task}/", self.submit)
        app.router.add_get("/status/", self.status)
        app.router.add_get("/healthcheck/", self.healthcheck)
        app.router.add_get("/j/", self.details)
        app.router.add_get("/j/ws/", self.socket)
        app.router.add_get("/j/logs/", self.logs)
        app.router.add_get("/j/executions/{execution}/ws/", self.socket)
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
        url = f"{self.url}/j/executions/1"
        return web.json_response({"executionUrl": url, "jobUrl": f"{self.url}/j"})

    async def healthcheck(self, request: web.Request) -> web.Response:
        self.note(request)
        return self.problem or web.json_response({"errors": []})

    async def details(self, request: web.Request) -> web.Response:
        self.note(request)
        metadata = {"message": "Image x:1 is not there."}
        return web.json_response({"job": {"executions": [{"metadata": metadata}]}})

    async def status(self, request: web.Request) -> web.Response:
        self.note(request)
        return web.json_response({"tasks": {"count": 1}})

    async def logs(self, request: web.Request) -> web.Response:
        self.note(request)
        return web.Response(body=b"one\n\n-=-\n\xff", headers=self.headers)

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        self.note(request)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        after = int(request.query.get("after", "0"))
        records = self.retries.get(request.match_info.get("execution", ""), self.records)
        following = [found for found in records if found.get("seq", 1000) > after]
        for sent, found in enumerate(following):
            if sent == self.break_after:
                await socket.close(message=b"retry")
                return socket
            await socket.send_json(found)
        if END not in records:
            self.open.set()
            await socket.receive()
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
    assert capsys.readouterr().out == f"{fastlane.url}/j/executions/1\n"
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
    assert captured.err.endswith("fastlane: Failed with exit code 3.\n")


def with_a_retry(fastlane: StandInFastlane, **of_the_first: Any) -> None:
    """The job's first execution fails, and the second is done."""
    retry = {"executionId": "2", "attempt": 2, "dueAt": None}
    fastlane.records = [
        record(1, "one\n"),
        state("1", status="failed", retry=retry, **of_the_first),
        END,
    ]
    done = {"end": True, "status": "done", "exitCode": 0, "reason": "exit-code"}
    fastlane.retries["2"] = [state("2", retry=None), record(1, "again\n"), done]


@pytest.mark.parametrize("verb", ["submit", "logs"])
async def test_following_a_job_goes_through_its_retries(
    fastlane: StandInFastlane,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verb: str,
) -> None:
    with_a_retry(fastlane)
    arguments = ["submit", "t", "--image", "busy", "--command", "x"]
    arguments = arguments if verb == "submit" else ["logs", f"{fastlane.url}/j/"]
    assert await run(monkeypatch, *arguments, "-f", "--server", fastlane.url) == 0
    captured = capsys.readouterr()
    assert captured.out == "one\nagain\n"
    assert "[fastlane: Failed with exit code 3. Attempt 2 of 2 follows.]" in captured.err


async def test_following_an_execution_ends_with_it(
    fastlane: StandInFastlane, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_a_retry(fastlane, error="The disk is full.")
    assert await run(monkeypatch, "logs", f"{fastlane.url}/j/executions/1", "-f") == 3
    captured = capsys.readouterr()
    assert captured.out == "one\n"
    assert captured.err == "fastlane: Failed: The disk is full.\n"


async def test_a_retry_of_a_log_that_breaks_off_is_followed_too(fastlane: StandInFastlane) -> None:
    """What was told of the job's execution holds when the connection is resumed."""
    with_a_retry(fastlane)
    fastlane.records.insert(0, state("1", retry=None))
    fastlane.break_after = 3
    written: list[str] = []
    async with asyncio.timeout(20), connected(fastlane.url) as client:
        end = await client.follow(
            f"{fastlane.url}/j",
            lambda stream, text: written.append(text) if stream != "fastlane" else None,
        )
    assert end == State("done", 0, "exit-code")
    assert written == ["one\n", "again\n"]
    resumed = [path for path, _, _ in fastlane.asked if "executions/1" in path]
    assert resumed == ["/j/executions/1/ws/?format=json&state=true&after=1"]


async def test_a_job_that_will_not_run_is_not_waited_for(
    fastlane: StandInFastlane, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fastlane.records = [{"state": {"status": "idle", "executionId": None}}]
    assert await run(monkeypatch, "logs", "-f", f"{fastlane.url}/j") == 1
    assert "has not run and is not scheduled" in capsys.readouterr().err


async def test_a_log_of_what_never_ran_says_why(
    fastlane: StandInFastlane,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    fastlane.headers = {"Fastlane-Status": "failed", "Fastlane-Reason": "pull-failed"}
    assert await run(monkeypatch, "logs", f"{fastlane.url}/j") == 0
    assert capsysbinary.readouterr().err == b"fastlane: Failed: Image x:1 is not there.\n"
    fastlane.headers = {"Fastlane-Status": "enqueued"}
    assert await run(monkeypatch, "logs", f"{fastlane.url}/j") == 0
    assert b"No output yet: the status is enqueued." in capsysbinary.readouterr().err


async def follow_in_a_process(fastlane: StandInFastlane) -> asyncio.subprocess.Process:
    """``fastlane logs -f`` of a log that is open, once it shows the first line."""
    fastlane.records = fastlane.records[:1]
    program = [sys.executable, "-m", "fastlane", "logs", "-f", f"{fastlane.url}/j"]
    pipe = asyncio.subprocess.PIPE
    # A transport would close the whole pipe only with the process.
    ends = os.pipe()
    process = await asyncio.create_subprocess_exec(*program, stdout=ends[1], stderr=pipe)
    os.close(ends[1])
    try:
        await asyncio.wait_for(fastlane.open.wait(), 20)
        assert await asyncio.to_thread(os.read, ends[0], 100) == b"one\n"
    finally:
        os.close(ends[0])
    return process


async def test_following_ends_with_its_reader(fastlane: StandInFastlane) -> None:
    """``| head -1``: it does not wait for a line that it could not write."""
    process = await follow_in_a_process(fastlane)
    _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == -signal.SIGPIPE
    assert errors == b""


async def test_ctrl_c_says_that_the_job_continues(fastlane: StandInFastlane) -> None:
    fastlane.records = fastlane.records[:1]
    program = [sys.executable, "-m", "fastlane", "logs", "-f", f"{fastlane.url}/j"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*program, stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 20) == b"one\n"
    process.send_signal(signal.SIGINT)
    _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 130
    assert errors.decode() == (
        "fastlane: Interrupted. The job continues; to stop it: "
        f"curl -X POST {fastlane.url}/j/stop/\n"
    )


async def test_a_log_that_breaks_off_is_resumed_after_the_last_record(
    fastlane: StandInFastlane,
) -> None:
    fastlane.break_after = 1
    written: list[str] = []
    async with asyncio.timeout(20), connected(fastlane.url) as client:
        end = await client.follow(f"{fastlane.url}/j/", lambda _, text: written.append(text))
    assert end == State("failed", 3, "exit-code")
    assert written == ["one\n", "two\n", "three\n"]
    assert [path for path, _, _ in fastlane.asked] == [
        "/j/ws/?format=json&state=true",
        *(f"/j/ws/?format=json&state=true&after={seq}" for seq in (1, 2, 3)),
    ]


async def test_logs_are_the_exact_bytes(
    fastlane: StandInFastlane,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    assert await run(monkeypatch, "logs", f"{fastlane.url}/j") == 0
    assert capsysbinary.readouterr().out == b"one\n\n-=-\n\xff"


async def test_the_password_is_for_its_server_only(
    fastlane: StandInFastlane,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    server = fastlane.url.replace("http://", "http://me:hunter2@")
    assert await run(monkeypatch, "status", "--server", server) == 0
    assert b'"count": 1' in capsysbinary.readouterr().out
    assert await run(monkeypatch, "logs", f"{fastlane.url}/j", "--server", "http://u:p@a:1") == 0
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
            "errors": [{"pointer": "/image", "message": "image: it is not an image reference."}],
        },
        status=400,
    )
    submit = ("submit", "t", "--image", "!", "--command", "x", "--server", fastlane.url)
    assert await run(monkeypatch, *submit) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"fastlane: {fastlane.url}/tasks/t/ answers 400: The payload cannot be used.",
        "fastlane: image: it is not an image reference.",
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
        with pytest.raises(FastlaneError, match="does not answer like fastlane"):
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
    with pytest.raises(FastlaneError, match="is not a URL: give one like"):
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(connected(server))


async def test_an_environment_variable_without_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    submit = ("submit", "t", "--image", "i", "--command", "c", "--env", "A")
    assert await run(monkeypatch, *submit) == 2
    assert '--env is "A": give NAME=VALUE.' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://me:hunter2@host:1/a@b", "http://host:1/a@b"),
        ("htp://me:hunter2@host:1", "htp://***@host:1"),
        ("http://me:hunter/2@host:x", "http://***@host:x"),
        ("me:hunter2@host:1", "***@host:1"),
        ("http://me:hunter2@", "http://***@"),
        ("http://host/x", "http://host/x"),
    ],
)
async def test_no_message_shows_a_password(url: str, shown: str) -> None:
    assert shown_url(url) == shown

    async def read() -> None:
        async with connected(url) as client:
            await client.logs(url, lambda _: None)

    with pytest.raises(FastlaneError) as failed:
        await read()
    assert "hunter" not in str(failed.value)


async def test_credentials_of_a_url_are_for_that_url(fastlane: StandInFastlane) -> None:
    url = fastlane.url.replace("http://", "http://me:hunter2@")
    async with connected(fastlane.url.replace("http://", "http://other:x@")) as client:
        await client.logs(f"{url}/j", lambda _: None)
    ((_, _, sent),) = fastlane.asked
    assert sent == "Basic " + base64.b64encode(b"me:hunter2").decode()


async def test_a_healthcheck_asks_the_server(
    fastlane: StandInFastlane, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BASIC_AUTH_USER", "me")
    monkeypatch.setenv("BASIC_AUTH_PASSWORD", "hunter/2@")
    where = ("--host", "0.0.0.0", "--port", str(fastlane.server.port))
    assert await run(monkeypatch, "healthcheck", *where) == 0
    ((_, _, sent),) = fastlane.asked
    assert sent == "Basic " + base64.b64encode(b"me:hunter/2@").decode()
    errors = [{"source": "mongo", "message": "MongoDB is unreachable."}]
    fastlane.problem = web.json_response({"errors": errors}, status=503)
    assert await run(monkeypatch, "healthcheck", *where) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"fastlane: http://127.0.0.1:{fastlane.server.port}/healthcheck/ answers 503.",
        "fastlane: mongo: MongoDB is unreachable.",
    ]
    assert await run(monkeypatch, "healthcheck", "--port", "x") == 1
