"""``python -m benchmarks.viewers``: watches one log through many WebSockets, in its own process.

Reads a :class:`Watching` as JSON from stdin, writes one line when all are connected, and then a
:class:`Seen` as JSON. Frames are counted in the buffer that the socket was read into: on a machine
with two cores it is the server that is measured.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import cast

import uvloop

# Bounds one read from one socket, in bytes.
BUFFER_BYTES = 256 * 1024
# Bounds how often a viewer comes again that was told `retry` before it got anything.
RETRIES = 100

# RFC 6455, section 5.2.
_TEXT, _BINARY, _CLOSE, _PING = 0x1, 0x2, 0x8, 0x9
_CONTROL = 0x8
# RFC 6455, section 1.3: any 16 bytes; the answer to them is not checked here.
_KEY = "ZmFzdGxhbmUgYmVuY2htYXI="


@dataclass(frozen=True, slots=True)
class Watching:
    """Who watches what."""

    port: int
    path: str
    viewers: int
    checked: int
    """How many of them sum up what they get; the others count it."""


@dataclass(slots=True)
class Seen:
    """What the viewers saw. Times are seconds of the machine's monotonic clock."""

    bytes: list[int] = field(default_factory=list)
    checksums: list[int] = field(default_factory=list)
    """CRC-32 of the text, of those who summed up."""
    reasons: list[str] = field(default_factory=list)
    first_byte_at: float = 0.0
    last_byte_at: list[float] = field(default_factory=list)
    retries: int = 0


class Viewer(asyncio.BufferedProtocol):
    """One WebSocket in text frames."""

    def __init__(self, watching: Watching, *, checked: bool) -> None:
        self._watching = watching
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._kept = 0
        """Bytes at the start of the buffer that are no whole head or control frame yet."""
        self._open = False
        self._payload_left = 0
        self.checked = checked
        self.checksum = 0
        self.bytes = 0
        self.first_byte_at = 0.0
        self.last_byte_at = 0.0
        self.reason = "lost"
        loop = asyncio.get_running_loop()
        self.opened = loop.create_future()
        self.closed = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of it.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(
            (
                f"GET {self._watching.path} HTTP/1.1\r\nHost: 127.0.0.1:{self._watching.port}\r\n"
                "Connection: Upgrade\r\nUpgrade: websocket\r\n"
                f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {_KEY}\r\n\r\n"
            ).encode()
        )

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[self._kept :]

    def buffer_updated(self, nbytes: int) -> None:
        end = self._kept + nbytes
        start = 0
        if not self._open:
            start = self._handshake(end)
        while start < end:
            if self._payload_left:
                start = self._take(start, end)
                continue
            used = self._head(start, end)
            if used == 0:
                break
            start += used
        self._kept = end - start
        if start and self._kept:
            self._buffer[: self._kept] = bytes(self._buffer[start:end])

    def _handshake(self, end: int) -> int:
        head = bytes(self._buffer[:end])
        length = head.find(b"\r\n\r\n") + 4
        if length < 4:
            return 0
        if not head.startswith(b"HTTP/1.1 101"):
            self.reason = head[:200].decode(errors="replace")
            self._transport.abort()
            return end
        self._open = True
        self.opened.set_result(True)
        return length

    def _take(self, start: int, end: int) -> int:
        taken = min(self._payload_left, end - start)
        if not self.bytes:
            self.first_byte_at = time.monotonic()
        if self.checked:
            self.checksum = zlib.crc32(self._buffer[start : start + taken], self.checksum)
        self.bytes += taken
        self.last_byte_at = time.monotonic()
        self._payload_left -= taken
        return start + taken

    def _head(self, start: int, end: int) -> int:
        """Read a frame's head, or a whole control frame; 0 when it is not all there."""
        if end - start < 2:
            return 0
        opcode, length = self._buffer[start] & 0x0F, self._buffer[start + 1]
        head = 2 + {126: 2, 127: 8}.get(length, 0)
        if end - start < head:
            return 0
        if head > 2:
            length = int.from_bytes(self._buffer[start + 2 : start + head], "big")
        if not opcode & _CONTROL:
            self._payload_left = length
            return head
        if end - start < head + length:
            return 0
        payload = bytes(self._buffer[start + head : start + head + length])
        if opcode == _PING:
            # A client masks; four zeros leave the payload as it is.
            self._transport.write(bytes((0x8A, 0x80 | length, 0, 0, 0, 0)) + payload)
        elif opcode == _CLOSE:
            self.reason = payload[2:].decode()
            self._transport.close()
        return head + length

    def eof_received(self) -> None:
        pass

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_result(False)
        self.closed.set_result(None)


async def watch(watching: Watching) -> Seen:
    """Connect them all, say so, and stay until the last one has been sent everything."""
    seen = Seen()

    async def stay(viewer: Viewer) -> Viewer:
        for _ in range(RETRIES):
            await viewer.closed
            if viewer.reason != "retry" or viewer.bytes:
                break
            seen.retries += 1
            await asyncio.sleep(0.1)
            viewer = await _connect(watching, checked=viewer.checked)
        return viewer

    viewers = [
        await _connect(watching, checked=number < watching.checked)
        for number in range(watching.viewers)
    ]
    stays = [asyncio.create_task(stay(viewer)) for viewer in viewers]
    await asyncio.gather(*(viewer.opened for viewer in viewers))
    print("connected", flush=True)
    for viewer in await asyncio.gather(*stays):
        seen.bytes.append(viewer.bytes)
        seen.reasons.append(viewer.reason)
        seen.last_byte_at.append(viewer.last_byte_at)
        if viewer.checked:
            seen.checksums.append(viewer.checksum)
        if viewer.bytes:
            seen.first_byte_at = min(
                seen.first_byte_at or viewer.first_byte_at, viewer.first_byte_at
            )
    return seen


async def _connect(watching: Watching, *, checked: bool) -> Viewer:
    loop = asyncio.get_running_loop()
    _, viewer = await loop.create_connection(
        lambda: Viewer(watching, checked=checked), "127.0.0.1", watching.port
    )
    return viewer


@asynccontextmanager
async def from_own_process(watching: Watching) -> AsyncIterator[asyncio.Task[Seen]]:
    """:func:`watch` in a process of its own; entered once all viewers are connected."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.viewers"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # Bounds the one line that it answers with.
        limit=16 * 1024 * 1024,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    output = process.stdout
    process.stdin.write(json.dumps(asdict(watching)).encode())
    process.stdin.close()

    async def result() -> Seen:
        line = await output.readline()
        if not line:
            raise RuntimeError("the viewers failed")
        return Seen(**json.loads(line))

    try:
        if await output.readline() != b"connected\n":
            raise RuntimeError("the viewers could not connect")
        seen = asyncio.create_task(result())
        try:
            yield seen
        finally:
            seen.cancel()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def main() -> None:
    """Take the order from stdin, give what was seen to stdout."""
    watching = Watching(**json.loads(sys.stdin.read()))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        seen = runner.run(watch(watching))
    print(json.dumps(asdict(seen)), flush=True)


if __name__ == "__main__":
    main()
