"""``python -m benchmarks.load``: posts as fast as it is answered, from a process of its own.

Reads a :class:`Load` as JSON from stdin and writes an :class:`Answered` as JSON to stdout. It
writes bytes made beforehand and looks for the end of each answer, so that on a machine with two
cores it is the server that is measured.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field

import uvloop


@dataclass(frozen=True, slots=True)
class Load:
    """What to send, and for how long or how often."""

    port: int
    bodies: list[str]
    """Payloads in turn."""
    tasks: int
    """Over how many task names they are spread."""
    concurrency: int
    seconds: float | None = None
    requests: int | None = None


@dataclass(slots=True)
class Answered:
    """What came back."""

    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    errors: int = 0
    first_error: str = ""


async def generate(load: Load) -> Answered:
    """Send *load* over as many keep-alive connections as its concurrency."""
    requests = [
        _request(load.port, f"load-{task}", body)
        for task in range(load.tasks)
        for body in load.bodies
    ]
    answered = Answered()
    sent = 0
    began = time.perf_counter()
    ends = None if load.seconds is None else began + load.seconds

    async def connection() -> None:
        nonlocal sent
        reader, writer = await asyncio.open_connection("127.0.0.1", load.port)
        while (ends is None or time.perf_counter() < ends) and (
            load.requests is None or sent < load.requests
        ):
            request = requests[sent % len(requests)]
            sent += 1
            start = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(_content_length(head))
            answered.latencies_ms.append((time.perf_counter() - start) * 1000)
            if not head.startswith(b"HTTP/1.1 200"):
                answered.errors += 1
                answered.first_error = answered.first_error or (head + body).decode()[:1000]
        writer.close()

    await asyncio.gather(*(connection() for _ in range(load.concurrency)))
    answered.seconds = time.perf_counter() - began
    return answered


def _request(port: int, task: str, body: str) -> bytes:
    data = body.encode()
    return (
        f"POST /tasks/{task}/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    ).encode() + data


def _content_length(head: bytes) -> int:
    start = head.lower().index(b"content-length:") + len(b"content-length:")
    return int(head[start : head.index(b"\r\n", start)])


async def from_own_process(load: Load) -> Answered:
    """:func:`generate` in a process of its own.

    :raises RuntimeError: an answer was not a 200.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.load"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate(json.dumps(asdict(load)).encode())
    if process.returncode != 0:
        raise RuntimeError("the load generator failed")
    answered = Answered(**json.loads(output))
    if answered.errors:
        raise RuntimeError(f"{answered.errors} answers were no 200: {answered.first_error}")
    return answered


def main() -> None:
    """Take the load from stdin, give the answers to stdout."""
    load = Load(**json.loads(sys.stdin.read()))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        answered = runner.run(generate(load))
    json.dump(asdict(answered), sys.stdout)


if __name__ == "__main__":
    main()
