"""Writes an execution's log into a storage as its owner does, for tests of those who read it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from fastlane.bus.local import Bus
from fastlane.lifecycle import Lifecycle
from fastlane.model import (
    Backoff,
    Definition,
    Execution,
    Farm,
    LogCap,
    LogRecord,
    Outcome,
    Reason,
    Schedule,
    Status,
    Stream,
)
from fastlane.storage.base import Storage

FARM = Farm(name="default", hosts=("localhost",), max_running=100)
DEFINITION = Definition.parse(image="busy:latest", command="true")


class Owner:
    """Runs one execution at a time, with a log that the test dictates."""

    def __init__(self, storage: Storage, lifecycle: Lifecycle, task_id: str = "watched") -> None:
        self.storage = storage
        self.lifecycle = lifecycle
        self.task_id = task_id
        self.seq = 0
        self.execution: Execution | None = None
        self.job_id = ""

    async def submit(
        self,
        *,
        schedule: Schedule | None = None,
        expires_at: float | None = None,
        retries: int = 0,
        retry_after: float = 60.0,
    ) -> Execution | None:
        """Store a job; its first execution when it has one.

        :param retry_after: seconds between the attempts.
        """
        definition = Definition.parse(
            image="busy:latest",
            command="true",
            expires_at=expires_at,
            retries=retries,
            backoff=Backoff(min_ms=retry_after * 1000, factor=1.0, max_ms=retry_after * 1000),
        )
        submitted = await self.lifecycle.submit(
            task_id=self.task_id,
            job_id=None,
            definition=definition,
            schedule=schedule or Schedule(),
        )
        self.job_id = submitted.job.id
        self.execution = submitted.execution
        self.seq = 0
        return self.execution

    async def claim(self) -> Execution:
        self.execution = await self.lifecycle.claim(FARM, "localhost")
        assert self.execution is not None
        assert self.execution.job_id == self.job_id
        return self.execution

    async def start(self, **options: Any) -> Execution:
        """Submit (see :meth:`submit`), claim and start."""
        await self.submit(**options)
        execution = await self.claim()
        self.execution = await self.lifecycle.started(execution, "run-1")
        return self.execution

    async def start_retry(self) -> Execution:
        """Claim and start the attempt that follows the one that has just failed."""
        await self.lifecycle.queue_due(10)
        self.seq = 0
        self.execution = await self.lifecycle.started(await self.claim(), "run-2")
        return self.execution

    async def write(
        self, *pieces: bytes | tuple[Stream, bytes], cap: LogCap | None = None
    ) -> Sequence[LogRecord]:
        """Append *pieces* (stdout unless said otherwise), each as a record."""
        assert self.execution is not None
        records = []
        for piece in pieces:
            stream, data = (Stream.STDOUT, piece) if isinstance(piece, bytes) else piece
            self.seq += 1
            records.append(LogRecord(self.seq, time.time(), stream, data))
        await self.lifecycle.append_log(self.execution, records, bookmark=str(self.seq), cap=cap)
        return records

    async def finish(self, exit_code: int | None = 0) -> Execution:
        assert self.execution is not None
        status = Status.DONE if exit_code == 0 else Status.FAILED
        outcome = Outcome(status, Reason.EXIT_CODE, exit_code)
        return await self.lifecycle.finish(self.execution, outcome)

    @property
    def job_path(self) -> str:
        return f"/tasks/{self.task_id}/jobs/{self.job_id}"

    @property
    def path(self) -> str:
        """The execution's."""
        assert self.execution is not None
        return f"{self.job_path}/executions/{self.execution.id}"


def make_lifecycle(storage: Storage, bus: Bus) -> Lifecycle:
    """A lifecycle of an instance of its own, with one farm."""
    return Lifecycle(storage, bus, clock=time.time, farms=[FARM], instance=f"test-{uuid.uuid4()}")
