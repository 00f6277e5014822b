"""A program that uses the client, for type checkers.

``make lint`` checks it beside the sources, ``make wheel`` against the installed client. What is
wrong on purpose is ignored, and an ignored line that is right is an error (mypy --strict).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

from fastlane_client import (
    AsyncClient,
    AsyncRun,
    Client,
    Event,
    Execution,
    ExecutionItem,
    JobFailed,
    LogRecord,
    Reason,
    Run,
    ServerStatus,
    Status,
    Task,
)


def blocking() -> None:
    with Client("http://localhost:10000", token="secret", patience=5) as client:
        run = client.submit("t", image="x", command=["a", "b"], retries=2, start_in="5m")
        assert_type(run, Run)
        assert_type(run.wait(timeout=5), Execution)
        assert_type(run.logs(follow=True), Iterator[LogRecord])
        assert_type(run.watch(), Iterator[LogRecord | Execution])
        assert_type(run.output("stdout"), Iterator[bytes])
        assert_type(run.retry(), Run)
        assert_type(client.tasks(), Iterator[Task])
        assert_type(client.executions(status=[Status.DONE]), Iterator[ExecutionItem])
        assert_type(client.status(), ServerStatus)
        try:
            run.wait()
        except JobFailed as failure:
            assert_type(failure.exit_code, int | None)
            assert_type(failure.execution.reason, Reason | None)
        client.submit("t", image="x", comand="a")  # type: ignore[call-arg]
        client.submit("t", image=1, command="a")  # type: ignore[arg-type]
        run.output("stdin")  # type: ignore[arg-type]
        run.execution().status = Status.DONE  # type: ignore[misc]


async def awaiting() -> None:
    async with AsyncClient() as client:
        run = await client.submit("t", image="x", command="a")
        assert_type(run, AsyncRun)
        assert_type(await run.wait(), Execution)
        assert_type(run.logs(), AsyncIterator[LogRecord])
        async for event in client.events(type="execution.*"):
            assert_type(event, Event)
        assert_type(await run.retry(), AsyncRun)
        client.submit("t", image="x", command="a").wait()  # type: ignore[attr-defined]
        for _ in client.tasks():  # type: ignore[attr-defined]
            pass
