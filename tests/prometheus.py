"""Prometheus of Debian: its checks, and a server that scrapes one of ours."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import yaml

from tests.eventually import eventually
from tests.services import free_port, missing


def program(name: str) -> str:
    """The path of *name*; skips the test where it is not there."""
    found = shutil.which(name)
    if found is None:
        missing(name, f"{name} is not on the path")
    return found


def promtool(*arguments: str, text: bytes = b"") -> None:
    """Run a check that must find nothing."""
    done = subprocess.run(
        [program("promtool"), *arguments], input=text, capture_output=True, timeout=60
    )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    assert "error" not in said.lower(), said


class Prometheus:
    """A server that can be asked."""

    def __init__(self, port: int, session: aiohttp.ClientSession) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._session = session

    async def is_ready(self) -> bool:
        with suppress(aiohttp.ClientError):
            async with self._session.get(f"{self._url}/-/ready") as response:
                return response.status == 200
        return False

    async def query(self, text: str) -> list[float]:
        """The values that *text* has now."""
        async with self._session.get(f"{self._url}/api/v1/query", params={"query": text}) as got:
            answer = await got.json()
        assert answer["status"] == "success", (text, answer)
        return [float(one["value"][1]) for one in answer["data"]["result"]]


@asynccontextmanager
async def scraping(port: int, directory: Path) -> AsyncIterator[Prometheus]:
    """A Prometheus that scrapes what listens on *port* every second."""
    config = directory / "prometheus.yml"
    targets = [{"targets": [f"127.0.0.1:{port}"]}]
    config.write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": "1s"},
                "scrape_configs": [{"job_name": "fastlane", "static_configs": targets}],
            }
        )
    )
    own = free_port()
    process = await asyncio.create_subprocess_exec(
        program("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{own}",
        "--log.level=error",
    )
    try:
        async with aiohttp.ClientSession() as session:
            prometheus = Prometheus(own, session)
            await eventually(prometheus.is_ready, "Prometheus", every=0.1)
            yield prometheus
    finally:
        process.terminate()
        await process.wait()
