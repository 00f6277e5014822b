"""Engines behind a wire that a test holds in its hand: lost answers, TLS, other network namespaces.

:class:`EngineProxy` carries connections to an engine of a test's own; :class:`TlsEngine` is one
that speaks TLS, in its own network namespace, reached through such a proxy.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import trustme

from scripts.engine import Engine, EngineError
from tests.engine import EngineServer
from tests.services import SERVER_TIMEOUT

# setns(2): the kind of a network namespace.
CLONE_NEWNET = 0x40000000
# Bounds one read of a connection, in bytes.
CHUNK_BYTES = 64 * 1024
TLS_PORT = 2376


class EngineProxy:
    """Listens on a free port of the loopback and carries each connection to an engine."""

    def __init__(
        self, connect: Callable[[], socket.socket], listener: socket.socket | None = None
    ) -> None:
        self._connect = connect
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.lose: bytes | None = None
        """What a request must hold for its answer to be lost: the next one only."""
        self.lost = threading.Event()
        """An answer was lost."""

    @classmethod
    def to_socket(cls, url: str) -> Self:
        """To the engine at ``unix://…``."""

        def connect() -> socket.socket:
            upstream = socket.socket(socket.AF_UNIX)
            upstream.connect(url.removeprefix("unix://"))
            return upstream

        return cls(connect)

    @property
    def host(self) -> str:
        """As in ``DOCKER_HOSTS``."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # A blocked accept is woken by this, and not by the close.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client:
            try:
                upstream = self._connect()
            except OSError:
                return
            with upstream:
                back = threading.Thread(target=self._answers, args=(upstream, client), daemon=True)
                back.start()
                self._requests(client, upstream)
                back.join()

    def _requests(self, client: socket.socket, upstream: socket.socket) -> None:
        with suppress(OSError):
            while chunk := client.recv(CHUNK_BYTES):
                if self.lose is not None and self.lose in chunk:
                    self.lose = None
                    upstream.sendall(chunk)
                    # The answer arrives here, and nowhere else.
                    self._swallow = upstream
                    continue
                upstream.sendall(chunk)
        with suppress(OSError):
            upstream.shutdown(socket.SHUT_WR)

    _swallow: socket.socket | None = None

    def _answers(self, upstream: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while chunk := upstream.recv(CHUNK_BYTES):
                if self._swallow is upstream:
                    self._swallow = None
                    self.lost.set()
                    break
                client.sendall(chunk)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


class Namespace:
    """A network namespace that outlives the engines in it, and ends with the test at the latest."""

    def __enter__(self) -> Self:
        # Its process ends when nobody holds the other end of its input any more.
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up; echo up; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"up\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.communicate(timeout=SERVER_TIMEOUT)

    @property
    def pid(self) -> int:
        """A process in it."""
        return self._holder.pid

    @property
    def enter(self) -> list[str]:
        """What stands before a command that is to run in it."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net"]

    def ip(self, arguments: str) -> None:
        """``ip`` with *arguments* in it."""
        subprocess.run([*self.enter, "ip", *arguments.split()], check=True)


def in_namespace(pid: int, make: Callable[[], socket.socket]) -> socket.socket:
    """A socket of the network namespace of process *pid*; whoever has it may use it anywhere."""
    made: list[socket.socket] = []
    errors: list[OSError] = []

    def enter_and_make() -> None:
        try:
            namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
            try:
                # Of this thread only, which ends here.
                if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(namespace)
            made.append(make())
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=enter_and_make)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return made[0]


class SwarmEngine(EngineServer):
    """A dockerd that is a node of a swarm, on an address of its own network namespace.

    :param namespace: where its interface is already; without, it makes both at each start, and is
        the one node.
    """

    ADDRESS = "10.99.0.1"

    def __init__(self, directory: Path, namespace: Namespace | None = None) -> None:
        super().__init__(directory)
        self._namespace = namespace

    def command(self) -> list[str]:
        """See :meth:`Server.command`."""
        unshare, net, *rest = super().command()
        # Tasks want a bridge.
        dockerd = [option for option in rest if option != "--bridge=none"]
        dockerd += ["--bip", "10.98.0.1/24"]
        if self._namespace is not None:
            return [*self._namespace.enter, *dockerd]
        # A swarm wants an address that is not the loopback's.
        network = (
            "ip link set lo up; ip link add swarm0 type veth peer name swarm1; "
            f"ip addr add {self.ADDRESS}/24 dev swarm0; ip link set swarm0 up; "
            'ip link set swarm1 up; exec "$@"'
        )
        return [unshare, net, "sh", "-c", network, "sh", *dockerd]

    def start(self) -> None:
        """See :meth:`Server.start`; the first time it makes the swarm."""
        super().start()
        if Engine(self.url).get("/info")["Swarm"]["LocalNodeState"] == "inactive":
            self.make_member()

    def make_member(self) -> None:
        """Make the swarm."""
        body = {"ListenAddr": f"{self.ADDRESS}:2377", "AdvertiseAddr": self.ADDRESS}
        self.post("/swarm/init", body)

    def post(self, path: str, body: object) -> None:
        """One POST to it."""
        Engine(self.url).call("POST", path, json.dumps(body).encode(), timeout=60)

    @property
    def node(self) -> str:
        """Its id in the swarm."""
        return str(Engine(self.url).get("/info")["Swarm"]["NodeID"])

    def __exit__(self, *arguments: object) -> None:
        if self._process is not None:
            with suppress(EngineError):
                Engine(self.url).call("POST", "/swarm/leave?force=1", timeout=60)
        super().__exit__(*arguments)


class SwarmWorker(SwarmEngine):
    """A dockerd that joins the swarm of *manager* as a worker."""

    ADDRESS = "10.99.0.2"

    def __init__(self, directory: Path, namespace: Namespace, manager: SwarmEngine) -> None:
        super().__init__(directory, namespace)
        self._manager = manager

    def make_member(self) -> None:
        """Join the swarm."""
        tokens = Engine(self._manager.url).get("/swarm")["JoinTokens"]
        body = {
            "ListenAddr": f"{self.ADDRESS}:2377",
            "AdvertiseAddr": self.ADDRESS,
            "RemoteAddrs": [f"{self._manager.ADDRESS}:2377"],
            "JoinToken": tokens["Worker"],
        }
        self.post("/swarm/join", body)


class TwoNodeSwarm:
    """A manager and a worker, each in its own network namespace, on the two ends of a wire."""

    # How often the worker says that it lives; its node is down after three times of that.
    HEARTBEAT_SECONDS = 1.0

    def __init__(self, directory: Path) -> None:
        self._stack = ExitStack()
        self._ends = (Namespace(), Namespace())
        self.manager = SwarmEngine(directory / "manager", self._ends[0])
        self.worker = SwarmWorker(directory / "worker", self._ends[1], self.manager)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for end in self._ends:
                stack.enter_context(end)
            first, second = self._ends
            wire = "name wire netns {} type veth peer name wire netns {}"
            subprocess.run(["ip", "link", "add", *wire.format(first.pid, second.pid).split()])
            for end, engine in zip(self._ends, (self.manager, self.worker), strict=True):
                end.ip(f"addr add {engine.ADDRESS}/24 dev wire")
                end.ip("link set wire up")
            stack.enter_context(self.manager)
            swarm = Engine(self.manager.url).get("/swarm")
            spec = swarm["Spec"]
            spec["Dispatcher"] = {"HeartbeatPeriod": int(self.HEARTBEAT_SECONDS * 1e9)}
            self.manager.post(f"/swarm/update?version={swarm['Version']['Index']}", spec)
            stack.enter_context(self.worker)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *arguments: object) -> None:
        self.mend()
        self._stack.close()

    def cut(self) -> None:
        """Cut the wire between the nodes."""
        self._ends[1].ip("link set wire down")

    def mend(self) -> None:
        """Put the wire together again. Safe to repeat."""
        self._ends[1].ip("link set wire up")

    def node(self, engine: SwarmEngine) -> dict[str, Any]:
        """What the manager knows of a node."""
        found: dict[str, Any] = Engine(self.manager.url).get(f"/nodes/{engine.node}")
        return found

    def set_availability(self, engine: SwarmEngine, availability: str) -> None:
        """Make a node ``active``, or ``drain`` it."""
        node = self.node(engine)
        spec = {**node["Spec"], "Availability": availability}
        self.manager.post(f"/nodes/{node['ID']}/update?version={node['Version']['Index']}", spec)


class TlsEngine(EngineServer):
    """A dockerd that takes TLS with a client's certificate only; ``host`` reaches it."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        self.certificates = directory / "certificates"
        self.certificates.mkdir(parents=True)
        authority.cert_pem.write_to_path(self.certificates / "ca.pem")
        for names, prefix in ((("127.0.0.1", "localhost"), "server-"), (("client",), "")):
            leaf = authority.issue_cert(*names)
            leaf.private_key_pem.write_to_path(self.certificates / f"{prefix}key.pem")
            for number, pem in enumerate(leaf.cert_chain_pems):
                pem.write_to_path(self.certificates / f"{prefix}cert.pem", append=number > 0)
        super().__init__(
            directory / "engine",
            "--tlsverify",
            *("--tlscacert", str(self.certificates / "ca.pem")),
            *("--tlscert", str(self.certificates / "server-cert.pem")),
            *("--tlskey", str(self.certificates / "server-key.pem")),
            *("-H", f"tcp://127.0.0.1:{TLS_PORT}"),
        )
        self._proxy = EngineProxy(self._connect)

    @property
    def host(self) -> str:
        """Where it speaks TLS."""
        return self._proxy.host

    def command(self) -> list[str]:
        """See :meth:`Server.command`."""
        unshare, net, *rest = super().command()
        # Its loopback is down in a new namespace.
        return [unshare, net, "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *rest]

    def _connect(self) -> socket.socket:
        return in_namespace(
            self.pid, lambda: socket.create_connection(("127.0.0.1", TLS_PORT), timeout=None)
        )

    def __enter__(self) -> Self:
        self._proxy.__enter__()
        return super().__enter__()

    def __exit__(self, *arguments: object) -> None:
        self._proxy.__exit__()
        super().__exit__(*arguments)
