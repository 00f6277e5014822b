"""A run leaves its host some memory, and what it writes is limited or watched."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from fastlane.errors import RunVanished
from fastlane.executors.docker.limits import Facts, facts_in
from fastlane.image import ImageReference
from fastlane.model import Resources
from tests.executors.conftest import Docker
from tests.executors.engines import RUN_ID, SPEC, FakeEngine, opened

MIB = 1024**2
DISK = Resources(disk_bytes=64 * MIB)


@pytest.mark.parametrize(
    ("asked", "spare_host", "share"),
    [(None, True, 0.9), (1024**5, True, 0.9), (64 * MIB, True, None), (None, False, None)],
)
async def test_a_run_leaves_its_host_a_tenth_of_the_memory(
    docker: Docker, asked: int | None, spare_host: bool, share: float | None
) -> None:
    resources = Resources(memory_bytes=asked)
    run_id = await docker.launch("true", resources=resources, spare_host=spare_host)
    limits = json.loads(await docker.call("GET", f"/containers/{run_id}/json"))["HostConfig"]
    total = json.loads(await docker.call("GET", "/info"))["MemTotal"]
    wanted = asked or 0 if share is None else int(total * share)
    assert (limits["Memory"], limits["MemorySwap"]) == (wanted, wanted)


async def test_what_a_run_writes_is_measured(docker: Docker) -> None:
    script = f"head -c {20 * MIB} /dev/zero >/filled && echo filled && exec sleep 60"
    run_id = await docker.shell(script)
    await docker.read_until(run_id, b"filled")
    written = await docker.executor.disk_bytes(docker.host, run_id)
    assert written is not None
    assert 20 * MIB <= written < 21 * MIB
    await docker.clear()
    with pytest.raises(RunVanished):
        await docker.executor.disk_bytes(docker.host, run_id)


@pytest.fixture
async def with_volume(docker: Docker) -> AsyncIterator[ImageReference]:
    """An image that keeps /data in a volume, which is no part of the container's own layer."""
    name = f"volume-{uuid.uuid4().hex}"
    base = await docker.launch("true")
    await docker.wait(base)
    changes = "VOLUME%20/data"
    path = f"/commit?container={base}&repo={name}&tag=1&changes={changes}"
    await docker.call("POST", path, b"{}")
    yield ImageReference.parse(f"{name}:1")
    await docker.clear()
    await docker.call("DELETE", f"/images/{name}:1?force=1")


async def test_volumes_of_the_image_count(docker: Docker, with_volume: ImageReference) -> None:
    script = f"head -c {20 * MIB} /dev/zero >/data/filled && echo filled && exec sleep 60"
    run_id = await docker.launch("sh", "-c", script, image=with_volume)
    await docker.read_until(run_id, b"filled")
    written = await docker.executor.disk_bytes(docker.host, run_id)
    assert written is not None
    assert written >= 20 * MIB


class Storage(FakeEngine):
    """Remembers what was created. Its storage is xfs, which may be mounted with quotas or not."""

    def __init__(self, *, quotas: bool) -> None:
        super().__init__()
        self.quotas = quotas
        self.created: list[dict[str, Any]] = []

    async def on_info(self, request: web.Request) -> web.StreamResponse:
        """See :meth:`FakeEngine.on_info`."""
        status = [["Backing Filesystem", "xfs"], ["Supports d_type", "true"]]
        return web.json_response({"Driver": "overlay2", "DriverStatus": status})

    async def on_create(self, request: web.Request) -> web.StreamResponse:
        """See :meth:`FakeEngine.on_create`."""
        body = json.loads(await request.read())
        self.created.append(body["HostConfig"])
        if "StorageOpt" in body["HostConfig"] and not self.quotas:
            message = (
                "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"
            )
            return web.json_response({"message": message}, status=500)
        return web.json_response({"Id": RUN_ID}, status=201)

    def details(self) -> dict[str, Any]:
        """See :meth:`FakeEngine.details`."""
        return {**super().details(), "HostConfig": self.created[-1], "SizeRw": 7}


async def test_a_storage_that_can_limits_what_a_run_writes() -> None:
    async with Storage(quotas=True) as engine, opened() as executor:
        await executor.create(engine.url, replace(SPEC, resources=DISK))
        assert engine.created[-1]["StorageOpt"] == {"size": str(64 * MIB)}
        assert await executor.disk_bytes(engine.url, RUN_ID) is None, "there is nothing to watch"
        await executor.create(engine.url, SPEC)
        assert "StorageOpt" not in engine.created[-1]


async def test_a_storage_that_cannot_is_asked_once() -> None:
    async with Storage(quotas=False) as engine, opened() as executor:
        for tries in (2, 3):
            await executor.create(engine.url, replace(SPEC, resources=DISK))
            assert len(engine.created) == tries
            assert "StorageOpt" not in engine.created[-1]
        assert await executor.disk_bytes(engine.url, RUN_ID) == 7
        assert engine.count("/info") == 1


async def test_few_measurements_at_a_time() -> None:
    class Slow(Storage):
        """Measures until it may go on."""

        measuring = 0

        async def on_details(self, request: web.Request) -> web.StreamResponse:
            self.measuring += 1
            await self.over.wait()
            return web.json_response(self.details())

    async with Slow(quotas=False) as engine, opened() as executor:
        await executor.create(engine.url, SPEC)
        measured = [asyncio.create_task(executor.disk_bytes(engine.url, RUN_ID)) for _ in range(5)]
        await engine.wait_until(lambda: engine.count("size=1") == 2)
        assert engine.measuring <= 2
        engine.over.set()
        assert await asyncio.gather(*measured) == [7] * 5


def test_what_an_engine_says_of_its_host() -> None:
    xfs = {"Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "xfs"]], "MemTotal": 5}
    assert facts_in(xfs) == Facts(5, limits_disk=True)
    # Its quotas count the image as well.
    assert facts_in({**xfs, "Driver": "btrfs"}) == Facts(5, limits_disk=False)
    assert facts_in({"Driver": "overlay2", "DriverStatus": None}) == Facts(0, limits_disk=False)
