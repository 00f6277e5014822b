"""Where a stream of bytes may be cut without cutting a character."""

from __future__ import annotations


def incomplete_tail(data: bytes) -> int:
    """How many bytes at the end of *data* (0 to 3) begin a UTF-8 character without ending it.

    Source: RFC 3629, section 4.
    """
    for count in range(1, min(3, len(data)) + 1):
        byte = data[-count]
        if byte & 0xC0 == 0x80:
            continue
        length = 2 if 0xC2 <= byte <= 0xDF else 3 if 0xE0 <= byte <= 0xEF else 4
        return count if 0xC2 <= byte <= 0xF4 and length > count else 0
    return 0
