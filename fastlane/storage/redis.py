"""News between instances, by Redis publish/subscribe. Redis keeps nothing for us.

What is told is a hint: who hears a topic reads the records again. So a Redis that is flushed, was
restarted, has no memory left or loses messages costs time and nothing else, and there is nothing to
rebuild: after every interruption each instance takes everything for news once.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import redis.asyncio as redis_client
import structlog
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import RedisError

from fastlane.errors import ConfigError, StorageUnavailable
from fastlane.events import Bus

log = structlog.get_logger(__name__)

# Bounds one call, and the wait for a connection.
TIMEOUT_SECONDS = 2.0
# How often both connections are tried out while there is no news.
PING_SECONDS = 1.0
# Bounds the silence on the listening connection, which is pinged, too.
SILENCE_SECONDS = 4.0
# Bounds the pause before the next try while Redis is away: doubled from the first.
FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 1.0
# Bounds the wait for what was cancelled, before it is cancelled again.
CANCEL_AGAIN_SECONDS = 0.5
# Bounds the topics that wait to be told; beyond, everything is news.
PENDING_TOPICS = 10_000
# Bounds the topics of one message.
MESSAGE_TOPICS = 500
# Bounds what is told together: topics of that long are one message, and each is in it once.
GATHER_SECONDS = 0.002

EVERYTHING = "*"
SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
SCHEMES = ("redis", "rediss", "unix", *SENTINEL_SCHEMES)
SENTINEL_PORT = 26379


class News:
    """Carries the topics of a :class:`~fastlane.events.Bus` to other instances and back."""

    def __init__(self, url: str, channel: str) -> None:
        """:param channel: who shares it hears each other; databases of Redis do not matter to it.

        :raises ConfigError: *url* is not one that is understood.
        """
        self._url = url
        self._channel = channel
        self._bus: Bus | None = None
        self._me = uuid.uuid4().hex
        self._client: redis_client.Redis | None = None
        self._sentinels: Sequence[redis_client.Redis] = ()
        self._pending: dict[str, None] = {}
        self._everything = False
        self._told = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._faults: dict[str, str] = {}
        check_url(url)

    @property
    def failure(self) -> str | None:
        """What is wrong with Redis, or None."""
        return next(iter(self._faults.values()), None)

    def carry(self, bus: Bus) -> None:
        """Carry the topics of *bus*; once, before :meth:`open`."""
        self._bus = bus
        bus.relay_to(self.tell)

    def tell(self, topic: str) -> None:
        """Tell other instances of *topic*, soon. Never waits and never fails."""
        if len(self._pending) >= PENDING_TOPICS:
            self._pending.clear()
            self._everything = True
        if not self._everything:
            self._pending[topic] = None
        self._told.set()

    async def open(self) -> None:
        """:raises StorageUnavailable: Redis cannot be reached.
        :raises ConfigError: the URL has an option behind its ``?`` that is not understood.
        """
        try:
            self._client, self._sentinels = make_client(self._url)
            await self._ping()
        except (TypeError, ValueError) as error:
            # What redis-py does not know it hands on, until a call does not take it.
            await self.close()
            raise ConfigError(f"REDIS_URL has an option that is not understood: {error}") from error
        except (RedisError, OSError, TimeoutError) as error:
            await self.close()
            raise StorageUnavailable(f"Redis cannot be reached: {_reason(error)}") from error
        self._tasks = [
            asyncio.create_task(self._keep_on("telling", self._tell_all), name="news out"),
            asyncio.create_task(self._keep_on("hearing", self._listen), name="news in"),
        ]

    async def close(self) -> None:
        """Safe to repeat."""
        pending = set(self._tasks)
        while pending:
            # Again, because `asyncio.wait_for` of Python 3.11, which redis-py writes by, loses a
            # cancellation that comes at the end of its wait (https://github.com/python/cpython/issues/86296).
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_SECONDS)
        self._tasks = []
        clients = [*self._sentinels, *([self._client] if self._client is not None else ())]
        self._client, self._sentinels = None, ()
        for client in clients:
            try:
                await client.aclose()
            except (RedisError, OSError):
                log.debug("redis connection ended badly")

    async def check(self) -> str | None:
        """What is wrong with Redis just now, or None."""
        if self._client is None:
            return "not connected"
        try:
            await self._ping()
        except (RedisError, OSError, TimeoutError) as error:
            return _reason(error)
        return self.failure

    async def _ping(self) -> None:
        assert self._client is not None
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await cast(Any, self._client.ping())

    async def _keep_on(self, what: str, work: Any) -> None:
        """Do *work* again whenever the connection breaks."""
        pause_seconds = FIRST_PAUSE_SECONDS
        while True:
            try:
                await work()
            except (RedisError, OSError, TimeoutError) as error:
                if what not in self._faults:
                    log.warning("redis is away", at=what, error=_reason(error))
                    pause_seconds = FIRST_PAUSE_SECONDS
                self._faults[what] = _reason(error)
                self._everything = True
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, MAX_PAUSE_SECONDS)

    def _works(self, what: str) -> None:
        if self._faults.pop(what, None) is not None:
            log.info("redis is back", at=what)

    async def _tell_all(self) -> None:
        assert self._client is not None
        while True:
            try:
                async with asyncio.timeout(PING_SECONDS):
                    if not self._everything:
                        await self._told.wait()
            except TimeoutError:
                await self._ping()
                self._works("telling")
                continue
            self._told.clear()
            await asyncio.sleep(GATHER_SECONDS)
            topics = [EVERYTHING] if self._everything else list(self._pending)[:MESSAGE_TOPICS]
            message = json.dumps({"from": self._me, "topics": topics})
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await cast(Any, self._client.publish(self._channel, message))
            if self._everything:
                self._everything = False
                self._pending.clear()
            for topic in topics:
                self._pending.pop(topic, None)
            if self._pending:
                self._told.set()
            self._works("telling")

    async def _listen(self) -> None:
        assert self._client is not None
        loop = asyncio.get_running_loop()
        pubsub = self._client.pubsub()
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await pubsub.subscribe(self._channel)
            heard_at = pinged_at = loop.time()
            while True:
                message = await pubsub.get_message(timeout=PING_SECONDS)
                now = loop.time()
                if message is not None:
                    heard_at = now
                    self._hear(message)
                elif now - heard_at > SILENCE_SECONDS:
                    raise TimeoutError("no answer on the listening connection")
                if now - pinged_at > PING_SECONDS:
                    pinged_at = now
                    async with asyncio.timeout(TIMEOUT_SECONDS):
                        await pubsub.ping()
        finally:
            await _closed(pubsub)

    def _hear(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            self._works("hearing")
            if self._bus is not None:
                # What was told while nobody listened is not known.
                self._bus.deliver_all()
            return
        if message["type"] != "message" or self._bus is None:
            return
        try:
            news = json.loads(message["data"])
            sender, topics = news["from"], list(news["topics"])
        except (ValueError, TypeError, KeyError):
            log.warning("news that cannot be read")
            return
        if sender == self._me:
            return
        for topic in topics:
            if topic == EVERYTHING:
                self._bus.deliver_all()
            elif isinstance(topic, str):
                self._bus.deliver(topic)


async def _closed(pubsub: Any) -> None:
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await pubsub.aclose()
    except (RedisError, OSError, TimeoutError):
        log.debug("redis subscription ended badly")


def check_url(url: str) -> None:
    """:raises ConfigError: *url* has no scheme that is understood, or lacks its parts."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ConfigError(f"REDIS_URL begins with none of {', '.join(f'{s}://' for s in SCHEMES)}.")
    if parts.scheme in SENTINEL_SCHEMES:
        sentinel_parts(url)


def sentinel_parts(url: str) -> tuple[list[tuple[str, int]], str, int, str | None, str | None]:
    """Sentinels, service, database, user and password of ``redis+sentinel://u:p@h:p,h:p/name/0``.

    :raises ConfigError: it is not written like that.
    """
    parts = urlsplit(url)
    login, _, places = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    service, _, database = parts.path.strip("/").partition("/")
    sentinels = []
    try:
        for place in places.split(","):
            host, colon, port = place.strip().rpartition(":")
            sentinels.append((host, int(port)) if colon else (port, SENTINEL_PORT))
        number = int(database or 0)
    except ValueError:
        number = -1
    if not service or number < 0 or not all(host for host, _ in sentinels):
        raise ConfigError(
            "REDIS_URL for Sentinel must be written redis+sentinel://host:port,host:port/service/0."
        )
    return sentinels, service, number, unquote(user) or None, unquote(password) or None


def make_client(url: str) -> tuple[redis_client.Redis, Sequence[redis_client.Redis]]:
    """A client for *url*, and those for the Sentinels behind it; nothing is connected yet."""
    options: dict[str, Any] = {
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
    }
    scheme = urlsplit(url).scheme
    if scheme not in SENTINEL_SCHEMES:
        return redis_client.Redis.from_url(url, **options), ()
    sentinels, service, number, user, password = sentinel_parts(url)
    # Sentinels speak TLS where their service does: they share its configuration.
    options["ssl"] = scheme.startswith("rediss")
    asked = redis_client.connection.parse_url(f"redis://any?{urlsplit(url).query}")
    options |= {name: value for name, value in asked.items() if name != "host"}
    finder: Any = cast(Any, Sentinel)(sentinels, sentinel_kwargs=dict(options), **options)
    client: redis_client.Redis = finder.master_for(
        service, db=number, username=user, password=password
    )
    return client, finder.sentinels


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
