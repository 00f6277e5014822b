"""The HTTP client's side of a server: the Python client, and what needs raw bytes or a socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp

from fastlane.client import AsyncClient, ClientError, Status

FINAL = frozenset(status.value for status in Status if status.final)

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
        url = f"http://127.0.0.1:{self.port}"
        self._client = AsyncClient(url, timeout=REQUEST_TIMEOUT, patience=0)
        self._session = aiohttp.ClientSession(
            base_url=url,
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
        await self._client.close()
        await self._session.close()

    async def healthy(self) -> bool:
        """Whether it answers and finds nothing wrong."""
        try:
            await self._client.health()
        except ClientError:
            return False
        return True

    async def post(self, task: str, payload: Mapping[str, Any]) -> Posted:
        """Submit a job."""
        run = await self._client.submit_payload(task, payload)
        url = None if run.execution_id is None else run.url
        return Posted(run.id.job_url, run.execution_id, url)

    async def execution(self, url: str) -> Mapping[str, Any]:
        """An execution as the API shows it."""
        return (await self._client.run(url).execution()).raw

    async def executions(self, job_url: str) -> list[Mapping[str, Any]]:
        """A job's executions as the API shows them, newest first."""
        return [one.raw for one in (await self._client.run(job_url).job()).executions]

    async def await_end(self, url: str) -> Mapping[str, Any]:
        """The execution at *url* once it is final; the server says when."""
        return (await self._client.run(url).wait(JOB_TIMEOUT, check=False)).raw

    async def await_status(
        self, url: str, statuses: frozenset[str] = FINAL, *, every_seconds: float
    ) -> Mapping[str, Any]:
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
            status = await self._client.status()
            if not any(host.running for host in status.hosts):
                return
            await asyncio.sleep(every_seconds)
        raise RuntimeError(f"waited in vain for the end of {status.containers}")

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
        await self._client.run(job_url).stop()

    async def read(self, url: str) -> aiohttp.ClientResponse:
        """The raw answer to a GET; the caller reads and releases it."""
        return await self._session.get(url)
