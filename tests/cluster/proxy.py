"""A TCP proxy that cuts, delays and resets connections at random, also behind a request.

It runs on a loop in a thread of its own, so that it goes on while a test blocks.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from dataclasses import dataclass
from typing import Self

from tests.services import free_port

# Bounds one read of the proxy, in bytes.
CHUNK_BYTES = 64 * 1024


@dataclass
class Faults:
    """How likely each fault is for one piece of traffic (0 to 1)."""

    reset_after_request: float = 0.0
    """The request goes through, the connection is reset before the answer."""
    cut: float = 0.0
    """The connection ends in the middle."""
    delay: float = 0.0
    delay_seconds: float = 0.5


class Proxy:
    """Listens on a port of its own and passes on to *target_port*."""

    def __init__(self, target_port: int, *, seed: int) -> None:
        self.port = free_port()
        self.faults = Faults()
        self.counts = {"reset": 0, "cut": 0, "delay": 0}
        self._target_port = target_port
        self._chance = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()
        self._ended: asyncio.Event | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._ended is not None
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._listen())

    async def _listen(self) -> None:
        self._ended = asyncio.Event()
        server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
        self._ready.set()
        await self._ended.wait()
        server.close()
        carrying = asyncio.all_tasks() - {asyncio.current_task()}
        for task in carrying:
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        # An aborted transport closes its socket in the loop's next round.
        await asyncio.sleep(0)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.close()
            return
        self._writers.add(up_writer)
        pair = (
            asyncio.create_task(self._pump(reader, up_writer, writer, requests=True)),
            asyncio.create_task(self._pump(up_reader, writer, up_writer, requests=False)),
        )
        try:
            await asyncio.wait(pair, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in pair:
                task.cancel()
            await asyncio.gather(*pair, return_exceptions=True)
            for one in (writer, up_writer):
                one.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        other: asyncio.StreamWriter,
        *,
        requests: bool,
    ) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if self._chance.random() < self.faults.delay:
                self.counts["delay"] += 1
                await asyncio.sleep(self.faults.delay_seconds)
            if self._chance.random() < self.faults.cut:
                self.counts["cut"] += 1
                writer.write(data[: len(data) // 2])
                await writer.drain()
                return
            writer.write(data)
            await writer.drain()
            if requests and self._chance.random() < self.faults.reset_after_request:
                self.counts["reset"] += 1
                # The server has the request; its answer finds nobody.
                await asyncio.sleep(0.02)
                _reset(other)
                return


def _reset(writer: asyncio.StreamWriter) -> None:
    bound: socket.socket | None = writer.get_extra_info("socket")
    if bound is not None:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
