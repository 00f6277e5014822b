"""Client connections: how many there may be, and what they may hold before and after a request.

Everything here bounds what somebody can take who is not known yet, so nothing here needs
credentials. The rules:

* A connection is nobody's until its first byte: it costs a descriptor and no stream, and is closed
  after :attr:`Limits.first_byte_seconds`.
* There are at most :attr:`Limits.total` connections, below the limit on open files, so that the
  storage, the engines and the log keep theirs, and at most :attr:`Limits.per_peer` of one peer.
  When either is reached, a silent or idle connection makes room for the new one, the oldest first;
  when all of them are busy, the new one is closed.
* Bytes of answers that clients have not read are counted, and so are those of large answers that
  are being made: a large answer waits for room before it is read from the storage, peers in turn.
  While the budget is exceeded, the answers that have made no progress for longest (at least
  :attr:`Limits.stalled_seconds`) are dropped; otherwise one is dropped after
  :attr:`Limits.abandoned_seconds`.
* Bytes of request bodies that are not complete are counted, and a body that makes no progress ends.

A peer is an address. A trusted proxy has no share of its own, because it serves many clients.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog
from tornado.httputil import HTTPConnection
from tornado.iostream import IOStream, StreamClosedError

log = structlog.get_logger(__name__)

# Descriptors that are kept for the storage, the engines, the log and the answers to those who are
# refused.
RESERVED_FILES = 256
# Bounds the connections where the limit on open files does not, and is the least there may be.
MAX_CONNECTIONS = 10_000
MIN_CONNECTIONS = 64
# Bounds the pieces of an answer, because a piece is kept until all of it is sent.
PIECE_BYTES = 64 * 1024
# Bodies up to this size have a part of the budget for themselves.
SMALL_BODY_BYTES = 16 * 1024
# Bounds all bodies that are under way, where a single one may not be larger.
BODY_BYTES = 32 * 1024**2
# Bounds the large answers that wait for room; each has read something already.
MAX_WAITING = 200
# How often timeouts are looked for, and how often the log says that somebody was refused.
SWEEP_SECONDS = 1.0
LOG_SECONDS = 60.0


class Crowded(Exception):
    """So many large answers wait for room that no other may."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the connections of one server may take; bytes and seconds."""

    total: int = MAX_CONNECTIONS
    per_peer: int = MAX_CONNECTIONS // 2
    first_byte_seconds: float = 10.0
    unsent_bytes: int = 48 * 1024**2
    unsent_bytes_per_peer: int = 24 * 1024**2
    stalled_seconds: float = 10.0
    abandoned_seconds: float = 300.0
    body_bytes: int = BODY_BYTES
    body_stalled_seconds: float = 10.0


def limits_for(open_files: int, largest_body: int = 0) -> Limits:
    """Limits for a process that may have *open_files* open.

    :param largest_body: the most bytes that a request may have; two such bodies fit.
    """
    total = max(MIN_CONNECTIONS, min(MAX_CONNECTIONS, open_files - RESERVED_FILES))
    return Limits(
        total=total,
        per_peer=max(1, total // 2),
        body_bytes=max(BODY_BYTES, largest_body * 5 // 2),
    )


def raise_file_limit() -> int:
    """Raise the soft limit on open files to the hard one, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            log.warning("The limit on open files could not be raised.", soft=soft, error=str(error))
        else:
            soft = hard
    return soft


@dataclass(eq=False, slots=True)
class _Share:
    """What one peer has."""

    peer: str
    count: int = 0
    unsent: int = 0
    silent: dict[socket.socket, float] = field(default_factory=dict)
    """Connections without a first byte, the oldest first, and when they were accepted."""
    idle: dict[Connection, None] = field(default_factory=dict)
    """Connections between two requests, the one that has been so for longest first."""


class Connection(IOStream):
    """A client's connection, which counts what it holds."""

    def __init__(self, sock: socket.socket, connections: Connections, share: _Share) -> None:
        super().__init__(sock)
        self.connections = connections
        self.share = share
        self.unsent = 0
        self.reserved = 0
        """Set aside in the budget for an answer that is being made."""
        self.body_bytes = 0
        self.progressed_at = connections.now()
        """When a byte of an answer was sent last, or the first one began to wait."""
        self.body_progressed_at = self.progressed_at

    def write(self, data: bytes | memoryview) -> asyncio.Future[None]:
        self._check_closed()
        self.connections.add_unsent(self, len(data))
        # What a view shows is shared by many connections, and not kept for this one.
        if isinstance(data, bytes) and len(data) > PIECE_BYTES:
            view = memoryview(data)
            for start in range(0, len(data), PIECE_BYTES):
                written = super().write(bytes(view[start : start + PIECE_BYTES]))
                if self.closed():
                    break
            return written
        return super().write(data)

    def write_to_fd(self, data: memoryview) -> int:
        sent = super().write_to_fd(data)
        self.connections.sent(self, sent)
        return sent

    def close_fd(self) -> None:
        self.connections.closed(self)
        super().close_fd()


@dataclass(eq=False, frozen=True, slots=True)
class _Turn:
    """A large answer that waits for room."""

    connection: Connection
    size: int
    come: asyncio.Future[None]


class Connections:
    """Every client connection of one server."""

    def __init__(
        self, limits: Limits, *, is_proxy: Callable[[str], bool] = lambda peer: False
    ) -> None:
        """:param is_proxy: whether an address is a proxy's that is trusted."""
        self.limits = limits
        self._is_proxy = is_proxy
        self._loop = asyncio.get_running_loop()
        self._shares: dict[str, _Share] = {}
        self._count = 0
        self.unsent = 0
        """Bytes that clients have not read, and those that are set aside."""
        self.body_bytes = 0
        self._sending: dict[Connection, None] = {}
        self._receiving: dict[Connection, None] = {}
        self._waiting_for_room: dict[str, deque[_Turn]] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        self._logged_at: dict[str, float] = {}

    def __len__(self) -> int:
        return self._count

    def now(self) -> float:
        """Seconds that never step."""
        return self._loop.time()

    # -- accepting ----------------------------------------------------------------------------

    def admit(self, sock: socket.socket, peer: str, begin: Callable[[Connection], None]) -> None:
        """Wait for the first byte on *sock* and then *begin*; or refuse it, which closes it."""
        share = self._shares.setdefault(peer, _Share(peer))
        if not self._has_room(share):
            self._drop_share(share)
            sock.close()
            self.say("refused", "Connections are refused: all others are busy.", peer=peer)
            return
        self._count += 1
        share.count += 1
        share.silent[sock] = self.now()

        def first_byte() -> None:
            self._loop.remove_reader(sock)
            del share.silent[sock]
            begin(Connection(sock, self, share))

        self._loop.add_reader(sock, first_byte)
        self._sweep_soon()

    def _has_room(self, share: _Share) -> bool:
        if not self._is_proxy(share.peer) and share.count >= self.limits.per_peer:
            return self._evict(share)
        if self._count >= self.limits.total:
            largest = max(self._shares.values(), key=lambda each: each.count)
            return self._evict(largest) or any(map(self._evict, self._shares.values()))
        return True

    def _evict(self, share: _Share) -> bool:
        """Close the connection of *share* that needs its place least, if one does not need it."""
        if share.silent:
            self._close_silent(share, next(iter(share.silent)))
        elif share.idle:
            next(iter(share.idle)).close()
        else:
            return False
        self.say("evicted", "Idle connections are closed to make room.", peer=share.peer)
        return True

    def _close_silent(self, share: _Share, sock: socket.socket) -> None:
        self._loop.remove_reader(sock)
        del share.silent[sock]
        sock.close()
        self._leave(share)

    def _leave(self, share: _Share) -> None:
        self._count -= 1
        share.count -= 1
        self._drop_share(share)

    def _drop_share(self, share: _Share) -> None:
        if share.count == 0:
            self._shares.pop(share.peer, None)

    # -- between and during requests ----------------------------------------------------------

    def idle(self, connection: Connection) -> None:
        """*connection* has no request: it may be closed when others need its place."""
        self._release(connection)
        connection.share.idle[connection] = None

    def busy(self, connection: Connection) -> None:
        """*connection* has a request."""
        connection.share.idle.pop(connection, None)

    def belongs_to(self, connection: Connection, peer: str) -> None:
        """*connection* is *peer*'s, as a trusted proxy says of this request."""
        share = connection.share
        if share.peer == peer:
            return
        unsent = connection.unsent + connection.reserved
        share.unsent -= unsent
        share.count -= 1
        share.idle.pop(connection, None)
        self._drop_share(share)
        connection.share = share = self._shares.setdefault(peer, _Share(peer))
        share.count += 1
        share.unsent += unsent

    def closed(self, connection: Connection) -> None:
        """*connection* is gone."""
        share = connection.share
        self.unsent -= connection.unsent
        share.unsent -= connection.unsent
        connection.unsent = 0
        self._release(connection)
        self._forget_turns(connection)
        share.idle.pop(connection, None)
        self._sending.pop(connection, None)
        self.body_done(connection)
        self._leave(share)
        self._give_room()

    # -- bodies -------------------------------------------------------------------------------

    def receive(self, connection: Connection, size: int) -> bool:
        """Count *size* more bytes of a body; False when the budget does not allow them."""
        limit = self.limits.body_bytes
        if connection.body_bytes + size > SMALL_BODY_BYTES:
            # The rest is for small ones.
            limit -= limit // 8
        if self.body_bytes + size > limit:
            self.say("bodies", "Request bodies are refused: too many are under way.")
            return False
        self.body_bytes += size
        connection.body_bytes += size
        connection.body_progressed_at = self.now()
        self._receiving[connection] = None
        self._sweep_soon()
        return True

    def body_done(self, connection: Connection) -> None:
        """The body of *connection* is complete, or is not wanted any more. Safe to repeat."""
        self.body_bytes -= connection.body_bytes
        connection.body_bytes = 0
        self._receiving.pop(connection, None)

    # -- answers ------------------------------------------------------------------------------

    def add_unsent(self, connection: Connection, size: int) -> None:
        """*size* bytes of an answer are about to wait for *connection*'s client."""
        if size == 0:
            return
        if connection.unsent == 0:
            connection.progressed_at = self.now()
            self._sending[connection] = None
            self._sweep_soon()
        connection.unsent += size
        aside = min(size, connection.reserved)
        connection.reserved -= aside
        connection.share.unsent += size - aside
        self.unsent += size - aside

    def sent(self, connection: Connection, size: int) -> None:
        """*connection*'s client has accepted *size* bytes."""
        if size <= 0:
            return
        connection.progressed_at = self.now()
        connection.unsent -= size
        connection.share.unsent -= size
        self.unsent -= size
        if connection.unsent <= 0:
            self._sending.pop(connection, None)
        self._give_room()

    async def room(self, connection: Connection, size: int) -> None:
        """Wait until a large answer may be made, and set *size* bytes aside for it.

        They are set aside until as many are written, or *connection* has no request any more. Those
        who wait get their turns peer by peer, and those of one peer in order of asking.

        :raises StreamClosedError: *connection* was closed meanwhile.
        :raises Crowded: too many wait already.
        """
        if connection.closed():
            raise StreamClosedError
        # More would have to wait until nobody else has anything.
        size = min(size, self.limits.unsent_bytes_per_peer // 2)
        if size <= connection.reserved:
            return
        if sum(map(len, self._waiting_for_room.values())) >= MAX_WAITING:
            raise Crowded
        # Who waits must hold nothing, or all could wait for each other.
        self._release(connection)
        turn = _Turn(connection, size, self._loop.create_future())
        self._waiting_for_room.setdefault(connection.share.peer, deque()).append(turn)
        self._give_room()
        if not turn.come.done():
            self._sweep_soon()
        try:
            await turn.come
        except asyncio.CancelledError:
            self._forget_turns(connection)
            self._release(connection)
            raise

    def made(self, connection: Connection) -> None:
        """*connection*'s answer is written: nothing more needs to be set aside for it."""
        self._release(connection)
        self._give_room()

    def _release(self, connection: Connection) -> None:
        """Give up what is set aside for *connection*."""
        self.unsent -= connection.reserved
        connection.share.unsent -= connection.reserved
        connection.reserved = 0

    def _has_share(self, peer: str, size: int = 0) -> bool:
        share = self._shares.get(peer)
        return (
            share is None
            or self._is_proxy(peer)
            or _fits(share.unsent, size, self.limits.unsent_bytes_per_peer)
        )

    def _give_room(self) -> None:
        """Let in those who wait, as far as there is room."""
        given = bool(self._waiting_for_room)
        while given:
            given = False
            for peer, turns in tuple(self._waiting_for_room.items()):
                turn = turns[0]
                if not self._has_share(peer, turn.size):
                    continue
                if not _fits(self.unsent, turn.size, self.limits.unsent_bytes):
                    # Nobody overtakes: otherwise small answers could keep out a larger one.
                    return
                turns.popleft()
                # Its peer is the last to have another turn.
                del self._waiting_for_room[peer]
                if turns:
                    self._waiting_for_room[peer] = turns
                connection = turn.connection
                connection.reserved += turn.size
                connection.share.unsent += turn.size
                self.unsent += turn.size
                if not turn.come.done():
                    turn.come.set_result(None)
                given = True

    def _forget_turns(self, connection: Connection) -> None:
        for peer, turns in tuple(self._waiting_for_room.items()):
            for turn in [one for one in turns if one.connection is connection]:
                turns.remove(turn)
                if not turn.come.done():
                    turn.come.set_exception(StreamClosedError())
            if not turns:
                del self._waiting_for_room[peer]

    # -- timeouts -----------------------------------------------------------------------------

    def _sweep_soon(self) -> None:
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = None
        now = self.now()
        for share in list(self._shares.values()):
            for sock, since in list(share.silent.items()):
                if now - since < self.limits.first_byte_seconds:
                    break
                self._close_silent(share, sock)
        for connection in list(self._receiving):
            if now - connection.body_progressed_at >= self.limits.body_stalled_seconds:
                connection.close()
        self._drop_stalled(now)
        self._give_room()
        if (
            self._sending
            or self._receiving
            or self._waiting_for_room
            or any(each.silent for each in self._shares.values())
        ):
            self._sweep_soon()

    def _drop_stalled(self, now: float) -> None:
        """Drop abandoned answers, and stalled ones as long as a budget is exceeded."""
        for connection in sorted(self._sending, key=lambda each: each.progressed_at):
            stalled = now - connection.progressed_at
            if stalled < self.limits.stalled_seconds:
                return
            if stalled >= self.limits.abandoned_seconds or self._is_wanted(connection.share.peer):
                self.say(
                    "stalled",
                    "Answers that are not read are dropped.",
                    peer=connection.share.peer,
                    unsent_bytes=self.unsent,
                )
                connection.close()

    def _is_wanted(self, peer: str) -> bool:
        """Whether others need what *peer*'s answers hold of a budget."""
        if self.unsent >= self.limits.unsent_bytes or not self._has_share(peer):
            return True
        return peer in self._waiting_for_room or any(
            self._has_share(other, turns[0].size) for other, turns in self._waiting_for_room.items()
        )

    def say(self, kind: str, sentence: str, **context: Any) -> None:
        """Log *sentence*, at most once in :data:`LOG_SECONDS` for each kind."""
        now = self.now()
        if now - self._logged_at.get(kind, -LOG_SECONDS) >= LOG_SECONDS:
            self._logged_at[kind] = now
            log.warning(sentence, connections=self._count, **context)

    def close(self) -> None:
        """Close the connections that never said a word, and stop looking for timeouts."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        for share in list(self._shares.values()):
            for sock in list(share.silent):
                self._close_silent(share, sock)


def _fits(used: int, size: int, limit: int) -> bool:
    """Whether *size* more bytes fit; more than the whole limit fits while nothing is used."""
    return used <= 0 or used + max(size, 1) <= limit


def connection_of(http: HTTPConnection | None) -> Connection | None:
    """The client's connection below *http*; None where another server accepted it (tests)."""
    stream = getattr(http, "stream", None)
    return stream if isinstance(stream, Connection) else None
