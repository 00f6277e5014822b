"""The HTTP client's side of a server, as thin as a user's own would be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp

FINAL = frozenset({"done", "failed", "timedout", "expired"})

# Bounds one request, in seconds.
REQUEST_TIMEOUT = 60.0
# Bounds how long a job of a benchmark may take, in seconds.
JOB_TIMEOUT = 600.0


@dataclass(frozen=True, slots=True)
class Posted:
    """What a POST answered; the URL is None when the job is scheduled."""

    job_url: str
    execution_id: str | None
    execution_url: str | None

    @property
    def url(self) -> str:
        assert self.execution_url is not None, "the job has no execution yet"
        return self.execution_url


class Client:
    """Keep-alive connections to a server on the loopback."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            base_url=f"http://127.0.0.1:{self.port}",
            connector=aiohttp.TCPConnector(limit=50),
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def healthy(self) -> bool:
        """Whether it answers and finds nothing wrong."""
        try:
            async with self._session.get("/healthcheck/") as response:
                return response.status == 200
        except aiohttp.ClientConnectionError:
            return False

    async def post(self, task: str, payload: Mapping[str, Any]) -> Posted:
        """Submit a job."""
        async with self._session.post(f"/tasks/{task}/", json=payload) as response:
            answer = await response.json()
            if response.status != 200:
                raise RuntimeError(f"POST was answered {response.status}: {answer}")
        return Posted(answer["jobUrl"], answer["executionId"], answer["executionUrl"])

    async def execution(self, url: str) -> dict[str, Any]:
        """An execution as the API shows it."""
        async with self._session.get(url) as response:
            answer = await response.json()
            if response.status != 200:
                raise RuntimeError(f"GET was answered {response.status}: {answer}")
        found: dict[str, Any] = answer["execution"]
        return found

    async def executions(self, job_url: str) -> list[dict[str, Any]]:
        """A job's executions as the API shows them, newest first."""
        async with self._session.get(job_url) as response:
            answer = await response.json()
            if response.status != 200:
                raise RuntimeError(f"GET was answered {response.status}: {answer}")
        found: list[dict[str, Any]] = answer["job"]["executions"]
        return found

    async def await_status(
        self, url: str, statuses: frozenset[str] = FINAL, *, every_seconds: float
    ) -> dict[str, Any]:
        """Ask until the execution has one of *statuses*; the one it has then."""
        deadline = time.monotonic() + JOB_TIMEOUT
        while (execution := await self.execution(url))["status"] not in statuses:
            if execution["status"] in FINAL or time.monotonic() > deadline:
                raise RuntimeError(f"waited in vain for {sorted(statuses)} of {execution}")
            await asyncio.sleep(every_seconds)
        return execution

    async def await_idle(self, *, every_seconds: float) -> None:
        """Ask until nothing runs."""
        deadline = time.monotonic() + JOB_TIMEOUT
        while time.monotonic() < deadline:
            async with self._session.get("/status/") as response:
                status = await response.json()
            if not any(host["running"] for host in status["hosts"]):
                return
            await asyncio.sleep(every_seconds)
        raise RuntimeError(f"waited in vain for the end of {status['containers']}")

    async def await_end_frame(self, url: str) -> dict[str, Any]:
        """Watch the execution through its WebSocket until the record that ends it."""
        deadline = time.monotonic() + JOB_TIMEOUT
        while time.monotonic() < deadline:
            async with self._session.ws_connect(f"{url.rstrip('/')}/ws/?format=json") as socket:
                async for message in socket:
                    record: dict[str, Any] = message.json()
                    if record.get("end"):
                        return record
            # Reason `retry`: there was nothing to send yet.
            await asyncio.sleep(0.005)
        raise RuntimeError(f"waited in vain for the end of {url}")

    async def stop(self, job_url: str) -> None:
        """Stop a job."""
        async with self._session.post(f"{job_url.rstrip('/')}/stop/") as response:
            response.raise_for_status()

    async def read(self, url: str) -> aiohttp.ClientResponse:
        """The raw answer to a GET; the caller reads and releases it."""
        return await self._session.get(url)
