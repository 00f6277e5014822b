"""One test for both styles: each is called in the same way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fastlane_client import AsyncClient, Client


class Style:
    """Calls the methods of a client, whichever its style."""

    def __init__(self, asynchronous: bool) -> None:
        self.asynchronous = asynchronous

    @asynccontextmanager
    async def client(self, url: str | None = None, **options: Any) -> AsyncIterator[Any]:
        """A client of the server at *url*."""
        if self.asynchronous:
            async with AsyncClient(url, **options) as client:
                yield client
        else:
            with Client(url, **options) as blocking:
                yield blocking

    async def call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What *method* returns."""
        if self.asynchronous:
            found: Awaitable[Any] = method(*args, **kwargs)
            return await found
        # The server may run on this loop.
        return await asyncio.to_thread(method, *args, **kwargs)

    async def list(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        """All that *method* produces."""
        return [one async for one in self.iterate(method, *args, **kwargs)]

    async def iterate(
        self, method: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """What *method* produces."""
        if self.asynchronous:
            async for one in method(*args, **kwargs):
                yield one
            return
        found: Iterator[Any] = method(*args, **kwargs)
        end = object()
        while (one := await asyncio.to_thread(next, found, end)) is not end:
            yield one


@pytest.fixture(params=["sync", "async"])
def style(request: pytest.FixtureRequest) -> Style:
    """Both, one after the other."""
    return Style(request.param == "async")
