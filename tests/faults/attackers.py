"""Clients that attack a server, in a process of their own.

::

    python -m tests.faults.attackers KIND COUNT PORT PATH

makes COUNT connections from 127.0.0.2 to 127.0.0.251, prints a line once the attack is under way,
and goes on until its standard input ends. A connection that the server closes is made again.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import resource
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

PEERS = 250
# How many connections are being made at a time.
AT_ONCE = 100
# Bounds the pause before a closed connection is made again, in seconds.
AGAIN_SECONDS = 0.5
MASK = b"\0\0\0\0"

Attack = Callable[[asyncio.StreamReader, asyncio.StreamWriter, str], Awaitable[None]]


def post(length: int, *headers: str) -> bytes:
    """The head of a submission with a body of *length* bytes."""
    lines = ["POST /tasks/attacked/ HTTP/1.1", "Host: localhost", f"Content-Length: {length}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode()


async def idle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> None:
    """Say nothing."""
    await reader.read()


async def half_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> None:
    """Leave out the last byte of 1 MB."""
    writer.write(post(1_000_000) + b" " * 999_999)
    await writer.drain()
    await reader.read()


async def no_reader(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> None:
    """Ask for the largest page, and read nothing of it."""
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    # The end of the connection is not seen either, and the server may have it back.
    await asyncio.sleep(60)


async def slow_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> None:
    """A byte of the request every second."""
    for byte in f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Long: {'x' * 1000}".encode():
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(1)


async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> None:
    """*data* again and again, whatever comes back."""
    reading = asyncio.create_task(reader.read())
    try:
        while not reading.done():
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(0)
    finally:
        reading.cancel()


async def open_socket(writer: asyncio.StreamWriter, path: str) -> None:
    writer.write(
        f"GET {path}ws/ HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    await writer.drain()


async def pings(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> None:
    """Pings without a pause."""
    await open_socket(writer, path)
    await flood(reader, writer, (b"\x89\xfd" + MASK + b"x" * 125) * 100)


async def fragments(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> None:
    """A message whose fragments never end, each of one byte or none."""
    await open_socket(writer, path)
    writer.write(b"\x01\x80" + MASK)
    await flood(reader, writer, (b"\x00\x80" + MASK) * 500)


async def requests(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> None:
    """Requests for nothing, without waiting for answers."""
    await flood(reader, writer, b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20)


async def large_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> None:
    """200 MB in chunks, whatever is answered."""
    writer.write(
        b"POST /tasks/attacked/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    for _ in range(200 * 1024**2 // 0x10000):
        writer.write(chunk)
        await writer.drain()


async def gzip_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> None:
    """A body that would unpack to 500 MB."""
    body = BOMB
    writer.write(post(len(body), "Content-Encoding: gzip") + body)
    await writer.drain()
    await reader.read()


async def many_keys(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> None:
    """1 MB of unknown keys."""
    body = b'{"a":1' + b"".join(b',"key%d":1' % number for number in range(70_000)) + b"}"
    writer.write(post(len(body), "Connection: close") + body)
    await writer.drain()
    await reader.read()


ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        idle,
        half_body,
        no_reader,
        slow_head,
        pings,
        fragments,
        requests,
        large_body,
        gzip_body,
        many_keys,
    )
}
BOMB = gzip.compress(b"\0" * 500_000_000, 1) if "gzip_body" in sys.argv else b""


@contextlib.asynccontextmanager
async def connection(
    port: int, number: int
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """From the address of attacker *number*."""
    address = (f"127.0.0.{2 + number % PEERS}", 0)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, local_addr=address, limit=2**16
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def attacker(
    attack: Attack,
    port: int,
    path: str,
    number: int,
    making: asyncio.Semaphore,
    begun: asyncio.Semaphore,
) -> None:
    first = True
    while True:
        try:
            async with contextlib.AsyncExitStack() as opened:
                async with making:
                    streams = await opened.enter_async_context(connection(port, number))
                if first:
                    begun.release()
                    first = False
                await attack(*streams, path)
        except OSError:
            pass
        await asyncio.sleep(AGAIN_SECONDS)


async def main(kind: str, count: int, port: int, path: str) -> None:
    # Attackers would be on other machines, and not take the server's processor.
    os.nice(10)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    making, begun = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(attacker(ATTACKS[kind], port, path, number, making, begun))
            for number in range(count)
        ]
        for _ in range(count):
            await begun.acquire()
        print("under way", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
