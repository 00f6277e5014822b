"""The networks of isolated runs: one for each, made before its container and removed after it.

Such a network leads nowhere. It is internal, so there is no way out of the host; the bridge has no
address, so the host itself cannot be reached through it; and no other container is in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fastlane.errors import StartFailed
from fastlane.executors.base import ListedRun, Phase, RunSpec
from fastlane.executors.docker.container import (
    EXECUTION_LABEL,
    INSTALLATION_LABEL,
    container_name,
    is_run_of,
    labels,
    listed_run,
)
from fastlane.executors.docker.engine import SLOW_CALL_SECONDS, Engine, Refused

PREFIX = "network-"
"""Of the run id of a network whose container is gone."""
# Bounds the attempts to find addresses that no other network has.
ATTEMPTS = 20
# 198.18.0.0/15 (RFC 2544) is assigned to nobody. An engine's own pools have room for 31 networks.
_FIRST_ADDRESS = 198 << 24 | 18 << 16
_SUBNET_BITS = 4
_SUBNETS = 2 ** (17 - _SUBNET_BITS)
# Bounds the runs whose network is remembered; the sweep finds the networks of others.
REMEMBERED = 10_000


class Networks:
    """The networks that one executor has made."""

    def __init__(self) -> None:
        self._of_runs: dict[str, str] = {}

    async def make(self, engine: Engine, spec: RunSpec, installation: str) -> str:
        """The id of the network for *spec*, which is made unless there is one.

        :raises StartFailed: the engine refuses such a network.
        """
        attempt = 0
        while True:
            body = network_config(spec, installation, attempt)
            try:
                made = await engine.call(
                    "POST", "networks/create", body=body, seconds=SLOW_CALL_SECONDS
                )
                with engine.understood("a network"):
                    return str(made["Id"])
            except Refused as refused:
                if refused.status == 409:
                    return await self._present(engine, spec, installation)
                if refused.status in (400, 501):
                    raise StartFailed(
                        f"Host {engine.host} refused the isolated network: {refused.reason}"
                    ) from refused
                attempt += 1
                if "overlap" not in refused.reason or attempt == ATTEMPTS:
                    raise

    async def _present(self, engine: Engine, spec: RunSpec, installation: str) -> str:
        found = await engine.call("GET", f"networks/{container_name(spec.execution_id)}")
        with engine.understood("a network"):
            if is_run_of(found["Labels"], installation, spec.execution_id):
                return str(found["Id"])
        raise StartFailed(f"Another network on host {engine.host} has the name of this run.")

    def note(self, run_id: str, details: Mapping[str, Any] | str) -> None:
        """Remember the network of a run, by its id or by what the engine says of the container."""
        if isinstance(details, str):
            network = details
        else:
            host_config = details.get("HostConfig") or {}
            network = str(host_config.get("NetworkMode", ""))
        # Ours are given by their id; other modes are words.
        if len(network) == 64 and len(self._of_runs) < REMEMBERED:
            self._of_runs[run_id] = network

    async def remove(self, engine: Engine, run_id: str) -> None:
        """Remove the network of a run whose container is gone; none is not an error."""
        network = self._of_runs.pop(run_id, None)
        if run_id.startswith(PREFIX):
            network = run_id.removeprefix(PREFIX)
        if network is None:
            return
        try:
            await engine.call("DELETE", f"networks/{network}", seconds=SLOW_CALL_SECONDS)
        except Refused as refused:
            if refused.status != 404:
                raise

    async def orphans(
        self, engine: Engine, installation: str, having: Collection[str]
    ) -> Sequence[ListedRun]:
        """The networks of executions that are not among *having*, as runs that have ended."""
        filters = {"label": [f"{INSTALLATION_LABEL}={installation}"]}
        found = await engine.call("GET", "networks", params={"filters": json.dumps(filters)})
        with engine.understood("a list of networks"):
            return [
                listed_run(each["Labels"], f"{PREFIX}{each['Id']}", Phase.ENDED)
                for each in found
                if EXECUTION_LABEL in each["Labels"]
                and each["Labels"][EXECUTION_LABEL] not in having
            ]


def network_config(spec: RunSpec, installation: str, attempt: int) -> dict[str, Any]:
    """The body of ``POST /networks/create``.

    Source: https://docs.docker.com/reference/api/engine/version/v1.47/#tag/Network/operation/NetworkCreate
    """
    return {
        "Name": container_name(spec.execution_id),
        # Names are not unique otherwise, up to API 1.43.
        "CheckDuplicate": True,
        "Driver": "bridge",
        "Internal": True,
        "Attachable": False,
        "EnableIPv6": False,
        "Labels": labels(spec, installation),
        "IPAM": {"Config": [{"Subnet": subnet(spec.execution_id, attempt)}]},
        "Options": {
            "com.docker.network.bridge.inhibit_ipv4": "true",
            "com.docker.network.bridge.enable_icc": "false",
            "com.docker.network.bridge.enable_ip_masquerade": "false",
        },
    }


def subnet(execution_id: str, attempt: int) -> str:
    """The addresses to try for an execution's network at the *attempt*-th time."""
    digest = hashlib.sha256(f"{execution_id} {attempt}".encode()).digest()
    first = _FIRST_ADDRESS + (int.from_bytes(digest[:4], "big") % _SUBNETS << _SUBNET_BITS)
    octets = ".".join(str(first >> shift & 255) for shift in (24, 16, 8, 0))
    return f"{octets}/{32 - _SUBNET_BITS}"
