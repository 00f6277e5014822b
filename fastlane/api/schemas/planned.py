"""What a dry run answers: the job that would be stored, and when it would run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from fastlane.api.schemas import build
from fastlane.api.schemas.responses.base import Answer, Command, Image, TaskId, TaskUrl, Time
from fastlane.api.streaming.encoded import time_text
from fastlane.api.urls import Urls
from fastlane.config import Config
from fastlane.model import Job
from fastlane.redact import redactor


class PlannedJob(Answer):
    """A job that is not stored."""

    image: Image
    command: Command
    scheduled: bool
    nextScheduledAt: Time | None
    metadata: Annotated[Mapping[str, Any], Field(examples=[{"retries": 0}])]
    """As that of a job, without `enqueued_id` and `retry_count`."""


class DryRun(Answer):
    """What would be stored."""

    dryRun: Annotated[Literal[True], Field(examples=[True])]
    taskId: TaskId
    taskUrl: TaskUrl
    job: PlannedJob
    nextRuns: Annotated[list[Time], Field(max_length=5)]
    """When it would run: of a cron job the next five times."""


def dry_run(job: Job, runs: Sequence[float], config: Config, urls: Urls) -> DryRun:
    words = config.env_blacklisted_words
    metadata: dict[str, Any] = {
        **build.job_metadata(job, None, words),
        **build.keys_of_job(job.definition, config),
    }
    for key in ("enqueued_id", "retry_count"):
        del metadata[key]
    return {
        "dryRun": True,
        "taskId": job.task_id,
        "taskUrl": urls.task(job.task_id),
        "job": {
            "image": job.definition.image.submitted,
            "command": redactor(tuple(words)).command(job.definition.command.submitted),
            "scheduled": job.scheduled,
            "nextScheduledAt": build.time_or_none(job.next_run_at),
            "metadata": metadata,
        },
        "nextRuns": [time_text(at) for at in runs],
    }
