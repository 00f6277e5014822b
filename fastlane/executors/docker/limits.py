"""What a host can give to one run: its memory, and limits of a run's own file system."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastlane.executors.base import RunSpec
from fastlane.executors.docker.engine import Engine, Refused

# What is left to the host is a tenth.
MEMORY_SHARE = 0.9
# Bounds the look at what a run has written: the engine adds up all files of it.
MEASURE_SECONDS = 60.0
# Bounds how many of these a host does at a time.
MEASURED_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Facts:
    """What an engine says of its host."""

    memory_bytes: int
    """0 where it does not say."""
    limits_disk: bool
    """Whether its storage may be able to limit a container's file system."""


class Limits:
    """The limits of the runs on each host."""

    def __init__(self) -> None:
        self._facts: dict[str, Facts] = {}
        self._measuring: dict[str, asyncio.Semaphore] = {}
        self._cannot_limit_disk: set[str] = set()

    async def host_config(self, engine: Engine, spec: RunSpec) -> dict[str, Any]:
        """Limits that follow from what the host is, as parts of a ``HostConfig``."""
        wanted = spec.resources
        config: dict[str, Any] = {}
        if spec.spare_host and (facts := await self._facts_of(engine)).memory_bytes:
            share = int(facts.memory_bytes * MEMORY_SHARE)
            memory = share if wanted.memory_bytes is None else min(wanted.memory_bytes, share)
            config["Memory"] = config["MemorySwap"] = memory
        if (
            wanted.disk_bytes is not None
            and engine.host not in self._cannot_limit_disk
            and (await self._facts_of(engine)).limits_disk
        ):
            config["StorageOpt"] = {"size": str(wanted.disk_bytes)}
        return config

    def refused(self, engine: Engine, refused: Refused, body: Mapping[str, Any]) -> bool:
        """Note that the storage of *engine* cannot limit what a container writes, if that is why it
        refused to create one; whether it is.
        """
        if "StorageOpt" not in body["HostConfig"] or "storage-opt" not in refused.reason.lower():
            return False
        # For example an xfs that is not mounted with pquota.
        self._cannot_limit_disk.add(engine.host)
        return True

    async def _facts_of(self, engine: Engine) -> Facts:
        facts = self._facts.get(engine.host)
        if facts is None:
            info = await engine.call("GET", "info")
            with engine.understood("its own information"):
                facts = self._facts[engine.host] = facts_in(info)
        return facts

    async def disk_bytes(self, engine: Engine, run_id: str) -> int | None:
        """See ``Executor.disk_bytes``.

        :raises Refused: with status 404, there is no such container.
        """
        async with self._measuring.setdefault(engine.host, asyncio.Semaphore(MEASURED_AT_ONCE)):
            details = await engine.call(
                "GET",
                f"containers/{run_id}/json",
                params={"size": "1"},
                seconds=MEASURE_SECONDS,
                long=True,
            )
            with engine.understood("the size of a container"):
                if (details["HostConfig"].get("StorageOpt") or {}).get("size"):
                    return None
                written = int(details.get("SizeRw") or 0)
                volumes = [
                    each["Name"] for each in details.get("Mounts", ()) if each["Type"] == "volume"
                ]
            return written + (await _volume_bytes(engine, volumes) if volumes else 0)


async def _volume_bytes(engine: Engine, names: Sequence[str]) -> int:
    """What is in the volumes that the image of a run has made."""
    try:
        usage = await engine.call(
            "GET", "system/df", params={"type": "volume"}, seconds=MEASURE_SECONDS, long=True
        )
    except Refused:
        # An engine does this once at a time.
        return 0
    with engine.understood("its disk usage"):
        return sum(
            max(each["UsageData"]["Size"], 0) for each in usage["Volumes"] if each["Name"] in names
        )


def facts_in(info: Mapping[str, Any]) -> Facts:
    """What ``GET /info`` says."""
    status = dict(each for each in info.get("DriverStatus") or () if len(each) == 2)
    return Facts(
        int(info.get("MemTotal") or 0),
        # Others count the image as well, or have no such limit.
        info.get("Driver") == "overlay2" and status.get("Backing Filesystem") == "xfs",
    )
