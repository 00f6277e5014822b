"""Engines behind a wire that a test holds in its hand: lost answers, TLS, other network namespaces.

:class:`EngineProxy` carries connections to an engine of a test's own; :class:`TlsEngine` is one
that speaks TLS, in its own network namespace, reached through such a proxy.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

import trustme

from scripts.engine import Engine, EngineError
from tests.engine import EngineServer

# setns(2): the kind of a network namespace.
CLONE_NEWNET = 0x40000000
# Bounds one read of a connection, in bytes.
CHUNK_BYTES = 64 * 1024
TLS_PORT = 2376


class EngineProxy:
    """Listens on a free port of the loopback and carries each connection to an engine."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connect = connect
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.lose: bytes | None = None
        """What a request must hold for its answer to be lost: the next one only."""
        self.lost = threading.Event()
        """An answer was lost."""

    @classmethod
    def to_socket(cls, url: str) -> EngineProxy:
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


class SwarmEngine(EngineServer):
    """A dockerd that is the one node of a swarm, on an address of its own network namespace."""

    ADDRESS = "10.99.0.1"

    def command(self) -> list[str]:
        """See :meth:`Server.command`."""
        unshare, net, *rest = super().command()
        # A swarm wants an address that is not the loopback's, and its tasks want a bridge.
        network = (
            "ip link set lo up; ip link add swarm0 type veth peer name swarm1; "
            f"ip addr add {self.ADDRESS}/24 dev swarm0; ip link set swarm0 up; "
            'ip link set swarm1 up; exec "$@"'
        )
        options = [option for option in rest if option != "--bridge=none"]
        return [unshare, net, "sh", "-c", network, "sh", *options, "--bip", "10.98.0.1/24"]

    def start(self) -> None:
        """See :meth:`Server.start`; the first time it makes the swarm."""
        super().start()
        engine = Engine(self.url)
        if engine.get("/info")["Swarm"]["LocalNodeState"] == "inactive":
            body = {"ListenAddr": f"{self.ADDRESS}:2377", "AdvertiseAddr": self.ADDRESS}
            engine.call("POST", "/swarm/init", json.dumps(body).encode(), timeout=60)

    def __exit__(self, *arguments: object) -> None:
        if self._process is not None:
            with suppress(EngineError):
                Engine(self.url).call("POST", "/swarm/leave?force=1", timeout=60)
        super().__exit__(*arguments)


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
        namespace = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
        try:
            # Of this thread only, which ends with its connection.
            if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(namespace)
        return socket.create_connection(("127.0.0.1", TLS_PORT), timeout=None)

    def __enter__(self) -> Self:
        self._proxy.__enter__()
        return super().__enter__()

    def __exit__(self, *arguments: object) -> None:
        self._proxy.__exit__()
        super().__exit__(*arguments)
