"""Events over Redis: relayed with their content, bounded, and missed during an interruption."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import redis.asyncio
import trustme

from fastlane.bus.local import Bus
from fastlane.bus.redis import WAITING_EVENTS, Relay, check_url, sentinel_parts
from fastlane.errors import ConfigError, StorageUnavailable
from fastlane.events import KINDS, ExecutionChanged, HostChanged, LogGrown, Missed, QueueChanged
from fastlane.model import Reason, Status
from tests.eventually import eventually
from tests.fakes import MemoryExecutor
from tests.services import RedisServer, free_port, frozen
from tests.unit.test_events import check_life, live, until_final
from tests.unit.test_runner import Instance

CHANNEL = "fastlane:{test}:news"


# Bounds the wait for an event, in seconds.
EVENT_SECONDS = 15.0
# Bounds how long Sentinel takes to put another in the place of a master that is gone, in seconds.
FAIL_OVER_SECONDS = 40.0


@asynccontextmanager
async def listening(url: str, kind: type[Relay] = Relay) -> AsyncIterator[tuple[Relay, Bus]]:
    bus = Bus()
    relay = kind(url, CHANNEL, bus)
    with bus.subscribe(Missed) as ready:
        await relay.open()
        # Sent once it listens.
        assert await ready.wait(EVENT_SECONDS)
    try:
        yield relay, bus
    finally:
        await relay.close()


@pytest.fixture
def redis_own(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


STOPPED = ExecutionChanged("task", "job", "1", Status.RUNNING, stop_reason=Reason.STOPPED)


async def test_events_reach_the_others_by_kind_and_key(redis_server: RedisServer) -> None:
    async with listening(redis_server.url) as (_, here), listening(redis_server.url) as (_, there):
        with (
            there.subscribe(ExecutionChanged, key="1", keep=10) as stop,
            there.subscribe(ExecutionChanged, key="2") as other,
        ):
            here.publish(STOPPED)
            assert await stop.wait(EVENT_SECONDS)
            assert stop.taken() == (STOPPED,)
            assert not await other.wait(0)


async def test_the_life_of_a_job_on_another_instance(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Seam 4 over a relay."""
    async with (
        listening(redis_server.url) as (_, there),
        Instance(tmp_path, MemoryExecutor()) as one,
    ):
        relay = Relay(redis_server.url, CHANNEL, one.bus)
        await relay.open()
        try:
            with there.subscribe(*KINDS, keep=1000) as everything:
                job_id = await live(one)
                check_life(await until_final(everything, attempts=2), job_id)
        finally:
            await relay.close()


async def test_the_release_before_is_understood_and_understands(redis_server: RedisServer) -> None:
    """It knows topics, and nothing of what happened."""
    async with listening(redis_server.url) as (_, bus), here_client(redis_server) as client:
        with (
            bus.subscribe(ExecutionChanged, key="1", wanted=lambda _: False) as stop,
            bus.subscribe(QueueChanged) as queue,
            bus.subscribe(HostChanged) as hosts,
        ):
            await client.publish(
                CHANNEL, json.dumps({"from": "old", "topics": ["stop:1", "queue", "new:1"]})
            )
            assert await stop.wait(EVENT_SECONDS)
            assert await queue.wait(EVENT_SECONDS)
            await client.publish(CHANNEL, json.dumps({"from": "old", "topics": ["*"]}))
            assert await hosts.wait(EVENT_SECONDS)
        async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(CHANNEL)
            assert await pubsub.get_message(timeout=EVENT_SECONDS) is None
            bus.publish(STOPPED, LogGrown("task", "job", "1", 7))
            message = await pubsub.get_message(timeout=EVENT_SECONDS)
    assert {"log:1", "stop:1", "queue"} <= set(json.loads(message["data"])["topics"])


async def test_what_a_later_release_adds_is_left_out(redis_server: RedisServer) -> None:
    async with listening(redis_server.url) as (_, bus), here_client(redis_server) as client:
        with bus.subscribe(LogGrown, ExecutionChanged, keep=10) as news:
            events = [
                ["JobDreamt", {"job_id": "1"}],
                ["ExecutionChanged", {"execution_id": "1", "status": "levitating"}],
                [
                    "LogGrown",
                    {"task_id": "t", "job_id": "j", "execution_id": "e", "last_seq": 3, "of": 4},
                ],
            ]
            for data in (b"[", b"[]", b"7", json.dumps({"from": "new", "events": events})):
                await client.publish(CHANNEL, data)
            assert await news.wait(EVENT_SECONDS)
            assert news.taken() == (LogGrown("t", "j", "e", 3),)


async def test_sending_never_waits_and_is_bounded(redis_own: RedisServer) -> None:
    async with listening(redis_own.url) as (news, here):
        redis_own.kill()
        for number in range(3 * WAITING_EVENTS):
            here.publish(LogGrown("task", "job", str(number), 1))
        assert len(news._waiting) <= WAITING_EVENTS
        await eventually(lambda: news.failure is not None, "a failure", EVENT_SECONDS)
        redis_own.start()
        await eventually(lambda: news.failure is None, "its end", EVENT_SECONDS)
        async with listening(redis_own.url) as (_, there):
            with there.subscribe(LogGrown, key="1") as log:
                here.publish(LogGrown("task", "job", "1", 1))
                assert await log.wait(EVENT_SECONDS)


async def test_after_a_restart_everybody_has_missed_something(redis_own: RedisServer) -> None:
    async with listening(redis_own.url) as (_, bus):
        with bus.subscribe(LogGrown, key="1") as log:
            redis_own.kill()
            redis_own.start()
            assert await log.wait(EVENT_SECONDS)


async def test_a_frozen_redis_is_noticed(redis_own: RedisServer) -> None:
    async with listening(redis_own.url) as (news, _):
        with frozen(redis_own.pid):
            await eventually(lambda: news.failure is not None, "a failure", EVENT_SECONDS)
            assert await news.check() is not None
        await eventually(lambda: news.failure is None, "its end", EVENT_SECONDS)


async def test_a_redis_without_memory_still_relays(redis_own: RedisServer) -> None:
    async with listening(redis_own.url) as (_, here), listening(redis_own.url) as (_, there):
        client = here_client(redis_own)
        await client.config_set("maxmemory", "1")
        await client.aclose()
        with there.subscribe(QueueChanged) as queue:
            here.publish(QueueChanged())
            assert await queue.wait(EVENT_SECONDS)


def here_client(server: RedisServer) -> redis.asyncio.Redis:
    return redis.asyncio.Redis.from_url(server.url)


class LosesACancellation(Relay):
    """As `asyncio.wait_for` of Python 3.11 does, at times."""

    async def _listen(self) -> None:
        with suppress(asyncio.CancelledError):
            await super()._listen()
        await super()._listen()


async def test_a_lost_cancellation_does_not_hold_up_the_end(redis_server: RedisServer) -> None:
    async with asyncio.timeout(EVENT_SECONDS):
        async with listening(redis_server.url, LosesACancellation):
            """It listens."""


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable):
        await Relay(f"redis://127.0.0.1:{free_port()}/0", CHANNEL, Bus()).open()


class SocketRedis(RedisServer):
    """On a Unix socket as well."""

    def command(self) -> list[str]:
        return [*super().command(), "--unixsocket", str(self.directory / "s")]


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    with SocketRedis(tmp_path / "r") as server:
        async with listening(f"unix://{server.directory}/s") as (news, _):
            assert await news.check() is None


class TlsRedis(RedisServer):
    """Takes TLS only, with a certificate of an authority that nobody knows."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        directory.mkdir(parents=True)
        self.authority, self.key, self.chain = (
            directory / name for name in ("ca.pem", "key.pem", "cert.pem")
        )
        authority = trustme.CA()
        leaf = authority.issue_cert("127.0.0.1")
        authority.cert_pem.write_to_path(self.authority)
        leaf.private_key_pem.write_to_path(self.key)
        leaf.cert_chain_pems[0].write_to_path(self.chain)

    def tls_options(self, port: int) -> dict[str, str]:
        return {
            "tls-port": str(port),
            "port": "0",
            "tls-cert-file": str(self.chain),
            "tls-key-file": str(self.key),
            "tls-ca-cert-file": str(self.authority),
            "tls-auth-clients": "no",
        }

    def command(self) -> list[str]:
        options = self.tls_options(self.port).items()
        return [
            *super().command(),
            *(word for name, value in options for word in (f"--{name}", value)),
        ]

    def ping(self) -> bool:
        return self.ask(b"", lambda _: True)


async def test_over_tls(tmp_path: Path) -> None:
    with TlsRedis(tmp_path / "redis") as server:
        url = f"rediss://127.0.0.1:{server.port}/0"
        trusting = f"{url}?ssl_cert_reqs=none"
        async with (
            listening(f"{url}?ssl_ca_certs={server.authority}") as (_, here),
            listening(trusting) as (_, there),
        ):
            with there.subscribe(QueueChanged) as queue:
                here.publish(QueueChanged())
                assert await queue.wait(EVENT_SECONDS)
        with pytest.raises(StorageUnavailable, match="certificate verify failed"):
            await Relay(url, CHANNEL, Bus()).open()


async def test_an_option_that_is_none(redis_server: RedisServer) -> None:
    for option in ("ssl_cert_reqs=none", "db=x", "flavour=mint"):
        with pytest.raises(ConfigError, match="REDIS_URL has an unknown option"):
            await Relay(f"{redis_server.url}?{option}", CHANNEL, Bus()).open()


class ClusterNode(RedisServer):
    """One of the nodes of a Redis Cluster; the bus between them is 10000 above its port."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        while self.port > 55000:
            self.port = free_port()

    def command(self) -> list[str]:
        return [*super().command(), "--cluster-enabled", "yes"]


async def test_over_the_nodes_of_a_redis_cluster(tmp_path: Path) -> None:
    """Messages go from node to node, so that any of them will do."""
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(ClusterNode(tmp_path / f"node-{number}")) for number in range(3)
        ]
        places = [f"127.0.0.1:{node.port}" for node in nodes]
        made = await asyncio.create_subprocess_exec(
            *("redis-cli", "--cluster", "create", *places, "--cluster-yes"),
            stdout=asyncio.subprocess.DEVNULL,
        )
        assert await made.wait() == 0
        async with listening(nodes[0].url) as (_, here), listening(nodes[1].url) as (_, there):
            with there.subscribe(QueueChanged) as queue:
                here.publish(QueueChanged())
                assert await queue.wait(EVENT_SECONDS)


class Replica(RedisServer):
    """Follows *master*, and may become one in a moment."""

    def __init__(self, directory: Path, master: RedisServer) -> None:
        super().__init__(directory)
        self._master = master

    def command(self) -> list[str]:
        follow = ("--replicaof", f"127.0.0.1 {self._master.port}")
        return [*super().command(), *follow, "--repl-diskless-sync-delay", "0"]


class Sentinel(RedisServer):
    """Watches *master* under the name ``mymaster``; a second away and another takes over."""

    def __init__(self, directory: Path, master: RedisServer) -> None:
        super().__init__(directory)
        directory.mkdir(parents=True)
        listens = {"port": str(self.port)}
        self._tls = isinstance(master, TlsRedis)
        if isinstance(master, TlsRedis):
            listens = master.tls_options(self.port) | {"tls-replication": "yes"}
        (directory / "sentinel.conf").write_text(
            "".join(f"{name} {value}\n" for name, value in listens.items()) + "bind 127.0.0.1\n"
            f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds mymaster 1000\n"
        )

    def command(self) -> list[str]:
        return ["redis-server", str(self.directory / "sentinel.conf"), "--sentinel"]

    def ping(self) -> bool:
        return self.ask(b"", lambda _: True) if self._tls else super().ping()


async def test_through_sentinel(tmp_path: Path, redis_own: RedisServer) -> None:
    with Sentinel(tmp_path / "sentinel", redis_own) as sentinel:
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster/0"
        async with listening(url) as (_, here), listening(redis_own.url) as (_, there):
            with there.subscribe(QueueChanged) as queue:
                here.publish(QueueChanged())
                assert await queue.wait(EVENT_SECONDS)


async def test_through_sentinel_over_tls(tmp_path: Path) -> None:
    with (
        TlsRedis(tmp_path / "redis") as server,
        Sentinel(tmp_path / "sentinel", server) as sentinel,
    ):
        options = f"?ssl_ca_certs={server.authority}"
        url = f"rediss+sentinel://127.0.0.1:{sentinel.port}/mymaster/0{options}"
        direct = f"rediss://127.0.0.1:{server.port}/0{options}"
        async with listening(url) as (_, here), listening(direct) as (_, there):
            with there.subscribe(QueueChanged) as queue:
                here.publish(QueueChanged())
                assert await queue.wait(EVENT_SECONDS)


async def test_sentinel_makes_another_the_master(tmp_path: Path, redis_own: RedisServer) -> None:
    with (
        Replica(tmp_path / "replica", redis_own) as replica,
        Sentinel(tmp_path / "sentinel", redis_own) as sentinel,
    ):
        async with here_client(sentinel) as watching:

            async def knows_the_replica() -> bool:
                return bool((await watching.info("sentinel"))["master0"]["slaves"] == 1)

            await eventually(knows_the_replica, "the replica", FAIL_OVER_SECONDS)
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster/0"
        async with listening(url) as (_, here), listening(url) as (_, there):
            redis_own.kill()
            with there.subscribe(QueueChanged) as queue:
                reached = partial(both_listen, replica)
                await eventually(reached, "the new master", FAIL_OVER_SECONDS, every=0.05)
                # The new subscription says that something was missed.
                while await queue.wait(0):
                    pass
                here.publish(QueueChanged())
                assert await queue.wait(EVENT_SECONDS)


async def both_listen(server: RedisServer) -> bool:
    """Whether both listen there."""
    async with here_client(server) as client:
        ((_, count),) = await client.pubsub_numsub(CHANNEL)
    return bool(count == 2)


def test_the_parts_of_a_sentinel_url() -> None:
    parts = sentinel_parts("redis+sentinel://u:p%40@a:1,b/name/3")
    assert parts == ([("a", 1), ("b", 26379)], "name", 3, "u", "p@")
    for wrong in ("redis+sentinel://a:1", "redis+sentinel://a:x/name", "redis+sentinel:///name/0"):
        with pytest.raises(ConfigError):
            check_url(wrong)
    with pytest.raises(ConfigError):
        check_url("http://localhost")
