"""Answers that would hold up the event loop are encoded and compressed in a thread.

The encoder and the compressor work in pieces: the first keeps the interpreter's lock while it
works, so one call over the whole answer would hold up the loop from a thread as well.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from fastlane.encoding import to_json

# Bounds what is encoded on the loop (characters): a few milliseconds' worth with compression.
LARGE_CHARS = 256 * 1024
# Bounds what is searched for secrets on the loop (characters).
SLOW_CHARS = 64 * 1024
# zlib: the format of gzip, and the level that Tornado uses.
_GZIP_WINDOW, _GZIP_LEVEL = 16 + zlib.MAX_WBITS, 6
_CONTAINERS = (dict, list, tuple)


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Encoded:
    """A large answer, ready to be sent."""

    body: bytes
    etag: str


def is_large(value: Any) -> bool:
    """Whether *value* has more than :data:`LARGE_CHARS` characters as JSON, nearly."""
    return size(value, LARGE_CHARS) > LARGE_CHARS


def size(value: Any, enough: float = math.inf) -> int:
    """How many characters *value* has as JSON, nearly; not counted further once it is *enough*."""
    if isinstance(value, str):
        return len(value)
    found = 0
    waiting = [value] if isinstance(value, _CONTAINERS) else []
    while waiting and found <= enough:
        container = waiting.pop()
        found += 16 * len(container)
        for item in container.values() if type(container) is dict else container:
            kind = type(item)
            if kind is str:
                found += len(item)
            elif kind in _CONTAINERS:
                waiting.append(item)
    return found


async def off_the_loop(size: int, make: Callable[[], T]) -> T:
    """What *make* returns: called in a thread if it works on so many characters that it is slow."""
    return await asyncio.to_thread(make) if size > SLOW_CHARS else make()


def encode(value: Any, *, compressed: bool) -> Encoded:
    """*value* as JSON, compressed by gzip if wanted. Call it in a thread."""
    digest, compressor = hashlib.sha1(usedforsecurity=False), None
    if compressed:
        compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    found = []
    for piece in _pieces(value):
        data = piece.encode()
        digest.update(data)
        found.append(data if compressor is None else compressor.compress(data))
    if compressor is not None:
        found.append(compressor.flush())
    return Encoded(b"".join(found), f'"{digest.hexdigest()}"')


def _pieces(value: Any) -> Iterator[str]:
    if not is_large(value):
        yield to_json(value)
    elif isinstance(value, dict):
        yield "{"
        for number, (key, inner) in enumerate(value.items()):
            yield f"{',' if number else ''}{to_json(key)}:"
            yield from _pieces(inner)
        yield "}"
    elif isinstance(value, list | tuple):
        yield "["
        for number, inner in enumerate(value):
            if number:
                yield ","
            yield from _pieces(inner)
        yield "]"
    else:
        yield to_json(value)
