"""Three machines as network namespaces on one switch, each with a mongod and an instance.

A machine is cut off at the switch: what is sent to it or by it disappears, as with a pulled cable
between two switches. Redis, and the test itself, reach each machine in another way, so that an
instance that is cut off still hears news and answers.
"""

from __future__ import annotations

import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from tests.cluster.instances import Instance, ProcessRuns, Servers
from tests.cluster.replica_set import Member, ReplicaSet
from tests.engines import EngineProxy, Namespace, in_namespace
from tests.services import RedisServer

NUMBERS = range(3)


def _address(number: int) -> str:
    return f"10.97.0.{number + 1}"


class Switch(Namespace):
    """Connects the machines."""

    def __init__(self) -> None:
        self.machines = [Namespace() for _ in NUMBERS]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        super().__enter__()
        self.ip("link add switch type bridge")
        self.ip("link set switch up")
        for number, machine in enumerate(self.machines):
            self._stack.enter_context(machine)
            wire = f"name port{number} netns {self.pid} type veth peer name wire netns"
            subprocess.run(["ip", "link", "add", *wire.split(), str(machine.pid)], check=True)
            machine.ip(f"addr add {_address(number)}/24 dev wire")
            machine.ip("link set wire up")
            self.ip(f"link set port{number} up")
            self.mend(number)
        return self

    def __exit__(self, *arguments: object) -> None:
        self._stack.close()
        super().__exit__(*arguments)

    def cut(self, number: int) -> None:
        """Cut a machine off from the others, silently."""
        self.ip(f"link set port{number} nomaster")

    def mend(self, number: int) -> None:
        """Connect it again."""
        self.ip(f"link set port{number} master switch")


class Inside:
    """A door from the test to a port of a machine."""

    def __init__(self, machine: Namespace, address: str, port: int) -> None:
        def connect() -> socket.socket:
            return in_namespace(machine.pid, lambda: socket.create_connection((address, port)))

        self.proxy = EngineProxy(connect)


class FarMember(Member):
    """A member on a machine; ``port`` is the test's way to it."""

    def __init__(self, directory: Path, switch: Switch, number: int) -> None:
        super().__init__(directory)
        self._machine, self._number, self._inner = switch.machines[number], number, self.port
        self._door = Inside(self._machine, _address(number), self._inner).proxy
        self._door.__enter__()
        self.port = self._door.port

    @property
    def address(self) -> str:
        return f"{_address(self._number)}:{self._inner}"

    def command(self) -> list[str]:
        words = super().command()
        words[words.index("--port") + 1] = str(self._inner)
        words[words.index("--bind_ip") + 1] = _address(self._number)
        return [*self._machine.enter, *words]

    def ping(self) -> bool:
        # The door is open in any case: behind it something must answer.
        try:
            in_namespace(
                self._machine.pid,
                lambda: socket.create_connection((_address(self._number), self._inner), timeout=1),
            ).close()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the test's way to it."""
        self._door.__exit__()


class FarReplicaSet(ReplicaSet):
    """A member on each machine."""

    def __init__(self, directory: Path, switch: Switch) -> None:
        self._switch = switch
        super().__init__(directory)

    def _member(self, directory: Path, number: int) -> Member:
        return FarMember(directory, self._switch, number)

    def __exit__(self, *arguments: object) -> None:
        super().__exit__(*arguments)
        for member in self.members:
            assert isinstance(member, FarMember)
            member.close()


class FarInstance(Instance):
    """An instance on a machine."""

    def __init__(self, directory: Path, machine: Namespace, **options: str) -> None:
        super().__init__(directory, **options)
        self.machine = machine

    def command(self) -> list[str]:
        return [*self.machine.enter, *super().command()]


class FarServers(Servers):
    """An instance on each machine."""

    def __init__(
        self,
        directory: Path,
        switch: Switch,
        members: FarReplicaSet,
        redis: RedisServer,
        **options: Any,
    ) -> None:
        super().__init__(directory, ProcessRuns(directory), count=0, **options)
        self._stack = ExitStack()
        self._doors: list[EngineProxy] = []
        for number, machine in enumerate(switch.machines):
            instance = FarInstance(
                directory / f"instance-{number}",
                machine,
                DATA_DIR=str(directory / "data"),
                MONGODB_URL=members.url,
                **self.runs.options,
                **options,
            )
            to_redis = EngineProxy(
                lambda: socket.create_connection(("127.0.0.1", redis.port)),
                in_namespace(machine.pid, lambda: socket.create_server(("127.0.0.1", 0))),
            )
            instance.options["REDIS_URL"] = f"redis://127.0.0.1:{to_redis.port}/0"
            door = Inside(machine, "127.0.0.1", instance.port).proxy
            instance.port = door.port
            self._doors += [to_redis, door]
            self.instances.append(instance)

    def __enter__(self) -> Self:
        for door in self._doors:
            self._stack.enter_context(door)
        return super().__enter__()

    def __exit__(self, *arguments: object) -> None:
        super().__exit__(*arguments)
        self._stack.close()
