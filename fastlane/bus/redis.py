"""Carries events between instances by Redis publish/subscribe. Redis keeps nothing for us.

Events are only news, so a Redis that is flushed, restarted, out of memory or loses messages costs
time and nothing else, and there is nothing to rebuild: after every interruption each instance
assumes that it missed something.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import redis.asyncio as redis_client
import structlog
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import RedisError

from fastlane.bus.local import Bus
from fastlane.bus.wire import decode, encode
from fastlane.errors import ConfigError, StorageUnavailable
from fastlane.events import Event, LogGrown, Missed
from fastlane.pause import Pause

log = structlog.get_logger(__name__)

# Bounds one call, and the wait for a connection.
TIMEOUT_SECONDS = 2.0
# How often both connections are tested while there is nothing to send.
PING_SECONDS = 1.0
# Bounds the silence on the listening connection, which is pinged, too.
SILENCE_SECONDS = 4.0
# Bound the pause between two attempts while Redis is unreachable.
FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 1.0
# Bounds the wait for a cancelled task, before it is cancelled again.
CANCEL_AGAIN_SECONDS = 0.5
# Bounds the events that wait to be sent; beyond it, the others hear that they missed some.
WAITING_EVENTS = 10_000
# Bounds the events of one message.
MESSAGE_EVENTS = 500
# How long events are gathered for one message, which reports the growth of a log only once.
GATHER_SECONDS = 0.002

SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
SCHEMES = ("redis", "rediss", "unix", *SENTINEL_SCHEMES)
SENTINEL_PORT = 26379


class Relay:
    """Carries the events of one :class:`~fastlane.bus.local.Bus` to other instances and back."""

    def __init__(self, url: str, channel: str, bus: Bus) -> None:
        """:param channel: instances that share it hear each other, on any database of a Redis.

        :raises ConfigError: *url* is malformed.
        """
        check_url(url)
        self._url = url
        self._channel = channel
        self._bus = bus
        self._me = uuid.uuid4().hex
        self._client: redis_client.Redis | None = None
        self._sentinels: Sequence[redis_client.Redis] = ()
        self._waiting: dict[object, Event] = {}
        self._some_wait = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._faults: dict[str, str] = {}
        bus.relay_to(self.send)

    @property
    def failure(self) -> str | None:
        """What is known to be wrong with Redis, or None. Asks nobody."""
        return next(iter(self._faults.values()), None)

    def send(self, event: Event) -> None:
        """Send *event* to other instances, soon. Never waits and never fails."""
        if len(self._waiting) >= WAITING_EVENTS:
            self._missed()
        # Of a log only its newest length is news; everything else goes out in its order.
        name = (LogGrown, event.key) if isinstance(event, LogGrown) else event
        self._waiting.pop(name, None)
        self._waiting[name] = event
        self._some_wait.set()

    def _missed(self) -> None:
        self._waiting = {Missed(): Missed()}
        self._some_wait.set()

    async def open(self) -> None:
        """Connect, and relay until :meth:`close`.

        :raises StorageUnavailable: Redis cannot be reached.
        :raises ConfigError: the URL has an unknown option after its ``?``.
        """
        try:
            self._client, self._sentinels = make_client(self._url)
            await self._ping()
        except (TypeError, ValueError) as error:
            # redis-py hands unknown options on, until a call does not know them.
            await self.close()
            raise ConfigError(f"REDIS_URL has an unknown option: {error}.") from error
        except (RedisError, OSError, TimeoutError) as error:
            await self.close()
            raise StorageUnavailable(f"Redis cannot be reached: {_reason(error)}") from error
        self._tasks = [
            asyncio.create_task(self._keep_on("sending", self._send_all), name="relay out"),
            asyncio.create_task(self._keep_on("listening", self._listen), name="relay in"),
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
                log.debug("A connection to Redis could not be closed properly")

    async def check(self) -> str | None:
        """Ask Redis: what is wrong with it now, or None."""
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
        pause = Pause(FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        while True:
            try:
                await work()
            except (RedisError, OSError, TimeoutError) as error:
                if what not in self._faults:
                    log.warning("Redis is unreachable", connection=what, error=_reason(error))
                    pause.reset()
                self._faults[what] = _reason(error)
                self._missed()
            await pause.wait()

    def _works(self, what: str) -> None:
        if self._faults.pop(what, None) is not None:
            log.info("Redis is reachable again", connection=what)

    async def _send_all(self) -> None:
        assert self._client is not None
        while True:
            try:
                async with asyncio.timeout(PING_SECONDS):
                    await self._some_wait.wait()
            except TimeoutError:
                await self._ping()
                self._works("sending")
                continue
            self._some_wait.clear()
            await asyncio.sleep(GATHER_SECONDS)
            sent = dict(list(self._waiting.items())[:MESSAGE_EVENTS])
            message = encode(self._me, list(sent.values()))
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await cast(Any, self._client.publish(self._channel, message))
            for name, event in sent.items():
                # A log may have grown meanwhile.
                if self._waiting.get(name) is event:
                    del self._waiting[name]
            if self._waiting:
                self._some_wait.set()
            self._works("sending")

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
            self._works("listening")
            # What was sent while nobody listened here is not known.
            self._bus.deliver(Missed())
        if message["type"] != "message":
            return
        try:
            sender, news = decode(message["data"])
        except ValueError as error:
            log.warning("A message on the Redis channel cannot be read", error=str(error))
            return
        if sender == self._me:
            return
        for one in news:
            if isinstance(one, Event):
                self._bus.deliver(one)
            else:
                self._bus.wake(*one)


async def _closed(pubsub: Any) -> None:
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await pubsub.aclose()
    except (RedisError, OSError, TimeoutError):
        log.debug("The subscription to Redis could not be closed properly")


def check_url(url: str) -> None:
    """:raises ConfigError: *url* has an unknown scheme, or lacks its parts."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ConfigError(
            f"REDIS_URL must begin with one of {', '.join(f'{s}://' for s in SCHEMES)}."
        )
    if parts.scheme in SENTINEL_SCHEMES:
        sentinel_parts(url)


def sentinel_parts(url: str) -> tuple[list[tuple[str, int]], str, int, str | None, str | None]:
    """Sentinels, service, database, user and password of ``redis+sentinel://u:p@h:p,h:p/name/0``.

    :raises ConfigError: it is malformed.
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
    """A client for *url*, and those for its Sentinels; nothing is connected yet."""
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
