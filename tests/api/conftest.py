"""Servers for the tests of the API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api.http_site import Site, start_site

MakeSite = Callable[..., Awaitable[Site]]


@pytest.fixture
async def make_site(tmp_path: Path) -> AsyncIterator[MakeSite]:
    """Starts servers; takes what :func:`tests.api.http_site.start_site` takes."""
    sites: list[Site] = []

    async def make(**options: Any) -> Site:
        site = await start_site(tmp_path / f"site-{len(sites)}", **options)
        sites.append(site)
        return site

    yield make
    for site in sites:
        await site.close()


@pytest.fixture
async def site(make_site: MakeSite) -> Site:
    """A server with background work."""
    return await make_site()


@pytest.fixture
async def still(make_site: MakeSite) -> Site:
    """A server without background work: nothing runs but what the test runs as an owner."""
    return await make_site(still=True)
