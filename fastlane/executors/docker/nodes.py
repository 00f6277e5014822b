"""What a manager of a swarm knows of the nodes."""

from __future__ import annotations

import asyncio
import math
import time

from fastlane.executors.docker.engine import Engine

# Bounds the age of the list of nodes, which serves all runs of a swarm.
NODES_SECONDS = 1.0
# A node in one of these states is unreachable; under a new manager it is "unknown" for a moment.
UNREACHABLE = frozenset({"down", "disconnected"})


class Nodes:
    """What a manager knows of the nodes; it is asked once for all runs, at most once a second."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._states: dict[str, str] = {}
        self._asked_at = -math.inf
        self._asking = asyncio.Lock()

    async def state(self, node: str) -> str:
        """The node's state; one that no longer exists is "removed"."""
        async with self._asking:
            if time.monotonic() >= self._asked_at + NODES_SECONDS:
                found = await self._engine.call("GET", "nodes")
                self._states = {each["ID"]: each["Status"]["State"] for each in found}
                self._asked_at = time.monotonic()
            return self._states.get(node, "removed")
