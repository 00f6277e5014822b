"""A small client of ``/events/`` for tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

# Bounds each wait, in seconds.
PATIENCE = 20.0


@dataclass
class EventStream:
    """One connection that receives server-sent events."""

    response: aiohttp.ClientResponse
    last_id: str = ""
    comments: int = 0
    received: list[dict[str, Any]] = field(default_factory=list)

    async def next(self) -> dict[str, Any] | None:
        """The next event; None at the end of the answer."""
        data: dict[str, Any] | None = None
        async with asyncio.timeout(PATIENCE):
            while line := await self.response.content.readline():
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "id":
                    self.last_id = value
                elif name == "data":
                    data = json.loads(value)
                elif name == "":
                    self.comments += value != ""
                    if data is not None:
                        self.received.append(data)
                        return data
        return None

    async def take(self, count: int) -> list[dict[str, Any]]:
        """The next *count* events."""
        found = [await self.next() for _ in range(count)]
        assert None not in found, found
        return [one for one in found if one is not None]

    async def begun(self) -> str:
        """The cursor with which the stream begins."""
        async with asyncio.timeout(PATIENCE):
            while not self.last_id:
                line = (await self.response.content.readline()).decode().rstrip("\n")
                if line.startswith("id: "):
                    self.last_id = line.removeprefix("id: ")
        return self.last_id


@asynccontextmanager
async def follow(
    client: aiohttp.ClientSession, base: str, query: str = "", **headers: str
) -> AsyncIterator[EventStream]:
    """Follow the events of the server at *base*."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"{base}/events/?{query}"
    async with client.get(url, headers=sent, timeout=aiohttp.ClientTimeout(None)) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/event-stream"
        yield EventStream(response)
