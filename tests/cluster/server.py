"""A fastlane server whose clock is off by ``CLOCK_SKEW`` seconds; otherwise as users run it."""

from __future__ import annotations

import asyncio
import os
import time

import uvloop

from fastlane import config, logs, server


def main() -> None:
    loaded = config.load()
    logs.configure(loaded)
    skew_seconds = float(os.environ.get("CLOCK_SKEW", "0"))

    def clock() -> float:
        return time.time() + skew_seconds

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(server.serve(server.Server(loaded, clock=clock)))


if __name__ == "__main__":
    main()
