"""Executions: one of them, and its stop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastlane.api import large
from fastlane.api.base import SMALL_BYTES, BaseHandler, Room
from fastlane.api.ends import requested_wait
from fastlane.api.forced import is_forced
from fastlane.api.lookup import find_execution
from fastlane.api.schemas import build, responses
from fastlane.api.schemas.build import Output
from fastlane.api.waiting import reasons
from fastlane.model import Delivery, Status, Stream
from fastlane.model import Execution as ExecutionRecord
from fastlane.storage.base import Storage

# API.md: "at most the last 64 KiB of each".
OUTPUT_BYTES = 64 * 1024


async def read_outputs(
    storage: Storage, executions: Sequence[ExecutionRecord], room: Room | None = None
) -> dict[str, Output]:
    """The ends of both streams of each of *executions*, by its id, as much as an answer shows.

    :param room: is waited for before much is read.
    """
    ran = [one.id for one in executions if one.status is not Status.ENQUEUED and one.epoch]
    found = {one.id: Output() for one in executions}
    if not ran:
        return found
    wanted = [(one, stream) for one in ran for stream in (Stream.STDOUT, Stream.STDERR)]
    # Each stream's part of an answer that need not wait.
    size = OUTPUT_BYTES if room is None else SMALL_BYTES // len(wanted)
    tails = await storage.logs.tails(wanted, max_bytes=size)
    long = sum(cut for _, cut in tails)
    if room is not None and long:
        # Who waits keeps nothing of it.
        del tails
        await room(OUTPUT_BYTES * long + SMALL_BYTES)
        tails = await storage.logs.tails(wanted, max_bytes=OUTPUT_BYTES)
    if sum(len(data) for data, _ in tails) > large.LARGE_CHARS:
        texts = await asyncio.to_thread(_texts, tails)
    else:
        texts = _texts(tails)
    pairs = iter(texts)
    for one, (stdout, stdout_cut), (stderr, stderr_cut) in zip(ran, pairs, pairs, strict=True):
        found[one] = Output(stdout, stderr, stdout_cut, stderr_cut)
    return found


def _texts(tails: Sequence[tuple[bytes, bool]]) -> list[tuple[str, bool]]:
    return [(data.decode("utf-8", "replace"), cut) for data, cut in tails]


async def read_deliveries(
    storage: Storage, executions: Sequence[ExecutionRecord]
) -> dict[str, list[Delivery]]:
    """The deliveries of each of *executions*, by its id."""
    wanted = [one.id for one in executions if one.definition.subscriptions]
    found: dict[str, list[Delivery]] = {one.id: [] for one in executions}
    for delivery in await storage.outbox.of_executions(wanted) if wanted else ():
        found[delivery.execution_id].append(delivery)
    return found


async def read_details(
    handler: BaseHandler, executions: Sequence[ExecutionRecord]
) -> list[responses.Execution]:
    """What *handler* answers for *executions*, in their order."""
    services = handler.services
    outputs = await read_outputs(services.storage, executions, handler.room)
    deliveries = await read_deliveries(services.storage, executions)
    waiting = await reasons(services, executions)
    words, urls = services.config.env_blacklisted_words, handler.urls

    def details() -> list[responses.Execution]:
        return [
            build.execution_details(
                one, outputs[one.id], words, urls, deliveries[one.id], waiting[one.id]
            )
            for one in executions
        ]

    size = sum(large.size([one.definition.envs, one.definition.command.argv]) for one in executions)
    return await large.off_the_loop(size, details)


class Execution(BaseHandler):
    """``/tasks/T/jobs/J/executions/E/``"""

    async def get(self, task_id: str, job_id: str, execution_id: str) -> None:
        """Its state or how it ended, with the end of its output.

        With `wait` it is answered once it has ended; 202 when it has not in time.
        """
        wait = requested_wait(self)
        _, execution = await find_execution(self.services.storage, task_id, job_id, execution_id)
        if wait is not None:
            # Not kept during a wait: its definition may be large.
            del _, execution
            execution = await self.end_of(execution_id, wait, retries=False)
        (details,) = await read_details(self, [execution])
        retry = await self.services.lifecycle.retry_after(execution)
        found: responses.ExecutionDetails = {
            "execution": details,
            "retry": None if retry is None else build.following_retry(retry, self.urls),
            "job": build.job_reference(task_id, job_id, self.urls),
            "task": build.task_reference(task_id, self.urls),
        }
        await self.send_json(found, status=200 if wait is None or execution.final else 202)

    async def delete(self, task_id: str, job_id: str, execution_id: str) -> None:
        """Deletes the execution with its log; as DELETE of a job."""
        await self.services.lifecycle.delete_execution(
            task_id, job_id, execution_id, force=is_forced(self)
        )
        self.send_nothing()


class StopExecution(BaseHandler):
    """``/tasks/T/jobs/J/executions/E/stop/``"""

    async def post(self, task_id: str, job_id: str, execution_id: str) -> None:
        """Stops this run and its retries; the job's schedule continues. Safe to repeat."""
        execution = await self.services.lifecycle.stop_execution(task_id, job_id, execution_id)
        await self.send_json(build.stopped_execution(execution, self.urls))
