"""What runs can reach, on an engine in a network namespace of its own."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from fastlane.errors import StartFailed
from fastlane.executors.base import Phase, RunSpec
from fastlane.executors.docker.executor import DockerExecutor
from fastlane.executors.docker.networks import PREFIX, network_config, subnet
from fastlane.model import Network, Resources
from scripts.engine import Engine
from tests.engine import EngineServer
from tests.executors.conftest import Docker, output
from tests.executors.engines import SPEC

HOST_ADDRESS = "10.97.0.1"
PORT = 7777


class BridgedEngine(EngineServer):
    """An engine with a bridge, whose address is the host's to its containers."""

    def command(self) -> list[str]:
        """See :meth:`Server.command`."""
        replaced = {"--bridge=none": f"--bip={HOST_ADDRESS}/24"}
        return [replaced.get(option, option) for option in super().command()]

    @property
    def pid(self) -> int:
        """Of the engine, whose network namespace stands for the host's."""
        assert self._process is not None
        return self._process.pid


LISTENER = f"""
import socket
listener = socket.create_server(("0.0.0.0", {PORT}))
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    connection.sendall(b"reached")
    connection.close()
"""


@pytest.fixture(scope="module")
def bridged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BridgedEngine]:
    """With a server that listens on all addresses of its host."""
    with BridgedEngine(tmp_path_factory.mktemp("bridged")) as engine:
        command = ["nsenter", "-t", str(engine.pid), "-n", sys.executable, "-c", LISTENER]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as listener:
            assert listener.stdout is not None
            assert listener.stdout.readline() == b"ready\n"
            yield engine
            listener.kill()


@pytest.fixture
async def docker(bridged: BridgedEngine) -> AsyncIterator[Docker]:
    docker = Docker(bridged.url, bridged.image())
    await docker.open()
    yield docker
    await docker.clear()


def networks(docker: Docker) -> list[dict[str, Any]]:
    """The networks that were made for runs."""
    found: list[dict[str, Any]] = Engine(docker.host).get("/networks")
    return [each for each in found if each["Name"].startswith("fastlane-")]


def script(*addresses: str) -> tuple[str, str, str]:
    """Tries each of *addresses*, and says how many interfaces there are beside the loopback."""
    tries = "; ".join(
        f"nc -w 1 {address} {PORT} </dev/null 2>/dev/null || echo nothing" for address in addresses
    )
    return "sh", "-c", f"{tries}; echo; echo $(($(ls /sys/class/net | wc -l) - 1))"


async def reach(docker: Docker, network: Network, *addresses: str) -> list[bytes]:
    run_id = await docker.launch(*script(*addresses), network=network)
    await docker.wait(run_id)
    return output(await docker.log(run_id)).replace(b"reached", b"reached\n").split()


async def other_job(docker: Docker, network: Network) -> tuple[str, str]:
    """A run that listens, and its address."""
    serve = f"while true; do echo reached | nc -l -p {PORT}; done & echo ready; wait"
    run_id = await docker.launch("sh", "-c", serve, network=network)
    await docker.read_until(run_id, b"ready")
    details = json.loads(await docker.call("GET", f"/containers/{run_id}/json"))
    (attached,) = details["NetworkSettings"]["Networks"].values()
    return run_id, attached["IPAddress"]


async def test_what_a_run_reaches(docker: Docker) -> None:
    _, neighbour = await other_job(docker, Network.BRIDGE)
    _, hidden = await other_job(docker, Network.ISOLATED)
    addresses = (HOST_ADDRESS, neighbour)
    # The default shows that there is something to reach.
    assert await reach(docker, Network.BRIDGE, *addresses) == [b"reached", b"reached", b"1"]
    assert await reach(docker, Network.BRIDGE, hidden) == [b"nothing", b"1"]
    nothing = [b"nothing"] * 3
    assert await reach(docker, Network.ISOLATED, *addresses, hidden) == [*nothing, b"1"]
    assert await reach(docker, Network.NONE, *addresses, hidden) == [*nothing, b"0"]


async def test_the_host_has_no_address_in_an_isolated_network(
    docker: Docker, bridged: BridgedEngine
) -> None:
    """So nothing of the host can be reached, on whatever addresses it listens."""
    await other_job(docker, Network.ISOLATED)
    (network,) = networks(docker)
    gateway = str(next(ipaddress.ip_network(network["IPAM"]["Config"][0]["Subnet"]).hosts()))
    assert await reach(docker, Network.ISOLATED, gateway) == [b"nothing", b"1"]
    shown = await asyncio.to_thread(
        subprocess.run,
        [
            *("nsenter", "-t", str(bridged.pid), "-n"),
            *("ip", "-4", "-o", "addr", "show", "dev", f"br-{network['Id'][:12]}"),
        ],
        capture_output=True,
        check=True,
    )
    assert shown.stdout == b""


async def test_names_are_not_looked_up_outside(docker: Docker) -> None:
    run_id = await docker.launch("cat", "/etc/resolv.conf", network=Network.ISOLATED)
    await docker.wait(run_id)
    servers = [
        line.split()[1]
        for line in output(await docker.log(run_id)).decode().splitlines()
        if line.startswith("nameserver")
    ]
    assert servers
    assert all(server.startswith("127.") for server in servers)


async def test_a_network_lives_as_long_as_its_run(docker: Docker) -> None:
    spec = replace(docker.spec("true"), network=Network.ISOLATED)
    run_id = await docker.executor.create(docker.host, spec)
    (network,) = networks(docker)
    assert network["Internal"]
    # Safe to repeat, for an execution that was handed on as well.
    assert await docker.executor.create(docker.host, spec) == run_id
    assert networks(docker) == [network]
    await docker.executor.start(docker.host, run_id)
    await docker.wait(run_id)
    (listed,) = await docker.executor.runs(docker.host)
    assert listed.run_id == run_id
    await docker.executor.remove(docker.host, run_id)
    assert networks(docker) == []


async def test_an_archived_run_needs_no_network(docker: Docker) -> None:
    run_id = await docker.launch("true", network=Network.ISOLATED)
    await docker.wait(run_id)
    await docker.executor.archive(docker.host, run_id)
    assert networks(docker) == []
    assert [each.run_id for each in await docker.executor.runs(docker.host)] == [run_id]


async def test_another_owner_removes_the_network(docker: Docker) -> None:
    spec = replace(docker.spec("true"), network=Network.ISOLATED)
    run_id = await docker.executor.create(docker.host, spec)
    successor = DockerExecutor()
    await successor.open(docker.installation)
    try:
        state = await successor.find(docker.host, spec.execution_id)
        assert state is not None
        await successor.remove(docker.host, run_id)
        assert networks(docker) == []
    finally:
        await successor.close()


async def test_a_network_without_its_container_is_swept(docker: Docker) -> None:
    """As a crash between the two leaves it: the sweep sees it as a run that has ended."""
    spec = replace(docker.spec("true"), network=Network.ISOLATED)
    await left_behind(docker, spec)
    (left,) = await docker.executor.runs(docker.host)
    assert (left.execution_id, left.phase) == (spec.execution_id, Phase.ENDED)
    assert left.run_id.startswith(PREFIX)
    assert (left.task_id, left.job_id) == (spec.task_id, spec.job_id)
    await docker.executor.archive(docker.host, left.run_id)
    await docker.executor.stop(docker.host, left.run_id, grace_seconds=0)
    assert len(networks(docker)) == 1
    for _ in range(2):
        await docker.executor.remove(docker.host, left.run_id)
        assert networks(docker) == []
    # An owner that continues there uses what is left.
    await left_behind(docker, spec)
    run_id = await docker.executor.create(docker.host, spec)
    assert len(networks(docker)) == 1
    await docker.executor.remove(docker.host, run_id)
    assert networks(docker) == []


async def left_behind(docker: Docker, spec: RunSpec) -> None:
    body = network_config(spec, docker.installation, 0)
    await docker.call("POST", "/networks/create", json.dumps(body).encode())


async def test_a_refused_run_leaves_no_network(docker: Docker) -> None:
    with pytest.raises(StartFailed):
        await docker.launch(
            "true", network=Network.ISOLATED, resources=Resources(memory_bytes=1024)
        )
    assert networks(docker) == []


async def test_more_networks_than_an_engine_has_pools_for(docker: Docker) -> None:
    specs = [replace(docker.spec("true"), network=Network.ISOLATED) for _ in range(40)]
    await asyncio.gather(*(docker.executor.create(docker.host, spec) for spec in specs))
    assert len(networks(docker)) == 40
    subnets = {each["IPAM"]["Config"][0]["Subnet"] for each in networks(docker)}
    assert len(subnets) == 40
    await docker.clear()
    assert networks(docker) == []


async def test_addresses_that_are_in_use_are_not_insisted_on(docker: Docker) -> None:
    first = replace(docker.spec("true"), network=Network.ISOLATED)
    body = network_config(SPEC, docker.installation, 0)
    body["IPAM"] = network_config(first, docker.installation, 0)["IPAM"]
    await docker.call("POST", "/networks/create", json.dumps(body).encode())
    await docker.executor.create(docker.host, first)
    assert {each["IPAM"]["Config"][0]["Subnet"] for each in networks(docker)} == {
        subnet(first.execution_id, 0),
        subnet(first.execution_id, 1),
    }
    await docker.clear()
    assert networks(docker) == []
