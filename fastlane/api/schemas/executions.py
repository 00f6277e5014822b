"""Executions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from fastlane.api.feed import time_text
from fastlane.api.schemas.channels import keys_of_execution
from fastlane.api.schemas.common import (
    Address,
    Answer,
    Command,
    Count,
    Envs,
    ExecutionId,
    ExecutionReference,
    ExecutionUrl,
    Image,
    JobReference,
    TaskReference,
    Time,
    Urls,
    extended,
    host_and_port,
    job_reference,
    task_reference,
    time_or_none,
)
from fastlane.model import Delivery, Reason, Status
from fastlane.model import Execution as ExecutionRecord
from fastlane.redact import redact


class ExecutionMetadata(Answer):
    """Where an execution ran, and which of the job's executions it is. Channels add keys."""

    container_id: Annotated[str | None, Field(examples=["cbab7fd2125a30acd91813dd5b91476a"])]
    docker_host: Annotated[str | None, Field(examples=["localhost"])]
    docker_port: Annotated[int | None, Field(examples=[1234])]
    envs: Envs
    attempt: Annotated[Count, Field(examples=[0])]
    """0 for the first run, n for the n-th retry."""
    retries: Count
    farm: Annotated[str, Field(examples=["default"])]
    scheduledFor: Time | None
    """The tick that started it."""
    lateSeconds: float | None
    """How late a missed tick was made up for."""
    dueAt: Time | None
    """When its back-off ends."""
    message: str | None
    """What fastlane reports about its end."""
    waiting: str | None
    """Why it does not run yet: what it waits for, or how far its image is pulled."""


class Execution(Answer):
    """One run of a job."""

    executionId: ExecutionId
    url: ExecutionUrl
    createdAt: Time
    startedAt: Time | None
    finishedAt: Time | None
    status: Annotated[Status, Field(examples=["done"])]
    reason: Annotated[Reason | None, Field(examples=["exit-code"])]
    exitCode: Annotated[int | None, Field(examples=[0])]
    image: Image
    command: Command
    log: Annotated[str, Field(examples=["total 72K\n"])]
    """The last 64 KiB of stdout."""
    logTruncated: bool
    error: str
    """The last 64 KiB of stderr, or a sentence of fastlane's."""
    errorTruncated: bool
    requestIPAddress: Address
    metadata: ExecutionMetadata


class ExecutionDetails(Answer):
    """One execution, with its job and task."""

    execution: Execution
    job: JobReference
    task: TaskReference


class StoppedExecution(Answer):
    """The execution that was stopped."""

    execution: ExecutionReference
    job: JobReference
    task: TaskReference


@dataclass(frozen=True, slots=True)
class Output:
    """The end of an execution's two streams, and whether there is more before it."""

    stdout: str = ""
    stderr: str = ""
    stdout_cut: bool = False
    stderr_cut: bool = False


# What is shown for an execution that ended before anything ran.
_ENDED: Mapping[Reason | None, str] = {
    Reason.STOPPED: "The execution was stopped on request.",
    Reason.EXPIRED: "The execution expired before it could start.",
}


def execution_details(
    execution: ExecutionRecord,
    output: Output,
    words: Sequence[str],
    urls: Urls,
    deliveries: Sequence[Delivery] = (),
    waiting: str | None = None,
) -> Execution:
    """Build the answer.

    :param deliveries: those of the execution; their last attempts are shown.
    :param waiting: why it does not run yet.
    """
    definition = execution.definition
    return {
        "executionId": execution.id,
        "url": urls.execution(execution),
        "createdAt": time_text(execution.created_at),
        "startedAt": time_or_none(execution.started_at),
        "finishedAt": time_or_none(execution.finished_at),
        "status": execution.status,
        "reason": execution.reason,
        "exitCode": execution.exit_code,
        "image": definition.image.submitted,
        "command": definition.command.submitted,
        "log": output.stdout,
        "logTruncated": output.stdout_cut,
        "error": output.stderr or execution.error or _ENDED.get(execution.reason, ""),
        "errorTruncated": output.stderr_cut,
        "requestIPAddress": execution.request_ip,
        "metadata": extended(_metadata(execution, words, waiting), keys_of_execution(deliveries)),
    }


def _metadata(
    execution: ExecutionRecord, words: Sequence[str], waiting: str | None
) -> ExecutionMetadata:
    host, port = host_and_port(execution.host) if execution.host else (None, None)
    return {
        "container_id": execution.run_id,
        "docker_host": host,
        "docker_port": port,
        "envs": redact(execution.definition.envs, words),
        "attempt": execution.attempt,
        "retries": execution.definition.retries,
        "farm": execution.farm,
        "scheduledFor": time_or_none(execution.tick),
        "lateSeconds": execution.late_seconds,
        "dueAt": time_or_none(execution.due_at),
        "message": execution.error,
        "waiting": waiting,
    }


def stopped_execution(execution: ExecutionRecord, urls: Urls) -> StoppedExecution:
    return {
        "execution": {"id": execution.id, "url": urls.execution(execution)},
        "job": job_reference(execution.task_id, execution.job_id, urls),
        "task": task_reference(execution.task_id, urls),
    }


def report(
    execution: ExecutionRecord, output: Output, words: Sequence[str], urls: Urls
) -> dict[str, Any]:
    """One execution as notifications describe it."""
    details = execution_details(execution, output, words, urls)
    # Without the keys of channels: a receiver must not learn about the others.
    metadata = {**_metadata(execution, words, None), "custom": execution.definition.custom}
    return {
        **details,
        "jobId": execution.job_id,
        "jobUrl": urls.job(execution.task_id, execution.job_id),
        "taskId": execution.task_id,
        "taskUrl": urls.task(execution.task_id),
        "metadata": metadata,
    }
