"""Pulls images: exactly the one that was named, once for all that wait for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import aiohttp
import structlog

from fastlane.errors import HostUnavailable, PullFailed
from fastlane.executors.docker.container import engine_reference
from fastlane.executors.docker.credentials import Login, RegistryCredentials, auth_header
from fastlane.executors.docker.engine import CONNECT_SECONDS, MESSAGE_CHARS, Engine, Refused
from fastlane.executors.docker.farms import DockerOptions
from fastlane.executors.docker.refusals import pull_failure
from fastlane.executors.docker.registries import Registries
from fastlane.image import ImageReference
from fastlane.model import PullPolicy

log = structlog.get_logger(__name__)

Progress = Callable[[str], None]
_Key = tuple[str, str, RegistryCredentials | None]
"""Host, reference and login: a pull in progress for one of these is shared."""

# Bounds the check whether an image is there. It is a host's first call for each execution, so this
# is how a frozen host is noticed.
PRESENT_SECONDS = 10.0
# Bounds how long a pull may say nothing. The whole of it has no bound.
SILENCE_SECONDS = 120.0
# Bounds one line of a pull's progress.
LINE_BYTES = 1024 * 1024


@dataclass
class _Pull:
    task: asyncio.Task[None]
    listeners: list[Progress] = field(default_factory=list)
    last_line: str = ""

    def tell(self, line: str) -> None:
        self.last_line = line
        for listener in list(self.listeners):
            listener(line)


class Pulls:
    """The pulls that are in progress."""

    def __init__(self, login: Login, registries: Registries) -> None:
        self._login = login
        self._registries = registries
        self._active: dict[_Key, _Pull] = {}

    async def close(self) -> None:
        tasks = [pull.task for pull in self._active.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def pull(
        self,
        engine: Engine,
        image: ImageReference,
        policy: PullPolicy,
        options: DockerOptions,
        progress: Progress,
    ) -> None:
        """See ``Executor.pull``."""
        if policy is not PullPolicy.ALWAYS:
            if await present(engine, image):
                return
            if policy is PullPolicy.NEVER:
                raise PullFailed(
                    f'Image {image} is not on host {engine.host}, and "pullPolicy" is "never".'
                )
        try:
            await self._registries.check(image, options)
            await self._shared(engine, image, options.registry_auth.get(image.registry), progress)
        except PullFailed as error:
            if policy is PullPolicy.ALWAYS and await _is_known_present(engine, image):
                raise PullFailed(
                    f'{error} Host {engine.host} has a copy of it, which "pullPolicy": "missing" '
                    "would use."
                ) from error
            raise

    async def _shared(
        self,
        engine: Engine,
        image: ImageReference,
        credentials: RegistryCredentials | None,
        progress: Progress,
    ) -> None:
        """Wait for the pull of *image*, which is begun unless it is under way."""
        # Another login is another pull: one that is refused says nothing about the others.
        key = (engine.host, str(image), credentials)
        pull = self._active.get(key)
        if pull is None:
            work = self._run(key, engine, image, credentials)
            pull = _Pull(asyncio.create_task(work, name=f"pull {image}"))
            self._active[key] = pull
        elif pull.last_line:
            progress(pull.last_line)
        pull.listeners.append(progress)
        try:
            await asyncio.shield(pull.task)
        except asyncio.CancelledError:
            waiter = asyncio.current_task()
            if pull.task.cancelled() and waiter is not None and not waiter.cancelling():
                # Not this waiter was cancelled, but the pull that it waits for.
                raise HostUnavailable(engine.host, "the pull was cancelled") from None
            raise
        finally:
            pull.listeners.remove(progress)
            if not pull.listeners and not pull.task.done():
                # Nobody waits any more; the next waiter starts a new pull.
                if self._active.get(key) is pull:
                    del self._active[key]
                pull.task.cancel()

    async def _run(
        self,
        key: _Key,
        engine: Engine,
        image: ImageReference,
        credentials: RegistryCredentials | None,
    ) -> None:
        pull = self._active[key]
        try:
            if credentials is None:
                credentials = await asyncio.to_thread(self._login, image.registry)
            auth = auth_header(image.registry, credentials) if credentials else None
            await pull_image(engine, image, pull.tell, auth)
        finally:
            if self._active.get(key) is pull:
                del self._active[key]


async def present(engine: Engine, image: ImageReference) -> bool:
    """Whether the host has *image*."""
    try:
        await engine.call("GET", f"images/{engine_reference(image)}/json", seconds=PRESENT_SECONDS)
    except Refused as refused:
        if refused.status == 404:
            return False
        raise
    return True


async def _is_known_present(engine: Engine, image: ImageReference) -> bool:
    try:
        return await present(engine, image)
    except HostUnavailable:
        return False


async def pull_image(
    engine: Engine, image: ImageReference, tell: Progress, auth: str | None
) -> None:
    """Pull *image* and nothing else.

    :raises PullFailed: with the engine's own reason; also when the registry falls silent.
    """
    # Without a tag the engine would pull all of them.
    params = {"fromImage": image.name, "tag": image.digest or image.pinned_tag or ""}
    try:
        async with engine.stream(
            "POST",
            "images/create",
            params=params,
            silence_seconds=SILENCE_SECONDS,
            headers={"X-Registry-Auth": auth} if auth else None,
        ) as response:
            async for line in _lines(response.content):
                event = json.loads(line)
                if not isinstance(event, dict):
                    continue
                detail = event.get("errorDetail")
                error = detail.get("message") if isinstance(detail, dict) else detail
                # The status was 200 long before this was known.
                if error := error or event.get("error"):
                    raise _refused(engine, image, str(error)[:MESSAGE_CHARS])
                if event.get("status") and not event.get("progressDetail"):
                    layer = f"{event['id']}: " if event.get("id") else ""
                    tell(f"{layer}{event['status']}"[:200])
    except Refused as refused:
        raise _refused(engine, image, refused.reason) from refused
    except HostUnavailable as unavailable:
        if not isinstance(unavailable.__cause__, TimeoutError):
            raise
        # Silence is the registry's fault as long as the engine itself answers.
        await engine.call("GET", "_ping", seconds=CONNECT_SECONDS, raw=True)
        raise _failed(image, f"no answer for {SILENCE_SECONDS:g} seconds") from unavailable


def _refused(engine: Engine, image: ImageReference, message: str) -> PullFailed:
    # For operators only; see pull_failure.
    log.warning("A pull failed", image=str(image), host=engine.host, error=message)
    return _failed(image, pull_failure(message))


def _failed(image: ImageReference, why: str) -> PullFailed:
    return PullFailed(f"Image {image} could not be pulled ({why.strip().rstrip('.')}).")


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                yield line
        if len(rest) > LINE_BYTES:
            raise ValueError("a line without end")
    if rest.strip():
        yield rest
