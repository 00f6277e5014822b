"""What a shell completes: context names, task names and ids from the server. It never fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

# Bounds the completions that are offered.
_MANY = 50
# Bounds the time that a shell waits for the server, in seconds.
_SECONDS = 2.0

Completer = Callable[[str], list[str]]


def contexts(incomplete: str) -> list[str]:
    """Names of contexts."""
    from fastlane.cli.contexts import read

    return [name for name in sorted(read().named) if name.startswith(incomplete)]


def tasks(incomplete: str) -> list[str]:
    """Names of tasks that have executions, newest first."""
    return list(dict.fromkeys(_of_executions("task_id", incomplete)))


def targets(incomplete: str) -> list[str]:
    """Task names, and ids of executions."""
    return [*tasks(incomplete), *_of_executions("execution_id", incomplete)][:_MANY]


def _of_executions(field: str, incomplete: str) -> Iterator[str]:
    with suppress(Exception):
        from itertools import islice

        from fastlane.cli.contexts import choose
        from fastlane_client import Client

        context = choose(None, None).context
        with Client(context.url, token=context.token, timeout=_SECONDS, patience=0) as client:
            for item in islice(client.executions(), _MANY):
                if (value := getattr(item, field)).startswith(incomplete):
                    yield value
