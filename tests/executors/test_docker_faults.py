"""What is left when an engine is killed, a log damaged, a login refused, or all is closed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from fastlane.errors import HostUnavailable, PullFailed
from fastlane.executors.base import LogBatch, Phase
from fastlane.executors.docker import engine as engine_module
from fastlane.executors.docker import executor as executor_module
from fastlane.executors.docker import logs as logs_module
from fastlane.executors.docker.credentials import RegistryCredentials
from fastlane.executors.docker.farms import DockerOptions
from fastlane.image import ImageReference
from fastlane.model import Stream
from tests.engine import EngineServer, RegistryServer
from tests.executors.conftest import Docker
from tests.executors.engines import (
    PATIENCE_SECONDS,
    RUN_ID,
    SPEC,
    DamagedLog,
    FakeEngine,
    frame,
    opened,
    output,
    read_all,
)
from tests.services import missing

pytestmark = pytest.mark.timeout(120)

WORDS = b"Error grabbing logs: unexpected EOF\n"


def system(words: bytes) -> bytes:
    """The engine's own words in the stream of a log."""
    return b"\x03\0\0\0\0\0\0" + bytes([len(words)]) + words


# -- logs --------------------------------------------------------------------------------------


async def test_the_engines_complaint_of_a_damaged_log_is_passed_on_once() -> None:
    async with DamagedLog(log=[frame(1, b"a\n"), system(WORDS)]) as engine, opened() as executor:
        reading = asyncio.ensure_future(read_all(executor, engine.url, RUN_ID, ended=False))
        await engine.wait_until(lambda: engine.count("follow=1") >= 3)
        engine.log.append(frame(2, b"b\n"))
        engine.status = "exited"
        batches = await reading
    assert output(batches, Stream.STDOUT) == b"a\nb\n"
    assert output(batches, Stream.FASTLANE).count(WORDS.strip()) == 1


async def test_a_damaged_log_is_not_read_again_and_again_without_a_pause() -> None:
    async with DamagedLog(log=[frame(1, b"a\n"), system(WORDS)]) as engine, opened() as executor:
        reading = asyncio.ensure_future(read_all(executor, engine.url, RUN_ID, ended=False))
        await engine.wait_until(lambda: engine.count("follow=1") >= 3)
        began = asyncio.get_running_loop().time()
        await engine.wait_until(lambda: engine.count("follow=1") >= 6)
        # Each pause is twice the one before.
        assert asyncio.get_running_loop().time() - began > 0.8
        engine.status = "exited"
        await reading


async def test_a_log_may_be_silent_for_longer_than_any_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Silent(FakeEngine):
        """Has a container that says nothing for a long time, and then one line."""

        def __init__(self) -> None:
            super().__init__()
            self.speak = asyncio.Event()

        async def on_logs(self, request: web.Request) -> web.StreamResponse:
            if request.query.get("follow") != "1":
                return await super().on_logs(request)
            response = web.StreamResponse()
            await response.prepare(request)
            await self.speak.wait()
            await response.write(self.log[0])
            await self.over.wait()
            return response

    for module, name in [
        (engine_module, "CALL_SECONDS"),
        (engine_module, "SLOW_CALL_SECONDS"),
        (engine_module, "CONNECT_SECONDS"),
        (executor_module, "WAIT_SECONDS"),
        (logs_module, "READ_SILENCE_SECONDS"),
    ]:
        monkeypatch.setattr(module, name, 0.2)
    async with Silent() as engine, opened() as executor:
        ended = asyncio.Event()
        logs = executor.logs(engine.url, RUN_ID, bookmark="", ended=ended)
        reading = asyncio.ensure_future(anext(logs))
        waiting = asyncio.ensure_future(executor.wait(engine.url, RUN_ID))
        # Five of any of the bounds above.
        await engine.wait_until(lambda: engine.count("/wait") >= 5)
        assert not reading.done()
        assert engine.count("follow=1") == 1
        engine.log.append(frame(1, b"at last\n"))
        engine.speak.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert output([await reading]) == b"at last\n"
            engine.status = "exited"
            assert (await waiting).exit_code == 3
            ended.set()
            assert [batch async for batch in logs] == []


# -- an engine that is killed ------------------------------------------------------------------


async def collect(logs: AsyncIterator[LogBatch], batches: list[LogBatch]) -> None:
    """Add all that comes before an error."""
    async for batch in logs:
        batches.append(batch)  # noqa: PERF401


async def test_containers_of_a_killed_engine_are_found_with_their_log(tmp_path: Path) -> None:
    with EngineServer(tmp_path / "engine") as server:
        docker = Docker(server.url, server.image())
        spec = docker.spec("sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done")
        run_id = await docker.executor.create(docker.host, spec)
        created = await docker.executor.create(docker.host, docker.spec("echo", "later"))
        await docker.executor.start(docker.host, run_id)
        read = await docker.read_until(run_id, b"\n20\n")
        waiting = asyncio.ensure_future(docker.executor.wait(docker.host, run_id))
        logs = docker.executor.logs(
            docker.host, run_id, bookmark=read[-1].bookmark, ended=asyncio.Event()
        )
        async with contextlib.aclosing(logs), asyncio.timeout(PATIENCE_SECONDS):
            read.append(await anext(logs))
            await asyncio.to_thread(server.kill)
            with pytest.raises(HostUnavailable):
                await collect(logs, read)
            with pytest.raises(HostUnavailable):
                await waiting
        await asyncio.to_thread(server.start)

        # An engine without live-restore ends what it finds alive.
        state = await docker.wait(run_id)
        assert state.phase is Phase.ENDED
        assert state.exit_code not in (0, None)
        found = await docker.executor.find(docker.host, spec.execution_id)
        assert found == state
        assert {run.run_id for run in await docker.executor.runs(docker.host)} == {run_id, created}
        read += await docker.log(run_id, read[-1].bookmark)
        # What the command wrote while there was no engine is gone with it, nothing else.
        lines = output(read, Stream.STDOUT).split()
        assert lines == [b"%d" % number for number in range(1, len(lines) + 1)]
        await docker.executor.start(docker.host, run_id)
        assert (await docker.executor.inspect(docker.host, run_id)).phase is Phase.ENDED
        await docker.executor.start(docker.host, created)
        assert (await docker.wait(created)).exit_code == 0
        assert output(await docker.log(created)) == b"later\n"
        await docker.clear()


# -- pulls -------------------------------------------------------------------------------------


class AskingForALogin(RegistryServer):
    """Refuses everybody who shows no credentials."""

    def command(self) -> list[str]:
        """See :meth:`Server.command`."""
        command = super().command()
        path = Path(command[-1])
        config = json.loads(path.read_text(encoding="utf-8"))
        users = self.directory / "users"
        users.touch()
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(users)}}
        path.write_text(json.dumps(config), encoding="utf-8")
        return command

    def ping(self) -> bool:
        """See :meth:`Server.ping`."""
        return self.ask(b"GET /v2/ HTTP/1.0\r\n\r\n", lambda answer: b" 401 " in answer)


async def test_a_registry_that_asks_for_a_login(docker: Docker, tmp_path: Path) -> None:
    if shutil.which("docker-registry") is None:
        missing("docker-registry", "not on the path")
    with AskingForALogin(tmp_path / "registry") as private:
        farm = DockerOptions(registries_allowed=(private.url,))
        image = ImageReference.parse(f"{private.url}/team/tool:1")
        spec = replace(docker.spec("true"), image=image, options=farm)
        with pytest.raises(PullFailed, match=r"team/tool:1 could not be pulled \(access denied"):
            await docker.executor.pull(docker.host, spec, lambda _: None)


async def test_a_refused_login_reads_as_such() -> None:
    class Denying(FakeEngine):
        """Answers a pull as an engine does whose login the registry refuses."""

        async def on_pull(self, request: web.Request) -> web.StreamResponse:
            message = (
                "pull access denied for tool, repository does not exist "
                "or may require 'docker login': denied"
            )
            return web.json_response({"message": message}, status=404)

    async with Denying() as engine, opened() as executor:
        with pytest.raises(PullFailed, match="access denied: the registry requires a login"):
            await executor.pull(engine.url, SPEC, lambda _: None)


@pytest.mark.parametrize(
    ("event", "error"),
    [
        ({"errorDetail": "not found"}, r"could not be pulled \(not found: "),
        ({"errorDetail": [1]}, r"could not be pulled \(the engine reported another error"),
        ({"error": {"a": "no such host"}}, r"could not be pulled \(the registry is unreachable\)"),
        ([1], None),
        (None, None),
        (17, None),
    ],
)
async def test_odd_events_of_a_pull(event: object, error: str | None) -> None:
    """An error in any form fails the pull; what nobody understands is left out."""

    class Odd(FakeEngine):
        """Says something that nobody understands in the stream of a pull."""

        async def on_pull(self, request: web.Request) -> web.StreamResponse:
            return await self.events(request, event, {"status": "Downloaded"})

    told: list[str] = []
    async with Odd() as engine, opened() as executor:
        if error is None:
            await executor.pull(engine.url, SPEC, told.append)
        else:
            with pytest.raises(PullFailed, match=error):
                await executor.pull(engine.url, SPEC, told.append)
    assert told == ([] if error else ["Downloaded"])


class EndlessPull(FakeEngine):
    """Begins every pull and never ends it."""

    async def on_pull(self, request: web.Request) -> web.StreamResponse:
        response = await self.events(request, {"status": "Pulling from tool"})
        await self.over.wait()
        return response


async def test_whoever_waits_for_a_pull_when_all_is_closed_is_not_cancelled() -> None:
    async with EndlessPull() as engine, opened() as executor:
        begun = asyncio.Event()
        waiters = [
            asyncio.ensure_future(executor.pull(engine.url, SPEC, lambda _: begun.set()))
            for _ in range(2)
        ]
        async with asyncio.timeout(PATIENCE_SECONDS):
            await begun.wait()
            await executor.close()
            found = await asyncio.gather(*waiters, return_exceptions=True)
    assert [type(each) for each in found] == [HostUnavailable] * 2


ME = RegistryCredentials("me", "secret")


async def test_a_pull_with_another_login_is_another_pull() -> None:
    class ByLogin(FakeEngine):
        """Refuses the pull of those who show no login, when all have asked."""

        async def on_pull(self, request: web.Request) -> web.StreamResponse:
            await self.wait_until(lambda: self.count("/images/create") == 2)
            if "X-Registry-Auth" in request.headers:
                return await super().on_pull(request)
            return await self.events(request, {"error": "denied"})

    async with ByLogin() as engine, opened(login=lambda _: None) as executor:
        login = replace(
            SPEC, options=DockerOptions.model_construct(registry_auth={"docker.io": ME})
        )
        found = await asyncio.gather(
            *(executor.pull(engine.url, spec, lambda _: None) for spec in (SPEC, login, login)),
            return_exceptions=True,
        )
    assert [type(each) for each in found] == [PullFailed, type(None), type(None)]
    assert "secret" not in repr(found)
