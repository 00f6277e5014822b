"""A long log whose every byte is known."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

LINE = "".join(chr(ord("a") + number % 26) for number in range(99))


@dataclass(frozen=True, slots=True)
class LongLog:
    """*size* bytes on stdout in lines of 100 bytes, made as fast as busybox can."""

    size: int

    def command(self, *, pause_seconds: int = 0) -> list[str]:
        """What writes it, behind a pause in which viewers can connect."""
        script = f"yes {LINE} | head -c {self.size}"
        return ["sh", "-c", f"sleep {pause_seconds}; {script}" if pause_seconds else script]

    @property
    def checksum(self) -> int:
        """CRC-32 of it all."""
        block = f"{LINE}\n".encode() * 10_000
        whole, rest = divmod(self.size, len(block))
        checksum = 0
        for _ in range(whole):
            checksum = zlib.crc32(block, checksum)
        return zlib.crc32(block[:rest], checksum)
