"""Calls on an engine that fails, and answers that were lost on the way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from fastlane.errors import ExecutorError, HostUnavailable, PullFailed, RunVanished, StartFailed
from fastlane.executors.base import Executor, Phase, RunSpec
from fastlane.executors.docker import engine as engine_module
from fastlane.executors.docker import engines as engines_module
from fastlane.executors.docker import executor as executor_module
from fastlane.executors.docker.engine import negotiate
from fastlane.image import ImageReference
from scripts import engine as setup
from tests.executors.engines import (
    EXECUTION_ID,
    PATIENCE_SECONDS,
    RUN_ID,
    SPEC,
    Answering,
    CuttingProxy,
    FakeEngine,
    opened,
    output,
    read_all,
    reset,
)
from tests.services import free_port

pytestmark = pytest.mark.timeout(90)


async def every_call(executor: Executor, host: str) -> dict[str, BaseException | None]:
    """What each of the executor's calls raises."""

    async def drain() -> None:
        await read_all(executor, host, RUN_ID)

    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "check": lambda: executor.check(host),
        "pull": lambda: executor.pull(host, SPEC, lambda _: None),
        "create": lambda: executor.create(host, SPEC),
        "find": lambda: executor.find(host, EXECUTION_ID),
        "start": lambda: executor.start(host, RUN_ID),
        "inspect": lambda: executor.inspect(host, RUN_ID),
        "wait": lambda: executor.wait(host, RUN_ID),
        "logs": drain,
        "stop": lambda: executor.stop(host, RUN_ID, grace_seconds=0),
        "remove": lambda: executor.remove(host, RUN_ID),
        "runs": lambda: executor.runs(host),
    }
    found: dict[str, BaseException | None] = {}
    for name, call in calls.items():
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await call()
        except Exception as error:
            found[name] = error
        else:
            found[name] = None
    return found


def assert_unavailable(found: dict[str, BaseException | None], host: str) -> None:
    wrong = {name: error for name, error in found.items() if not isinstance(error, HostUnavailable)}
    assert wrong == {}
    for error in found.values():
        assert isinstance(error, HostUnavailable)
        assert error.host == host
        assert str(error).startswith(f"host {host}: ")


# -- the host's own failures -------------------------------------------------------------------


async def test_refused_connections_are_the_hosts_failure() -> None:
    host = f"tcp://127.0.0.1:{free_port()}"
    async with opened() as executor:
        assert_unavailable(await every_call(executor, host), host)


async def test_a_socket_that_is_not_there_is_the_hosts_failure(tmp_path: Path) -> None:
    host = f"unix://{tmp_path}/none"
    async with opened() as executor:
        assert_unavailable(await every_call(executor, host), host)


@pytest.mark.parametrize("host", ["tcp://no-such-host.invalid:2375", "no-such-host.invalid"])
async def test_a_name_that_does_not_resolve_is_the_hosts_failure(host: str) -> None:
    async with opened() as executor:
        assert_unavailable(await every_call(executor, host), host)


@pytest.mark.parametrize("host", ["tcp://[::1", "tcp://host:port", "ssh://host"])
async def test_an_address_that_is_none_is_the_hosts_failure(host: str) -> None:
    async with opened() as executor:
        assert_unavailable(await every_call(executor, host), host)


class Resetting(FakeEngine):
    """Breaks every connection without an answer."""

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        return reset(request)


class ResettingAfterVersion(FakeEngine):
    """Breaks every connection, once it has told its version."""

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        return await super()._answer(request) if "version" in request.path else reset(request)


class BreakingOff(FakeEngine):
    """Announces more than it sends."""

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"half": ')
        return reset(request)


GARBAGE = [b"<html>", b"[1", b"[]", b"{}", b'"text"', b"null", b"17", b"[17]", b"\xff\xfe", b""]


@pytest.mark.parametrize("engine", [Resetting(), ResettingAfterVersion(), BreakingOff()])
async def test_broken_connections_are_the_hosts_failure(engine: FakeEngine) -> None:
    async with engine, opened() as executor:
        found = await every_call(executor, engine.url)
        assert_unavailable(found, engine.url)


@pytest.mark.parametrize("kind", ["application/json", "text/html"])
@pytest.mark.parametrize("body", GARBAGE)
async def test_a_version_that_cannot_be_read_is_the_hosts_failure(kind: str, body: bytes) -> None:
    async with Answering(200, kind, body, version=False) as engine, opened() as executor:
        assert_unavailable(await every_call(executor, engine.url), engine.url)


@pytest.mark.parametrize("body", GARBAGE)
async def test_answers_that_cannot_be_read_raise_nothing_else(body: bytes) -> None:
    async with Answering(200, "application/json", body) as engine, opened() as executor:
        found = await every_call(executor, engine.url)
    wrong = {
        name: error
        for name, error in found.items()
        if error is not None and not isinstance(error, ExecutorError)
    }
    assert wrong == {}
    for name in ("create", "start", "inspect", "wait", "logs", "stop"):
        assert isinstance(found[name], HostUnavailable), name


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize(
    "body", [b'{"message": "out of order"}', b"{}", b"[]", b"<html>out of order", b"\xff", b"null"]
)
async def test_the_engines_5xx_is_the_hosts_failure(status: int, body: bytes) -> None:
    async with Answering(status, "application/json", body) as engine, opened() as executor:
        found = await every_call(executor, engine.url)
        # The engine answers so for a registry, too, but it was asked for the image first.
        assert_unavailable(found, engine.url)
        if b"message" in body:
            assert f"the engine answered {status}: out of order" in str(found["inspect"])


class Hanging(FakeEngine):
    """Takes connections and never answers."""

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        await self.over.wait()
        return web.Response()


async def test_many_calls_on_a_hanging_host_end_when_one_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines_module, "CONNECT_SECONDS", 0.5)
    async with Hanging() as engine, opened() as executor:
        async with asyncio.timeout(5):
            found = await asyncio.gather(
                *(executor.check(engine.url) for _ in range(50)), return_exceptions=True
            )
        assert {type(each) for each in found} == {HostUnavailable}


async def test_an_answer_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(FakeEngine):
        """Answers with more and more."""

        async def on_json(self, request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            while not self.over.is_set():
                await response.write(b"[" * 65536)
            return response

        on_details = on_list = on_json

    monkeypatch.setattr(engine_module, "ANSWER_BYTES", 10**6)
    async with Endless() as engine, opened() as executor:
        for call in (executor.runs(engine.url), executor.inspect(engine.url, RUN_ID)):
            with pytest.raises(HostUnavailable, match="an answer without end"):
                await call


async def test_one_hosts_failure_is_not_anothers() -> None:
    async with Hanging() as hanging, FakeEngine() as engine, opened() as executor:
        stuck = asyncio.ensure_future(executor.check(hanging.url))
        async with asyncio.timeout(5):
            await executor.check(engine.url)
        assert not stuck.done()
        stuck.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stuck


# -- versions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "minimum", "spoken"),
    [
        ("1.41", "1.12", "v1.41"),
        ("1.47", "1.24", "v1.47"),
        ("1.52", "1.44", "v1.47"),
        ("1.60", "1.50", "v1.50"),
        ("2.0", "1.44", "v1.47"),
        ("1.9", None, "v1.9"),
    ],
)
def test_the_smaller_of_tested_and_offered_is_spoken(
    offered: str, minimum: str | None, spoken: str
) -> None:
    assert negotiate(offered, minimum) == spoken


async def test_the_negotiated_version_is_in_every_path() -> None:
    async with FakeEngine(offered="1.52", minimum="1.44") as engine, opened() as executor:
        await asyncio.gather(*(executor.inspect(engine.url, RUN_ID) for _ in range(5)))
        assert engine.asked.count("GET /version") == 1
        assert engine.count("GET /v1.47/containers/") == 5


async def test_an_engine_that_comes_back_older_is_asked_again() -> None:
    async with FakeEngine(offered="1.47") as engine, opened() as executor:
        await executor.inspect(engine.url, RUN_ID)
        await engine.hang_up()
        with pytest.raises(HostUnavailable):
            await executor.inspect(engine.url, RUN_ID)
        engine.offered = "1.41"
        await engine.listen()
        await executor.inspect(engine.url, RUN_ID)
        assert engine.asked[-1] == f"GET /v1.41/containers/{RUN_ID}/json"


# -- connections -------------------------------------------------------------------------------


async def test_a_hundred_followed_logs_and_waits_do_not_block_a_stop() -> None:
    async with FakeEngine() as engine, opened() as executor:
        ended = asyncio.Event()

        async def follow() -> None:
            async for _ in executor.logs(engine.url, RUN_ID, bookmark="", ended=ended):
                pass

        async with asyncio.TaskGroup() as group:
            for _ in range(120):
                group.create_task(follow())
            waits = [group.create_task(executor.wait(engine.url, RUN_ID)) for _ in range(120)]
            await engine.wait_until(lambda: engine.count("follow=1") >= 120)
            await engine.wait_until(lambda: engine.count("/wait") >= 120)
            async with asyncio.timeout(10):
                await executor.stop(engine.url, RUN_ID, grace_seconds=1)
            engine.over.set()
            ended.set()
        assert {wait.result().exit_code for wait in waits} == {3}


class HalfOpenWait(FakeEngine):
    """Never answers a wait, also when the container has long ended."""

    async def on_wait(self, request: web.Request) -> web.StreamResponse:
        await self.over.wait()
        return web.Response()


async def test_a_wait_on_a_half_open_connection_looks_for_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(executor_module, "WAIT_SECONDS", 0.2)
    async with HalfOpenWait() as engine, opened() as executor:
        waiting = asyncio.ensure_future(executor.wait(engine.url, RUN_ID))
        await engine.wait_until(lambda: engine.count("/wait") >= 3)
        assert not waiting.done()
        engine.status = "exited"
        async with asyncio.timeout(5):
            assert (await waiting).exit_code == 3


class HastyWait(FakeEngine):
    """Answers every wait at once, whatever the container does."""

    async def on_wait(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"StatusCode": 0})


@pytest.mark.parametrize("status", ["created", "running", "paused"])
async def test_a_wait_that_is_answered_at_once_is_not_asked_again_and_again(status: str) -> None:
    async with HastyWait(status=status) as engine, opened() as executor:
        waiting = asyncio.ensure_future(executor.wait(engine.url, RUN_ID))
        await engine.wait_until(lambda: engine.count("/wait") == 1)
        began = asyncio.get_running_loop().time()
        await engine.wait_until(lambda: engine.count("/wait") == 4)
        # The pauses between are 0.1, 0.2 and 0.4 s.
        assert asyncio.get_running_loop().time() - began > 0.6
        engine.status = "exited"
        assert (await waiting).exit_code == 3


class EarlyWait(FakeEngine):
    """Answers a wait at once, though the container runs."""

    async def on_wait(self, request: web.Request) -> web.StreamResponse:
        if self.count("/wait") >= 3:
            self.status = "exited"
        return web.json_response({"StatusCode": 0})


async def test_the_state_counts_and_not_the_answer_of_a_wait() -> None:
    async with EarlyWait() as engine, opened() as executor:
        assert (await executor.wait(engine.url, RUN_ID)).exit_code == 3
        assert engine.count("/wait") >= 3


# -- lost answers ------------------------------------------------------------------------------


def spec_of(image: str, *argv: str) -> RunSpec:
    return RunSpec(str(uuid.uuid4()), "task", "job", ImageReference.parse(image), argv)


@contextlib.asynccontextmanager
async def removed(host: str, spec: RunSpec) -> AsyncIterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(setup.EngineError):
            path = f"/containers/fastlane-{spec.execution_id}?force=1"
            await asyncio.to_thread(setup.Engine(host).call, "DELETE", path)


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize(
    "script", ["echo ran; trap 'exit 7' TERM; sleep 600 & wait $!", "echo ran; exit 7"]
)
async def test_a_start_whose_answer_was_lost_runs_the_command_once(
    docker_host: str, docker_image: str, answered: bool, script: str
) -> None:
    spec = spec_of(docker_image, "sh", "-c", script)
    cut = r"POST /v[0-9.]+/containers/[0-9a-f]+/start"
    async with (
        removed(docker_host, spec),
        CuttingProxy(docker_host, cut, answered=answered) as proxy,
        opened() as executor,
    ):
        run_id = await executor.create(proxy.url, spec)
        with pytest.raises(HostUnavailable):
            await executor.start(proxy.url, run_id)
        assert proxy.cuts == 1
        if answered and "trap" not in script:
            # Ended before it is started again.
            assert (await executor.wait(docker_host, run_id)).exit_code == 7
        before = await executor.find(proxy.url, spec.execution_id)
        assert before is not None
        await executor.start(proxy.url, run_id)
        await executor.start(docker_host, run_id)
        await executor.stop(docker_host, run_id, grace_seconds=20)
        assert (await executor.wait(proxy.url, run_id)).exit_code == 7
        assert output(await read_all(executor, docker_host, run_id)) == b"ran\n"


async def test_a_create_whose_answer_was_lost_is_adopted_by_name(
    docker_host: str, docker_image: str
) -> None:
    spec = spec_of(docker_image, "true")
    async with (
        removed(docker_host, spec),
        CuttingProxy(docker_host, r"POST /v[0-9.]+/containers/create") as proxy,
        opened() as executor,
    ):
        with pytest.raises(HostUnavailable):
            await executor.create(proxy.url, spec)
        found = await executor.find(proxy.url, spec.execution_id)
        assert found is not None
        assert found.phase is Phase.CREATED
        assert await executor.create(proxy.url, spec) == found.run_id


async def test_a_stop_whose_answer_was_lost_has_stopped_it(
    docker_host: str, docker_image: str
) -> None:
    spec = spec_of(docker_image, "sleep", "600")
    async with (
        removed(docker_host, spec),
        CuttingProxy(docker_host, r"POST /v[0-9.]+/containers/[0-9a-f]+/stop") as proxy,
        opened() as executor,
    ):
        run_id = await executor.create(proxy.url, spec)
        await executor.start(proxy.url, run_id)
        with pytest.raises(HostUnavailable):
            await executor.stop(proxy.url, run_id, grace_seconds=20)
        await executor.stop(proxy.url, run_id, grace_seconds=20)
        assert (await executor.inspect(proxy.url, run_id)).exit_code == 143


# -- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [{}, {"fastlane.installation": "another"}])
async def test_a_foreign_container_with_our_name_is_left_alone(
    docker_host: str, docker_image: str, labels: dict[str, str]
) -> None:
    spec = spec_of(docker_image, "true")
    engine = setup.Engine(docker_host)
    body = json.dumps({"Image": docker_image, "Cmd": ["true"], "Labels": labels}).encode()
    path = f"/containers/create?name=fastlane-{spec.execution_id}"
    async with removed(docker_host, spec), opened() as executor:
        made = json.loads(await asyncio.to_thread(engine.call, "POST", path, body))
        with pytest.raises(
            StartFailed, match=r"Another container on host .* has the name of this run"
        ):
            await executor.create(docker_host, spec)
        assert await executor.find(docker_host, spec.execution_id) is None
        state = await executor.inspect(docker_host, made["Id"])
        assert state.phase is Phase.CREATED


@pytest.mark.parametrize("status", ["removing", "dead"])
async def test_a_name_is_waited_for_while_its_container_is_removed(status: str) -> None:
    class Removing(FakeEngine):
        """Says that the name is taken, by a container that is on its way out, and then gone."""

        async def on_create(self, request: web.Request) -> web.StreamResponse:
            if self.count("/create") >= 4:
                return await super().on_create(request)
            message = f'Conflict. The container name "/x" is already in use by "{RUN_ID}".'
            return web.json_response({"message": message}, status=409)

        async def on_details(self, request: web.Request) -> web.StreamResponse:
            if self.count("/create") >= 3:
                return web.json_response({"message": "No such container"}, status=404)
            return await super().on_details(request)

    async with Removing(status=status) as engine, opened() as executor:
        assert await executor.find(engine.url, EXECUTION_ID) is None
        assert await executor.create(engine.url, SPEC) == RUN_ID


async def test_a_name_that_is_never_given_up_is_the_hosts_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Stuck(FakeEngine):
        """Never finishes a removal."""

        async def on_create(self, request: web.Request) -> web.StreamResponse:
            return web.json_response({"message": "Conflict. The name is in use"}, status=409)

    monkeypatch.setattr(executor_module, "NAME_TAKEN_SECONDS", 0.5)
    async with Stuck(status="removing") as engine, opened() as executor:
        with pytest.raises(HostUnavailable, match="an old container remains"):
            await executor.create(engine.url, SPEC)


async def test_a_removal_that_is_under_way_is_a_removal() -> None:
    class AlreadyRemoving(FakeEngine):
        """Says 409 of every call on a container that somebody removes."""

        async def _answer(self, request: web.Request) -> web.StreamResponse:
            if "/containers/" not in request.path or request.path.endswith("/json"):
                return await super()._answer(request)
            message = f"removal of container {RUN_ID} is already in progress"
            return web.json_response({"message": message}, status=409)

    async with AlreadyRemoving(status="removing") as engine, opened() as executor:
        await executor.remove(engine.url, RUN_ID)
        await executor.stop(engine.url, RUN_ID, grace_seconds=0)
        for call in (executor.start, executor.wait, executor.inspect):
            with pytest.raises(RunVanished):
                await call(engine.url, RUN_ID)
        with pytest.raises(RunVanished):
            await read_all(executor, engine.url, RUN_ID)


async def test_what_runs_is_not_taken_for_removed() -> None:
    class Refusing(FakeEngine):
        """Refuses to remove what runs, with the same status as for a removal under way."""

        async def on_remove(self, request: web.Request) -> web.StreamResponse:
            message = (
                f"You cannot remove a running container {RUN_ID}. "
                "Stop the container before attempting removal or force remove"
            )
            return web.json_response({"message": message}, status=409)

    async with Refusing() as engine, opened() as executor:
        with pytest.raises(HostUnavailable, match="cannot remove a running container"):
            await executor.remove(engine.url, RUN_ID)


async def test_a_container_of_which_the_image_is_gone_is_pulled_for_again() -> None:
    class WithoutImage(FakeEngine):
        """Has lost the image between pull and create."""

        async def on_create(self, request: web.Request) -> web.StreamResponse:
            return web.json_response({"message": "No such image: tool:1"}, status=404)

    async with WithoutImage() as engine, opened() as executor:
        with pytest.raises(PullFailed, match="tool:1 is not on host"):
            await executor.create(engine.url, SPEC)


# -- how long a run has been running ------------------------------------------------------------


class ClockSet(FakeEngine):
    """Its wall clock was set forward by an hour; *ages* are what ``ps`` says, if there is one."""

    def __init__(self, ages: list[list[str]] | None) -> None:
        super().__init__()
        self.status = "running"
        self._ages = ages

    def details(self) -> dict[str, Any]:
        """See :meth:`FakeEngine.details`."""
        details = super().details()
        details["State"]["StartedAt"] = "2026-01-01T12:00:00.123456789Z"
        return details

    async def on_top(self, request: web.Request) -> web.StreamResponse:
        if self._ages is None:
            return web.json_response({"message": "ps: unrecognized option"}, status=500)
        return web.json_response({"Titles": ["PID", "ELAPSED"], "Processes": self._ages})

    async def on_info(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"SystemTime": "2026-01-01T13:00:05.123456789Z"})


@pytest.mark.parametrize(
    ("ages", "seconds"), [([["17", "5"], ["23", "2"]], 4.0), (None, 3605.0)], ids=["ps", "no-ps"]
)
async def test_the_age_of_a_run_is_its_hosts(ages: list[list[str]] | None, seconds: float) -> None:
    """By a clock that nobody sets, where the host has a ``ps`` that knows it."""
    async with ClockSet(ages) as engine, opened() as executor:
        assert await executor.ran_seconds(engine.url, RUN_ID) == pytest.approx(seconds)


# -- ends that the state does not tell --------------------------------------------------------


class PrunedAfterItsEnd(FakeEngine):
    """Somebody removes the container the moment it has ended with *code*."""

    def __init__(self, code: int, *, begun: bool = True) -> None:
        super().__init__()
        self.status = "running" if begun else "created"
        self._code = code
        self._removed = False

    async def on_wait(self, request: web.Request) -> web.StreamResponse:
        self._removed = True
        return web.json_response({"StatusCode": self._code, "Error": None})

    async def on_details(self, request: web.Request) -> web.StreamResponse:
        if self._removed:
            return web.json_response({"message": "No such container"}, status=404)
        return await super().on_details(request)


@pytest.mark.parametrize("code", [0, 3, 143])
async def test_a_run_that_is_removed_right_after_its_end_has_its_exit_code(code: int) -> None:
    async with PrunedAfterItsEnd(code) as engine, opened() as executor:
        await executor.inspect(engine.url, RUN_ID)
        end = await executor.wait(engine.url, RUN_ID)
        assert (end.phase, end.exit_code) == (Phase.ENDED, code)
        assert await executor.is_last(engine.url, end)


@pytest.mark.parametrize(
    ("code", "begun"), [(137, True), (0, False)], ids=["removed-by-force", "never-started"]
)
async def test_a_wait_whose_answer_does_not_tell_the_end(code: int, begun: bool) -> None:
    """A removal by force kills first, and the wait for what never ran says 0."""
    async with PrunedAfterItsEnd(code, begun=begun) as engine, opened() as executor:
        await executor.inspect(engine.url, RUN_ID)
        with pytest.raises(RunVanished):
            await executor.wait(engine.url, RUN_ID)


class EndedWith255(FakeEngine):
    """Has a container that ended with 255, and *events*."""

    def __init__(self, events: list[dict[str, Any]]) -> None:
        super().__init__()
        self.status = "exited"
        self._events = events

    def details(self) -> dict[str, Any]:
        """See :meth:`FakeEngine.details`."""
        details = super().details()
        details["State"] |= {"ExitCode": 255, "FinishedAt": "2026-01-01T12:00:00Z"}
        return details

    async def on_info(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"SystemTime": "2026-01-01T13:00:05.123456789Z"})

    async def on_events(self, request: web.Request) -> web.StreamResponse:
        float(request.query["until"])
        return await self.events(request, *self._events)


def event(action: str, at: float, container: str = RUN_ID) -> dict[str, Any]:
    return {"Action": action, "Actor": {"ID": container}, "time": at}


NOON = 1767268800


@pytest.mark.parametrize(
    ("events", "seen"),
    [
        ([event("start", NOON - 9), event("die", NOON)], True),
        ([event("died", NOON)], True),
        ([], False),
        ([event("die", NOON, "another")], False),
        ([event("start", NOON - 1)] * 256, False),
        ([event("start", NOON + 1)] * 256, True),
    ],
    ids=["seen", "podman", "restarted", "another", "none-of-many", "forgotten"],
)
async def test_an_end_that_the_engine_did_not_see_is_none_of_the_commands(
    events: list[dict[str, Any]], seen: bool
) -> None:
    async with EndedWith255(events) as engine, opened() as executor:
        if seen:
            assert (await executor.wait(engine.url, RUN_ID)).exit_code == 255
        else:
            with pytest.raises(RunVanished, match="nobody saw it end"):
                await executor.wait(engine.url, RUN_ID)
