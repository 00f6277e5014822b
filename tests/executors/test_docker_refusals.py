"""A container that cannot be set up: the job's own fault is told, the host's is waited for."""

from __future__ import annotations

import asyncio
import io
import tarfile
import uuid
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web

from fastlane.errors import NotStarted, StartFailed
from fastlane.executors.base import Phase
from fastlane.image import ImageReference
from fastlane.model import Resources
from tests.executors.conftest import Docker
from tests.executors.engines import RUN_ID, FakeEngine, opened

DIRECTORY = None


def file_system(entries: Mapping[str, str | None]) -> bytes:
    """A tar of directories and symbolic links: what is there, and where it points."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, target in entries.items():
            entry = tarfile.TarInfo(name)
            entry.mode = 0o755
            if target is DIRECTORY:
                entry.type = tarfile.DIRTYPE
            elif target:
                entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return buffer.getvalue()


async def make_image(
    docker: Docker, entries: Mapping[str, str | None], changes: Sequence[str]
) -> ImageReference:
    name = f"odd:{uuid.uuid4().hex}"
    query = "".join(f"&changes={quote(change)}" for change in changes)
    path = f"/images/create?fromSrc=-&repo=odd&tag={name.partition(':')[2]}{query}"
    answer = await docker.call("POST", path, file_system(entries))
    assert b'"error"' not in answer
    return ImageReference.parse(name)


PLAIN = {"bin": DIRECTORY, "etc": DIRECTORY, "file": ""}


@pytest.mark.parametrize(
    ("entries", "changes", "why"),
    [
        (PLAIN, ["USER nosuch"], "unable to find user nosuch"),
        (PLAIN, ["USER 0:nosuch"], "unable to find group nosuch"),
        (PLAIN, ["USER 3000000000"], "must be in range"),
        (PLAIN, ["VOLUME /proc"], "not of type proc"),
        (PLAIN, ["VOLUME /sbin"], "docker-init"),
        (PLAIN, ["WORKDIR /file"], "is not a directory"),
        (PLAIN, ["WORKDIR /file/below"], "not a directory"),
        (PLAIN, [f"WORKDIR /{'x' * 300}"], "file name too long"),
        (PLAIN, ["VOLUME /file"], "existing file"),
        ({"sbin": ""}, [], "not a directory"),
        ({"sbin": "/sbin"}, [], "too many levels of symbolic links"),
        ({"etc/hosts": DIRECTORY}, [], "not a directory"),
        ({"etc/passwd": "passwd"}, ["USER joe"], "too many links"),
        ({"etc/passwd": DIRECTORY}, ["USER joe"], "is a directory"),
        ({"w": "w"}, ["WORKDIR /w/x"], "too many links"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_an_image_that_no_host_can_start(
    docker: Docker, entries: Mapping[str, str | None], changes: Sequence[str], why: str
) -> None:
    image = await make_image(docker, entries, changes)
    try:
        with pytest.raises(StartFailed, match=why):
            await docker.launch("true", image=image)
    finally:
        await docker.clear()
        await docker.call("DELETE", f"/images/{image}?force=1")


@pytest.mark.parametrize("resources", [Resources(cpus=0.001), Resources(pids=2**62)])
async def test_a_limit_that_the_kernel_refuses(docker: Docker, resources: Resources) -> None:
    run_id = await docker.executor.create(docker.host, docker.spec("true", resources=resources))
    # As often as it is asked: an answer that was lost changes nothing.
    for _ in range(2):
        with pytest.raises(StartFailed, match=r"cannot be set up: .*invalid argument") as failed:
            await docker.executor.start(docker.host, run_id)
        assert failed.value.exit_code is None
    assert (await docker.executor.inspect(docker.host, run_id)).phase is Phase.CREATED


async def test_an_environment_that_the_runtime_refuses(docker: Docker) -> None:
    with pytest.raises(StartFailed, match="null"):
        await docker.launch("true", envs={"A": "no space left on device\0"})


async def test_the_least_memory_that_the_engine_takes(docker: Docker) -> None:
    """It may or may not be enough; it never is the host's fault."""
    for _ in range(5):
        try:
            run_id = await docker.launch("true", resources=Resources(memory_bytes=6 * 1024**2))
        except StartFailed:
            continue
        async with asyncio.timeout(30):
            assert (await docker.wait(run_id)).exit_code in (0, 137)


class RefusesTheStart(FakeEngine):
    """Cannot set a container up, notes it on the container as an engine does, and says why."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(status="created")
        self._refusal = (status, code, message)

    async def on_start(self, request: web.Request) -> web.StreamResponse:
        status, _, message = self._refusal
        return web.json_response({"message": message}, status=status)

    def details(self) -> dict[str, Any]:
        details = super().details()
        _, code, message = self._refusal
        details["State"] |= {"ExitCode": code, "Error": message}
        return details


RUNC = "failed to create shim task: OCI runtime create failed: runc create failed: "


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (500, 128, f"{RUNC}write /var/lib/docker/x: no space left on device: unknown"),
        (500, 128, f"{RUNC}fork/exec /proc/self/exe: cannot allocate memory: unknown"),
        (500, 128, "failed to create shim task: context deadline exceeded: unknown"),
        (500, 128, f"{RUNC}cgroup mountpoint does not exist: unknown"),
        (400, 127, 'failed to start shim: exec: "containerd-shim-runc-v2": executable file not '
                   "found in $PATH: unknown"),
        (404, 128, "network bridge not found"),
    ],
)  # fmt: skip
async def test_what_ails_the_host_is_not_the_jobs(status: int, code: int, message: str) -> None:
    async with RefusesTheStart(status, code, message) as engine, opened() as executor:
        with pytest.raises(NotStarted, match=f"answered {status}: "):
            await executor.start(engine.url, RUN_ID)


@pytest.mark.parametrize(
    ("status", "code", "message", "exit_code"),
    [
        (400, 127, f'{RUNC}exec: "x": executable file not found in $PATH: unknown', 127),
        (400, 126, f'{RUNC}exec: "x": permission denied: unknown', 126),
        (500, 128, f"{RUNC}container init was OOM-killed (memory limit too low?): unknown", None),
    ],
)
async def test_what_the_job_asked_for_is_not_the_hosts(
    status: int, code: int, message: str, exit_code: int | None
) -> None:
    async with RefusesTheStart(status, code, message) as engine, opened() as executor:
        with pytest.raises(StartFailed) as failed:
            await executor.start(engine.url, RUN_ID)
        assert failed.value.exit_code == exit_code
