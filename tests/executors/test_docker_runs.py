"""Containers are hardened, found again by name and label, and failures say whose they are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from aiohttp import web

from fastlane.errors import ExecutorError, HostUnavailable, PullFailed, RunVanished, StartFailed
from fastlane.executors.base import Phase
from fastlane.executors.docker.container import DEFAULT_PIDS, container_name
from fastlane.executors.docker.engine import Refused, negotiate
from fastlane.executors.docker.executor import DockerExecutor
from fastlane.image import ImageReference
from fastlane.model import Resources
from tests.executors.conftest import Docker
from tests.executors.engines import (
    PATIENCE_SECONDS,
    RUN_ID,
    Answering,
    FakeEngine,
    output,
    reset,
)


async def test_what_a_submitter_gets_and_what_not(docker: Docker) -> None:
    spec = docker.spec(
        "cat",
        "/etc/hosts",
        envs={"A": "b=c"},
        dns_entries={"db.internal": "10.1.2.3"},
        resources=Resources(cpus=0.5, memory_bytes=64 * 1024**2, pids=32),
    )
    run_id = await docker.executor.create(docker.host, spec)
    details = json.loads(await docker.call("GET", f"/containers/{run_id}/json"))
    host = details["HostConfig"]
    assert details["Name"] == f"/fastlane-{spec.execution_id}"
    assert details["Config"]["Labels"] == {
        "fastlane.installation": docker.installation,
        "fastlane.execution": spec.execution_id,
        "fastlane.task": "task",
        "fastlane.job": "job",
    }
    assert "A=b=c" in details["Config"]["Env"]
    assert not details["Config"]["Tty"]
    assert (details["Mounts"], host["Binds"], host["Devices"]) == ([], None, None)
    assert (host["Privileged"], host["AutoRemove"], host["Init"]) == (False, False, True)
    assert (host["CapAdd"], host["CapDrop"]) == (None, ["NET_RAW", "MKNOD"])
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["NetworkMode"] != "host"
    assert host["RestartPolicy"]["Name"] in ("", "no")
    assert (host["NanoCpus"], host["Memory"], host["PidsLimit"]) == (5 * 10**8, 64 * 1024**2, 32)
    assert host["MemorySwap"] == host["Memory"]
    assert host["LogConfig"]["Type"] == "local"
    assert {"max-size", "max-file"} <= host["LogConfig"]["Config"].keys()
    await docker.executor.start(docker.host, run_id)
    await docker.wait(run_id)
    assert b"10.1.2.3\tdb.internal" in output(await docker.log(run_id))


async def test_a_run_that_asks_for_nothing_has_limits_too(docker: Docker) -> None:
    run_id = await docker.executor.create(docker.host, docker.spec("true"))
    details = json.loads(await docker.call("GET", f"/containers/{run_id}/json"))
    assert details["HostConfig"]["PidsLimit"] == DEFAULT_PIDS


async def test_a_limit_that_the_engine_refuses(docker: Docker) -> None:
    spec = docker.spec("true", resources=Resources(memory_bytes=1024))
    with pytest.raises(StartFailed, match=r"(?i)memory"):
        await docker.executor.create(docker.host, spec)


async def test_an_image_that_is_not_there(docker: Docker) -> None:
    image = ImageReference.parse("no-such-image:1")
    with pytest.raises(PullFailed, match="no-such-image:1"):
        await docker.executor.create(docker.host, docker.spec("true", image=image))


async def test_another_installations_container_is_left_alone(docker: Docker) -> None:
    other = Docker(docker.host, str(docker.image))
    spec = docker.spec("true")
    theirs = await other.executor.create(docker.host, spec)
    try:
        with pytest.raises(StartFailed, match="Another container"):
            await docker.executor.create(docker.host, spec)
        assert await docker.executor.find(docker.host, spec.execution_id) is None
        assert (await other.executor.inspect(docker.host, theirs)).phase is Phase.CREATED
    finally:
        await other.clear()


async def test_too_much_memory_is_not_to_be_had(docker: Docker) -> None:
    # Whether the engine says OOMKilled depends on the kernel; that it is killed does not.
    run_id = await docker.launch(
        "sh", "-c", "head -c 100000000 /dev/zero | tail", resources=Resources(memory_bytes=10**7)
    )
    assert (await docker.wait(run_id)).exit_code == 137


@pytest.mark.parametrize("code", [126, 127])
async def test_a_command_may_exit_as_if_it_could_not_be_executed(docker: Docker, code: int) -> None:
    run_id = await docker.shell(f"echo '[FATAL] exec x failed' >&2; exit {code}")
    assert (await docker.wait(run_id)).exit_code == code


# -- engines that fail ------------------------------------------------------------------------


async def each_call(executor: DockerExecutor, host: str, docker: Docker) -> list[type[Exception]]:
    spec = docker.spec("true")
    ended = asyncio.Event()

    async def read() -> None:
        async for _ in executor.logs(host, "x", bookmark="", ended=ended):
            pass

    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: executor.check(host),
        lambda: executor.pull(host, spec, lambda _: None),
        lambda: executor.create(host, spec),
        lambda: executor.find(host, spec.execution_id),
        lambda: executor.start(host, "x"),
        lambda: executor.inspect(host, "x"),
        lambda: executor.wait(host, "x"),
        read,
        lambda: executor.stop(host, "x", grace_seconds=0),
        lambda: executor.remove(host, "x"),
        lambda: executor.runs(host),
    ]
    found: list[type[Exception]] = []
    for call in calls:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await call()
        except ExecutorError as error:
            found.append(type(error))
    return found


@pytest.mark.parametrize(
    "host", ["unix:///nowhere/docker.sock", "tcp://127.0.0.1:9", "127.0.0.1:9", "tcp://[", "x y:1"]
)
async def test_a_host_that_is_away(docker: Docker, host: str) -> None:
    executor = DockerExecutor()
    await executor.open("test")
    assert await each_call(executor, host, docker) == [HostUnavailable] * 11
    await executor.close()


async def test_an_engine_that_answers_nonsense(docker: Docker) -> None:
    executor = DockerExecutor()
    await executor.open("test")
    async with Answering(200, "text/html", b"<html>") as fake:
        found = await each_call(executor, fake.url, docker)
    # "_ping" is answered, and a removal or a stop has no answer to misunderstand.
    assert len(found) >= 7
    assert set(found) <= {HostUnavailable}
    await executor.close()


async def test_an_engine_that_fails_inside(docker: Docker) -> None:
    executor = DockerExecutor()
    await executor.open("test")
    full = b'{"message": "no space left on device"}'
    async with Answering(500, "application/json", full) as fake:
        found = await each_call(executor, fake.url, docker)
    assert set(found) == {Refused}
    assert issubclass(Refused, HostUnavailable)
    await executor.close()


async def test_an_engine_that_comes_back_is_used_again(docker: Docker) -> None:
    executor = DockerExecutor()
    await executor.open("test")
    async with FakeEngine() as fake:
        await executor.check(fake.url)
        path = fake.url
    with pytest.raises(HostUnavailable):
        await executor.check(path)
    await executor.check(docker.host)
    await executor.close()


class KeepsTheName(FakeEngine):
    """A name stays taken for a moment after its container has gone."""

    async def on_create(self, request: web.Request) -> web.StreamResponse:
        if self.count("/create") <= 3:
            return web.json_response({"message": "Conflict. The name is in use"}, status=409)
        return await super().on_create(request)

    async def on_details(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"message": "No such container: x"}, status=404)


async def test_a_name_that_is_still_taken(docker: Docker) -> None:
    executor = DockerExecutor()
    await executor.open("test")
    async with KeepsTheName() as fake:
        assert await executor.create(fake.url, docker.spec("true")) == RUN_ID
    await executor.close()


class LosesTheAnswer(FakeEngine):
    """Creates the container and hangs up, once."""

    labels: Mapping[str, str] | None = None

    async def on_create(self, request: web.Request) -> web.StreamResponse:
        if self.labels is None:
            self.labels = (await request.json())["Labels"]
            return reset(request)
        return web.json_response({"message": "Conflict"}, status=409)

    def details(self) -> dict[str, Any]:
        return super().details() | {"Config": {"Labels": self.labels}}


async def test_a_container_whose_answer_was_lost_is_adopted(docker: Docker) -> None:
    executor = DockerExecutor()
    await executor.open("test")
    spec = docker.spec("true")
    async with LosesTheAnswer(status="created") as fake:
        with pytest.raises(HostUnavailable):
            await executor.create(fake.url, spec)
        assert await executor.create(fake.url, spec) == RUN_ID
        assert container_name(spec.execution_id) in "".join(fake.asked)
    await executor.close()


@pytest.mark.parametrize(
    ("offered", "minimum", "spoken"),
    [
        ("1.41", "1.12", "v1.41"),
        ("1.47", "1.24", "v1.47"),
        ("1.51", "1.24", "v1.47"),
        ("1.9", None, "v1.9"),
        ("1.60", "1.48", "v1.48"),
    ],
)
def test_the_version_is_the_smaller_one(offered: str, minimum: str | None, spoken: str) -> None:
    assert negotiate(offered, minimum) == spoken


async def test_removal_behind_our_back_is_seen_by_wait_within_seconds(docker: Docker) -> None:
    run_id = await docker.shell("while :; do sleep 0.05; done")
    waiting = asyncio.create_task(docker.executor.wait(docker.host, run_id))
    await docker.call("DELETE", f"/containers/{run_id}?force=1")
    with pytest.raises(RunVanished):
        async with asyncio.timeout(5):
            await waiting
