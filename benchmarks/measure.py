"""What a row of the table gets and gives, and the one way of taking turns."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from benchmarks.engine import BareEngine
from benchmarks.server import FastlaneProcess, running

T = TypeVar("T")

# What the server may take at its peak, in MB.
MEMORY_TARGET_MB = 250.0

MB = 1_000_000


class BenchError(Exception):
    """Something that makes a number meaningless; the message says what."""


@dataclass(frozen=True, slots=True)
class Setup:
    """A way to run the server: every row is measured on each setup."""

    name: str
    new_store: Callable[[], Mapping[str, str]] = dict
    """The environment variables of a server with an empty store; each call names another one."""
    shared: bool = False
    """Whether several servers may have one store."""


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table. Numbers are medians unless *what* says otherwise."""

    row: str
    setup: str
    what: str
    unit: str
    ours: float
    n: int
    """How many measurements stand behind ``ours``."""
    bare: float | None = None
    bare_what: str = ""
    compared: str = ""
    """The ratio or the difference, in words."""
    target: str = ""
    met: bool | None = None
    """None where there is no target."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """More numbers, for the JSON file."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What a row measures with."""

    engine: BareEngine
    setup: Setup
    quick: bool
    """Fewer and smaller measurements, to see that it all works."""

    def server(self, **options: str) -> AbstractAsyncContextManager[FastlaneProcess]:
        """A server of the row's own with an empty store, for as long as the context lasts.

        :param options: upper-case; those of the store come first.
        """
        return running({**self.setup.new_store(), **options})


class Row(Protocol):
    """A module of ``rows``."""

    NAME: str

    async def measure(self, bench: Bench) -> Sequence[Result]: ...


async def take_turns(
    rounds: int, ours: Callable[[], Awaitable[T]], bare: Callable[[], Awaitable[T]]
) -> tuple[list[T], list[T]]:
    """Measure A B A B, after one of each that does not count: the machine drifts."""
    await bare()
    await ours()
    results: tuple[list[T], list[T]] = ([], [])
    for _ in range(rounds):
        results[1].append(await bare())
        results[0].append(await ours())
    return results


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that *share* of all *values* do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1)]


def summary(values: Sequence[float]) -> dict[str, Any]:
    """What the JSON file keeps of *values*."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "all": [round(value, 6) for value in values],
    }
