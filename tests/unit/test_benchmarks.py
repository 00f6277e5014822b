"""The benchmarks' own arithmetic: a number that is measured wrongly is worse than none."""

from __future__ import annotations

import asyncio
import json
import xml.etree.ElementTree
import zlib
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks.log import LINE, LongLog
from benchmarks.measure import Result, percentile, take_turns
from benchmarks.report import Machine, plot, print_table, write_files
from benchmarks.viewers import Viewer, Watching
from fastlane.api.streaming.encoded import frame_header

MACHINE = Machine("2026-01-01T00:00:00+00:00", "abc", "3.11", "6", 2, "20.10", 0.5)
RESULTS = [
    Result("a", "sqlite", "a <b> & c", "ms", 20.0, 3, 10.0, "bare", "+10 ms", "≤ +5 ms", False),
    Result("b", "sqlite", "no bare one", "%", 0.5, 1, target="< 1 %", met=True),
]


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True


def feed(viewer: Viewer, data: bytes, step: int) -> None:
    for start in range(0, len(data), step):
        piece = data[start : start + step]
        viewer.get_buffer(-1)[: len(piece)] = piece
        viewer.buffer_updated(len(piece))


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000, 100_000])
async def test_a_viewer_counts_the_text_however_it_is_cut(step: int) -> None:
    shares = [b"a" * 5, b"b" * 200, b"c" * 70_000]
    wire = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
    for share in shares:
        wire += frame_header(len(share)) + share
    wire += b"\x89\x02hi"
    wire += b"\x88\x06" + (1000).to_bytes(2, "big") + b"done"
    viewer = Viewer(Watching(1, "/", 1, 1), checked=True)
    transport = Wire()
    viewer.connection_made(cast(asyncio.BaseTransport, transport))
    request, transport.written = transport.written, b""
    assert request.startswith(b"GET / HTTP/1.1\r\n")

    feed(viewer, wire, step)

    assert viewer.bytes == sum(map(len, shares))
    assert viewer.checksum == zlib.crc32(b"".join(shares))
    assert viewer.reason == "done"
    assert transport.written == b"\x8a\x82\0\0\0\0hi"
    assert transport.closed


@pytest.mark.parametrize("size", [100, 1_000_000, 1_000_050])
def test_the_long_log_knows_its_bytes(size: int) -> None:
    text = f"{LINE}\n".encode() * (size // 100 + 1)

    assert LongLog(size).checksum == zlib.crc32(text[:size])


@pytest.mark.parametrize(
    ("values", "share", "found"), [([5], 0.99, 5), (range(1, 101), 0.99, 99), ([3, 1, 2], 0.5, 2)]
)
def test_percentile(values: Any, share: float, found: float) -> None:
    assert percentile(list(values), share) == found


async def test_turns_are_taken_and_the_first_does_not_count() -> None:
    order: list[str] = []

    async def turn(name: str) -> int:
        order.append(name)
        return len(order)

    ours, bare = await take_turns(2, lambda: turn("ours"), lambda: turn("bare"))

    assert order == ["bare", "ours"] * 3
    assert (ours, bare) == ([4, 6], [3, 5])


def test_the_report_is_readable_when_piped(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    print_table(RESULTS, MACHINE)
    write_files(RESULTS, MACHINE, tmp_path)

    printed = capsys.readouterr().out
    assert "MISSED" in printed
    assert "\x1b" not in printed
    assert json.loads((tmp_path / "latest.json").read_text())["results"][0]["bare"] == 10.0


def test_the_plot_is_well_formed() -> None:
    tree = xml.etree.ElementTree.fromstring(plot(RESULTS, MACHINE))

    assert any("a <b> & c" in (text.text or "") for text in tree.iter())
