"""Log records packed into the chunks that a storage keeps.

A chunk's sequence numbers have no gap, so a record is packed without its own.
"""

from __future__ import annotations

import struct

from fastlane.model import LogRecord, Stream

# Bounds a chunk that still takes in the next append, and so what an append writes again.
MERGED_CHUNK_BYTES = 16 * 1024

_HEADER = struct.Struct("<dBI")
"""Before each record's data: its time, its stream and the length of its data."""
_STREAMS = (Stream.STDOUT, Stream.STDERR, Stream.FASTLANE)
_STREAM_CODES = {stream: code for code, stream in enumerate(_STREAMS)}


def pack(record: LogRecord, parts: list[bytes]) -> None:
    """Add *record* to the *parts* of a chunk."""
    parts.append(_HEADER.pack(record.at, _STREAM_CODES[record.stream], len(record.data)))
    parts.append(record.data)


def take(
    records: bytes, first_seq: int, after: int, room: int, taken: list[LogRecord]
) -> tuple[bool, int]:
    """Unpack what lies behind *after* into *taken*, as far as there is *room* for its data.

    :return: whether all of it was, and the room that is left.
    """
    offset = 0
    seq = first_seq
    header_size = _HEADER.size
    while offset < len(records):
        at, code, size = _HEADER.unpack_from(records, offset)
        offset += header_size
        if seq > after:
            if taken and size > room:
                return False, room
            taken.append(LogRecord(seq, at, _STREAMS[code], records[offset : offset + size]))
            room -= size
        offset += size
        seq += 1
    return True, room
