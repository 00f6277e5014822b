"""Images are pulled exactly as named, once for all who wait, and failures say why."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from fastlane.errors import HostUnavailable, PullFailed
from fastlane.executors.base import RunSpec
from fastlane.executors.docker import pull
from fastlane.executors.docker.executor import DockerExecutor
from fastlane.image import ImageReference
from fastlane.model import PullPolicy
from tests.engine import RegistryServer
from tests.executors.conftest import Docker
from tests.executors.engines import PATIENCE_SECONDS, FakeEngine, Pulling, output

AWAY = "127.0.0.1:9"


@pytest.fixture
async def docker(
    docker_host: str, docker_image: str, registry: RegistryServer
) -> AsyncIterator[Docker]:
    """May pull from the registry on the loopback."""
    docker = Docker(docker_host, docker_image, registries_allowed=(registry.url, AWAY))
    await docker.open()
    yield docker
    await docker.clear()


def nothing(_: str) -> None:
    """Nobody looks at the progress."""


def spec_of(reference: str, policy: PullPolicy = PullPolicy.ALWAYS) -> RunSpec:
    image = ImageReference.parse(reference)
    return RunSpec(str(uuid.uuid4()), "task", "job", image, ("true",), pull_policy=policy)


async def test_an_image_of_a_registry_with_a_port(docker: Docker, registry: RegistryServer) -> None:
    reference = registry.push(docker.host, str(docker.image), f"deep/er/x:{uuid.uuid4().hex}")
    spec = replace(docker.spec("echo", "pulled"), image=ImageReference.parse(reference))
    try:
        with pytest.raises(PullFailed, match="is not on host"):
            await docker.executor.create(docker.host, spec)
        lines: list[str] = []
        await docker.executor.pull(docker.host, spec, lines.append)
        assert any("Pulling from deep/er/x" in line for line in lines)
        assert all(len(line) <= 200 for line in lines)
        run_id = await docker.executor.create(docker.host, spec)
        await docker.executor.start(docker.host, run_id)
        await docker.wait(run_id)
        assert output(await docker.log(run_id)) == b"pulled\n"
        digest = next(line for line in lines if "Digest: " in line).partition("Digest: ")[2]

        # By digest it is the same image, and is found again without the registry's help.
        named = ImageReference.parse(f"{reference.rpartition(':')[0]}@{digest}")
        for policy in (PullPolicy.ALWAYS, PullPolicy.MISSING, PullPolicy.NEVER):
            by_digest = docker.spec("true", image=named, pull_policy=policy)
            await docker.executor.pull(docker.host, by_digest, nothing)
            await docker.executor.create(docker.host, by_digest)
    finally:
        await docker.clear()
        await docker.call("DELETE", f"/images/{reference}?force=1")


async def test_only_the_named_tag_is_pulled(docker: Docker, registry: RegistryServer) -> None:
    name = f"x{uuid.uuid4().hex}"
    registry.push(docker.host, str(docker.image), f"{name}:other")
    latest = registry.push(docker.host, str(docker.image), f"{name}:latest")
    untagged = latest.removesuffix(":latest")
    await docker.executor.pull(docker.host, spec_of(untagged), nothing)
    assert docker.engine.has_image(latest)
    assert not docker.engine.has_image(f"{untagged}:other")
    await docker.call("DELETE", f"/images/{latest}?force=1")


@pytest.mark.parametrize("name", ["no-such-image:1", "no-such-image"])
async def test_an_image_that_the_registry_does_not_have(
    docker: Docker, registry: RegistryServer, name: str
) -> None:
    spec = spec_of(f"{registry.url}/{name}", PullPolicy.MISSING)
    with pytest.raises(PullFailed, match="not found: the registry does not have"):
        await docker.executor.pull(docker.host, spec, nothing)


async def test_a_registry_that_is_away(docker: Docker) -> None:
    with pytest.raises(PullFailed, match="the registry is unreachable"):
        await docker.executor.pull(docker.host, spec_of(f"{AWAY}/x:1"), nothing)


async def test_a_failed_pull_of_an_image_that_is_there_says_so(docker: Docker) -> None:
    reference = f"{AWAY}/x:{uuid.uuid4().hex}"
    repository, _, tag = reference.rpartition(":")
    source = str(docker.image).replace("/", "%2F")
    await docker.call("POST", f"/images/{source}/tag?repo={repository}&tag={tag}")
    try:
        with pytest.raises(PullFailed) as failed:
            await docker.executor.pull(docker.host, spec_of(reference), nothing)
    finally:
        await docker.call("DELETE", f"/images/{reference}")
    assert str(failed.value).startswith(f"Image {reference} could not be pulled (")
    assert str(failed.value).endswith(
        f'). Host {docker.host} has a copy of it, which "pullPolicy": "missing" would use.'
    )


async def test_policies(docker: Docker) -> None:
    for policy in (PullPolicy.MISSING, PullPolicy.NEVER):
        await docker.executor.pull(docker.host, spec_of(str(docker.image), policy), nothing)
    with pytest.raises(PullFailed, match="never"):
        await docker.executor.pull(
            docker.host, spec_of("no-such-image:1", PullPolicy.NEVER), nothing
        )


def pulls_of(fake: FakeEngine) -> list[str]:
    return [asked for asked in fake.asked if "/images/" in asked]


async def with_fake(fake: FakeEngine, spec: RunSpec) -> list[str]:
    executor = DockerExecutor()
    await executor.open("test")
    lines: list[str] = []
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await executor.pull(fake.url, spec, lines.append)
    finally:
        await executor.close()
    return lines


@pytest.mark.parametrize(
    "error",
    [
        {"errorDetail": {"message": "no space left on device"}, "error": "something"},
        {"error": "no space left on device"},
    ],
)
async def test_an_error_inside_a_good_answer(error: dict[str, object]) -> None:
    async with Pulling({"status": "Pulling from x", "id": "1"}, error) as fake:
        with pytest.raises(PullFailed, match="no space left on the disk of the host"):
            await with_fake(fake, spec_of("x:1"))
    assert pulls_of(fake)[:1] == ["POST /v1.47/images/create?fromImage=x&tag=1"]


async def test_progress_is_told_in_short_lines() -> None:
    async with Pulling(
        {"status": "Pulling from x", "id": "1"},
        {"status": "Downloading", "id": "ab", "progressDetail": {"current": 1, "total": 2}},
        {"status": "Pull complete", "id": "ab", "progressDetail": {}},
        {"status": "y" * 5000},
    ) as fake:
        lines = await with_fake(fake, spec_of("x:1"))
    assert lines == ["1: Pulling from x", "ab: Pull complete", "y" * 200]


async def test_a_registry_that_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "SILENCE_SECONDS", 0.2)
    async with Pulling({"status": "Pulling"}, {"status": "never"}) as fake:
        fake.go.clear()
        with pytest.raises(PullFailed, match=r"no answer for 0\.2 seconds"):
            await with_fake(fake, spec_of("x:1"))


async def test_an_answer_that_is_none() -> None:
    async with Pulling("x", "y") as fake:
        assert await with_fake(fake, spec_of("x:1")) == []
    with pytest.raises(HostUnavailable):
        await with_fake(fake, spec_of("x:1"))


async def test_one_pull_for_all_who_wait() -> None:
    executor = DockerExecutor()
    await executor.open("test")
    done = {"status": "Status: Downloaded"}
    async with Pulling({"status": "Pulling"}, done) as fake, asyncio.timeout(10):
        fake.go.clear()
        told: list[list[str]] = [[] for _ in range(20)]
        waiters = [
            asyncio.create_task(executor.pull(fake.url, spec_of("x:1"), lines.append))
            for lines in told
        ]
        await fake.begun.wait()
        for waiter in waiters[:5]:
            waiter.cancel()
        await asyncio.wait(waiters[:5])
        assert all(waiter.cancelled() for waiter in waiters[:5])
        assert not fake.ended.is_set()
        fake.go.set()
        await asyncio.gather(*waiters[5:])
        assert pulls_of(fake)[:1] == ["POST /v1.47/images/create?fromImage=x&tag=1"]
        assert all(lines[-1] == "Status: Downloaded" for lines in told[5:])
        # Over is over: who comes now pulls again.
        await executor.pull(fake.url, spec_of("x:1"), nothing)
        assert len(pulls_of(fake)) == 2
        await executor.close()


async def test_a_pull_that_nobody_waits_for_ends() -> None:
    executor = DockerExecutor()
    await executor.open("test")
    async with Pulling({"status": "Pulling"}, {"status": "x"}) as fake, asyncio.timeout(10):
        fake.go.clear()
        waiters = [
            asyncio.create_task(executor.pull(fake.url, spec_of("x:1"), nothing)) for _ in range(2)
        ]
        await fake.begun.wait()
        for waiter in waiters:
            waiter.cancel()
        await asyncio.wait(waiters)
        # The engine sees the connection close when it writes or looks; ours is closed at once.
        fake.go.set()
        await fake.ended.wait()
        await executor.close()
    assert len(pulls_of(fake)) == 1


async def test_other_images_and_hosts_do_not_wait() -> None:
    executor = DockerExecutor()
    await executor.open("test")
    async with (
        asyncio.timeout(10),
        Pulling({"status": "Pulling"}, {"status": "x"}) as slow,
        Pulling({"status": "x"}) as quick,
    ):
        slow.go.clear()
        waiter = asyncio.create_task(executor.pull(slow.url, spec_of("x:1"), nothing))
        await slow.begun.wait()
        await executor.pull(quick.url, spec_of("x:1"), nothing)
        other = asyncio.create_task(executor.pull(slow.url, spec_of("x:2"), nothing))
        slow.go.set()
        await asyncio.gather(waiter, other)
        assert len(pulls_of(slow)) == 2
        await executor.close()
