"""A host that makes no run: whoever looks at the execution reads why it waits."""

from __future__ import annotations

from fastlane.errors import HostUnavailable
from fastlane.executors.base import RunSpec
from tests.api.conftest import MakeSite
from tests.eventually import eventually
from tests.fakes import MemoryExecutor

WORDS = "the engine answered 500: no space left on device"
# Bounds how long nobody knows why.
KNOWN_SECONDS = 10.0


class MakesNothing(MemoryExecutor):
    """Has every image, and refuses each create in the same words."""

    async def create(self, host: str, spec: RunSpec) -> str:
        raise HostUnavailable(host, WORDS)


async def test_the_reason_is_in_the_execution(make_site: MakeSite) -> None:
    site = await make_site(executor=MakesNothing(instant=True))
    made = await site.submit()
    seen: set[str] = set()

    async def told_in_each_status() -> bool:
        execution = await site.execution(made)
        waiting = str(execution["metadata"]["waiting"])
        if WORDS in waiting:
            assert "Repair the host" in waiting
            seen.add(execution["status"])
        # Pulling while it is tried, and enqueued once its circuit is open.
        return seen == {"pulling", "enqueued"}

    await eventually(told_in_each_status, "the words of the engine", KNOWN_SECONDS)
