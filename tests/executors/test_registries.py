"""Images are pulled from no registry inside, unless the operator says so.

The addresses below are only names: none is ever connected to, nor given to an engine.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from fastlane.addresses import Address
from fastlane.errors import PullFailed
from fastlane.executors.docker import registries
from fastlane.executors.docker.credentials import RegistryCredentials
from fastlane.executors.docker.executor import DockerExecutor
from fastlane.executors.docker.farms import DockerOptions
from fastlane.executors.docker.refusals import pull_failure
from fastlane.executors.docker.registries import Registries
from fastlane.executors.docker.swarm import SwarmExecutor
from fastlane.image import ImageReference
from tests.api.http_site import Site, start_site
from tests.executors.engines import FakeEngine

NAMES = {
    "public.example": ["9.9.9.9"],
    "public6.example": ["2620:fe::fe"],
    "private.example": ["10.0.0.7"],
    "loop.example": ["127.0.0.1"],
    "metadata.example": ["169.254.169.254"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "nat64.example": ["64:ff9b::a00:7"],
    "local6.example": ["fd00::7"],
    "both.example": ["9.9.9.9", "10.0.0.7"],
    "registry": ["10.0.0.7"],
    "intranet": ["10.0.0.7"],
}

REFUSED = (
    "127.0.0.1/x",
    "127.0.0.1:6000/x:1",
    "127.0.0.1:80/x/y@sha256:" + "0" * 64,
    "127.1/x:1",
    "0.0.0.0:80/x:1",
    "0x7f.1/x:1",
    "0x7f.0.0.1:6000/x:1",
    "0177.0.0.1:6000/x:1",
    "017700000001:6000/x:1",
    "2130706433:6000/x:1",
    "0x7f000001:6000/x:1",
    "10.0.0.7:5000/x:1",
    "169.254.169.254/latest/meta-data:1",
    "100.100.100.200/x:1",
    # A public address is still one that nobody can check the owner of.
    "9.9.9.9/x:1",
    "[::1]:6000/x:1",
    "[::]/x:1",
    "[::ffff:7f00:1]:6000/x:1",
    "[fd00::7]/x:1",
    "[2620:fe::fe]/x:1",
    "localhost/x:1",
    "localhost:6000/x:1",
    "LOCALHOST/x:1",
    "LocalHost:6000/x:1",
    "a.localhost:6000/x:1",
    "private.example/x:1",
    "PRIVATE.example/x:1",
    "loop.example:6000/x:1",
    "metadata.example/x:1",
    "mapped.example/x:1",
    "nat64.example/x:1",
    "local6.example/x:1",
    "both.example/x:1",
    "registry:5000/x:1",
    # A host to newer engines, which take a path to be in small letters.
    "INTRANET/x:1",
    "unknown.example/x:1",
)
ALLOWED = (
    "x",
    "team/x:1",
    "docker.io/library/x:1",
    "index.docker.io/library/x:1",
    "public.example/x:1",
    "public.example:5000/x:1",
    "public6.example/x:1",
)


async def resolve(host: str, port: int) -> Sequence[Address]:
    """Never asks anybody."""
    if host not in NAMES:
        raise OSError("not known")
    return [ipaddress.ip_address(each) for each in NAMES[host]]


def no_login(_: str) -> None:
    """Nobody has logged in."""


@pytest.mark.parametrize("reference", REFUSED)
async def test_a_registry_inside_is_refused(reference: str) -> None:
    image = ImageReference.parse(reference)
    guard = Registries((), no_login, resolve)
    with pytest.raises(PullFailed) as refused:
        await guard.check(image, DockerOptions())
    message = str(refused.value)
    assert message.startswith(f'Image {image} is not pulled: its registry "{image.registry}" ')
    assert "REGISTRIES_ALLOWED" in message
    for address in ("10.0.0.7", "169.254.169.254", "fd00::7"):
        assert address not in message or address in reference, "what a name means inside is told"
    # Each of these says that the operator wants it.
    registry = image.registry
    credentials = RegistryCredentials("ann", "hunter2")
    await Registries((registry.lower(),), no_login, resolve).check(image, DockerOptions())
    await guard.check(image, DockerOptions(registries_allowed=(registry,)))
    await guard.check(image, DockerOptions.model_construct(registry_auth={registry: credentials}))
    await Registries((), lambda name: credentials if name == registry else None, resolve).check(
        image, DockerOptions()
    )
    # Another port is another service.
    with pytest.raises(PullFailed):
        await Registries((f"{registry.rpartition(':')[0]}:1",), no_login, resolve).check(
            image, DockerOptions()
        )


@pytest.mark.parametrize("reference", ALLOWED)
async def test_a_public_registry_is_allowed(reference: str) -> None:
    await Registries((), no_login, resolve).check(ImageReference.parse(reference), DockerOptions())


async def test_a_look_up_that_hangs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registries, "LOOKUP_SECONDS", 0.05)

    async def hangs(host: str, port: int) -> Sequence[Address]:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(PullFailed, match="has no public address"):
        await Registries((), no_login, hangs).check(
            ImageReference.parse("public.example/x"), DockerOptions()
        )


class Leaky(FakeEngine):
    """Has no image, and its pulls end with what an inner service has answered."""

    async def on_details(self, request: web.Request) -> web.StreamResponse:
        """See :meth:`FakeEngine.on_details`; the list of containers is empty."""
        if request.path.endswith("/containers/json"):
            return web.json_response([])
        return await super().on_details(request)

    async def on_services(self, request: web.Request) -> web.StreamResponse:
        """There are none."""
        return web.json_response([])

    async def on_swarm(self, request: web.Request) -> web.StreamResponse:
        """It is a manager."""
        return web.json_response({})

    async def on_pull(self, request: web.Request) -> web.StreamResponse:
        """See :meth:`FakeEngine.on_pull`."""
        why = "error parsing HTTP 403 response body: invalid character 'h': \"hunter2\""
        return await self.events(request, {"errorDetail": {"message": why}, "error": why})


@asynccontextmanager
async def site_on(
    data_dir: Path, engine: FakeEngine, executor: type[DockerExecutor] | type[SwarmExecutor]
) -> AsyncIterator[Site]:
    """A server whose only host is *engine*, and which asks no resolver."""
    allowed = ("127.0.0.1:6001",)
    site = await start_site(
        data_dir,
        executor=executor(login=no_login, resolve=resolve, registries_allowed=allowed),
        docker_host=engine.url,
    )
    try:
        yield site
    finally:
        await site.close()


@pytest.mark.parametrize("executor", [DockerExecutor, SwarmExecutor])
async def test_no_engine_is_asked_for_an_image_that_is_refused(
    tmp_path: Path, executor: type[DockerExecutor] | type[SwarmExecutor]
) -> None:
    async with Leaky() as engine, site_on(tmp_path, engine, executor) as site:
        made = [await site.submit("ssrf", image=reference) for reference in REFUSED]
        for submitted in made:
            ended = await site.status(submitted, "failed")
            assert ended["reason"] == "pull-failed"
            assert "REGISTRIES_ALLOWED" in ended["error"]
        assert engine.count("/images/create") == engine.count("/services/create") == 0


async def test_what_a_registry_answers_is_not_for_the_submitter(tmp_path: Path) -> None:
    async with Leaky() as engine, site_on(tmp_path, engine, DockerExecutor) as site:
        with capture_logs() as logged:
            submitted = await site.submit("ssrf", image="127.0.0.1:6001/x:1")
            ended = await site.status(submitted, "failed")
        assert ended["error"] == (
            "Image 127.0.0.1:6001/x:1 could not be pulled (the answer is not that of a registry)."
        )
        assert engine.count("/images/create") == 1
        for url in (submitted["executionUrl"], submitted["jobUrl"], f"{site.base}/status/"):
            assert b"hunter2" not in (await site.get(url)).body
        (told,) = (one for one in logged if one["event"] == "A pull failed")
        assert "hunter2" in told["error"]


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ('Get "http://127.0.0.1:6000/v2/": dial tcp: connection refused', "unreachable"),
        ("Get https://r.example/v2/: x509: certificate signed by unknown authority", "certificate"),
        ("server gave HTTP response to HTTPS client", "certificate"),
        ("manifest for x:1 not found: manifest unknown", "not found"),
        ("no matching manifest for linux/arm64 in the manifest list", "platform"),
        ("pull access denied for x, repository does not exist or may require", "access denied"),
        ("toomanyrequests: You have reached your pull rate limit", "try again later"),
        ("write /var/lib/docker/tmp/x: no space left on device", "no space left"),
        (
            "error parsing HTTP 403 response body: invalid character 'S' looking for beginning of "
            'value: "Secret: not found, hunter2"',
            "not that of a registry",
        ),
        ("received unexpected HTTP status: 500 hunter2", "not that of a registry"),
        ("hunter2", "another error"),
    ],
)
def test_what_an_engine_says_of_a_pull_is_put_in_other_words(message: str, says: str) -> None:
    sentence = pull_failure(message)
    assert says in sentence
    assert "hunter2" not in sentence
    assert "127.0.0.1" not in sentence
