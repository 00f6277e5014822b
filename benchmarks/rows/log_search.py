"""Searching a long log through the API, request by request, to its end."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.log import LINE
from benchmarks.measure import MB, MEMORY_TARGET_MB, Bench, BenchError, Result, summary
from benchmarks.server import FastlaneProcess
from benchmarks.stores import storage_of
from fastlane.bus.local import Bus
from tests.api.log_owner import Owner, make_lifecycle

NAME = "search"

TARGETS_MBS = {"sqlite": 200.0, "cluster": 80.0}
# A record of the Docker executor: what it reads of one stream at a time.
RECORD_LINES = 160
RECORDS_AT_ONCE = 64
# What is searched for: the last line, and nothing before it.
WORDS = "needle in it"
QUERIES = {
    "a word": f"q={WORDS.replace(' ', '+')}",
    "a regular expression": "q=%5Bm-o%5Deedle.%2Bit%24&regex=true",
}


async def measure(bench: Bench) -> Sequence[Result]:
    """``LOG_MAX_BYTES=0``: the log has no cap. The storage's reads are a part of it."""
    size = 100 * MB if bench.quick else 1000 * MB
    rounds = 1 if bench.quick else 3
    results = []
    with tempfile.TemporaryDirectory(prefix="fastlane-bench-") as directory:
        options = {"DATA_DIR": f"{directory}/data", **bench.setup.new_store()}
        path = await _fill(options, size)
        async with bench.server(**options) as server, server.peak_memory() as peak:
            for what, query in QUERIES.items():
                rates = [await _search(server, path, query, size) for _ in range(rounds)]
                rate, target = statistics.median(rates), TARGETS_MBS[bench.setup.name]
                results.append(
                    Result(
                        row=NAME,
                        setup=bench.setup.name,
                        what=f"{size // MB} MB of log searched for {what}",
                        unit="MB/s",
                        ours=rate,
                        n=rounds,
                        target=f"≥ {target:g} MB/s",
                        met=rate >= target,
                        details={"rates": summary(rates)},
                    )
                )
    results.append(
        Result(
            row=NAME,
            setup=bench.setup.name,
            what="the server's memory meanwhile, at its peak",
            unit="MB",
            ours=peak.mb,
            n=1,
            target=f"< {MEMORY_TARGET_MB:g} MB",
            met=peak.mb < MEMORY_TARGET_MB,
        )
    )
    return results


async def _fill(options: Mapping[str, str], size: int) -> str:
    """Store a log of *size* bytes; the path of its execution."""
    storage = storage_of(options)
    await storage.open()
    try:
        owner = Owner(storage, make_lifecycle(storage, Bus()), "search")
        await owner.start()
        record = f"{LINE}\n".encode() * RECORD_LINES
        for _ in range(size // (len(record) * RECORDS_AT_ONCE)):
            await owner.write(*[record] * RECORDS_AT_ONCE)
        await owner.write(f"a {WORDS}\n".encode())
        await owner.finish()
        return owner.path
    finally:
        await storage.close()


async def _search(server: FastlaneProcess, path: str, query: str, size: int) -> float:
    found: list[dict[str, Any]] = []
    after = "0"
    url = f"http://127.0.0.1:{server.port}{path}/logs/search/?{query}"
    began = time.perf_counter()
    while True:
        async with await server.client.read(f"{url}&after={after}") as response:
            answer = await response.json()
        found += answer["matches"]
        after = answer["nextAfter"]
        if answer["complete"]:
            break
    took_seconds = time.perf_counter() - began
    if [match["text"] for match in found] != [f"a {WORDS}"]:
        raise BenchError(f"the search found {len(found)} lines, or another one")
    return size / MB / took_seconds
